"""The predicted cosine against planted truths, its curve against refits, groups, and what noise must give."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.linear_model import Ridge as SklearnRidge

from brainedit.directions import DirectionReliability, brain_direction, reliability
from brainedit.expected_cosine import Truths, cosine_curve, draw_truths
from brainedit.slopes import factorise

FAST = {"n_permutations": 39, "n_null": 40, "n_splits": 3}


def looks(n, d, *, auc=0.79, decay=0.0, alignment=0.0, seed=0):
    """Simulated latents, relevance of the side of the truth an image lies on, and the truth of length 1."""
    rng = np.random.default_rng(seed)
    variance = np.arange(1.0, d + 1) ** -decay
    z = rng.standard_normal((n, d)) * np.sqrt(variance)
    truth = rng.standard_normal(d) * variance ** (alignment / 2)
    label = np.sign(z @ truth)
    y = rng.standard_normal(n) + label * norm.ppf(auc) / np.sqrt(2)
    names = [f"face{i}.png" for i in range(n)]
    return pd.DataFrame(z, names), pd.Series(1 / (1 + np.exp(-y)), names), truth / np.linalg.norm(truth)


def errors(n_sets, *args, method="ridge", **kwargs):
    """Predicted less true cosine (n_sets,), and whether the interval holds the true one."""
    found, covered = [], []
    for seed in range(n_sets):
        latents, relevance, truth = looks(*args, seed=seed, **kwargs)
        cosine = brain_direction(latents, relevance, space="z", method=method).vector @ truth
        r = reliability(latents, relevance, method=method, seed=seed, **FAST)
        found.append(r.predicted_cosine - cosine)
        covered.append(r.predicted_interval[0] <= cosine <= r.predicted_interval[1])
    return np.array(found), np.array(covered)


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((100, 256), {}),
        ((300, 48), {}),
        ((600, 48), {"decay": 1.0}),
        ((600, 48), {"decay": 1.0, "alignment": -1.0}),
        ((600, 48), {"decay": 1.0, "alignment": 1.0}),
        ((300, 48), {"method": "mean_difference"}),
    ],
)
def test_predicted_cosine_is_near_the_true_one(size, settings):
    error, covered = errors(24, *size, **settings)
    assert abs(error.mean()) < 0.06  # 24 errors of standard deviation .1 at most: .02 of chance
    assert np.abs(error).mean() < 0.12
    assert covered.mean() > 0.8  # 95 % of 24 is below 20 once in 250 times


def test_interval_of_noise_holds_zero():
    for seed in range(8):
        latents, relevance, _ = looks(80, 100, auc=0.5, seed=seed)
        r = reliability(latents, relevance, n_permutations=99, n_null=100, n_splits=2, seed=seed)
        assert r.p < 0.05 or r.predicted_interval[0] <= r.null_band[0] < 0
        assert r.predicted_interval[0] < r.predicted_cosine < r.predicted_interval[1]


def test_much_data_leave_no_doubt():
    latents, relevance, _ = looks(4000, 6, auc=0.9)
    r = reliability(latents, relevance, **FAST)
    assert r.predicted_cosine > 0.99
    assert r.predicted_interval[0] > 0.98
    assert r.split_half > 0.98
    factors = factorise(latents.to_numpy() - latents.to_numpy().mean(0))
    y = relevance.to_numpy() - relevance.mean()
    draws = draw_truths(factors, y, rng=np.random.default_rng(0))
    slopes = draws.slopes @ factors.right.T
    ordinary = SklearnRidge(alpha=1e-9).fit(latents, y).coef_  # least squares
    mean = slopes.mean(0)
    np.testing.assert_allclose(mean / np.linalg.norm(mean), ordinary / np.linalg.norm(ordinary), atol=0.01)


def test_units_do_not_matter():
    latents, relevance, _ = looks(100, 150)
    one = reliability(latents, relevance, **FAST)
    two = reliability(latents * 1e-4 + 3, relevance * 1e5 - 7, **FAST)
    assert two.predicted_cosine == pytest.approx(one.predicted_cosine, abs=1e-4)
    assert two.null_band == pytest.approx(one.null_band, abs=1e-4)
    np.testing.assert_allclose(two.learning_curve["cosine"], one.learning_curve["cosine"], atol=1e-4)


def test_slope_outside_the_images_span_is_at_chance():
    latents, relevance, _ = looks(20, 60)
    x, y = latents.to_numpy() - latents.to_numpy().mean(0), relevance.to_numpy() - relevance.mean()
    factors = factorise(x)
    draws = draw_truths(factors, y, rng=np.random.default_rng(0))
    outside = draws.cosines(np.zeros(len(factors.singular)))
    assert abs(outside.mean()) < 0.02
    assert outside.std() == pytest.approx(1 / np.sqrt(60), rel=0.25)


@pytest.mark.parametrize("n", [40, 400])
@pytest.mark.parametrize("decay", [0.0, 1.0])
@pytest.mark.parametrize("covariance", [False, True])
def test_curve_is_the_mean_cosine_of_refits(n, decay, covariance):
    d, ratio, penalty = 80, 0.02, 60.0
    variance = np.arange(1.0, d + 1) ** -decay
    variance /= variance.mean()
    prior = Truths(
        np.zeros((1, d)),
        np.zeros((1, 2)),
        np.zeros(1, int),
        np.full((1, d), ratio),
        np.zeros(1),
        variance,
        1.0,
        0,
    )
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((n, d)) * np.sqrt(variance)
        truth = rng.standard_normal(d) * np.sqrt(ratio)
        y = x @ truth + rng.standard_normal(n)
        slope = (x - x.mean(0)).T @ y if covariance else SklearnRidge(alpha=penalty).fit(x, y).coef_
        goal = truth * variance if covariance else truth
        found.append(slope @ goal / np.linalg.norm(slope) / np.linalg.norm(goal))
    curve = cosine_curve(prior, np.array([n]), penalty=penalty, covariance=covariance)
    assert curve[0, 0] == pytest.approx(np.mean(found), abs=0.05 if covariance and decay else 0.03)


def test_looks_needed_reads_the_curve():
    latents, relevance, _ = looks(300, 64)
    r = reliability(latents, relevance, **FAST)
    wanted = [r.looks_needed(cosine) for cosine in (0.5, 0.7, 0.9)]
    assert [w.n for w in wanted] == sorted(w.n for w in wanted)
    assert all(w.low < w.n < w.high for w in wanted)
    now = r.looks_needed(r.predicted_cosine)
    assert now.n == pytest.approx(300, rel=0.25)
    true_cosine = np.mean(
        [
            brain_direction(*looks(900, 64, seed=s)[:2], space="z").vector @ looks(900, 64, seed=s)[2]
            for s in range(6)
        ]
    )
    needed = r.looks_needed(float(true_cosine))
    assert needed.low < 900 < needed.high
    assert r.looks_needed(0.999999).high == float("inf")
    for bad in (0, 1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"between 0 and 1; got {bad:g}"):
            r.looks_needed(bad)


def test_record_survives_json():
    latents, relevance, _ = looks(40, 8)
    r = reliability(latents, relevance, **FAST)
    again = DirectionReliability(**json.loads(json.dumps(asdict(r))))
    assert again.looks_needed(0.5) == r.looks_needed(0.5)


def test_null_band_is_that_of_permuted_refits():
    latents, relevance, _ = looks(60, 100, decay=1.5)
    r = reliability(latents, relevance, method="ridge_fixed", n_permutations=200, n_null=4000, n_splits=2)
    assert r.n_null == 4000
    x, y = latents.to_numpy(), relevance.to_numpy()
    model = SklearnRidge(alpha=x.var(axis=0).sum())
    found = model.fit(x, y).coef_
    rng = np.random.default_rng(5)
    cosines = []
    for _ in range(1000):
        slope = model.fit(x, rng.permutation(y)).coef_
        cosines.append(slope @ found / np.linalg.norm(slope) / np.linalg.norm(found))
    assert r.null_band == pytest.approx(np.quantile(cosines, [0.025, 0.975]), abs=0.06)
    assert r.null_band[1] > 1.5 * 1.96 / np.sqrt(100)  # latents are not isotropic


def test_auc_tells_high_from_low_relevance():
    latents, relevance, truth = looks(400, 5, auc=0.95)
    assert reliability(latents, relevance, **FAST).auc > 0.85
    explicit = (latents @ truth > 1.0).astype(float)  # two values, most of them low
    assert reliability(latents, explicit, **FAST).auc > 0.9


def repeated(n_clusters=12, n_each=30, d=64, seed=0):
    """Clusters of nearly the same face, each with a score of its own that says nothing of the latents."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.standard_normal((n_clusters, d)), n_each, axis=0)
    z = centres + 0.05 * rng.standard_normal(centres.shape)
    y = np.repeat(rng.standard_normal(n_clusters), n_each) + rng.standard_normal(len(z))
    names = [f"face{i}.png" for i in range(len(z))]
    groups = pd.Series(np.repeat(np.arange(n_clusters), n_each), names)
    return pd.DataFrame(z, names), pd.Series(y, names), groups


