"""Presets, networks, functions, calibration to a new person: what `score_trials` takes beside its defaults."""

import logging
import sys

import numpy as np
import pandas as pd
import pytest
from test_brainedit_relevance import TARGET, simulate

from brainedit import erp_classifiers
from brainedit.erp_classifiers import METHODS, PRESETS, window_means
from brainedit.evaluation import auc
from brainedit.relevance import score_trials


@pytest.fixture
def short(monkeypatch):
    """Networks of few passes."""
    monkeypatch.setitem(erp_classifiers.NET_TRAINING, "n_epochs", 10)


def value_of(trials):
    return auc(trials["target"], trials["probability"])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_windows(array_epochs, name):
    epochs = simulate(array_epochs, n=120, tmin=-0.2)
    windows = dict(zip(("tmin", "tmax", "n_windows"), PRESETS[name], strict=True))
    by_name = score_trials(epochs, target=TARGET, preset=name)
    pd.testing.assert_frame_equal(by_name, score_trials(epochs, target=TARGET, **windows))
    pd.testing.assert_frame_equal(by_name, score_trials(epochs, target=TARGET, preset=name, **windows))
    with pytest.raises(ValueError, match=f"preset '{name}' has .* got 9 in 0.0 to 0.75 s too"):
        score_trials(epochs, target=TARGET, preset=name, n_windows=9)


def test_the_published_windows_have_the_published_samples():
    """Davis: 550 samples at 500 Hz in 25 windows of 22, 800 features of 32 channels; 160 in the public files."""
    times = np.arange(-100, 451) / 500
    data = np.broadcast_to(times, (2, 32, 551)) * np.array([1.0, 2.0])[:, None, None]
    features = window_means(data, times, *PRESETS["davis2022"])
    assert features.shape == (2, 800)
    assert features[0, 24] / features[0, 0] == pytest.approx(times[528:550].mean() / times[:22].mean())
    assert window_means(data, times, *PRESETS["davis2022_public"]).shape == (2, 160)
    assert window_means(data, times, *PRESETS["kangassalo2020"]).shape == (2, 224)


def test_xdawn_takes_an_average_reference(array_epochs):
    """Channels that sum to zero say as much as one of them less."""
    epochs = simulate(array_epochs, separation=6, n=200, n_runs=2)
    epochs._data -= epochs._data.mean(1, keepdims=True)
    trials = score_trials(epochs, target=TARGET, method="xdawn")
    assert value_of(trials) > 0.7
    fewer = score_trials(epochs.copy().drop_channels(["O1"]), target=TARGET, method="xdawn")
    assert np.corrcoef(trials["probability"], fewer["probability"])[0, 1] > 0.9


@pytest.mark.parametrize("method", ["eegnet", "eeginceptionerp"])
def test_networks_find_the_oddball_and_repeat(array_epochs, short, method):
    pytest.importorskip("braindecode")
    epochs = simulate(array_epochs, separation=6, n=120, n_runs=2)
    settings = {"target": TARGET, "method": method, "tmax": 0.7}
    trials = score_trials(epochs, **settings)
    assert value_of(trials) > 0.75
    if method == "eegnet":
        pd.testing.assert_frame_equal(trials, score_trials(epochs, **settings))
        other = score_trials(epochs, **settings, seed=1)
        assert not trials["probability"].equals(other["probability"])


def test_networks_get_samples_of_about_100_hz_inside_the_window():
    times = np.arange(-50, 200) / 250
    data = np.broadcast_to(times, (1, 1, 250))
    samples, sfreq = erp_classifiers._net_samples(data, times, erp_classifiers.Windows(0.0, 0.4, 1))
    assert sfreq == pytest.approx(125)
    assert samples[0, 0, :2] == pytest.approx([0.002, 0.010])  # means of 0 and 4 ms, of 8 and 12 ms
    assert samples.shape == (1, 1, 50)


