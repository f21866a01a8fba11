"""EEG-CVPR40: six people, 40 ImageNet classes shown as one block each, read without running what the files name."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
from torch import Tensor

from brainedit._check import pick
from brainedit.datasets.arrays import ArrayEpochs
from brainedit.datasets.paired import PairedDataset
from brainedit.pickles.machine import StoredTensor
from brainedit.pickles.unpickle import read_objects

logger = logging.getLogger(__name__)

BANDS = {"5_95": (5.0, 95.0), "14_70": (14.0, 70.0), "55_95": (55.0, 95.0)}  # Hz
SPLITS = ("train", "val", "test")
SFREQ = 1000.0  # Hz
N_CHANNELS = 128
FIRST, LAST = 20, 460  # samples that are kept: 20 to 460 ms after the picture
SHORTEST, LONGEST = 460, 600  # samples of a trial; shorter and longer ones are left out

_DESCRIPTION = (
    "EEG-CVPR40. Values are in standard deviations of their channel (z-scored by the publishers), not in volts; "
    "channels are numbered as in the file, which does not name them. All pictures of a class were shown in one "
    "block, so within a person class cannot be told from time."
)


def load_cvpr40(
    root: str | Path,
    *,
    subject: int | None = 1,
    split: str = "train",
    band: str = "5_95",
    fold: int = 0,
    splits: str = "block_splits_by_image_all.pth",
    images: str | Path | Mapping | None = None,
    pair_by: str = "stimulus",
) -> PairedDataset:
    """EEG to ImageNet pictures, 128 channels x 440 samples (20 to 460 ms at 1 kHz), z-scored by the publishers.

    root : folder with `eeg_<band>_std.pth` and, unless split is "all", the file `splits`
    subject : 1 to 6; None for all
    split : "train", "val" or "test" of the published fold, or "all" for every trial of usable length
    band : "5_95", "14_70" or "55_95" (Hz)
    splits : the published file of splits. The indices of one whose name ends in "single" count the trials of
        one person, as in the publishers' code; all others count the trials of the whole file
    images : folder that holds ImageNet's n02389026/n02389026_6.JPEG and so on, or a dict as PairedDataset takes it;
        None for `images` in root, or root where there is none
    pair_by : "stimulus", or "label": then the pictures shown in these trials stand for their class

    Metadata: stimulus (the path above), label (the WordNet id), subject, block, and design_source "documented": the
    file has no order or time; the publication says that all pictures of a class were one block, so block is subject
    and label. Sessions and runs are unknown and absent. The published splits cut through the blocks: a class score
    within a person says nothing about pictures, see `brainedit.audit`. The file (3 GB) is read whole: about twice its
    size of memory is needed.
    Raises FileNotFoundError or ValueError in one sentence.
    Source: Palazzo et al., IEEE TPAMI 43(11), 2021, doi 10.1109/TPAMI.2020.2995909, and the code published with it.
    Differs: that code keeps trials from 450 samples on; fewer than 460 do not fill the window.
    """
    root = Path(root)
    pick("band", band, BANDS)
    pick("split", split, dict.fromkeys((*SPLITS, "all"), True))
    path = _file(root, f"eeg_{band}_std.pth")
    items, labels, names = _contents(path)
    people = np.array([_whole(item, "subject", i, path) for i, item in enumerate(items)])
    ours = np.arange(len(items)) if subject is None else np.flatnonzero(people == subject)
    if len(ours) == 0:
        raise ValueError(
            f"{path} has no subject {subject!r}; it has {', '.join(map(str, np.unique(people)))}."
        )
    table = _table(items, ours, labels, names, path)
    if split != "all":
        part = _published_part(_file(root, splits), ours, len(items), subject=subject, split=split, fold=fold)
        table = table.assign(chosen=np.isin(ours, part))
    else:
        table = table.assign(chosen=True)
    table = _usable(table, split=split, what=f"{path}, subject {subject}")
    trials = table.pop("trial").to_numpy()
    epochs = ArrayEpochs(_signals(items, trials, path), _info(band), tmin=FIRST / SFREQ, metadata=table)
    return PairedDataset(epochs, _pictures(root, images, table, pair_by), pair_by=pair_by)


def _file(root: Path, name: str) -> Path:
    path = root / name
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {name} in {root}; the EEG-CVPR40 files are linked from the GitHub repository "
            f"perceivelab/eeg_visual_classification (doi 10.1109/TPAMI.2020.2995909): put {name} into this folder."
        )
    return path


def _contents(path: Path) -> tuple[list[dict], list[str], list[str]]:
    """Trials, WordNet ids and picture names of an EEG file."""
    value = read_objects(path).value
    parts = [value.get(key) for key in ("dataset", "labels", "images")] if isinstance(value, dict) else []
    if len(parts) != 3 or not all(isinstance(part, list) and part for part in parts):
        have = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"{path} needs the lists dataset, labels and images; it has {have}.")
    items, labels, names = parts
    keys = {"eeg", "image", "label", "subject"}
    broken = [i for i, item in enumerate(items) if not isinstance(item, dict) or not keys <= set(item)]
    if broken:
        raise ValueError(f"{path}: trial {broken[0]} lacks one of {', '.join(sorted(keys))}.")
    for what, words in (("labels", labels), ("images", names)):
        if not all(isinstance(word, str) for word in words) or len(set(words)) < len(words):
            twice = [word for word in words if words.count(word) > 1]
            raise ValueError(f"{path}: {what} need to be texts, each once; {twice[:1] or words[:1]} is not.")
    return items, labels, names


def _table(
    items: list[dict], ours: np.ndarray, labels: list[str], names: list[str], path: Path
) -> pd.DataFrame:
    """A row for each of our trials: trial, length and metadata, all by name."""
    rows = []
    for i in ours.tolist():
        item = items[i]
        label = _named(item, "label", labels, i, path)
        name = _named(item, "image", names, i, path)
        if name.split("_")[0] != label:
            raise ValueError(
                f"{path}: trial {i} has label {label} and picture {name}, which is of another class."
            )
        person = str(_whole(item, "subject", i, path))
        stimulus = f"{label}/{name}.JPEG"
        rows.append((i, _length(item["eeg"], i, path), stimulus, label, person, f"{person}/{label}"))
    table = pd.DataFrame(rows, columns=["trial", "length", "stimulus", "label", "subject", "block"])
    return table.assign(design_source="documented")


def _whole(item: dict, key: str, i: int, path: Path) -> int:
    value = item[key]
    if isinstance(value, StoredTensor) and value.shape in ((), (1,)):
        value = value.tensor().item()
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise ValueError(f"{path}: the {key} of trial {i} needs to be a whole number; it is {value!r}.")
    return int(value)


def _named(item: dict, key: str, names: list[str], i: int, path: Path) -> str:
    number = _whole(item, key, i, path)
    if not 0 <= number < len(names):
        raise ValueError(f"{path}: trial {i} has {key} {number}; it needs to be 0 to {len(names) - 1}.")
    return names[number]


def _length(eeg: Any, i: int, path: Path) -> int:
    if not isinstance(eeg, StoredTensor | Tensor) or len(eeg.shape) != 2 or eeg.shape[0] != N_CHANNELS:
        shape = tuple(eeg.shape) if hasattr(eeg, "shape") else type(eeg).__name__
        raise ValueError(f"{path}: the eeg of trial {i} needs to be ({N_CHANNELS}, samples); it is {shape}.")
    return int(eeg.shape[1])


def _published_part(
    path: Path, ours: np.ndarray, n_trials: int, *, subject: int | None, split: str, fold: int
) -> np.ndarray:
    """The trials of the whole file that a published split names."""
    single = path.stem.endswith("single")
    if single and subject is None:
        raise ValueError(
            f"{path} counts the trials of one person; give a subject, or take the splits of all."
        )
    value = read_objects(path).value
    folds = value.get("splits") if isinstance(value, dict) else None
    if not isinstance(folds, list) or not folds:
        raise ValueError(f"{path} needs a list `splits`; it has {_kind(value)}.")
    if isinstance(fold, bool) or not isinstance(fold, int) or not 0 <= fold < len(folds):
        raise ValueError(f"{path} has {len(folds)} folds; there is no fold {fold!r}.")
    n_known = len(ours) if single else n_trials
    parts = {name: _indices(folds[fold], name, n_known, path) for name in SPLITS}
    every = np.concatenate(list(parts.values()))
    if len(np.unique(every)) < len(every):
        twice = int(every[pd.Series(every).duplicated()][0])
        raise ValueError(
            f"{path}: trial {twice} is twice in fold {fold}; train, val and test must not share any."
        )
    return ours[parts[split]] if single else parts[split]


def _indices(fold: Any, name: str, n_known: int, path: Path) -> np.ndarray:
    part = fold.get(name) if isinstance(fold, dict) else None
    if isinstance(part, StoredTensor):
        part = part.tensor().tolist()
    part = part.tolist() if isinstance(part, np.ndarray) else part
    if not isinstance(part, (list, tuple)) or any(
        isinstance(i, bool) or not isinstance(i, int) for i in part
    ):
        raise ValueError(f"{path}: {name} needs to be a list of whole numbers; it is {_kind(part)}.")
    outside = [i for i in part if not 0 <= i < n_known]
    if outside:
        raise ValueError(f"{path}: {name} names trial {outside[0]}; there are trials 0 to {n_known - 1}.")
    return np.array(part, int)


def _usable(table: pd.DataFrame, *, split: str, what: str) -> pd.DataFrame:
    """The chosen trials of usable length; a class must not lose all of its training trials."""
    long_enough = table["length"].between(SHORTEST, LONGEST)
    kept = table[table["chosen"] & long_enough]
    lost = int((table["chosen"] & ~long_enough).sum())
    if lost:
        logger.info(
            "%s: %d trials are shorter than %d or longer than %d samples.", what, lost, SHORTEST, LONGEST
        )
    empty = sorted(set(table["label"]) - set(kept["label"]))
    if empty and (split in ("train", "all") or kept.empty):
        raise ValueError(
            f"{what}: split {split!r} has no trial of {len(empty)} classes ({empty[0]} is one); take split='all' and "
            "a split of your own."
        )
    if empty:
        logger.warning("%s: split %r has no trial of %s.", what, split, ", ".join(empty))
    return kept.drop(columns=["length", "chosen"]).reset_index(drop=True)


def _signals(items: list[dict], trials: np.ndarray, path: Path) -> np.ndarray:
    """EEG of the chosen trials, (n, 128, 440) float32; the file's other trials are given up for memory."""
    data = np.empty((len(trials), N_CHANNELS, LAST - FIRST), np.float32)
    places = {trial: place for place, trial in enumerate(trials.tolist())}
    for i, item in enumerate(items):
        eeg = item.pop("eeg")
        if i not in places:
            continue
        eeg = eeg.tensor() if isinstance(eeg, StoredTensor) else eeg
        data[places[i]] = eeg[:, FIRST:LAST].float().numpy()
        if not np.isfinite(data[places[i]]).all():
            raise ValueError(
                f"{path}: the eeg of trial {i} is NaN or infinite somewhere; fetch the file again."
            )
    return data


