"""Scores that say what they are worth: value, n, chance, confidence interval, permutation p."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """A figure and what is needed to judge it.

    unit : what the interval draws anew, e.g. "trial" or "picture"
    p : share of permutations that reach the value, None where none was run
    """

    name: str
    value: float
    n: int
    unit: str
    chance: float
    low: float
    high: float
    p: float | None = None
    n_permutations: int = 0
    permuted: str = ""

    def as_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        p = (
            ""
            if self.p is None
            else f", permutation p {'<' if self.p < 0.001 else '='} {max(self.p, 0.001):.3f}"
        )
        interval = f"95 % interval {self.low:.3f} to {self.high:.3f} over {self.n} {self.unit}s"
        return f"{self.name} {self.value:.3f} ({interval}; chance {self.chance:.3f}{p})"


def auc(target: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve; ties count half.

    Raises ValueError when one kind is missing, the lengths differ, or a score is NaN.
    """
    target, score = np.asarray(target, bool), np.asarray(score, float)
    if target.shape != score.shape or target.ndim != 1:
        raise ValueError(f"An AUC needs one score a trial; got targets {target.shape}, scores {score.shape}.")
    if np.isnan(score).any():
        raise ValueError(f"An AUC needs scores; {np.isnan(score).sum()} of {len(score)} are NaN.")
    if target.all() or not target.any():
        raise ValueError(f"An AUC needs targets and others; all {len(target)} trials are of one kind.")
    return float(_auc(target[None], _ranks(score))[0])


