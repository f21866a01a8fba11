"""AUC in the unit that was randomised, learning curves, and the control of the eyes."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from test_brainedit_relevance import TARGET, simulate

from brainedit.evaluation import auc
from brainedit.relevance import relevance_score, score_trials
from brainedit.relevance_study import (
    eye_channels,
    relevance_control,
    relevance_learning_curve,
    relevance_scores,
)


def table(n=400, d=1.0, *, n_pictures=None, n_folds=4, shift=0.0, seed=0, picture_effect=0.0, subject="s"):
    """Trials with scores of two normal distributions; folds may be shifted, pictures may have effects of their own."""
    rng = np.random.default_rng(seed)
    n_pictures = n_pictures or n
    picture = np.arange(n) % n_pictures
    target = (rng.permutation(n_pictures) < n_pictures // 2)[picture]
    fold = np.repeat(np.arange(n_folds), n // n_folds)
    score = rng.normal(size=n) + d * target + shift * rng.normal(size=n_folds)[fold]
    score += picture_effect * rng.normal(size=n_pictures)[picture]
    names = [f"p{k}" for k in picture]
    columns = {"stimulus": names, "subject": subject, "task": None, "fold": fold.astype(str)}
    return pd.DataFrame(columns | {"probability": norm.cdf(score), "target": target})


def test_the_auc_is_that_of_its_distributions():
    found = relevance_scores(table(4000), n_permutations=200, n_bootstrap=100)
    best = norm.cdf(1 / np.sqrt(2))
    assert list(found) == ["pooled", "within folds", "0", "1", "2", "3"]
    for score in found.values():
        assert score.value == pytest.approx(best, abs=0.05)
        assert score.low < score.value < score.high
        assert score.p == pytest.approx(1 / 201)
    assert found["pooled"].value == relevance_score(table(4000)).value


def test_folds_that_are_not_centred_lower_the_pooled_value_alone():
    trials = table(2000, shift=5.0)
    found = relevance_scores(trials, n_permutations=50, n_bootstrap=4)
    best = norm.cdf(1 / np.sqrt(2))
    own = [auc(one["target"], one["probability"]) for _, one in trials.groupby("fold")]
    assert found["within folds"].value == pytest.approx(best, abs=0.03)
    assert found["within folds"].value == pytest.approx(np.mean(own), abs=0.005)
    assert found["pooled"].value < 0.65


def test_pictures_that_repeat_are_exchanged_whole():
    """Pictures differ, targets mean nothing: trials as units find an effect far too often, pictures do not."""
    p = {"trial": [], "auto": []}
    for seed in range(40):
        trials = table(240, 0.0, n_pictures=12, picture_effect=2.0, seed=seed)
        for unit in p:
            found = relevance_scores(trials, randomised=unit, n_permutations=99, n_bootstrap=4)["pooled"]
            p[unit].append(found.p)
    assert found.unit == "picture"
    assert found.n == 12
    assert found.permuted == "pictures within tasks"
    assert np.mean(np.array(p["trial"]) < 0.05) > 0.2
    assert np.mean(np.array(p["auto"]) < 0.05) <= 0.15


def test_pictures_of_people_with_other_targets_are_each_persons_own():
    first, second = table(80, n_pictures=20, subject="a"), table(80, n_pictures=20, subject="b")
    shared = pd.concat([first, second])
    assert relevance_scores(shared, n_permutations=20, n_bootstrap=4)["pooled"].n == 20
    second["target"] = ~second["target"]
    assert relevance_scores(pd.concat([first, second]), n_permutations=20, n_bootstrap=4)["pooled"].n == 40


def test_pictures_that_are_targets_at_times_leave_trials():
    trials = table(80, n_pictures=20)
    trials.loc[0, "target"] = not trials.loc[0, "target"]
    assert relevance_scores(trials, n_permutations=20, n_bootstrap=4)["pooled"].unit == "trial"
    with pytest.raises(ValueError, match="targets at times and not at others"):
        relevance_scores(trials, randomised="stimulus")
    with pytest.raises(ValueError, match="80 trials do not name their stimulus"):
        relevance_scores(trials.assign(stimulus=None), randomised="stimulus")
    with pytest.raises(ValueError, match="Unknown unit of randomisation 'picture'"):
        relevance_scores(trials, randomised="picture")


def test_a_fold_of_one_kind_has_no_entry():
    trials = table(80)
    trials.loc[trials["fold"] == "2", "target"] = True
    assert list(relevance_scores(trials, n_permutations=20, n_bootstrap=4)) == [
        "pooled",
        "within folds",
        "0",
        "1",
        "3",
    ]


def test_more_trials_are_better_and_all_of_them_are_score_trials(array_epochs):
    epochs = simulate(array_epochs, separation=2.0, n=480)
    curve = relevance_learning_curve(epochs, target=TARGET, n_training=[30, 360], n_draws=3, progress=False)
    assert list(curve) == ["n_training", "auc", "sd", "low", "high", "n_scored"]
    few, many = curve.to_dict("records")
    assert few["auc"] < many["auc"] - 0.05
    whole = score_trials(epochs, target=TARGET)
    assert many["auc"] == pytest.approx(auc(whole["target"], whole["probability"]), abs=1e-3)
    assert many["sd"] < 1e-3 < few["sd"]
    assert few["low"] < few["auc"] < few["high"]
    assert few["n_scored"] == many["n_scored"] == 480


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_training": []}, r"Need one or more numbers of trials and draws; got \[\] and 5"),
        ({"n_training": [20], "n_draws": 0}, r"got \[20\] and 0"),
        ({"n_training": [61]}, "4 up to the 60 trials"),
    ],
)
def test_curves_that_cannot_be_drawn_are_told(array_epochs, settings, message):
    with pytest.raises(ValueError, match=message):
        relevance_learning_curve(simulate(array_epochs, n=80), target=TARGET, progress=False, **settings)


# the eyes


def renamed(array_epochs, names, types=None, **settings):
    epochs = simulate(array_epochs, **settings)
    epochs.rename_channels(dict(zip(epochs.ch_names, names, strict=True)))
    if types:
        epochs.set_channel_types(types, on_unit_change="ignore")
    return epochs


def test_channels_at_the_eyes_are_found(array_epochs):
    names = ["FP1", "AF7", "F7", "Fz", "Pz", "VEOG"]
    epochs = renamed(array_epochs, names, {"VEOG": "eog"}, n=40)
    assert eye_channels(epochs) == ["FP1", "AF7", "F7", "VEOG"]
    epochs.info["bads"] = ["AF7"]
    assert eye_channels(epochs) == ["FP1", "F7", "VEOG"]


def test_the_control_finds_what_the_eyes_carry_and_nothing_else(array_epochs):
    names = ["Fp1", "Fp2", "Cz", "Pz", "P3", "EOG1"]

    def at(channels):
        def extra(data, metadata):
            odd = (metadata["label"] == "odd").to_numpy()
            data[np.ix_(odd, channels, np.arange(40, 60))] += 1.5
            return data

        return renamed(array_epochs, names, {"EOG1": "eog"}, separation=0, n=200, extra=extra)

    eyes = relevance_control(at([0, 5]), target=TARGET)
    brain = relevance_control(at([2, 3, 4]), target=TARGET)
    assert auc(eyes["target"], eyes["probability"]) > 0.9
    assert abs(auc(brain["target"], brain["probability"]) - 0.5) < 0.15
    scored = score_trials(at([0, 5]), target=TARGET)
    assert scored[["stimulus", "fold", "target"]].equals(eyes[["stimulus", "fold", "target"]])


def test_a_control_that_says_nothing_is_told(array_epochs):
    with pytest.raises(ValueError, match=r"needs EOG channels, or EEG of the forehead .* there are Fz, Cz"):
        relevance_control(simulate(array_epochs, n=40), target=TARGET)
    epochs = renamed(array_epochs, ["Fp1", "Fp2", "AF3", "AF4", "F7", "F8"], n=40)
    with pytest.raises(ValueError, match="rest on channels at the eyes alone"):
        relevance_control(epochs, target=TARGET)
