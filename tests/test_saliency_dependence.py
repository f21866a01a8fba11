"""Tests of EEG dependence and of z by controls on simulated maps: smooth fields with and without planted truth."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from saliency.dependence import eeg_dependence, map_z

SIDE, N_FEATURES = 12, 16


def fields(rng, *shape):
    """Smooth random fields (*shape, SIDE, SIDE) of unit deviation."""
    noise = rng.normal(size=(*shape, SIDE, SIDE))
    smooth = gaussian_filter(noise, (*[0] * len(shape), 2, 2), mode="wrap")
    return smooth / smooth.std()


def simulated(rng, n=10, *, k=None, common=1.0, dependence=0.0, noise=1.0):
    """Maps of n pictures from two halves of k sources: a picture's own map, and features weighed by a response.

    noise : of the response, per source; dependence : of what comes again in both halves of a source
    """
    k = n if k is None else k
    noise = np.broadcast_to(noise, k)[:, None]
    picture, features = fields(rng, n, 1), fields(rng, n, N_FEATURES) / np.sqrt(N_FEATURES)
    own = dependence * rng.normal(size=(k, N_FEATURES))
    halves = (own + noise * rng.normal(size=(k, N_FEATURES)) for _ in range(2))
    return [common * picture + np.tensordot(half, features, (1, 1)).swapaxes(0, 1) for half in halves]


def found(maps, **settings):
    n, k = maps[0].shape[:2]
    settings = {"n_permutations": 200, "n_bootstrap": 50, "own": range(n) if k >= n else None, **settings}
    return eeg_dependence(*maps, **settings)


def false_alarms(make, *, n_sets=120, **settings):
    rng = np.random.default_rng(7)
    return np.mean([found(make(rng), **settings).p <= 0.05 for _ in range(n_sets)])


def r_of(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def orthogonal(n):
    """n maps (8, 8) of unit length, of mean 0, at right angles to each other."""
    basis = np.linalg.qr(np.column_stack([np.ones(64), np.random.default_rng(0).normal(size=(64, n))]))[0]
    return basis[:, 1:].T.reshape(n, 8, 8)


def test_value_is_the_mean_difference_of_correlations():
    first, second = simulated(np.random.default_rng(0), 4, dependence=0.5)
    result, d = eeg_dependence(first, second), []
    for i in range(4):
        r = [(r_of(first[i, i], second[i, j]) + r_of(second[i, i], first[i, j])) / 2 for j in range(4)]
        d.append(r[i] - np.mean(np.delete(r, i)))
        np.testing.assert_allclose(result.correlations[i], r, atol=1e-12)
    np.testing.assert_allclose(result.by_picture, d, atol=1e-12)
    assert result.value == pytest.approx(np.mean(d))
    assert result.r_own - result.r_other == pytest.approx(np.mean(d))
    assert result.n_pictures == 4


def test_value_of_maps_that_share_a_known_part():
    shared, *own = orthogonal(6)
    maps = [np.stack([0.8 * shared + 0.6 * part for part in own])] * 5
    result = eeg_dependence(maps, maps)
    assert result.r_own == pytest.approx(1)
    assert result.r_other == pytest.approx(0.64)
    assert result.value == pytest.approx(0.36)
    assert result.ci == pytest.approx((0.36, 0.36))
    assert result.p == pytest.approx(1 / 120)


@pytest.mark.parametrize("common", [0.0, 4.0])
def test_false_alarms_are_rare_with_and_without_a_picture_part(common):
    # of 120 sets 6 are expected, and more than 14 come once in a thousand times
    assert 0 < false_alarms(lambda rng: simulated(rng, common=common)) <= 0.12


def test_false_alarms_are_rare_where_half_maps_are_noisy():
    assert 0 < false_alarms(lambda rng: simulated(rng, common=0.3)) <= 0.12


def test_null_counts_what_unlike_noise_of_the_responses_adds():
    rng = np.random.default_rng(7)
    results = [found(simulated(rng, noise=np.exp(0.7 * rng.normal(size=10)))) for _ in range(120)]
    values = np.array([result.value for result in results])
    centres = np.array([sum(result.null_interval) / 2 for result in results])
    assert values.mean() > 0.02  # which a null around 0 would take for dependence
    assert abs((values - centres).mean()) < 0.02
    assert np.mean([result.p <= 0.05 for result in results]) <= 0.12


def test_false_alarms_with_four_pictures_stay_within_the_level():
    assert false_alarms(lambda rng: simulated(rng, 4)) <= 0.12  # 1 of 24 relabellings: 4.2 %


def test_false_alarms_of_one_picture_stay_within_the_level():
    assert false_alarms(lambda rng: simulated(rng, 1, k=20), own=[0]) <= 0.12


def test_p_is_uniform_without_dependence():
    rng = np.random.default_rng(3)
    p = np.array([found(simulated(rng)).p for _ in range(120)])
    for level in (0.2, 0.5, 0.8):
        assert np.mean(p <= level) == pytest.approx(level, abs=0.15)


def test_value_rises_with_planted_dependence():
    rng = np.random.default_rng(1)
    strengths = [0, 0.5, 1, 2]
    values = [np.mean([found(simulated(rng, dependence=d)).value for _ in range(10)]) for d in strengths]
    assert abs(values[0]) < 0.06
    assert np.all(np.diff(values) > 0.05)
    strong = found(simulated(rng, dependence=2))
    assert strong.p == pytest.approx(1 / 201)
    assert strong.null_interval[1] < strong.ci[0] < strong.value < strong.ci[1]


def test_gain_and_offset_of_sources_do_not_matter():
    rng = np.random.default_rng(2)
    first, second = simulated(rng, dependence=0.5)
    gain, offset = np.exp(2 * rng.normal(size=(2, 10, 1, 1))), rng.normal(size=(2, 10, 1, 1))
    plain = found((first, second))
    scaled = found((gain[0] * first + offset[0], gain[1] * second + offset[1]))
    np.testing.assert_allclose(scaled.by_picture, plain.by_picture, atol=1e-9)
    assert scaled.p == plain.p


def test_maps_that_differ_only_in_sign_depend_on_the_eeg():
    rng = np.random.default_rng(4)
    results = []
    for _ in range(20):
        signs = np.where(np.eye(8, dtype=bool), 1, rng.choice([-1, 1], size=(8, 8)))[..., None, None]
        picture = signs * fields(rng, 8, 1)
        results.append(found([picture + 0.3 * fields(rng, 8, 8) for _ in range(2)]))
    assert np.mean([result.p <= 0.05 for result in results]) >= 0.9
    assert np.mean([result.value for result in results]) > 0.6
    for result in results:  # what unlike strength may explain is bounded, however it is estimated
        assert sum(result.null_interval) / 2 <= 0.5


def test_maps_that_only_the_own_response_gives_depend_on_the_eeg():
    rng = np.random.default_rng(5)
    picture = np.eye(8)[..., None, None] * fields(rng, 8, 1)
    result = found([picture + fields(rng, 8, 8) for _ in range(2)])
    assert result.p <= 0.05
    assert result.match_p <= 0.05
    assert "They do so most for the responses to these very pictures" in result.verdict


def test_a_drift_is_dependence_but_no_match():
    rng = np.random.default_rng(6)
    results = [found(simulated(rng, dependence=1.5)) for _ in range(60)]
    assert np.mean([result.p <= 0.05 for result in results]) > 0.95
    assert np.mean([result.match_p <= 0.05 for result in results]) <= 0.15
    unmatched = next(result for result in results if result.match_p > 0.05)
    assert "is not shown" in unmatched.verdict


def test_a_source_with_one_map_for_all_pictures_adds_its_share_only():
    shared, odd, *noise = orthogonal(42)
    first = np.stack([np.stack([shared + part for part in noise[:20]])] * 20)
    second = np.stack([np.stack([shared + part for part in noise[20:]])] * 20)
    before = found((first, second))
    first[:, 3] = second[:, 3] = odd
    after = found((first, second))
    assert before.value == pytest.approx(0, abs=1e-9)
    assert np.flatnonzero(after.by_picture > 0.5).tolist() == [3]
    assert after.value == pytest.approx(1 / 20 + 0.5 * 19 / 20 / 19, abs=1e-6)
    assert after.match_p > 0.05


def test_constant_maps_have_no_correlation(recwarn):
    maps = [np.full((3, 3, 4, 4), value) for value in (0.0, 0.1)]
    result = eeg_dependence(*maps)
    assert (result.value, result.r_own, result.r_other) == (0, 0, 0)
    assert result.p == 1
    rounding = np.float32(0.3) + np.float32(3e-8) * np.random.default_rng(0).integers(0, 2, (3, 3, 4, 4))
    assert eeg_dependence(rounding, rounding).value == 0
    assert not recwarn.list


def test_few_pictures_take_every_relabelling_and_name_the_floor():
    maps = simulated(np.random.default_rng(0), 4, dependence=5)
    result = found(maps)
    assert (result.n_permutations, result.p_floor) == (24, 1 / 24)
    assert result.p == pytest.approx(1 / 24)
    three = found(simulated(np.random.default_rng(0), 3, dependence=5))
    assert three.p == pytest.approx(1 / 6)
    assert three.verdict == (
        "3 pictures and 3 responses are too few to tell whether the maps depend on the EEG: p cannot fall "
        "below 0.17."
    )


def test_one_picture_is_ranked_among_its_sources():
    first, second = simulated(np.random.default_rng(0), 1, k=25, dependence=5)
    result = eeg_dependence(first, second, own=[7])
    assert (result.n_permutations, result.p) == (25, 1 / 25)
    assert np.isnan([*result.ci, result.match, result.match_p]).all()
    assert "One picture alone, so p = 0.04 is the rank of its own response among 25" in result.verdict
    assert "nan" not in result.verdict


def test_own_names_each_pictures_source():
    first, second = simulated(np.random.default_rng(0), 6, dependence=1)
    order = np.random.default_rng(1).permutation(6)
    plain = eeg_dependence(first, second)
    moved = eeg_dependence(first[:, order], second[:, order], own=np.argsort(order))
    np.testing.assert_allclose(moved.by_picture, plain.by_picture)
    assert (moved.p, moved.match_p) == pytest.approx((plain.p, plain.match_p))


def test_two_pictures_may_share_a_source_and_differ_in_size():
    first, second = simulated(np.random.default_rng(0), 3, k=8, dependence=5)
    maps = [[half[0], half[1, :, :9], torch.from_numpy(half[2]).float()] for half in (first, second)]
    result = eeg_dependence(*maps, own=[2, 2, 5])
    assert result.n_permutations == 8 * 7
    assert result.p == pytest.approx(1 / 56)
    same = eeg_dependence(*maps, own=[2, 2, 2], n_permutations=8)
    assert np.isnan(same.match_p)
    assert "nan" not in same.verdict


def test_interval_is_wider_than_the_percentiles_for_few_pictures():
    maps = simulated(np.random.default_rng(0), 6, dependence=1)
    result = eeg_dependence(*maps, n_bootstrap=5000)
    d = result.by_picture
    half = 1.96 * d.std() / np.sqrt(6)
    assert result.ci[1] - result.ci[0] > 2 * half * 1.1
    assert result.ci[0] < d.mean() < result.ci[1]


def test_seed_makes_it_repeatable():
    maps = simulated(np.random.default_rng(0), dependence=0.3)
    one, two, other = (found(maps, seed=seed) for seed in (1, 1, 2))
    assert (one.p, one.ci, one.null_interval) == (two.p, two.ci, two.null_interval)
    assert one.ci != other.ci


def test_verdicts_of_picture_maps_and_of_brain_maps():
    rng = np.random.default_rng(0)
    assert "cannot be told from picture maps" in found(simulated(rng)).verdict
    assert found(simulated(rng, dependence=2)).verdict.startswith("The maps depend on the EEG (D = 0.")


@pytest.mark.parametrize(
    ("first", "second", "own", "message"),
    [
        (np.zeros((0, 2, 4, 4)), np.zeros((0, 2, 4, 4)), None, "got 0 and 0"),
        (np.ones((2, 2, 4, 4)), np.ones((3, 2, 4, 4)), None, "got 2 and 3"),
        (np.ones((2, 2, 4, 4)), np.ones((2, 2, 4, 5)), None, r"picture 0, got \(2, 4, 4\) and \(2, 4, 5\)"),
        (np.ones((2, 4, 4)), np.ones((2, 4, 4)), None, r"got \(4, 4\) and"),
        (np.ones((1, 1, 4, 4)), np.ones((1, 1, 4, 4)), None, "2 sources to compare, got 1"),
        (np.full((2, 2, 4, 4), np.nan), np.ones((2, 2, 4, 4)), None, "picture 0 of finite values"),
        (np.ones((2, 3, 4, 4)), np.ones((2, 3, 4, 4)), None, "2 pictures and 3 sources"),
        (np.ones((2, 3, 4, 4)), np.ones((2, 3, 4, 4)), [0, 3], r"from 0 to 2 as own, got \[0, 3\]"),
        (np.ones((2, 3, 4, 4)), np.ones((2, 3, 4, 4)), [0, -1], r"got \[0, -1\]"),
        (np.ones((2, 3, 4, 4)), np.ones((2, 3, 4, 4)), [0], r"2 sources .* got \[0\]"),
        (np.ones((2, 3, 4, 4)), np.ones((2, 3, 4, 4)), [0, 1.5], r"got \[0, 1\.5\]"),
    ],
)
def test_maps_that_do_not_fit_are_told(first, second, own, message):
    with pytest.raises(ValueError, match=message):
        eeg_dependence(first, second, own=own)


def test_pictures_must_have_the_same_sources():
    maps = [np.ones((3, 4, 4)), np.ones((2, 4, 4))]
    with pytest.raises(ValueError, match="picture 1 has 2, the first has 3"):
        eeg_dependence(maps, maps)


@pytest.mark.parametrize("name", ["n_permutations", "n_bootstrap"])
def test_counts_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} .* got 0"):
        eeg_dependence(np.ones((2, 2, 4, 4)), np.ones((2, 2, 4, 4)), **{name: 0})


def test_z_is_by_mean_and_deviation_of_the_controls():
    rng = np.random.default_rng(0)
    own, controls = torch.from_numpy(fields(rng)), torch.from_numpy(fields(rng, 100))
    z, _ = map_z(own, controls)
    expected = (own - controls.mean(0)) / controls.std(0)
    np.testing.assert_allclose(z, expected, atol=1e-9)


def test_z_p_is_the_rank_of_the_maximum_each_by_all_others():
    rng = np.random.default_rng(1)
    maps = fields(rng, 101)
    largest = []
    for i in range(101):
        rest = np.delete(maps, i, 0)
        largest.append(np.abs((maps[i] - rest.mean(0)) / rest.std(0, ddof=1)).max())
    assert map_z(maps[0], maps[1:])[1] == pytest.approx(np.mean(np.array(largest) >= largest[0]))


def test_z_false_alarms_keep_the_level_and_a_planted_spot_is_found():
    rng = np.random.default_rng(2)
    maps = fields(rng, 400)
    p = np.array([map_z(maps[i], np.delete(maps, i, 0)[rng.choice(399, 100, False)])[1] for i in range(200)])
    assert 0.01 <= np.mean(p <= 0.05) <= 0.10
    spotted = maps[0].copy()
    spotted[5:8, 7:10] += 8
    z, p = map_z(spotted, maps[1:101])
    assert p == pytest.approx(1 / 101)
    assert np.unravel_index(np.abs(z).argmax(), z.shape)[0] in (5, 6, 7)


def test_z_of_pixels_that_never_vary():
    maps = fields(np.random.default_rng(3), 101)
    p_before = map_z(maps[0], maps[1:])[1]
    maps[:, :4] = 0.7
    maps[:, :4] += 1e-9 * np.random.default_rng(4).normal(size=(101, 4, SIDE))
    z, p = map_z(maps[0], maps[1:])
    assert np.abs(z[:4]).max() < 0.1
    assert p_before > 0.05
    assert p > 0.05
    zero, p = map_z(np.zeros((4, 4)), np.zeros((100, 4, 4)))
    assert not zero.any()
    assert p == 1
    outlier, p = map_z(np.ones((4, 4)), np.zeros((100, 4, 4)))
    assert np.isfinite(outlier).all()
    assert p == pytest.approx(1 / 101)
    one_control = np.zeros((100, 4, 4))
    one_control[3] = 1
    assert map_z(np.zeros((4, 4)), one_control)[1] == 1


def test_z_says_when_controls_are_few(caplog):
    maps = fields(np.random.default_rng(0), 20)
    map_z(maps[0], maps[1:])
    assert "19 control maps are few: p cannot fall below 0.050" in caplog.text
    with pytest.raises(ValueError, match="at least 2 control maps, and better 100, got 1"):
        map_z(maps[0], maps[1:2])
    with pytest.raises(ValueError, match=r"got \(12, 12\) and \(19, 12, 11\)"):
        map_z(maps[0], maps[1:, :, 1:])
    with pytest.raises(ValueError, match="control maps of finite values"):
        map_z(maps[0], maps[1:] * np.inf)


def test_maps_that_do_not_see_the_eeg_lie_inside_the_null():
    for seed in range(5):
        maps = np.random.default_rng(seed).random((6, 1, 24, 24)).repeat(6, 1)
        result = eeg_dependence(maps, maps, n_permutations=100, n_bootstrap=10)
        assert (result.value, result.null_interval, result.p) == (0, (0, 0), 1)
