"""Slopes of a score over latents: the methods that find one, and the algebra of cosines, halves, permutations."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import linalg

from brainedit.evaluation import permutation_p


class Ridge:
    """Ridge regression with a free intercept, for any number of targets through one factorisation.

    latents : (n, n_dims), centred. The penalty is n_dims x the mean variance of a latent dimension, so that
        it shrinks the same whatever the units; it equals n_dims for z from N(0, 1).

    Solved by Cholesky in the smaller of the n x n kernel and the n_dims x n_dims covariance.
    """

    def __init__(self, latents: np.ndarray):
        self.latents = latents
        self.alpha = latents.var(axis=0).sum()
        self.dual = latents.shape[0] <= latents.shape[1]
        gram = latents @ latents.T if self.dual else latents.T @ latents
        gram[np.diag_indices_from(gram)] += self.alpha
        self.factor = linalg.cholesky(gram, lower=True, overwrite_a=True)

    def coefficients(self, y: np.ndarray) -> np.ndarray:
        """Slopes (n_dims,) or (n_dims, k) for centred targets (n,) or (n, k)."""
        if self.dual:
            return self.latents.T @ linalg.cho_solve((self.factor, True), y)
        return linalg.cho_solve((self.factor, True), self.latents.T @ y)

    def held_out(self, y: np.ndarray) -> np.ndarray:
        """Each target (n, k) as predicted from all other images: leave-one-out, exact."""
        n = len(y)
        if self.dual:
            inverse = linalg.cho_solve((self.factor, True), np.eye(n))
            residual = self.alpha * (inverse @ y)
            leverage = 1 - self.alpha * np.diag(inverse)
        else:
            half = linalg.solve_triangular(self.factor, self.latents.T, lower=True)  # (n_dims, n)
            residual = y - half.T @ (half @ y)
            leverage = (half**2).sum(0)
        return y - residual / (1 - leverage - 1 / n)[:, None]


class MeanDifference:
    """Covariance of latents with relevance: the mean of relevant minus irrelevant images, softly."""

    def __init__(self, latents: np.ndarray):
        self.latents = latents

    def coefficients(self, y: np.ndarray) -> np.ndarray:
        """Covariances (n_dims,) or (n_dims, k) for centred targets (n,) or (n, k)."""
        return self.latents.T @ y / len(y)

    def held_out(self, y: np.ndarray) -> np.ndarray:
        """Each image (n, k) projected on the covariance of all others: leave-one-out, exact."""
        n = len(y)
        squares = (self.latents**2).sum(1, keepdims=True)
        # without image i the mean moves by x_i / (n - 1), and the sum of products by x_i y_i n / (n - 1)
        return self.latents @ (self.latents.T @ y) - squares * y * (n / (n - 1))


class _Refitted:
    """A method without a closed form for left-out images: fitted anew for each target and fold."""

    def __init__(self, latents: np.ndarray):
        self.latents = latents

    def fit(self, latents: np.ndarray, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def coefficients(self, y: np.ndarray) -> np.ndarray:
        if y.ndim == 1:
            return self.fit(self.latents, y)
        return np.stack([self.fit(self.latents, column) for column in y.T], axis=1)

    def held_out(self, y: np.ndarray) -> np.ndarray:
        """Each image (n, k) projected on the direction of four other fifths of the images."""
        from tqdm import tqdm

        folds = np.random.default_rng(0).permutation(len(y)) % 5
        projected = np.empty_like(y)
        for j in tqdm(range(y.shape[1]), desc="refitting in folds", delay=2):
            for fold in range(5):
                test = folds == fold
                slope = self.fit(self.latents[~test], y[~test, j])
                projected[test, j] = self.latents[test] @ slope + y[~test, j].mean()
        return projected


class SVR(_Refitted):
    """Linear epsilon-SVR with C = 1 and epsilon = .1, as in Davis et al., CVPR 2022; minutes at n = 2,000."""

    def fit(self, latents: np.ndarray, y: np.ndarray) -> np.ndarray:
        from sklearn.svm import SVR as SklearnSVR

        return SklearnSVR(kernel="linear", C=1.0, epsilon=0.1).fit(latents, y).coef_[0]


class Logistic(_Refitted):
    """Logistic regression on "above the mean relevance", images weighted by their distance from that mean.

    The penalty is that of Ridge (n_dims x mean variance) over 4, the curvature of the logistic loss at 0.
    """

    def fit(self, latents: np.ndarray, y: np.ndarray) -> np.ndarray:
        from sklearn.linear_model import LogisticRegression

        if np.ptp(y) == 0:  # a fold without contrast tells nothing
            return np.zeros(latents.shape[1])
        weights = np.abs(y - y.mean())
        weights /= weights.mean()
        penalty = latents.var(axis=0).sum() / 4
        return LogisticRegression(C=1 / penalty, max_iter=1000).fit(latents, y > y.mean(), weights).coef_[0]


METHODS: dict[str, Callable[[np.ndarray], Any]] = {
    "ridge": Ridge,
    "svr": SVR,
    "mean_difference": MeanDifference,
    "logistic": Logistic,
}


def unit(slope: np.ndarray, method: str) -> np.ndarray:
    length = np.linalg.norm(slope)
    if not length > 1e-12:
        raise ValueError(
            f"{method} found no direction: its slope is 0 (svr ignores differences of relevance below .1)."
        )
    return slope / length


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation, column by column."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0) + 1e-300)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each column of a with b."""
    return b @ a / (np.linalg.norm(a, axis=0) * np.linalg.norm(b) + 1e-300)


