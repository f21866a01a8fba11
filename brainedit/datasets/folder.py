"""A plain folder of epochs (`*-epo.fif`) and pictures, and epochs of several files made one by name."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import mne
import numpy as np
import pandas as pd

from brainedit.datasets.paired import PairedDataset
from brainedit.eeg import EEGFileError, read_epochs
from brainedit.eeg_files import listed
from brainedit.splits import recording_names

logger = logging.getLogger(__name__)

ENDINGS = ("-epo.fif", "_epo.fif", "-epo.fif.gz", "_epo.fif.gz")
PICTURE_FOLDERS = ("pictures", "images", "stimuli")
SHARED = ("stimulus", "label", "subject", "session", "run", "task", "block", "onset")


def load_folder(
    root: str | Path, *, images: str | Path | None = None, pair_by: str = "stimulus"
) -> PairedDataset:
    """All epochs below a folder, paired with the pictures there.

    root : holds one or many `*-epo.fif` at any depth, whose metadata have `stimulus` (or `label`)
    images : folder of the pictures; None takes `pictures`, `images` or `stimuli` in root, or root itself
    pair_by : as in `PairedDataset`

    subject, session, run and what else there is come from the metadata. Where no file has `run`, the file
    itself is the run: its path below root without the ending.
    Raises FileNotFoundError, or ValueError when the files do not go together (see `join_epochs`).
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder {root}; one with *-epo.fif files and pictures is needed."
        )
    files = sorted(path for path in root.rglob("*") if path.name.endswith(ENDINGS) and path.is_file())
    if not files:
        raise FileNotFoundError(f"{root} has no file that ends in -epo.fif; save epochs there first.")
    parts = {}
    for path in files:
        name = _recording(path, root)
        if name in parts:
            raise ValueError(f"{root} has two files of epochs called {name!r}; keep one of them.")
        parts[name] = _with_metadata(path)
    if not any("run" in epochs.metadata for epochs in parts.values()):
        for name, epochs in parts.items():
            epochs.metadata = epochs.metadata.assign(run=name)
    _check_clocks(parts)
    epochs = join_epochs(parts)
    if "design_source" not in epochs.metadata:
        epochs.metadata = epochs.metadata.assign(design_source="recorded")
    return PairedDataset(epochs, images if images is not None else _picture_folder(root), pair_by=pair_by)


def join_epochs(parts: Mapping[str, mne.BaseEpochs]) -> mne.BaseEpochs:
    """The epochs of several recordings as one; the mapping's keys name them in messages.

    Channels are matched by name and come in the first recording's order; a channel that is bad in one is bad
    in all; event codes are made anew from the events' names.
    Raises ValueError when sampling rates, windows, channels, references or metadata columns differ, or when
    the same trial is in two recordings.
    """
    (first_name, first), *others = parts.items()
    for name, epochs in others:
        differences = _differences(first, epochs)
        if differences:
            raise ValueError(
                f"{name} does not go with {first_name}: {'; '.join(differences)}. Make all epochs alike first."
            )
        _tell_filters(first.info, epochs.info, name)
    _check_columns(parts)
    _check_trials(parts, first.ch_names)
    if not others:
        return first.copy()
    bads = sorted({bad for epochs in parts.values() for bad in epochs.info["bads"]})
    codes = sorted({event for epochs in parts.values() for event in epochs.event_id})
    codes = {event: code for code, event in enumerate(codes, start=1)}
    alike = [_alike(epochs, first.ch_names, bads, codes) for epochs in parts.values()]
    joined = mne.concatenate_epochs(alike, verbose="error")
    joined.metadata = joined.metadata.reset_index(drop=True)
    return joined


def _check_clocks(parts: Mapping[str, mne.BaseEpochs]) -> None:
    """Raises ValueError where two files call different stretches of time by the same recording."""
    seen: dict[str, list[tuple[str, float, float]]] = {}
    for name, epochs in parts.items():
        if "onset" not in epochs.metadata:
            continue
        onset = epochs.metadata["onset"].astype(float)
        for recording, own in onset.groupby(recording_names(epochs.metadata)):
            for other, first, last in seen.setdefault(recording, []):
                if own.min() <= last and first <= own.max():
                    raise ValueError(
                        f"{other} and {name} both have recording {recording!r} at the same times; give their "
                        "metadata a `session` or different runs."
                    )
            seen[recording].append((name, own.min(), own.max()))


def _recording(path: Path, root: Path) -> str:
    """A file's path below root without its ending: unique where file names alone are not."""
    name = path.relative_to(root).as_posix()
    return next(name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending))


def _with_metadata(path: Path) -> mne.BaseEpochs:
    epochs = read_epochs(path)
    if epochs.metadata is None or not {"stimulus", "label"} & set(epochs.metadata):
        raise EEGFileError(
            f"{path} has no metadata with 'stimulus' or 'label'; without them no trial has a picture."
        )
    return epochs