def auc_score(
    target: np.ndarray,
    score: np.ndarray,
    *,
    name: str = "AUC",
    within: np.ndarray | None = None,
    unit: str = "trial",
    units: np.ndarray | None = None,
    n_permutations: int = 2000,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> Score:
    """AUC with a bootstrap interval and a permutation p.

    target : (n,) bool; score : (n,), larger means target
    within : (n,) group inside which targets were randomised (a recording, a block); targets are permuted
        inside it
    units : (n,) what the bootstrap draws anew; each trial by itself when None
    """
    target, score = np.asarray(target, bool), np.asarray(score, float)
    value = auc(target, score)
    rng = np.random.default_rng(seed)
    ranks = _ranks(score)
    null = np.array([_auc(_permuted(target, within, rng)[None], ranks)[0] for _ in range(n_permutations)])
    low, high = _bootstrap(lambda i: _auc_or_nan(target[i], score[i]), len(target), units, n_bootstrap, rng)
    return Score(
        name=name,
        value=value,
        n=len(target) if units is None else len(np.unique(units)),
        unit=unit,
        chance=0.5,
        low=low,
        high=high,
        p=permutation_p(value, null),
        n_permutations=n_permutations,
        permuted="targets" if within is None else "targets within recordings or blocks",
    )


def auc_difference(
    target: np.ndarray, first: np.ndarray, second: np.ndarray, *, n_bootstrap: int = 2000, seed: int = 0
) -> Score:
    """AUC of `first` less AUC of `second` on the same trials; a paired bootstrap over trials."""
    target, first, second = np.asarray(target, bool), np.asarray(first), np.asarray(second)
    rng = np.random.default_rng(seed)

    def difference(i: np.ndarray) -> float:
        return _auc_or_nan(target[i], first[i]) - _auc_or_nan(target[i], second[i])

    low, high = _bootstrap(difference, len(target), None, n_bootstrap, rng)
    value = auc(target, first) - auc(target, second)
    return Score("difference of AUC", value, len(target), "trial", 0.0, low, high)


def accuracy_score(
    own: np.ndarray,
    chosen: np.ndarray,
    *,
    name: str = "accuracy",
    within: np.ndarray | None = None,
    n_permutations: int = 2000,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> Score:
    """Share of trials whose category was chosen, with a bootstrap interval over trials and a permutation p.

    own, chosen : (n,) categories; chance is what permuted categories give, so unequal numbers are no gain
    within : (n,) group inside which categories were randomised; they are permuted inside it
    """
    own, chosen = np.asarray(own), np.asarray(chosen)
    if len(own) == 0 or own.shape != chosen.shape:
        raise ValueError(
            f"Accuracy needs a choice for each of one or more trials; got {chosen.shape} for {own.shape}."
        )
    rng = np.random.default_rng(seed)
    null = np.array([(_permuted(own, within, rng) == chosen).mean() for _ in range(n_permutations)])
    hit = own == chosen
    low, high = _bootstrap(lambda i: float(hit[i].mean()), len(hit), None, n_bootstrap, rng)
    return Score(
        name=name,
        value=float(hit.mean()),
        n=len(hit),
        unit="trial",
        chance=float(null.mean()),
        low=low,
        high=high,
        p=permutation_p(float(hit.mean()), null),
        n_permutations=n_permutations,
        permuted="categories" if within is None else "categories within recordings",
    )


def proportion_score(hits: np.ndarray, *, name: str, chance: float, unit: str) -> Score:
    """Share of hits with the Clopper-Pearson interval and the one-sided binomial p against chance.

    hits : (n,) bool, independent
    """
    from scipy.stats import binomtest

    hits = np.asarray(hits, bool)
    if len(hits) == 0:
        raise ValueError(f"A share of hits needs at least one {unit}; there are 0.")
    test = binomtest(int(hits.sum()), len(hits), chance, alternative="greater")
    interval = binomtest(int(hits.sum()), len(hits), chance).proportion_ci(0.95, method="exact")
    return Score(
        name,
        float(hits.mean()),
        len(hits),
        unit,
        chance,
        float(interval.low),
        float(interval.high),
        test.pvalue,
    )


def retrieval_ranks(compatibility: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Rank of each trial's own picture in the gallery, 0 the best; ties count half.

    compatibility : (n, m), larger fits better; own : (n,) column of the own picture
    """
    better, tied = _better_and_tied(compatibility, own)
    return better + 0.5 * tied


def retrieval_score(
    compatibility: np.ndarray,
    own: np.ndarray,
    *,
    k: int = 1,
    groups: np.ndarray | None = None,
    n_permutations: int = 2000,
    seed: int = 0,
) -> Score:
    """Share of responses whose own picture is among the k best of the gallery.

    A tie over the k-th place counts as the chance to win it, so that a constant F scores at chance.
    groups : (n,) the picture of each response, when pictures repeat; interval and permutation then take
        pictures, not responses, as their unit (their responses move together)

    Raises ValueError when F holds NaN or the responses of a group have several pictures.
    """
    own = np.asarray(own)
    hit = _hits(compatibility, own, k)
    groups = own if groups is None else np.asarray(groups)
    rng = np.random.default_rng(seed)
    names, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    column = own[first]
    if (column[inverse] != own).any():
        odd = groups[column[inverse] != own][0]
        raise ValueError(f"A group is the responses to one picture; group {str(odd)!r} has several.")

    def shuffled() -> float:
        return float(_hits(compatibility, rng.permutation(column)[inverse], k).mean())

    null = np.array([shuffled() for _ in range(n_permutations)])
    low, high = _bootstrap(lambda i: float(hit[i].mean()), len(hit), groups, 2000, rng)
    return Score(
        name=f"top-{k} of {compatibility.shape[1]}",
        value=float(hit.mean()),
        n=len(names),
        unit="picture",
        chance=k / compatibility.shape[1],
        low=low,
        high=high,
        p=permutation_p(float(hit.mean()), null),
        n_permutations=n_permutations,
        permuted="which picture belongs to which response",
    )


def permutation_p(value: float, null: np.ndarray) -> float:
    """(1 + permutations that reach the value) / (1 + permutations): never zero."""
    return float((1 + np.sum(np.asarray(null) >= value - 1e-12)) / (1 + len(null)))


def _better_and_tied(compatibility: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many other pictures fit each response better than its own, and how many as well."""
    if np.isnan(compatibility).any():
        raise ValueError(
            f"Retrieval needs F; {np.isnan(compatibility).sum()} of {compatibility.size} are NaN."
        )
    value = compatibility[np.arange(len(own)), own][:, None]
    return (compatibility > value).sum(1), (compatibility == value).sum(1) - 1


def _hits(compatibility: np.ndarray, own: np.ndarray, k: int) -> np.ndarray:
    """Chance, (n,), that the own picture is among the k best when ties are broken at random."""
    better, tied = _better_and_tied(compatibility, own)
    return np.clip((k - better) / (tied + 1), 0, 1)


def _permuted(target: np.ndarray, within: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    if within is None:
        return rng.permutation(target)
    shuffled = target.copy()
    for group in np.unique(within):
        inside = within == group
        shuffled[inside] = rng.permutation(target[inside])
    return shuffled


def _ranks(score: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(score)


def _auc(target: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    n_target = target.sum(1)
    n_other = target.shape[1] - n_target
    return (target @ ranks - n_target * (n_target + 1) / 2) / (n_target * n_other)


def _auc_or_nan(target: np.ndarray, score: np.ndarray) -> float:
    return float("nan") if target.all() or not target.any() else auc(target, score)


def _bootstrap(
    statistic: Callable[[np.ndarray], float],
    n: int,
    units: np.ndarray | None,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Percentile interval of 95 %; whole units are drawn with replacement."""
    members = None if units is None else [np.flatnonzero(units == unit) for unit in np.unique(units)]
    values = []
    for _ in range(n_bootstrap):
        if members is None:
            drawn = rng.integers(0, n, n)
        else:
            drawn = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        values.append(statistic(drawn))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
