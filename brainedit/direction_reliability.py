"""How far to trust a direction: permutations, halves, images left out, and the cosine to the truth."""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainedit.evaluation import auc, permutation_p
from brainedit.expected_cosine import cosine_curve, draw_truths
from brainedit.relevance_inputs import HIERARCHICAL, group_means, joined, prepared
from brainedit.slopes import (
    METHODS,
    Factors,
    MeanDifference,
    Ridge,
    band,
    correlation,
    cosine,
    factorise,
    halves,
    spearman_brown,
    unit,
)

_logger = logging.getLogger(__name__)

_SIZES = np.geomspace(1 / 16, 4096, 33)  # of the learning curve, in multiples of the number of images
_SURE = 0.05


@dataclass(frozen=True)
class LooksNeeded:
    """How many images, each looked at as often as these, give a wanted cosine to the truth on average.

    n : in all; low, high : its 95 % interval. Infinite where more than 4,096 times as many do not suffice, and a
        sixteenth of these at least
    more : besides those that were looked at; 0 where these suffice
    """

    cosine: float
    n: float
    low: float
    high: float
    more: float = float("nan")


@dataclass(frozen=True)
class DirectionReliability:
    """How far a direction found from relevance can be trusted.

    strength : correlation between relevance and its prediction when the picture is left out
    p : share of permuted relevances that reach this strength (never 0: (1 + count) / (1 + permutations))
    auc : pictures above the median relevance against the others, told by the prediction from pictures left out
    split_half : mean cosine between the directions of two random halves of the images
    split_half_full : the same by Spearman-Brown at all n images; about the square of the cosine to the truth
    predicted_cosine : cosine to the direction that infinitely many such images would give, the median given the data
    predicted_interval : 95 % interval of that cosine; it reaches down to the null band where p is .05 or more
    null_band : 2.5 and 97.5 % points of the cosine between permuted directions and this one
    learning_curve : number of images, and the cosine to the truth expected of them: median and 95 % interval
    n, n_images : units that count (groups, or images), and images
    """

    method: str
    n: int
    strength: float
    null_strength: float
    p: float
    split_half: float
    split_half_full: float
    null_band: tuple[float, float]
    n_permutations: int
    n_splits: int
    auc: float
    predicted_cosine: float
    predicted_interval: tuple[float, float]
    learning_curve: dict[str, list[float]]
    n_null: int
    n_images: int

    def looks_needed(self, wanted: float) -> LooksNeeded:
        """How many images of this kind give a wanted cosine to the truth.

        Each image is as noisy as these: looked at as often, by as many people. Looks at other images only;
        more looks at the same ones help less.

        Raises ValueError when the wanted cosine is not between 0 and 1.
        """
        if not 0 < wanted < 1:
            raise ValueError(f"A wanted cosine lies between 0 and 1; got {wanted:g}.")
        curve = {key: np.array(values) for key, values in self.learning_curve.items()}
        n, fast, slow = (_crossing(curve["n"], curve[key], wanted) for key in ("cosine", "high", "low"))
        return LooksNeeded(wanted, n, fast, slow, max(0.0, n - self.n))


def reliability(
    latents: pd.DataFrame,
    relevance: pd.Series | pd.DataFrame,
    *,
    method: str = "ridge",
    groups: pd.Series | None = None,
    n_permutations: int = 1000,
    n_null: int = 10_000,
    n_splits: int = 50,
    seed: int = 0,
) -> DirectionReliability:
    """Is there a direction at all, would other images give the same one, and how near is it to the truth?

    Pictures are the unit: relevance is permuted over them, and they are split in halves. There is no split by
    people: people who saw the same pictures agree on what is special to these, so their agreement tells
    nothing of other pictures (.90 where the cosine to the truth is .42).

    groups : group of each stimulus, where pictures are no independent draws (nearly the same face, one
        cluster of latents). A group then counts as one picture, its mean; the direction stays that of all
    n_null : permuted directions in the null band
    method : all of `brain_direction`. For "ridge" and "mean_difference" all is a few matrix products; "svr"
        and "logistic" are refitted for each permutation (5 folds) and half, and n_null is n_permutations

    The predicted cosine takes the latents as drawn at random and the relevance of each picture as noisy on its
    own. Bias and coverage were measured on simulations only: `benchmarks/direction_truth.py`.
    Raises ValueError as `brain_direction` does, and for groups that miss a stimulus or are fewer than 10.
    Source: `expected_cosine`. Differs: no root of the corrected split-half cosine, which errs more, and for
    latents of unequal variance repeats the penalty's bias.
    """
    if min(n_permutations, n_splits, n_null) < 1:
        raise ValueError(
            f"Need 1 or more permutations, null draws and splits; got {n_permutations}, {n_null}, {n_splits}."
        )
    fit, y = prepared(latents, relevance, method)
    found = unit(fit.coefficients(y), method)
    n_images = len(y)
    if groups is None:
        _warn_of_twins(latents)
    else:
        fit, y = _of_groups(latents, relevance, groups, method)
    rng = np.random.default_rng(seed)
    left_out = fit.projected(y[:, None])
    strength = float(correlation(left_out, y[:, None])[0])
    shuffled = _permuted(rng, y, n_permutations)
    null = correlation(fit.projected(shuffled), shuffled)
    half = float(np.mean(fit.halves(y, halves(rng, len(y), n_splits))))
    p = permutation_p(strength, null)
    null_cosines = _null_cosines(fit, found, y, shuffled, n_null, rng)
    null_band = band(null_cosines)
    return DirectionReliability(
        method=method,
        n=len(y),
        strength=strength,
        null_strength=float(null.mean()),
        p=p,
        split_half=half,
        split_half_full=spearman_brown(half),
        null_band=null_band,
        n_permutations=n_permutations,
        n_splits=n_splits,
        auc=_auc(y, left_out[:, 0]),
        n_null=len(null_cosines),
        n_images=n_images,
        **_prediction(fit, found, y, rng, floor=null_band[0] if p >= _SURE else None),
    )


