"""ThoughtViz: EEG while people imagined a digit, a letter or an object, read without running what the file names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd

from brainedit._check import pick
from brainedit.datasets.paired import PairedDataset
from brainedit.pickles.unpickle import read_objects

# Emotiv EPOC, in the order of the recordings
CHANNELS = ["AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4"]
SFREQ = 128.0  # Hz
N_TIMES = 32
CLASSES = {
    "image": ["Apple", "Car", "Dog", "Gold", "Mobile", "Rose", "Scooter", "Tiger", "Wallet", "Watch"],
    "digit": [str(digit) for digit in range(10)],
    "char": ["A", "C", "F", "H", "J", "M", "P", "S", "T", "Y"],
}
PICTURES = {"image": "training/images/ImageNet-Filtered", "char": "training/images/Char-Font"}

_DESCRIPTION = (
    "ThoughtViz. The unit of the values is not documented. People imagined, no picture was seen: time 0 is the start "
    "of a window that was cut out of a recording. Each class was one recording a person, and the file does not say "
    "whose a window is, so class cannot be told from recording and no split of this file can."
)


def load_thoughtviz(
    root: str | Path,
    *,
    kind: str = "image",
    split: str = "train",
    images: str | Path | Mapping | None = None,
) -> PairedDataset:
    """Windows of 32 samples (0.25 s at 128 Hz) of 14 channels, with the class that was imagined.

    root : the ThoughtViz folder, with `data/eeg/<kind>/data.pkl`; or a folder with `eeg/<kind>/data.pkl`
    kind : "image" (ten kinds of object), "digit" or "char"
    split : "train", "test", or "all"; both hold windows of the same recordings
    images : a folder with one folder of pictures a class, or a dict class -> list of pictures; None for the
        published `training/images/ImageNet-Filtered` or `Char-Font` in root. Digits come without pictures

    Pairs are by label: any picture of a class may stand for a trial, as none was seen. Metadata: label, block and
    design_source "documented". The publications tell of one recording of 10 s for each of 23 people and 10 classes;
    the file names neither person nor recording. A block here is all recordings of one class: the smallest unit that
    is known not to cut one.
    Raises FileNotFoundError or ValueError in one sentence.
    Source: Tirupattur et al., ACM MM 2018, doi 10.1145/3240508.3240641; Kumar et al., Pers. Ubiquit. Comput. 2018,
    doi 10.1007/s00779-017-1083-4.
    """
    root = Path(root)
    classes = pick("kind", kind, CLASSES)
    parts = pick("split", split, {"train": ["train"], "test": ["test"], "all": ["train", "test"]})
    path = _file(root, kind)
    value = read_objects(path).value
    read = [_part(value, part, len(classes), path) for part in parts]
    eeg, numbers = (np.concatenate(pieces) for pieces in zip(*read, strict=True))
    labels = np.array(classes)[numbers]
    metadata = pd.DataFrame(
        {
            "label": labels,
            "block": [f"recordings of {label}" for label in labels],
            "design_source": "documented",
        }
    )
    epochs = mne.EpochsArray(eeg, _info(), metadata=metadata, verbose="error")
    return PairedDataset(epochs, _pictures(root, images, kind), pair_by="label")


def _file(root: Path, kind: str) -> Path:
    for path in (root / "data" / "eeg" / kind / "data.pkl", root / "eeg" / kind / "data.pkl"):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"There is no data/eeg/{kind}/data.pkl in {root}; the EEG data are linked from the GitHub repository "
        "ptirupat/ThoughtViz (doi 10.1145/3240508.3240641): unpack them as `data` in this folder."
    )


def _part(value: Any, part: str, n_classes: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """EEG (n, 14, 32) and the number of each window's class, of keys that Python 2 wrote as bytes or text."""
    if not isinstance(value, dict):
        raise ValueError(
            f"{path} needs to hold a dict with x_{part} and y_{part}; it holds {type(value).__name__}."
        )
    known = {key.decode("latin1") if isinstance(key, bytes) else key: entry for key, entry in value.items()}
    x, y = known.get(f"x_{part}"), known.get(f"y_{part}")
    if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
        raise ValueError(
            f"{path} needs the arrays x_{part} and y_{part}; it has {', '.join(map(str, known))}."
        )
    if x.shape[1:] != (len(CHANNELS), N_TIMES, 1) or x.dtype.kind not in "fiu" or len(x) == 0:
        raise ValueError(f"{path}: x_{part} needs to be (n, {len(CHANNELS)}, {N_TIMES}, 1); it is {x.shape}.")
    if y.shape != (len(x), n_classes) or y.dtype.kind not in "fiub":
        raise ValueError(
            f"{path}: y_{part} needs to be ({len(x)}, {n_classes}) for these windows; it is {y.shape}."
        )
    wrong = np.flatnonzero(~(np.isin(y, (0, 1)).all(axis=1) & (y.sum(axis=1) == 1)))
    if len(wrong):
        raise ValueError(
            f"{path}: row {wrong[0]} of y_{part} needs a single 1; it is {y[wrong[0]].tolist()}."
        )
    empty = np.flatnonzero(y.sum(axis=0) == 0)
    if len(empty):
        raise ValueError(f"{path}: y_{part} has no window of class {empty[0]}; the file is not whole.")
    eeg = x[..., 0].astype(np.float64)
    if not np.isfinite(eeg).all():
        raise ValueError(f"{path}: x_{part} has values that are NaN or infinite; fetch the file again.")
    return eeg, y.argmax(axis=1)


def _info() -> mne.Info:
    info = mne.create_info(CHANNELS, SFREQ, "eeg", verbose="error")
    with info._unlock():
        for channel in info["chs"]:
            channel["unit"] = mne.io.constants.FIFF.FIFF_UNIT_NONE
    info["description"] = _DESCRIPTION
    return info


def _pictures(root: Path, images: str | Path | Mapping | None, kind: str) -> Path | Mapping:
    if isinstance(images, Mapping):
        return images
    if images is None and kind not in PICTURES:
        raise FileNotFoundError(
            f"ThoughtViz has no pictures of kind {kind!r}; give `images`, one folder a class."
        )
    folder = root / PICTURES[kind] if images is None else Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}; the pictures are linked from the GitHub repository ptirupat/ThoughtViz:"
            " unpack them there, or give `images`, a folder with one folder of pictures a class."
        )
    return folder
