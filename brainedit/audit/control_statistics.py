"""The statistic of each claim on held-out evidence, and by how much each trial moves it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from brainedit.audit.control_evidence import FoldEvidence

N_BOOTSTRAP = 2000
MAX_KEPT_UNITS = 1000  # draws of more are not kept for the next interval


@dataclass(frozen=True)
class Measured:
    """A statistic and by how much each trial moves it (n,), the infinitesimal jackknife of its bootstrap."""

    value: float
    influence: np.ndarray
    tested: np.ndarray

    def by_unit(self, units: np.ndarray) -> np.ndarray:
        """Influence summed over the trials of each unit that was tested."""
        _, index = np.unique(units[self.tested], return_inverse=True)
        return np.bincount(index, self.influence[self.tested])

    def less(self, other: "Measured") -> "Measured":
        """The difference on the same trials."""
        return Measured(
            self.value - other.value, self.influence - other.influence, self.tested | other.tested
        )


def bootstrap_interval(value: float, influence: np.ndarray, seed: int) -> tuple[float, float]:
    """Percentile interval of 95 %: units drawn with replacement move the value by their influence."""
    n = len(influence)
    if n > MAX_KEPT_UNITS:
        moved = np.array([count @ influence for count in _draws(n, seed)])
    else:
        moved = _kept_draws(n, seed) @ influence
    low, high = value + np.percentile(moved, [2.5, 97.5])
    return float(low), float(high)


def _draws(n_units: int, seed: int) -> Iterator[np.ndarray]:
    """How often each unit is drawn, (n_units,), for each bootstrap sample."""
    rng = np.random.default_rng([seed, 5])
    for _ in range(N_BOOTSTRAP):
        yield np.bincount(rng.integers(0, n_units, n_units), minlength=n_units)


@lru_cache(maxsize=4)
def _kept_draws(n_units: int, seed: int) -> np.ndarray:
    return np.array(list(_draws(n_units, seed)), np.float64)


class PayoffMean:
    """Mean of what each trial's own column pays, e.g. the share of other columns that it beats.

    payoff : values (n, m) -> (n, m); chance : payoff (n, m), own (n,) -> (n,) what each trial gets by chance
    by_answer : answers (pictures) count alike, else trials do
    """

    def __init__(self, name: str, payoff: Callable, chance: Callable, *, by_answer: bool) -> None:
        self.name, self.table, self._chance, self.by_answer = name, payoff, chance, by_answer

    def value(self, tables: list, owns: list, folds: list[FoldEvidence]) -> float:
        paid, weight = self._paid(tables, owns, folds)
        return float(paid @ weight)

    def values(self, tables: list, owns: list, folds: list[FoldEvidence]) -> np.ndarray:
        """The statistic of many answers at once: own columns (n_many, n_test) for each fold."""
        return np.array([self.value(tables, list(own), folds) for own in zip(*owns, strict=True)])

    def measure(self, tables: list, owns: list, folds: list[FoldEvidence], n: int) -> Measured:
        paid, weight = self._paid(tables, owns, folds)
        rows = np.concatenate([fold.rows for fold in folds])
        value = float(paid @ weight)
        return Measured(
            value, np.bincount(rows, weight * (paid - value), n), np.bincount(rows, minlength=n) > 0
        )

    def chance(self, tables: list, owns: list, folds: list[FoldEvidence]) -> float:
        _, weight = self._paid(tables, owns, folds)
        expected = [self._chance(t, o) for t, o in zip(tables, owns, strict=True)]
        return float(np.concatenate(expected) @ weight)

    def _paid(self, tables: list, owns: list, folds: list[FoldEvidence]) -> tuple[np.ndarray, np.ndarray]:
        """What each tested trial is paid, and its weight; the weights sum to 1."""
        paid = [np.where(o >= 0, t[np.arange(len(o)), o], 0.0) for t, o in zip(tables, owns, strict=True)]
        answers = np.concatenate([fold.columns[own] for fold, own in zip(folds, owns, strict=True)])
        if not self.by_answer:
            return np.concatenate(paid), np.full(len(answers), 1 / len(answers))
        counts = np.bincount(answers)
        return np.concatenate(paid), 1 / (counts[answers] * np.count_nonzero(counts))


class MeanAUC:
    """AUC of each class against the rest, averaged over the classes of a fold, then over folds by their trials.

    A trial's values count relative to their mean, so that with two classes it is the AUC of their difference.
    """

    name = "AUC"

    def table(self, values: np.ndarray) -> np.ndarray:
        return _ranks(values - values.mean(1, keepdims=True))

    def chance(self, *_: object) -> float:
        return 0.5

    def value(self, tables: list, owns: list, folds: list[FoldEvidence]) -> float:
        means, n_trials = self._by_fold([_fold_auc(t, o) for t, o in zip(tables, owns, strict=True)], owns)
        return float(means @ n_trials / n_trials.sum()) if n_trials.any() else 0.5

    def values(self, tables: list, owns: list, folds: list[FoldEvidence]) -> np.ndarray:
        """The statistic of many answers at once: own columns (n_many, n_test) for each fold."""
        total, n_trials = np.zeros(len(owns[0])), np.zeros(len(owns[0]))
        for table, own in zip(tables, owns, strict=True):
            sums, n_classes = np.zeros(len(own)), np.zeros(len(own))
            for k in range(table.shape[1]):
                mine = (own == k).astype(float)
                n_own = mine.sum(1)
                n_pairs = n_own * (own.shape[1] - n_own)
                above = mine @ table[:, k] - n_own * (n_own + 1) / 2
                sums += np.divide(above, n_pairs, out=np.zeros(len(own)), where=n_pairs > 0)
                n_classes += n_pairs > 0
            total += own.shape[1] * np.divide(sums, n_classes, out=np.zeros(len(own)), where=n_classes > 0)
            n_trials += own.shape[1] * (n_classes > 0)
        return np.divide(total, n_trials, out=np.full(len(total), 0.5), where=n_trials > 0)

    def measure(self, tables: list, owns: list, folds: list[FoldEvidence], n: int) -> Measured:
        influence, tested = np.zeros(n), np.zeros(n, bool)
        found = [_fold_auc(table, own) for table, own in zip(tables, owns, strict=True)]
        means, n_trials = self._by_fold(found, owns)
        if not n_trials.any():
            raise ValueError(
                "An AUC needs two classes among a fold's test trials; every fold tests one. Take larger folds."
            )
        value = float(means @ n_trials / n_trials.sum())
        for table, own, fold, aucs, mean in zip(tables, owns, folds, found, means, strict=True):
            if len(aucs[0]):
                moved = _auc_influence(table, own, *aucs) + (mean - value) / len(own)
                np.add.at(influence, fold.rows, moved * len(own) / n_trials.sum())
                tested[fold.rows] = True
        return Measured(value, influence, tested)

    def _by_fold(self, found: list, owns: list) -> tuple[np.ndarray, np.ndarray]:
        """Mean AUC of each fold, and its trials (0 where the fold tests one class)."""
        means = np.array([aucs.mean() if len(aucs) else 0.5 for _, aucs in found])
        return means, np.array([len(own) if len(k) else 0 for own, (k, _) in zip(owns, found, strict=True)])


def _fold_auc(ranks: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes that a fold can test, and the AUC of each."""
    rows = np.flatnonzero(own >= 0)
    n_own = np.bincount(own[rows], minlength=ranks.shape[1])
    sums = np.bincount(own[rows], ranks[rows, own[rows]], ranks.shape[1])
    classes = np.flatnonzero((n_own > 0) & (n_own < len(own)))
    n_own, sums = n_own[classes], sums[classes]
    return classes, (sums - n_own * (n_own + 1) / 2) / (n_own * (len(own) - n_own))


