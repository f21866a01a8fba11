"""The scripts that measure directions: planted figures, scores across tasks, and edits that follow the labels."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brainedit.evaluation import auc

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
STRONG_UV = 60.0  # a response that nobody could miss: scores are then the labels


@pytest.fixture
def script(monkeypatch):
    if not BENCHMARKS.is_dir():
        pytest.skip(f"The scripts in {BENCHMARKS} are absent; run the tests in a checkout.")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_parts_can_run_alone(script, capsys):
    options_of = script("direction_truth").options_of
    assert options_of(["--part", "eeg", "edits"]).part == ["eeg", "edits"]
    assert options_of([]).part == ["planned", "predicted", "people", "eeg", "edits"]
    assert options_of(["--only", "190"]).part == ["planned", "predicted"]
    with pytest.raises(SystemExit):
        options_of(["--part", "egg"])
    assert "egg" in capsys.readouterr().err


def test_simulated_relevance_has_the_auc_that_is_asked_for(script):
    latents, relevance, truth = script("direction_truth").World(20_000, 4, auc=0.79).draw(0)
    label = latents.to_numpy() @ truth > 0
    assert auc(label, relevance.iloc[0].to_numpy()) == pytest.approx(0.79, abs=0.01)  # standard error .003


def test_a_strong_response_gives_the_direction_of_the_labels(script):
    eeg = script("direction_eeg")
    wanted = {"brain": ("LDA", "ridge"), "explicit": ("labels", "ridge"), "permuted": ("permuted", "ridge")}
    settings = {"n": 60, "n_dims": 8, "n_tasks": 3, "pipelines": wanted, "amplitude_uv": STRONG_UV}
    rows = pd.concat(eeg.cosines_from_eeg(seed, **settings) for seed in range(2))
    found = eeg.pipeline_figures(rows)
    assert found["brain"]["auc"] > 0.98
    assert found["explicit"]["auc"] == 1
    assert found["brain"]["cosine"] == pytest.approx(found["explicit"]["cosine"], abs=0.05)
    assert found["explicit"]["cosine"] > 0.8
    assert abs(found["permuted"]["cosine"]) < 0.5  # six directions in 8 dimensions: deviation .14


def test_no_response_gives_chance(script):
    eeg = script("direction_eeg")
    settings = {"n": 60, "n_dims": 8, "n_tasks": 3, "pipelines": {"brain": ("LDA", "ridge")}}
    rows = pd.concat(eeg.cosines_from_eeg(seed, amplitude_uv=0.0, **settings) for seed in range(2))
    assert eeg.pipeline_figures(rows)["brain"]["auc"] == pytest.approx(0.5, abs=0.12)  # standard error .03


def test_a_task_is_scored_by_the_other_tasks_alone(script):
    eeg = script("direction_eeg")
    names = [f"face{i}" for i in range(60)]
    target = pd.Series(np.arange(60) % 2 == 0, names)
    epochs = eeg.recorded({"a": target, "b": target}, amplitude_uv=STRONG_UV, seed=0)
    turned = epochs.metadata["target"] ^ (epochs.metadata["task"] == "b")  # the labels of b alone are wrong
    epochs.metadata = epochs.metadata.assign(target=turned)
    own = eeg.task_scores(epochs, method="lda").query("task == 'b'")
    assert auc(own["target"].to_numpy(), own["probability"]) < 0.1  # had b taken part, it would be about .5


def test_each_task_shows_each_face_once_in_an_order_of_its_own(script):
    names = [f"face{i}" for i in range(40)]
    rng = np.random.default_rng(0)
    tasks = {task: pd.Series(rng.permutation(40) < 20, names) for task in ("smile", "age")}
    metadata = script("direction_eeg").recorded(tasks, amplitude_uv=1.0, seed=0).metadata
    assert len(metadata) == 80
    for task, own in metadata.groupby("task"):
        assert sorted(own["stimulus"]) == sorted(names)
        assert list(own["stimulus"]) != names
        assert (own.set_index("stimulus")["target"] == tasks[task].loc[own["stimulus"]]).all()


def test_edits_of_a_crowd_whose_scores_are_the_labels(script):
    edits = script("direction_edits")
    setting = edits.Setting(
        n_people=2, n_faces=60, n_new=4, n_per_draw=1, n_population=40, amplitude_uv=STRONG_UV
    )
    (row,) = edits.edit_figures(0, setting, attributes=("smile", "age"), edited=["smile"]).to_dict("records")
    assert row["auc"] > 0.98
    assert row["cosine"] > 0.95
    assert row["ratio"] == pytest.approx(1, abs=0.1)
    assert row["explicit"] > 0.2 > abs(row["shuffled"])


def test_summary_over_seeds(script):
    columns = ("auc", "cosine", "person_cosine", "crowd", "explicit", "person_ratio", "shuffled")
    rows = pd.DataFrame({name: [0.5, 0.5] for name in columns} | {"attribute": "smile"})
    rows = rows.assign(ratio=[0.7, 1.1], shuffled_low=[-0.1, 0.1], shuffled_high=[0.1, 0.2])
    found = script("direction_edits").summary(rows)["smile"]
    half = 12.706 * np.std([0.7, 1.1], ddof=1) / np.sqrt(2)  # t of one degree of freedom
    assert found["ratio"] == pytest.approx(0.9)
    assert found["ratio_high"] == pytest.approx(0.9 + half, rel=1e-4)
    assert (found["seeds_below_80"], found["seeds_shuffled_covers_0"], found["least_ratio"]) == (1, 1, 0.7)


def test_differences_are_paired_over_people(script):
    rows = pd.DataFrame(
        {
            "seed": [0, 0, 1, 1],
            "task": "task0",
            "pipeline": ["a", "b", "a", "b"],
            "auc": [0.9, 0.8, 0.7, 0.5],
            "cosine": 0.0,
        }
    )
    mean, error = script("direction_eeg").paired_difference(rows, "a", "b", "auc")
    assert (mean, error) == pytest.approx((0.15, 0.05))


def test_faces_of_one_kind_and_block_are_one_cluster(script):
    scores = pd.DataFrame(
        {
            "stimulus": ["z0", "z1", "z1", "z2", "z3", "z4"],
            "kind": ["d", "d", "d", "d", "r", "r"],
            "block": ["1", "1", "1", "2", "1", "2"],
        }
    )
    found = script("face_memory").clusters(scores)
    assert found.to_dict() == {"z0": "d 1", "z1": "d 1", "z2": "d 2", "z3": "z3", "z4": "z4"}
