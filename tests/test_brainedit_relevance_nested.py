"""What is decided inside the training trials: inner folds, calibration, choice; the test trials decide nothing."""

import numpy as np
import pytest
from scipy.special import expit

from brainedit.relevance_nested import CALIBRATIONS, FoldScorer, inner_folds, isotonic, platt


def gaussian_scores(n=4000, slope=1.0, share=0.5, seed=0):
    """Scores whose true log-odds at equal priors are `slope` times them: normal, d' of 1.5."""
    rng = np.random.default_rng(seed)
    target = rng.random(n) < share
    log_odds = rng.normal(np.where(target, 1, -1) * 1.5**2 / 2, 1.5)
    return log_odds / slope, target


@pytest.mark.parametrize(("slope", "share"), [(1.0, 0.5), (0.1, 0.5), (7.0, 0.2)])
def test_platt_finds_the_log_odds_that_were_planted(slope, share):
    """Also with one target in five: priors stay equal."""
    values, target = gaussian_scores(slope=slope, share=share)
    calibrated = platt(values, target)(np.array([-1.0, 0.0, 2.0]) / slope)
    assert calibrated == pytest.approx([-1.0, 0.0, 2.0], abs=0.2)


def test_isotonic_finds_them_too():
    values, target = gaussian_scores(n=20_000, slope=0.3)
    calibrated = isotonic(values, target)(np.array([-1.0, 0.0, 1.0]) / 0.3)
    assert calibrated == pytest.approx([-1.0, 0.0, 1.0], abs=0.3)


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_what_says_nothing_or_the_opposite_becomes_no_evidence(name):
    values, target = gaussian_scores(share=0.2)
    assert CALIBRATIONS[name](-values, target)(values) == pytest.approx(np.zeros(len(values)), abs=0.02)
    assert CALIBRATIONS[name](np.zeros(len(target)), target)(np.array([0.0])) == pytest.approx([0], abs=0.02)


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_scores_that_part_the_kinds_give_finite_log_odds_in_their_order(name):
    target = np.arange(40) >= 20
    calibrated = CALIBRATIONS[name](np.arange(40.0), target)(np.array([-1e3, 0.0, 39.0, 1e3]))
    assert np.isfinite(calibrated).all()
    assert (np.diff(calibrated) >= 0).all()
    assert calibrated[1] < -2 < 2 < calibrated[2]


def test_inner_folds_keep_units_whole_and_have_both_kinds():
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(8), 10)
    target = np.repeat(np.arange(8) % 4 == 0, 10)  # two units of targets alone
    order = rng.permutation(80)
    folds = inner_folds(unit[order], np.full(80, "run"), target[order])
    assert len(folds) == 2
    assert (np.sum(folds, 0) == 1).all()
    for part in folds:
        assert not set(unit[order][part]) & set(unit[order][~part])
        assert set(target[order][part]) == {True, False}


def test_one_unit_falls_back_to_recordings_then_to_stretches_of_neighbours():
    target = np.arange(60) % 3 == 0
    unit, recording = np.full(60, "a"), np.repeat(["r1", "r2", "r3"], 20)
    folds = inner_folds(unit, recording, target)
    assert sorted(set(recording[part]).pop() for part in folds) == ["r1", "r2", "r3"]
    stretches = inner_folds(unit, unit, target)
    assert len(stretches) == 5
    assert all(np.diff(np.flatnonzero(part)).max() == 1 for part in stretches)


def test_too_few_trials_to_nest_are_told():
    with pytest.raises(ValueError, match="1 targets among 9 training trials do not make two inner folds"):
        inner_folds(np.full(9, "a"), np.full(9, "r"), np.arange(9) == 4)


def planted(values, **settings):
    """A FoldScorer whose classifiers give fixed scores (name -> (n,)), with what each call saw."""
    calls = []

    def scorer(name):
        def score(train, is_target, test):
            calls.append((name, train, test))
            return values[name][test]

        return score

    fold = FoldScorer(scorers={name: scorer(name) for name in values}, **settings)
    return fold, calls


def design(n=400, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.random(n) < 0.4
    unit = np.repeat(np.arange(8), n // 8)
    return {"is_target": target, "unit": unit, "recording": unit}, rng


@pytest.mark.parametrize(
    "settings", [{"calibrate": "platt"}, {"calibrate": "isotonic"}, {"averaged": ("a", "b")}]
)
def test_test_trials_take_no_part_in_choice_or_calibration(settings):
    known, rng = design()
    good, noise = known["is_target"] + 0.7 * rng.normal(size=400), rng.normal(size=400)
    fold, calls = planted({"a": good, "b": noise}, **known, **settings)
    train, test = np.arange(300), np.arange(300, 400)
    values, name = fold(train, test)
    for _, seen, scored in calls:
        assert not set(seen) & set(scored)
        assert not set(seen) & set(test)
        assert set(scored) <= set(train) or set(scored) == set(test)
    assert name in ("a", "a + b")
    other = dict(known, is_target=np.where(np.arange(400) < 300, known["is_target"], ~known["is_target"]))
    again, _ = planted({"a": good, "b": noise}, **other, **settings)
    assert np.array_equal(again(train, test)[0], values)  # the labels of the test trials say nothing


def test_a_candidate_that_is_good_on_test_trials_alone_is_not_chosen():
    known, rng = design()
    good, trap = known["is_target"] + 0.7 * rng.normal(size=400), rng.normal(size=400)
    trap[300:] = 10.0 * known["is_target"][300:]
    fold, _ = planted({"trap": trap, "good": good}, **known)
    assert fold(np.arange(300), np.arange(300, 400))[1] == "good"


def test_the_mean_of_two_is_taken_in_units_of_their_spread():
    known, rng = design(n=4000)
    part = [known["is_target"] + rng.normal(size=4000) for _ in range(2)]
    fold, _ = planted({"a": part[0], "b": 1e6 * part[1]}, averaged=("a", "b"), **known)
    values, name = fold(np.arange(3000), np.arange(3000, 4000))
    assert name == "a + b"
    expected = (part[0] + part[1])[3000:]
    assert np.corrcoef(values, expected)[0, 1] > 0.999


def test_calibrated_folds_are_comparable():
    """One fold's model shouts (its scores are ten times too large): after calibration both mean the same."""
    known, rng = design(n=8000)
    values = rng.normal(np.where(known["is_target"], 1.125, -1.125), 1.5)
    train, test = np.arange(6000), np.arange(6000, 8000)
    for gain in (1.0, 10.0):
        fold, _ = planted({"a": gain * values}, calibrate="platt", center=False, **known)
        found = fold(train, test)[0]
        assert found == pytest.approx(values[test], abs=0.5)
        target = known["is_target"][test]
        assert expit(found)[target].mean() == pytest.approx(expit(values[test])[target].mean(), abs=0.02)
