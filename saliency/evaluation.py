"""How good a map is: does it say where people look, and does the score live on the pixels that it names."""

from functools import lru_cache

import numpy as np
import torch

from saliency.faithfulness import Curves, Faithfulness, Map, checked_map, deletion_insertion
from saliency.image import peak

__all__ = [
    "Curves",
    "Faithfulness",
    "deletion_insertion",
    "fixation_density",
    "fixation_scores",
    "pointing_hit",
]

# As both benchmarks write it; all digits of a double's epsilon would move kl by up to 2e-5.
KL_EPSILON = 2.2204e-16


def fixation_scores(
    heat: Map,
    fixations: np.ndarray,
    *,
    others: np.ndarray | None = None,
    blur: float = 35.0,
    baseline: Map | None = None,
) -> dict[str, float]:
    """How well a map says where people looked; a name without ending is the Tübingen benchmark's variant.

    heat : (h, w), larger where fixations are expected
    fixations : (n, 2), x and y in the map's pixels from its upper left corner, 0 <= x < w; a fixation is in the
        pixel (floor(y), floor(x)); two in one pixel count twice, in MIT's variants (auc_judd, ..._mit) once
    others : (m, 2), all fixations of other pictures, scaled to this size; the negatives of sauc
    blur : deviation in pixels of the Gaussian that turns fixations into the density Q (`fixation_density`)
    baseline : (h, w), a density that ig is measured against, such as other pictures' fixations; None: uniform

    Returns, all exact and without any draw (chance in brackets):
        auc_uniform : fixations against all pixels, ties half (.5)
        auc_judd : MIT's area: fixated pixels against all others, by trapezoids through the thresholds that the
            fixated pixels have; pixels of equal value pass a threshold together, without jitter; NaN where every
            pixel is fixated (.5 to .5 + 1 / 2n). A map that is constant over the fixations gives one threshold
            alone, and may read .5 whatever the rest is: on maps with few levels read auc_judd_exact
        auc_judd_exact : the same pixels, every threshold: what sklearn's roc_auc_score gives (.5)
        sauc : fixations against `others`, ties half; NaN without them (.5)
        nss : mean z of the fixations, deviation by N (0); nss_mit : of fixated pixels, deviation by N - 1
        cc : Pearson correlation with Q (0)
        sim : sum of the smaller of P and Q, P the map with sum 1, moved up to 0 where it is negative;
            sim_mit : both minima are moved to 0 first
        kl : of Q from P in nats, by the epsilon of both benchmarks (0 is best)
        ig : bits per fixation that P gains over the baseline, minus infinity where P is 0 at a fixation (0);
            ig_mit : of fixated pixels, both minima moved to 0, an epsilon inside the logarithms
    A constant map is the uniform density, its areas are .5, its nss and cc 0.
    Raises ValueError for maps that are not finite or differ in shape, for fixations outside the map or none at
    all, and for a baseline that is negative anywhere or 0 at a fixation.
    Source: Bylinskii et al., TPAMI 2019 (MIT); Kümmerer et al., ECCV 2018 (Tübingen). Differs: MIT breaks ties
    by random jitter and leaves most figures of a constant map undefined.
    """
    values = checked_map(heat, "map")
    rows, columns = _pixels(fixations, values.shape, "fixations")
    once = np.unique(np.stack([rows, columns]), axis=1)
    fixated, fixated_once = values[rows, columns], values[once[0], once[1]]
    ordered = np.sort(values, axis=None)
    gold = fixation_density(fixations, values.shape, blur=blur)
    density = _density(values)
    judd, judd_exact = _judd(np.sort(fixated_once), ordered)
    base = _baseline(baseline, values.shape, rows, columns)
    p_mit, gold_mit, base_mit = (_density(part - part.min()) for part in (values, gold, base))
    return {
        "auc_uniform": _auc(fixated, ordered),
        "auc_judd": judd,
        "auc_judd_exact": judd_exact,
        "sauc": _shuffled(values, fixated, others),
        "nss": _nss(fixated, values, correction=0),
        "nss_mit": _nss(fixated_once, values, correction=1),
        "cc": _correlation(values, gold),
        "sim": float(np.minimum(density, gold).sum()),
        "sim_mit": float(np.minimum(p_mit, gold_mit).sum()),
        "kl": float((gold * np.log(KL_EPSILON + gold / (density + KL_EPSILON))).sum()),
        "ig": _gain(density[rows, columns], base[rows, columns], epsilon=0.0),
        "ig_mit": _gain(p_mit[*once], base_mit[*once], epsilon=np.finfo(float).eps),
    }


def fixation_density(fixations: np.ndarray, shape: tuple[int, int], *, blur: float = 35.0) -> np.ndarray:
    """The density of fixations, (h, w), float64, sum 1: counts per pixel, blurred.

    fixations : (n, 2), x and y in pixels; all count, also in one pixel
    blur : deviation of the Gaussian in pixels, cut off at 4 deviations, the border's pixels repeated (scipy's
        "nearest"); 0: none. The benchmark's 35 is about one degree of visual angle on its screen: choose yours
    """
    if not 0 <= blur < float("inf"):
        raise ValueError(f"Need blur as a deviation in pixels, 0 or more, got {blur}.")
    rows, columns = _pixels(fixations, shape, "fixations")
    used_rows, row = np.unique(rows, return_inverse=True)
    used_columns, column = np.unique(columns, return_inverse=True)
    counts = np.zeros((len(used_rows), len(used_columns)))
    np.add.at(counts, (row, column), 1.0)
    down, across = _gaussian(shape[0], float(blur)), _gaussian(shape[1], float(blur))
    spread = down[:, used_rows] @ counts @ across[:, used_columns].T
    return spread / spread.sum()


