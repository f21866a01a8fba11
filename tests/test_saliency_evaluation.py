"""Fixation scores against brute force, sklearn and scipy; deletion and insertion against closed forms."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from saliency.evaluation import deletion_insertion, fixation_density, fixation_scores, pointing_hit

NAMES = {
    "auc_uniform",
    "auc_judd",
    "auc_judd_exact",
    "sauc",
    "nss",
    "nss_mit",
    "cc",
    "sim",
    "sim_mit",
    "kl",
    "ig",
    "ig_mit",
}
AREAS = ("auc_uniform", "auc_judd", "auc_judd_exact", "sauc")


def grid(*, seed: int, shape: tuple[int, int] = (7, 9), levels: int | None = None) -> np.ndarray:
    """A positive map; with `levels` it has that many values, so that ties abound."""
    values = np.random.default_rng(seed).random(shape)
    return values + 0.1 if levels is None else 1.0 + np.floor(values * levels)


def places(*, seed: int, n: int = 12, shape: tuple[int, int] = (7, 9)) -> np.ndarray:
    """Fixations x, y; the last two lie in one pixel at different places."""
    xy = np.random.default_rng(seed).random((n, 2)) * (shape[1], shape[0])
    xy[-1] = np.floor(xy[-2]) + 0.25
    return xy


def rank_area(positives: list[float], negatives: list[float]) -> float:
    wins = sum((p > q) + (p == q) / 2 for p in positives for q in negatives)
    return wins / len(positives) / len(negatives)


def mit_judd(values: np.ndarray, pixels: set[tuple[int, int]]) -> float:
    """Threshold by threshold over the values at fixated pixels, counting in double loops."""
    n_others = values.size - len(pixels)
    points = [(0.0, 0.0)]
    for threshold in sorted({values[p] for p in pixels}, reverse=True):
        hits = sum(values[p] >= threshold for p in pixels)
        alarms = sum(v >= threshold for v in values.ravel()) - hits
        points.append((alarms / n_others, hits / len(pixels)))
    points.append((1.0, 1.0))
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))


def brute(values: np.ndarray, xy: np.ndarray, others: np.ndarray, blur: float, base: np.ndarray) -> dict:
    """Every score by loops over pixels and fixations."""
    shape, size = values.shape, values.size
    at = [(int(y), int(x)) for x, y in xy]
    once = set(at)
    seen, seen_once = [values[p] for p in at], [values[p] for p in once]
    counts = np.zeros(shape)
    for p in at:
        counts[p] += 1
    gold = gaussian_filter(counts, blur, mode="nearest")
    gold /= gold.sum()
    p, b = values / values.sum(), base / base.sum()
    p0, b0, gold0 = (m - m.min() for m in (p, b, gold))
    p0, b0, gold0 = (m / m.sum() for m in (p0, b0, gold0))
    mean = sum(values.flat) / size
    spread = sum((v - mean) ** 2 for v in values.flat)
    eps, mit_eps = 2.2204e-16, 2.0**-52
    return {
        "auc_uniform": rank_area(seen, list(values.flat)),
        "auc_judd": mit_judd(values, once),
        "auc_judd_exact": rank_area(seen_once, [values[i] for i in np.ndindex(shape) if i not in once]),
        "sauc": rank_area(seen, [values[int(y), int(x)] for x, y in others]),
        "nss": sum((v - mean) / math.sqrt(spread / size) for v in seen) / len(at),
        "nss_mit": sum((v - mean) / math.sqrt(spread / (size - 1)) for v in seen_once) / len(once),
        "cc": pearsonr(values.ravel(), gold.ravel())[0],
        "sim": sum(min(p[i], gold[i]) for i in np.ndindex(shape)),
        "sim_mit": sum(min(p0[i], gold0[i]) for i in np.ndindex(shape)),
        "kl": sum(gold[i] * math.log(eps + gold[i] / (p[i] + eps)) for i in np.ndindex(shape)),
        "ig": sum(math.log2(p[i] / b[i]) for i in at) / len(at),
        "ig_mit": sum(math.log2(p0[i] + mit_eps) - math.log2(b0[i] + mit_eps) for i in once) / len(once),
    }


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("seed", range(5))
def test_every_score_is_that_of_plain_loops(seed: int, levels: int | None) -> None:
    values, xy, others = grid(seed=seed, levels=levels), places(seed=seed + 50), places(seed=seed + 90, n=31)
    base = grid(seed=seed + 20)
    found = fixation_scores(values, xy, others=others, blur=1.3, baseline=base)
    expected = brute(values, xy, others, 1.3, base)
    assert found.keys() == expected.keys() == NAMES
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [None, 2, 5])
def test_areas_are_those_of_sklearn_with_ties_and_duplicates(levels: int | None) -> None:
    values, xy, others = (
        grid(seed=1, shape=(40, 50), levels=levels),
        places(seed=2, n=60, shape=(40, 50)),
        places(seed=3, n=300, shape=(40, 50)),
    )
    found = fixation_scores(values, xy, others=others)
    columns, rows = xy.astype(int).T
    fixated = np.zeros(values.shape, bool)
    fixated[rows, columns] = True

    def area(negatives: np.ndarray) -> float:
        target = np.r_[np.ones(len(xy)), np.zeros(negatives.size)]
        return roc_auc_score(target, np.r_[values[rows, columns], negatives.ravel()])

    assert found["auc_uniform"] == pytest.approx(area(values), abs=1e-12)
    assert found["sauc"] == pytest.approx(area(values[*others.astype(int).T[::-1]]), abs=1e-12)
    assert found["auc_judd_exact"] == pytest.approx(roc_auc_score(fixated.ravel(), values.ravel()), abs=1e-12)


def test_judd_without_ties_is_the_published_sweep_one_threshold_a_fixated_pixel() -> None:
    values, xy = grid(seed=4, shape=(30, 30)), places(seed=5, n=20, shape=(30, 30))
    at = np.sort(np.unique(values[*xy.astype(int).T[::-1]]))[::-1]
    n = len(at)
    true = [0.0, *((i + 1) / n for i in range(n)), 1.0]
    false = [0.0, *(((values >= t).sum() - i - 1) / (values.size - n) for i, t in enumerate(at)), 1.0]
    assert fixation_scores(values, xy)["auc_judd"] == pytest.approx(np.trapezoid(true, false), abs=1e-12)


def test_judd_of_the_best_and_the_worst_map() -> None:
    values = np.arange(100.0).reshape(10, 10)
    best = fixation_scores(values, np.array([[9, 9], [8, 9]]))
    worst = fixation_scores(values, np.array([[0, 0], [1, 0]]))
    assert (best["auc_judd"], best["auc_judd_exact"]) == (1.0, 1.0)
    assert worst["auc_judd_exact"] == 0.0
    assert worst["auc_judd"] == pytest.approx(1 / 4)  # the first slope ends at (1, 1/2)


def test_one_fixation_in_the_best_pixel_has_closed_forms() -> None:
    values = np.zeros((4, 5))
    values[2, 3] = 1.0
    found = fixation_scores(values, np.array([[3.99, 2.0]]), blur=0.0)
    assert found["auc_uniform"] == pytest.approx((19 + 0.5) / 20)
    assert found["auc_judd"] == found["auc_judd_exact"] == 1.0
    assert found["nss"] == pytest.approx((1 - 1 / 20) / math.sqrt(1 / 20 * 19 / 20))
    assert found["nss_mit"] == pytest.approx(found["nss"] * math.sqrt(19 / 20))
    assert found["cc"] == found["sim"] == found["sim_mit"] == pytest.approx(1.0)
    assert found["kl"] == pytest.approx(0.0, abs=1e-12)
    assert found["ig"] == pytest.approx(math.log2(20))
    assert found["ig_mit"] == pytest.approx(math.log2(20))
    assert math.isnan(found["sauc"])


def test_kl_where_the_map_is_zero_has_the_benchmarks_epsilon() -> None:
    values = np.zeros((2, 2))
    values[0, 0] = 1.0
    found = fixation_scores(values, np.array([[1.0, 1.0]]), blur=0.0)
    assert found["kl"] == pytest.approx(math.log(1 / 2.2204e-16), abs=1e-12)
    assert found["ig"] == -math.inf
    assert found["ig_mit"] == pytest.approx(-52 - math.log2(1 / 4 + 2.0**-52))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e6])
def test_a_constant_map_is_at_chance_and_warns_of_nothing(value: float) -> None:
    xy = places(seed=6)
    found = fixation_scores(np.full((7, 9), value), xy, others=places(seed=7), blur=2.0)
    gold = fixation_density(xy, (7, 9), blur=2.0)
    assert {name: found[name] for name in AREAS} == dict.fromkeys(AREAS, 0.5)
    assert [found[name] for name in ("nss", "nss_mit", "cc", "ig")] == [0, 0, 0, 0]
    assert found["ig_mit"] == 0
    assert found["sim"] == pytest.approx(np.minimum(1 / 63, gold).sum())
    assert found["kl"] == pytest.approx((gold * np.log(gold * 63)).sum())


@pytest.mark.filterwarnings("error")
def test_a_constant_density_has_no_correlation() -> None:
    everywhere = np.array([(x, y) for x in range(3) for y in range(2)])
    found = fixation_scores(grid(seed=1, shape=(2, 3)), everywhere, blur=0.0)
    assert found["cc"] == 0
    assert math.isnan(found["auc_judd"])  # no pixel is left that was not looked at
    assert found["auc_uniform"] == 0.5


def test_areas_do_not_change_under_rising_maps_nor_the_rest_under_affine_ones() -> None:
    values, xy, others = grid(seed=8), places(seed=9), places(seed=10)
    first = fixation_scores(values, xy, others=others, blur=1.0)
    risen = fixation_scores(np.exp(5 * values), xy, others=others, blur=1.0)
    moved = fixation_scores(3 * values - 7, xy, others=others, blur=1.0)
    falling = fixation_scores(-values, xy, others=others, blur=1.0)
    for name in AREAS:
        assert risen[name] == pytest.approx(first[name], abs=1e-12)
    for name in ("auc_uniform", "auc_judd_exact", "sauc"):
        assert falling[name] == pytest.approx(1 - first[name], abs=1e-12)
    for name in ("nss", "nss_mit", "cc", "sim_mit", "ig_mit"):
        assert moved[name] == pytest.approx(first[name], abs=1e-9)
    for name in ("nss", "cc"):
        assert falling[name] == pytest.approx(-first[name], abs=1e-12)


def test_a_negative_map_is_moved_up_to_zero_and_a_positive_one_is_left() -> None:
    values, xy = grid(seed=11), places(seed=12)
    low = values - values.max()
    found, raised = (fixation_scores(v, xy, blur=1.0) for v in (low, values - values.min()))
    for name in ("sim", "kl"):
        assert found[name] == pytest.approx(raised[name], abs=1e-9)
    assert fixation_scores(values + 5, xy, blur=1.0)["sim"] != pytest.approx(raised["sim"], abs=1e-3)


def test_duplicates_count_twice_but_once_in_the_variants_of_mit() -> None:
    values = grid(seed=13)
    xy = np.array([[1.2, 3.4], [5.0, 5.0], [8.9, 0.1]])
    twice = np.vstack([xy, [[1.9, 3.0]]])
    first, second = (fixation_scores(values, part, blur=1.0) for part in (xy, twice))
    for name in ("auc_judd", "auc_judd_exact", "nss_mit", "ig_mit"):
        assert second[name] == pytest.approx(first[name], abs=1e-12)
    z = (values - values.mean()) / values.std()
    assert second["nss"] == pytest.approx((2 * z[3, 1] + z[5, 5] + z[0, 8]) / 4)


def test_density_is_scipys_filter_of_the_counts() -> None:
    xy = places(seed=14, n=40, shape=(33, 21))
    counts = np.histogram2d(xy[:, 1], xy[:, 0], bins=(33, 21), range=((0, 33), (0, 21)))[0]
    for blur in (0.4, 3.0, 35.0):
        expected = gaussian_filter(counts, blur, mode="nearest")
        found = fixation_density(xy, (33, 21), blur=blur)
        np.testing.assert_allclose(found, expected / expected.sum(), rtol=0, atol=1e-15)
    np.testing.assert_array_equal(fixation_density(xy, (33, 21), blur=0), counts / 40)


def test_information_gain_of_a_map_over_itself_is_nothing_and_adds_up() -> None:
    values, base, xy = grid(seed=15), grid(seed=16), places(seed=17)
    assert fixation_scores(values, xy, baseline=7 * values)["ig"] == pytest.approx(0, abs=1e-12)
    over_base = fixation_scores(values, xy, baseline=base)["ig"]
    uniform, base_itself = (fixation_scores(v, xy)["ig"] for v in (values, base))
    assert over_base == pytest.approx(uniform - base_itself)


def test_a_map_may_be_a_tensor_and_a_flipped_view() -> None:
    values, xy = grid(seed=18).astype(np.float32), places(seed=19)
    first = fixation_scores(values[::-1], xy)
    second = fixation_scores(torch.from_numpy(values[::-1].copy()).requires_grad_(), torch.from_numpy(xy))
    assert first == pytest.approx(second, nan_ok=True)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"heat": np.ones((2, 7, 9))}, r"shape \(2, 7, 9\)"),
        ({"heat": np.full((7, 9), np.nan)}, "NaN"),
        ({"fixations": np.empty((0, 2))}, "got none"),
        ({"fixations": []}, "got none"),
        ({"fixations": np.ones((4, 3))}, r"shape \(4, 3\)"),
        ({"fixations": [[1, 1], [9, 2]]}, "x < 9 and 0 <= y < 7; 1 of 2 are not, the first at x 9, y 2"),
        ({"fixations": [[1, 7.0]]}, "the first at x 1, y 7"),
        ({"fixations": [[-0.01, 1]]}, "x -0.01"),
        ({"fixations": [[math.nan, 1]]}, "x nan"),
        ({"others": [[0, 0], [3, 8]]}, "other pictures' fixations inside the map.*y 8"),
        ({"others": []}, "other pictures' fixations.*got none"),
        ({"blur": -1.0}, "got -1.0"),
        ({"blur": math.nan}, "got nan"),
        ({"baseline": np.ones((9, 7))}, r"shape \(7, 9\), got shape \(9, 7\)"),
        ({"baseline": -np.ones((7, 9))}, "minimum is -1"),
        ({"baseline": np.eye(7, 9)}, "it is 0 at 1 of 1"),
    ],
)
def test_what_does_not_fit_is_told(changed: dict, match: str) -> None:
    settings = {"heat": grid(seed=0), "fixations": [[1, 2]]} | changed
    with pytest.raises(ValueError, match=match):
        fixation_scores(settings.pop("heat"), settings.pop("fixations"), **settings)


def test_pointing_counts_the_distance_of_the_peak_to_the_region() -> None:
    heat, region = np.zeros((20, 20)), np.zeros((20, 20), bool)
    heat[3, 4] = 1.0
    region[6:9, 8:10] = True  # 3 rows and 4 columns away: 5 pixels
    assert pointing_hit(heat, region, tolerance=5)
    assert not pointing_hit(heat, region, tolerance=4.99)
    assert not pointing_hit(np.ones((20, 20)), region, tolerance=100)
    with pytest.raises(ValueError, match="0 pixels set"):
        pointing_hit(heat, np.zeros((20, 20), bool))
    with pytest.raises(ValueError, match=r"int64 of shape \(20, 20\)"):
        pointing_hit(heat, region.astype(np.int64))
    with pytest.raises(ValueError, match="got -1"):
        pointing_hit(heat, region, tolerance=-1)


# Deletion and insertion


def picture(*, seed: int = 0, side: int = 10) -> torch.Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(weights: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A score whose curves have closed forms: the sum of weight times value."""
    return lambda batch: (batch * weights).sum((1, 2, 3))


