"""Accuracy against repeats follows its closed form; transductive tricks do what they are known for, and say so."""

import numpy as np
import pytest
from scipy.stats import norm

from brainedit.retrieval import _sinkhorn, repeat_curve, transductive_retrieval

QUICK = {"n_permutations": 2, "n_bootstrap": 2}
GALLERY = [f"p{i}" for i in range(12)]


def trials(n_repeats=16, *, noise=2.0, seed=0, n_dims=12):
    """Responses that are their picture's unit vector under noise, shuffled; and the function that averages them."""
    rng = np.random.default_rng(seed)
    column = rng.permutation(np.repeat(np.arange(12), n_repeats))
    eeg = np.eye(12, n_dims)[column] + noise * rng.normal(size=(len(column), n_dims))
    seen = []

    def compatibility_of(groups):
        seen.append(groups)
        return np.stack([eeg[group].mean(0) for group in groups])

    return np.array(GALLERY)[column], compatibility_of, seen


def expected_top1(k, noise=2.0):
    """P(the own of 12 independent normals is largest), its mean 1 and the others' 0."""
    x = np.linspace(-12, 12, 20001)
    sd = noise / np.sqrt(k)
    return np.trapezoid(norm.pdf(x, 1, sd) * norm.cdf(x, 0, sd) ** 11, x)


def test_more_repeats_are_better_as_theory_says():
    keys, compatibility_of, _ = trials(160)
    curve = repeat_curve(compatibility_of, keys, GALLERY, repeats=[1, 4, 16], n_permutations=20)
    for k, (top1, top5) in curve.items():
        assert top1.value == pytest.approx(expected_top1(k), abs=0.07)
        assert top5.value > top1.value
    assert curve[1][0].name == "single trials, top-1 of 12"
    assert curve[4][1].name == "4 repeats averaged, top-5 of 12"
    assert (curve[4][0].n, curve[4][0].unit, curve[4][0].chance) == (12, "picture", 1 / 12)


def test_the_default_points_and_what_is_averaged():
    keys, compatibility_of, seen = trials(11)
    curve = repeat_curve(compatibility_of, keys, GALLERY, **QUICK)
    assert list(curve) == [1, 2, 4, 8, 11]
    for k, groups in zip(curve, seen, strict=True):
        used = np.concatenate(groups)
        assert len(set(used)) == len(used) == 12 * (11 // k) * k  # no trial twice, a remainder left out
        assert {len(group) for group in groups} == {k}
        assert all(len(set(keys[group])) == 1 for group in groups)
    assert [list(repeat_curve(compatibility_of, trials(n)[0], GALLERY, **QUICK)) for n in (1, 4)] == [
        [1],
        [1, 2, 4],
    ]


def test_the_deal_is_random_and_seeded():
    keys, compatibility_of, seen = trials(8)
    for seed in (0, 0, 1):
        repeat_curve(compatibility_of, keys, GALLERY, repeats=[4], **QUICK, seed=seed)
    first, again, other = ([group.tolist() for group in groups] for groups in seen)
    assert first == again != other


def test_the_order_of_the_gallery_is_the_callers():
    keys, compatibility_of, _ = trials(8, noise=0.01)
    order = np.random.default_rng(0).permutation(12)
    turned = repeat_curve(
        lambda groups: compatibility_of(groups)[:, order], keys, [GALLERY[i] for i in order], n_permutations=2
    )
    assert turned[1][0].value == 1
    assert repeat_curve(compatibility_of, keys, GALLERY[::-1], **QUICK)[1][0].value == 0


def test_pictures_that_were_not_shown_stay_in_the_gallery():
    keys, compatibility_of, _ = trials(4)
    shown = keys != "p3"
    index = np.flatnonzero(shown)
    curve = repeat_curve(
        lambda groups: compatibility_of([index[g] for g in groups]), keys[shown], GALLERY, n_permutations=2
    )
    assert (curve[4][0].name, curve[4][0].n) == ("4 repeats averaged, top-1 of 12", 11)


def test_a_small_gallery_has_no_top5():
    curve = repeat_curve(lambda groups: np.eye(4), np.arange(4), [0, 1, 2, 3], **QUICK)
    assert [score.name for score in curve[1]] == ["single trials, top-1 of 4"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeats": [1, 5]}, "Every picture has 4 or more repeats; 5 cannot"),
        ({"repeats": [0]}, "repeats; 0 cannot"),
        ({"gallery": GALLERY[1:]}, "gallery of 11 different ones; 'p0' is not in it"),
        ({"gallery": [*GALLERY, "p0"]}, "gallery of 13 different ones; 48 trials, 12 names"),
        ({"compatibility_of": lambda groups: np.zeros((3, 12))}, r"got \(3, 12\) where \(48, 12\)"),
    ],
)
def test_what_does_not_fit_is_told(settings, message):
    keys, compatibility_of, _ = trials(4)
    given = {"compatibility_of": compatibility_of, "keys": keys, "gallery": GALLERY} | settings
    with pytest.raises(ValueError, match=message):
        repeat_curve(**given)