def test_what_is_not_installed_is_told(array_epochs, monkeypatch):
    epochs = simulate(array_epochs, n=40)
    monkeypatch.setitem(sys.modules, "braindecode", None)
    with pytest.raises(ValueError, match=r"needs the package braindecode; install brainedit\[nets\]"):
        score_trials(epochs, target=TARGET, method="eegnet")
    monkeypatch.setitem(sys.modules, "pyriemann.estimation", None)
    with pytest.raises(ValueError, match=r"needs pyriemann: pip install 'brainedit\[riemann\]'"):
        score_trials(epochs, target=TARGET, method="auto")


def test_auto_says_what_it_took(array_epochs):
    trials = score_trials(simulate(array_epochs, separation=3, n=160, n_runs=4), target=TARGET, method="auto")
    assert value_of(trials) > 0.8
    assert trials.groupby("fold")["method"].nunique().tolist() == [1] * 4
    assert set(trials["method"]) <= {"lda", "lda, davis2022", "xdawn", "lda + xdawn"}


@pytest.mark.parametrize("calibrate", ["platt", "isotonic"])
def test_calibrated_probabilities_are_as_often_right_as_they_say(array_epochs, calibrate):
    """At equal priors; uncalibrated LDA with as many features as trials is far too sure."""
    epochs = simulate(array_epochs, separation=1.5, n=480)
    losses = []
    for name in (None, calibrate):
        trials = score_trials(epochs, target=TARGET, calibrate=name)
        p, target = trials["probability"].clip(1e-6, 1 - 1e-6), trials["target"]
        losses.append(-(np.log(p[target]).mean() + np.log(1 - p[~target]).mean()) / 2)
    assert losses[1] < min(losses[0], np.log(2))


def test_calibration_and_choice_never_see_the_fold_that_is_scored(array_epochs, monkeypatch):
    epochs = simulate(array_epochs, n=160)
    run, calls = epochs.metadata["run"].to_numpy(), []

    def spy(data, times, windows, *, seed):
        def score(train, is_target, test):
            calls.append((set(run[train]), set(run[test])))
            return np.random.default_rng(len(calls)).normal(size=len(test))

        return score

    monkeypatch.setitem(METHODS, "lda", spy)
    score_trials(epochs, target=TARGET, calibrate="platt")
    assert len(calls) == 4 * 4  # three inner folds and the fold itself
    for outer in range(4):
        (left_out,) = calls[4 * outer + 3][1]
        for train, test in calls[4 * outer : 4 * outer + 3]:
            assert left_out not in train | test
            assert not train & test


# a function as method


def test_a_function_gets_no_word_of_what_it_scores(array_epochs):
    epochs = simulate(array_epochs, n=80)
    epochs.events[:, 2] = np.where(epochs.metadata["label"] == "odd", 7, 8)
    epochs.event_id = {"odd": 7, "usual": 8}

    def method(train, is_target, asked):
        assert ((train.metadata["label"] == "odd") == is_target).all()
        assert asked.metadata is None
        assert set(asked.events[:, 2]) == {1}
        return asked.get_data()[:, 2, 50]

    trials = score_trials(epochs, target=TARGET, method=method)
    value = pd.Series(epochs.get_data()[:, 2, 50])
    log_odds = np.log(trials["probability"] / (1 - trials["probability"]))
    centred = value - value.groupby(trials["fold"]).transform("mean")
    assert np.allclose(log_odds, centred, atol=1e-9)
    assert set(epochs.events[:, 2]) == {7, 8}  # the user's own are as they were


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda train, y, asked: np.zeros(3), r"each of 20 trials; got shape \(3,\)"),
        (lambda train, y, asked: np.full(len(asked), np.nan), "20 of them not finite"),
    ],
)
def test_a_function_that_gives_something_else_is_told(array_epochs, given, message):
    with pytest.raises(ValueError, match=message):
        score_trials(simulate(array_epochs, n=80), target=TARGET, method=given)


# folds of one kind, fewer trials


