"""Scores against scikit-learn, scipy and closed forms; intervals that cover; p that noise cannot fool."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from brainedit.evaluation import (
    Score,
    accuracy_score,
    auc,
    auc_difference,
    auc_interval,
    auc_score,
    bootstrap_interval,
    mean_over_people,
    permutation_p,
    permuted,
    proportion_score,
    retrieval_ranks,
    retrieval_score,
)


def planted(n, shift, *, seed):
    rng = np.random.default_rng(seed)
    target = np.arange(n) % 2 == 0
    return target, rng.normal(size=n) + shift * target


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_auc_equals_sklearn_with_ties(levels):
    rng = np.random.default_rng(levels)
    target, score = rng.random(300) < 0.2, rng.integers(0, levels, 300)
    assert auc(target, score) == pytest.approx(roc_auc_score(target, score), abs=1e-12)


def test_auc_by_hand():
    assert auc([0, 1], [0.1, 0.9]) == 1.0
    assert auc([1, 0], [0.1, 0.9]) == 0.0
    assert auc([1, 0, 1, 0], [7, 7, 7, 7]) == 0.5


@pytest.mark.parametrize("kind", [0, 1])
def test_auc_of_one_kind_is_refused(kind):
    with pytest.raises(ValueError, match="all 4 trials are of one kind"):
        auc(np.full(4, kind), np.arange(4))


def test_auc_of_nan_or_of_another_length_is_refused():
    with pytest.raises(ValueError, match="1 of 4 are NaN"):
        auc_score([0, 1, 0, 1], [1, np.nan, 2, 3])
    with pytest.raises(ValueError, match=r"targets \(3,\), scores \(2,\)"):
        auc([0, 1, 1], [0.5, 0.7])


def test_permutation_p_is_never_zero_and_counts_ties():
    assert permutation_p(1.0, np.zeros(99)) == 0.01
    assert permutation_p(0.0, np.zeros(99)) == 1.0
    assert permutation_p(0.5, np.array([0.4, 0.5, 0.6])) == 0.75


def test_permutation_stays_inside_its_group():
    rng = np.random.default_rng(0)
    within = np.repeat(["a", "b", "c"], [10, 20, 30])
    target = np.concatenate([np.arange(10) < 1, np.arange(20) < 10, np.arange(30) < 29])
    for _ in range(20):
        new = permuted(target, rng, within=within)
        assert [new[within == g].sum() for g in "abc"] == [1, 10, 29]
    assert (new != target).any()


def test_what_differs_between_groups_alone_is_no_evidence():
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1], 100)
    target = rng.random(200) < np.where(group, 0.8, 0.2)
    score = group + 0.1 * rng.normal(size=200)  # knows the recording, not the trial
    free = auc_score(target, score, n_permutations=400, n_bootstrap=10)
    inside = auc_score(target, score, within=group, n_permutations=400, n_bootstrap=10)
    assert free.value == inside.value > 0.7
    assert free.p < 0.01
    assert inside.p > 0.05
    assert "within" in inside.permuted


def test_targets_that_never_vary_inside_a_group_give_p_one():
    target = np.repeat([True, False], 20)
    score = auc_score(target, target * 1.0, within=target, n_permutations=50, n_bootstrap=10)
    assert (score.value, score.p) == (1.0, 1.0)


def test_p_of_noise_is_uniform():
    p = [auc_score(*planted(40, 0, seed=s), n_permutations=99, n_bootstrap=2, seed=s).p for s in range(100)]
    assert min(p) >= 0.01
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_interval_covers_the_true_auc():
    truth = stats.norm.cdf(1 / np.sqrt(2))
    scores = [
        auc_score(*planted(80, 1, seed=s), n_permutations=1, n_bootstrap=200, seed=s) for s in range(60)
    ]
    covered = np.mean([s.low <= truth <= s.high for s in scores])
    assert 0.85 <= covered <= 1
    assert np.mean([s.high - s.low for s in scores]) == pytest.approx(4 * 0.053, abs=0.04)  # Hanley-McNeil


def test_units_are_drawn_whole():
    target, score = planted(30, 1, seed=0)
    copied = {"n_permutations": 1, "n_bootstrap": 1000}
    plain = auc_score(target, score, **copied)
    blown = auc_score(target.repeat(20), score.repeat(20), **copied)
    units = auc_score(
        target.repeat(20), score.repeat(20), unit="picture", units=np.arange(30).repeat(20), **copied
    )
    assert (units.n, units.unit, blown.n) == (30, "picture", 600)
    assert units.value == pytest.approx(plain.value)
    assert units.high - units.low == pytest.approx(plain.high - plain.low, rel=0.15)
    assert blown.high - blown.low < 0.5 * (units.high - units.low)


def test_same_seed_same_score():
    data = planted(50, 0.5, seed=2)
    first = auc_score(*data, n_permutations=50, n_bootstrap=50)
    assert first == auc_score(*data, n_permutations=50, n_bootstrap=50)
    assert first != auc_score(*data, n_permutations=50, n_bootstrap=50, seed=1)


def test_a_score_is_json_and_a_sentence():
    score = Score("AUC", 0.71234, 40, "trial", 0.5, 0.6, 0.8, p=0.0004, n_permutations=3000)
    assert json.loads(json.dumps(score.as_dict()))["value"] == 0.71234
    assert str(score) == (
        "AUC 0.712 (95 % interval 0.600 to 0.800 over 40 trials; chance 0.500, permutation p < 0.001)"
    )
    assert "permutation" not in str(Score("x", 0.1, 4, "trial", 0.5, 0, 1))


def test_difference_of_a_score_to_itself_is_zero():
    target, score = planted(60, 1, seed=3)
    same = auc_difference(target, score, 2 * score + 1, n_bootstrap=100)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_difference_is_paired():
    target, signal = planted(300, 1.5, seed=4)
    rng = np.random.default_rng(0)
    close = auc_difference(target, signal, signal + 0.1 * rng.normal(size=300), n_bootstrap=300)
    worse = auc_difference(target, signal, rng.normal(size=300), n_bootstrap=300)
    assert close.high - close.low < 0.02  # unpaired it would be about .1
    assert worse.value == pytest.approx(auc(target, signal) - 0.5, abs=0.1)
    assert worse.low > 0.1


@pytest.mark.parametrize(("k", "n"), [(0, 12), (7, 12), (12, 12), (91, 100)])
def test_proportion_is_clopper_pearson_and_binomial(k, n):
    score = proportion_score(np.arange(n) < k, name="hits", chance=0.25, unit="picture")
    assert score.value == k / n
    assert score.low == pytest.approx(stats.beta.ppf(0.025, k, n - k + 1) if k else 0)
    assert score.high == pytest.approx(stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1)
    assert score.p == pytest.approx(stats.binom.sf(k - 1, n, 0.25))


def test_proportion_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one picture; there are 0"):
        proportion_score([], name="hits", chance=0.25, unit="picture")


def test_ranks_by_hand():
    compatibility = np.array([[3.0, 2, 1], [3, 2, 1], [5, 5, 5], [1, 4, 4]])
    assert retrieval_ranks(compatibility, np.array([0, 2, 1, 2])).tolist() == [0, 2, 1, 0.5]


def test_retrieval_of_the_identity_is_perfect():
    score = retrieval_score(np.eye(12), np.arange(12), n_permutations=200)
    assert (score.value, score.low, score.high, score.n) == (1, 1, 1, 12)
    assert score.p == pytest.approx(1 / 201)
    assert score.chance == pytest.approx(1 / 12)


def test_retrieval_of_a_wrong_pairing_is_zero():
    score = retrieval_score(np.eye(12), np.roll(np.arange(12), 1), n_permutations=200)
    assert score.value == 0
    assert score.p > 0.5


def test_retrieval_of_noise_is_at_chance():
    compatibility = np.random.default_rng(0).normal(size=(600, 20))
    score = retrieval_score(compatibility, np.arange(600) % 20, k=5, n_permutations=200)
    assert score.value == pytest.approx(0.25, abs=0.06)
    assert score.p > 0.02


@pytest.mark.parametrize(("m", "k"), [(2, 1), (6, 1), (6, 5), (3, 2)])
def test_a_constant_compatibility_scores_at_chance(m, k):
    score = retrieval_score(np.zeros((m * 4, m)), np.arange(m * 4) % m, k=k, n_permutations=20)
    assert score.value == pytest.approx(k / m)
    assert score.p == 1


def test_nan_compatibility_is_no_hit():
    compatibility = np.eye(4)
    compatibility[2, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 16 are NaN"):
        retrieval_score(compatibility, np.arange(4))


def test_repeats_of_a_picture_are_one_unit():
    """One picture of two retrieved by all of its 50 responses is no evidence."""
    own = np.repeat([0, 1], 50)
    score = retrieval_score(np.tile([1.0, 0.0], (100, 1)), own, n_permutations=200)
    assert (score.value, score.n) == (0.5, 2)
    assert score.p == 1
    assert score.high - score.low > 0.9


def test_permutation_moves_whole_pictures():
    """Two of four pictures are found by all their responses at once: luck in 7 of 24 orders, not less."""
    own = np.repeat(np.arange(4), 30)
    score = retrieval_score(np.eye(4)[[0, 1, 3, 2]][own], own, n_permutations=2000)
    assert score.value == 0.5
    assert score.p == pytest.approx(7 / 24, abs=0.04)


def test_a_group_with_two_pictures_is_refused():
    with pytest.raises(ValueError, match="group 's1' has several"):
        retrieval_score(np.eye(4), np.arange(4), groups=np.array(["s1", "s1", "s2", "s2"]))


def test_accuracy_of_right_choices_and_of_the_more_frequent_category():
    own = np.repeat([0, 1, 2], [60, 20, 20])
    right = accuracy_score(own, own)
    assert right.value == 1
    assert right.chance == pytest.approx(0.6**2 + 2 * 0.2**2, abs=0.01)  # sum of squared shares
    assert right.p == pytest.approx(1 / 2001)
    lazy = accuracy_score(own, np.zeros(100))
    assert lazy.value == pytest.approx(0.6)
    assert lazy.chance == pytest.approx(0.6)
    assert lazy.p == 1
    with pytest.raises(ValueError, match=r"got \(2,\) for \(3,\)"):
        accuracy_score(np.zeros(3), np.zeros(2))


# the unit of the interval


def test_retrieval_over_people_trials_and_pictures():
    """Five people of whom two find everything: few units, a wide interval, the same value."""
    own, person = np.tile(np.arange(20), 5), np.repeat(list("abcde"), 20)
    f = np.where((person < "c")[:, None], np.eye(20)[own], np.eye(20)[(own + 1) % 20])
    people = retrieval_score(f, own, unit="person", units=person, n_permutations=50)
    trials = retrieval_score(f, own, unit="trial", n_permutations=50)
    pictures = retrieval_score(f, own, n_permutations=50)
    assert people.value == trials.value == pictures.value == 0.4
    assert people.p == trials.p == pictures.p
    assert [(s.unit, s.n) for s in (people, trials, pictures)] == [
        ("person", 5),
        ("trial", 100),
        ("picture", 20),
    ]
    assert pictures.high - pictures.low == 0  # each picture is found by two of five
    assert trials.high - trials.low == pytest.approx(3.92 * np.sqrt(0.4 * 0.6 / 100), rel=0.2)
    assert people.high - people.low == pytest.approx(3.92 * np.sqrt(0.4 * 0.6 / 5), rel=0.2)
    assert "over 5 persons" in str(people)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "person"}, "needs each response's person; none came"),
        ({"units": np.arange(4)}, "they came for unit='picture'"),
        ({"unit": "subject", "units": np.arange(4)}, "Unknown unit 'subject'"),
        ({"k": 5}, "k from 1 to the gallery's 4 pictures; got 5"),
        ({"k": 0}, "4 pictures; got 0"),
    ],
)
def test_a_unit_or_a_k_that_does_not_fit_is_told(settings, message):
    with pytest.raises(ValueError, match=message):
        retrieval_score(np.eye(4), np.arange(4), **settings)


@pytest.mark.parametrize("own", [[0, 1, 2, -1], [0, 1, 2, 4], [0, 1, 2]])
def test_a_column_that_is_none_of_the_gallerys_is_told(own):
    with pytest.raises(
        ValueError, match=rf"own column of F \(4, 4\); got \({len(own)},\) from .* to {max(own)}"
    ):
        retrieval_score(np.eye(4), np.array(own), groups=np.arange(len(own)))


def test_permutation_keeps_units_whole_or_stays_inside_them():
    rng = np.random.default_rng(0)
    picture, person = np.repeat(np.arange(6), 5), np.tile(np.arange(5), 6)
    label = picture % 3
    for _ in range(20):
        whole = permuted(label, rng, units=picture).reshape(6, 5)
        assert (whole == whole[:, :1]).all()
        assert sorted(whole[:, 0]) == [0, 0, 1, 1, 2, 2]
        inside = permuted(label, rng, units=person)
        assert all(sorted(inside[person == who]) == [0, 0, 1, 1, 2, 2] for who in range(5))
    assert (whole.ravel() != label).any()


def test_accuracy_of_repeated_pictures_is_no_more_than_of_pictures():
    """Two pictures a label, all 40 repeats of each called right: 4 units, not 160."""
    own = np.repeat([0, 0, 1, 1], 40)
    blown = accuracy_score(own, own)
    score = accuracy_score(own, own, unit="picture", units=np.repeat(np.arange(4), 40))
    assert (score.value, score.n, score.unit) == (1, 4, "picture")
    assert score.p == pytest.approx(1 / 6, abs=0.03)  # one of the six ways to deal the labels
    assert blown.p < 0.001


# a mean over people


def of_person(value, *, name="top-1 of 200", chance=0.005):
    return Score(name, value, 200, "picture", chance, 0, 1)


def test_mean_over_people_by_hand():
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    score = mean_over_people({f"s{i}": of_person(v) for i, v in enumerate(values)})
    assert score.value == pytest.approx(0.3)
    assert score.sd == pytest.approx(np.sqrt(0.025))
    assert (score.n, score.unit, score.chance) == (5, "person", pytest.approx(0.005))
    half = 1.96 * np.std(values) / np.sqrt(5)
    assert (score.low, score.high) == (
        pytest.approx(0.3 - half, abs=0.02),
        pytest.approx(0.3 + half, abs=0.02),
    )
    assert score.p == 1 / 32  # the best of all flips of five signs
    assert str(score).startswith("mean over people: top-1 of 200 0.300 (SD 0.158, 95 % interval 0.1")
    assert json.loads(json.dumps(score.as_dict()))["sd"] == score.sd


@pytest.mark.parametrize("n", [8, 20])
def test_p_over_people_is_that_of_the_sign_flip_test(n):
    values = np.random.default_rng(n).normal(0.52, 0.06, n)
    score = mean_over_people({i: of_person(v, chance=0.5) for i, v in enumerate(values)})
    expected = stats.permutation_test(
        (values - 0.5,), np.mean, permutation_type="samples", alternative="greater", n_resamples=20_000, rng=0
    )
    assert score.p == pytest.approx(expected.pvalue, abs=0.02 if n > 12 else 1e-9)


def test_one_person_or_other_scores_have_no_mean():
    with pytest.raises(ValueError, match="two or more of them; got sub-01"):
        mean_over_people({"sub-01": of_person(0.3)})
    with pytest.raises(ValueError, match="got 'top-1 of 100' and 'top-1 of 200'"):
        mean_over_people({"a": of_person(0.3), "b": of_person(0.4, name="top-1 of 100")})


@pytest.mark.parametrize(("n", "n_units"), [(60, None), (300, 20), (12, 4)])
def test_the_interval_of_an_auc_is_that_of_drawn_trials(n, n_units):
    rng = np.random.default_rng(1)
    target = rng.random(n) < 0.4
    score = np.round(rng.standard_normal(n) + target, 1)  # with ties
    units = None if n_units is None else rng.integers(0, n_units, n)
    group = rng.integers(0, 2, n)

    def inside(i):
        right = pairs = 0.0
        for k in (0, 1):
            wanted, values = target[i][group[i] == k], score[i][group[i] == k]
            difference = values[wanted][:, None] - values[~wanted]
            right, pairs = (
                right + (difference > 0).sum() + (difference == 0).sum() / 2,
                pairs + difference.size,
            )
        return right / pairs if pairs else np.nan

    draws = {"units": units, "n_bootstrap": 200}
    found = auc_interval(target, score, group=group, rng=np.random.default_rng(3), **draws)
    expected = bootstrap_interval(inside, n, units, 200, np.random.default_rng(3))
    assert found == pytest.approx(expected, abs=1e-12)
