"""Real P300 recordings, where they are at hand: single trials reach the AUC that is known for them."""

import importlib
import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture
def data():
    folder = Path(os.environ.get("BRAINEDIT_DATA") or CHECKOUT.parent / "shared" / "data")
    if not (folder / "p300_muse.npz").is_file():
        pytest.skip(f"No p300_muse.npz in {folder}; set BRAINEDIT_DATA to the folder of real data.")
    return str(folder)


@pytest.fixture
def real_p300(monkeypatch):
    if not (CHECKOUT / "benchmarks").is_dir():
        pytest.skip("The folder benchmarks is absent; run the tests in a checkout.")
    monkeypatch.syspath_prepend(CHECKOUT / "benchmarks")
    return importlib.import_module("real_p300")


def test_p300_auc_with_recordings_left_out(data, real_p300):
    from brainedit.evaluation import auc

    dataset = real_p300.p300_dataset(data)
    scores = real_p300.classifier_scores(dataset.epochs, "label == 'cat'", "lda")
    assert auc(dataset.keys == "cat", scores) == pytest.approx(0.762, abs=0.01)


def test_a_missing_folder_is_said_in_one_sentence(real_p300):
    with pytest.raises(FileNotFoundError, match="BRAINEDIT_DATA"):
        real_p300.data_file("/nowhere", "p300_muse.npz")
