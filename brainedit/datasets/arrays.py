"""ArrayEpochs: epochs that stay on disk or in an array, read a few at a time, with the reading interface of MNE."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd

_CHUNK_BYTES = 64 * 2**20  # of what is read at once
_FORMAT = 1

Rows = int | slice | Sequence[int] | np.ndarray


class ArrayEpochs:
    """Trials in an array that may be larger than the memory; whatever is read of them comes as float32.

    data : (n, n_channels, n_times) real numbers, indexed by row as numpy arrays and memory maps are
    info : of the channels, in the order of `data`
    tmin : s, time of the first sample
    metadata : one row a trial, or None
    scale : times `data` gives the unit that `info` names, as a rule volts
    index : (n_trials,) rows of `data` that are the trials; None for all of them

    Indexing by a number, a slice, numbers or a mask gives ArrayEpochs of these trials and reads nothing.
    Raises ValueError when shapes, types or lengths do not fit.
    Source: mne.Epochs (names and meaning of attributes and methods).
    Differs: get_data gives float32, and a string selects no trials; use a mask on the metadata.
    """

    def __init__(
        self,
        data: Any,
        info: mne.Info,
        *,
        tmin: float = 0.0,
        metadata: pd.DataFrame | None = None,
        scale: float = 1.0,
        index: np.ndarray | None = None,
    ) -> None:
        _check_data(data, info, scale)
        self._data, self.info, self._scale = data, info, float(scale)
        self._first = round(tmin * info["sfreq"])
        self._channels = np.arange(len(info["ch_names"]))  # columns of data
        self._index = np.arange(len(data)) if index is None else _checked_index(index, len(data))
        if metadata is not None and len(metadata) != len(self._index):
            raise ValueError(f"{len(self._index)} trials need as many rows of metadata, got {len(metadata)}.")
        self._table, self._rows = metadata, np.arange(len(self._index))

    @property
    def ch_names(self) -> list[str]:
        return self.info["ch_names"]

    @property
    def times(self) -> np.ndarray:
        """Time of each sample, s."""
        return np.arange(self._first, self._first + self._data.shape[2]) / self.info["sfreq"]

    @property
    def tmin(self) -> float:
        return float(self.times[0])

    @property
    def tmax(self) -> float:
        return float(self.times[-1])

    @property
    def metadata(self) -> pd.DataFrame | None:
        """One row a trial, with the index that the rows came with."""
        return None if self._table is None else self._table.iloc[self._rows]

    def get_channel_types(self) -> list[str]:
        return self.info.get_channel_types()

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        n_channels, window = len(self.ch_names), f"{self.tmin:.3f} to {self.tmax:.3f} s"
        return f"<ArrayEpochs: {len(self)} trials, {n_channels} channels, {window}>"

    def __iter__(self) -> Iterator[np.ndarray]:
        """Trial after trial, (n_channels, n_times)."""
        for chunk in self.iter_chunks():
            yield from chunk

    def __getitem__(self, trials: Rows) -> "ArrayEpochs":
        if isinstance(trials, str) or (isinstance(trials, list) and any(isinstance(t, str) for t in trials)):
            raise TypeError(
                f"Trials are selected by number or mask, got {trials!r}; make a mask of metadata."
            )
        if isinstance(trials, int | np.integer):
            trials = [trials]
        trials = trials if isinstance(trials, slice) else np.asarray(trials)
        if not isinstance(trials, slice) and trials.size == 0:
            trials = trials.astype(int)
        return self._with(_index=self._index[trials], _rows=self._rows[trials])

    def pick(self, picks: Any) -> "ArrayEpochs":
        """New epochs with these channels: names, numbers or a type. Unlike MNE's, the old ones stay as they are."""
        chosen = _channels(self.info, picks)
        return self._with(_channels=self._channels[chosen], info=mne.pick_info(self.info, chosen))

    def with_metadata(self, metadata: pd.DataFrame | None) -> "ArrayEpochs":
        """The same trials with other metadata, one row a trial."""
        if metadata is not None and len(metadata) != len(self):
            raise ValueError(f"{len(self)} trials need as many rows of metadata, got {len(metadata)}.")
        return self._with(_table=metadata, _rows=np.arange(len(self)))

    def get_data(self, picks: Any = None, *, copy: bool = True) -> np.ndarray:
        """Trials in memory, (n_trials, n_channels, n_times) float32.

        picks : names, numbers or a slice of channels, a type as "eeg", or None for all
        copy : False may give a view that cannot be written
        """
        channels = self._channels[_channels(self.info, picks)]
        rows = _as_slice(self._index)
        whole = np.array_equal(channels, np.arange(self._data.shape[1]))
        plain = isinstance(self._data, np.ndarray) and self._data.dtype == np.float32 and self._scale == 1
        if not copy and whole and plain and isinstance(rows, slice):
            return np.asarray(self._data[rows])
        out = np.empty((len(self), len(channels), self._data.shape[2]), np.float32)
        size = max(1, _CHUNK_BYTES // max(1, self._row_bytes))
        for start in range(0, len(self), size):
            block = self._data[_as_slice(self._index[start : start + size])]
            block = block if whole else block[:, channels]
            # the product of half precision and a small scale would be zero
            wide = np.result_type(block.dtype, np.float32)
            np.multiply(block, self._scale, out=out[start : start + size], dtype=wide, casting="same_kind")
        return out

    def iter_chunks(self, n: int = 1024) -> Iterator[np.ndarray]:
        """The trials in order, at most n of them at a time, as get_data gives them."""
        for start in range(0, len(self), n):
            yield self[start : start + n].get_data(copy=False)

    def average(self, picks: Any = None) -> mne.EvokedArray:
        """The mean over trials, of all channels unless picked; trials are read in chunks."""
        if not len(self):
            raise ValueError("There are no trials to average; at least one is needed.")
        part = self if picks is None else self.pick(picks)
        total = sum(chunk.sum(0, dtype=np.float64) for chunk in part.iter_chunks())
        return mne.EvokedArray(total / len(self), part.info, tmin=self.tmin, nave=len(self), verbose="error")

    def to_mne(self) -> mne.EpochsArray:
        """MNE's own epochs, with all data in memory as float64."""
        data = self.get_data().astype(np.float64)
        metadata = None if self.metadata is None else self.metadata.reset_index(drop=True)
        return mne.EpochsArray(data, self.info, tmin=self.tmin, metadata=metadata, verbose="error")

    def save(self, folder: str | Path) -> Path:
        """Write data.npy (float32, in the unit of `info`), info.fif and metadata.json to a new folder.

        It is FOLDER.partial until it is whole.
        Raises FileExistsError when the folder is there, ValueError for metadata that JSON cannot hold.
        """
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"{folder} is there already; give a new folder.")
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True)
        try:
            table = {"format": _FORMAT, "tmin": self.tmin, "metadata": _to_json(self.metadata)}
            (partial / "metadata.json").write_text(json.dumps(table, allow_nan=False), encoding="utf-8")
            mne.io.write_info(partial / "info.fif", self.info, verbose="error")
            self._write_data(partial / "data.npy")
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return folder

    @classmethod
    def open(cls, folder: str | Path) -> "ArrayEpochs":
        """What `save` wrote; the data stay on disk.

        Raises FileNotFoundError, or ValueError when a file is damaged, shorter than it says or of other epochs.
        """
        folder = Path(folder)
        missing = [n for n in ("data.npy", "info.fif", "metadata.json") if not (folder / n).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} has no {', '.join(missing)}, which ArrayEpochs.save writes.")
        try:
            table = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
            if table["format"] != _FORMAT:
                raise ValueError(f"format {table['format']!r} is not known; {_FORMAT} is")
            data = np.load(folder / "data.npy", mmap_mode="r", allow_pickle=False)
            info = mne.io.read_info(folder / "info.fif", verbose="error")
            return cls(data, info, tmin=table["tmin"], metadata=_from_json(table["metadata"]))
        except (ValueError, LookupError, TypeError, OSError, EOFError, AttributeError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise ValueError(f"{folder} holds no epochs that can be read ({reason}).") from error

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self._data.shape[1:])) * 8

    def _with(self, **changed: Any) -> "ArrayEpochs":
        new = object.__new__(type(self))
        new.__dict__ = self.__dict__ | changed
        return new

    def _write_data(self, path: Path) -> None:
        shape = (len(self), len(self.ch_names), self._data.shape[2])
        with path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in self.iter_chunks(max(1, _CHUNK_BYTES // self._row_bytes)):
                file.write(np.ascontiguousarray(chunk, "<f4"))


def concatenate_epochs(parts: Sequence["mne.BaseEpochs | ArrayEpochs"]) -> "mne.BaseEpochs | ArrayEpochs":
    """The trials of several epochs, in order; nothing is read where one of them is ArrayEpochs.

    Raises ValueError that says in what the parts differ.
    """
    if not parts:
        raise ValueError("There are no epochs to join; at least one is needed.")
    if all(isinstance(part, mne.BaseEpochs) for part in parts):
        return mne.concatenate_epochs(list(parts), verbose="error")
    for number, part in enumerate(parts[1:], start=2):
        _check_alike(parts[0], part, number)
    if sum(part.metadata is None for part in parts) not in (0, len(parts)):
        raise ValueError("Some of the epochs have metadata and some have none; give all of them metadata.")
    tables = [part.metadata for part in parts if part.metadata is not None]
    metadata = pd.concat(tables, ignore_index=True) if tables else None
    return ArrayEpochs(_Joined(parts), parts[0].info, tmin=parts[0].tmin, metadata=metadata)


class _Joined:
    """Several epochs one after the other, read by row."""

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(self, parts: Sequence["mne.BaseEpochs | ArrayEpochs"]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self.ends[-1]), len(parts[0].ch_names), len(parts[0].times))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(len(self))[rows]
        owner = np.searchsorted(self.ends, rows, side="right")
        out = np.empty((len(rows), *self.shape[1:]), np.float32)
        for k in np.unique(owner):
            part, mine = self.parts[k], np.flatnonzero(owner == k)
            local = rows[mine] - (self.ends[k] - len(part))
            out[mine] = part[local].get_data(copy=False)
        return out


def _check_data(data: Any, info: mne.Info, scale: float) -> None:
    shape = getattr(data, "shape", ())
    if len(shape) != 3:
        raise ValueError(f"Need data (n, n_channels, n_times), got shape {tuple(shape)}.")
    if shape[1] != len(info["ch_names"]):
        raise ValueError(f"The data have {shape[1]} channels and info names {len(info['ch_names'])}.")
    if shape[2] == 0:
        raise ValueError(f"The data of shape {tuple(shape)} have no samples.")
    if np.dtype(data.dtype).kind not in "fiu":
        raise ValueError(f"Need data of real numbers, got {data.dtype}.")
    if not np.isfinite(scale) or scale == 0:
        raise ValueError(f"scale is a number other than 0 that gives the unit of info, got {scale}.")


def _checked_index(index: np.ndarray, n_rows: int) -> np.ndarray:
    index = np.asarray(index)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise ValueError(f"index holds row numbers (n_trials,), got {index.dtype} of shape {index.shape}.")
    if len(index) and (index.min() < 0 or index.max() >= n_rows):
        raise ValueError(
            f"index names rows 0 to {n_rows - 1}, got {index.min()} to {index.max()}; are the data truncated?"
        )
    return index.astype(np.int64)


def _channels(info: mne.Info, picks: Any) -> np.ndarray:
    """Numbers of channels."""
    every = np.arange(len(info["ch_names"]))
    if picks is None or isinstance(picks, slice):
        return every[picks] if picks is not None else every
    names = [picks] if isinstance(picks, str) else list(picks)
    if not any(isinstance(name, str) for name in names):
        return every[np.asarray(picks, int if not len(names) else None)]
    if names == ["all"]:
        return every
    order = {name: i for i, name in enumerate(info["ch_names"])}
    if all(name in order for name in names):
        return np.array([order[name] for name in names])
    types = info.get_channel_types()
    unknown = [name for name in names if name not in types and name not in order]
    if unknown:
        raise ValueError(f"Unknown channel or type {unknown[0]!r}; there are {', '.join(order)}.")
    if not set(names) <= set(types):
        raise ValueError(f"Pick channels by name or by type, not both; got {', '.join(map(str, names))}.")
    return np.array([i for i, kind in enumerate(types) if kind in names])


def _as_slice(rows: np.ndarray) -> slice | np.ndarray:
    """Rows that follow each other as a slice, which reads in one go."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _check_alike(first: Any, other: Any, number: int) -> None:
    def described(epochs: Any) -> dict[str, Any]:
        return {
            "channels": list(epochs.ch_names),
            "rate (Hz)": round(float(epochs.info["sfreq"]), 6),
            "window (s)": (round(float(epochs.tmin), 6), round(float(epochs.tmax), 6)),
            "units": sorted({int(channel["unit"]) for channel in epochs.info["chs"]}),
            "reference": int(epochs.info["custom_ref_applied"]),
            "bad channels": sorted(epochs.info["bads"]),
            "filter (Hz)": (float(epochs.info["highpass"]), float(epochs.info["lowpass"])),
        }

    one, two = described(first), described(other)
    for what in one:
        if one[what] != two[what]:
            raise ValueError(
                f"Epochs to join need the same {what}; the first have {one[what]}, number {number} {two[what]}."
            )


def _to_json(metadata: pd.DataFrame | None) -> dict | None:
    if metadata is None:
        return None
    table = {}
    for name in metadata:
        column = metadata[name]
        values = [None if missing else v for v, missing in zip(column.tolist(), column.isna(), strict=True)]
        odd = [v for v in values if not isinstance(v, str | int | float | bool | type(None))]
        if odd or not isinstance(name, str):
            what = type(odd[0]).__name__ if odd else "a name that is no text"
            raise ValueError(f"The metadata's column {name!r} has {what}; text and numbers can be saved.")
        table[name] = {"dtype": str(column.dtype), "values": values}
    return {"n": len(metadata), "columns": table}


def _from_json(table: dict | None) -> pd.DataFrame | None:
    if table is None:
        return None
    columns = {k: pd.Series(c["values"], dtype=c["dtype"]) for k, c in table["columns"].items()}
    return pd.DataFrame(columns, index=pd.RangeIndex(table["n"]))
