"""Which electrode, and when, a score of EEG depends on: integrated gradients and matched-noise occlusion."""

import contextlib
import logging
from collections.abc import Sequence

import torch
from torch import nn

from saliency.bands import BANDS as BANDS
from saliency.bands import band_map as band_map
from saliency.bands import band_maps as band_maps
from saliency.bands import window_map as window_map
from saliency.bands import window_maps as window_maps
from saliency.clusters import ClusterTest as ClusterTest
from saliency.clusters import cluster_test as cluster_test
from saliency.image import cover_cells, window_starts
from saliency.replacement import (
    as_trials,
    check_eeg,
    check_sfreq,
    each_channel,
    matched_noise,
    score_drops,
    spans,
    whole,
)
from saliency.scores import Score, check_count, check_mode, evaluate, finite, pick

PALAZZO_WINDOWS = ((0.02, 0.24), (0.13, 0.35), (0.24, 0.46))  # s, as in TPAMI 2021

logger = logging.getLogger(__name__)


def neural_map(
    score: Score,
    eeg: torch.Tensor,
    *,
    method: str = "integrated_gradients",
    baseline: torch.Tensor | None = None,
    n_steps: int = 50,
    n_draws: int = 16,
    window: int | None = None,
    sfreq: float | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> torch.Tensor:
    """What each channel and sample contributes to the score, averaged over trials.

    eeg : (n, n_channels, n_times) or one trial (n_channels, n_times)

    Returns (n_channels, n_times), signed, in units of the score; the rest is as in `neural_maps`.
    """
    maps = neural_maps(
        score,
        as_trials(eeg),
        method=method,
        baseline=baseline,
        n_steps=n_steps,
        n_draws=n_draws,
        window=window,
        sfreq=sfreq,
        batch_size=batch_size,
        seed=seed,
    )
    return maps.mean(0)


def neural_maps(
    score: Score,
    eeg: torch.Tensor,
    *,
    method: str = "integrated_gradients",
    baseline: torch.Tensor | None = None,
    n_steps: int = 50,
    n_draws: int = 16,
    window: int | None = None,
    sfreq: float | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> torch.Tensor:
    """What each channel and sample contributes to the score of each trial.

    score : eeg (n, n_channels, n_times) to (n,); each trial's score must not depend on the other trials
    eeg : (n, n_channels, n_times), float
    method : "integrated_gradients": a trial's map sums to score(trial) - score(baseline);
        "occlusion": the fall of the score when a channel is replaced by noise of its own mean and deviation
    baseline : integrated gradients only: the EEG without information, any shape that broadcasts to eeg;
        None is zero volts
    n_steps : integrated gradients only: Gauss-Legendre points on the way from the baseline
    n_draws : occlusion only: noise draws averaged per replacement
    window : occlusion only: samples replaced at a time, side by side, the last one moved inward to the end;
        None replaces the whole row, which gives one value per channel, repeated over its samples
    sfreq : occlusion only: sampling rate in Hz, for the 100 Hz low-pass of the noise; None: no low-pass
    batch_size : inputs given to the score at a time

    Returns (n, n_channels, n_times), signed, in units of the score, on the EEG's device.
    Raises ValueError for EEG, a setting or a score that does not fit.
    Source: Sundararajan et al., ICML 2017 (integrated gradients, by captum); Palazzo et al., TPAMI 2021,
    Eq. 5-6 (occlusion). Differs: Eq. 5 replaces whole rows alone; mean and deviation are taken over all
    trials given; the low-pass, whose kind the paper does not name, removes every frequency above 100 Hz.
    As in the paper the noise is not scaled up again after the filter.
    """
    explain = pick("method", method, _METHODS)
    check_eeg(eeg)
    check_mode(score)
    for name, value in {"n_steps": n_steps, "n_draws": n_draws, "batch_size": batch_size}.items():
        check_count(name, value)
    settings = {
        "baseline": baseline,
        "n_steps": n_steps,
        "n_draws": n_draws,
        "window": window,
        "sfreq": sfreq,
    }
    return explain(score, eeg, **settings, batch_size=batch_size, seed=seed)


def channel_importance(
    score: Score,
    eeg: torch.Tensor,
    *,
    n_draws: int = 16,
    sfreq: float | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> torch.Tensor:
    """How far the score falls when a channel is replaced by matched noise, averaged over trials and draws.

    score : eeg (n, n_channels, n_times) to (n,) or (n, k), e.g. against k pictures; all k come from the same
        replaced EEG
    eeg : (n, n_channels, n_times) or one trial; with their own picture each, call once a picture and average
    n_draws, sfreq, batch_size : as in `neural_maps`

    Returns (n_channels,) for a score (n,), (n_channels, k) for (n, k), also if k = 1, signed, in units of the
    score, on the EEG's device.
    Raises ValueError for EEG, a setting or a score that does not fit.
    Source: Palazzo et al., TPAMI 2021, Eq. 5-6. Differs: as in `neural_maps`; not normalised.
    """
    trials = as_trials(eeg)
    check_eeg(trials)
    check_mode(score)
    for name, value in {"n_draws": n_draws, "batch_size": batch_size}.items():
        check_count(name, value)
    _check_occlusion(trials, window=None, sfreq=sfreq)
    drops = score_drops(
        score,
        trials,
        matched_noise(trials, n_draws=n_draws, sfreq=sfreq, seed=seed),
        channels=each_channel(trials),
        times=whole(trials, 2),
        batch_size=batch_size,
        single=False,
        progress=progress,
    )  # (n, n_channels, 1, 1) or with k at the end
    return drops[:, :, 0, 0].mean(0).to(trials)


def feature_association(
    score: Score,
    eeg: torch.Tensor,
    *,
    n_draws: int = 16,
    sfreq: float | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> torch.Tensor:
    """How much more each channel matters once a feature of the picture is gone.

    score : eeg (n, n_channels, n_times) to (n, 1 + m): against the whole picture, then against the picture
        without each of m features or groups of features
    eeg, n_draws, sfreq, batch_size : as in `channel_importance`

    Returns (n_channels, m): importance of the channel without the feature less its importance with it, signed,
    in units of the score. A negative value: the channel's part in the score came from the feature.
    Raises ValueError for EEG, a setting or a score that does not fit.
    Source: Palazzo et al., TPAMI 2021, Eq. 7-12. Differs: the mean over the features of a layer is the
    caller's, by removing them as one group or averaging columns.
    """
    settings = {"n_draws": n_draws, "sfreq": sfreq, "batch_size": batch_size, "seed": seed}
    importance = channel_importance(score, eeg, **settings, progress=progress)
    if importance.ndim != 2 or importance.shape[1] < 2:
        came = "(n,)" if importance.ndim == 1 else "(n, 1)"
        raise ValueError(
            f"Need scores (n, 1 + m), the whole picture first, then without each feature; got {came}."
        )
    return importance[:, 1:] - importance[:, :1]


def kept_windows(
    eeg: torch.Tensor,
    windows: Sequence[tuple[float, float]] = PALAZZO_WINDOWS,
    *,
    sfreq: float,
    tmin: float,
    baseline: torch.Tensor,
    taper: float = 0.02,
) -> torch.Tensor:
    """Copies of one response that each keep one window of time and hold the baseline elsewhere.

    With a score of pictures against these copies, (n, k), one occlusion pass gives the picture's map for each
    window.

    eeg : one response (n_channels, n_times), e.g. the mean of the trials of a picture
    windows : k times (start, stop), s
    sfreq : sampling rate, Hz
    tmin : time of the first sample, s
    baseline : the response without information, e.g. the mean of all other trials; any shape that broadcasts
    taper : length of the cosine between window and baseline, s, centred on the window's border, so that the
        parts kept by two windows that touch add up; there is none at the trial's own ends

    Returns (k, n_channels, n_times), on the EEG's device.
    Raises ValueError for EEG, windows, a taper or a baseline that do not fit.
    """
    if isinstance(eeg, torch.Tensor) and eeg.ndim != 2:
        raise ValueError(f"Need one response (n_channels, n_times), got shape {tuple(eeg.shape)}.")
    check_eeg(as_trials(eeg))
    check_sfreq(sfreq)
    if not 0 <= taper < float("inf"):
        raise ValueError(f"Need a taper of 0 s or more, got {taper}.")
    if len(windows) == 0:
        raise ValueError("Need at least one window, got none.")
    rest = _baseline(baseline, eeg)
    moments = tmin + torch.arange(eeg.shape[1], dtype=torch.float64) / sfreq
    kept = [_kept(window, moments, 1 / sfreq, taper) for window in windows]
    return rest + torch.stack(kept).to(eeg)[:, None] * (eeg.detach() - rest)  # (k, n_channels, n_times)


def _integrated_gradients(
    score: Score,
    eeg: torch.Tensor,
    *,
    baseline: torch.Tensor | None,
    n_steps: int,
    window: int | None,
    batch_size: int,
    **_unused: object,
) -> torch.Tensor:
    from captum.attr import IntegratedGradients

    if window is not None:
        raise ValueError(f"Integrated gradients take no window, got {window}; use method='occlusion'.")
    start = _baseline(baseline, eeg)
    _check_differentiable(score, eeg)
    method = IntegratedGradients(lambda batch: _one_score(score, batch))
    n_trials = max(1, batch_size // n_steps)  # captum takes no fewer inputs at a time than there are trials
    maps, gaps = [], []
    with _differentiable_recurrence(score, eeg):
        for trials, starts in zip(eeg.split(n_trials), start.split(n_trials), strict=True):
            heat, gap = method.attribute(
                trials.detach().clone(),
                starts,
                n_steps=n_steps,
                internal_batch_size=batch_size,
                return_convergence_delta=True,
            )
            maps.append(heat.detach())
            gaps.append(gap.detach())
    heat = finite(torch.cat(maps)).to(eeg.dtype)
    _warn_if_incomplete(heat, torch.cat(gaps))
    return heat


def _occlusion(
    score: Score,
    eeg: torch.Tensor,
    *,
    baseline: torch.Tensor | None,
    n_draws: int,
    window: int | None,
    sfreq: float | None,
    batch_size: int,
    seed: int,
    **_unused: object,
) -> torch.Tensor:
    if baseline is not None:
        raise ValueError("Occlusion draws noise and takes no baseline; use method='integrated_gradients'.")
    _check_occlusion(eeg, window=window, sfreq=sfreq)
    span = window or eeg.shape[2]
    starts = window_starts(eeg.shape[2], span, span)
    weights, lengths = cover_cells(starts, span, eeg.shape[2])
    drops = score_drops(
        score,
        eeg,
        matched_noise(eeg, n_draws=n_draws, sfreq=sfreq, seed=seed),
        channels=each_channel(eeg),
        times=spans(eeg, starts, span),
        batch_size=batch_size,
    )[..., 0]  # (n, n_channels, n_windows)
    return (drops @ weights).repeat_interleave(lengths, 2).to(eeg)


def _one_score(score: Score, batch: torch.Tensor) -> torch.Tensor:
    values = evaluate(score, batch)
    if values.ndim != 1:
        raise ValueError(f"Need one score per trial (n,), the score returned shape {tuple(values.shape)}.")
    return values


def _kept(window: tuple[float, float], moments: torch.Tensor, period: float, taper: float) -> torch.Tensor:
    """How much of each sample a window keeps, 0 to 1: (n_times,); period : from sample to sample, s."""
    start, stop = window
    first, last, near = moments[0].item(), moments[-1].item(), 1e-9
    if not first - period / 2 <= start < stop <= last + period + near:
        span = f"{first:g} to {last + period:g} s"
        raise ValueError(f"Need windows (start, stop) within {span}, got ({start:g}, {stop:g}).")
    if stop - start < max(taper, period) - near:
        least = f"a sample ({period:g} s) or the taper ({taper:g} s)"
        raise ValueError(f"Need windows no shorter than {least}, got ({start:g}, {stop:g}).")
    rise = torch.ones_like(moments) if start <= first + near else _step(moments - start, taper)
    fall = torch.zeros_like(moments) if stop > last + near else _step(moments - stop, taper)
    return rise - fall


def _step(time: torch.Tensor, taper: float) -> torch.Tensor:
    """From 0 to 1 along half a cosine of length `taper` around time 0; time 0 itself counts as after it."""
    if taper == 0:
        return (time >= -1e-9).double()
    return 0.5 - 0.5 * torch.cos(torch.pi * (time / taper + 0.5).clamp(0, 1))


def _baseline(baseline: torch.Tensor | None, eeg: torch.Tensor) -> torch.Tensor:
    if baseline is None:
        return torch.zeros_like(eeg)
    try:
        start = torch.as_tensor(baseline).to(eeg).expand_as(eeg)
    except RuntimeError:
        shapes = f"{tuple(baseline.shape)} for EEG {tuple(eeg.shape)}"
        raise ValueError(f"Need a baseline that broadcasts to the EEG, got {shapes}.") from None
    if not bool(torch.isfinite(start).all()):
        raise ValueError("Need a baseline of finite values, this one has NaN or infinity.")
    return start.detach()


def _check_occlusion(eeg: torch.Tensor, *, window: int | None, sfreq: float | None) -> None:
    if window is not None:
        check_count("window", window)
        if window > eeg.shape[2]:
            raise ValueError(f"Need a window within the trial ({eeg.shape[2]} samples), got {window}.")
    if sfreq is not None:
        check_sfreq(sfreq)


def _check_differentiable(score: Score, eeg: torch.Tensor) -> None:
    with torch.enable_grad():
        values = _one_score(score, eeg[:1].detach().requires_grad_(True))
    if not values.requires_grad:
        raise ValueError("Integrated gradients need a differentiable score; use method='occlusion' here.")


def _differentiable_recurrence(score: Score, eeg: torch.Tensor) -> contextlib.AbstractContextManager:
    """cuDNN refuses the gradient of a recurrent layer in evaluation mode; torch's own kernels give it."""
    if (
        eeg.is_cuda
        and isinstance(score, nn.Module)
        and any(isinstance(m, nn.RNNBase) for m in score.modules())
    ):
        return torch.backends.cudnn.flags(enabled=False)
    return contextlib.nullcontext()


def _warn_if_incomplete(heat: torch.Tensor, gaps: torch.Tensor) -> None:
    change, gap = (heat.sum((1, 2)) - gaps).abs().sum().item(), gaps.abs().sum().item()
    if gap > 0.01 * change:
        logger.warning(
            "Integrated gradients miss %.3g of the score's change %.3g; raise n_steps.", gap, change
        )


_METHODS = {"integrated_gradients": _integrated_gradients, "occlusion": _occlusion}
