"""Whether maps come from the EEG or from the picture alone: tests against maps of other responses."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch

from saliency.scores import check_count

logger = logging.getLogger(__name__)

Maps = torch.Tensor | np.ndarray

ALPHA = 0.05
ROUNDING = 1e-9  # differences of correlations below this are rounding
FLAT = 1e-6  # a map that varies by less than this share of its largest value is constant: float32 rounding


@dataclass(frozen=True, eq=False)
class EEGDependence:
    """How much more two maps of a picture agree when both come from its own response; see `eeg_dependence`.

    value : D, a difference of correlations, -2 to 2; for picture maps it lies in null_interval
    ci : 95 % bootstrap interval of D over pictures; NaN with one picture
    p, p_floor : permutation p of D, one-sided, and the smallest value it can take
    null_interval : 2.5 and 97.5 % points of D without EEG dependence; compare D with it and not with 0
    by_picture : (n_pictures,) what each picture adds; D is its mean
    correlations : (n_pictures, n_sources), R_ij
    r_own, r_other : mean correlation of the halves' maps with the picture's own, and with other responses
    match, match_p : how much larger D is than if other pictures' responses stood as own, and its
        permutation p; NaN with one own response
    n_permutations : relabellings compared; all there are, where that is no more than were asked for
    """

    value: float
    ci: tuple[float, float]
    p: float
    p_floor: float
    null_interval: tuple[float, float]
    by_picture: np.ndarray
    correlations: np.ndarray
    r_own: float
    r_other: float
    match: float
    match_p: float
    n_sources: int
    n_permutations: int

    @property
    def n_pictures(self) -> int:
        return len(self.by_picture)

    @property
    def depends(self) -> bool:
        """Whether D is larger than chance: p at most .05."""
        return self.p <= ALPHA

    @property
    def verdict(self) -> str:
        """One sentence or two: do the maps depend on the EEG, and on the EEG of their own picture?"""
        counts = f"{_count(self.n_pictures, 'picture')} and {_count(self.n_sources, 'response')}"
        if self.p_floor > ALPHA:
            return (
                f"{counts} are too few to tell whether the maps depend on the EEG: p cannot fall below "
                f"{self.p_floor:.2g}."
            )
        if self.n_pictures == 1:
            means = "depends" if self.depends else "cannot be shown to depend"
            return (
                f"One picture alone, so p = {self.p:.2g} is the rank of its own response among "
                f"{self.n_sources}, as a share: the map {means} on the EEG."
            )
        interval = f"95 % interval {self.ci[0]:.3f} to {self.ci[1]:.3f}"
        numbers = f"D = {self.value:.3f}, {interval}, p = {self.p:.2g}, {counts}"
        if self.depends:
            few = "" if self.ci[0] > 0 else " The interval reaches 0: few of the pictures may carry it."
            return f"The maps depend on the EEG ({numbers}).{few} {self._match_sentence()}"
        return (
            "These maps cannot be told from picture maps: two halves of the same response agree on them no "
            f"better than halves of different responses ({numbers})."
        )

    def _match_sentence(self) -> str:
        if self.match_p <= ALPHA:
            return f"They do so most for the responses to these very pictures (p = {self.match_p:.2g})."
        p = "" if math.isnan(self.match_p) else f" (p = {self.match_p:.2g})"
        return (
            f"That it takes the responses to these very pictures is not shown{p}: a drift, or anything else "
            "that comes again in both halves, could be the cause."
        )


def eeg_dependence(
    maps_first: Sequence[Maps],
    maps_second: Sequence[Maps],
    *,
    own: Sequence[int] | None = None,
    n_permutations: int = 2000,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> EEGDependence:
    """Whether maps of pictures depend on the response, beyond what any response gives for that picture.

    With M_i(e_j) the map of picture i for a half of the responses to j, and r Pearson's correlation over
    pixels (0 if a map is constant), R_ij = r(M_i(e_i, half 1), M_i(e_j, half 2)), averaged with the halves
    swapped; d_i = R_ii less the mean R_ij of the others; D = mean d_i.

    Without dependence the second halves could belong to any source, so null values of D come from exchanging
    them, in the same way for all pictures. To that null is added what D gains from sources that differ only
    in gain or noise: the loud ones agree better with themselves (loud with loud) than with the average one.
    This gain is told from the agreement between different sources, s_a t_b for a pair.

    maps_first, maps_second : for each picture (k, h, w), the maps from half 1 and half 2 of each source's
        trials; sources in the same order everywhere, pictures may differ in size
    own : which source belongs to each picture, from 0; None: source i to picture i, where k is their number
    n_permutations : relabellings drawn; where there are no more than these, each is taken once and p is exact

    What D cannot see is where the dependence comes from. Anything that both halves of a source share raises
    it: the picture, its class, the session, or a drift where the halves are adjacent in time; take halves
    that interleave and lie far apart. A drift does not raise `match`, which compares a picture's own source
    with the other pictures' sources, both halves together; but `match` can be 0 where D is not, and a design
    in which time tells the class raises both, if the model was trained on it. D cannot see a gain or an
    offset of whole maps either, as r ignores both. One source with maps of its own for every picture adds its
    1 / n_pictures to D. The interval draws pictures and does not count that they share sources; with four to
    six pictures it covers about 90 %. In simulated picture maps p was .05 or less in about 5 % of sets, but
    in 8 to 15 % where r was about .9 and the sources' noise differed four- to twentyfold: take as many trials
    of every source.

    Raises ValueError for maps that are not finite or do not fit each other, and for fewer than two sources.
    Source: the swap of the data behind a map, after Adebayo et al., NeurIPS 2018 (data randomisation); the
    interval is the expanded percentile of Hesterberg, The American Statistician 2015, 4.2.
    """
    check_count("n_permutations", n_permutations)
    check_count("n_bootstrap", n_bootstrap)
    r = _half_correlations(maps_first, maps_second)  # (n, k, k)
    n_pictures, n_sources = r.shape[:2]
    own = _own_sources(own, n_pictures, n_sources)
    rows = np.arange(n_pictures)
    rng = np.random.default_rng(seed)
    by_picture = _rounded(_own_excess(r, own)[rows, own])
    shared = _picture_part(r)
    labels, exact = _relabelled(own, np.arange(n_sources), n_permutations, rng)
    null = _own_excess(r - shared, own)[rows, labels].mean(1) + _own_excess(shared, own)[rows, own].mean()
    null = _rounded(null)
    match, match_p = _match(r, own, n_permutations, rng)
    others = np.ones((n_pictures, n_sources), bool)
    others[rows, own] = False
    swapped = (r[rows, own] + r[rows, :, own]) / 2  # (n, k)
    return EEGDependence(
        value=float(_rounded(by_picture.mean())),
        ci=_interval(by_picture, n_bootstrap, rng),
        p=_permutation_p(by_picture.mean(), null, exact),
        p_floor=1 / (len(null) + (not exact)),
        null_interval=tuple(float(point) for point in np.quantile(null, [0.025, 0.975])),
        by_picture=by_picture,
        correlations=swapped,
        r_own=float(r[rows, own, own].mean()),
        r_other=float(swapped[others].mean()),
        match=match,
        match_p=match_p,
        n_sources=n_sources,
        n_permutations=len(null),
    )


def map_z(own: Maps, controls: Maps) -> tuple[np.ndarray, float]:
    """Where a map differs from those that other responses give for the picture, and whether it does anywhere.

    own : (h, w); controls : (n, h, w), each from as many trials of other pictures; 100 or more are asked for,
        and p cannot fall below 1 / (1 + n)

    Returns z (h, w), float64: the own map less the controls' mean, in their standard deviations; and p: the
    rank of its largest |z| among those of all the maps, each by all the others. If the own map is
    exchangeable with the controls p is exact, over all pixels at once, whatever their dependence. A louder
    response differs too: z is about values, not only about the pattern.

    Pixels where the maps hardly vary (below a millionth of the largest value) get a z near 0 instead of
    magnified rounding.
    Raises ValueError for maps that are not finite, differ in size, or fewer than two controls.
    Source: the maximum statistic, Nichols & Holmes, Human Brain Mapping 2002.
    """
    first, others = array_of(own, "a map"), array_of(controls, "control maps")
    if first.ndim != 2 or others.ndim != 3 or others.shape[1:] != first.shape:
        raise ValueError(f"Need a map (h, w) and controls (n, h, w), got {first.shape} and {others.shape}.")
    n = len(others)
    if n < 2:
        raise ValueError(f"Need at least 2 control maps, and better 100, got {n}.")
    if n < 100:
        logger.warning(
            "%d control maps are few: p cannot fall below %.3f and z is rough; take 100.", n, 1 / (n + 1)
        )
    maps = np.concatenate([first[None], others])
    floor = FLAT * float(np.abs(maps).max())
    centred = maps - maps.mean(0)
    total = np.square(centred).sum(0)
    largest = np.array([np.abs(_by_the_rest(values, total, n, floor)).max() for values in centred])
    p = float((largest >= largest[0] * (1 - 1e-9)).mean())
    return _by_the_rest(centred[0], total, n, floor), p


def array_of(maps: Maps, what: str) -> np.ndarray:
    """The values in float64; raises ValueError, naming `what`, if some are not finite or there are none."""
    values = torch.as_tensor(maps).detach().cpu().double().numpy()
    if values.size == 0:
        raise ValueError(f"Need {what} with some pixels, got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"Need {what} of finite values, got NaN or infinity.")
    return values


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Maps (k, ...) centred over pixels, flat and of length 1, so that products are correlations; (k, n_pixels).

    Constant maps become 0.
    """
    flat = values.reshape(len(values), -1)
    centred = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1)
    varies = length > FLAT * np.abs(flat).max(1) * math.sqrt(flat.shape[1])
    return centred * (varies / np.where(varies, length, 1))[:, None]


