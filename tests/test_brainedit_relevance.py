"""Relevance from EEG: planted oddballs give the AUC they must, and nothing leaks from the trials left out."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from brainedit.erp_classifiers import METHODS, window_means
from brainedit.evaluation import auc
from brainedit.relevance import chosen_scheme, pool_relevance, relevance_score, score_trials, target_mask

TARGET = "label == 'odd'"


def simulate(array_epochs, *, separation=1.0, n=480, n_runs=4, tmin=-0.1, seed=0, extra=None):
    """An oddball (one in five) in white noise: a P300-like bump that an ideal observer tells apart at d'.

    separation : d' of the best linear observer of 50 ms means in 0 to .8 s
    extra : function (data, metadata) -> data, for what a test adds
    """
    rng = np.random.default_rng(seed)
    times = tmin + np.arange(round((0.8 - tmin) * 100)) / 100
    metadata = pd.DataFrame(
        {
            "label": np.where(rng.permutation(n) % 5 == 0, "odd", "usual"),
            "run": np.repeat(np.arange(1, n_runs + 1), n // n_runs),
            "stimulus": [f"{i}.png" for i in rng.permutation(n) % 60],
            "subject": "s1",
        }
    )
    bump = np.exp(-0.5 * ((times - 0.4) / 0.08) ** 2) * np.array([0.2, 0.6, 1, 0.8, 0.3, 0.3])[:, None]
    means = bump[:, times >= -1e-9].reshape(6, 16, 5).mean(-1)
    bump *= separation / np.sqrt(5 * (means**2).sum())  # 5 samples a window, noise of 1
    data = rng.normal(size=(n, 6, len(times)))
    data += bump * (metadata["label"] == "odd").to_numpy()[:, None, None]
    if extra is not None:
        data = extra(data, metadata)
    return array_epochs(1e-5 * data, metadata, sfreq=100, tmin=tmin)


@pytest.mark.parametrize(("separation", "seed"), [(1.5, 0), (2.5, 1)])
def test_a_planted_oddball_gives_its_auc(array_epochs, separation, seed):
    trials = score_trials(simulate(array_epochs, separation=separation, n=960, seed=seed), target=TARGET)
    best = norm.cdf(separation / np.sqrt(2))
    assert best - 0.1 < auc(trials["target"], trials["probability"]) < best + 0.03
    score = relevance_score(trials)
    assert score.p < 0.01
    assert score.low < score.value < score.high


def test_noise_stays_inside_the_permutation_band(array_epochs):
    p = [
        relevance_score(score_trials(simulate(array_epochs, separation=0, n=200, seed=s), target=TARGET)).p
        for s in range(4)
    ]
    assert min(p) > 0.01
    assert np.mean(p) > 0.1


def test_the_table_follows_the_epochs(array_epochs):
    epochs = simulate(array_epochs)
    trials = score_trials(epochs, target=TARGET)
    assert list(trials) == ["stimulus", "subject", "task", "fold", "probability", "target"]
    assert trials["stimulus"].tolist() == epochs.metadata["stimulus"].tolist()
    assert trials["target"].tolist() == (epochs.metadata["label"] == "odd").tolist()
    assert trials["task"].isna().all()
    assert trials["probability"].between(0, 1).all()
    log_odds = np.log(trials["probability"] / (1 - trials["probability"]))
    assert log_odds.groupby(trials["fold"]).mean().abs().max() < 1e-9


def test_the_scores_move_with_their_trials(array_epochs):
    """The same trials in another order get the same probability: nothing is joined by position."""
    epochs = simulate(array_epochs)
    order = np.random.default_rng(1).permutation(len(epochs))
    first = score_trials(epochs, target=TARGET)["probability"].to_numpy()
    second = score_trials(epochs[order], target=TARGET)["probability"].to_numpy()
    assert np.allclose(first[order], second, atol=1e-6)


def test_dropped_epochs_do_not_shift_the_scores(array_epochs):
    epochs = simulate(array_epochs)
    kept = np.setdiff1d(np.arange(len(epochs)), [0, 5, 200])
    trials = score_trials(epochs[kept], target=TARGET)
    assert trials.index.tolist() == list(range(len(kept)))
    assert trials["stimulus"].tolist() == epochs.metadata["stimulus"].iloc[kept].tolist()
    assert auc(trials["target"], trials["probability"]) > 0.6


@pytest.mark.parametrize("scheme", ["run", "block", "stimulus", "subject", "task_pair"])
def test_no_model_has_seen_what_it_scores(array_epochs, monkeypatch, scheme):
    epochs = simulate(array_epochs)
    unit = {"task_pair": "task"}.get(scheme, scheme)
    epochs.metadata["block"] = epochs.metadata["run"].astype(str) + np.where(
        np.arange(480) % 120 < 60, "a", "b"
    )
    if unit in ("subject", "task"):
        epochs.metadata[unit] = np.random.default_rng(0).choice(["a", "b", "c"], len(epochs))
    own = epochs.metadata[unit].astype(str).to_numpy()
    epochs._data[:, 0, :] = np.arange(1, len(epochs) + 1)[:, None] * 1e-5  # each trial's number
    epochs._data[:, 0, ::2] *= 1.01  # that channel is not flat
    scored = []

    def spy(data, times, windows, *, seed):
        number = data[:, 0, 1]

        def score(train, is_target, test):
            assert len(train) == len(is_target)
            assert len(set(number[train]) | set(number[test])) == len(train) + len(test) == len(epochs)
            assert not set(own[train]) & set(own[test])
            scored.extend(test)
            return np.zeros(len(test))

        return score

    monkeypatch.setitem(METHODS, "lda", spy)
    score_trials(epochs, target=TARGET, scheme=scheme)
    assert sorted(scored) == list(range(len(epochs)))


def test_a_drift_between_recordings_does_not_decide(array_epochs):
    """An offset of each run, as large as the response or ten times that, leaves the AUC where it was."""

    def drift(size):
        rng = np.random.default_rng(9)

        def add(data, metadata):
            offset = rng.normal(size=(5, 6, 1)) * size
            return data + offset[metadata["run"].to_numpy()]

        return add

    values = []
    for size in (0.0, 1.0, 10.0):
        trials = score_trials(simulate(array_epochs, separation=2, extra=drift(size)), target=TARGET)
        values.append(auc(trials["target"], trials["probability"]))
    assert values[0] > 0.8
    assert values[1:] == pytest.approx([values[0]] * 2, abs=0.06)


def test_what_marks_targets_in_one_run_alone_cannot_be_used(array_epochs):
    def mark(data, metadata):
        rng = np.random.default_rng(2)
        patterns, _ = np.linalg.qr(rng.normal(size=(6, 4)))  # orthogonal between runs
        odd = (metadata["label"] == "odd").to_numpy()
        for run in range(1, 5):
            data[odd & (metadata["run"] == run)] += 3 * patterns[:, run - 1][:, None]
        return data

    epochs = simulate(array_epochs, separation=0, extra=mark)
    trials = score_trials(epochs, target=TARGET)
    assert abs(auc(trials["target"], trials["probability"]) - 0.5) < 0.15
    epochs.metadata["block"] = np.arange(len(epochs)) % 4  # a block in every run: now the mark can be learned
    epochs.metadata["run"] = 1
    leaky = score_trials(epochs, target=TARGET, scheme="block")
    assert auc(leaky["target"], leaky["probability"]) > 0.9


def test_a_picture_that_is_known_by_heart_needs_the_stimulus_scheme(array_epochs):
    """Each picture has a response of its own and is always (or never) a target: no other picture tells."""

    def by_picture(data, metadata):
        names = sorted(set(metadata["stimulus"]))
        own = np.random.default_rng(3).normal(size=(len(names), 6, 8)).repeat(10, -1)
        odd = set(names[::3])
        metadata["label"] = ["odd" if s in odd else "usual" for s in metadata["stimulus"]]
        data[:, :, -80:] += 3 * own[[names.index(s) for s in metadata["stimulus"]]]
        return data

    epochs = simulate(array_epochs, separation=0, extra=by_picture)
    by_run = score_trials(epochs, target=TARGET, scheme="run")
    by_stimulus = score_trials(epochs, target=TARGET, scheme="stimulus")
    assert auc(by_run["target"], by_run["probability"]) > 0.85
    assert auc(by_stimulus["target"], by_stimulus["probability"]) < 0.65
    assert by_stimulus["fold"].nunique() == 10
    assert (by_stimulus.groupby("stimulus")["fold"].nunique() == 1).all()


def test_the_seed_deals_the_pictures(array_epochs):
    epochs = simulate(array_epochs, n=200)
    folds = [score_trials(epochs, target=TARGET, scheme="stimulus", seed=s)["fold"] for s in (0, 0, 1)]
    assert folds[0].equals(folds[1])
    assert not folds[0].equals(folds[2])


def test_equal_run_numbers_of_two_people_are_two_runs(array_epochs):
    epochs = simulate(array_epochs, n=240)
    epochs.metadata["subject"] = np.repeat(["s1", "s2"], 120)
    epochs.metadata["run"] = np.tile([1, 2], 120)
    assert score_trials(epochs, target=TARGET)["fold"].nunique() == 4


def test_a_task_pair_is_left_out_whole(array_epochs):
    epochs = simulate(array_epochs, n=240)
    epochs.metadata["task"] = np.tile(["smile", "no smile", "young", "old"], 60)
    epochs.metadata["task_pair"] = np.tile(["smiling", "smiling", "age", "age"], 60)
    trials = score_trials(epochs, target=TARGET, scheme="task_pair")
    assert sorted(set(zip(trials["fold"], trials["task"], strict=True))) == [
        ("age", "old"),
        ("age", "young"),
        ("smiling", "no smile"),
        ("smiling", "smile"),
    ]


def test_targets_are_rare_but_the_scores_are_not_shifted(array_epochs):
    """Equal priors: with one target in five the log-odds still straddle a fold's middle."""
    trials = score_trials(simulate(array_epochs, separation=2), target=TARGET)
    assert 0.3 < (trials["probability"] > 0.5).mean() < 0.6


