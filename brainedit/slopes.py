"""Slopes of a score over latents: the methods that find one, and the algebra of cosines, halves, permutations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import linalg
from threadpoolctl import threadpool_limits

from brainedit.evaluation import permutation_p


@dataclass(frozen=True)
class Factors:
    """Centred latents (n, n_dims) as left @ diag(singular) @ right.T, without the part that is zero.

    left : (n, rank), singular : (rank,), right : (n_dims, rank)
    """

    left: np.ndarray
    singular: np.ndarray
    right: np.ndarray

    @property
    def penalty(self) -> float:
        """n_dims x the mean variance of a latent dimension: shrinks alike whatever the units."""
        return float((self.singular**2).sum() / len(self.left))


def factorise(latents: np.ndarray) -> Factors:
    """The one factorisation that strengths, left-out images, permutations and halves share.

    Taken from the smaller of the n x n kernel and the n_dims x n_dims covariance.
    """
    n, n_dims = latents.shape
    dual = n <= n_dims
    gram = latents @ latents.T if dual else latents.T @ latents
    squares, vectors = np.linalg.eigh(gram)
    kept = squares > 1e-12 * max(squares[-1], 1e-300)
    singular, vectors = np.sqrt(squares[kept]), vectors[:, kept]
    other = (latents.T if dual else latents) @ vectors / singular
    return Factors(vectors, singular, other) if dual else Factors(other, singular, vectors)


class Ridge:
    """Ridge regression with a free intercept, for any number of targets through one factorisation.

    latents : (n, n_dims), centred
    strengths : penalties in multiples of `alpha`, n_dims x the mean variance of a latent dimension (n_dims
        for z from N(0, 1)). With several, each target takes the one of least generalised cross-validation
    ones : what the intercept's column became where images are weighted (n,); ones by default

    Source: Golub, Heath and Wahba, Technometrics 1979 (generalised cross-validation).
    """

    def __init__(
        self, latents: np.ndarray, *, strengths: Sequence[float] = (1.0,), ones: np.ndarray | None = None
    ):
        self.factors = factorise(latents)
        self.alpha = self.factors.penalty
        self.penalties = self.alpha * np.asarray(strengths, dtype=np.float64)
        self.ones = np.ones(len(latents)) if ones is None else ones

    def coefficients(self, y: np.ndarray) -> np.ndarray:
        """Slopes (n_dims,) or (n_dims, k) for centred targets (n,) or (n, k)."""
        columns = y.reshape(len(y), -1)
        scores = self.factors.left.T @ columns
        slopes = self.filters()[self.pick(scores, columns)].T * scores  # (rank, k)
        return (self.factors.right @ slopes).reshape(-1, *y.shape[1:])

    def held_out(self, y: np.ndarray) -> np.ndarray:
        """Each target (n, k) as predicted from all other images: leave-one-out, exact at its penalty."""
        scores = self.factors.left.T @ y
        index = self.pick(scores, y)
        shrink = self.filters() * self.factors.singular  # (n_penalties, rank)
        used, index = np.unique(index, return_inverse=True)
        leverage = (self.factors.left**2 @ shrink[used].T + self.intercept())[:, index]
        residual = y - self.factors.left @ (shrink[used][index].T * scores)
        return y - residual / (1 - leverage)

    def projected(self, y: np.ndarray) -> np.ndarray:
        """The same without the other images' mean, which is the lower the higher the image's own target (n, k)."""
        share = self.intercept()
        return self.held_out(y) + share / (1 - share) * y

    def intercept(self) -> np.ndarray:
        """Leverage (n, 1) of the intercept."""
        return (self.ones**2 / (self.ones**2).sum())[:, None]

    def penalty_of(self, y: np.ndarray) -> float:
        """The penalty that a target (n,) takes."""
        y = y[:, None]
        return float(self.penalties[self.pick(self.factors.left.T @ y, y)[0]])

    def halves(self, y: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Cosines (k,) between the slopes of the images in `first` (n, k) bool and of the others.

        All halves are solved at once, by conjugate gradients, at the penalty of the whole.
        """
        members = np.concatenate([first, ~first], axis=1).astype(np.float64)
        slopes = _solve_parts(self.factors, y, members, self.penalty_of(y), self.ones)
        return columns_cosine(*np.split(slopes, 2, axis=1))

    def filters(self) -> np.ndarray:
        """What each penalty (n_penalties, rank) multiplies scores by to give the slope; scores are left.T @ y."""
        return self.factors.singular / (self.factors.singular**2 + self.penalties[:, None])

    def pick(self, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Index (k,) of the penalty with the least generalised cross-validation."""
        if len(self.penalties) == 1:
            return np.zeros(y.shape[1], dtype=int)
        kept = 1 - self.filters() * self.factors.singular  # (n_penalties, rank)
        outside = np.maximum((y**2).sum(0) - (scores**2).sum(0), 0)
        freedom = len(self.factors.left) - 1 - (1 - kept).sum(1, keepdims=True)
        return ((kept**2 @ scores**2 + outside) / freedom**2).argmin(0)


def tuned_ridge(latents: np.ndarray, ones: np.ndarray | None = None) -> Ridge:
    """Ridge whose penalty each target chooses, from .01 to 1,000 times the usual one."""
    return Ridge(latents, strengths=np.logspace(-2, 3, 41), ones=ones)


def _solve_parts(
    factors: Factors, y: np.ndarray, members: np.ndarray, alpha: float, ones: np.ndarray
) -> np.ndarray:
    """Ridge slopes (rank, k) of k parts of the images, each centred on its own mean.

    members : (n, k), 1 for the images of a part
    """
    scores = factors.left * factors.singular  # (n, rank)
    held = members * ones[:, None]
    size = (held * ones[:, None]).sum(0)
    means = scores.T @ held  # (rank, k)
    rest = scores.T @ (members * y[:, None]) - means * ((held * y[:, None]).sum(0) / size)
    inverse = 1 / (np.outer(factors.singular**2, members.mean(0)) + alpha)  # the whole, at the part's size
    slopes, goal = np.zeros_like(rest), 1e-9 * (rest**2 * inverse).sum(0)
    step = inverse * rest
    gain = (rest * step).sum(0)
    for _ in range(10 * len(rest)):
        if (gain <= goal).all():
            break
        moved = scores.T @ (members * (scores @ step)) - means * ((means * step).sum(0) / size) + alpha * step
        length = gain / np.maximum((step * moved).sum(0), 1e-300)
        slopes += length * step
        rest -= length * moved
        ready = inverse * rest
        gain, before = (rest * ready).sum(0), gain
        step = ready + step * (gain / np.maximum(before, 1e-300))
    return slopes


class MeanDifference:
    """Covariance of latents with relevance: the mean of relevant minus irrelevant images, softly."""

    def __init__(self, latents: np.ndarray):
        self.latents = latents
        self.factors = factorise(latents)

    def filters(self) -> np.ndarray:
        """What scores (rank,), left.T @ y, are multiplied by to give the slope, (1, rank)."""
        return self.factors.singular[None] / len(self.latents)

    def pick(self, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Index (k,) of the filter of each target: there is one."""
        return np.zeros(y.shape[1], dtype=int)

    def coefficients(self, y: np.ndarray) -> np.ndarray:
        """Covariances (n_dims,) or (n_dims, k) for centred targets (n,) or (n, k)."""
        return self.latents.T @ y / len(y)

    def held_out(self, y: np.ndarray) -> np.ndarray:
        """Each image (n, k) projected on the covariance of all others: leave-one-out, exact."""
        n = len(y)
        squares = (self.latents**2).sum(1, keepdims=True)
        # without image i the mean moves by x_i / (n - 1), and the sum of products by x_i y_i n / (n - 1)
        return self.latents @ (self.latents.T @ y) - squares * y * (n / (n - 1))

    projected = held_out

    def halves(self, y: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Cosines (k,) between the covariances of the images in `first` (n, k) bool and of the others."""
        a, b = (
            self.latents.T @ (part * (y[:, None] - (part.T @ y / part.sum(0))))
            for part in (first.astype(np.float64), (~first).astype(np.float64))
        )
        return columns_cosine(a, b)


class _Refitted:
    """A method without a closed form for left-out images: fitted anew for each target and fold."""

    def __init__(self, latents: np.ndarray):
        self.latents = latents

    def fit(self, latents: np.ndarray, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def coefficients(self, y: np.ndarray) -> np.ndarray:
        """Slopes (n_dims,) or (n_dims, k) for centred targets (n,) or (n, k)."""
        if y.ndim == 1:
            return self.fit(self.latents, y)
        return np.stack([self.fit(self.latents, column) for column in y.T], axis=1)

    def projected(self, y: np.ndarray) -> np.ndarray:
        """Each image (n, k) projected on the direction of four other fifths of the images, less their mean."""
        from tqdm import tqdm

        x, folds = self.latents, np.random.default_rng(0).permutation(len(y)) % 5
        found = np.empty_like(y)
        for j in tqdm(range(y.shape[1]), desc="refitting in folds", delay=2):
            for fold in range(5):
                test = folds == fold
                slope = self.fit(x[~test], y[~test, j])
                found[test, j] = (x[test] - x[~test].mean(0)) @ slope
        return found

    def halves(self, y: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Cosines (k,) between the slopes of the images in `first` (n, k) bool and of the others."""
        x, found = self.latents, np.zeros(first.shape[1])
        with threadpool_limits(1, user_api="blas"):  # halves are too small to gain from threads, which spin
            for j, rows in enumerate(first.T):
                a, b = (self.fit(x[r] - x[r].mean(0), y[r] - y[r].mean()) for r in (rows, ~rows))
                found[j] = cosine(a, b)
        return found


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
    "ridge": tuned_ridge,
    "ridge_fixed": Ridge,
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


def columns_cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each column of a with the same column of b."""
    return (a * b).sum(0) / (np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0) + 1e-300)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each column of a with b."""
    return b @ a / (np.linalg.norm(a, axis=0) * np.linalg.norm(b) + 1e-300)


def band(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def spearman_brown(half: float) -> float:
    return 2 * half / (1 + abs(half))  # a negative cosine stays as negative as it is


def halves(rng: np.random.Generator, n: int, n_splits: int) -> np.ndarray:
    """Random halves of n images, (n, n_splits) bool, true for the first half."""
    return rng.permuted(np.repeat((np.arange(n) < n // 2)[:, None], n_splits, axis=1), axis=0)


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