def _picture_folder(root: Path) -> Path:
    found = [root / name for name in PICTURE_FOLDERS if (root / name).is_dir()]
    if len(found) > 1:
        raise ValueError(f"{root} has {listed([p.name for p in found])}; say which one with images=.")
    return found[0] if found else root


def _differences(first: mne.BaseEpochs, other: mne.BaseEpochs) -> list[str]:
    """What keeps two sets of epochs from being one, in words; the first one's value comes first."""
    found = []
    for which, a, b in (("it lacks", first, other), ("it alone has", other, first)):
        names = [name for name in a.ch_names if name not in b.ch_names]
        if names:
            found.append(f"{which} channels {listed(names)}")
    kinds = [dict(zip(e.ch_names, e.get_channel_types(), strict=True)) for e in (first, other)]
    changed = [name for name in kinds[0] if kinds[1].get(name, kinds[0][name]) != kinds[0][name]]
    if changed:
        found.append(f"channels of other types: {listed(changed)}")
    a, b = first.info, other.info
    if not np.isclose(a["sfreq"], b["sfreq"], rtol=1e-6):
        found.append(f"sampling rates {a['sfreq']:g} and {b['sfreq']:g} Hz")
    elif len(first.times) != len(other.times) or abs(first.tmin - other.tmin) > 0.5 / a["sfreq"]:
        found.append(f"windows {_window(first)} and {_window(other)}")
    if first.baseline != other.baseline:
        found.append(f"baselines {first.baseline} and {other.baseline}")
    if a["custom_ref_applied"] != b["custom_ref_applied"]:
        found.append("only one of them was referenced anew")
    if [p["desc"] for p in a["projs"]] != [p["desc"] for p in b["projs"]]:
        found.append("other projectors")
    return found


def _tell_filters(first: mne.Info, other: mne.Info, name: str) -> None:
    for edge in ("highpass", "lowpass"):
        if not np.isclose(first[edge], other[edge]):
            logger.warning(
                "%s was filtered otherwise: %s %g, not %g Hz.", name, edge, other[edge], first[edge]
            )


def _window(epochs: mne.BaseEpochs) -> str:
    return f"{epochs.tmin:g} to {epochs.tmax:g} s ({len(epochs.times)} samples)"


def _check_columns(parts: Mapping[str, mne.BaseEpochs]) -> None:
    """Raise ValueError when a column that tells the design is in some tables only, or of two kinds."""
    for column in SHARED:
        kinds = {
            name: None if column not in table else pd.api.types.is_numeric_dtype(table[column])
            for name, table in ((name, epochs.metadata) for name, epochs in parts.items())
        }
        with_it = [name for name, kind in kinds.items() if kind is not None]
        without = [name for name, kind in kinds.items() if kind is None]
        if with_it and without:
            raise ValueError(f"The metadata of {with_it[0]} have {column!r}, those of {without[0]} have not.")
        if len(set(kinds.values())) > 1:
            number, text = (next(n for n, k in kinds.items() if k is kind) for kind in (True, False))
            raise ValueError(f"{column!r} is a number in {number} and text in {text}; make it one of them.")


def _check_trials(parts: Mapping[str, mne.BaseEpochs], names: list[str]) -> None:
    """Raise ValueError when two recordings hold the same trial: one of them is a copy, or part, of the other."""
    seen: dict[bytes, tuple[str, int]] = {}
    for name, epochs in parts.items():
        order = [epochs.ch_names.index(channel) for channel in names]
        data = epochs.get_data(copy=False)
        digests = [hashlib.blake2b(trial[order].tobytes(), digest_size=16).digest() for trial in data]
        for k, digest in enumerate(digests):
            if digest in seen:
                other, j = seen[digest]
                raise ValueError(
                    f"Trial {k} of {name} is trial {j} of {other}: the same recording is there twice; keep one."
                )
        seen |= {digest: (name, k) for k, digest in enumerate(digests)}


def _alike(epochs: mne.BaseEpochs, names: list[str], bads: list[str], codes: dict[str, int]):
    """A copy with these channels in this order, these bads and these codes of events."""
    epochs = epochs.copy().reorder_channels(names)
    if set(bads) - set(epochs.info["bads"]):
        logger.warning("Bad in another recording, so bad in all: %s.", listed(bads))
    epochs.info["bads"] = list(bads)
    epochs.set_annotations(None)
    events = {code: event for event, code in epochs.event_id.items()}
    epochs.events[:, 2] = [codes[events[code]] for code in epochs.events[:, 2]]
    epochs.event_id = {event: codes[event] for event in events.values()}
    return epochs
