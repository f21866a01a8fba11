"""Scores of embeddings against planted classes, scikit-learn and scipy; nothing is fitted on test trials."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier

from brainedit.embedding_scores import (
    _ari,
    _contingency,
    _nmi,
    ari_score,
    embedding_scores,
    kmeans_score,
    knn_score,
    nmi_score,
    noise_ceiling,
    representational_similarity,
    svm_score,
)

FEW = {"n_permutations": 100, "n_bootstrap": 100}
ALL = [knn_score, kmeans_score, svm_score, nmi_score, ari_score]


def planted(n=120, *, distance=6.0, n_classes=4, n_dims=5, seed=0):
    """Training and test embeddings of classes around corners of a simplex, `distance` SDs from the origin."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(2 * n) % n_classes)
    x = distance * np.eye(n_dims)[labels] + rng.normal(size=(2 * n, n_dims))
    names = np.array(["car", "dog", "face", "tree"])[labels]
    return x[:n], names[:n], x[n:], names[n:]


def test_planted_classes_are_found():
    scores = embedding_scores(*planted(), **FEW)
    assert [s.name.partition(",")[0] for s in scores[:3]] == ["accuracy"] * 3
    for score in scores:
        assert score.value > 0.95, score.name
        assert score.p == pytest.approx(1 / 101)
        assert score.low <= score.value <= score.high <= 1
        assert (score.n, score.unit) == (120, "trial")
    assert [s.chance for s in scores[:3]] == pytest.approx([0.25] * 3, abs=0.02)


@pytest.mark.parametrize("score", ALL)
def test_noise_is_at_chance(score):
    values = [score(*planted(distance=0, seed=seed), **FEW) for seed in range(6)]
    assert np.mean([s.value - s.chance for s in values]) == pytest.approx(0, abs=0.05)
    assert max(s.p for s in values) > 0.2


@pytest.mark.parametrize("score", ALL)
def test_shuffled_test_labels_are_at_chance(score):
    x, own, y, other = planted()
    rng = np.random.default_rng(1)
    values = [score(x, own, y, rng.permutation(other), **FEW) for _ in range(6)]
    assert np.mean([s.value - s.chance for s in values]) == pytest.approx(0, abs=0.05)
    assert max(s.p for s in values) > 0.2


def test_nothing_is_learned_from_test_trials():
    """A test trial's choice does not change when the other test trials do; within-test fits would."""
    x, own, y, other = planted(distance=1.5)
    for score in (knn_score, kmeans_score, svm_score):
        together = score(x, own, y, other, **FEW).value
        alone = [
            score(x, own, y[i : i + 1], other[i : i + 1], n_permutations=1, n_bootstrap=1).value
            for i in range(9)
        ]
        parts = [score(x, own, y[i : i + 12], other[i : i + 12], **FEW).value for i in range(0, 120, 12)]
        assert np.mean(parts) == pytest.approx(together)
        assert score(x, own, y[:9], other[:9], **FEW).value == pytest.approx(np.mean(alone))


def test_clusters_are_named_by_training_labels():
    """The test clusters carry the right names only when training says so."""
    x, own, y, other = planted()
    turned = dict(zip(["car", "dog", "face", "tree"], ["dog", "face", "tree", "car"], strict=True))
    wrong = kmeans_score(x, np.array([turned[name] for name in own]), y, other, **FEW)
    assert wrong.value < 0.05
    assert nmi_score(x, np.array([turned[name] for name in own]), y, other, **FEW).value > 0.9


def test_knn_is_scikit_learns():
    x, own, y, other = planted(distance=1.5)
    for k in (1, 7):
        expected = KNeighborsClassifier(k).fit(x, own).score(y, other)
        assert knn_score(x, own, y, other, k=k, **FEW).value == pytest.approx(expected)


def test_the_svm_does_not_mind_the_unit_of_a_dimension():
    x, own, y, other = planted(distance=3)
    scale = np.array([1e-6, 1, 1e3, 1, 1])
    plain, scaled = svm_score(x, own, y, other, **FEW), svm_score(x * scale, own, y * scale, other, **FEW)
    assert scaled.value == pytest.approx(plain.value, abs=0.02)
    assert plain.value > 0.8


@pytest.mark.parametrize("seed", range(4))
def test_nmi_and_ari_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 6, 90)
    b = np.where(rng.random(90) < 0.3 * seed, a, rng.integers(0, 9, 90))
    table = _contingency(a, b)
    assert _nmi(table) == pytest.approx(normalized_mutual_info_score(a, b))
    assert _ari(table) == pytest.approx(adjusted_rand_score(a, b))


@pytest.mark.parametrize(("a", "b"), [([0, 0, 0], [0, 0, 0]), ([0, 0, 0], [0, 1, 2]), ([0, 1, 2], [0, 1, 2])])
def test_nmi_and_ari_of_single_clusters(a, b):
    table = _contingency(np.array(a), np.array(b))
    assert _nmi(table) == pytest.approx(normalized_mutual_info_score(a, b))
    assert _ari(table) == pytest.approx(adjusted_rand_score(a, b))