def test_windows_are_means_of_what_they_cover():
    times = -0.1 + np.arange(90) / 100
    data = np.tile(times, (3, 2, 1))
    data[1] *= 2
    features = window_means(data, times, 0.0, 0.8, 16)
    ratio = features[0, :16] / features[0, 0]
    expected = 0.02 + 0.05 * np.arange(16)  # mean of 0, .01, .02, .03, .04 and so on
    assert np.allclose(ratio, expected / 0.02)
    assert np.allclose(features[1], 2 * features[0])


def test_windows_outside_the_epochs_are_cut(array_epochs):
    epochs = simulate(array_epochs, n=120, separation=2)
    full = window_means(epochs.get_data(), epochs.times, 0.0, 0.8, 16)
    longer = window_means(epochs.get_data(), epochs.times, 0.0, 1.6, 32)
    assert full.shape == longer.shape == (120, 96)
    with pytest.raises(ValueError, match=r"Only 0 of 16 windows in 2\.0 to 3\.0 s .* -0\.100 to 0\.790 s"):
        score_trials(epochs, target=TARGET, tmin=2.0, tmax=3.0)


def test_bad_channels_are_left_out(array_epochs):
    epochs = simulate(array_epochs, n=120)
    epochs._data[:, 2] = 0
    with pytest.raises(ValueError, match="Flat channels: Pz"):
        score_trials(epochs, target=TARGET)
    epochs.info["bads"] = ["Pz"]
    assert len(score_trials(epochs, target=TARGET)) == 120