def test_curves_of_a_linear_score_are_sums_in_the_maps_order() -> None:
    image, weights = picture(), torch.randn(3, 10, 10, dtype=torch.float64)
    worth = (weights * (image - 0.25)).sum(0)  # what each pixel loses when it becomes .25
    found = deletion_insertion(
        linear(weights), image, worth, n_steps=100, fill=0.25, start=0.25, unit="raw", batch_size=7
    )
    ordered = np.sort(worth.ravel().numpy())[::-1]
    clean = float((weights * image).sum())
    lost = np.concatenate([[0], np.cumsum(ordered)])
    np.testing.assert_allclose(found.deletion.heat, clean - lost, atol=1e-9)
    np.testing.assert_allclose(found.insertion.heat, clean - lost[-1] + lost, atol=1e-9)
    np.testing.assert_allclose(found.deletion.share, np.linspace(0, 1, 101))
    area = float(((clean - lost)[:-1] + (clean - lost)[1:]).sum() / 200)
    assert found.deletion.areas["heat"] == pytest.approx(area)
    assert found.deletion.areas["heat"] < found.deletion.areas["random"].min()
    assert found.insertion.areas["heat"] > found.insertion.areas["random"].max()
    assert (found.step, found.fill, found.start, found.unit, found.against) == (1, "0.25", "0.25", "raw", "")