def test_chance_of_mutual_information_is_not_zero():
    score = nmi_score(*planted(40, distance=0), **FEW)
    assert score.chance > 0.02
    assert score.value == pytest.approx(score.chance, abs=0.1)


@pytest.mark.parametrize("score", ALL)
def test_repeats_of_a_picture_are_one_unit(score):
    """Four test pictures of two labels, each shown 30 times with the same EEG: four units, a p of 1/6 at best."""
    x, own, _, _ = planted(n_classes=2, distance=8)
    corner = {name: x[own == name].mean(0) for name in ("car", "dog")}
    other, picture = np.repeat(["car", "car", "dog", "dog"], 30), np.repeat(np.arange(4), 30)
    y = np.stack([corner[name] for name in other])
    found = score(x, own, y, other, units=picture, unit="picture", n_permutations=600, n_bootstrap=50)
    assert (found.value, found.n, found.unit) == (pytest.approx(1), 4, "picture")
    # clusters without names are as good when both labels are swapped
    expected = 1 / 3 if score in (nmi_score, ari_score) else 1 / 6
    assert found.p == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d[0], d[1], d[2][:, :3], d[3]), r"got \(120, 5\) in training and \(120, 3\) in test"),
        (lambda d: (d[0], d[1][:7], d[2], d[3]), r"got \(7,\) and \(120,\)"),
        (
            lambda d: (d[0], d[1], np.where(np.arange(120)[:, None] < 2, np.nan, d[2]), d[3]),
            "2 of 240 embeddings",
        ),
        (lambda d: (d[0], d[1], d[2], np.where(d[3] == "dog", "cat", d[3])), "no training trial of 'cat'"),
        (lambda d: (d[0], np.full(120, "car"), d[2], np.full(120, "car")), r"there are labels \['car'\]"),
    ],
)
@pytest.mark.parametrize("score", ALL)
def test_data_that_do_not_fit_are_told(score, change, message):
    with pytest.raises(ValueError, match=message):
        score(*change(planted()))


def test_too_many_neighbours_or_clusters_are_told():
    x, own, y, other = planted()
    with pytest.raises(ValueError, match="120 training trials; 121 were asked"):
        knn_score(x, own, y, other, k=121)
    with pytest.raises(ValueError, match="4 clusters need"):
        kmeans_score(np.zeros_like(x), own, y, other)


# geometry


def rdm(x):
    return (1 - np.corrcoef(x))[np.triu_indices(len(x), 1)]


def test_representational_similarity_is_spearmans():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(15, 8))
    b = np.concatenate([a[:, :5], rng.normal(size=(15, 12))], 1)
    score = representational_similarity(a, b, n_permutations=200, n_bootstrap=50)
    assert score.value == pytest.approx(spearmanr(rdm(a), rdm(b)).statistic)
    assert (score.n, score.unit, score.chance) == (15, "condition", 0)
    assert score.low < score.value < score.high


def test_the_same_geometry_in_other_coordinates_is_the_same():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(12, 6))
    turned = 3 * a @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    score = representational_similarity(a, turned, dissimilarity="euclidean", **FEW)
    assert (score.value, score.low, score.p) == (pytest.approx(1), pytest.approx(1), pytest.approx(1 / 101))


def test_p_of_unrelated_geometries_is_uniform():
    """Pairs are not independent: a permutation of pairs would cry wolf."""
    rng = np.random.default_rng(2)
    p = [
        representational_similarity(
            rng.normal(size=(9, 3)), rng.normal(size=(9, 3)), n_permutations=60, n_bootstrap=2, seed=i
        ).p
        for i in range(120)
    ]
    assert 0.02 <= np.mean(np.array(p) < 0.1) <= 0.19
    assert np.mean(p) == pytest.approx(0.5, abs=0.1)


def test_the_noise_ceiling_is_what_the_truth_reaches():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(40, 30))
    first, second = (truth + rng.normal(size=truth.shape) for _ in range(2))
    reached = representational_similarity(truth, (first + second) / 2, **FEW).value
    assert noise_ceiling(first, second) == pytest.approx(reached, abs=0.06)
    assert noise_ceiling(truth, truth) == pytest.approx(1)
    assert noise_ceiling(rng.normal(size=(40, 30)), rng.normal(size=(40, 30))) < 0.4


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.eye(5), np.eye(6), "same conditions are needed on both sides; got 5 and 6"),
        (np.eye(3), np.eye(3), r"4 or more conditions, n_dims\); got \(3, 3\)"),
        (np.ones((5, 4)), np.eye(5), "10 of 10 pairs have no correlation dissimilarity"),
    ],
)
def test_conditions_that_do_not_fit_are_told(a, b, message):
    with pytest.raises(ValueError, match=message):
        representational_similarity(a, b)


def test_an_unknown_dissimilarity_is_told():
    with pytest.raises(ValueError, match="Unknown dissimilarity 'cosin'"):
        representational_similarity(np.eye(5), np.eye(5), dissimilarity="cosin")
