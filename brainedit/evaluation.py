"""Scores that say what they are worth: value, n, chance, confidence interval, permutation p."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from brainedit._check import pick

_COUNTS = 2**22  # numbers of a bootstrap that are in memory at a time


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


@dataclass(frozen=True)
class PeopleScore(Score):
    """A mean over people; sd : the standard deviation between them (n - 1)."""

    sd: float = float("nan")

    def __str__(self) -> str:
        return super().__str__().replace(f"{self.value:.3f} (", f"{self.value:.3f} (SD {self.sd:.3f}, ", 1)


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
    null = np.array(
        [_auc(permuted(target, rng, within=within)[None], ranks)[0] for _ in range(n_permutations)]
    )
    low, high = auc_interval(target, score, units=units, n_bootstrap=n_bootstrap, rng=rng)
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

    low, high = bootstrap_interval(difference, len(target), None, n_bootstrap, rng)
    value = auc(target, first) - auc(target, second)
    return Score("difference of AUC", value, len(target), "trial", 0.0, low, high)


def accuracy_score(
    own: np.ndarray,
    chosen: np.ndarray,
    *,
    name: str = "accuracy",
    within: np.ndarray | None = None,
    unit: str = "trial",
    units: np.ndarray | None = None,
    n_permutations: int = 2000,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> Score:
    """Share of trials whose category was chosen, with a bootstrap interval and a permutation p.

    own, chosen : (n,) categories; chance is what permuted categories give, so unequal numbers are no gain
    within : (n,) group inside which categories were randomised; they are permuted inside it
    units : (n,) what the bootstrap draws anew, e.g. pictures or people; each trial by itself when None. Where
        `within` is None the permutation keeps to them too, see `permuted`
    """
    own, chosen = np.asarray(own), np.asarray(chosen)
    if len(own) == 0 or own.shape != chosen.shape:
        raise ValueError(
            f"Accuracy needs a choice for each of one or more trials; got {chosen.shape} for {own.shape}."
        )
    rng = np.random.default_rng(seed)
    null = np.array(
        [(permuted(own, rng, within=within, units=units) == chosen).mean() for _ in range(n_permutations)]
    )
    hit = own == chosen
    low, high = bootstrap_interval(lambda i: float(hit[i].mean()), len(hit), units, n_bootstrap, rng)
    return Score(
        name=name,
        value=float(hit.mean()),
        n=len(hit) if units is None else len(np.unique(units)),
        unit=unit,
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
    unit: str = "picture",
    units: np.ndarray | None = None,
    n_permutations: int = 2000,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> Score:
    """Share of responses whose own picture is among the k best of the gallery.

    A tie over the k-th place counts as the chance to win it, so that a constant F scores at chance.
    groups : (n,) the picture of each response, when pictures repeat; the permutation moves pictures, not
        responses (the responses to a picture move together)
    unit : what the interval draws anew: "picture", to speak of other pictures; "trial", of these pictures
        and people alone; "person", of other people who see these pictures
    units : (n,) the person of each response, for unit="person"

    Raises ValueError when F holds NaN, the responses of a group have several pictures, k exceeds the gallery,
    or the people are missing.
    """
    own = np.asarray(own)
    if not 1 <= k <= compatibility.shape[1]:
        raise ValueError(f"Top-k needs k from 1 to the gallery's {compatibility.shape[1]} pictures; got {k}.")
    groups = own if groups is None else np.asarray(groups)
    drawn = pick("unit", unit, {"picture": groups, "trial": np.arange(len(own)), "person": units})
    if (unit == "person") != (units is not None):
        came = "none came" if units is None else f"they came for unit={unit!r}"
        raise ValueError(f"An interval over people, and no other, needs each response's person; {came}.")
    hit = _hits(compatibility, own, k)
    rng = np.random.default_rng(seed)
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    column = own[first]
    if (column[inverse] != own).any():
        odd = groups[column[inverse] != own][0]
        raise ValueError(f"A group is the responses to one picture; group {str(odd)!r} has several.")

    def shuffled() -> float:
        return float(_hits(compatibility, rng.permutation(column)[inverse], k).mean())

    null = np.array([shuffled() for _ in range(n_permutations)])
    low, high = bootstrap_interval(lambda i: float(hit[i].mean()), len(hit), drawn, n_bootstrap, rng)
    return Score(
        name=f"top-{k} of {compatibility.shape[1]}",
        value=float(hit.mean()),
        n=len(np.unique(drawn)),
        unit=unit,
        chance=k / compatibility.shape[1],
        low=low,
        high=high,
        p=permutation_p(float(hit.mean()), null),
        n_permutations=n_permutations,
        permuted="which picture belongs to which response",
    )


def mean_over_people(
    scores: Mapping[str, Score], *, n_bootstrap: int = 10_000, n_permutations: int = 4095, seed: int = 0
) -> PeopleScore:
    """Mean of a score over people, with their standard deviation and an interval that draws people anew.

    scores : person -> the same score of each. p comes from flipping the signs of the differences to chance, all
        ways of it for up to twelve people

    Raises ValueError for fewer than two people, or scores of different names.
    """
    if len(scores) < 2:
        raise ValueError(
            f"A mean over people needs two or more of them; got {', '.join(map(str, scores)) or 'none'}."
        )
    names, chances = sorted({s.name for s in scores.values()}), [s.chance for s in scores.values()]
    if len(names) > 1:
        raise ValueError(
            f"A mean over people needs the same score of each; got {names[0]!r} and {names[1]!r}."
        )
    values, rng = np.array([s.value for s in scores.values()]), np.random.default_rng(seed)
    above, n = values - np.array(chances), len(values)
    null = (_sign_flips(n, n_permutations, rng) * above).mean(1)
    low, high = bootstrap_interval(lambda i: float(values[i].mean()), n, None, n_bootstrap, rng)
    return PeopleScore(
        name=f"mean over people: {names[0]}",
        value=float(values.mean()),
        n=n,
        unit="person",
        chance=float(np.mean(chances)),
        low=low,
        high=high,
        p=permutation_p(float(above.mean()), null),
        n_permutations=len(null),
        permuted="signs of the differences to chance",
        sd=float(values.std(ddof=1)),
    )


def permutation_p(value: float, null: np.ndarray) -> float:
    """(1 + permutations that reach the value) / (1 + permutations): never zero."""
    return float((1 + np.sum(np.asarray(null) >= value - 1e-12)) / (1 + len(null)))


def permuted(
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    within: np.ndarray | None = None,
    units: np.ndarray | None = None,
) -> np.ndarray:
    """Labels as they might have fallen if they meant nothing.

    within : (n,) group inside which labels were randomised; they stay inside it
    units : (n,) where all trials of a unit have one label (the repeats of a picture) the units swap their
        labels whole; where they do not (the trials of a person) labels stay inside their unit
    """
    if within is None and units is not None:
        _, first, inverse = np.unique(units, return_index=True, return_inverse=True)
        if (labels[first][inverse] == labels).all():
            return rng.permutation(labels[first])[inverse]
        within = units
    if within is None:
        return rng.permutation(labels)
    shuffled = labels.copy()
    for group in np.unique(within):
        inside = within == group
        shuffled[inside] = rng.permutation(labels[inside])
    return shuffled


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    n: int,
    units: np.ndarray | None,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Percentile interval of 95 % of a statistic of trial indices; whole units are drawn with replacement."""
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


