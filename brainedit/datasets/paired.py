"""PairedDataset: the door for a user's own epochs and pictures, joined by name and never by position."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import mne
import numpy as np
import pandas as pd

from brainedit._check import pick
from brainedit.datasets.arrays import ArrayEpochs, concatenate_epochs

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}

Picture = str | Path | np.ndarray


class PairedDataset:
    """Trials and the pictures they belong to; one item is one trial.

    epochs : mne.Epochs or ArrayEpochs whose metadata have `stimulus` (or `label`, see pair_by)
    images : a folder (a stimulus is a path below it; a label a folder in it), or a dict
        stimulus -> file or array (height, width, 3); by label: label -> list of those. An array of one dimension is a
        picture's ready-made features
    pair_by : "stimulus" where the picture of each trial is known; "label" where only its category is. Then
        any picture of the label may stand for a trial, and nothing may be claimed about single pictures

    `keys` holds each trial's stimulus or label, `pictures` the pictures by name, and `candidates(key)` the
    names of the pictures that belong to a key.
    Raises ValueError when the metadata lack the column, or a key has no picture.
    """

    def __init__(
        self, epochs: mne.BaseEpochs, images: str | Path | Mapping, *, pair_by: str = "stimulus"
    ) -> None:
        collect = pick("pair_by", pair_by, {"stimulus": _by_stimulus, "label": _by_label})
        self.epochs = epochs
        self.pair_by = pair_by
        self.keys = _keys(epochs, pair_by)
        self._candidates, self.pictures = collect(list(dict.fromkeys(self.keys)), images)

    @property
    def metadata(self) -> pd.DataFrame:
        return self.epochs.metadata

    def candidates(self, key: str) -> list[str]:
        """Names of the pictures that belong to a key: one for a stimulus, all of its category for a label."""
        return self._candidates[key]

    def with_metadata(self, metadata: pd.DataFrame) -> "PairedDataset":
        """The same trials and pictures with another table, one row a trial in their order."""
        if isinstance(self.epochs, ArrayEpochs):
            return self._with_epochs(self.epochs.with_metadata(metadata))
        epochs = self.epochs.copy()
        epochs.metadata = metadata
        return self._with_epochs(epochs)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Picture]:
        """One trial: EEG (n_channels, n_times) in volts and its picture (by label: the label's first)."""
        eeg = self.epochs[index].get_data(copy=False)[0].astype(np.float32)
        return eeg, self.pictures[self.candidates(self.keys[index])[0]]

    def subset(self, trials: Sequence[int] | np.ndarray) -> "PairedDataset":
        """The same pictures' trials with these indices (or this boolean mask)."""
        if np.size(trials) == 0 or len(chosen := np.arange(len(self))[np.asarray(trials)]) == 0:
            raise ValueError("The selection of trials is empty; choose at least one.")
        return self._with_epochs(self.epochs[chosen])

    @classmethod
    def concatenate(cls, parts: Sequence["PairedDataset"]) -> "PairedDataset":
        """The trials of several data sets (people, sessions) with the same channels, rate and window, in order.

        Raises ValueError where they differ, or one name stands for two pictures.
        """
        pictures = {}
        for part in parts:
            for name, picture in part.pictures.items():
                if not _same_picture(pictures.setdefault(name, picture), picture):
                    raise ValueError(f"{name!r} stands for two pictures; give the data sets one image root.")
        kinds = {part.pair_by for part in parts}
        if len(kinds) != 1:
            raise ValueError(
                f"Data sets to join need one pair_by; they have {', '.join(sorted(kinds)) or 'none'}."
            )
        new = object.__new__(cls)
        new.epochs, new.pair_by = concatenate_epochs([part.epochs for part in parts]), parts[0].pair_by
        new.keys, new.pictures = np.concatenate([part.keys for part in parts]), pictures
        new._candidates = {}
        for key, names in (item for part in parts for item in part._candidates.items()):
            known = new._candidates.setdefault(key, [])
            known += [name for name in names if name not in known]
        return new

    def by_stimulus(self, k: int | None = None, *, seed: int = 0) -> "PairedDataset":
        """Averages of k repeats of a key in signal space, before any encoder; k None averages all.

        Repeats are dealt to the averages at random; a remainder of fewer than k is left out. Several people's
        responses are averaged together: take each person's subset first where that is not meant.
        Metadata keep the columns that are constant over the trials averaged, and `n_averaged`.
        Raises ValueError when no key has k repeats.
        """
        if k is not None and k < 1:
            raise ValueError(f"An average is over one repeat or more; k is {k}.")
        rng = np.random.default_rng(seed)
        groups = []
        for key in dict.fromkeys(self.keys):
            trials = rng.permutation(np.flatnonzero(self.keys == key))
            size = k or len(trials)
            groups += [trials[i : i + size] for i in range(0, len(trials) - size + 1, size)]
        if not groups:
            most = int(pd.Series(self.keys).value_counts().max())
            raise ValueError(f"No {self.pair_by} has {k} repeats; the most is {most}. Ask for fewer.")
        return self.average(groups)

    def average(self, groups: Sequence[np.ndarray]) -> "PairedDataset":
        """Averages in signal space over groups of trials (indices), each of one key; metadata as `by_stimulus`.

        Raises ValueError for a group that is empty or has several keys.
        """
        for group in groups:
            if len(found := set(self.keys[group])) != 1:
                raise ValueError(
                    f"An average is over trials of one {self.pair_by}; a group has {len(found)}."
                )
        return self._with_epochs(_averages(self.epochs, list(groups)))

    def _with_epochs(self, epochs: mne.BaseEpochs) -> "PairedDataset":
        new = object.__new__(PairedDataset)
        new.epochs, new.pair_by, new.keys = epochs, self.pair_by, _keys(epochs, self.pair_by)
        present = set(new.keys)
        _check_all(list(dict.fromkeys(new.keys)), self._candidates, "picture", self.pictures)
        new._candidates = {key: names for key, names in self._candidates.items() if key in present}
        kept = {name for names in new._candidates.values() for name in names}
        new.pictures = {name: picture for name, picture in self.pictures.items() if name in kept}
        return new


def _keys(epochs: mne.BaseEpochs, pair_by: str) -> np.ndarray:
    metadata = epochs.metadata
    if metadata is None or not {"stimulus", "label"} & set(metadata):
        have = "no metadata" if metadata is None else f"only {', '.join(metadata) or 'no columns'}"
        raise ValueError(f"The epochs' metadata need a column 'stimulus' or 'label'; they have {have}.")
    if pair_by not in metadata:
        other = "label" if pair_by == "stimulus" else "stimulus"
        raise ValueError(f"The epochs' metadata have no {pair_by!r} but {other!r}; use pair_by={other!r}.")
    if len(metadata) == 0:
        raise ValueError("There are no epochs; at least one is needed.")
    if metadata[pair_by].isna().any():
        n_empty = int(metadata[pair_by].isna().sum())
        raise ValueError(f"{n_empty} of {len(metadata)} epochs have no {pair_by!r}; drop them first.")
    return metadata[pair_by].astype(str).to_numpy()


def _by_stimulus(keys: list[str], images: str | Path | Mapping) -> tuple[dict, dict[str, Picture]]:
    if isinstance(images, Mapping):
        pictures = {key: images[key] for key in keys if key in images}
    else:
        root = _folder(images)
        pictures = {key: root / key for key in keys if _inside(key) and (root / key).is_file()}
    _check_all(keys, pictures, "picture", images)
    return {key: [key] for key in keys}, pictures


def _by_label(keys: list[str], images: str | Path | Mapping) -> tuple[dict, dict[str, Picture]]:
    if isinstance(images, Mapping):
        single = [k for k in keys if isinstance(images.get(k), str | Path | np.ndarray)]
        if single:
            raise ValueError(f"The label {single[0]!r} has one picture; by label give a list of pictures.")
        found = {key: list(images[key]) for key in keys if key in images}
    else:
        root = _folder(images)
        found = {
            key: sorted(p for p in (root / key).glob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
            for key in keys
            if _inside(key)
        }
    _check_all(
        keys, {key: pictures for key, pictures in found.items() if pictures}, "folder of pictures", images
    )
    names = {key: _picture_names(key, found[key]) for key in keys}
    pictures = {name: p for key in keys for name, p in zip(names[key], found[key], strict=True)}
    return names, pictures


def _picture_names(label: str, pictures: Sequence[Picture]) -> list[str]:
    """Names of a label's pictures: their files', with the number in the list where two files share one."""
    files = [p.name if isinstance(p, Path) else None for p in pictures]
    numbered = [
        str(i) if name is None else name if files.count(name) == 1 else f"{i}_{name}"
        for i, name in enumerate(files)
    ]
    clash = len(set(numbered)) < len(numbered)  # a file may be called what a number gave another
    return [f"{label}/{i}_{name}" if clash else f"{label}/{name}" for i, name in enumerate(numbered)]


def _folder(images: str | Path) -> Path:
    root = Path(images)
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder of pictures {root}.")
    return root


def _inside(key: str) -> bool:
    """A stimulus names a file below the image root; one that leads out of it is no stimulus.

    The name is looked at, not where links lead: DataLad and git-annex keep pictures as links to elsewhere.
    """
    below = PurePath(os.path.normpath(key))
    return not below.anchor and ".." not in below.parts


def _check_all(keys: list[str], found: Mapping, what: str, images: object) -> None:
    missing = [key for key in keys if key not in found]
    if missing:
        where = "the dict" if isinstance(images, Mapping) else str(images)
        more = f" and {len(missing) - 1} more have" if len(missing) > 1 else " has"
        raise ValueError(f"{missing[0]!r}{more} no {what} in {where}; {len(keys)} are needed.")


def _same_picture(one: Picture, other: Picture) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one is other or np.array_equal(one, other)
    return str(one) == str(other)


def _averages(epochs: mne.BaseEpochs, groups: list[np.ndarray]) -> mne.EpochsArray | ArrayEpochs:
    """Means of groups of trials; a set on disk is read one group at a time."""
    rows = _shared_metadata(epochs.metadata, groups)
    if isinstance(epochs, ArrayEpochs):
        mean = np.stack([epochs[np.sort(g)].get_data(copy=False).mean(0, dtype=np.float64) for g in groups])
        return ArrayEpochs(mean.astype(np.float32), epochs.info, tmin=epochs.tmin, metadata=rows)
    data = epochs.get_data(copy=False)
    mean = np.stack([data[g].mean(0) for g in groups])
    averaged = mne.EpochsArray(mean, epochs.info, tmin=epochs.tmin, verbose="error")
    averaged.metadata = rows
    return averaged


def _shared_metadata(metadata: pd.DataFrame, groups: list[np.ndarray]) -> pd.DataFrame:
    """One row a group: what is the same for all of its trials, and how many they are."""
    sizes = [len(g) for g in groups]
    members = metadata.iloc[np.concatenate(groups)].reset_index(drop=True)
    same = members.groupby(np.repeat(np.arange(len(groups)), sizes)).nunique(dropna=False) == 1
    first = members.iloc[np.cumsum(sizes) - sizes].reset_index(drop=True)
    kept = first.astype(object).where(same[first.columns].to_numpy())
    return kept.dropna(axis=1, how="all").infer_objects().assign(n_averaged=sizes)