def test_random_orders_of_a_linear_score_fall_on_a_straight_line() -> None:
    image, weights = picture(seed=1), torch.ones(3, 10, 10, dtype=torch.float64)
    found = deletion_insertion(
        linear(weights), image, torch.ones(10, 10), fill=0.0, start=0.0, unit="raw", n_random=200, seed=3
    )
    total = float(image.sum())
    np.testing.assert_allclose(found.deletion.random.mean(0), total * (1 - found.deletion.share), rtol=0.02)
    assert found.deletion.areas["heat"] == pytest.approx(
        total / 2, rel=0.05
    )  # a constant map is a random order


def test_edges_order_starts_at_the_edge() -> None:
    image = torch.zeros(3, 8, 8)
    image[:, :, 4:] = 1.0
    heat = torch.zeros(8, 8)
    found = deletion_insertion(
        linear(torch.ones(3, 8, 8)), image, heat, n_steps=4, fill=0.0, start=0.0, unit="raw", n_random=2
    )
    assert found.deletion.edges.tolist() == [96, 72, 48, 24, 0] or found.deletion.edges[1] == pytest.approx(
        72
    )
    assert found.deletion.edges[1] == 72  # the edge's 16 pixels, 8 of them white


def test_the_last_step_may_be_shorter_and_the_area_knows_it() -> None:
    found = deletion_insertion(
        lambda batch: batch.mean((1, 2, 3)), torch.ones(3, 10, 10), torch.rand(10, 10), n_steps=7, fill=0.0,
        start=0.0, unit="raw", n_random=1,
    )  # fmt: skip
    assert found.step == 15
    np.testing.assert_allclose(found.deletion.share[-2:], [0.9, 1.0])
    np.testing.assert_allclose(found.deletion.heat, 1 - found.deletion.share, atol=1e-6)
    assert found.deletion.areas["heat"] == pytest.approx(0.5)