def test_groups_count_once():
    p, blind = [], []
    for seed in range(12):
        latents, relevance, groups = repeated(seed=seed)
        r = reliability(latents, relevance, groups=groups[::-1], **FAST)
        assert (r.n, r.n_images) == (12, 360)
        p.append(r.p)
        blind.append(reliability(latents, relevance, **FAST))
    assert 0.2 < np.mean(p) < 0.8
    assert np.mean(np.array(p) <= 0.05) < 0.3
    assert max(r.p for r in blind) <= 0.05  # without groups, noise looks like a direction
    assert np.mean([r.split_half for r in blind]) > 0.5


def test_images_with_the_same_latents_are_told(caplog):
    latents, relevance, _ = looks(30, 8)
    reliability(latents, relevance, **FAST)
    assert not caplog.records
    latents.iloc[:3] = latents.iloc[5].to_numpy()
    reliability(latents, relevance, **FAST)
    assert "3 of 30 images have the latents of another one" in caplog.text


def test_groups_of_one_change_nothing():
    latents, relevance, _ = looks(50, 70)
    one = reliability(latents, relevance, **FAST)
    two = reliability(latents, relevance, groups=pd.Series(range(50), latents.index), **FAST)
    assert two.predicted_cosine == pytest.approx(one.predicted_cosine, abs=1e-6)
    assert two.null_band == pytest.approx(one.null_band, abs=1e-5)


def test_requests_that_make_no_sense():
    latents, relevance, groups = repeated()
    for settings, message in [
        ({"groups": groups[3:]}, "group for every stimulus; 'face0.png' and 2 more have none"),
        ({"groups": groups // 2}, "10 or more groups; got 6"),
        ({"groups": pd.concat([groups, groups[:1]])}, "one group a stimulus; 'face0.png' comes more"),
        ({"n_null": 0}, "Need 1 or more .*; got 1000, 0, 50"),
        ({"method": "hierarchical"}, "table of people x stimuli; got a Series"),
    ]:
        with pytest.raises(ValueError, match=message):
            reliability(latents, relevance, **settings)
    level = pd.Series(np.tile([0.0, 1.0], 180), latents.index)
    with pytest.raises(ValueError, match="same in all 12 groups"):
        reliability(latents, level, groups=groups)
    people = pd.DataFrame([relevance, relevance])
    with pytest.raises(ValueError, match=r"'ridge' needs one relevance a stimulus; got a table \(2, 360\)"):
        reliability(latents, people)
    with pytest.raises(ValueError, match=r"hierarchical.* has several"):
        reliability(latents, people, method="hierarchical", groups=groups)