def test_xdawn_finds_the_oddball(array_epochs):
    trials = score_trials(
        simulate(array_epochs, separation=3, n=240, n_runs=2), target=TARGET, method="xdawn"
    )
    assert auc(trials["target"], trials["probability"]) > 0.75


def test_nan_names_its_channel(array_epochs):
    epochs = simulate(array_epochs, n=40)
    epochs._data[3, 4, 7] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite values in channels O1"):
        score_trials(epochs, target=TARGET)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "lable == 'odd'"}, "lable .* cannot be asked of columns label, run, stimulus, subject"),
        ({"target": "label == 'rare'"}, "true for 0 of 40 trials; both kinds"),
        ({"target": "run > 0"}, "true for 40 of 40 trials"),
        ({"target": "label ="}, "cannot be asked of columns"),
        ({"target": TARGET, "scheme": "runs"}, "Unknown scheme 'runs'. Did you mean 'run'"),
        ({"target": TARGET, "scheme": "block"}, "need 'block' .*label, run, stimulus, subject"),
        ({"target": TARGET, "scheme": "subject"}, "two or more values of 'subject'; all are 's1'"),
        ({"target": TARGET, "method": "ldaa"}, "Unknown method 'ldaa'. Did you mean 'lda'"),
        ({"target": "run == 2"}, "Without fold 's1/2' none of the trials to train on are targets"),
    ],
)
def test_what_cannot_be_scored_is_told(array_epochs, settings, message):
    with pytest.raises(ValueError, match=message):
        score_trials(simulate(array_epochs, n=40), **settings)


def test_one_run_and_no_metadata_are_told(array_epochs):
    epochs = simulate(array_epochs, n=40)
    epochs.metadata["run"] = 1
    with pytest.raises(ValueError, match="two or more values of 'run'; all are 's1/1'"):
        score_trials(epochs, target=TARGET)
    epochs.metadata = None
    with pytest.raises(ValueError, match="have no metadata"):
        score_trials(epochs, target=TARGET)


# targets


@pytest.mark.parametrize(
    "query",
    ["label == 'a.b'", "label in ['a.b']", "label.str.startswith('a')", "x > 1.5", "`odd name` == 1", "hit"],
)
def test_a_target_is_a_query(query):
    metadata = pd.DataFrame(
        {"label": ["a.b", "c"], "x": [2, 1], "odd name": [1, 0], "hit": [1.0, 0.0]}, index=[7, 3]
    )
    assert target_mask(metadata, query).tolist() == [True, False]


