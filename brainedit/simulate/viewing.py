"""EEG with a planted truth: an oddball task, and pictures of which the brain codes one region.

Sources are dipoles in MNE's three-layer spherical head (head and electrodes of the 10-05 template; Berg &
Scherg 1994 as in `mne.make_forward_dipole`), referred to the average of the EEG channels. Background: 1/f
noise of cortical sources all over the head and a little sensor noise, .1 to 45 Hz, running on between the
trials of a run; occipital alpha (10 Hz); blinks. Whatever is shown of these data must be called simulated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import mne
import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtri

from brainedit.simulate.codes import CODE_WINDOW, check_code, kind_patterns
from brainedit.simulate.head import (
    bumps_at,
    noise_trials,
    to_epochs,
    topography_of,
    visual_response,
)
from brainedit.simulate.pictures import KINDS, draw_scene

# fmt: off
CHANNELS = (
    "Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "FC5", "FC1", "FC2", "FC6", "T7", "C3", "Cz", "C4", "T8",
    "TP9", "CP5", "CP1", "CP2", "CP6", "TP10", "P7", "P3", "Pz", "P4", "P8", "PO9", "O1", "Oz", "O2", "PO10",
)
# fmt: on
P300 = {"Pz": 1.0, "P3": 0.5, "P4": 0.5, "CPz": 0.5}  # relative moments of dipoles below these electrodes
P300_PEAK, P300_WIDTH = 0.4, 0.09  # s; the width is a standard deviation


@dataclass(frozen=True)
class SimulatedEEG:
    """Epochs of an oddball task and what was planted.

    truth : `amplitude_uv` (peak of the target response at its largest electrode), `electrodes` (EEG channels,
        largest response first), `topography` (Series, µV by channel), `peak_latency` (s), and per trial
        `target` (bool), `latency` (s), `blink` (bool)
    """

    epochs: mne.Epochs
    truth: dict


@dataclass(frozen=True)
class SimulatedViewing:
    """Epochs, pictures, and what was planted.

    images : stimulus -> uint8 (height, width, 3)
    truth : indexed by stimulus: `kind` and `region` that the brain coded, `kinds` (all, by region), and the
        coded region's `top`, `left`, `bottom`, `right` in pixels
    planted : what tells the kinds apart: `topography` (Series, RMS over kinds and the coded window, µV by
        channel; 0 at no signal), `electrodes` (largest first) and `peak_latency` (s, of the RMS over kinds
        and channels), which are those of the patterns at any signal
    """

    epochs: mne.Epochs
    images: dict[str, np.ndarray]
    truth: pd.DataFrame
    planted: dict


def simulate_oddball(
    trials: pd.DataFrame,
    *,
    auc: float = 0.79,
    amplitude_uv: float | None = None,
    channels: Sequence[str] = CHANNELS,
    sfreq: float = 250.0,
    tmin: float = -0.2,
    tmax: float = 0.8,
    jitter: float = 0.05,
    noise_uv: float = 10.0,
    alpha_uv: float = 5.0,
    blink_rate: float = 0.1,
    eog: bool = True,
    seed: int = 0,
) -> SimulatedEEG:
    """Epochs in which target pictures evoke a parietal positivity (P300) on top of what all pictures evoke.

    trials : one row a trial in order: `stimulus` (str), `target` (bool); further columns go to the metadata.
        A missing `subject` is one person, a missing `run` is four or more contiguous runs a person
    auc : .5 to .95, the single-trial AUC meant by `amplitude_for_auc`; not used when `amplitude_uv` is given
    amplitude_uv : peak of the target response at its largest electrode, µV
    jitter : s, standard deviation of the response's latency over trials
    noise_uv : RMS over channels and time of the background without alpha
    alpha_uv : RMS of alpha at its largest electrode
    blink_rate : share of trials with a blink
    eog : add VEOG and HEOG

    All people share one brain. Metadata gains `onset` (s in the run), `simulated`. Baseline: before 0.
    """
    trials = _check_trials(trials)
    noise = {"noise_uv": noise_uv, "alpha_uv": alpha_uv, "blink_rate": blink_rate}
    channels = tuple(channels)
    task = {"channels": channels, "tmin": tmin, "tmax": tmax, "jitter": jitter}
    times = _times(sfreq, tmin, tmax)
    target = trials["target"].to_numpy(dtype=bool)
    if amplitude_uv is None:
        per_person = trials.groupby("subject", sort=False).size().median()
        n_trials = int(np.clip(round(per_person, -2), 200, 800))
        share = float(np.clip(round(target.mean(), 1), 0.1, 0.9))
        amplitude_uv = amplitude_for_auc(auc, n_trials=n_trials, target_share=share, **task, **noise)
    rng = np.random.default_rng([seed, 1])
    data, eyes, onset, blink = noise_trials(trials, channels, times, sfreq, rng, **noise)
    data += visual_response(channels, times)
    wave, latency = _p300_waves(times, target.sum(), jitter, rng)
    topography = topography_of(channels, tuple(P300.items()))
    data[target] += np.float32(amplitude_uv) * topography[:, None] * wave[:, None, :]
    metadata = trials.assign(onset=onset)
    epochs = to_epochs(data, eyes if eog else None, channels, sfreq, tmin, metadata)
    truth = _oddball_truth(channels, topography, amplitude_uv, target, latency, blink)
    return SimulatedEEG(epochs, truth)


def amplitude_for_auc(
    auc: float,
    *,
    n_trials: int = 600,
    target_share: float = 0.5,
    channels: Sequence[str] = CHANNELS,
    tmin: float = -0.2,
    tmax: float = 0.8,
    jitter: float = 0.05,
    noise_uv: float = 10.0,
    alpha_uv: float = 5.0,
    blink_rate: float = 0.1,
) -> float:
    """Amplitude (µV) of the target response at which single trials reach an AUC.

    The AUC meant: means of 100-ms windows from 0 s on, shrinkage LDA, 10-fold cross-validated within
    `n_trials` trials of one person (a classifier with more trials, or a better one, gets higher). It is
    measured at four amplitudes on simulations with seeds of their own, and interpolated.
    """
    if not 0.5 < auc <= 0.95:
        raise ValueError(f"auc must lie above .5 and up to .95, got {auc}.")
    levels = (noise_uv, alpha_uv, blink_rate)
    amplitudes, reached = _calibrate(n_trials, target_share, tuple(channels), tmin, tmax, jitter, levels)
    if not auc <= reached[-1] or (np.diff(reached) <= 0).any():
        raise ValueError(f"auc={auc} cannot be reached with these channels, noise and {n_trials} trials.")
    return float(PchipInterpolator(ndtri(reached), amplitudes)(ndtri(auc)))


@lru_cache
def _calibrate(n_trials, target_share, channels, tmin, tmax, jitter, levels) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes (µV) and the AUC reached at each, averaged over sets of `n_trials`, at 125 Hz."""
    noise_levels = dict(zip(("noise_uv", "alpha_uv", "blink_rate"), levels, strict=True))
    times = _times(125.0, tmin, tmax)
    windows = _window_weights(times)
    topography = topography_of(channels, tuple(P300.items()))
    amplitudes = noise_levels["noise_uv"] * np.array([0.0, 0.5, 0.8, 1.3, 2.6])
    curves = []
    for replicate in range(max(1, 3600 // n_trials)):
        rng = np.random.default_rng([20220618, replicate])
        trials = pd.DataFrame({"subject": "s", "run": np.arange(n_trials) * 4 // n_trials})
        noise = noise_trials(trials, channels, times, 125.0, rng, **noise_levels)[0] @ windows
        for _ in range(2):  # the same noise, other targets
            target = rng.permutation(n_trials) < round(n_trials * target_share)
            unit = np.zeros_like(noise)  # (n_trials, n_channels, n_windows)
            wave, _ = _p300_waves(times, target.sum(), jitter, rng)
            unit[target] = topography[:, None] * (wave @ windows)[:, None, :]
            sums = ((noise + np.float32(a) * unit).reshape(n_trials, -1) for a in amplitudes[1:])
            curves.append([0.5, *(_lda_auc(features, target) for features in sums)])
    return amplitudes, np.mean(curves, axis=0)


def simulate_passive(
    *,
    n_pictures: int = 200,
    n_repeats: int = 8,
    n_regions: int = 4,
    snr: float = 0.2,
    picture_size: int = 224,
    channels: Sequence[str] = CHANNELS,
    sfreq: float = 200.0,
    tmin: float = -0.1,
    tmax: float = 0.7,
    n_kinds: int = 12,
    noise_uv: float = 10.0,
    alpha_uv: float = 5.0,
    electrodes: Sequence[str] | None = None,
    latency: float | None = None,
    brain_seed: int = 0,
    seed: int = 0,
) -> SimulatedViewing:
    """Epochs of looking at pictures of several objects, where the response tells the kind of one of them.

    Each picture is a grid of `n_regions` regions, each with an object of another kind. The brain codes one
    region, drawn at random per picture whatever it holds: guessing it from the picture is right in 1 of
    `n_regions`. Each run shows every picture once, in an order of its own.

    snr : RMS over channels, times .08 to .45 s and kinds of what tells the kinds apart, divided by the RMS
        over trials, channels and the same times of all noise (1/f and alpha, after baseline): single trials.
        At .2 averages of 8 repeats and single trials decode cleanly (12 kinds, LDA on 300 other pictures:
        1.00 and .97); at .1 .95 and .60
    electrodes : of the 10-05 template, in `channels` or not; a dipole close below each is all that tells the
        kinds apart, with one peak at `latency` (s, .12 to .41; None: .2). None: ten occipito-temporal places
        and peaks at many times
    brain_seed : the kinds' patterns; two calls with the same one and another `seed` are two viewings of other
        pictures by the same brain

    Metadata: stimulus, subject, session, run, block, onset (s in the run), simulated. No blinks: as after
    their removal.
    """
    _check_viewing(n_pictures, n_repeats, n_regions, n_kinds, snr, picture_size)
    check_code(electrodes, latency)
    channels, times = tuple(channels), _times(sfreq, tmin, tmax)
    images, truth = _draw_pictures(n_pictures, n_regions, n_kinds, picture_size, seed)
    rng = np.random.default_rng([seed, 3])
    order = np.concatenate([rng.permutation(n_pictures) for _ in range(n_repeats)])
    trials = pd.DataFrame({"stimulus": truth.index[order], "subject": "sim01", "session": 1})
    trials["run"] = np.repeat(np.arange(1, n_repeats + 1), n_pictures)
    within = np.tile(np.arange(n_pictures), n_repeats)
    trials["block"] = 1 + (trials["run"] - 1) * (1 + (n_pictures - 1) // 50) + within // 50
    levels = {"noise_uv": noise_uv, "alpha_uv": alpha_uv, "blink_rate": 0.0}
    data, _, onset, _ = noise_trials(trials, channels, times, sfreq, rng, **levels)
    coded = (times >= CODE_WINDOW[0]) & (times <= CODE_WINDOW[1])
    patterns = kind_patterns(channels, times, n_kinds, brain_seed, electrodes=electrodes, latency=latency)
    scale = (
        snr
        * np.sqrt(np.mean(data[..., coded] ** 2, dtype=float))
        / np.sqrt(np.mean(patterns[..., coded] ** 2))
    )
    planted = _planted(channels, times, patterns, scale)
    data += visual_response(channels, times)
    kind = np.array([list(KINDS).index(name) for name in truth["kind"]])
    data += (np.float32(scale) * patterns)[kind[order]]
    epochs = to_epochs(data, None, channels, sfreq, tmin, trials.assign(onset=onset))
    return SimulatedViewing(epochs, images, truth, planted)


def _check_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The table with subject and run filled in; ValueError says what it lacks."""
    missing = [name for name in ("stimulus", "target") if name not in trials]
    if missing or not len(trials):
        raise ValueError(
            f"trials need rows with 'stimulus' and 'target', got {len(trials)} of {list(trials.columns)}."
        )
    if "onset" in trials:
        raise ValueError(
            "trials must have no column 'onset': simulate_oddball sets the onsets; drop the column."
        )
    trials = trials.reset_index(drop=True)
    if trials["target"].isna().any() or not trials["target"].isin([True, False]).all():
        raise ValueError(f"target must be true or false, got {trials['target'].unique()[:5].tolist()}.")
    if "subject" not in trials:
        trials["subject"] = "sim01"
    if "run" not in trials:
        place = trials.groupby("subject").cumcount()
        size = trials.groupby("subject")["stimulus"].transform("size")
        trials["run"] = 1 + place * np.maximum(4, size // 100) // size
    return trials


def _check_viewing(n_pictures, n_repeats, n_regions, n_kinds, snr, picture_size) -> None:
    if n_pictures < 1 or n_repeats < 1 or snr < 0:
        raise ValueError(f"Need a picture, a repeat and snr >= 0, got {n_pictures}, {n_repeats} and {snr}.")
    if not 2 <= n_regions <= n_kinds <= len(KINDS):
        raise ValueError(
            f"Need 2 <= n_regions <= n_kinds <= {len(KINDS)}, got n_regions={n_regions}, n_kinds={n_kinds}."
        )
    if picture_size < 32 * _grid(n_regions)[1]:
        raise ValueError(
            f"picture_size must give each region 32 pixels, got {picture_size} for {n_regions} regions."
        )


def _times(sfreq: float, tmin: float, tmax: float) -> np.ndarray:
    if not tmin < 0 < tmax:
        raise ValueError(f"tmin must be before 0 s (the baseline) and tmax after it, got {tmin} and {tmax}.")
    if sfreq < 100:
        raise ValueError(f"sfreq must be at least 100 Hz (the noise reaches to 45 Hz), got {sfreq}.")
    return np.arange(round(tmin * sfreq), round(tmax * sfreq) + 1) / sfreq


def _p300_waves(times: np.ndarray, n: int, jitter: float, rng) -> tuple[np.ndarray, np.ndarray]:
    """Time courses (n, n_times) of height 1 from baseline, and their latencies (s)."""
    latency = P300_PEAK + jitter * rng.standard_normal(n)
    wave = bumps_at(times, latency, P300_WIDTH)
    return wave - wave[:, times <= 0].mean(axis=1, keepdims=True), latency


def _grid(n_regions: int) -> tuple[int, int]:
    """Rows and columns of the regions, as square as can be."""
    rows = next(k for k in range(int(np.sqrt(n_regions)), 0, -1) if n_regions % k == 0)
    return rows, n_regions // rows


def _draw_pictures(n_pictures, n_regions, n_kinds, size, seed) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Pictures and their truth; contents and coded regions come from separate streams."""
    content, choice = np.random.default_rng([seed, 4]), np.random.default_rng([seed, 5])
    rows, columns = _grid(n_regions)
    down, across = np.linspace(0, size, rows + 1).astype(int), np.linspace(0, size, columns + 1).astype(int)
    boxes = [(down[r], across[c], down[r + 1], across[c + 1]) for r in range(rows) for c in range(columns)]
    boxes = [tuple(int(edge) for edge in box) for box in boxes]
    names = list(KINDS)[:n_kinds]
    images, table = {}, []
    for picture in range(n_pictures):
        kinds = tuple(names[k] for k in content.permutation(n_kinds)[:n_regions])
        region = int(choice.integers(n_regions))
        stimulus = f"scenes/seed{seed}_{picture:04d}.png"
        images[stimulus] = draw_scene(kinds, boxes, size=size, seed=(seed, picture))
        table.append((stimulus, kinds[region], region, kinds, *boxes[region]))
    columns = ["stimulus", "kind", "region", "kinds", "top", "left", "bottom", "right"]
    return images, pd.DataFrame(table, columns=columns).set_index("stimulus")


def _planted(channels, times: np.ndarray, patterns: np.ndarray, scale: float) -> dict:
    """Where and when the kinds differ; `scale` turns patterns (n_kinds, n_channels, n_times) into µV."""
    coded = (times >= CODE_WINDOW[0]) & (times <= CODE_WINDOW[1])
    spread = np.sqrt(np.mean(patterns[..., coded] ** 2, axis=(0, 2)))
    return {
        "topography": pd.Series(scale * spread, index=list(channels)),
        "electrodes": [channels[k] for k in np.argsort(-spread, kind="stable")],
        "peak_latency": float(times[np.mean(patterns**2, axis=(0, 1)).argmax()]),
    }


def _oddball_truth(channels, topography, amplitude_uv, target, latency, blink) -> dict:
    per_trial = np.full(len(target), np.nan)
    per_trial[target] = latency
    return {
        "amplitude_uv": float(amplitude_uv),
        "electrodes": [channels[k] for k in np.argsort(-topography)],
        "topography": pd.Series(amplitude_uv * topography, index=list(channels)),
        "peak_latency": P300_PEAK,
        "target": target,
        "latency": per_trial,
        "blink": blink,
    }


def _window_weights(times: np.ndarray) -> np.ndarray:
    """(n_times, n_windows): means of 100-ms windows from 0 s on."""
    number = np.floor(times * 10 + 1e-9).astype(int)
    windows = [(number == k).astype(np.float32) for k in range(number[-1] + 1) if (number == k).sum() > 1]
    return np.column_stack([w / w.sum() for w in windows])


def _lda_auc(features: np.ndarray, target: np.ndarray, n_folds: int = 10) -> float:
    """AUC of shrinkage LDA over contiguous folds, each centred between the classes' means."""
    from sklearn.metrics import roc_auc_score

    scores = np.empty(len(target))
    for test in np.array_split(np.arange(len(target)), n_folds):
        train = np.setdiff1d(np.arange(len(target)), test)
        x, y = features[train], target[train]
        means = np.stack([x[~y].mean(axis=0), x[y].mean(axis=0)])
        within = x - means[y.astype(int)]
        scale = within.std(axis=0)
        covariance = _shrunk_covariance(within / scale)
        weights = cho_solve(cho_factor(covariance), (means[1] - means[0]) / scale) / scale
        scores[test] = (features[test] - means.mean(axis=0)) @ weights
    return roc_auc_score(target, scores)


def _shrunk_covariance(x: np.ndarray) -> np.ndarray:
    """Covariance (p, p) of centred rows x (n, p), shrunk to a multiple of the identity.

    Source: Ledoit & Wolf 2004. Products of squares are summed as squared norms of rows: one matrix product
    where scikit-learn takes two, so that the calibration takes two seconds.
    """
    n, p = x.shape
    s = x.T @ x / n
    m = np.trace(s) / p
    total = np.sum(s**2)
    d2 = total - p * m**2
    b2 = (np.sum(np.sum(x**2, axis=1) ** 2) / n - total) / n
    shrinkage = min(b2, d2) / d2
    return (1 - shrinkage) * s + shrinkage * m * np.eye(p, dtype=x.dtype)
