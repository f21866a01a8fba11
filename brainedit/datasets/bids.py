"""A BIDS folder: the recordings of one person and their events -> epochs that name their pictures."""

import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from brainedit._check import pick
from brainedit.datasets.folder import join_epochs
from brainedit.datasets.paired import PairedDataset
from brainedit.eeg import EEGFileError, make_epochs, preprocess, read_events, read_raw
from brainedit.eeg_files import listed

if TYPE_CHECKING:
    import mne
    from mne_bids import BIDSPath

logger = logging.getLogger(__name__)

EXTENSIONS = [".bdf", ".edf", ".set", ".vhdr"]
KINDS = {  # types of channels.tsv that are not "misc"
    "EEG": "eeg", "EOG": "eog", "VEOG": "eog", "HEOG": "eog", "ECG": "ecg", "EMG": "emg", "TRIG": "stim",
}  # fmt: skip


def load_bids(
    root: str | Path,
    *,
    subject: str | int,
    session: str | int | None = None,
    task: str | None = None,
    run: str | int | None = None,
    images: str | Path | None = None,
    pair_by: str = "stimulus",
    tmin: float = -0.2,
    tmax: float = 0.8,
    baseline: tuple[float | None, float | None] | None = (None, 0.0),
    reject_uv: float | None = None,
    **preprocessing,
) -> PairedDataset:
    """Epochs of one person around the pictures shown; all sessions, tasks and runs that are not chosen.

    subject, session, run : labels as in the file names; 1 also answers to "01"
    images : folder that `stim_file` counts from, None for root/stimuli
    preprocessing : settings of `brainedit.eeg.preprocess`, applied to each recording

    Types and `status` (bad) come from channels.tsv; a channel that is bad in one run is bad in all, unless
    `bads="interpolate"`. Positions come from the template: electrodes.tsv is not read. Metadata: subject,
    session, task, run as in the file names, onset (s in its run) and all other columns of events.tsv.
    Raises FileNotFoundError, or ValueError when files are missing, contradict each other or do not go together.
    Source: BIDS 1.10, EEG, task events and the inheritance principle.
    """
    known = inspect.signature(preprocess).parameters
    for setting in preprocessing:
        pick("setting of preprocess", setting, {name: name for name in known if name != "raw"})
    paths = _recordings(Path(root), subject=subject, session=session, task=task, run=run)
    tables = {path.basename: _channel_table(path) for path in paths}
    bads = {name: set(table.loc[table["status"] == "bad", "name"]) for name, table in tables.items()}
    if preprocessing.get("bads") != "interpolate":
        bads = dict.fromkeys(bads, set().union(*bads.values()))
    cut = {"tmin": tmin, "tmax": tmax, "baseline": baseline, "reject_uv": reject_uv}
    parts = {}
    for path in paths:
        name = path.basename
        parts[name] = _epochs(path, tables[name], bads[name], cut, preprocessing)
    epochs = join_epochs(parts)
    epochs.metadata = _with_recordings(epochs.metadata).assign(design_source="recorded")
    return PairedDataset(epochs, images if images is not None else Path(root) / "stimuli", pair_by=pair_by)


def _recordings(root: Path, *, subject, **chosen) -> list["BIDSPath"]:
    """The EEG files of one person, in order; each session, task and run once."""
    from mne_bids import find_matching_paths

    people = sorted(path.name.removeprefix("sub-") for path in root.glob("sub-*") if path.is_dir())
    if not people:
        raise FileNotFoundError(f"{root} is no BIDS folder: there is no folder sub-* in it.")
    label = _entity("subject", subject, people)
    paths = find_matching_paths(
        root, subjects=label, suffixes="eeg", datatypes="eeg", extensions=EXTENSIONS, ignore_nosub=True
    )
    if not paths:
        raise FileNotFoundError(f"{root / f'sub-{label}'} has no eeg/*_eeg with {', '.join(EXTENSIONS)}.")
    for kind, given in chosen.items():
        if given is not None:
            known = {getattr(path, kind) for path in paths} - {None}
            value = _entity(kind, given, sorted(known))
            paths = [path for path in paths if getattr(path, kind) == value]
    places = {}
    for path in sorted(paths, key=_order):
        place = (path.session, path.task, path.run)
        if place in places:
            raise ValueError(
                f"{places[place].basename} and {path.basename} are the same session, task and run; "
                "move one of them out of the folder."
            )
        places[place] = path
    return list(places.values())