@pytest.mark.parametrize(
    "query",
    [
        "@pd.io.common.os.system('touch FILE') == 0",
        "label.to_csv('FILE') == label",
        "label.`to_csv`('FILE') == label",
        '(label).to_csv("FILE") == label',
        "label.str.__class__ == 1",
        "label == '''a' b'''.to_csv('FILE')",
        "label == 'a'\nx = label.to_csv('FILE')",
        "label == 'a' # '\n + label.to_csv('FILE') # '",
    ],
)
def test_a_target_runs_nothing_but_a_comparison(query, tmp_path):
    file = tmp_path / "written"
    with pytest.raises(ValueError, match="not allowed in a query"):
        target_mask(pd.DataFrame({"label": ["a", "b"]}), query.replace("FILE", str(file)))
    assert not file.exists()


@pytest.mark.parametrize("values", [[1.0, 0.0, np.nan], [0.2, 0.0, 1.0], ["yes", "no", "yes"], [2, 0, 1]])
def test_what_is_neither_true_nor_false_is_no_target(values):
    with pytest.raises(ValueError, match="does not give true or false for each trial"):
        target_mask(pd.DataFrame({"odd": values}), "odd")


# pooling


def table(probability, stimulus, subject="s1"):
    return pd.DataFrame({"probability": probability, "stimulus": stimulus, "subject": subject})


def test_pooling_is_the_mean_of_log_odds():
    pooled = pool_relevance(table([0.9, 0.5, 0.2], ["b", "b", "a"]))
    assert pooled.index.tolist() == ["a", "b"]
    assert pooled["b"] == pytest.approx(0.75)  # odds sqrt(9 * 1) = 3
    assert pooled["a"] == pytest.approx(0.2)
    assert pooled.name == "relevance"


def test_pooling_weighs_people():
    trials = table([0.9, 0.1], "a", ["s1", "s2"])
    weighed = pool_relevance(trials, weights=pd.Series({"s1": 3.0, "s2": 1.0}))
    odds = 9 ** ((3 - 1) / 4)
    assert weighed["a"] == pytest.approx(odds / (1 + odds))
    assert pool_relevance(trials)["a"] == pytest.approx(0.5)


def test_pooling_does_not_depend_on_the_order_or_the_index():
    trials = table([0.9, 0.3, 0.2, 0.6], ["b", "a", "b", "a"], ["s1", "s1", "s2", "s2"])
    shuffled = trials.iloc[[2, 0, 3, 1]]
    repeated = trials.set_axis([0, 1, 0, 1])  # two people's tables, concatenated
    weights = pd.Series({"s2": 1.0, "s1": 2.0})
    for other in (shuffled, repeated):
        pd.testing.assert_series_equal(
            pool_relevance(other, weights=weights), pool_relevance(trials, weights=weights)
        )


def test_pooling_of_certain_trials_is_finite():
    pooled = pool_relevance(table([0.0, 1.0, 1.0], ["a", "b", "b"]))
    assert pooled.between(0, 1).all()
    assert pooled["b"] > 0.999 > 0.001 > pooled["a"]


def test_pooling_names_what_it_lacks():
    with pytest.raises(ValueError, match="'stimulus' needs that column filled"):
        pool_relevance(table([0.5, 0.5], ["a", None]))
    with pytest.raises(ValueError, match="'picture' needs that column"):
        pool_relevance(table([0.5], ["a"]), by="picture")
    with pytest.raises(ValueError, match="Subject 's2' and 1 more have no weight"):
        pool_relevance(table([0.5] * 3, "a", ["s1", "s2", "s3"]), weights=pd.Series({"s1": 1.0}))


def test_pairs_of_tasks_are_left_out_where_everyone_did_two(array_epochs):
    epochs = simulate(array_epochs, n=240)
    assert chosen_scheme(epochs.metadata, "auto") == "run"
    epochs.metadata["task"] = np.tile(["smiles", "nosmile", "old", "young"], 60)
    assert (
        chosen_scheme(epochs.metadata, "auto") == "run"
    )  # unnamed pairs: the opposite would train with the wrong sign
    epochs.metadata["task_pair"] = np.tile(["smiling", "smiling", "age", "age"], 60)
    assert chosen_scheme(epochs.metadata, "auto") == "task_pair"
    assert chosen_scheme(epochs.metadata, "run") == "run"
    one = epochs.metadata.assign(subject=np.where(epochs.metadata["task_pair"] == "age", "s2", "s1"))
    assert chosen_scheme(one, "auto") == "run"  # each person did one pair alone
    pd.testing.assert_frame_equal(
        score_trials(epochs, target=TARGET), score_trials(epochs, target=TARGET, scheme="task_pair")
    )
