"""Which frequency band, and which stretch of time, a score of EEG depends on."""

import logging
from collections.abc import Callable, Mapping

import torch

from saliency.image import window_starts
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
from saliency.scores import Score, check_count, check_mode, pick

logger = logging.getLogger(__name__)

Bands = Mapping[str, tuple[float, float]]

BANDS: Bands = {
    "delta": (0.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, 80.0),
}


def band_map(
    score: Score,
    eeg: torch.Tensor,
    *,
    sfreq: float,
    bands: Bands = BANDS,
    method: str = "phase_randomisation",
    by_channel: bool = True,
    n_draws: int = 16,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> torch.Tensor:
    """How far the score falls without each frequency band, averaged over trials.

    eeg : (n, n_channels, n_times) or one trial (n_channels, n_times)

    Returns (n_channels, n_bands), or (n_bands,) for all channels at once; the rest is as in `band_maps`.
    """
    maps = band_maps(
        score,
        as_trials(eeg),
        sfreq=sfreq,
        bands=bands,
        method=method,
        by_channel=by_channel,
        n_draws=n_draws,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    return maps.mean(0)


def band_maps(
    score: Score,
    eeg: torch.Tensor,
    *,
    sfreq: float,
    bands: Bands = BANDS,
    method: str = "phase_randomisation",
    by_channel: bool = True,
    n_draws: int = 16,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> torch.Tensor:
    """How far the score of each trial falls without each frequency band.

    score : eeg (n, n_channels, n_times) to (n,); each trial's score must not depend on the other trials
    eeg : (n, n_channels, n_times), float
    sfreq : sampling rate, Hz
    bands : name to (low, high) in Hz; low belongs to the band, high does not. A band that reaches above the
        Nyquist frequency ends there, which the log says
    method : "phase_randomisation" keeps the amplitudes of the band and draws its phases anew, for each
        channel by itself; a score of the band's power alone does not fall. "band_stop" takes the band out
    by_channel : in one channel at a time; else in all of them at once
    n_draws : phase randomisation only: draws averaged
    batch_size : inputs given to the score at a time

    Returns (n, n_channels, n_bands), or (n, n_bands) for all channels at once, signed, in units of the score,
    on the EEG's device.
    Bands are sets of the whole trial's discrete Fourier frequencies, and a trial that does not end where it
    began has some power of its drift in all of them. The mean of a trial belongs to no band.
    Raises ValueError for EEG, a setting or a score that does not fit, for a band above the Nyquist frequency,
    and for one between two frequencies of so short a trial.
    Source: Theiler et al., Physica D 1992 (phase randomisation). Differs: within one band. Palazzo et al.,
    TPAMI 2021, train anew on band-limited EEG instead; this asks what a trained score uses.
    """
    _check(score, eeg, sfreq=sfreq, n_draws=n_draws, batch_size=batch_size)
    change = pick("method", method, _METHODS)
    bins = _band_bins(bands, eeg.shape[2], sfreq).to(eeg.device)
    generator = torch.Generator().manual_seed(seed)
    drops = score_drops(
        score,
        eeg,
        lambda trial: change(trial, bins, n_draws, generator),
        channels=each_channel(eeg) if by_channel else whole(eeg, 1),
        times=whole(eeg, 2),
        n_groups=len(bins),
        batch_size=batch_size,
        progress=progress,
    )  # (n, n_sets, 1, n_bands)
    maps = drops[:, :, 0] if by_channel else drops[:, 0, 0]
    return maps.to(eeg)


def window_map(
    score: Score,
    eeg: torch.Tensor,
    *,
    sfreq: float,
    tmin: float,
    length: float = 0.1,
    step: float = 0.05,
    n_draws: int = 16,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the score falls without each window of time, averaged over trials.

    eeg : (n, n_channels, n_times) or one trial (n_channels, n_times)

    Returns the falls (n_windows,) and the windows' centres, s; the rest is as in `window_maps`.
    """
    maps, centres = window_maps(
        score,
        as_trials(eeg),
        sfreq=sfreq,
        tmin=tmin,
        length=length,
        step=step,
        n_draws=n_draws,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    return maps.mean(0), centres


def window_maps(
    score: Score,
    eeg: torch.Tensor,
    *,
    sfreq: float,
    tmin: float,
    length: float = 0.1,
    step: float = 0.05,
    n_draws: int = 16,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the score of each trial falls when all channels of a window of time are replaced by noise.

    score : eeg (n, n_channels, n_times) to (n,); each trial's score must not depend on the other trials
    eeg : (n, n_channels, n_times), float
    sfreq : sampling rate, Hz
    tmin : time of the first sample, s
    length, step : of the windows, s, rounded to samples; the last window is moved inward to the trial's end
    n_draws : noise draws averaged for each window
    batch_size : inputs given to the score at a time

    The noise is that of `neural_maps`: each channel's mean and deviation over all trials given, below 100 Hz.
    Returns the falls (n, n_windows), signed, in units of the score, on the EEG's device, and the windows'
    centres (n_windows,), s, float64: midway between a window's first and last sample.
    Raises ValueError for EEG, a setting or a score that does not fit.
    """
    _check(score, eeg, sfreq=sfreq, n_draws=n_draws, batch_size=batch_size)
    window, stride = _samples(length, step, eeg.shape[2], sfreq)
    starts = window_starts(eeg.shape[2], window, stride)
    drops = score_drops(
        score,
        eeg,
        matched_noise(eeg, n_draws=n_draws, sfreq=sfreq, seed=seed),
        channels=whole(eeg, 1),
        times=spans(eeg, starts, window),
        batch_size=batch_size,
        progress=progress,
    )  # (n, 1, n_windows, 1)
    centres = tmin + (torch.tensor(starts, dtype=torch.float64) + (window - 1) / 2) / sfreq
    return drops[:, 0, :, 0].to(eeg), centres


def _check(score: Score, eeg: torch.Tensor, *, sfreq: float, n_draws: int, batch_size: int) -> None:
    check_eeg(eeg)
    check_mode(score)
    check_sfreq(sfreq)
    check_count("n_draws", n_draws)
    check_count("batch_size", batch_size)


def _band_bins(bands: Bands, n_times: int, sfreq: float) -> torch.Tensor:
    """Which Fourier frequencies of a trial belong to each band: (n_bands, n_frequencies) bool."""
    if len(bands) == 0:
        raise ValueError("Need at least one band, got none.")
    spacing, nyquist = sfreq / n_times, sfreq / 2
    frequencies = torch.arange(n_times // 2 + 1, dtype=torch.float64)  # in steps of `spacing`
    bins = []
    for name, (low, high) in bands.items():
        _check_band(name, low, high, nyquist)
        above = (
            frequencies >= low / spacing - 1e-6
        )  # so that rounding does not move a frequency on the border
        below = (frequencies < high / spacing - 1e-6) | (high >= nyquist)
        bins.append(above & below & (frequencies > 0))
        if not bins[-1].any():
            trial = f"trials of {n_times / sfreq:g} s, which are {spacing:g} Hz apart"
            raise ValueError(
                f"Band {name!r} ({low:g} to {high:g} Hz) holds no frequency of {trial}; leave it out of `bands`."
            )
    return torch.stack(bins)


def _check_band(name: str, low: float, high: float, nyquist: float) -> None:
    if not 0 <= low < high < float("inf"):
        raise ValueError(f"Need a band (low, high) in Hz, got {name!r}: ({low:g}, {high:g}).")
    if low >= nyquist:
        raise ValueError(
            f"Band {name!r} starts at {low:g} Hz, EEG sampled at {2 * nyquist:g} Hz ends at {nyquist:g}; "
            "leave it out of `bands`."
        )
    if high > nyquist:
        logger.warning(
            "Band %r (%g to %g Hz) ends at %g Hz here, half the sampling rate.", name, low, high, nyquist
        )


def _samples(length: float, step: float, n_times: int, sfreq: float) -> tuple[int, int]:
    for name, value in {"length": length, "step": step}.items():
        if not 0.5 / sfreq <= value < float("inf"):
            raise ValueError(f"Need a {name} of at least one sample ({1 / sfreq:g} s), got {value:g} s.")
    window, stride = max(1, round(length * sfreq)), max(1, round(step * sfreq))
    if window > n_times:
        raise ValueError(f"Need windows within the trial ({n_times / sfreq:g} s), got length {length:g} s.")
    if stride > window:
        raise ValueError(f"Need a step within the window ({length:g} s) to miss no sample, got {step:g} s.")
    return window, stride


def _phase_randomised(
    trial: torch.Tensor, bins: torch.Tensor, n_draws: int, generator: torch.Generator
) -> torch.Tensor:
    """The trial with new phases in one band, draw by draw: (n_bands * n_draws, n_channels, n_times)."""
    n_times = trial.shape[1]
    spectrum = torch.fft.rfft(trial.double())  # (n_channels, n_frequencies)
    changed = []
    for band in bins:
        turns = torch.rand(n_draws, *spectrum.shape, generator=generator, dtype=torch.float64)
        if n_times % 2 == 0:  # the last frequency is real: it keeps its sign or turns it
            turns[..., -1] = turns[..., -1].round() / 2
        phases = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns).to(trial.device)
        signal = torch.fft.irfft(torch.where(band, spectrum * phases, spectrum), n=n_times)
        changed.append(signal.to(trial))
    return torch.cat(changed)


def _band_stopped(
    trial: torch.Tensor, bins: torch.Tensor, n_draws: int, generator: torch.Generator
) -> torch.Tensor:
    """The trial without each band: (n_bands, n_channels, n_times)."""
    spectrum = torch.fft.rfft(trial.double())
    kept = torch.where(bins[:, None], 0, spectrum)
    return torch.fft.irfft(kept, n=trial.shape[1]).to(trial)


_METHODS: dict[str, Callable[..., torch.Tensor]] = {
    "phase_randomisation": _phase_randomised,
    "band_stop": _band_stopped,
}
