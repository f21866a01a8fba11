"""Scores of EEG of which a part is replaced, many draws at a time: what the brain-side maps are made of."""

from collections.abc import Callable

import torch
from tqdm import tqdm

from saliency.scores import Score, evaluate, finite


def score_drops(
    score: Score,
    eeg: torch.Tensor,
    replacements: Callable[[torch.Tensor], torch.Tensor],
    *,
    channels: torch.Tensor,
    times: torch.Tensor,
    n_groups: int = 1,
    batch_size: int = 64,
    single: bool = True,
    progress: bool = False,
) -> torch.Tensor:
    """How far each trial's score falls when channels and times of it are replaced, averaged over draws.

    replacements : a trial (n_channels, n_times) to what stands in for it (n_groups * n_draws, n_channels,
        n_times), group by group
    channels, times : (n_sets, n_channels) and (n_spans, n_times) bool; each set is replaced in each span
    single : whether the score must be (n,); else (n, k) serves, too

    Returns (n, n_sets, n_spans, n_groups), with k at the end for a score (n, k): float64, on the CPU.
    """
    with torch.no_grad():
        clean = _clean_scores(score, eeg, batch_size)
        if single and clean.ndim != 1:
            raise ValueError(f"Need one score per trial (n,), the score returned shape {tuple(clean.shape)}.")
        drops = []
        for trial, own in zip(tqdm(eeg, "replacing", disable=not progress, unit="trial"), clean, strict=True):
            fills = replacements(trial).to(trial)
            replaced = _replaced_scores(score, trial, fills, channels, times, batch_size, own[None])
            grouped = replaced.unflatten(2, (n_groups, -1)).mean(3)
            drops.append(own.cpu().double() - grouped)
    return torch.stack(drops)


def matched_noise(
    eeg: torch.Tensor, *, n_draws: int, sfreq: float | None, seed: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """For `score_drops`: normal noise with each channel's own mean and deviation over all the trials.

    sfreq : sampling rate in Hz, for Palazzo's low-pass H at 100 Hz; None: no low-pass
    """
    generator = torch.Generator().manual_seed(seed)
    mean = eeg.double().mean((0, 2))[:, None]  # (n_channels, 1)
    deviation = eeg.double().std((0, 2), correction=0)[:, None]

    def replacements(trial: torch.Tensor) -> torch.Tensor:
        draws = torch.randn(n_draws, *trial.shape, generator=generator, dtype=torch.float64)
        return _low_pass(mean + deviation * draws.to(eeg.device), sfreq)

    return replacements


def each_channel(eeg: torch.Tensor) -> torch.Tensor:
    """Sets of one channel each, for `score_drops`."""
    return torch.eye(eeg.shape[1], dtype=torch.bool, device=eeg.device)


def whole(eeg: torch.Tensor, axis: int) -> torch.Tensor:
    """One set of all channels (axis 1), or one span of all times (axis 2), for `score_drops`."""
    return torch.ones(1, eeg.shape[axis], dtype=torch.bool, device=eeg.device)


def spans(eeg: torch.Tensor, starts: list[int], window: int) -> torch.Tensor:
    """Spans of so many samples from each start, for `score_drops`."""
    times, first = torch.arange(eeg.shape[2]), torch.tensor(starts)[:, None]
    return ((times >= first) & (times < first + window)).to(eeg.device)


def check_eeg(eeg: torch.Tensor) -> None:
    """Raise ValueError or TypeError unless the EEG is (n, n_channels, n_times), float and finite."""
    if not isinstance(eeg, torch.Tensor):
        raise TypeError(f"Need the EEG as a tensor (n, n_channels, n_times), got {type(eeg).__name__}.")
    if eeg.ndim != 3 or eeg.numel() == 0:
        raise ValueError(f"Need EEG (n, n_channels, n_times) with samples in it, got {tuple(eeg.shape)}.")
    if not eeg.is_floating_point():
        raise ValueError(f"Need EEG as floats, in volts, got {eeg.dtype}.")
    if not bool(torch.isfinite(eeg).all()):
        raise ValueError("Need EEG of finite values, this has NaN or infinity.")


def check_sfreq(sfreq: float) -> None:
    """Raise ValueError unless the sampling rate is positive."""
    if not 0 < sfreq < float("inf"):
        raise ValueError(f"Need a positive sampling rate in Hz, got {sfreq}.")


def as_trials(eeg: torch.Tensor) -> torch.Tensor:
    """One trial (n_channels, n_times) as a batch of one; anything else as it came."""
    return eeg[None] if isinstance(eeg, torch.Tensor) and eeg.ndim == 2 else eeg


def _clean_scores(score: Score, eeg: torch.Tensor, batch_size: int) -> torch.Tensor:
    scores: list[torch.Tensor] = []
    for batch in eeg.split(batch_size):
        scores.append(evaluate(score, batch, like=scores[0] if scores else None))
    return finite(torch.cat(scores))


def _replaced_scores(
    score: Score,
    trial: torch.Tensor,
    fills: torch.Tensor,
    channels: torch.Tensor,
    times: torch.Tensor,
    batch_size: int,
    like: torch.Tensor,
) -> torch.Tensor:
    """Score for each set, span and draw: (n_sets, n_spans, n_draws) or with k at the end, float64."""
    counts = (len(channels), len(times), len(fills))
    jobs = torch.cartesian_prod(*(torch.arange(count, device=trial.device) for count in counts))
    scores = []
    for batch in jobs.split(batch_size):
        chosen, span, draw = batch.T
        patch = channels[chosen][:, :, None] & times[span][:, None]
        scores.append(evaluate(score, torch.where(patch, fills[draw], trial), like=like))
    return finite(torch.cat(scores)).cpu().double().unflatten(0, counts)


def _low_pass(noise: torch.Tensor, sfreq: float | None, *, cutoff: float = 100.0) -> torch.Tensor:
    """The paper's H: nothing above 100 Hz is left; noise sampled at 200 Hz or less comes back as it is."""
    if sfreq is None:
        return noise
    n_times = noise.shape[-1]
    frequencies = torch.fft.rfftfreq(n_times, 1 / sfreq, device=noise.device)
    return torch.fft.irfft(torch.fft.rfft(noise) * (frequencies <= cutoff), n=n_times)
