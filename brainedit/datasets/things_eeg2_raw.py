"""The continuous files of THINGS-EEG2, cut into trials as they are read, and the whitening that its users apply."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
from tqdm import tqdm

from brainedit.datasets.arrays import ArrayEpochs
from brainedit.pickles.unpickle import read_objects

logger = logging.getLogger(__name__)

TARGET = 99999  # code of a picture that the person had to look out for
TMIN, TMAX = -0.2, 1.0  # s around the onset
_CHUNK = 256  # trials


def mvnn(epochs: np.ndarray | Iterable[np.ndarray]) -> np.ndarray:
    """Multivariate noise normalisation: the matrix W (n_channels, n_channels) so that W @ trial is whitened.

    epochs : (n, n_channels, n_times), or chunks of such trials, of the training part of one session. The window
        decides what counts as noise; the published scripts take the one that they decode from

    W is the inverse root of the mean over trials of each trial's covariance over time, shrunk as by Ledoit and Wolf
    (J. Multivar. Anal. 2004) after every channel of the trial was scaled to unit variance.
    Raises ValueError when there are no trials, or a channel is flat or not finite in one of them.
    Source: Guggenmos et al., NeuroImage 2018, doi 10.1016/j.neuroimage.2018.02.044 ("epoch" method); Gifford et al.,
    NeuroImage 2022.
    Differs: the mean is over trials, not first over those of a picture and then over pictures; and it is of the
    training part alone, where Gifford et al. average it with the test part's.
    """
    total, n = 0.0, 0
    for chunk in [epochs] if isinstance(epochs, np.ndarray) else epochs:
        x = np.asarray(chunk, np.float64)
        x = x - x.mean(axis=2, keepdims=True)
        std = x.std(axis=2)
        if not (np.isfinite(std) & (std > 0)).all():
            trial, channel = np.argwhere(~(np.isfinite(std) & (std > 0)))[0]
            raise ValueError(
                f"Trial {n + trial} is flat or not finite in channel {channel}; drop that channel."
            )
        shrunk = _shrunk_covariance(x / std[..., None])
        total = total + (shrunk * std[:, :, None] * std[:, None, :]).sum(0)
        n += len(x)
    if n == 0:
        raise ValueError("There are 0 trials to learn the noise from; at least one is needed.")
    values, vectors = np.linalg.eigh(total / n)
    if values[0] <= 1e-12 * values[-1]:
        raise ValueError(f"The noise of {len(values)} channels has fewer dimensions; leave channels out.")
    return (vectors / np.sqrt(values)) @ vectors.T


def _shrunk_covariance(x: np.ndarray) -> np.ndarray:
    """Covariance of each trial (n, p, t) of mean 0 and variance 1, moved towards the identity as far as it is noisy.

    Source: Ledoit and Wolf, J. Multivar. Anal. 2004, lemma 3.2 and theorem 3.2 for a target of mean variance 1.
    """
    _, p, t = x.shape
    sample = x @ x.transpose(0, 2, 1) / t
    size = (sample**2).sum((1, 2))
    distance = size - p  # squared, from the identity; times p as the next is
    error = np.minimum((((x**2).sum(1) ** 2).sum(1) / t - size) / t, distance)
    share = np.divide(error, distance, out=np.zeros(len(x)), where=distance > 0)[:, None, None]
    return (1 - share) * sample + share * np.eye(p)


def raw_trials(
    folder: Path,
    stimuli: Sequence[str],
    *,
    part: str,
    channels: Sequence[str] | None = None,
    whiten: bool = True,
    sfreq: float = 250.0,
) -> ArrayEpochs:
    """Trials of a person's sessions, cut out of the continuous files whenever they are read.

    folder : of the person, holds ses-01 and so on
    stimuli : names by code: the first has code 1
    """
    paths = sorted(folder.glob(f"ses-*/raw_eeg_{part}.npy"))
    if not paths:
        raise FileNotFoundError(f"There is no ses-01/raw_eeg_{part}.npy in {folder}.")
    sessions = [_Session.open(path, channels, sfreq) for path in paths]
    for session in sessions[1:]:
        if (session.names, session.rate) != (sessions[0].names, sessions[0].rate):
            raise ValueError(f"{session.path} has other channels or another rate than {sessions[0].path}.")
    if whiten:
        sessions = [
            _whitened(session, channels, sfreq) for session in tqdm(sessions, desc="noise of sessions")
        ]
    metadata = _metadata(sessions, list(stimuli), part)
    return ArrayEpochs(_Trials(sessions), _info(sessions[0], whiten), tmin=TMIN, metadata=metadata)


def read_dict(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A file's dict, with the arrays left on disk; one that names code is refused."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    contents = read_objects(path, mapped=True)
    if contents.names:
        raise ValueError(
            f"{path} wants to run {contents.names[0]}, which EEG has no need of; it was not run."
        )
    if not isinstance(contents.value, dict):
        raise ValueError(f"{path} needs a dict; it holds {type(contents.value).__name__}.")
    missing = [key for key in keys if key not in contents.value]
    if missing:
        raise ValueError(f"{path} has no {missing[0]!r}; it has {', '.join(map(str, contents.value))}.")
    return contents.value


def names_in(table: dict[str, Any], key: str, path: Path) -> list[str]:
    """A list or array of texts in a file's dict, as a list."""
    value = table.get(key)
    texts = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path} needs {key}, a list of names; it has {', '.join(map(str, table))}.")
    return [str(text) for text in texts]