def pointing_hit(heat: Map, region: Map, *, tolerance: float = 15.0) -> bool:
    """Whether the map peaks on a region or near it; a constant map has no peak and counts as a miss.

    region : (h, w) bool, true on the object
    tolerance : pixels between the peak and the region's nearest pixel that still count

    Source: the pointing game, Zhang et al., IJCV 2018.
    """
    values, inside = checked_map(heat, "map"), np.asarray(torch.as_tensor(region).cpu())
    if inside.dtype != bool or inside.shape != values.shape or not inside.any():
        kind = f"{inside.dtype} of shape {inside.shape} with {np.count_nonzero(inside)} pixels set"
        raise ValueError(
            f"Need a bool region of the map's shape {values.shape} that is not empty, got {kind}."
        )
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"Need a tolerance of 0 pixels or more, got {tolerance}.")
    if values.min() == values.max():
        return False
    distances = np.argwhere(inside) - np.array(peak(values))
    return bool((distances**2).sum(1).min() <= tolerance**2)


def _pixels(fixations: np.ndarray, shape: tuple[int, int], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels that fixations (n, 2), x and y, are in."""
    places = np.asarray(fixations, dtype=float)
    if places.size == 0:
        raise ValueError(f"Need {name} (n, 2) with at least one in it, got none.")
    if places.ndim != 2 or places.shape[1] != 2:
        raise ValueError(f"Need {name} (n, 2), x and y in pixels, got shape {places.shape}.")
    height, width = shape
    inside = ((places >= 0) & (places < (width, height))).all(1)  # false for NaN too
    if not inside.all():
        x, y = places[~inside][0]
        raise ValueError(
            f"Need {name} inside the map, 0 <= x < {width} and 0 <= y < {height}; {(~inside).sum()} of "
            f"{len(places)} are not, the first at x {x:g}, y {y:g}."
        )
    columns, rows = places.astype(int).T
    return rows, columns


def _baseline(
    baseline: Map | None, shape: tuple[int, int], rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    if baseline is None:
        return np.full(shape, 1 / (shape[0] * shape[1]))
    values = checked_map(baseline, "baseline", shape)
    if values.min() < 0:
        raise ValueError(f"Need a baseline that is a density, 0 or more, its minimum is {values.min():g}.")
    n_zero = int((values[rows, columns] == 0).sum())
    if n_zero:
        raise ValueError(f"Need a baseline above 0 at every fixation, it is 0 at {n_zero} of {len(rows)}.")
    return _density(values)


def _density(values: np.ndarray) -> np.ndarray:
    """The map with sum 1, moved up to 0 if it is negative anywhere; a constant one is uniform."""
    low, high = values.min(), values.max()
    if low == high:
        return np.full(values.shape, 1 / values.size)
    raised = values - low if low < 0 else values
    return raised / raised.sum()


def _auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Mean over positives of the share of sorted negatives below them, ties half."""
    below = np.searchsorted(negatives, positives, "left")
    to = np.searchsorted(negatives, positives, "right")
    return float((below + to).mean() / 2 / len(negatives))


def _judd(fixated: np.ndarray, ordered: np.ndarray) -> tuple[float, float]:
    """auc_judd and auc_judd_exact, from the sorted values of fixated pixels and of all pixels."""
    n_negatives = len(ordered) - len(fixated)
    if n_negatives == 0:
        return float("nan"), float("nan")
    thresholds = np.unique(fixated)[::-1]
    hits = len(fixated) - np.searchsorted(fixated, thresholds, "left")
    passed = len(ordered) - np.searchsorted(ordered, thresholds, "left")
    true = np.concatenate([[0], hits / len(fixated), [1]])
    false = np.concatenate([[0], (passed - hits) / n_negatives, [1]])
    lower = [
        np.searchsorted(ordered, fixated, s) - np.searchsorted(fixated, fixated, s) for s in ("left", "right")
    ]
    return float(np.trapezoid(true, false)), float(np.mean(lower) / n_negatives)


def _shuffled(values: np.ndarray, fixated: np.ndarray, others: np.ndarray | None) -> float:
    if others is None:
        return float("nan")
    rows, columns = _pixels(others, values.shape, "other pictures' fixations")
    return _auc(fixated, np.sort(values[rows, columns]))


def _nss(fixated: np.ndarray, values: np.ndarray, *, correction: int) -> float:
    if values.min() == values.max():
        return 0.0
    return float((fixated - values.mean()).mean() / values.std(ddof=correction))


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if first.min() == first.max() or second.min() == second.max():
        return 0.0
    first, second = first - first.mean(), second - second.mean()
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def _gain(density: np.ndarray, baseline: np.ndarray, *, epsilon: float) -> float:
    with np.errstate(divide="ignore"):  # a density of 0 at a fixation is minus infinity by definition
        return float((np.log2(density + epsilon) - np.log2(baseline + epsilon)).mean())


@lru_cache(maxsize=8)
def _gaussian(size: int, blur: float) -> np.ndarray:
    """Column i (size, size): where scipy's filter spreads what lies in pixel i of a line."""
    from scipy.ndimage import gaussian_filter1d

    spread = np.eye(size)
    if blur > 0:
        spread = gaussian_filter1d(spread, blur, axis=0, mode="nearest", truncate=4.0)
    spread.setflags(write=False)  # all callers share it
    return spread
