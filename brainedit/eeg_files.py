"""Files to MNE objects and tables of events: a format is told by its bytes, a damaged file by one error."""

import gzip
import logging
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import mne

logger = logging.getLogger(__name__)

FIF_MAGIC = bytes.fromhex("000000640000001f")
STARTS = {
    FIF_MAGIC: "FIF",
    b"0       ": "EDF",
    b"\xffBIOSEMI": "BDF",
    b"Brain Vision Data Exchange Header": "BrainVision",
    b"BrainVision Data Exchange Header": "BrainVision",
    b"MATLAB 5.0": "EEGLAB",
    b"MATLAB 7.3": "EEGLAB",
    b"\x89HDF\r\n": "EEGLAB",
}


class EEGFileError(ValueError):
    """A file that cannot be read as EEG; the message names the file and the reason."""


def read_raw(path: str | Path, *, self_contained: bool = False) -> "mne.io.BaseRaw":
    """A continuous recording, loaded: FIF, EDF, BDF, BrainVision (.vhdr) or EEGLAB (.set).

    self_contained : for uploads; refuse formats and files that name other files to be opened

    Raises FileNotFoundError, or EEGFileError when the file is no EEG, is damaged or holds epochs.
    """
    import mne

    readers = {
        "FIF": mne.io.read_raw_fif,
        "EDF": mne.io.read_raw_edf,
        "BDF": mne.io.read_raw_bdf,
        "BrainVision": mne.io.read_raw_brainvision,
        "EEGLAB": mne.io.read_raw_eeglab,
    }
    path = Path(path)
    name = _format_of(path, self_contained=self_contained)
    try:
        raw = readers[name](path, preload=True, verbose="error")
    except Exception as error:  # damaged files raise anything at all, from KeyError to a bare Exception
        if "No raw data in" in str(error) or "must be 1 for raw" in str(error):
            raise EEGFileError(f"{path} holds no continuous recording; open it with read_epochs.") from error
        raise _unreadable(path, name, error) from error
    if not len(raw.ch_names) or not len(raw.times) or not np.isfinite(raw.info["sfreq"]):
        raise EEGFileError(f"{path} holds no samples; a recording with channels and samples is needed.")
    return raw


def read_epochs(path: str | Path, *, self_contained: bool = False) -> "mne.Epochs":
    """Epochs, loaded, with their metadata: FIF (-epo.fif) or EEGLAB (.set).

    self_contained : for uploads; refuse formats and files that name other files to be opened

    Raises FileNotFoundError, or EEGFileError when the file is no EEG, is damaged or holds no epochs.
    """
    import mne

    path = Path(path)
    name = _format_of(path, self_contained=self_contained)
    continuous = (
        f"{path} holds no epochs; read a continuous recording with read_raw and cut it with make_epochs."
    )
    if name not in ("FIF", "EEGLAB"):
        raise EEGFileError(continuous)
    reader = mne.read_epochs if name == "FIF" else mne.io.read_epochs_eeglab
    try:
        epochs = reader(path, verbose="error")
        epochs.load_data()
    except Exception as error:  # damaged files raise anything at all, from KeyError to a bare Exception
        if "Could not find e" in str(error) or "not seem to contain epochs" in str(error):
            raise EEGFileError(continuous) from error
        raise _unreadable(path, name, error) from error
    if not len(epochs) or not len(epochs.ch_names):
        raise EEGFileError(f"{path} holds 0 epochs; at least one is needed.")
    return epochs


def read_events(path: str | Path, *, sfreq: float | None = None) -> pd.DataFrame:
    """The table of a BIDS events.tsv: `onset`, `duration` (s), `trial_type`, `stim_file`; "n/a" is missing.

    sfreq : Hz; turns a column `sample` into onsets where there is no `onset`

    Raises FileNotFoundError, or ValueError when the table cannot be read or has no usable onsets.
    Source: BIDS 1.10, task events.
    """
    events = _read_table(path, separator="\t")
    if "onset" not in events and "sample" in events and sfreq:
        events.insert(0, "onset", pd.to_numeric(events["sample"], errors="coerce") / sfreq)
    if "onset" not in events:
        raise ValueError(
            f"{path}: needs a column 'onset' (s), tabs between columns; it has {listed(events.columns)}."
        )
    onset = pd.to_numeric(events["onset"], errors="coerce").astype(float)
    if not np.isfinite(onset).all():
        row = int(np.flatnonzero(~np.isfinite(onset))[0])
        raise ValueError(
            f"{path}: onset in row {row + 2} must be seconds, got {events['onset'].iloc[row]!r}."
        )
    return events.assign(onset=onset)


def events_from_annotations(raw: "mne.io.BaseRaw", codes_csv: str | Path) -> pd.DataFrame:
    """Events of a recording whose annotations or trigger channel hold codes, and a table that explains them.

    codes_csv : columns `code` and `stim_file`; others (`trial_type`, `target`) are handed on. A code is an
        annotation's text ("Stimulus/S  1" also answers to "S 1" and "1") or a trigger value

    Returns onset (s from the first sample), code, stim_file and the table's other columns, in order of time.
    Raises ValueError when no code of the recording is in the table.
    """
    table = _read_table(codes_csv, separator=",")
    missing = [column for column in ("code", "stim_file") if column not in table]
    if missing:
        raise ValueError(
            f"{codes_csv}: needs columns 'code' and 'stim_file'; it has {listed(table.columns)}."
        )
    table = table.assign(code=table["code"].astype(str).str.split().str.join(" "))
    if table["code"].duplicated().any():
        twice = table["code"][table["code"].duplicated()].iloc[0]
        raise ValueError(f"{codes_csv}: each code must occur once; {twice!r} occurs twice.")
    known = set(table["code"])
    found = _trigger_codes(raw, known)
    events = found[found["code"].isin(known)].merge(table, on="code", how="left", validate="many_to_one")
    if events.empty:
        raise ValueError(
            f"{codes_csv}: no code of the recording is in the table; the recording has"
            f" {listed(found['code'].unique())}, the table {listed(table['code'])}."
        )
    if len(events) < len(found):
        logger.info("%d of %d events have codes that the table lacks.", len(found) - len(events), len(found))
    return events.sort_values("onset", kind="stable", ignore_index=True)


