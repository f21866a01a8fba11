"""The simulated population: the published layout, the AUC that was drawn, faces of the kinds that a judge tells."""

import json

import numpy as np
import pytest
from facecat_world import AXES, JUDGES, Quarters, quarters_world
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from brainedit.datasets.facecat import TASK_PAIRS, _read, load_facecat
from brainedit.jobs.simulate import simulate_files
from brainedit.simulate import simulate_facecat
from brainedit.simulate.facecat import _draw_aucs, _Windows, high_tasks

SMALL = {"generator": "quarters", "judges": JUDGES, "n_people": 2, "n_images": 160, "n_unique": 40}
SMALL |= {"n_unique_sd": 4.0, "n_trials": 60, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def _world():
    with quarters_world():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return simulate_facecat(tmp_path_factory.mktemp("facecat") / "out", **SMALL)


@pytest.fixture(scope="module")
def truth(root):
    return json.loads((root / "truth.json").read_text())


def _db(root):
    return _read(root / "facecat.xz")


def test_the_loader_reads_all_people_and_tasks_without_a_warning(root, caplog):
    data = load_facecat(root)
    assert data.features.shape[1:] == (5, 32)
    assert set(data.metadata["subject"]) == {"0", "1"}
    assert set(data.metadata["task"]) == set(TASK_PAIRS)
    assert data.latents.shape[1] == 8
    assert not caplog.records  # the part train is what was published: the trials of the other pairs
    of_task = data.metadata.groupby(["subject", "task"])["stimulus"]
    assert of_task.size().between(60, 60).all()
    assert of_task.nunique().between(26, 54).all()
    assert of_task.nunique().nunique() > 1
    assert 1e-6 < data.features.std() < 3e-5  # volts


def test_lda_trained_on_the_part_train_reaches_the_auc_that_was_drawn(root, truth):
    for person, parts in _db(root).items():
        for task in TASK_PAIRS:
            part = parts[f"facecat/{task}"]
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
            model.fit(part["train_x"].reshape(len(part["train_x"]), -1) * 1e6, part["train_y"][:, 0])
            scores = model.decision_function(part["test_x"].reshape(len(part["test_x"]), -1) * 1e6)
            told = truth["people"][str(person)][task]
            assert roc_auc_score(part["test_y"][:, 0], scores) == pytest.approx(told["auc_reached"], abs=2e-3)
            assert told["auc_reached"] == pytest.approx(told["auc_drawn"], abs=0.02)


def test_aucs_are_distributed_as_published():
    rng = np.random.default_rng(0)
    drawn = np.array([list(_draw_aucs(0.79, 0.08, (0.55, 0.95), rng).values()) for _ in range(500)])
    assert drawn.shape == (500, 8)
    assert drawn.mean() == pytest.approx(0.79, abs=0.01)
    assert drawn.std() == pytest.approx(0.08, abs=0.008)
    assert drawn.min() == 0.55
    assert drawn.max() == 0.95
    # of the mean of 8 tasks: .06 of the person and .053 / sqrt(8) of the tasks
    assert drawn.mean(1).std() == pytest.approx(np.hypot(0.06, 0.053 / np.sqrt(8)), abs=0.008)


def test_targets_are_the_faces_that_the_judge_scores_on_the_right_side(root, truth):
    data = load_facecat(root)
    z = data.latents_of()
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    for task, axis in AXES.items():
        own = (data.metadata["task"] == task).to_numpy()
        value = z[own, axis] * (1 if task in JUDGES else -1)
        target = data.metadata["target"][own].to_numpy()
        assert value[target].min() > value[~target].max()  # one threshold parts them
        names = set(data.metadata["stimulus"][own & data.metadata["target"].to_numpy()])
        assert task not in JUDGES or names <= set(truth["faces"][task])


def test_a_face_keeps_its_own_latent_under_its_own_name(root, truth):
    latents = load_facecat(root).latents
    images = Quarters().synthesize(np.array(latents, np.float32), space="z")
    bright = images[:, 0, 0, 8].numpy()  # the second quarter: smiles
    smiling = latents.index.isin(truth["faces"]["smiles"])
    assert bright[smiling].min() > bright[~smiling].max()
    assert not set(latents.index) & {str(i) for i in range(len(latents))}  # no row numbers


def test_the_files_say_that_they_are_simulated(root, truth):
    assert truth["simulated"] is True
    assert "SIMULATED" in (root / "README.txt").read_text()
    assert all("simulated" in parts["note"] for parts in _db(root).values())


def test_the_same_seed_gives_the_same_files_and_another_one_others(tmp_path):
    one = SMALL | {"n_people": 1, "n_unique": 14, "n_unique_sd": 0.0, "n_trials": 14}
    first, again, other = (simulate_facecat(tmp_path / f"{i}", **one, seed=i // 2) for i in range(3))
    for name in ("facecat.xz", "truth.json"):  # the header of safetensors has no fixed order
        assert (again / name).read_bytes() == (first / name).read_bytes()
        assert (other / name).read_bytes() != (first / name).read_bytes()


def test_the_starting_amplitude_is_that_of_the_best_classifier():
    head, rng = _Windows(), np.random.default_rng(0)
    response = head.p300(0.4)
    noise = head.draw(20_000, rng) - head.visual
    weights = np.linalg.solve(head.root.T @ head.root, response)
    projected = noise @ weights
    amplitude = head.amplitude(response, 0.79)
    reached = (projected[:10_000] + amplitude * response @ weights > projected[10_000:]).mean()
    assert reached == pytest.approx(0.79, abs=0.015)
    pz, fp1 = (response.reshape(5, 32)[4][head.names.index(name)] for name in ("Pz", "Fp1"))
    assert pz > 5 * abs(fp1) / 2  # parietal
    assert np.argmax(response.reshape(5, 32)[:, head.names.index("Pz")]) in (3, 4)  # .3 to .5 s


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"auc_range": (0.4, 0.95)}, r"AUCs lie between .5 and 1.*\(0.4, 0.95\)"),
        ({"auc_mean": 0.5}, "AUCs lie between .5 and 1.*got 0.5"),
        ({"target_share": 1.0}, "target_share lies between 0 and 1; got 1.0"),
        ({"n_people": 0}, "1 or more people.*got 0, 40"),
        ({"n_unique": 11}, "12 or more faces a task.*got 2, 11"),
        ({"n_images": 60}, "n_images=60 gives 30 faces of a kind; a task of up to 54 faces needs 38"),
        ({"judges": {"female": "quarter 0"}}, "judges name one task of each pair .* got female"),
        ({"judges": JUDGES | {"male": "quarter 0"}}, "judges name one task of each pair .*blond, male"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        simulate_facecat(tmp_path / "out", **(SMALL | wrong))
    assert not list(tmp_path.iterdir())


def test_an_older_folder_stays(root):
    with pytest.raises(ValueError, match="out exists; give a new folder"):
        simulate_facecat(root, **SMALL)
    assert high_tasks(JUDGES) == JUDGES


def test_the_command_writes_one_file_of_all_people(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "brainedit.simulate.facecat.simulate_facecat", lambda out, **k: calls.append(k) or out
    )
    simulate_files("facecat", tmp_path / "out", subjects=[1], size="small", seed=3)
    simulate_files("facecat", tmp_path / "out", subjects=[1])
    assert calls == [{"seed": 3, "n_people": 6, "n_images": 700}, {"seed": 0}]
    with pytest.raises(
        ValueError, match=r"facecat is one file of all people; leave out subjects, got \[1, 2\]"
    ):
        simulate_files("facecat", tmp_path / "out", subjects=[1, 2])
    with pytest.raises(ValueError, match=r"Unknown simulation 'facecats'\. Did you mean 'facecat'"):
        simulate_files("facecats", tmp_path / "out", subjects=[1])
