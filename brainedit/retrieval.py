"""Retrieval against the number of repeats, and with tricks that look at all test responses at once."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from brainedit._check import pick
from brainedit.evaluation import Score, retrieval_score


def repeat_curve(
    compatibility_of: Callable[[list[np.ndarray]], np.ndarray],
    keys: np.ndarray,
    gallery: Sequence[str],
    *,
    repeats: Sequence[int] | None = None,
    top: Sequence[int] = (1, 5),
    n_permutations: int = 2000,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> dict[int, list[Score]]:
    """Retrieval against the number of repeats that are averaged: k -> one Score for each of `top`.

    compatibility_of : given groups of trial indices, F (n_groups, n_gallery) of the averages over each group.
        The average belongs in the signal, before any encoder
    keys : (n,) the picture of each trial; gallery : the pictures in the order of F's columns
    repeats : how many to average; 1, 2, 4, ... and the most that every picture has when None. A picture's
        trials are dealt to the averages at random, a remainder is left out

    Raises ValueError where a picture has fewer repeats, so that every point speaks of the same pictures.
    """
    keys, gallery = np.asarray(keys), list(gallery)
    column = _columns(keys, gallery)
    most = int(np.bincount(column)[np.unique(column)].min())
    doubling = [2**i for i in range(most.bit_length()) if 2**i < most]
    repeats = [*doubling, most] if repeats is None else list(repeats)
    wrong = [k for k in repeats if not 1 <= k <= most]
    if wrong:
        raise ValueError(f"Every picture has {most} or more repeats; {wrong[0]} cannot be averaged.")
    settings = {"n_permutations": n_permutations, "n_bootstrap": n_bootstrap, "seed": seed}
    curve = {}
    for k in repeats:
        groups = _deal(column, k, np.random.default_rng([seed, k]))
        compatibility = np.asarray(compatibility_of(groups))
        if compatibility.shape != (len(groups), len(gallery)):
            came = f"{compatibility.shape} where {(len(groups), len(gallery))} is needed"
            raise ValueError(f"F needs a row for each average and a column for each picture; got {came}.")
        own = np.array([column[group[0]] for group in groups])
        what = "single trials" if k == 1 else f"{k} repeats averaged"
        found = [retrieval_score(compatibility, own, k=t, **settings) for t in top if t < len(gallery)]
        curve[k] = [replace(score, name=f"{what}, {score.name}") for score in found]
    return curve


def transductive_retrieval(
    compatibility: np.ndarray,
    own: np.ndarray,
    *,
    method: str = "csls",
    top: tuple[int, ...] = (1, 5),
    n_permutations: int = 2000,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> list[Score]:
    """Top-k retrieval after F was adjusted by the other test responses; each name begins with "transductive".

    Not comparable with `retrieval_score`: the adjustment uses that the test set holds every picture of the gallery
    equally often ("hungarian": exactly once), which is knowledge about the test set. Report it beside the plain
    score, never in its place.
    compatibility : F (n, m), one row a response (average its repeats first); own : (n,) column of the own picture
    method : "csls" takes off each picture's mean F with its ten nearest responses (hubs); "sinkhorn" gives
        pictures equal shares; "hungarian" assigns pictures one to one, top-1 alone; "whiten" centres and scales
        each picture's F over the responses

    Raises ValueError for NaN, and for "hungarian" with more responses than pictures.
    Source: CSLS: Conneau et al., ICLR 2018. Sinkhorn: Cuturi, NeurIPS 2013. Differs: whitening is of columns of F,
    where SATTC (CVPR 2026) whitens embeddings.
    """
    compatibility = np.asarray(compatibility, float)
    if compatibility.ndim != 2 or not np.isfinite(compatibility).all():
        n_bad = int((~np.isfinite(compatibility)).sum())
        raise ValueError(
            f"Retrieval needs finite F (n, m); got {compatibility.shape} with {n_bad} that are not."
        )
    adjusted = pick("transductive method", method, TRANSDUCTIVE)(compatibility)
    settings = {"n_permutations": n_permutations, "n_bootstrap": n_bootstrap, "seed": seed}
    scores = []
    for k in (1,) if method == "hungarian" else top:
        if k < compatibility.shape[1]:
            score = retrieval_score(adjusted, own, k=k, **settings)
            scores.append(replace(score, name=f"transductive: {method}, {score.name}"))
    return scores


def _columns(keys: np.ndarray, gallery: list[str]) -> np.ndarray:
    position = {name: i for i, name in enumerate(gallery)}
    missing = [key for key in dict.fromkeys(keys.tolist()) if key not in position]
    if missing or len(keys) == 0 or len(position) < len(gallery):
        what = f"{missing[0]!r} is not in it" if missing else f"{len(keys)} trials, {len(position)} names"
        raise ValueError(
            f"Need trials whose pictures are in a gallery of {len(gallery)} different ones; {what}."
        )
    return np.array([position[key] for key in keys.tolist()])


def _deal(column: np.ndarray, k: int, rng: np.random.Generator) -> list[np.ndarray]:
    groups = []
    for picture in np.unique(column):
        trials = rng.permutation(np.flatnonzero(column == picture))
        groups += [trials[i : i + k] for i in range(0, len(trials) - k + 1, k)]
    return groups


def _csls(f: np.ndarray, n_nearest: int = 10) -> np.ndarray:
    """2 F less the mean of the nearest, over pictures for each response and over responses for each picture."""
    n, m = f.shape
    of_response = np.sort(f, 1)[:, m - min(n_nearest, m) :].mean(1, keepdims=True)
    of_picture = np.sort(f, 0)[n - min(n_nearest, n) :].mean(0, keepdims=True)
    return 2 * f - of_response - of_picture


def _sinkhorn(f: np.ndarray, temperature: float = 0.1, n_rounds: int = 100) -> np.ndarray:
    """Log of the plan between responses and pictures of equal weights; temperature in SDs of a response's F."""
    from scipy.special import logsumexp

    spread = f.std(1).mean()
    plan = f / (temperature * spread) if spread > 0 else f
    for _ in range(n_rounds):
        plan = plan - logsumexp(plan, 1, keepdims=True)
        plan = plan - logsumexp(plan, 0, keepdims=True)
    return plan


def _hungarian(f: np.ndarray) -> np.ndarray:
    """1 where the one-to-one matching with the largest sum of F puts a response, 0 elsewhere."""
    from scipy.optimize import linear_sum_assignment

    if f.shape[0] > f.shape[1]:
        raise ValueError(
            f"A one-to-one matching needs no more responses than pictures; got {f.shape[0]} and {f.shape[1]}."
        )
    matched = np.zeros(f.shape)
    matched[linear_sum_assignment(f, maximize=True)] = 1
    return matched


def _whiten(f: np.ndarray) -> np.ndarray:
    spread = f.std(0)
    return (f - f.mean(0)) / np.where(spread > 0, spread, 1)


TRANSDUCTIVE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "csls": _csls,
    "sinkhorn": _sinkhorn,
    "hungarian": _hungarian,
    "whiten": _whiten,
}
