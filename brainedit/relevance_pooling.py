"""Relevance of each picture from trial scores: repeats and people pooled, reliable people more if wanted."""

import logging

import numpy as np
import pandas as pd

from brainedit._check import pick

N_WEIGHT_FOLDS = 10

logger = logging.getLogger(__name__)


def pool_relevance(
    trials: pd.DataFrame,
    *,
    by: str = "stimulus",
    weights: pd.Series | str | None = None,
    how: str = "log_odds",
    seed: int = 0,
) -> pd.Series:
    """Relevance of each picture, 0 to 1: the mean of its trials' log-odds, over repeats and people.

    trials : as `score_trials` gives them; several people's tables may be concatenated. Give one task's: those of
        several are pooled as they are, with a warning
    weights : weight of each subject, 0 or more, indexed by subject; all equal when None. "reliability" estimates
        them from how well each person's scores tell targets on other pictures, see `reliability_weights`
    how : "log_odds", or "mean" for the plain mean of probabilities, the reference (Brainsourcing, CHI 2020)

    Raises ValueError when the trials do not name the picture, a probability is missing, or a subject has no weight.
    """
    _check(trials, by)
    tasks = trials["task"].dropna().unique() if "task" in trials else []
    if len(tasks) > 1:
        logger.warning(
            "Trials of %d tasks are pooled (%s, ...), though a picture may be a target in one of them alone; give one "
            "task's, such as trials[trials['task'] == %r].",
            len(tasks),
            tasks[0],
            tasks[0],
        )
    if how == "mean":
        values = trials["probability"]
    else:
        p = trials["probability"].clip(1e-9, 1 - 1e-9)
        values = pick("how", how, {"log_odds": np.log(p / (1 - p))})
    weight = pd.Series(1.0, index=trials.index)
    if isinstance(weights, str):
        own = pick("weights", weights, {"reliability": reliability_weights})(trials, by=by, seed=seed)
        weight = pd.Series(own, index=trials.index)
    elif weights is not None:
        weights = _checked_weights(weights)
        if "subject" not in trials:
            raise ValueError("Weights are those of subjects, and the trials do not name theirs.")
        missing = sorted(set(trials["subject"]) - set(weights.index))
        if missing:
            raise ValueError(f"Subject {missing[0]!r} and {len(missing) - 1} more have no weight.")
        weight = trials["subject"].map(weights)
    sums = pd.DataFrame({"x": values * weight, "w": weight}).groupby(trials[by]).sum()
    if not (sums["w"] > 0).all():
        raise ValueError(
            f"{sums.index[~(sums['w'] > 0)][0]!r} was seen by people of weight 0 alone; leave it out, or weigh them."
        )
    pooled = sums["x"] / sums["w"]
    return (pooled if how == "mean" else 1 / (1 + np.exp(-pooled))).rename("relevance")


def _checked_weights(weights: pd.Series) -> pd.Series:
    values = pd.Series(weights, dtype=float)
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        raise ValueError(
            f"A weight is a number of 0 or more; {values.index[bad][0]!r} has {values[bad].iloc[0]}."
        )
    return values