# transductive


def hubs(n=60, seed=0):
    """F of a planted pairing where some pictures fit every response."""
    rng = np.random.default_rng(seed)
    return 1.5 * np.eye(n) + 0.5 * rng.normal(size=(n, n)) + 0.7 * rng.normal(size=n)


@pytest.mark.parametrize("method", ["csls", "sinkhorn", "hungarian", "whiten"])
def test_each_trick_removes_hubs_and_says_what_it_is(method):
    f = hubs()
    scores = transductive_retrieval(f, np.arange(60), method=method, n_permutations=20)
    plain = (f.argmax(1) == np.arange(60)).mean()
    assert plain < 0.4
    assert scores[0].value > plain + 0.15
    names = [score.name for score in scores]
    assert names == [
        f"transductive: {method}, top-{k} of 60" for k in ((1,) if method == "hungarian" else (1, 5))
    ]


@pytest.mark.parametrize("method", ["csls", "sinkhorn", "hungarian", "whiten"])
def test_a_trick_on_noise_is_at_chance(method):
    values = []
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=(40, 40))
        values.append(transductive_retrieval(noise, np.arange(40), method=method, top=(1,), **QUICK)[0].value)
    assert np.mean(values) == pytest.approx(1 / 40, abs=0.02)


def test_csls_by_hand():
    f = np.array([[3.0, 1.0, 0.0], [2.0, 1.0, 2.0]])
    # two nearest at most ten: all. Means of responses 4/3, 5/3, of pictures 2.5, 1, 1
    expected = 2 * f - np.array([[4 / 3], [5 / 3]]) - np.array([2.5, 1, 1])
    own = expected.argmax(1)
    assert own.tolist() == [0, 2]
    assert transductive_retrieval(f, own, top=(1,), **QUICK)[0].value == 1
    assert transductive_retrieval(f, np.array([0, 0]), top=(1,), **QUICK)[0].value == 0.5


def test_sinkhorn_ends_in_equal_shares():
    plan = np.exp(_sinkhorn(hubs(20) * 0.2, temperature=1.0))
    assert plan.sum(0) == pytest.approx(np.ones(20))
    assert plan.sum(1) == pytest.approx(np.ones(20), abs=1e-3)


def test_a_matching_needs_a_picture_for_each_response():
    with pytest.raises(ValueError, match="no more responses than pictures; got 4 and 2"):
        transductive_retrieval(np.zeros((4, 2)), np.array([0, 1, 0, 1]), method="hungarian")


def test_bad_f_and_unknown_tricks_are_told():
    broken = np.eye(4)
    broken[0, 1] = np.nan
    with pytest.raises(ValueError, match=r"got \(4, 4\) with 1 that are not"):
        transductive_retrieval(broken, np.arange(4))
    with pytest.raises(ValueError, match=r"Unknown transductive method 'cls'\. Did you mean 'csls'"):
        transductive_retrieval(np.eye(4), np.arange(4), method="cls")


@pytest.mark.parametrize("method", ["csls", "sinkhorn", "whiten"])
def test_a_constant_f_is_at_chance(method):
    score = transductive_retrieval(np.ones((8, 8)), np.arange(8), method=method, **QUICK)[0]
    assert score.value == pytest.approx(1 / 8)
