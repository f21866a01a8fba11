"""Which electrode, and when, a score of EEG depends on: integrated gradients and matched-noise occlusion."""

import contextlib
import difflib
import logging
from itertools import product

import torch
from torch import nn

from saliency.image import Score, check_count, check_mode, cover_cells, evaluate, finite, window_starts

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
    batch = eeg[None] if isinstance(eeg, torch.Tensor) and eeg.ndim == 2 else eeg
    maps = neural_maps(
        score,
        batch,
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
    if method not in _METHODS:
        near = difflib.get_close_matches(str(method), _METHODS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"Unknown method {method!r}. {hint}Known: {', '.join(sorted(_METHODS))}.")
    _check_eeg(eeg)
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
    return _METHODS[method](score, eeg, **settings, batch_size=batch_size, seed=seed)


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
    n_channels, n_times = eeg.shape[1:]
    span = window or n_times
    starts = window_starts(n_times, span, span)
    weights, lengths = cover_cells(starts, span, n_times)
    generator = torch.Generator().manual_seed(seed)
    mean = eeg.double().mean((0, 2))[:, None]  # (n_channels, 1)
    deviation = eeg.double().std((0, 2), correction=0)[:, None]
    maps = []
    with torch.no_grad():
        for trial in eeg:
            draws = torch.randn(n_draws, n_channels, n_times, generator=generator, dtype=torch.float64)
            noise = _low_pass(mean + deviation * draws.to(eeg.device), sfreq).to(eeg.dtype)
            replaced = _replaced_scores(score, trial, noise, starts, span, batch_size)
            drops = _one_score(score, trial[None]).cpu().double() - replaced
            maps.append((drops @ weights).repeat_interleave(lengths, 1))
    return torch.stack(maps).to(eeg)


def _replaced_scores(
    score: Score, trial: torch.Tensor, noise: torch.Tensor, starts: list[int], window: int, batch_size: int
) -> torch.Tensor:
    """Mean score over the draws for each replaced channel and window: (n_channels, n_windows), float64."""
    n_draws, n_channels, n_times = noise.shape
    jobs = torch.tensor(list(product(range(n_channels), starts, range(n_draws))), device=trial.device)
    channels = torch.arange(n_channels, device=trial.device)[:, None]
    times = torch.arange(n_times, device=trial.device)
    scores = []
    for batch in jobs.split(batch_size):
        channel, start, draw = batch.T[:, :, None, None]
        patch = (channels == channel) & (times >= start) & (times < start + window)
        scores.append(_one_score(score, torch.where(patch, noise[draw[:, 0, 0]], trial)))
    return torch.cat(scores).cpu().double().reshape(n_channels, len(starts), n_draws).mean(2)


def _low_pass(noise: torch.Tensor, sfreq: float | None, *, cutoff: float = 100.0) -> torch.Tensor:
    """The paper's H: nothing above 100 Hz is left; noise sampled at 200 Hz or less comes back as it is."""
    if sfreq is None:
        return noise
    n_times = noise.shape[-1]
    frequencies = torch.fft.rfftfreq(n_times, 1 / sfreq, device=noise.device)
    return torch.fft.irfft(torch.fft.rfft(noise) * (frequencies <= cutoff), n=n_times)


def _one_score(score: Score, batch: torch.Tensor) -> torch.Tensor:
    values = evaluate(score, batch)
    if values.ndim != 1:
        raise ValueError(f"Need one score per trial (n,), the score returned shape {tuple(values.shape)}.")
    return values


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


def _check_eeg(eeg: torch.Tensor) -> None:
    if not isinstance(eeg, torch.Tensor):
        raise TypeError(f"Need the EEG as a tensor (n, n_channels, n_times), got {type(eeg).__name__}.")
    if eeg.ndim != 3 or eeg.numel() == 0:
        raise ValueError(f"Need EEG (n, n_channels, n_times) with samples in it, got {tuple(eeg.shape)}.")
    if not eeg.is_floating_point():
        raise ValueError(f"Need EEG as floats, in volts, got {eeg.dtype}.")
    if not bool(torch.isfinite(eeg).all()):
        raise ValueError("Need EEG of finite values, this has NaN or infinity.")


def _check_occlusion(eeg: torch.Tensor, *, window: int | None, sfreq: float | None) -> None:
    if window is not None:
        check_count("window", window)
        if window > eeg.shape[2]:
            raise ValueError(f"Need a window within the trial ({eeg.shape[2]} samples), got {window}.")
    if sfreq is not None and not 0 < sfreq < float("inf"):
        raise ValueError(f"Need a positive sampling rate in Hz, got {sfreq}.")


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
