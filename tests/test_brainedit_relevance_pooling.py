"""Pooling by reliability: what weighs a picture is never estimated on it, and weights are those of the theory."""

import logging

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from brainedit.evaluation import auc
from brainedit.relevance_pooling import pool_relevance, reliability_weights


def crowd(separation, *, n_pictures=200, gain=None, seed=0):
    """Each person sees each picture once; log-odds are calibrated for a d' each, times a gain."""
    rng = np.random.default_rng(seed)
    target = np.arange(n_pictures) % 2 == 0
    tables = []
    for i, d in enumerate(separation):
        log_odds = rng.normal(np.where(target, 1, -1) * d**2 / 2, max(d, 1e-3))
        if d == 0:
            log_odds = rng.normal(size=n_pictures)  # says nothing, but loudly
        log_odds = log_odds * (1 if gain is None else gain[i])
        names = [f"f{k:03d}" for k in range(n_pictures)]
        tables.append(
            pd.DataFrame(
                {"stimulus": names, "subject": f"s{i}", "probability": expit(log_odds), "target": target}
            )
        )
    return pd.concat(tables, ignore_index=True)


def test_weights_are_the_slopes_that_calibrate():
    """Log-odds that are five times too large get a fifth of the weight; a person who says nothing almost none."""
    trials = crowd([1.5, 1.5, 0.0], gain=[1, 5, 1], n_pictures=2000)
    weight = pd.Series(reliability_weights(trials)).groupby(trials["subject"]).mean()
    assert weight["s0"] == pytest.approx(1.0, abs=0.12)
    assert weight["s1"] == pytest.approx(0.2, abs=0.04)
    assert weight["s2"] < 0.08


def test_equal_people_get_nearly_equal_weights():
    """Differences that sampling explains are drawn in."""
    trials = crowd([1.0] * 12, n_pictures=60)
    weight = reliability_weights(trials)
    assert weight.std() < 0.2 * weight.mean()


def test_a_picture_says_nothing_on_its_own_weights():
    trials = crowd([1.0, 0.5, 0.0], n_pictures=40)
    changed = trials.copy()
    own = trials["stimulus"] == "f007"
    changed.loc[own, "probability"] = [0.99, 0.01, 0.99]
    changed.loc[own, "target"] = ~trials.loc[own, "target"]
    before, after = reliability_weights(trials), reliability_weights(changed)
    assert np.array_equal(before[own], after[own])
    assert not np.allclose(before[~own], after[~own])  # it does count for the others


def test_weighting_helps_where_people_differ():
    gains = []
    for seed in range(8):
        trials = crowd([1.2, 1.0, 0, 0, 0, 0, 0, 0], n_pictures=120, seed=seed)
        target = trials.groupby("stimulus")["target"].first()
        values = [auc(target, pool_relevance(trials, weights=w)) for w in ("reliability", None)]
        gains.append(values[0] - values[1])
    assert np.mean(gains) > 0.05


def test_weights_do_not_depend_on_order_or_index():
    trials = crowd([1.0, 0.5, 0.2], n_pictures=50)
    first = pool_relevance(trials, weights="reliability")
    shuffled = trials.iloc[np.random.default_rng(0).permutation(len(trials))]
    repeated = trials.set_axis(np.tile(np.arange(50), 3))
    for other in (shuffled, repeated):
        pd.testing.assert_series_equal(pool_relevance(other, weights="reliability"), first)


def test_where_nobody_is_reliable_all_weigh_the_same_and_it_is_said(caplog):
    trials = crowd([1.0, 1.0], n_pictures=100)
    trials["probability"] = 1 - trials["probability"]
    with caplog.at_level(logging.WARNING):
        pooled = pool_relevance(trials, weights="reliability")
    assert "Nobody who saw them is reliable on the other pictures for 100 of 100" in caplog.text
    pd.testing.assert_series_equal(pooled, pool_relevance(trials))


def test_the_plain_mean_is_the_mean_of_probabilities():
    trials = pd.DataFrame(
        {"probability": [0.9, 0.5, 0.2], "stimulus": ["b", "b", "a"], "subject": ["x", "y", "x"]}
    )
    assert pool_relevance(trials, how="mean").to_dict() == pytest.approx({"a": 0.2, "b": 0.7})
    weighed = pool_relevance(trials, how="mean", weights=pd.Series({"x": 3, "y": 1}))
    assert weighed["b"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"probability": np.nan}, {}, "needs a probability of each trial; 80 of 80 are NaN"),
        ({}, {"how": "median"}, "Unknown how 'median'"),
        ({}, {"weights": "reliable"}, "Unknown weights 'reliable'. Did you mean 'reliability'"),
        ({"subject": "s0"}, {"weights": "reliability"}, "two or more people and pictures; got 1 and 40"),
        ({"stimulus": "f0"}, {"weights": "reliability"}, "two or more people and pictures; got 2 and 1"),
        ({"subject": None}, {"weights": "reliability"}, "need 'subject' and 'target' for every trial"),
        ({"target": True}, {"weights": "reliability"}, "'s0' has 36 and 0"),
    ],
)
def test_what_cannot_be_pooled_is_told(change, settings, message):
    with pytest.raises(ValueError, match=message):
        pool_relevance(crowd([1.0, 1.0], n_pictures=40).assign(**change), **settings)


def test_pooling_refuses_what_means_nothing(caplog):
    table = pd.DataFrame({"stimulus": list("aabb"), "subject": list("ABAB"), "task": "x", "probability": 0.6})
    for weights in ({"A": 1, "B": -1}, {"A": 1, "B": np.nan}):
        with pytest.raises(ValueError, match="'B' has"):
            pool_relevance(table, weights=weights)
    with pytest.raises(ValueError, match="'a' was seen by people of weight 0 alone"):
        pool_relevance(table, weights={"A": 0, "B": 0})
    with pytest.raises(ValueError, match="go from 3 to 3"):
        pool_relevance(table.assign(probability=3.0))
    with pytest.raises(ValueError, match="there are 0"):
        pool_relevance(table[:0])
    assert not caplog.records
    pool_relevance(table.assign(task=list("xxyy")))
    assert "Trials of 2 tasks are pooled" in caplog.text