def without_unit(info: mne.Info) -> None:
    """Say in `info` that its channels have no unit."""
    for channel in info["chs"]:
        channel["unit"] = mne.io.constants.FIFF.FIFF_UNIT_NONE


@dataclass(frozen=True, eq=False)
class _Session:
    """One continuous file, mapped.

    data : (n_rows, n_samples) volts; rows : of the channels; onsets : samples; codes : of the pictures, from 1
    rate : Hz, of the file; sfreq : Hz, of the trials; filters : (high-pass, low-pass) Hz or None
    """

    path: Path
    data: np.ndarray
    rows: np.ndarray
    names: tuple[str, ...]
    rate: float
    sfreq: float
    onsets: np.ndarray
    codes: np.ndarray
    filters: tuple[float | None, float | None]
    whitener: np.ndarray | None = None

    @classmethod
    def open(cls, path: Path, channels: Sequence[str] | None, sfreq: float) -> "_Session":
        table = read_dict(path, ("raw_eeg_data", "ch_names", "ch_types", "sfreq"))
        names, types = names_in(table, "ch_names", path), names_in(table, "ch_types", path)
        data, rate = table["raw_eeg_data"], _number(table, "sfreq", path)
        if not isinstance(data, np.ndarray) or data.dtype.kind != "f" or data.ndim != 2:
            raise ValueError(f"{path} needs raw_eeg_data (n_channels, n_samples).")
        if not len(data) == len(names) == len(types) or types.count("stim") != 1:
            raise ValueError(
                f"{path} needs a name and a type for each of {len(data)} channels, one of them stim; it has "
                f"{len(names)} names and {len(types)} types, {types.count('stim')} of them stim."
            )
        if not 0 < sfreq <= rate:
            raise ValueError(f"sfreq is above 0 and at most the {rate:g} Hz of {path}, got {sfreq:g}.")
        chosen = [name for name, kind in zip(names, types, strict=True) if kind == "eeg"]
        unknown = [name for name in channels or () if name not in chosen]
        if unknown:
            raise ValueError(f"{path} has no EEG channel {unknown[0]!r}; it has {', '.join(chosen)}.")
        chosen = list(channels or chosen)
        onsets, codes = _events(data[types.index("stim")], rate, path)
        rows = np.array([names.index(name) for name in chosen])
        filters = tuple(
            _number(table, key, path) if key in table else None for key in ("highpass", "lowpass")
        )
        return cls(path, data, rows, tuple(chosen), rate, sfreq, onsets, codes, filters)

    @property
    def n_times(self) -> int:
        first, last = _window(self.rate)
        return round((last - first) * self.sfreq / self.rate)

    def cut(self, trials: np.ndarray) -> np.ndarray:
        """Trials (n, n_channels, n_times), float64, baseline subtracted, at sfreq, whitened where it is known how."""
        first, last = _window(self.rate)
        x = np.empty((len(trials), len(self.rows), last - first))
        for k, onset in enumerate(self.onsets[trials]):
            x[k] = self.data[:, onset + first : onset + last][self.rows]
        x -= x[..., : 1 - first].mean(axis=-1, keepdims=True)  # up to the onset itself, as in MNE
        if self.sfreq != self.rate and len(x):
            x = mne.filter.resample(
                x, up=self.sfreq, down=self.rate, npad="auto", pad="edge", verbose="error"
            )
        return x if self.whitener is None else self.whitener @ x

    def chunks(self) -> Iterator[np.ndarray]:
        """All trials after the onset."""
        skip = round(-TMIN * self.sfreq)
        for start in range(0, len(self.onsets), _CHUNK):
            yield self.cut(np.arange(start, min(start + _CHUNK, len(self.onsets))))[..., skip:]


