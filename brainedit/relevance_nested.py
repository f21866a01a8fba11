"""What is decided inside the training trials of a fold: which classifier, and how its scores become log-odds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from brainedit.erp_classifiers import Scorer
from brainedit.evaluation import auc

N_INNER_FOLDS = 5

Calibration = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class FoldScorer:
    """Scores one fold's test trials by what its training trials decide; the test trials decide nothing.

    scorers : the classifier, or the candidates, by name; of several the one with the highest AUC on inner folds
        is taken and fitted anew on all training trials
    averaged : names of candidates whose mean, each in units of its inner scores' standard deviation, is a
        candidate too
    is_target, unit, recording : (n,) of all trials; inner folds leave out units as the outer ones do
    calibrate : "none", or a name in CALIBRATIONS
    center : take away the mean of the scores that are given together (inner folds too)
    """

    scorers: Mapping[str, Scorer]
    averaged: tuple[str, ...] = ()
    is_target: np.ndarray
    unit: np.ndarray
    recording: np.ndarray
    calibrate: str = "none"
    center: bool = True
    seed: int = 0

    def __call__(self, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, str]:
        """Log-odds (n_test,) and the name of the classifier, for indices of training and test trials."""
        if len(self.scorers) == 1 and self.calibrate == "none":
            (name,) = self.scorers
            return self._scores(name, train, test), name
        held_out = {name: self._held_out(name, train) for name in self.scorers}
        spread = {name: max(values.std(), 1e-12) for name, values in held_out.items()}
        parts = {name: {name: 1.0} for name in self.scorers}
        if self.averaged:
            mean = " + ".join(self.averaged)
            parts[mean] = {name: 1 / spread[name] for name in self.averaged}
            held_out[mean] = sum(held_out[name] * weight for name, weight in parts[mean].items())
        wanted = self.is_target[train]
        name = max(held_out, key=lambda name: auc(wanted, held_out[name]))
        values = sum(self._scores(part, train, test) * weight for part, weight in parts[name].items())
        if self.calibrate != "none":
            values = CALIBRATIONS[self.calibrate](held_out[name], wanted)(values)
        return values, name

    def _scores(self, name: str, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        values = self.scorers[name](train, self.is_target[train], test)
        return values - values.mean() if self.center else values

    def _held_out(self, name: str, train: np.ndarray) -> np.ndarray:
        """Scores (n_train,) of training trials by models that have seen neither them nor the test trials."""
        values = np.zeros(len(train))
        unit, recording, wanted = self.unit[train], self.recording[train], self.is_target[train]
        for inside in inner_folds(unit, recording, wanted, seed=self.seed):
            values[inside] = self._scores(name, train[~inside], train[inside])
        return values


def inner_folds(
    unit: np.ndarray, recording: np.ndarray, is_target: np.ndarray, *, seed: int = 0
) -> list[np.ndarray]:
    """Parts of training trials, each (n,) bool and with trials of both kinds; whole units stay together.

    Five parts or as many as there are, down to two. Where units do not make two such parts (one run is left to train
    on) recordings are the units, then five or fewer stretches of neighbouring trials.

    Raises ValueError when even those do not.
    """
    rng = np.random.default_rng(seed)
    for names in (unit, recording):
        number = _numbered(names, is_target, rng)
        for n_parts in range(min(N_INNER_FOLDS, number.max() + 1), 1, -1):
            parts = [number % n_parts == k for k in range(n_parts)]
            if _all_have_both(parts, is_target):
                return parts
    for n_parts in range(N_INNER_FOLDS, 1, -1):
        stretch = np.arange(len(is_target)) * n_parts // len(is_target)
        parts = [stretch == k for k in range(n_parts)]
        if _all_have_both(parts, is_target):
            return parts
    raise ValueError(
        f"{is_target.sum()} targets among {len(is_target)} training trials do not make two inner folds with both "
        "kinds of trials; choose and calibrate on more trials."
    )


def platt(held_out: np.ndarray, is_target: np.ndarray) -> Calibration:
    """Scores -> log-odds at equal priors: a logistic curve through scores of trials that were held out.

    The slope is never negative: scores that say nothing become 0, not their opposite.
    Source: Platt 1999, with soft labels. Differs: both kinds weigh the same, labels are equally soft.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    weight, wanted = _balanced(is_target)
    scale = max(held_out.std(), 1e-12)
    x = held_out / scale

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        z = line[0] * x + line[1]
        slope = weight * (expit(z) - wanted)
        return weight @ (np.logaddexp(0, z) - wanted * z), np.array([slope @ x, slope.sum()])

    found = minimize(loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)])
    slope, offset = found.x[0] / scale, found.x[1]
    return lambda values: slope * values + offset


def isotonic(held_out: np.ndarray, is_target: np.ndarray) -> Calibration:
    """Scores -> log-odds at equal priors: the best curve that never falls, through scores that were held out.

    Source: Zadrozny & Elkan, KDD 2002. Differs: labels are soft as in `platt`, so that log-odds stay finite.
    """
    from scipy.special import logit
    from sklearn.isotonic import IsotonicRegression

    weight, wanted = _balanced(is_target)
    curve = IsotonicRegression(out_of_bounds="clip").fit(held_out, wanted, sample_weight=weight)
    return lambda values: logit(curve.predict(values))


CALIBRATIONS: dict[str, Callable[[np.ndarray, np.ndarray], Calibration]] = {
    "platt": platt,
    "isotonic": isotonic,
}


def _balanced(is_target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n,) that give both kinds a half each, and labels (n,) that are not quite 0 and 1."""
    n_target, n_other = is_target.sum(), (~is_target).sum()
    soft = 1 / (min(n_target, n_other) + 2)
    return np.where(is_target, 0.5 / n_target, 0.5 / n_other), np.where(is_target, 1 - soft, soft)


def _numbered(names: np.ndarray, is_target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The number of each trial's unit, (n,): by the share of targets, so that parts get units of all shares."""
    _, unit = np.unique(names.astype(str), return_inverse=True)
    share = np.bincount(unit, is_target) / np.bincount(unit)
    order = np.lexsort((rng.random(len(share)), share))
    rank = np.empty(len(share), int)
    rank[order] = np.arange(len(share))
    return rank[unit]


def _all_have_both(parts: list[np.ndarray], is_target: np.ndarray) -> bool:
    return all(is_target[part].any() and not is_target[part].all() for part in parts)
