"""Relevance of the same images from several people, pooled by how much each of them tells (empirical Bayes)."""

from dataclasses import dataclass

import numpy as np

from brainedit.slopes import Factors, factorise


@dataclass(frozen=True)
class CrowdRelevance:
    """What several people's relevance says together of each image.

    score : (n,) weighted mean of the people who saw the image, each standardised
    weight : (n,) precision of that score; equal where all saw all images; mean 1
    loading : (n_people,) correlation of each person's relevance with what all share, 0 to 1
    """

    score: np.ndarray
    weight: np.ndarray
    loading: np.ndarray


def pool_people(relevance: np.ndarray) -> CrowdRelevance:
    """Relevance (n_people, n) with NaN where a person did not see an image, pooled by a one-factor model.

    Each person's loading comes from the agreement with the others, shrunk to the people's mean as far as its
    error asks for. It looks at no latents, so a direction cannot leak into it.

    Source: one-factor model by least squares on the correlations; Efron and Morris, JASA 1975 (shrinkage).
    """
    seen = np.isfinite(relevance)
    values = _standardised(relevance, seen)
    loading = _loadings(values, seen)
    precision = loading**2 / (1 - loading**2)
    total = seen.T @ precision
    score = (values.T @ (loading / (1 - loading**2))) / total
    weight = total / (1 + total)
    return CrowdRelevance(score, weight / weight.mean(), loading)


def person_slopes(latents: np.ndarray, relevance: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Slope (n_people, n_dims) of each person: the crowd's, and what the person's own images add, shrunk.

    latents : (n, n_dims); relevance : (n_people, n) with NaN where not seen
    crowd : (n_dims,) slope of all people together, in any length

    How much people differ is one number for all, by maximum likelihood; where they do not, each gets the crowd's.
    """
    parts = [_person(latents, values, crowd) for values in relevance]
    share = np.append(0.0, 0.98 * ((np.arange(60) + 0.5) / 60) ** 2)
    fits = [_profile(factors, rest, share) for factors, rest, _ in parts]
    best = int(np.sum([likelihood for likelihood, _ in fits], axis=0).argmax())
    return np.stack(
        [
            along + factors.right @ slopes[best]
            for (factors, _, along), (_, slopes) in zip(parts, fits, strict=True)
        ]
    )


def _standardised(relevance: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Each person's relevance with mean 0 and variance 1 over the images seen, 0 for the others."""
    count = seen.sum(1, keepdims=True)
    values = np.where(seen, relevance, 0.0)
    values = np.where(seen, values - values.sum(1, keepdims=True) / count, 0.0)
    return values / np.sqrt((values**2).sum(1, keepdims=True) / count)


def _loadings(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Loading (n_people,) of each person on what all share, between .05 and .95."""
    shared = seen.astype(float) @ seen.T
    np.fill_diagonal(shared, 0)
    together = values @ values.T  # shared x correlation off the diagonal
    np.fill_diagonal(together, 0)
    if shared.sum() == 0:
        return np.full(len(values), 0.5)
    common = np.sqrt(np.clip(together.sum() / shared.sum(), 0.0025, 0.9))
    loading = np.full(len(values), common)
    for _ in range(50):
        fitted = (together @ loading + common) / (shared @ loading**2 + 1)  # one image's worth of prior
        loading = np.clip((loading + fitted) / 2, 0.05, 0.95)
    others = shared @ (loading**2 / (1 - loading**2)) / seen.sum(1)  # precision of all others' mean
    error = np.minimum((1 + others) / (others * seen.sum(1) + 1e-9), 1.0)
    between = max(loading.var() - error.mean(), 0.0)
    return loading.mean() + between / (between + error) * (loading - loading.mean())


def _person(
    latents: np.ndarray, values: np.ndarray, crowd: np.ndarray
) -> tuple[Factors, np.ndarray, np.ndarray]:
    """Factors of the latents that a person saw, what the crowd does not explain (n,), and the crowd's part."""
    rows = np.isfinite(values)
    x = latents[rows] - latents[rows].mean(0)
    y = (values[rows] - values[rows].mean()) / values[rows].std()
    predicted = x @ crowd
    gain = max(float(predicted @ y / (predicted @ predicted)), 0.0)
    return factorise(x), y - gain * predicted, gain * crowd


def _profile(factors: Factors, y: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood (n_shares,) of the share that a slope explains, and that slope's mean (n_shares, rank)."""
    n = len(y)
    ratio = share / (1 - share) * (n - 1) / (factors.singular**2).sum()
    scores = factors.left.T @ y
    gains = 1 + ratio[:, None] * factors.singular**2
    misfit = (scores**2 / gains).sum(1) + max((y**2).sum() - (scores**2).sum(), 0.0)
    likelihood = -0.5 * np.log(gains).sum(1) - (n - 1) / 2 * np.log(misfit)
    return likelihood, ratio[:, None] * factors.singular * scores / gains
