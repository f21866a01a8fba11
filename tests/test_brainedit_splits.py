"""Splits: no unit on both sides, every trial tested once, equal names in two recordings are two units."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainedit.splits import UNITS, split_trials, unit_names


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
        tested += test.tolist()
    assert sorted(tested) == list(range(len(table)))


def test_equal_names_in_two_recordings_are_two_units():
    table = recordings()
    assert len(set(unit_names(table, "run"))) == 2 * 3
    assert len(set(unit_names(table, "block"))) == 2 * 3 * 2
    assert len(set(unit_names(table, "session"))) == 2
    assert len(set(unit_names(table.drop(columns=["subject", "session"]), "run"))) == 3
    assert set(unit_names(table, "stimulus")) == set(table["stimulus"])  # a picture is one, whoever sees it


def test_the_seed_decides_alone():
    table = recordings()
    first, again, other = (next(split_trials(table, seed=s))[1] for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert set(UNITS) <= set(table)  # each unit of the docstring was asked for below
    for by in UNITS:
        if table[by].nunique() > 1:
            next(split_trials(table, by=by))


def test_splits_that_cannot_be_made_are_told():
    table = recordings()
    with pytest.raises(ValueError, match=r"split by stimulus, label.*not by 'picture'"):
        next(split_trials(table, by="picture"))
    with pytest.raises(ValueError, match="split by task needs two or more of them; there is one, 't'"):
        next(split_trials(table, by="task"))
    with pytest.raises(ValueError, match="need 'run' for every trial; they have subject"):
        next(split_trials(table[["subject"]], by="run"))
    table.loc[3, "stimulus"] = None
    with pytest.raises(ValueError, match="need 'stimulus' for every trial"):
        next(split_trials(table))