class _Trials:
    """The trials of several sessions as one array (n, n_channels, n_times), computed when they are read."""

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(self, sessions: Sequence[_Session]) -> None:
        self.sessions = list(sessions)
        self.ends = np.cumsum([len(session.onsets) for session in sessions])
        self.shape = (int(self.ends[-1]), len(sessions[0].rows), sessions[0].n_times)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(len(self))[rows]
        out = np.empty((len(rows), *self.shape[1:]), np.float32)
        owner = np.searchsorted(self.ends, rows, side="right")
        for k in np.unique(owner):
            mine = np.flatnonzero(owner == k)
            local = rows[mine] - (self.ends[k] - len(self.sessions[k].onsets))
            for start in range(0, len(mine), _CHUNK):
                out[mine[start : start + _CHUNK]] = self.sessions[k].cut(local[start : start + _CHUNK])
        return out


def _number(table: dict[str, Any], key: str, path: Path) -> float:
    value = table[key]
    if not isinstance(value, int | float | np.number) or not np.isfinite(value) or value < 0:
        raise ValueError(f"{path} needs {key} in Hz; it has {str(value)[:60]!r}.")
    return float(value)


def _window(rate: float) -> tuple[int, int]:
    """First sample and the one after the last, from the onset; both ends are in, as in mne.Epochs."""
    return round(TMIN * rate), round(TMAX * rate) + 1


def _events(stim: np.ndarray, rate: float, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Samples and codes of the pictures whose whole window lies in the file, in order of time."""
    codes = np.asarray(stim)
    if not np.isfinite(codes).all() or (codes != np.round(codes)).any() or codes.min() < 0:
        raise ValueError(f"{path} has a stim channel that holds other than whole numbers from 0 on.")
    codes = codes.astype(np.int64)
    onsets = np.flatnonzero((codes != 0) & (codes != np.concatenate([[0], codes[:-1]])))
    onsets = onsets[codes[onsets] != TARGET]
    first, last = _window(rate)
    inside = (onsets + first >= 0) & (onsets + last <= len(codes))
    if not inside.all():
        logger.info("%s: %d trials at its ends are cut off and left out.", path, (~inside).sum())
    if not inside.any():
        raise ValueError(f"{path} has no picture with {TMIN} to {TMAX} s of EEG around its onset.")
    return onsets[inside], codes[onsets[inside]]


def _whitened(session: _Session, channels: Sequence[str] | None, sfreq: float) -> _Session:
    """A session with the whitener of its training file."""
    path = session.path.with_name("raw_eeg_training.npy")
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}, whose noise whitens the session; or use whiten=False.")
    training = session if path == session.path else _Session.open(path, channels, sfreq)
    if training.names != session.names:
        raise ValueError(f"{path} has other channels than {session.path}.")
    whitener = mvnn(tqdm(training.chunks(), desc=str(path.parent.name), leave=False))
    return replace(session, whitener=whitener)


def _metadata(sessions: Sequence[_Session], stimuli: list[str], part: str) -> pd.DataFrame:
    parts = []
    for session in sessions:
        beyond = session.codes[session.codes > len(stimuli)]
        if len(beyond):
            raise ValueError(
                f"{session.path} has code {beyond[0]} where image_metadata.npy names {len(stimuli)} pictures."
            )
        table = pd.DataFrame({"stimulus": [stimuli[code - 1] for code in session.codes]})
        table["session"] = session.path.parent.name.removeprefix("ses-")
        table["run"], table["onset"] = part, session.onsets / session.rate
        parts.append(table)
    metadata = pd.concat(parts, ignore_index=True)
    metadata.insert(1, "repeat", metadata.groupby("stimulus").cumcount())
    return metadata.assign(design_source="recorded")


def _info(session: _Session, whiten: bool) -> mne.Info:
    info = mne.create_info(list(session.names), session.sfreq, "eeg")
    highpass, lowpass = session.filters
    with info._unlock():
        info["highpass"] = float(highpass or 0.0)
        info["lowpass"] = min(float(lowpass or np.inf), session.sfreq / 2)
    if whiten:
        without_unit(info)
    return info
