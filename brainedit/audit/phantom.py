"""Phantom EEG: 1/f noise and electrode drift that run on through a recording and know nothing of its stimuli."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.fft

from brainedit.audit.control_data import CannotRun, with_eeg
from brainedit.audit.exchange import recordings
from brainedit.datasets.paired import PairedDataset

RATE = 128.0  # Hz at which noise is drawn; between its samples it is interpolated
NOISE_V, DRIFT_V = 10e-6, 20e-6  # RMS
DRIFT_FREQUENCY = 0.02  # Hz; below it the drift's spectrum is flat, above it falls with 1/f²
BLOCK_PAUSE = 10.0  # s, where a block order is all that is known
MAX_BYTES = 4 * 2**30


def phantom_dataset(dataset: PairedDataset, *, seed: int = 0) -> tuple[PairedDataset, tuple[str, ...]]:
    """The data set with phantom EEG on its own schedule, channels, filter and baseline, and notes on how.

    Raises CannotRun when neither onsets nor blocks are known, or the array would not fit.
    """
    epochs = dataset.epochs
    onset, notes = _schedule(dataset.metadata, len(epochs.times) / epochs.info["sfreq"])
    if (size := len(dataset) * len(epochs.ch_names) * len(epochs.times) * 8) > MAX_BYTES:
        raise CannotRun(f"phantom EEG would take {size / 2**30:.0f} GiB; run the controls on fewer trials")
    data = phantom_trials(
        onset,
        recordings(dataset.metadata),
        epochs.times,
        n_channels=len(epochs.ch_names),
        highpass=epochs.info["highpass"],
        lowpass=epochs.info["lowpass"],
        seed=[seed, 31],
    )
    baseline = getattr(epochs, "baseline", None)
    if baseline is not None:
        low = epochs.times[0] if baseline[0] is None else baseline[0]
        high = epochs.times[-1] if baseline[1] is None else baseline[1]
        inside = (epochs.times >= low - 1e-9) & (epochs.times <= high + 1e-9)
        data -= data[..., inside].mean(-1, keepdims=True)
    return with_eeg(dataset, data, epochs.info, epochs.tmin), notes


def phantom_trials(
    onset: np.ndarray,
    recording: np.ndarray,
    times: np.ndarray,
    *,
    n_channels: int,
    highpass: float = 0.0,
    lowpass: float = 50.0,
    seed: int | Sequence[int] = 0,
) -> np.ndarray:
    """Phantom EEG cut at onsets: (n, n_channels, n_times), volts.

    onset : (n,) s in the recording; recording : (n,) which one; times : (n_times,) s from onset

    Each recording has noise of its own. 10 µV RMS of 1/f noise below 50 Hz and 20 µV of drift (1/f² above
    .02 Hz), mixed over channels, less what the filters take.
    """
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((n_channels, n_channels)) / np.sqrt(n_channels)
    data = np.empty((len(onset), n_channels, len(times)), np.float32)
    for name in np.unique(recording):
        rows = np.flatnonzero(recording == name)
        start = onset[rows].min() + times[0]
        where = (onset[rows, None] + times - start) * RATE  # (n_rows, n_times), samples
        n_samples = int(np.ceil(where.max())) + 2
        gains = [amplitude * _filter(n_samples, highpass, lowpass) for amplitude in _spectra(n_samples)]
        sources = np.stack([_cut(_noise(gains, rng), where) for _ in range(n_channels)], 1)
        data[rows] = np.einsum("cs,nst->nct", mixing, sources, optimize=True)
    return data


def _schedule(metadata: pd.DataFrame, length: float) -> tuple[np.ndarray, tuple[str, ...]]:
    """Onsets (s) of the trials, from the file or made up from the order of blocks."""
    if "onset" in metadata and not metadata["onset"].isna().any():
        return metadata["onset"].to_numpy(float), ()
    if "block" not in metadata or metadata["block"].isna().any():
        raise CannotRun("the metadata have neither `onset` nor `block` for every trial")
    onset = np.zeros(len(metadata))
    recording, block = recordings(metadata), metadata["block"].astype(str).to_numpy()
    for name in np.unique(recording):
        rows = np.flatnonzero(recording == name)
        rows = rows[np.argsort(pd.factorize(block[rows])[0], kind="stable")]  # each block in one piece
        pauses = np.cumsum(np.append(False, block[rows][1:] != block[rows][:-1])) * BLOCK_PAUSE
        onset[rows] = np.arange(len(rows)) * length + pauses
    note = "no onsets are known: blocks follow each other as they first come in the file, 10 s apart"
    return onset, (note,)


def _frequencies(n_samples: int) -> tuple[int, np.ndarray]:
    n = scipy.fft.next_fast_len(2 * n_samples, real=True)  # twice: the noise's circle does not close
    return n, scipy.fft.rfftfreq(n, 1 / RATE)


def _spectra(n_samples: int) -> Sequence[np.ndarray]:
    """Amplitude spectra of noise and drift, each with its RMS (V)."""
    n, f = _frequencies(n_samples)
    pink = (f <= 50) / np.sqrt(np.maximum(f, DRIFT_FREQUENCY))
    drift = 1 / (1 + (f / DRIFT_FREQUENCY) ** 2)
    pink[0] = 0
    scale = n / np.sqrt(2)
    return [rms * s * scale / np.sqrt(np.sum(s**2)) for rms, s in ((NOISE_V, pink), (DRIFT_V, drift))]


def _filter(n_samples: int, highpass: float, lowpass: float) -> np.ndarray:
    """Gain of Butterworth filters of fourth order, forward and back."""
    f = _frequencies(n_samples)[1]
    gain = 1 / (1 + (f / max(lowpass, 1e-3)) ** 8)
    return gain * (f**8 / (f**8 + highpass**8) if highpass > 0 else 1)


def _noise(gains: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    n = 2 * (len(gains[0]) - 1)
    white = rng.standard_normal((len(gains), len(gains[0]), 2)).view(complex)[..., 0] / np.sqrt(2)
    spectrum = sum(g * w for g, w in zip(gains, white, strict=True))
    return scipy.fft.irfft(spectrum, n)


def _cut(signal: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The signal at fractional samples, linearly interpolated."""
    before = where.astype(int)
    share = where - before
    return signal[before] * (1 - share) + signal[before + 1] * share