def _auc_influence(ranks: np.ndarray, own: np.ndarray, classes: np.ndarray, aucs: np.ndarray) -> np.ndarray:
    """By how much each trial moves the mean AUC of its fold, (n_test,).

    Of a class: the share of others below each own trial, and of own trials above each other one. Its own trials also
    carry what sets the class apart from the mean, so that a block that is a whole class counts as one.
    """
    total = np.zeros(len(own))
    for k, auc in zip(classes, aucs, strict=True):
        mine = own == k
        others = np.flatnonzero(~mine)
        below = (ranks[mine, k] - _ranks(ranks[mine, k][:, None])[:, 0]) / len(others)
        above = 1 - (ranks[others, k] - _ranks(ranks[others, k][:, None])[:, 0]) / mine.sum()
        total[mine] += (below - auc + auc - aucs.mean()) / mine.sum()
        total[others] += (above - auc) / len(others)
    return total / len(classes)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value in its column, 1 the smallest; ties share their mean."""
    order = np.argsort(values, axis=0)
    in_order = np.take_along_axis(values, order, 0)
    if (in_order[1:] == in_order[:-1]).any():
        from scipy.stats import rankdata

        return rankdata(values, axis=0)
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, np.arange(1.0, len(values) + 1)[:, None], 0)
    return ranks


def _share_beaten(values: np.ndarray) -> np.ndarray:
    _check_gallery(values)
    return (_ranks(values.T).T - 1) / (values.shape[1] - 1)


def _check_gallery(values: np.ndarray) -> None:
    if values.shape[1] < 2:
        raise ValueError("A gallery needs two or more pictures in each fold; one has 1. Take larger folds.")


def _first_place(values: np.ndarray) -> np.ndarray:
    best = values == values.max(1, keepdims=True)
    return best / best.sum(1, keepdims=True)


def _own_less_others(values: np.ndarray) -> np.ndarray:
    """Each column less the mean of the others, in standard deviations of the trial's values."""
    centred = values - values.mean(1, keepdims=True)
    spread = np.maximum(centred.std(1, keepdims=True), 1e-300)
    _check_gallery(values)
    return np.where(spread > 1e-12 * np.abs(values).max(1, keepdims=True), centred / spread, 0) * (
        values.shape[1] / (values.shape[1] - 1)
    )


def _even(table: np.ndarray, own: np.ndarray) -> np.ndarray:
    return table.mean(1)


def _as_permuted(table: np.ndarray, own: np.ndarray) -> np.ndarray:
    """What a permutation of the fold's answers pays on average, so that unequal numbers are no gain."""
    shares = np.bincount(own[own >= 0], minlength=table.shape[1]) / len(own)
    return np.full(len(own), table.mean(0) @ shares)


TWO_AFC = PayoffMean("share of other pictures beaten (2AFC)", _share_beaten, _even, by_answer=True)
TOP_1 = PayoffMean("top-1", _first_place, _even, by_answer=True)
OWN_LESS_OTHERS = PayoffMean("D, own less other pictures (SD)", _own_less_others, _even, by_answer=True)
ACCURACY = PayoffMean("accuracy", _first_place, _as_permuted, by_answer=False)
AUC = MeanAUC()

STATISTICS = {
    "picture": (TWO_AFC, TOP_1),
    "category": (AUC, ACCURACY),
    "relevance": (AUC,),
    "direction": (AUC,),
    "map": (OWN_LESS_OTHERS, TWO_AFC),
}
