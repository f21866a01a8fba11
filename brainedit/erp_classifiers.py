"""Classifiers of single-trial responses: fitted on some trials, they give the log-odds of others."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

NET_SFREQ = 100.0  # Hz; faster recordings are averaged down to no less than this
NET_TRAINING = {"n_epochs": 30, "learning_rate": 2e-3, "weight_decay": 1e-2}
NET_BATCH = 64

Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(indices to train on, which of those are targets, indices to score) -> log-odds of the latter, equal priors."""


class Windows(NamedTuple):
    """`n` windows of equal length from `tmin` to `tmax`, s."""

    tmin: float = 0.0
    tmax: float = 0.75
    n: int = 16


PRESETS = {
    "davis2022": Windows(-0.2, 0.9, 25),
    "davis2022_public": Windows(0.0, 0.5, 5),
    "kangassalo2020": Windows(0.05, 0.8, 7),
}


def lda_scorer(data: np.ndarray, times: np.ndarray, windows: Windows, *, seed: int = 0) -> Scorer:
    """Window means and linear discriminant analysis with Ledoit-Wolf shrinkage.

    Source: Davis et al., CVPR 2022. Differs: equal priors.
    """
    features = window_means(data, times, *windows)
    return lambda train, is_target, test: _lda(features[train], is_target, features[test])


def xdawn_scorer(data: np.ndarray, times: np.ndarray, windows: Windows, *, seed: int = 0) -> Scorer:
    """xDAWN covariances of whole epochs, tangent space, logistic regression; needs the extra `riemann`.

    Source: Barachant & Congedo, arXiv 1409.0107; Rivet et al., IEEE TBME 56:2035, 2009. Differs: channels that
    depend on each other (an average reference, an interpolated channel) are first reduced to those that do not.
    """
    return lambda train, is_target, test: _xdawn(data[train], is_target, data[test])


def net_scorer(
    network: str, data: np.ndarray, times: np.ndarray, windows: Windows, *, seed: int = 0
) -> Scorer:
    """A network of braindecode on the samples from `tmin` to `tmax`; needs the extra `nets`.

    Trained for a fixed number of passes on all training trials: nothing is chosen on the trials to score.
    Source: Lawhern et al., J. Neural Eng. 15:056013, 2018 (EEGNet); Santamaría-Vázquez et al., IEEE TNSRE
    28:2773, 2020 (EEG-Inception). Differs: braindecode's versions, one output, both kinds weigh the same.
    """
    samples, sfreq = _net_samples(data, times, windows)
    return lambda train, is_target, test: _net(
        network, samples[train], is_target, samples[test], sfreq=sfreq, seed=seed
    )


METHODS: dict[str, Callable[..., Scorer]] = {
    "lda": lda_scorer,
    "xdawn": xdawn_scorer,
    "eegnet": partial(net_scorer, "EEGNet"),
    "eeginceptionerp": partial(net_scorer, "EEGInceptionERP"),
}


def window_means(data: np.ndarray, times: np.ndarray, tmin: float, tmax: float, n_windows: int) -> np.ndarray:
    """Means over windows of equal length, (n, n_channels * n_windows); the standard deviation is the unit.

    A window that `times` do not hold is cut. Raises ValueError when fewer than two are left.
    """
    length = (tmax - tmin) / n_windows
    bounds = np.searchsorted(times, tmin + np.arange(n_windows + 1) * length - 1e-6)
    kept = [data[:, :, a:b].mean(-1) for a, b in pairwise(bounds) if b > a]
    if len(kept) < 2:
        raise ValueError(
            f"Only {len(kept)} of {n_windows} windows in {tmin} to {tmax} s hold samples of epochs that span "
            f"{times[0]:.3f} to {times[-1]:.3f} s."
        )
    features = np.stack(kept, -1).reshape(len(data), -1)
    return features / features.std()


def _lda(train: np.ndarray, is_target: np.ndarray, test: np.ndarray) -> np.ndarray:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
    return model.fit(train, is_target).decision_function(test)


def _xdawn(train: np.ndarray, is_target: np.ndarray, test: np.ndarray) -> np.ndarray:
    try:
        from pyriemann.estimation import XdawnCovariances
        from pyriemann.tangentspace import TangentSpace
    except ImportError:
        raise ValueError("The method 'xdawn' needs pyriemann: pip install 'brainedit[riemann]'.") from None
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, test = _full_rank(train, test)
    scale = train.std()
    n_filters = min(4, train.shape[1])
    model = make_pipeline(
        XdawnCovariances(n_filters, estimator="oas"),
        TangentSpace(),
        LogisticRegression(class_weight="balanced", max_iter=1000),
    )
    return model.fit(train / scale, is_target.astype(int)).decision_function(test / scale)


def _full_rank(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides on the axes in which the training trials vary; as they are where that is all channels."""
    power = (train @ train.transpose(0, 2, 1)).sum(0)  # (n_channels, n_channels)
    values, axes = np.linalg.eigh(power)
    kept = axes[:, values > 1e-9 * values[-1]].T
    return (train, test) if len(kept) == len(values) else (kept @ train, kept @ test)


def _net_samples(data: np.ndarray, times: np.ndarray, windows: Windows) -> tuple[np.ndarray, float]:
    """Samples (n, n_channels, n_times) between tmin and tmax, neighbours averaged down, and their rate (Hz)."""
    inside = (times >= windows.tmin - 1e-6) & (times < windows.tmax - 1e-6)
    if inside.sum() < 2:
        raise ValueError(
            f"{inside.sum()} samples lie in {windows.tmin} to {windows.tmax} s of epochs that span {times[0]:.3f} to "
            f"{times[-1]:.3f} s; two or more are needed."
        )
    sfreq = 1 / (times[1] - times[0])
    factor = max(1, int(sfreq / NET_SFREQ + 1e-6))
    n_times = inside.sum() // factor
    cut = data[:, :, inside][:, :, : n_times * factor]
    return cut.reshape(*cut.shape[:2], n_times, factor).mean(-1), sfreq / factor


def _net(
    network: str, train: np.ndarray, is_target: np.ndarray, test: np.ndarray, *, sfreq: float, seed: int
) -> np.ndarray:
    import torch

    from brainedit.encoders.eeg import make_eeg_encoder
    from brainedit.training import fit

    settings = {"kernel_length": max(3, round(sfreq / 2))} if network == "EEGNet" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make_eeg_encoder(
            f"braindecode/{network}",
            n_channels=train.shape[1],
            n_times=train.shape[2],
            n_dims=1,
            sfreq=sfreq,
            **settings,
        )
    mean, std = train.mean((0, 2), keepdims=True), train.std((0, 2), keepdims=True)
    train, test = (torch.from_numpy((side - mean) / std).float() for side in (train, test))
    wanted = torch.from_numpy(is_target.astype(np.float32))
    weight = torch.where(wanted > 0, 0.5 / wanted.mean(), 0.5 / (1 - wanted.mean()))

    def batches(generator: torch.Generator):
        order = torch.randperm(len(train), generator=generator)
        n_batches = max(1, len(train) // NET_BATCH)  # none is so small that its batch norm is noise
        yield from ((train[part], wanted[part], weight[part]) for part in order.tensor_split(n_batches))

    def loss(eeg: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(net(eeg)[:, 0], wanted, weight=weight)

    fit(net, loss, batches, **NET_TRAINING, seed=seed, progress=False)
    with torch.inference_mode():
        return torch.cat([net(part)[:, 0] for part in test.split(512)]).double().numpy()