def auc_interval(
    target: np.ndarray,
    score: np.ndarray,
    *,
    group: np.ndarray | None = None,
    units: np.ndarray | None = None,
    n_bootstrap: int = 2000,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Percentile interval of 95 % of an AUC: what `bootstrap_interval` gives for it, without a ranking for each draw.

    group : (n,) pairs of trials of one group alone count; all pairs when None
    """
    groups = [slice(None)] if group is None else [np.flatnonzero(group == k) for k in np.unique(group)]
    values = []
    for counts in _drawn_counts(len(target), units, n_bootstrap, rng):  # (n_draws, n)
        parts = [_pairs(counts[:, own], target[own], score[own]) for own in groups]
        right, pairs = (sum(part) for part in zip(*parts, strict=True))
        values.append(np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
    low, high = np.nanpercentile(np.concatenate(values), [2.5, 97.5])
    return float(low), float(high)


def _drawn_counts(
    n: int, units: np.ndarray | None, n_bootstrap: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """How often each trial is drawn, (n_draws, n) at a time, by the draws of `bootstrap_interval`."""
    unit = np.arange(n) if units is None else np.unique(units, return_inverse=True)[1]
    n_units = unit.max() + 1
    at_once = max(1, _COUNTS // n)
    for first in range(0, n_bootstrap, at_once):
        n_draws = min(at_once, n_bootstrap - first)
        drawn = [np.bincount(rng.integers(0, n_units, n_units), minlength=n_units) for _ in range(n_draws)]
        yield np.stack(drawn)[:, unit]


def _pairs(counts: np.ndarray, target: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of pairs of a target and another trial those in the right order, ties by half, and all of them; (n_draws,) each.

    counts : (n_draws, n) of each trial
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(score[order]) > 0))  # where a new value begins
    counts, wanted = counts[:, order], target[order]
    targets = np.add.reduceat(np.where(wanted, counts, 0), starts, axis=1)
    others = np.add.reduceat(np.where(wanted, 0, counts), starts, axis=1)
    below = others.cumsum(1) - others / 2
    return (targets * below).sum(1), targets.sum(1) * others.sum(1)


def _sign_flips(n: int, n_random: int, rng: np.random.Generator) -> np.ndarray:
    """Signs (n_flips, n), without the one that leaves all as they are where all are listed."""
    if n <= 12:
        return np.array(list(itertools.product([1, -1], repeat=n))[1:])
    return rng.choice([-1, 1], size=(n_random, n))


def _better_and_tied(compatibility: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many other pictures fit each response better than its own, and how many as well."""
    n, m = compatibility.shape
    if own.shape != (n,) or (n and not 0 <= own.min() <= own.max() < m):
        raise ValueError(
            f"Retrieval needs each response's own column of F {(n, m)}; got {own.shape} from "
            f"{own.min() if own.size else 'none'} to {own.max() if own.size else 'none'}."
        )
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


def _ranks(score: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(score)


def _auc(target: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    n_target = target.sum(1)
    n_other = target.shape[1] - n_target
    return (target @ ranks - n_target * (n_target + 1) / 2) / (n_target * n_other)


def _auc_or_nan(target: np.ndarray, score: np.ndarray) -> float:
    return float("nan") if target.all() or not target.any() else auc(target, score)
