"""LatentDataset: trials and latents are joined by name, and what cannot be joined is told."""

import numpy as np
import pandas as pd
import pytest

from brainedit.datasets.feature_sets import LatentDataset

NAMES = ["b", "a", "c", "a"]


def _parts(**changes):
    parts = {
        "features": np.arange(24, dtype=np.float32).reshape(4, 3, 2),
        "latents": pd.DataFrame({0: [1.0, 2.0, 3.0], 1: [10.0, 20.0, 30.0]}, index=["a", "b", "c"]),
        "metadata": pd.DataFrame({"stimulus": NAMES, "subject": ["1", "1", "2", "2"]}),
        "name": "small",
        "note": "Made up.",
    }
    return parts | changes


def test_latents_follow_the_trials_by_name():
    data = LatentDataset(**_parts())
    assert len(data) == 4
    assert data.latents_of().tolist() == [[2, 20], [1, 10], [3, 30], [1, 10]]
    assert repr(data) == "<LatentDataset small: features 4 x 3 x 2, latents 3 x 2>"


def test_the_face_looked_for_has_its_latent_too():
    metadata = pd.DataFrame({"stimulus": NAMES, "target_stimulus": ["c", "c", "b", "b"]})
    data = LatentDataset(**_parts(metadata=metadata))
    assert data.latents_of("target_stimulus")[:, 0].tolist() == [3, 3, 2, 2]
    assert data.subset([1]).latents.index.tolist() == ["a", "c"]
    with pytest.raises(ValueError, match="no latents by 'subject'; they have them by stimulus"):
        LatentDataset(**_parts()).latents_of("subject")


@pytest.mark.parametrize("trials", [[3, 0], np.array([3, 0]), np.array([True, False, False, True])])
def test_a_subset_keeps_no_latent_of_other_trials(trials):
    data = LatentDataset(**_parts()).subset(trials)
    order = [0, 3] if np.asarray(trials).dtype == bool else [3, 0]
    assert data.metadata["stimulus"].tolist() == [NAMES[i] for i in order]
    assert data.features[:, 0, 0].tolist() == [6 * i for i in order]
    assert data.latents.index.tolist() == ["a", "b"]
    assert data.metadata.index.tolist() == [0, 1]
    assert (data.name, data.note) == ("small", "Made up.")


def test_an_empty_subset_is_told():
    with pytest.raises(ValueError, match="selection of trials is empty"):
        LatentDataset(**_parts()).subset(np.zeros(4, bool))
    with pytest.raises(IndexError, match="index 4"):
        LatentDataset(**_parts()).subset([4])


FEATURES = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
LATENTS = _parts()["latents"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": FEATURES.astype(float)}, r"float32 array \(n_trials, ...\); got float64 \(4, 3, 2\)"),
        ({"features": FEATURES[:, 0, 0]}, r"got float32 \(4,\)"),
        ({"features": FEATURES.tolist()}, "got list"),
        ({"features": FEATURES[:3]}, "there are 3 and 4"),
        ({"features": FEATURES[:0], "metadata": pd.DataFrame({"stimulus": []})}, "there are 0 and 0"),
        ({"features": np.where(FEATURES == 13, np.nan, FEATURES)}, "features of trial 2 are NaN"),
        ({"features": np.where(FEATURES == 23, np.inf, FEATURES)}, "features of trial 3 are NaN or infinite"),
        ({"metadata": pd.DataFrame({"label": NAMES})}, "need a column 'stimulus'; they have label"),
        ({"metadata": pd.DataFrame({"stimulus": ["b", None, "c", "a"]})}, "1 of 4 trials have no 'stimulus'"),
        ({"latents": LATENTS.loc[["a"]]}, "stimulus 'b' and 1 more have no latent"),
        ({"latents": LATENTS.loc[["a", "c"]]}, "stimulus 'b' has no latent"),
        ({"latents": LATENTS.loc[["a", "b", "c", "b"]]}, "more than one row for 'b'"),
        ({"latents": LATENTS.replace(20.0, np.nan)}, "some are NaN"),
        ({"latents": LATENTS.astype(str)}, "no numbers"),
    ],
)
def test_parts_that_do_not_fit_are_told(changes, message):
    with pytest.raises(ValueError, match=message):
        LatentDataset(**_parts(**changes))