def band(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def spearman_brown(half: float) -> float:
    return 2 * half / (1 + abs(half))  # a negative cosine stays as negative as it is


def halves(rng: np.random.Generator, n: int, n_splits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _ in range(n_splits):
        order = rng.permutation(n)
        yield order[: n // 2], order[n // 2 :]


def slope_of(make: Callable[[np.ndarray], Any], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return make(x - x.mean(0)).coefficients(y - y.mean())


def contrast(targets: np.ndarray) -> np.ndarray:
    """Weights (n_trials, k) that take the mean over targets minus the mean over others."""
    return targets / targets.sum(0) - ~targets / (~targets).sum(0)


def permuted_within(rng: np.random.Generator, targets: np.ndarray, groups: np.ndarray, n: int) -> np.ndarray:
    """Labels (n_trials, n), each column permuted within the groups."""
    shuffled = np.repeat(targets[:, None], n, axis=1)
    for group in pd.unique(groups):
        rows = groups == group
        shuffled[rows] = rng.permuted(shuffled[rows], axis=0)
    return shuffled


def trial_controls(
    metadata: pd.DataFrame,
    targets: np.ndarray,
    eeg: np.ndarray,
    slopes: np.ndarray,
    latents: np.ndarray,
    n_permutations: int,
    seed: int,
) -> dict[str, Any]:
    """Strength of the direction against permuted target labels, and its agreement between halves of the trials.

    slopes : (n_latent_dims, n_dims), from a difference of EEG embeddings to a slope in the latents
    latents : (n_latents, n_latent_dims), centred prior samples
    """
    rng = np.random.default_rng(seed)
    groups = metadata["run"].to_numpy() if "run" in metadata else np.zeros(len(targets))
    labels = np.column_stack([targets, permuted_within(rng, targets, groups, n_permutations)])
    found = slopes @ (eeg.T @ contrast(labels))  # (n_latent_dims, 1 + n_permutations), the observed one first
    spread = linalg.qr(latents / np.sqrt(len(latents)), mode="r")[
        0
    ]  # |spread @ slope| is the SD of latents @ slope
    strength = np.linalg.norm(spread @ found, axis=0)
    half = _split_half_trials(rng, slopes, eeg, targets)
    return {
        "strength": float(strength[0]),
        "null_strength": float(strength[1:].mean()),
        "p": permutation_p(strength[0], strength[1:]),
        "null_band": band(cosine(found[:, 1:], found[:, 0])),
        "split_half": half,
        "split_half_full": spearman_brown(half),
        "n_permutations": n_permutations,
        "permuted_within": "run" if "run" in metadata else "all trials",
    }


def _split_half_trials(
    rng: np.random.Generator, slopes: np.ndarray, eeg: np.ndarray, targets: np.ndarray, n_splits: int = 100
) -> float:
    """Mean cosine between the directions of random halves of the trials, each with half of the targets."""
    cosines = []
    for _ in range(n_splits):
        first = np.zeros(len(targets), dtype=bool)
        for kind in (targets, ~targets):
            rows = rng.permutation(np.flatnonzero(kind))
            first[rows[: len(rows) // 2]] = True
        a, b = (slopes @ (eeg[rows].T @ contrast(targets[rows])) for rows in (first, ~first))
        cosines.append(cosine(a, b))
    return float(np.mean(cosines))