def _half_correlations(maps_first: Sequence[Maps], maps_second: Sequence[Maps]) -> np.ndarray:
    """r (n_pictures, k, k): first half of source a with second half of source b."""
    if len(maps_first) == 0 or len(maps_first) != len(maps_second):
        raise ValueError(
            f"Need maps of the same pictures from both halves, got {len(maps_first)} and {len(maps_second)}."
        )
    found = []
    for i, pair in enumerate(zip(maps_first, maps_second, strict=True)):
        first, second = (array_of(maps, f"maps of picture {i}") for maps in pair)
        if first.ndim != 3 or first.shape != second.shape:
            raise ValueError(
                f"Need maps (k, h, w) of both halves of picture {i}, got {first.shape} and {second.shape}."
            )
        if found and len(first) != len(found[0]):
            raise ValueError(
                f"Need maps from the same sources for every picture; picture {i} has {len(first)}, the first "
                f"has {len(found[0])}."
            )
        found.append(unit_rows(first) @ unit_rows(second).T)
    if len(found[0]) < 2:
        raise ValueError(f"Need the maps of at least 2 sources to compare, got {len(found[0])}.")
    return np.stack(found)


def _own_sources(own: Sequence[int] | None, n_pictures: int, n_sources: int) -> np.ndarray:
    if own is None:
        if n_pictures != n_sources:
            raise ValueError(
                f"Need `own`, the source of each picture, as there are {n_pictures} pictures and {n_sources} sources."
            )
        return np.arange(n_pictures)
    index = np.asarray(own)
    fits = index.shape == (n_pictures,) and np.issubdtype(index.dtype, np.integer)
    if not fits or index.min() < 0 or index.max() >= n_sources:
        raise ValueError(f"Need {n_pictures} sources from 0 to {n_sources - 1} as own, got {list(own)}.")
    return index


