"""Batches of trials and picture features for the training of the joint model."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from brainedit.datasets.paired import PairedDataset
from brainedit.distributed import barrier, is_main
from brainedit.eeg_input import CHUNK
from brainedit.encoders.features import image_features
from brainedit.joint import JointModel


def alike(dataset: PairedDataset) -> np.ndarray:
    """What trials share whose differences are noise: the picture (or label), and the person where there are several."""
    metadata = dataset.metadata
    if "subject" not in metadata or metadata["subject"].nunique() < 2:
        return dataset.keys
    return (metadata["subject"].astype(str) + "/" + pd.Series(dataset.keys, metadata.index)).to_numpy()


class PairBatches:
    """Called with an epoch's generator: the epoch's batches (whitened EEG, features, which pairs are same, person).

    A large set stays on disk: its prepared trials lie in a file that is mapped into memory.
    """

    def __init__(
        self,
        model: JointModel,
        dataset: PairedDataset,
        *,
        batch_size: int,
        average: bool,
        distort: list[str],
        progress: bool,
    ) -> None:
        eeg = model.prepare_eeg(dataset.epochs)
        self.device = model.device
        self.sketches = torch.from_numpy(model.eeg_input.sketch(eeg)).to(self.device)
        self.eeg = model.eeg_input.whitened(eeg)
        self.features = _features(model, dataset, distort=distort, progress=progress).to(self.device)
        self.person = _rows_of_people(model, dataset)
        names, self.key = np.unique(dataset.keys, return_inverse=True)
        position = {name: i for i, name in enumerate(dataset.pictures)}
        candidates = [[position[name] for name in dataset.candidates(key)] for key in names]
        self.n_candidates = np.array([len(some) for some in candidates])
        self.candidates = np.concatenate(candidates)
        self.unit = np.unique(alike(dataset), return_inverse=True)[1]
        self.batch_size = batch_size
        self.average = average and dataset.pair_by == "stimulus"

    def set_statistics(self, model: JointModel) -> None:
        """Give the model what it keeps of its training data: feature statistics and trial fingerprints."""
        model.towers.set_feature_statistics(self.features)
        model.sketches = self.sketches

    def __call__(self, generator: torch.Generator) -> Iterator[tuple]:
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        trials, starts, lengths = self._groups(rng)
        order = rng.permutation(len(starts))
        for first in range(0, len(order), self.batch_size):
            group = order[first : first + self.batch_size]
            key = self.key[trials[starts[group]]]
            if len(set(key)) > 1:
                eeg, rows = self._means(trials, starts[group], lengths[group])
                same = torch.from_numpy(key[:, None] == key[None]).to(self.device)
                person = None if self.person is None else self.person[rows]
                yield eeg, self.features[self._pictures(key, rng)], same, person

    def moments(self, design: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Sums over trials of design x design and of design x EEG, for a design (n_pictures, n_columns)."""
        row = self.candidates[(np.cumsum(self.n_candidates) - self.n_candidates)[self.key]]
        gram, cross = torch.zeros(design.shape[1], design.shape[1]).double(), 0.0
        for start in range(0, len(row), CHUNK):
            part = design[row[start : start + CHUNK]].cpu()
            gram += part.T @ part
            cross = cross + part.T @ self.eeg[start : start + CHUNK].flatten(1).double().cpu()
        return gram.numpy(), cross.numpy()

    def _groups(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Trials in the order of their groups, where each group starts, and how long it is.

        A group is a single trial; or each key's trials of a person are dealt into averages of a size drawn anew.
        """
        n = len(self.unit)
        if not self.average:
            return np.arange(n), np.arange(n), np.ones(n, int)
        _, unit, counts = np.unique(self.unit, return_inverse=True, return_counts=True)
        size = rng.integers(1, counts + 1)
        trials = np.lexsort((rng.random(n), unit))
        place = np.arange(n) - (np.cumsum(counts) - counts)[unit[trials]]
        starts = np.flatnonzero(place % size[unit[trials]] == 0)
        return trials, starts, np.diff(np.append(starts, n))

    def _means(
        self, trials: np.ndarray, starts: np.ndarray, lengths: np.ndarray
    ) -> tuple[Tensor, np.ndarray]:
        """The groups' mean EEG, and a trial of each."""
        firsts = trials[starts]
        if lengths.max() == 1:
            return self.eeg[firsts].to(self.device), firsts
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows = trials[np.repeat(starts, lengths) + offsets]
        owner = torch.from_numpy(np.repeat(np.arange(len(starts)), lengths))
        sums = torch.zeros((len(starts), *self.eeg.shape[1:])).index_add_(0, owner, self.eeg[rows].cpu())
        return (sums / torch.from_numpy(lengths)[:, None, None]).to(self.device), firsts

    def _pictures(self, key: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A picture of each key, drawn where it has several."""
        first = (np.cumsum(self.n_candidates) - self.n_candidates)[key]
        return self.candidates[first + rng.integers(self.n_candidates[key])]


def _features(model: JointModel, dataset: PairedDataset, *, distort: list[str], progress: bool) -> Tensor:
    """Of the pictures; the main process computes them, the others find them in the cache."""
    if not is_main():
        barrier()
    features = image_features(
        model.image_encoder, dataset.pictures, distort=distort, progress=progress and is_main()
    )
    if is_main():
        barrier()
    return features


def _rows_of_people(model: JointModel, dataset: PairedDataset) -> Tensor | None:
    """The row of each trial's person in the model's list, (n,); None for the mean map of people it does not know."""
    subjects = model.card["subjects"]
    if not subjects or "subject" not in dataset.metadata:
        return None
    row = {name: i for i, name in enumerate(subjects)}
    people = dataset.metadata["subject"].astype(str)
    if not people.isin(subjects).all():
        return None
    return torch.tensor([row[name] for name in people], device=model.device)