def _format_of(path: Path, *, self_contained: bool) -> str:
    """The format by its first bytes: FIF, EDF, BDF, BrainVision or EEGLAB; checked for uploads."""
    if not path.is_file():
        raise FileNotFoundError(
            f"No EEG file {path}; give the path of a FIF, EDF, BDF, BrainVision or EEGLAB file."
        )
    name = _magic(path)
    if name is None:
        raise EEGFileError(
            f"{path} is no EEG file; FIF, EDF, BDF, BrainVision (.vhdr) or EEGLAB (.set) is needed."
        )
    suffix = {"EDF": ".edf", "BDF": ".bdf", "BrainVision": ".vhdr", "EEGLAB": ".set"}.get(name)
    if self_contained and name not in ("FIF", "EDF", "BDF"):
        raise EEGFileError(f"{path} is {name}, which may open other files; give FIF, EDF or BDF instead.")
    if suffix and path.suffix.lower() not in (suffix, ".ahdr" if name == "BrainVision" else suffix):
        raise EEGFileError(f"{path} holds {name} data but its name does not end in {suffix}; rename it.")
    if self_contained and name == "FIF":
        _refuse_split_fif(path)
    return name


def _magic(path: Path) -> str | None:
    """The format whose files start as this one does."""
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"\x1f\x8b") and path.suffix.lower() == ".gz":
        try:
            with gzip.open(path) as file:
                head = file.read(64)
        except (OSError, EOFError, zlib.error):
            return None
        return "FIF" if head.startswith(FIF_MAGIC) else None
    head = head.removeprefix(b"\xef\xbb\xbf")
    return next((name for start, name in STARTS.items() if head.startswith(start)), None)


def _refuse_split_fif(path: Path) -> None:
    """Raise EEGFileError when a FIF file is compressed (may unpack without end) or has a further part."""
    from mne._fiff.constants import FIFF
    from mne._fiff.open import fiff_open
    from mne._fiff.tree import dir_tree_find

    if path.suffix.lower() == ".gz":
        raise EEGFileError(f"{path} is compressed; unpack it first.")
    try:
        file, tree, _ = fiff_open(path, verbose="error")
        with file:
            parts = dir_tree_find(tree, FIFF.FIFFB_REF)
    except Exception as error:  # damaged files raise anything at all
        raise _unreadable(path, "FIF", error) from error
    if parts:
        raise EEGFileError(f"{path} is split and refers to another file; save it as one file.")


def _unreadable(path: Path, name: str, error: Exception) -> EEGFileError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return EEGFileError(f"{path} cannot be read as {name}: {reason}.")


def _read_table(path: str | Path, *, separator: str) -> pd.DataFrame:
    """A text table whose words stay words and whose "n/a" and empty cells are missing."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No table {path}.")
    words = dict.fromkeys(
        ("code", "trial_type", "stim_file", "subject", "session", "task", "run", "block"), str
    )
    try:
        table = pd.read_csv(
            path,
            sep=separator,
            dtype=words,
            na_values=["n/a", ""],
            keep_default_na=False,
            encoding="utf-8-sig",
        )
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise ValueError(f"{path} is no table of text: {str(error).splitlines()[0]}.") from error
    return table.rename(columns=lambda name: str(name).strip())


def _trigger_codes(raw: "mne.io.BaseRaw", known: set[str]) -> pd.DataFrame:
    """Onset (s) and code of the annotations, or of the trigger channel where no annotation is known."""
    import mne

    texts = {text: _code(text, known) for text in set(raw.annotations.description)}
    if set(texts.values()) & known:
        ids = {text: k for k, text in enumerate(texts, start=1)}
        marks, _ = mne.events_from_annotations(raw, ids, verbose="error")
        names = {k: texts[text] for text, k in ids.items()}
    elif mne.pick_types(raw.info, stim=True).size:
        marks = mne.find_events(raw, shortest_event=1, verbose="error")
        names = {k: str(k) for k in np.unique(marks[:, 2])}
    else:
        return pd.DataFrame({"onset": np.nan, "code": sorted(texts)})
    seconds = (marks[:, 0] - raw.first_samp) / raw.info["sfreq"]
    return pd.DataFrame({"onset": seconds, "code": [names[k] for k in marks[:, 2]]})


def _code(text: str, known: set[str]) -> str:
    """The spelling of an annotation that the table knows, else its text: "Stimulus/S  1", "S 1" or "1"."""
    text = " ".join(str(text).split())
    short = text.rsplit("/", 1)[-1]
    number = re.sub(r"^[A-Za-z] ?(?=\d+$)", "", short)
    return next((name for name in (text, short, number) if name in known), text)


def listed(names: Sequence, most: int = 8) -> str:
    """Names for a message, the first few of them."""
    names = [str(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more