def _entity(kind: str, given: str | int, known: list[str]) -> str:
    """The label meant: as it is written, or the one that is the same number."""
    text = str(given).removeprefix({"subject": "sub-", "session": "ses-"}.get(kind, f"{kind}-"))
    same = [label for label in known if label.isdigit() and text.isdigit() and int(label) == int(text)]
    if text not in known and len(same) == 1:
        return same[0]
    return pick(kind, text, {label: label for label in known})


def _order(path: "BIDSPath") -> tuple:
    run = path.run or ""
    return path.session or "", path.task or "", int(run) if run.isdigit() else 0, path.basename


def _sidecar(path: "BIDSPath", suffix: str) -> Path | None:
    """The table of a recording, its own or an inherited one; never another run's."""
    found = path.find_matching_sidecar(suffix=suffix, extension=".tsv", on_error="ignore")
    own = set(path.basename.split("_"))
    if found is not None and not set(found.name.split("_")[:-1]) <= own:
        return None
    return found


def _channel_table(path: "BIDSPath") -> pd.DataFrame:
    """name, type and status of the channels, as words; empty where there is no channels.tsv."""
    columns = ["name", "type", "status"]
    file = _sidecar(path, "channels")
    if file is None:
        logger.warning("%s has no channels.tsv: no channel is known to be bad.", path.basename)
        return pd.DataFrame(columns=columns, dtype=str)
    try:
        table = pd.read_csv(file, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise ValueError(f"{file} is no table of text: {str(error).splitlines()[0]}.") from error
    if "name" not in table or table["name"].duplicated().any():
        raise ValueError(f"{file} must have a column 'name' that has each channel once.")
    table = table.reindex(columns=columns, fill_value="n/a").apply(lambda column: column.str.strip())
    table["status"] = table["status"].str.lower()
    return table


def _epochs(path: "BIDSPath", table: pd.DataFrame, bads: set[str], cut: dict, preprocessing: dict):
    """Epochs of one recording; an error says which one."""
    raw = read_raw(path.fpath)
    events = _sidecar(path, "events")
    if events is None:
        raise FileNotFoundError(
            f"{path.basename} has no events.tsv, so what was shown is not known; choose others by task or run."
        )
    places = {kind: getattr(path, kind) for kind in ("subject", "session", "task", "run")}
    places = {kind: label for kind, label in places.items() if label is not None}
    try:
        _set_channels(raw, table, bads)
        rows = read_events(events, sfreq=raw.info["sfreq"]).assign(**places)
        return make_epochs(preprocess(raw, **preprocessing), rows, **cut)
    except EEGFileError:
        raise
    except ValueError as error:
        raise ValueError(f"{path.basename}: {error}") from error


def _with_recordings(metadata: pd.DataFrame) -> pd.DataFrame:
    """Where there are several tasks a run is one of its task: each file has a clock of its own."""
    if "task" not in metadata or metadata["task"].nunique() < 2:
        return metadata
    task = "task-" + metadata["task"].astype(str)
    return metadata.assign(run=task + "_" + metadata["run"].astype(str) if "run" in metadata else task)


def _set_channels(raw: "mne.io.BaseRaw", table: pd.DataFrame, bads: set[str]) -> None:
    """Types and bad channels, by name."""
    unknown = [name for name in table["name"] if name not in raw.ch_names]
    if unknown:
        raise ValueError(
            f"channels.tsv names {listed(unknown)}, which the recording lacks; it has {listed(raw.ch_names)}."
        )
    kinds = table.loc[table["type"] != "n/a"].set_index("name")["type"].str.upper()
    types = {name: KINDS.get(kind, "misc") for name, kind in kinds.items()}
    raw.set_channel_types(types, on_unit_change="ignore", verbose="error")
    raw.info["bads"] = [name for name in raw.ch_names if name in bads or name in raw.info["bads"]]
