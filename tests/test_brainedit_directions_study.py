"""The study of CVPR 2022: scores across tasks, faces left out, whose faces each arm moves, and the report."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from facecat_world import AXES, JUDGES, Z_DIM, Quarters, quarters_world
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from brainedit.comparison_tables import ArmResult, Comparison
from brainedit.config import read_config
from brainedit.datasets.facecat import TASK_PAIRS, _read, load_facecat
from brainedit.datasets.latents import read_latents, write_latents
from brainedit.directions import Direction, brain_direction
from brainedit.erp_classifiers import window_means
from brainedit.evaluation import auc
from brainedit.jobs import directions_study, directions_study_arms
from brainedit.jobs.directions_study import davis_study, draw_crowds, draw_seeds, score_people, window_epochs
from brainedit.jobs.directions_study_arms import Looks, TaskResult, pair_scores, pooled, step_of, task_arms
from brainedit.relevance import pool_relevance
from brainedit.simulate import simulate_facecat

PEOPLE = 3
STUDY = {
    "generator": "quarters",
    "judges": JUDGES,
    "crowds": [2, 3],
    "n_shuffled": 100,
    "degrees": [20.0, 40.0],
}


@pytest.fixture(scope="module", autouse=True)
def _world():
    with quarters_world():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    layout = {"n_people": PEOPLE, "n_images": 200, "n_unique": 44, "n_unique_sd": 3.0, "n_trials": 60}
    strong = {"auc_mean": 0.9, "auc_sd": 0.02, "progress": False}
    out = tmp_path_factory.mktemp("facecat") / "out"
    return simulate_facecat(out, generator="quarters", judges=JUDGES, **layout, **strong)


@pytest.fixture(scope="module")
def data(root):
    return load_facecat(root)


@pytest.fixture(scope="module")
def trials(data):
    return score_people(data)


@pytest.fixture(scope="module")
def done(root, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directions_study, "_LEAST_SHUFFLES", 24)  # 3 a task
        few = STUDY | {"n_shuffled": 24}
        return davis_study(tmp_path_factory.mktemp("study") / "out", root=root, **few)


@pytest.fixture(scope="module")
def record(done):
    return json.loads((done / "result.json").read_text())


def test_each_window_of_the_epochs_is_one_window_mean(data):
    epochs = window_epochs(data)
    means = window_means(epochs.get_data(), epochs.times, 0.0, 0.5, 5).reshape(len(data), 32, 5)
    expected = data.features.transpose(0, 2, 1) / data.features.std()
    assert np.allclose(means, expected, atol=1e-5)
    assert epochs.metadata["stimulus"].tolist() == data.metadata["stimulus"].tolist()


def test_a_trial_is_scored_by_lda_on_the_published_training_part(root, data, trials):
    db = _read(root / "facecat.xz")
    assert len(trials) == len(data)
    for person in ("0", "2"):
        for task in ("smiles", "young"):
            part = db[int(person)][f"facecat/{task}"]
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
            model.fit(1e6 * part["train_x"].reshape(len(part["train_x"]), -1), part["train_y"][:, 0])
            scores = model.decision_function(1e6 * part["test_x"].reshape(len(part["test_x"]), -1))
            own = trials[(trials["subject"] == person) & (trials["task"] == task)]
            assert own["stimulus"].tolist() == [str(name) for name in part["test_y"][:, 1]]
            found = np.log(own["probability"] / (1 - own["probability"]))
            assert np.corrcoef(found, scores)[0, 1] > 0.9999  # centred, else the same


def test_crowds_hold_whom_they_move_and_all_people():
    people = [str(i) for i in range(30)]
    order, crowds = draw_crowds(people, [4, 12, 30], 0)
    assert sorted(order) == sorted(people)
    assert order != people
    for size, of_person in crowds.items():
        assert all(len(set(crowd)) == size for crowd in of_person)
        assert all(person in crowd for person, crowd in zip(order, of_person, strict=True))
    assert [len(set(crowds[size])) for size in (1, 4, 12, 30)] == [30, 8, 3, 1]
    assert len(set(crowds[4][:10])) == 8  # the first people are in all crowds
    with pytest.raises(ValueError, match=r"crowds of 2 to 3 of them; got 3 and crowds \[4\]"):
        draw_crowds(["0", "1", "2"], [4], 0)
    with pytest.raises(ValueError, match=r"Need two or more people.*got 1"):
        draw_crowds(["0"], [], 0)


def test_seeds_are_one_target_and_one_other_of_what_was_seen(trials):
    order = ["2", "0", "1"]
    seeds = draw_seeds(trials, order, 0)
    assert len(seeds) == 8 * PEOPLE * 2
    assert seeds[seeds["task"] == "old"]["subject"].tolist() == ["2", "2", "0", "0", "1", "1"]
    seen = set(zip(trials["task"], trials["subject"], trials["stimulus"], trials["target"], strict=True))
    assert set(zip(seeds["task"], seeds["subject"], seeds["stimulus"], seeds["target"], strict=True)) <= seen
    assert seeds.groupby(["task", "subject"])["target"].sum().eq(1).all()
    one_kind = trials[~((trials["task"] == "old") & (trials["subject"] == "0") & trials["target"])]
    with pytest.raises(ValueError, match="Person 0 saw faces of one kind alone, or none, in the task 'old'"):
        draw_seeds(one_kind, order, 0)


@pytest.fixture(scope="module")
def arms(trials, data):
    order, crowds = draw_crowds(["0", "1", "2"], [2], 0)
    seeds = draw_seeds(trials, order, 0)
    own, moved = trials[trials["task"] == "old"], seeds[seeds["task"] == "old"]
    return order, crowds, own, moved, task_arms("old", own, data.latents, moved, crowds, 13, 0)


def test_draw_i_is_the_direction_of_person_i_without_the_faces_that_it_moves(arms, data):
    order, _, own, moved, (made, _, _) = arms
    for person, direction in zip(order, made["brain, 1"], strict=True):
        faces = moved.loc[moved["subject"] == person, "stimulus"]
        rest = own[(own["subject"] == person) & ~own["stimulus"].isin(faces)]
        relevance = pool_relevance(rest)
        expected = brain_direction(data.latents.loc[relevance.index], relevance, space="z").vector
        assert np.allclose(direction.vector, expected)
        assert direction.name == f"brain, old, person {person}"
    assert [d.name for d in made["shuffled, 1"]] == [
        f"shuffled, old, person {order[i % 3]}" for i in range(13)
    ]


def test_a_crowd_leaves_out_the_faces_of_all_its_members(arms, data):
    order, crowds, own, moved, _ = arms
    crowd = crowds[2][0]
    looks = Looks.of("old", crowd, own, data.latents, moved)
    left_out = set(moved.loc[moved["subject"].isin(crowd), "stimulus"])
    seen = set(own.loc[own["subject"].isin(crowd), "stimulus"])
    assert len(left_out) > 2
    assert set(looks.brain.index) == set(looks.explicit.index) == set(looks.latents.index) == seen - left_out
    other = own.assign(probability=own["probability"].where(~own["stimulus"].isin(left_out), 0.001))
    again = Looks.of("old", crowd, other, data.latents, moved)
    assert np.array_equal(again.direction("brain").vector, looks.direction("brain").vector)
    assert order[0] in crowd


def test_explicit_directions_point_along_the_planted_axis_and_shuffled_ones_do_not(arms):
    *_, (made, vectors, predicted) = arms
    axis = np.eye(Z_DIM)[AXES["old"]]
    assert all(direction.vector @ axis > 0.8 for direction in made["explicit, 1"])
    assert all(direction.vector @ axis > 0.5 for direction in made["brain, 2"])
    assert abs(np.mean([direction.vector @ axis for direction in made["shuffled, 1"]])) < 0.3
    assert set(vectors) == {
        "brain, 1", "explicit, 1", "brain svr, 1", "shuffled, 1", "brain, 2", "explicit, 2", "shuffled, 2",
    }  # fmt: skip
    assert predicted["size"].value_counts().to_dict() == {1: 3, 2: 2}


def test_the_other_pole_of_a_pair_is_scored_with_the_other_sign():
    images = Quarters().synthesize(np.eye(Z_DIM, dtype=np.float32), space="z")
    old, young = (pair_scores(JUDGES, task)(images) for task in ("old", "young"))
    assert old["old/young"][2] > 0.7
    assert np.allclose(young["old/young"], -old["old/young"])
    assert np.allclose(young["nosmile/smiles"], old["nosmile/smiles"])
    assert old["female/male"][0] > 0.7


def test_painted_judges_are_read_at_once_and_give_what_each_gives_alone(monkeypatch):
    from brainedit.judges import judge
    from brainedit.simulate.facecat import PAINTED

    monkeypatch.setattr(directions_study_arms, "judge", judge)
    with pytest.raises(ValueError, match="painted/hair"):
        pair_scores(PAINTED | {next(iter(PAINTED)): "painted/hair"}, "male")

    images = Quarters().synthesize(
        np.random.default_rng(0).normal(size=(3, Z_DIM)).astype(np.float32), space="z"
    )
    table = pair_scores(PAINTED, "male")(images)
    for task, name in PAINTED.items():
        sign = -1 if task == "female" else 1
        assert np.allclose(table[TASK_PAIRS[task]], sign * judge(name).score(images).numpy(), atol=1e-5)


def _task_result(task, wanted, size=1):
    """Two people; the wanted score (column 2) changes by `wanted`, the others by 9."""
    changes = np.full((4, 2, 4), 9.0)
    changes[:, :, 2] = [[0, wanted]] * 4
    rows = np.zeros((4, 2))
    result = ArmResult(changes, changes, changes, rows, rows, rows, rows, np.array([0, 0, 1, 1]))
    pairs = ["female/male", "nosmile/smiles", "old/young", "blond/darkhaired"]
    comparison = Comparison(
        {f"brain, {size}": result, "random": result}, np.array([0.0, 1.0]), "old/young", pairs
    )
    return TaskResult(task, comparison, {}, pd.DataFrame())


def test_tasks_are_pooled_with_the_wanted_score_first_and_people_as_units():
    results = [_task_result("old", 1.0), _task_result("young", 3.0)]
    together = pooled(results)
    table = together.curves().set_index(["arm", "step"])
    assert table.loc[("brain, 1", 1.0), "change"] == pytest.approx(2.0)
    assert table.loc[("brain, 1", 1.0), "dependency_mean"] == pytest.approx(9.0)
    assert table.loc[("brain, 1", 1.0), "n_units"] == 2
    assert table.loc[("random", 1.0), "n_units"] == 4


def test_degrees_are_turns_of_a_typical_latent():
    assert step_of(90, Quarters()) == pytest.approx(np.pi / 2 * np.sqrt(8))


def test_the_study_finds_what_was_planted(record, trials):
    figures = record["figures"]
    assert record["simulated"]
    step = figures["equal_step"]
    for size in ("1", "2", "3"):
        assert step[f"explicit, {size}"]["change"] > step[f"brain, {size}"]["change"] - 0.1 > 0.3
        assert abs(step[f"shuffled, {size}"]["change"]) < step[f"brain, {size}"]["change"] / 2
        value, low, high = figures["brain_against_explicit"]["step"][size]
        assert low <= value <= high
        assert value == pytest.approx(step[f"brain, {size}"]["change"] / step[f"explicit, {size}"]["change"])
    aucs = [auc(own["target"], own["probability"]) for _, own in trials.groupby(["subject", "task"])]
    assert figures["auc"]["mean"] == pytest.approx(np.mean(aucs))
    assert [row["subject"] for row in figures["people"]] != []
    assert all(0.3 < row["to_reference"] < 1 for row in figures["people"])


def test_the_reports_of_a_simulation_say_so_and_name_the_defects(done):
    page = (done / "report.html").read_text()
    for words in (
        "Simulated EEG. Nothing on this page was measured on a person.",
        "<th scope=row>one person</th>",
        "<th scope=row>crowd of 3</th>",
        "<th scope=row>random directions</th>",
        "<th scope=row>darkhaired</th>",
        "<th scope=row>person 2</th>",
        "The same step: 40 degrees",
        "The same loss of identity: 0.3",
        "What the original did and what is done here",
        "Thresholds. The original: ",
    ):
        assert words in page, words


def test_directions_of_the_largest_crowd_can_be_loaded_and_know_that_they_are_simulated(done):
    files = sorted((done / "directions").iterdir())
    assert [file.stem for file in files] == sorted(TASK_PAIRS)
    for file in files:
        found = Direction.load(file)
        sign = 1 if file.stem in JUDGES else -1
        assert sign * found.vector[AXES[file.stem]] > 0.7
        assert found.provenance["simulated"]
        assert found.provenance["n_people"] == 3
    curves = pd.read_csv(done / "curves.csv")
    assert set(curves["task"]) == {"all", *TASK_PAIRS}
    assert np.allclose(curves.groupby("step")["degrees"].mean(), [0, 20, 40], atol=0.5)  # on a great circle


def test_all_arms_move_by_the_same_steps(done):
    curves = pd.read_csv(done / "curves.csv")
    first = curves[
        curves["step"] == curves["step"].unique()[1]
    ]  # at longer ones a few faces reach the direction
    assert first.groupby("task")["degrees"].agg(np.ptp).max() < 1
    assert curves.groupby("arm")["step"].nunique().eq(3).all()


def test_some_people_and_an_older_result(root, done, tmp_path):
    with pytest.raises(ValueError, match="holds an older result"):
        davis_study(done, root=root, **STUDY)
    with pytest.raises(ValueError, match=r"people are different numbers out of 0, 1, 2; got \[0, 7\]"):
        davis_study(tmp_path / "out", root=root, people=[0, 7], **STUDY)
    with pytest.raises(ValueError, match=r"crowds of 2 to 2 of them; got 2 and crowds \[2, 3\]"):
        davis_study(tmp_path / "out", root=root, people=[0, 2], **STUDY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_shuffled": 99}, "100 draws or more; got n_shuffled=99"),
        ({"degrees": [20.0, 20.0]}, r"degrees rise from above 0 to below 90; got \[20.0, 20.0\]"),
        ({"degrees": [90.0]}, r"degrees rise .* got \[90.0\]"),
        ({"degrees": []}, r"degrees rise .* got \[\]"),
        ({"identity_loss": 1.0}, "identity_loss lies between 0 and 1; got 1.0"),
        ({"crowds": [1, 4]}, r"crowds are one or more different sizes of 2 or more people; got \[1, 4\]"),
        ({"crowds": [2, 2]}, r"crowds are .* got \[2, 2\]"),
        ({"crowds": []}, r"crowds are .* got \[\]"),
        ({"judges": {"old": "quarter 2"}}, "judges name one task of each pair .* got old"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(root, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        davis_study(tmp_path / "out", root=root, **(STUDY | wrong))
    assert not list(tmp_path.iterdir())


def test_faces_of_another_generator_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match="made by another generator"):
        davis_study(tmp_path / "out", root=root, **(STUDY | {"generator": "others"}))
    shutil.copytree(root, tmp_path / "wide")
    table = read_latents(root / "latents.safetensors")
    wide = pd.concat([table, table], axis=1)
    write_latents(wide, tmp_path / "wide" / "latents.safetensors", space="z")
    with pytest.raises(ValueError, match="latents have 16 numbers; quarters takes 8 in 'z'"):
        davis_study(tmp_path / "out", root=tmp_path / "wide", **STUDY)
    with pytest.raises(FileNotFoundError, match=r"no facecat.xz or facecat.pkl"):
        davis_study(tmp_path / "out", root=tmp_path, **STUDY)


def test_a_task_of_one_kind_is_named(trials, data):
    own = trials[(trials["task"] == "old") & ~trials["target"]]
    seeds = pd.DataFrame({"subject": ["0"], "stimulus": ["none"]})
    with pytest.raises(ValueError, match=r"old, person 0: the faces that are left .* all of one kind"):
        Looks.of("old", ("0",), own, data.latents, seeds)


def test_the_bundled_configuration_holds_settings_of_the_study():
    settings = read_config("davis2022", {"study": davis_study})["study"]
    assert settings["crowds"] == [4, 12, 30]
    assert settings["n_shuffled"] >= 100