def _own_excess(r: np.ndarray, own: np.ndarray) -> np.ndarray:
    """d (n_pictures, k) if the first half of each picture's own source were paired with each second half."""
    rows = np.arange(len(r))
    pair = r[rows, own]  # (n, k)
    row_mean = (pair.sum(1, keepdims=True) - pair) / (r.shape[1] - 1)
    column_mean = (r.sum(1) - pair) / (r.shape[1] - 1)
    return pair - (row_mean + column_mean) / 2


def _picture_part(r: np.ndarray, *, n_iterations: int = 100) -> np.ndarray:
    """The part of r that sources of unlike strength, s_a of the first half and t_b of the second, explain.

    One factor by the centroid method (Thurstone), on the agreement of different sources, which no
    dependence on the EEG enters; s and t are not negative, and each picture has a factor of its own.
    """
    different = ~np.eye(r.shape[1], dtype=bool)
    mean = r.mean(0) * different
    rows, columns = mean.sum(1), mean.sum(0)
    s = t = np.full(len(mean), math.sqrt(max(mean[different].mean(), 0)))
    for _ in range(n_iterations):
        s = (s + _share(rows, t.sum() - t)) / 2
        t = (t + _share(columns, s.sum() - s)) / 2
    strength = np.outer(s, t)
    factor = _share(r[:, different].sum(1), strength[different].sum(), most=np.inf)  # (n,)
    return np.clip(factor[:, None, None] * strength, 0, 1)