def _crossing(n: np.ndarray, curve: np.ndarray, wanted: float) -> float:
    """Where a growing curve first reaches the wanted value; infinite where it never does."""
    above = np.flatnonzero(curve >= wanted)
    if not len(above):
        return float("inf")
    if above[0] == 0:
        return float(n[0])
    i = above[0]
    part = (wanted - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(np.exp(np.log(n[i - 1]) + part * np.log(n[i] / n[i - 1])))


def _warn_of_twins(latents: pd.DataFrame) -> None:
    """Images with the same latents are in both halves and on both sides of left-out: all figures flatter."""
    twins = int(latents.duplicated().sum())
    if twins:
        _logger.warning(
            "%d of %d images have the latents of another one. They are not independent: pass groups=.",
            twins,
            len(latents),
        )


def _of_groups(
    latents: pd.DataFrame, relevance: pd.Series | pd.DataFrame, groups: pd.Series, method: str
) -> tuple[object, np.ndarray]:
    if method == HIERARCHICAL:
        raise ValueError(
            'Groups need one relevance a stimulus; "hierarchical" has several. Pool the people first.'
        )
    x, y = group_means(*joined(latents, relevance), latents.index, groups)
    return METHODS[method](x), y


def _permuted(rng: np.random.Generator, y: np.ndarray, n_draws: int) -> np.ndarray:
    """Relevance permuted over images, (n, n_draws)."""
    return rng.permuted(np.repeat(y[:, None], n_draws, axis=1), axis=0)


def _null_cosines(
    fit: object,
    found: np.ndarray,
    y: np.ndarray,
    shuffled: np.ndarray,
    n_draws: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Cosines (n_draws,) between directions of permuted relevance and the one found."""
    if not hasattr(fit, "filters"):
        return cosine(fit.coefficients(shuffled), found)
    left = fit.factors.left.astype(np.float32)
    filters = fit.filters() / fit.filters().max()
    along = filters * (fit.factors.right.T @ found)
    columns = (shuffled / np.abs(y).max()).astype(np.float32)
    cosines, n_base = [], min(columns.shape[1], max(1, round(np.sqrt(n_draws))))
    while sum(map(len, cosines)) < n_draws:
        # permutations of permutations: any two of these draws are independent
        base = columns[:, rng.choice(columns.shape[1], n_base, replace=False)]
        draws = np.concatenate([base[rng.permutation(len(y))] for _ in range(20)], axis=1)
        scores = left.T @ draws  # (rank, 20 x n_base)
        own = fit.pick(scores, draws), np.arange(scores.shape[1])
        lengths = np.sqrt(((filters**2).astype(np.float32) @ scores**2)[own])
        cosines.append((along.astype(np.float32) @ scores)[own] / (lengths + 1e-30))
    return np.concatenate(cosines)[:n_draws].astype(np.float64)


def _auc(y: np.ndarray, predicted: np.ndarray) -> float:
    """How well the prediction tells relevance above the median from the rest; of two values, the higher one."""
    middle = np.median(y)
    return auc(y > middle if (y > middle).any() else y >= middle, predicted)


def _prediction(
    fit: object, found: np.ndarray, y: np.ndarray, rng: np.random.Generator, *, floor: float | None
) -> dict[str, object]:
    """Cosine to the truth, its interval and the learning curve.

    floor : where the interval must reach down to, as no direction was shown at all
    """
    factors: Factors = fit.factors if hasattr(fit, "factors") else factorise(fit.latents)
    covariance = isinstance(fit, MeanDifference)
    truths = draw_truths(factors, y, rng=rng)
    cosines = truths.cosines(factors.right.T @ found, covariance=covariance)  # found has length 1
    low, high = band(cosines)
    low = low if floor is None else min(low, floor)
    penalty = fit.penalty_of(y) if isinstance(fit, Ridge) else factors.penalty
    sizes = _SIZES * len(y)
    curve = cosine_curve(truths, sizes, penalty=penalty, covariance=covariance)
    low_curve, middle, high_curve = np.quantile(curve, [0.025, 0.5, 0.975], axis=0)
    columns = {"n": sizes, "cosine": middle, "low": low_curve, "high": high_curve}
    return {
        "predicted_cosine": float(np.median(cosines)),
        "predicted_interval": (low, high),
        "learning_curve": {key: values.tolist() for key, values in columns.items()},
    }