def reliability_weights(trials: pd.DataFrame, *, by: str = "stimulus", seed: int = 0) -> np.ndarray:
    """Weight of each trial, (n,): its person's reliability on pictures other than the trial's own.

    Pictures are dealt into ten parts; what weighs a part comes from the other nine. A person's reliability is the slope
    that would calibrate the log-odds there (difference of the means of targets and others, over their variance;
    1 where they are calibrated, 0 where they say nothing), drawn towards the people's mean by how uncertain it is
    (empirical Bayes) and never negative. Where nobody is reliable all weigh the same, with a warning.

    Raises ValueError for a single subject, one picture, or a subject without targets or others beside a part.
    Source: the weights of a sum of independent Gaussian scores; variance between people: DerSimonian & Laird 1986.
    """
    _check(trials, by)
    if (
        "subject" not in trials
        or "target" not in trials
        or trials[["subject", "target"]].isna().any(axis=None)
    ):
        raise ValueError("Weights by reliability need 'subject' and 'target' for every trial.")
    person, people = pd.factorize(trials["subject"].astype(str), sort=True)
    pictures, names = pd.factorize(trials[by].astype(str), sort=True)
    if len(people) < 2 or len(names) < 2:
        raise ValueError(
            f"Weights by reliability need two or more people and pictures; got {len(people)} and {len(names)}."
        )
    order = np.random.default_rng(seed).permutation(len(names))
    n_parts = min(N_WEIGHT_FOLDS, len(names))
    part = np.argsort(order)[pictures] % n_parts
    p = trials["probability"].clip(1e-9, 1 - 1e-9).to_numpy()
    log_odds, target = np.log(p / (1 - p)), trials["target"].to_numpy(bool)
    weight = np.empty(len(trials))
    for k in range(n_parts):
        other = part != k
        slopes = [
            _slope(log_odds[other & own], target[other & own], name) for own, name in _own(person, people)
        ]
        weight[~other] = np.maximum(_shrunk(*np.array(slopes).T), 0.0)[person[~other]]
    return _or_equal(weight, pictures)


def _own(person: np.ndarray, people: pd.Index):
    return [(person == i, name) for i, name in enumerate(people)]


def _slope(log_odds: np.ndarray, target: np.ndarray, name: str) -> tuple[float, float]:
    """Slope that calibrates a person's log-odds, and its sampling variance."""
    n_target, n_other = int(target.sum()), int((~target).sum())
    if min(n_target, n_other) < 2:
        raise ValueError(
            f"Weights by reliability need two targets and two others of each person on the other pictures; {name!r} "
            f"has {n_target} and {n_other}."
        )
    difference = log_odds[target].mean() - log_odds[~target].mean()
    deviations = np.where(target, log_odds - log_odds[target].mean(), log_odds - log_odds[~target].mean())
    variance = max(deviations @ deviations / (len(target) - 2), 1e-12)
    slope = difference / variance
    return slope, (1 / n_target + 1 / n_other) / variance + 2 * slope**2 / (len(target) - 2)  # delta method


def _shrunk(slope: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Slopes drawn towards their mean: the less, the more people differ beyond sampling."""
    precision = 1 / variance
    mean = precision @ slope / precision.sum()
    excess = precision @ (slope - mean) ** 2 - (len(slope) - 1)
    between = max(0.0, excess / (precision.sum() - (precision**2).sum() / precision.sum()))
    total = 1 / (variance + between)
    mean = total @ slope / total.sum()
    return mean + (slope - mean) * between / (between + variance)


def _or_equal(weight: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The weights, but equal ones for pictures of which no viewer is reliable."""
    lost = np.bincount(picture, weight)[picture] <= 0
    if lost.any():
        logger.warning(
            "Nobody who saw them is reliable on the other pictures for %d of %d pictures; all weigh the same there.",
            len(np.unique(picture[lost])),
            len(np.unique(picture)),
        )
    return np.where(lost, 1.0, weight)


def _check(trials: pd.DataFrame, by: str) -> None:
    if by not in trials or trials[by].isna().any():
        raise ValueError(f"Pooling by {by!r} needs that column filled in the trial scores.")
    if not len(trials) or "probability" not in trials:
        raise ValueError(
            f"Pooling needs trials with a probability each; there are {len(trials)}, with "
            f"{', '.join(map(str, trials.columns))}."
        )
    missing = trials["probability"].isna().sum()
    if missing:
        raise ValueError(f"Pooling needs a probability of each trial; {missing} of {len(trials)} are NaN.")
    low, high = trials["probability"].min(), trials["probability"].max()
    if not 0 <= low <= high <= 1:
        raise ValueError(f"Probabilities lie between 0 and 1; these go from {low:.3g} to {high:.3g}.")
