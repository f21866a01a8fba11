"""The head of simulated EEG: dipoles to electrodes, and what any recording has: 1/f noise, alpha, blinks."""

from collections.abc import Sequence
from functools import lru_cache

import mne
import numpy as np
import pandas as pd
import scipy.fft

from brainedit.montage import read_montage

BLINK_UV = 100.0
VISUAL = (  # peak (s), width (s), height (µV at its largest electrode), electrodes above the dipoles
    (0.10, 0.016, 4.0, ("O1", "Oz", "O2")),
    (0.17, 0.022, -6.0, ("PO7", "PO8")),
    (0.25, 0.040, 4.0, ("POz", "Oz")),
)


@lru_cache
def head_model() -> tuple[dict[str, np.ndarray], np.ndarray, float, mne.bem.ConductorModel]:
    """Electrode positions (m, head frame), centre and radius of the head, and the sphere."""
    montage = read_montage()
    info = mne.create_info(montage.ch_names, 100.0, "eeg", verbose="error").set_montage(montage)
    radius, centre, _ = mne.bem.fit_sphere_to_headshape(info, units="m", verbose="error")
    sphere = mne.make_sphere_model(centre, radius, verbose="error")
    return {ch["ch_name"]: ch["loc"][:3].copy() for ch in info["chs"]}, centre, radius, sphere


@lru_cache
def eeg_info(channels: tuple[str, ...], sfreq: float) -> mne.Info:
    places = head_model()[0]
    unknown = [name for name in channels if name not in places]
    if unknown or len(channels) < 4 or len(set(channels)) < len(channels):
        raise ValueError(
            f"channels must be four or more different names of the 10-05 template, got {unknown or channels}."
        )
    info = mne.create_info(list(channels), sfreq, "eeg", verbose="error")
    return info.set_montage(
        mne.channels.make_dig_montage({c: places[c] for c in channels}, coord_frame="head")
    )


