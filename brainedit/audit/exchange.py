"""What was randomised in an experiment, and how answers are permuted accordingly."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from brainedit.splits import recording_names, unit_names

MAX_STREAKS = 0.5  # of the number that a random order has


@dataclass(frozen=True)
class Exchange:
    """How answers are permuted: units (n,) that keep together, each within its stratum.

    pictures : answers are the pictures, each picture's trials get another picture's name together
    """

    unit: str
    text: str
    units: np.ndarray
    strata: np.ndarray
    pictures: bool = False

    def permute(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.pictures:
            present = np.unique(codes)
            return rng.permutation(present)[np.searchsorted(present, codes)]
        first, index = self._first
        stratum, label = self.strata[first], codes[first]
        shuffled = np.empty_like(label)
        shuffled[np.lexsort((np.arange(len(label)), stratum))] = label[
            np.lexsort((rng.random(len(label)), stratum))
        ]
        return shuffled[index]

    @cached_property
    def _first(self) -> tuple[np.ndarray, np.ndarray]:
        """A trial of each unit, and the unit of each trial."""
        _, first, index = np.unique(self.units, return_index=True, return_inverse=True)
        return first, index

    def n_arrangements(self, codes: np.ndarray) -> float:
        """How many different permutations there are; inf where they are too many to matter."""
        from scipy.special import gammaln

        if self.pictures:
            return _exp(gammaln(len(np.unique(codes)) + 1))
        first, _ = self._first
        log = 0.0
        for name in np.unique(self.strata):
            own = codes[first[self.strata[first] == name]]
            log += gammaln(len(own) + 1) - gammaln(np.bincount(own) + 1).sum()
        return _exp(log)


def _exp(log: float) -> float:
    return float(np.exp(log)) if log < 50 else np.inf


def exchange_of(metadata: pd.DataFrame, codes: np.ndarray, *, claim: str, disjoint: bool) -> Exchange:
    """The unit that was randomised, as the metadata tell.

    Pictures, where pictures are claimed and no fold has one on both sides (`disjoint`). Else people, sessions, runs
    or blocks whose trials share an answer, or streaks of one answer in time; answers of repeated pictures belong
    to pictures; else trials, within the recording.
    """
    n = len(codes)
    trials, one = np.arange(n), np.zeros(n, int)
    if claim in ("picture", "map") and disjoint:
        return Exchange("picture", "which picture belongs to which response", codes, one, pictures=True)
    for level in ("subject", "session", "run", "block"):
        units = _units(metadata, level)
        if units is not None and units.max() + 1 < n and _is_constant(codes, units):
            strata, where = _strata(metadata, codes, below=level)
            return Exchange(level, f"answers among {level}s{where}", units, strata)
    streaks = _streaks(metadata, codes)
    if streaks is not None:
        return Exchange("streak", "answers among streaks within recordings", streaks, recordings(metadata))
    if claim not in ("picture", "map") and "stimulus" in metadata and not metadata["stimulus"].isna().any():
        pictures = _coded(metadata["stimulus"].astype(str))
        if np.unique(codes).size < pictures.max() + 1 < n and _is_constant(codes, pictures):
            return Exchange("picture", "answers among pictures", pictures, one)
    strata, where = _strata(metadata, codes, below="block")
    return Exchange("trial", f"answers among trials{where}", trials, strata)


def _streaks(metadata: pd.DataFrame, codes: np.ndarray) -> np.ndarray | None:
    """Streaks of one answer (n,) where there are under half of what a random order has; None else."""
    if "onset" not in metadata or metadata["onset"].isna().any():
        return None
    recording = recordings(metadata)
    order = np.lexsort((metadata["onset"].to_numpy(float), recording))
    begins = np.append(True, (np.diff(codes[order]) != 0) | (np.diff(recording[order]) != 0))
    expected = 0.0
    for name in np.unique(recording):
        own = codes[recording == name]
        expected += 1 + (len(own) - 1) * (1 - np.sum((np.bincount(own) / len(own)) ** 2))
    if begins.sum() >= MAX_STREAKS * expected:
        return None
    streaks = np.empty(len(codes), int)
    streaks[order] = np.cumsum(begins)
    return streaks


def _units(metadata: pd.DataFrame, level: str) -> np.ndarray | None:
    if level not in metadata or metadata[level].isna().any():
        return None
    return _coded(unit_names(metadata, level))


def _strata(metadata: pd.DataFrame, codes: np.ndarray, *, below: str) -> tuple[np.ndarray, str]:
    """The smallest recordings above a level in which answers vary, and their name for a sentence."""
    levels = ("subject", "session", "run", "block")
    for level in reversed(levels[: levels.index(below)]):
        units = _units(metadata, level)
        if units is not None and units.max() > 0 and not _is_constant(codes, units):
            return units, f" within {level}s"
    return np.zeros(len(codes), int), ""


def _is_constant(codes: np.ndarray, units: np.ndarray) -> bool:
    """Whether the trials of each unit share one answer, and there are two units or more."""
    _, first = np.unique(units, return_index=True)
    return len(first) > 1 and bool((codes[first][units] == codes).all())


def _coded(names: np.ndarray) -> np.ndarray:
    return np.unique(np.asarray(names, str), return_inverse=True)[1]


def recordings(metadata: pd.DataFrame) -> np.ndarray:
    """A number for each trial's recording, (n,): its subject, session and run as far as they are known."""
    return _coded(recording_names(metadata))