def test_z_and_rank_refer_to_the_distractors() -> None:
    image, heat = picture(seed=2), torch.rand(10, 10)
    distractors = torch.stack([picture(seed=s) for s in range(10, 15)])
    score = linear(torch.ones(3, 10, 10, dtype=torch.float64))
    ranks = deletion_insertion(score, image, heat, unit="rank", distractors=distractors, n_random=2)
    zs = deletion_insertion(score, image, heat, unit="z", distractors=distractors, n_random=2)
    raw = deletion_insertion(score, image, heat, unit="raw", n_random=2)
    among = score(distractors).numpy()
    np.testing.assert_allclose(zs.deletion.heat, (raw.deletion.heat - among.mean()) / among.std())
    expected = [
        (among < value).mean() + (among == value).mean() / 2 for value in raw.insertion.random.ravel()
    ]
    np.testing.assert_allclose(ranks.insertion.random.ravel(), expected)
    assert zs.against == "5 distractors"


def test_z_without_distractors_refers_to_the_random_orders() -> None:
    image, heat = picture(seed=2), torch.rand(10, 10)
    score = linear(torch.randn(3, 10, 10, dtype=torch.float64))
    found = deletion_insertion(score, image, heat)
    together = np.concatenate([found.deletion.random.ravel(), found.insertion.random.ravel()])
    assert together.mean() == pytest.approx(0, abs=1e-9)
    assert together.std() == pytest.approx(1)
    assert (found.against, found.fill, found.start) == ("random orders", "mean", "blur, 5 px")


