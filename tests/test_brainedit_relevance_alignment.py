"""A new person's first trials: alignment undoes what differs between people, and reads nothing but those trials."""

import numpy as np
import pandas as pd
import pytest

from brainedit.alignment import euclidean_alignment, first_trials


def people(n=300, n_channels=4, seed=0):
    rng = np.random.default_rng(seed)
    person = np.repeat(["a", "b"], n // 2)
    return rng.normal(size=(n, n_channels, 20)), person, rng


def covariance(data):
    data = data - data.mean(0)
    return np.einsum("nct,ndt->cd", data, data) / data[:, 0].size


def test_the_reference_trials_become_white_and_centred():
    data, person, rng = people()
    data[person == "b"] = rng.normal(size=(4, 4)) @ data[person == "b"] + rng.normal(size=(4, 20))
    reference = np.tile(np.arange(150) < 60, 2)
    aligned = euclidean_alignment(data, person, reference)
    for who in "ab":
        first = aligned[reference & (person == who)]
        assert covariance(first) == pytest.approx(np.eye(4), abs=1e-9)
        assert first.mean(0) == pytest.approx(np.zeros((4, 20)), abs=1e-9)


def test_nothing_but_the_reference_trials_moves_the_others():
    data, person, _rng = people()
    reference = np.tile(np.arange(150) < 30, 2)
    changed = data.copy()
    changed[140] *= 50  # of person a, not a reference
    before, after = (euclidean_alignment(x, person, reference) for x in (data, changed))
    same = np.arange(300) != 140
    assert np.array_equal(before[same], after[same])


def test_an_average_reference_stays_finite():
    data, person, _ = people()
    data -= data.mean(1, keepdims=True)
    aligned = euclidean_alignment(data, person, np.ones(300, bool))
    assert np.abs(aligned).max() < 10
    assert aligned.sum(1) == pytest.approx(np.zeros((300, 20)), abs=1e-9)


def test_a_person_without_reference_is_told():
    data, person, _ = people()
    with pytest.raises(ValueError, match="Person 'b' has 1 trials to align by; two"):
        euclidean_alignment(data, person, (person == "a") | (np.arange(300) == 200))


def test_first_trials_follow_run_numbers_and_onsets():
    """Not the order in which trials stand, nor that of names: run 2 comes before run 10."""
    metadata = pd.DataFrame(
        {
            "subject": "a",
            "run": [10, 10, "2", 2, 2, 10],
            "onset": [1.0, 2.0, 9.0, 3.0, 5.0, 3.0],
        }
    )
    metadata["run"] = metadata["run"].astype(int)
    chosen, run = first_trials(metadata, 2)
    assert chosen.tolist() == [False, False, False, True, True, False]
    assert run.tolist() == [False, False, True, True, True, False]
    chosen, run = first_trials(metadata.drop(columns="onset"), 2)
    assert chosen.tolist() == [False, False, True, True, False, False]


def test_the_first_run_is_each_persons_own_and_of_the_first_session():
    metadata = pd.DataFrame(
        {"subject": ["a"] * 4 + ["b"] * 4, "session": [2, 2, 1, 1] * 2, "run": [1, 2, 1, 2, 1, 2, 3, 2]}
    )
    _, run = first_trials(metadata, 1)
    assert run.tolist() == [False, False, True, False, False, False, False, True]


@pytest.mark.parametrize(
    ("columns", "n", "message"),
    [
        ({"run": 1}, 2, "Person 'a' has one run"),
        ({"run": [1, 2, 2, 2]}, 2, "first run of person 'a' has 1 trials; n_calibration is 2"),
        ({}, 2, "needs 'run' for every trial"),
        ({"run": [1, None, 2, 2]}, 2, "needs 'run' for every trial"),
    ],
)
def test_what_cannot_calibrate_is_told(columns, n, message):
    with pytest.raises(ValueError, match=message):
        first_trials(pd.DataFrame({"subject": ["a"] * 4} | columns), n)
