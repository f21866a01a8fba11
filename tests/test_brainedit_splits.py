"""Splits: no unit on both sides, every trial tested once, equal names in two recordings are two units."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainedit.splits import (
    UNITS,
    LeakageError,
    TrialSplit,
    check_split,
    recording_names,
    source_names,
    split_trials,
    unit_names,
)


def recordings(seed=0):
    """Two people with runs of the same names, blocks of the same names in each run."""
    rng = np.random.default_rng(seed)
    rows = [
        {"subject": subject, "session": "1", "run": run, "block": block}
        for subject in ("ann", "bob")
        for run in (1, 2, 3)
        for block in (1, 2)
        for _ in range(5)
    ]
    table = pd.DataFrame(rows)
    names = rng.permutation(np.repeat([f"p{i}.png" for i in range(12)], 5))
    table = table.assign(stimulus=names, label=[name[:2] for name in names], task="t", task_pair="a")
    return table.sample(frac=1, random_state=seed).reset_index(drop=True)


def timed(n=40, step=1.0, runs=2):
    """One person, trials every `step` s in each run, a picture for each trial."""
    onset = np.tile(np.arange(n) * step, runs)
    run = np.repeat(np.arange(runs), n)
    return pd.DataFrame({"run": run, "onset": onset, "stimulus": [f"p{i}" for i in range(n * runs)]})


@given(
    by=st.sampled_from(["stimulus", "run", "block", "subject"]), n=st.integers(2, 9), seed=st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_no_unit_is_on_both_sides_and_every_trial_is_tested_once(by, n, seed):
    table = recordings(seed % 5)
    units = unit_names(table, by)
    tested = []
    splits = list(split_trials(table, by=by, n_splits=n, seed=seed))
    assert len(splits) == min(n, len(set(units)))
    for train, test in splits:
        assert len(train)
        assert len(test)
        assert not set(units[train]) & set(units[test])
        assert sorted([*train, *test]) == list(range(len(table)))
        check_split(table, train, test, by=by)
        tested += test.tolist()
    assert sorted(tested) == list(range(len(table)))


def test_equal_names_in_two_recordings_are_two_units():
    table = recordings()
    assert len(set(unit_names(table, "run"))) == 2 * 3
    assert len(set(unit_names(table, "block"))) == 2 * 3 * 2
    assert len(set(unit_names(table, "session"))) == 2
    assert len(set(unit_names(table.drop(columns=["subject", "session"]), "run"))) == 3
    assert set(unit_names(table, "stimulus")) == set(table["stimulus"])  # a picture is one, whoever sees it
    assert list(unit_names(table, "person")) == list(unit_names(table, "subject")) == list(table["subject"])
    assert len(set(recording_names(table))) == 6
    assert set(recording_names(table[["stimulus"]])) == {""}


def test_the_seed_decides_alone():
    table = recordings().assign(concept="c", onset=np.arange(60.0))
    first, again, other = (next(split_trials(table, seed=s))[1] for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    for by in UNITS:
        if by == "trial" or unit_names(table, by).astype(str).tolist() != [unit_names(table, by)[0]] * 60:
            next(split_trials(table, by=by, embargo=0.1))


def test_splits_that_cannot_be_made_are_told():
    table = recordings()
    with pytest.raises(ValueError, match=r"split by stimulus, concept.*not by 'picture'"):
        next(split_trials(table, by="picture"))
    with pytest.raises(ValueError, match="split by task needs two or more of them; there is one, 't'"):
        next(split_trials(table, by="task"))
    with pytest.raises(ValueError, match="need 'run' for every trial; they have subject"):
        next(split_trials(table[["subject"]], by="run"))
    with pytest.raises(ValueError, match="n_splits is 2 or more; got 1"):
        next(split_trials(table, n_splits=1))
    table.loc[3, "stimulus"] = None
    with pytest.raises(ValueError, match="need 'stimulus' for every trial"):
        next(split_trials(table))


# labels


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=6), n=st.integers(2, 6), seed=st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_the_pictures_of_a_label_are_spread_over_the_folds(sizes, n, seed):
    label = np.repeat(np.arange(len(sizes)), sizes)
    table = pd.DataFrame({"label": np.repeat(label, 3)})
    table["stimulus"] = [f"p{i}" for i in np.repeat(np.arange(len(label)), 3)]
    splits = list(split_trials(table, n_splits=n, seed=seed))
    tested = [table.iloc[test].drop_duplicates("stimulus")["label"].value_counts() for _, test in splits]
    assert len(splits) == min(n, len(label))
    totals = [count.sum() for count in tested]
    assert max(totals) - min(totals) <= 1
    for value, size in enumerate(sizes):
        counts = [count.get(value, 0) for count in tested]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == size


def test_leave_exemplars_out_takes_as_many_of_each_category():
    stimulus = np.tile(np.arange(72), 4)
    table = pd.DataFrame({"stimulus": stimulus, "label": stimulus // 12})
    for train, test in split_trials(table, n_splits=4, need_labels="label"):
        per_label = table.iloc[test].drop_duplicates("stimulus")["label"].value_counts()
        assert per_label.tolist() == [3] * 6
        assert len(train) == 4 * 9 * 6


def test_a_picture_with_several_labels_stays_on_one_side():
    table = pd.DataFrame(
        {"stimulus": np.tile([f"p{i}" for i in range(10)], 3), "task": np.repeat(list("abc"), 10)}
    )
    table["label"] = table["task"] + table["stimulus"].str[1]
    for train, test in split_trials(table):
        assert not set(table["stimulus"].iloc[train]) & set(table["stimulus"].iloc[test])


def test_a_label_that_no_fold_can_train_on_is_named():
    table = pd.DataFrame({"stimulus": list("aabbcc"), "label": list("xxyyyy")})
    with pytest.raises(ValueError, match="no trial of label 'x' to train on"):
        list(split_trials(table, n_splits=3, need_labels="label"))
    assert len(list(split_trials(table, n_splits=3))) == 3
    with pytest.raises(ValueError, match=r"need_labels='category' is no column.*stimulus, label"):
        next(split_trials(table, need_labels="category"))


# embargo


def test_the_embargo_drops_the_trials_around_and_holds_in_each_recording():
    table = timed(n=6, runs=2)
    table["stimulus"] = ["a", "b", "t", "c", "d", "e", "f", "g", "h", "i", "j", "k"]
    splits = {
        tuple(table["stimulus"].iloc[test]): train
        for train, test in split_trials(table, n_splits=12, embargo=1.0)
    }
    assert table["stimulus"].iloc[splits["t",]].tolist() == list("ade") + list("fghijk")  # b and c: 1 s away
    assert table["stimulus"].iloc[splits["e",]].tolist() == list("abtc") + list("fghijk")  # f: another clock
    none = {len(train) for train, _ in split_trials(table, n_splits=12, embargo=0.99)}
    assert none == {11}


def test_trials_are_tested_in_stretches_of_each_recording():
    table = timed(n=20, runs=3).sample(frac=1, random_state=1).reset_index(drop=True)
    tested = []
    for train, test in split_trials(table, by="trial", n_splits=4, embargo=2.0, seed=2):
        for run in range(3):
            onsets = table.loc[test][lambda t, run=run: t["run"] == run]["onset"].sort_values().to_numpy()
            assert np.array_equal(np.diff(onsets), np.ones(4))  # 5 trials in a row
            others = table.loc[train][lambda t, run=run: t["run"] == run]["onset"].to_numpy()
            assert abs(others[:, None] - onsets).min() == 3.0
        check_split(table, train, test, by="trial", embargo=2.0)
        tested += test.tolist()
    assert sorted(tested) == list(range(60))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"by": "trial"}, r"by trial needs an embargo.*got embargo=None"),
        ({"embargo": 0.0}, r"time above 0 s; got 0.0"),
        ({"embargo": float("nan")}, r"time above 0 s; got nan"),
        (
            {"embargo": 100.0},
            r"With an embargo of 100.0 s a fold trains on 0 trials and tests 16",
        ),
        ({"apart": ["picture"]}, r"not by 'picture'"),
    ],
)
def test_an_embargo_that_cannot_be_kept_is_told(settings_, message):
    with pytest.raises(ValueError, match=message):
        list(split_trials(timed(), **settings_))


def test_units_that_leave_nothing_apart_are_told():
    table = pd.DataFrame(
        {"run": [0, 1] * 4, "stimulus": ["b", "a"] * 4}
    )  # parts are dealt in the names' order
    with pytest.raises(ValueError, match="With stimulus apart a fold trains on 0 trials and tests 0"):
        next(split_trials(table, by="run", apart=["stimulus"]))


def test_an_embargo_needs_onsets():
    table = timed()
    with pytest.raises(
        ValueError, match=r"needs 'onset' \(s\) for every trial; the metadata have run, stimulus"
    ):
        next(split_trials(table.drop(columns="onset"), embargo=1.0))
    table["onset"] = table["onset"].astype(object)
    table.loc[7, "onset"] = "n/a"
    with pytest.raises(ValueError, match=r"1 are like 'n/a'"):
        next(split_trials(table, embargo=1.0))


def test_further_units_are_kept_apart():
    table = pd.DataFrame({"subject": np.repeat(list("abcd"), 8), "stimulus": [f"p{i}" for i in range(8)] * 4})
    splits = list(split_trials(table, by="subject", n_splits=4, apart=["stimulus"]))
    tested = [table.iloc[test] for _, test in splits]
    assert sorted(part["subject"].iloc[0] for part in tested) == list("abcd")
    assert sorted(name for part in tested for name in part["stimulus"]) == [f"p{i}" for i in range(8)]
    for train, test in splits:
        assert (len(train), len(test)) == (3 * 6, 1 * 2)
        check_split(table, train, test, by="stimulus")
        check_split(table, train, test, by="subject")
    people = TrialSplit(by="stimulus", n_splits=8, apart="subject")
    assert len(list(people.split(groups=table))) == people.get_n_splits(groups=table) == 4


# scikit-learn


def test_it_splits_for_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate

    table = recordings()
    X = np.random.default_rng(0).normal(size=(60, 4))
    y = (table["block"] == 1).to_numpy()
    X[:, 0] += 20 * y  # a class that cannot be missed
    cv = TrialSplit(by="run", n_splits=3, seed=1)
    assert cross_val_score(LogisticRegression(), X, y, groups=table, cv=cv).tolist() == [1.0] * 3
    found = cross_validate(LogisticRegression(), X, y, groups=table, cv=cv, return_indices=True)["indices"]
    wanted = list(split_trials(table, by="run", n_splits=3, seed=1))
    for train, test, (a, b) in zip(found["train"], found["test"], wanted, strict=True):
        assert np.array_equal(train, a)
        assert np.array_equal(test, b)
    search = GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=TrialSplit(by="subject"))
    assert search.fit(X, y, groups=table).n_splits_ == 2  # there are two people


def test_groups_may_be_the_units_themselves():
    units = np.repeat([f"p{i}" for i in range(10)], 4)
    y = np.repeat([0, 1], 20)
    cv = TrialSplit(by="stimulus", n_splits=5)
    for train, test in cv.split(np.zeros((40, 2)), y, units):
        assert not set(units[train]) & set(units[test])
        assert y[test].mean() == 0.5  # five pictures of each label, one of each in a fold
    assert cv.get_n_splits() == 5
    assert cv.get_n_splits(groups=units[:12]) == 3
    with pytest.raises(ValueError, match=r"by='stimulus'.* needs groups: the metadata or the unit"):
        next(cv.split(np.zeros((40, 2)), y))
    with pytest.raises(ValueError, match=r"embargo=2.0.* needs groups: the metadata"):
        next(TrialSplit(embargo=2.0).split(np.zeros((40, 2)), y, units))
    with pytest.raises(ValueError, match=r"lengths \[39, 40\]"):
        next(cv.split(np.zeros((39, 2)), y[:39], units))
    with pytest.raises(ValueError, match="not by 'picture'"):
        TrialSplit(by="picture")


# what crosses


def test_what_crosses_is_named():
    table = timed().assign(stimulus=[f"p{i % 10}" for i in range(80)])
    half, rest = np.arange(40), np.arange(40, 80)
    check_split(table, half, rest, by="run")
    with pytest.raises(LeakageError, match=r"stimulus 'p0' is in training and in test.*\(9 more cross too\)"):
        check_split(table, half, rest, by="stimulus")
    with pytest.raises(LeakageError, match="Trial 39 is in training and in test"):
        check_split(table, half, np.r_[39, rest], by="run")
    with pytest.raises(LeakageError, match="run '0' is in training and in test"):
        check_split(table, half[:20], half[20:], by="run")
    with pytest.raises(
        LeakageError, match=r"2 training trials, the first is 18 at 18.000 s, lie within 2.0 s"
    ):
        check_split(table, half[:20], half[20:], by="trial", embargo=2.0)
    check_split(table, half[:18], half[20:], by="trial", embargo=2.0)
    assert issubclass(LeakageError, ValueError)


def test_windows_of_one_trial_cross():
    windows = pd.DataFrame({"run": np.repeat([0, 1], 6), "source": np.tile(np.repeat([0, 1, 2], 2), 2)})
    windows["stimulus"] = [f"p{i}" for i in range(12)]  # wrongly, a name for each window
    even = np.arange(12) % 2 == 0
    with pytest.raises(
        LeakageError, match="recorded trial, '0/0', are in training and in test; cut windows after"
    ):
        check_split(windows, even, ~even, by="stimulus")
    check_split(
        windows, windows["run"] == 0, windows["run"] == 1, by="run"
    )  # source 0 of another run is another
    assert len(set(source_names(windows))) == 6
    assert len(set(source_names(windows.drop(columns="source")))) == 12
    with pytest.raises(ValueError, match="sources='trial_id' is no column"):
        check_split(windows, even, ~even, by="stimulus", sources="trial_id")
    windows["source"] = [None, *range(11)]
    with pytest.raises(ValueError, match="1 rows have no 'source'"):
        check_split(windows, even, ~even, by="stimulus")


def test_one_picture_under_two_names_crosses():
    table = pd.DataFrame(
        {"stimulus": list("abcd"), "run": [0, 0, 1, 1], "picture_sha256": ["1", "2", "1", None]}
    )
    with pytest.raises(
        LeakageError, match=r"Training has 'a' and test 'c', which are one picture \(sha256 1\)"
    ):
        check_split(table, [0, 1], [2, 3], by="stimulus")
    check_split(table, [0, 1], [2, 3], by="run")  # repeats over runs are what a split by run allows
    check_split(table, [0, 2], [1, 3], by="stimulus")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 1], [], r"test side needs one or more trials; got shape \(0,\)"),
        ([0, 9], [1], r"train side names trials 0 to 3; got 0 to 9"),
        ([0, 1], [-1], r"test side names trials 0 to 3; got -1"),
        ([0.0, 1.0], [2], r"train side names trials 0 to 3; got 0.0 to 1.0 \(float64\)"),
        ([True, False], [2], r"train side names trials"),
    ],
)
def test_sides_that_are_no_trials_are_told(train, test, message):
    table = pd.DataFrame({"stimulus": list("abcd")})
    with pytest.raises(ValueError, match=message):
        check_split(table, train, test, by="stimulus")