def _info(band: str) -> mne.Info:
    names = [f"EEG{i:03d}" for i in range(1, N_CHANNELS + 1)]
    info = mne.create_info(names, SFREQ, "eeg", verbose="error")
    with info._unlock():
        info["highpass"], info["lowpass"] = BANDS[band]
        for channel in info["chs"]:
            channel["unit"] = mne.io.constants.FIFF.FIFF_UNIT_NONE
    info["description"] = _DESCRIPTION
    return info


def _pictures(root: Path, images: str | Path | Mapping | None, table: pd.DataFrame, pair_by: str) -> Any:
    if isinstance(images, Mapping):
        return images
    below = root / "images"
    folder = Path(images) if images is not None else below if below.is_dir() else root
    shown = table["stimulus"].unique()
    missing = [name for name in shown if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(shown)} pictures are not in {folder}, {missing[0]} for one; they are ImageNet's"
            " (image-net.org, its own terms) and lie as <WordNet id>/<picture>.JPEG in a folder given as `images`."
        )
    if pair_by != "label":
        return folder
    return {
        label: [folder / name for name in part["stimulus"].unique()]
        for label, part in table.groupby("label", sort=False)
    }


def _kind(value: Any) -> str:
    return f"a dict of {', '.join(map(str, value))}" if isinstance(value, dict) else type(value).__name__