def _share(part: np.ndarray, whole: np.ndarray, *, most: float = 1.0) -> np.ndarray:
    """part / whole within 0 and most; 0 where the whole is nothing."""
    return np.where(whole > 1e-9, part / np.maximum(whole, 1e-9), 0).clip(0, most)


def _relabelled(
    own: np.ndarray, pool: np.ndarray, n_wanted: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Own sources exchanged for others of the pool, (n_relabellings, n_pictures), and whether these are all."""
    used, place = np.unique(own, return_inverse=True)
    if math.perm(len(pool), len(used)) <= n_wanted:
        return np.array(list(permutations(pool, len(used))))[:, place], True
    drawn = rng.permuted(np.tile(pool, (n_wanted, 1)), axis=1)[:, : len(used)]
    return drawn[:, place], False


def _by_the_rest(values: np.ndarray, total: np.ndarray, n: int, floor: float) -> np.ndarray:
    """z of one of n + 1 maps by the n others; values less the mean of all, total: the sum of their squares."""
    squares = np.maximum(total - np.square(values) * (n + 1) / n, 0)  # of the n others, about their own mean
    deviation = np.maximum(np.sqrt(squares / (n - 1)), floor)
    return np.divide(values * (n + 1) / n, deviation, out=np.zeros_like(values), where=deviation > 0)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Exactly 0 where nothing but rounding is left, so that D and its null agree where there is no dependence."""
    return np.where(np.abs(values) < ROUNDING, 0.0, values)


def _permutation_p(observed: float, null: np.ndarray, exact: bool) -> float:
    """Share of null values that reach the observed one; all of them include it, drawn ones do not."""
    reached = int((null >= observed - ROUNDING).sum())
    return reached / len(null) if exact else (1 + reached) / (1 + len(null))


def _match(
    r: np.ndarray, own: np.ndarray, n_permutations: int, rng: np.random.Generator
) -> tuple[float, float]:
    """D less D with other pictures' sources as own, both halves together, and its permutation p."""
    pool = np.unique(own)
    if len(pool) < 2:
        return math.nan, math.nan
    rows = np.arange(len(r))
    every = [_own_excess(r, np.full(len(r), source))[:, source] for source in pool]
    excess = np.zeros(r.shape[:2])
    excess[:, pool] = np.stack(every, 1)
    labels, exact = _relabelled(own, pool, n_permutations, rng)
    found = excess[rows, own]
    rest = (excess.sum(1) - found) / (len(pool) - 1)
    return float((found - rest).mean()), _permutation_p(found.mean(), excess[rows, labels].mean(1), exact)


def _interval(values: np.ndarray, n_bootstrap: int, rng: np.random.Generator) -> tuple[float, float]:
    """95 % of bootstrap means, with the levels widened for few values as t is wider than the normal."""
    from scipy.stats import norm, t

    n = len(values)
    if n < 2:
        return math.nan, math.nan
    level = norm.cdf(math.sqrt(n / (n - 1)) * t.ppf(0.025, n - 1))
    means = values[rng.integers(0, n, (n_bootstrap, n))].mean(1)
    low, high = np.quantile(means, [level, 1 - level])
    return float(low), float(high)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