def test_folds_of_one_kind_are_warned_of_and_can_be_scored(array_epochs, caplog):
    """Blocks of targets alone: centring takes the difference away, center=False keeps it."""
    epochs = simulate(array_epochs, separation=3, n=400)
    odd = (epochs.metadata["label"] == "odd").to_numpy()
    epochs.metadata["block"] = np.where(odd, "t", "o") + pd.Series(np.arange(400) % 4).astype(str).to_numpy()
    epochs.metadata["run"] = 1
    with caplog.at_level(logging.WARNING):
        centred = score_trials(epochs, target=TARGET, scheme="block")
    assert "8 of 8 folds hold targets alone or none (the first is" in caplog.text
    caplog.clear()
    plain = score_trials(epochs, target=TARGET, scheme="block", center=False)
    assert not caplog.text
    assert abs(value_of(centred) - 0.5) < 0.1
    assert value_of(plain) > 0.9


def test_fewer_trials_train_and_the_same_are_scored(array_epochs, monkeypatch):
    epochs, seen = simulate(array_epochs, n=160), []

    def spy(data, times, windows, *, seed):
        def score(train, is_target, test):
            seen.append((len(train), is_target.sum(), len(set(train) & set(test))))
            return np.zeros(len(test))

        return score

    monkeypatch.setitem(METHODS, "lda", spy)
    assert len(score_trials(epochs, target=TARGET, n_training=50)) == 160
    assert [n for n, _, _ in seen] == [50] * 4
    assert all(8 <= targets <= 12 and not both for _, targets, both in seen)
    with pytest.raises(ValueError, match="4 up to the 120 trials that a fold trains on; got 121"):
        score_trials(epochs, target=TARGET, n_training=121)


# a new person


def two_heads(array_epochs, *, n=360, separation=3.0):
    """Three people of one brain, whose channels have other gains and offsets."""

    def heads(data, metadata):
        rng = np.random.default_rng(4)
        person = np.repeat(np.arange(3), n // 3)
        gain = np.exp(rng.normal(size=(3, 6, 1)) * 1.5)
        return gain[person] * (data + 3 * rng.normal(size=(3, 6, 90))[person])

    epochs = simulate(array_epochs, separation=separation, n=n, n_runs=6, extra=heads)
    epochs.metadata["subject"] = np.repeat(["a", "b", "c"], n // 3)
    epochs.metadata["run"] = np.tile(np.repeat([1, 2], n // 6), 3)
    return epochs


def test_a_short_calibration_brings_people_together(array_epochs):
    epochs = two_heads(array_epochs)
    before, after = (score_trials(epochs, target=TARGET, scheme="subject", n_calibration=n) for n in (0, 30))
    second = np.flatnonzero(epochs.metadata["run"] == 2)
    assert before.index.tolist() == after.index.tolist() == second.tolist()
    assert after["stimulus"].tolist() == epochs.metadata["stimulus"].iloc[second].tolist()
    assert value_of(after) > value_of(before) + 0.05
    assert value_of(after) > 0.85


def test_nothing_of_the_scored_run_calibrates(array_epochs):
    """A trial that is scored can be anything: the others of that person keep their scores, but for the centre."""
    epochs = two_heads(array_epochs, n=240)
    first = score_trials(epochs, target=TARGET, scheme="subject", n_calibration=20, center=False)
    epochs._data[75] *= 1000  # of person a, second run
    again = score_trials(epochs, target=TARGET, scheme="subject", n_calibration=20, center=False)
    own = (first["subject"] == "a") & (first.index != 75)
    assert np.allclose(first["probability"][own], again["probability"][own], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"scheme": "run", "n_calibration": 20},
            "n_calibration=20 is for a new person, scheme 'subject'; got 'run'",
        ),
        ({"n_calibration": -1}, "2 trials or more, or 0 for none; got -1"),
        ({"n_calibration": 61}, "first run of person 'a' has 60 trials; n_calibration is 61"),
        ({"n_calibration": 20, "method": lambda *a: None}, "A function cannot be calibrated to a new person"),
        ({"calibrate": "plat"}, "Unknown calibration 'plat'. Did you mean 'platt'"),
        ({"preset": "davis"}, "Unknown preset 'davis'"),
    ],
)
def test_what_does_not_fit_is_told(array_epochs, settings, message):
    with pytest.raises(ValueError, match=message):
        score_trials(two_heads(array_epochs), target=TARGET, **{"scheme": "subject"} | settings)