@pytest.mark.filterwarnings("error")
def test_a_constant_score_gives_zeros() -> None:
    found = deletion_insertion(lambda batch: torch.full((len(batch),), 2.5), picture(), torch.rand(10, 10))
    assert not found.deletion.heat.any()
    assert not found.insertion.random.any()
    assert found.table().to_numpy().tolist() == [[0.0] * 5] * 2


def test_the_same_seed_gives_the_same_curves_whatever_the_batches() -> None:
    image, heat = picture(seed=4), torch.zeros(10, 10)
    score = linear(torch.randn(3, 10, 10, dtype=torch.float64))
    first, second, third = (
        deletion_insertion(score, image, heat, fill="noise", batch_size=size, seed=seed)
        for size, seed in ((8, 1), (13, 1), (8, 2))
    )
    np.testing.assert_allclose(first.deletion.heat, second.deletion.heat, atol=1e-12)
    np.testing.assert_allclose(first.insertion.random, second.insertion.random, atol=1e-12)
    assert not np.allclose(first.deletion.heat, third.deletion.heat)


def test_table_gives_areas_and_the_range_of_random_orders() -> None:
    found = deletion_insertion(
        linear(torch.ones(3, 10, 10)), picture().float(), torch.rand(10, 10), n_random=20
    )
    table, areas = found.table(), found.insertion.areas
    assert list(table.columns) == ["heat", "edges", "random", "low", "high"]
    assert table.loc["insertion", "heat"] == areas["heat"]
    assert table.loc["insertion", "random"] == pytest.approx(areas["random"].mean())
    assert areas["random"].min() <= table.loc["insertion", "low"] <= table.loc["insertion", "random"]


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"heat": torch.rand(9, 10)}, r"shape \(10, 10\), got shape \(9, 10\)"),
        ({"heat": torch.rand(2, 10, 10)}, r"got shape \(2, 10, 10\)"),
        ({"heat": torch.full((10, 10), torch.nan)}, "NaN"),
        ({"n_steps": 0}, "n_steps.*got 0"),
        ({"n_random": 0}, "n_random.*got 0"),
        ({"unit": "zz"}, "Unknown unit 'zz'. Did you mean 'z'"),
        ({"unit": "rank"}, "give distractors"),
        ({"seed": -1}, "seed .* at least 0, got -1"),
        ({"unit": "raw", "distractors": torch.rand(2, 3, 10, 10)}, "got 2; use unit"),
        ({"distractors": torch.rand(2, 3, 9, 10)}, r"got shape \(2, 3, 9, 10\)"),
        ({"distractors": torch.rand(2, 3, 10, 10) + 1}, "0 to 1"),
        ({"fill": "inpaint"}, "'inpaint'"),
        ({"fill": "men"}, "Did you mean 'mean'"),
        ({"start": 2.0}, "0 to 1"),
        ({"sigma": 0.0}, "got 0"),
        ({"score": lambda batch: batch.mean((2, 3))}, r"shape \(1, 3\)"),
        ({"score": lambda batch: batch.sum((1, 2, 3)) * torch.nan}, "1 of 1 are NaN"),
    ],
)
def test_what_does_not_fit_the_curves_is_told(changed: dict, match: str) -> None:
    settings = {"score": linear(torch.ones(3, 10, 10)), "heat": torch.rand(10, 10)} | changed
    with pytest.raises(ValueError, match=match):
        deletion_insertion(settings.pop("score"), picture().float(), settings.pop("heat"), **settings)


def test_distractors_that_are_no_tensor_are_told() -> None:
    image = picture()
    with pytest.raises(TypeError, match=r"tensor \(m, 3, h, w\), got list; use torch\.stack"):
        deletion_insertion(lambda x: x.mean((1, 2, 3)), image, image[0], distractors=[image])