def leadfield(channels: tuple[str, ...], places: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Average-referenced potentials (n_channels, n_dipoles) of dipoles at `places` (m) along `directions`."""
    n = len(places)
    dipoles = mne.Dipole(np.arange(n) / 100.0, places, np.full(n, 1e-8), directions, np.full(n, 100.0))
    forward, _ = mne.make_forward_dipole(dipoles, head_model()[3], eeg_info(channels, 100.0), verbose="error")
    gain = forward["sol"]["data"].astype(np.float32)
    return gain - gain.mean(axis=0)


def places_below(names: Sequence[str], depth: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Places at a fraction of the head's radius below electrodes, and the outward directions there."""
    places, centre, radius, _ = head_model()
    out = np.array([places[name] - centre for name in names])
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    return centre + depth * radius * out, out


@lru_cache
def topography_of(
    channels: tuple[str, ...], moments: tuple[tuple[str, float], ...], depth: float = 0.7
) -> np.ndarray:
    """Field (n_channels,) of dipoles below electrodes, 1 at its largest channel."""
    gain = leadfield(channels, *places_below([name for name, _ in moments], depth))
    field = gain @ np.array([moment for _, moment in moments], dtype=np.float32)
    return field / field.max()


@lru_cache
def _background_mixing(channels: tuple[str, ...]) -> np.ndarray:
    """Matrix that turns white channels into the covariance of 200 random cortical dipoles; RMS 1."""
    rng = np.random.default_rng(11)
    out = rng.normal(size=(400, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    out = out[out[:, 2] > -0.35][:200]  # no brain in the lowest part of the head
    _, centre, radius, _ = head_model()
    directions = out + 0.7 * rng.normal(size=out.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    gain = leadfield(channels, centre + 0.72 * radius * out, directions)
    values, vectors = np.linalg.eigh(gain @ gain.T)
    mixing = vectors * np.sqrt(np.maximum(values, 0))
    return (mixing / np.sqrt(np.mean(np.sum(mixing**2, axis=1)))).astype(np.float32)


def noise_trials(
    trials: pd.DataFrame, channels, times, sfreq, rng, *, noise_uv, alpha_uv, blink_rate
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Noise (n, n_channels, n_times), VEOG and HEOG (n, 2, n_times), µV; onset (s) and blink of each trial.

    EEG is from baseline. One stretch of noise per subject and run; trials follow each other after random
    pauses of .1 to .4 s.
    """
    n, length = len(trials), len(times)
    data = np.empty((n, len(channels), length), np.float32)
    eyes = np.empty((n, 2, length), np.float32)
    onset = np.empty(n)
    keys = [name for name in ("subject", "session", "run") if name in trials]
    for rows in trials.groupby(keys, sort=False).indices.values():
        steps = length + rng.integers(round(0.1 * sfreq), round(0.4 * sfreq) + 1, len(rows))
        starts = np.concatenate([[0], np.cumsum(steps)[:-1]])
        noise, run_eyes = _background(channels, starts[-1] + length, sfreq, rng, noise_uv, alpha_uv)
        for row, start in zip(rows, starts, strict=True):
            data[row] = noise[:, start : start + length]
            eyes[row] = run_eyes[:, start : start + length]
        onset[rows] = starts / sfreq - times[0]
    blink = rng.uniform(size=n) < blink_rate
    wave = _blink_waves(times, int(blink.sum()), rng)
    data[blink] += topography_of(channels, (("Fp1", 1.0), ("Fp2", 1.0)), 0.8)[:, None] * wave[:, None, :]
    eyes[blink] += np.array([2.0, 0.1], np.float32)[:, None] * wave[:, None, :]
    before = times <= 0
    data -= data[..., before].mean(axis=-1, keepdims=True)
    return data, eyes, onset, blink


def _background(
    channels, n_times: int, sfreq: float, rng, noise_uv, alpha_uv
) -> tuple[np.ndarray, np.ndarray]:
    """Continuous noise (n_channels, n_times) and VEOG, HEOG (2, n_times), µV."""
    n = len(channels)
    pink = _coloured(n + 2, n_times, sfreq, rng, _pink_spectrum)
    noise = np.float32(0.98 * noise_uv) * (_background_mixing(channels) @ pink[:n])
    sensor = rng.standard_normal((n, n_times), np.float32) * np.float32(0.2 * noise_uv)
    noise += sensor - sensor.mean(axis=0)
    alpha = _coloured(2, n_times, sfreq, rng, _alpha_spectrum) * np.float32(alpha_uv)
    fields = [topography_of(channels, ((name, 1.0), ("Oz", 0.6)), 0.65) for name in ("O1", "O2")]
    noise += np.column_stack(fields) @ (alpha * np.float32(np.sqrt(0.5)))
    return noise, pink[n:] * np.float32(noise_uv)


def _pink_spectrum(f: np.ndarray) -> np.ndarray:
    """Amplitude of 1/f noise between .1 and 45 Hz, as after a usual filter."""
    band = np.clip((50 - f) / 10, 0, 1) * (f >= 0.1)
    return band / np.sqrt(np.maximum(f, 0.1))


def _alpha_spectrum(f: np.ndarray) -> np.ndarray:
    """Amplitude of alpha: 10 Hz, waxing and waning within about a second."""
    return np.exp(-0.5 * ((f - 10) / 0.6) ** 2)


def _coloured(n_rows: int, n_times: int, sfreq: float, rng, spectrum) -> np.ndarray:
    """Gaussian noise (n_rows, n_times) float32 of variance 1 and the given amplitude spectrum."""
    n = scipy.fft.next_fast_len(max(n_times, int(20 * sfreq)), real=True)
    shape = spectrum(scipy.fft.rfftfreq(n, 1 / sfreq)).astype(np.float32)
    shape[0] = 0
    shape *= n / (2 * np.sqrt(np.sum(shape**2, dtype=float)))
    white = rng.standard_normal((n_rows, len(shape), 2), np.float32).view(np.complex64)[..., 0]
    return scipy.fft.irfft(white * shape, n, axis=-1)[:, :n_times]


def bumps_at(times: np.ndarray, peak, width: float) -> np.ndarray:
    """Gaussian bumps, one per peak: (n_peaks, n_times)."""
    return np.exp(-0.5 * ((times - np.atleast_1d(peak)[:, None]) / width) ** 2).astype(np.float32)


def _blink_waves(times: np.ndarray, n: int, rng) -> np.ndarray:
    peak, width = rng.uniform(times[0], times[-1], n), 0.06
    return (
        bumps_at(times, peak, width) * rng.uniform(0.7, 1.3, (n, 1)).astype(np.float32) * np.float32(BLINK_UV)
    )


def visual_response(channels: tuple[str, ...], times: np.ndarray) -> np.ndarray:
    """What every picture evokes (n_channels, n_times), µV: P1, N1, P2."""
    total = np.zeros((len(channels), len(times)), np.float32)
    for peak, width, height, names in VISUAL:
        field = topography_of(channels, tuple((name, 1.0) for name in names), 0.75)
        total += height * field[:, None] * bumps_at(times, peak, width)
    return total


def to_epochs(data, eyes, channels, sfreq, tmin, metadata: pd.DataFrame) -> mne.EpochsArray:
    """Epochs of µV arrays, marked as simulated in `info["description"]` and in the metadata."""
    info = eeg_info(channels, sfreq).copy()
    if eyes is not None:
        info = mne.create_info(
            [*channels, "VEOG", "HEOG"], sfreq, ["eeg"] * len(channels) + ["eog"] * 2, "error"
        )
        places = {name: head_model()[0][name] for name in channels}
        info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
        data = np.concatenate([data, eyes], axis=1)
    info["description"] = "simulated by brainedit.simulate"
    kind = metadata["target"].astype(int) if "target" in metadata else np.zeros(len(metadata), int)
    ids = {"other": 1, "target": 2} if "target" in metadata else {"picture": 1}
    ids = {name: k for name, k in ids.items() if k in set(kind + 1)}
    samples = 1 + np.arange(len(data)) * (data.shape[-1] + 1)
    events = np.column_stack([samples, np.zeros_like(samples), kind + 1])
    volts = np.multiply(data, 1e-6, dtype=np.float64)
    epochs = mne.EpochsArray(
        volts, info, events, tmin=tmin, event_id=ids, metadata=metadata.assign(simulated=True),
        baseline=(None, 0), verbose="error",
    )  # fmt: skip
    return epochs.set_eeg_reference("average", verbose="error")
