"""A published protocol on a small simulated data set: scored, resumed, refused where a test picture trained it."""

import json
import shutil

import numpy as np
import pytest

from brainedit.datasets.latents import read_latents, write_latents
from brainedit.datasets.load import load_dataset
from brainedit.datasets.paired import PairedDataset
from brainedit.jobs import study as study_job
from brainedit.jobs.simulate import simulate_files
from brainedit.jobs.study import study
from brainedit.joint import load_joint
from brainedit.simulate.things import simulate_things_eeg2

JOINT = {"eeg_encoder": "linear", "whiten": "channels_times", "start": "encoding", "normalize": "distance"}
JOINT |= {"image_encoder": "features", "n_dims": 8, "n_epochs": 2, "learning_rate": 1e-4}
JOINT |= {"sfreq": 50.0, "average_repeats": True, "feature_dropout": 0.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two people; 120 pictures of 60 concepts train, 12 of other concepts test."""
    layout = {"n_concepts": 60, "n_per_concept": 2, "n_train_repeats": 4, "n_test": 12, "n_test_repeats": 4}
    out = tmp_path_factory.mktemp("things") / "simulated"
    return simulate_things_eeg2(out, n_features=6, n_codes=4, oracle=0.95, progress=False, **layout)


@pytest.fixture(scope="module")
def data(root):
    return {"name": "things_eeg2", "root": root, "features": "middle+last"}


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    return study(tmp_path_factory.mktemp("done") / "out", data=data, joint=JOINT, subjects=[1, 2])


def record_of(folder):
    return json.loads((folder / "result.json").read_text())


def without_time(runs):
    return [{key: value for key, value in run.items() if key != "seconds"} for run in runs]


def test_a_study_has_a_model_and_a_score_for_each_person(done, data):
    assert {path.name for path in done.iterdir()} == {"report.html", "result.json", "models"}
    assert {path.name for path in (done / "models").iterdir()} == {"sub-01_seed-0", "sub-02_seed-0"}
    assert not list(done.parent.glob("out.*"))
    record = record_of(done)
    assert record["simulated"]
    assert [run["subject"] for run in record["figures"]["runs"]] == [1, 2]
    assert record["settings"]["protocol"]["subjects"] == [1, 2]
    for run in record["figures"]["runs"]:
        assert list(run["curve"]) == ["1", "2", "4"]
        model = load_joint(done / "models" / f"sub-{run['subject']:02d}_seed-0")
        assert model.card["training"]["design"] == "unverifiable"  # the order is in no published file
        test = load_dataset(**data, subject=run["subject"], split="test")
        theta = model.embed_pictures(test.pictures)
        averages = test.by_stimulus()
        f = (model.embed_epochs(averages.epochs) @ theta.T).numpy()
        hit = [list(test.pictures)[best] == key for best, key in zip(f.argmax(1), averages.keys, strict=True)]
        assert run["curve"]["4"][0]["value"] == pytest.approx(np.mean(hit))
        assert run["curve"]["4"][0]["value"] > 0.4  # chance is 1 / 12, the oracle's .95
        assert run["curve"]["4"][0]["p"] < 0.01
        assert run["control"][0]["p"] > 0.05


def test_the_page_has_people_curve_control_and_design(done):
    page = (done / "report.html").read_text()
    for words in (
        "Simulated EEG.",
        "<th scope=row>sub-01</th>",
        "<th scope=row>sub-02</th>",
        "Means over 2 people.",
        "<th scope=row>4 repeats averaged, top-1 of 12</th>",
        "control: EEG of other pictures, top-1 of 12",
        "With knowledge about the test set (transductive)",
        "Unverifiable: the claim “picture” under the published split into training and test.",
        "2 people</td>",
    ):
        assert words in page
    assert page.count('src="data:image/png;base64,') == 1


def test_a_person_s_seeds_do_not_make_the_score_surer(data, tmp_path, monkeypatch):
    values = {0: (0.2, 0.1, 0.3, 0.04), 1: (0.4, 0.2, 0.7, 0.01)}

    def scores(model, test):
        value, low, high, p = values[model.card["training"]["seed"]]
        score = {
            "value": value,
            "low": low,
            "high": high,
            "p": p,
            "n": 12,
            "unit": "picture",
            "chance": 1 / 12,
        }
        one = [{"name": "top-1"} | score]
        return {"curve": {"1": one}, "control": one, "transductive": one}

    monkeypatch.setattr(study_job, "_scores", scores)
    out = study(tmp_path / "out", data=data, joint=JOINT | {"n_epochs": 1}, seeds=[0, 1])
    score = record_of(out)["scores"][0]
    assert [score[key] for key in ("value", "low", "high", "p")] == pytest.approx([0.3, 0.1, 0.7, 0.04])
    assert "0.300 (SD 0.141)" in (out / "report.html").read_text()


def test_a_study_that_was_killed_goes_on(done, data, tmp_path, monkeypatch):
    trained = []

    def killed(dataset, *, dies_at, **settings):
        person = dataset.metadata["subject"].iloc[0]
        trained.append(person)
        if person == dies_at:
            raise KeyboardInterrupt
        return train(dataset, **settings)

    train = study_job.train_joint
    monkeypatch.setattr(study_job, "train_joint", lambda d, **s: killed(d, dies_at="02", **s))
    arguments = {"data": data, "joint": JOINT, "subjects": [1, 2]}
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "out", **arguments)
    assert {path.name for path in tmp_path.iterdir()} == {"out.running"}
    monkeypatch.setattr(study_job, "train_joint", lambda d, **s: killed(d, dies_at="", **s))
    study(tmp_path / "out", **arguments)
    assert trained == ["01", "02", "02"]
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    found, whole = (record_of(folder)["figures"]["runs"] for folder in (tmp_path / "out", done))
    assert without_time(found) == without_time(whole)


def test_other_settings_do_not_go_on_from_what_was_left(data, tmp_path, monkeypatch):
    def failing(model, test):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(study_job, "_scores", failing)
        with pytest.raises(RuntimeError, match=r"subject=1, seed=0.*No space left"):
            study(tmp_path / "out", data=data, joint=JOINT)
    out = study(tmp_path / "out", data=data, joint=JOINT | {"n_dims": 5})
    assert load_joint(out / "models" / "sub-01_seed-0").card["n_dims"] == 5


def test_runs_side_by_side_are_the_runs_one_by_one(done, data, tmp_path):
    out = study(tmp_path / "out", data=data, joint=JOINT, subjects=[1, 2], n_jobs=2)
    found, one_by_one = (without_time(record_of(folder)["figures"]["runs"]) for folder in (out, done))
    for one, other in zip(found, one_by_one, strict=True):
        assert one["curve"].keys() == other["curve"].keys()
        assert one["curve"]["4"][0]["value"] == pytest.approx(other["curve"]["4"][0]["value"])
        assert one["control"][0]["value"] == pytest.approx(other["control"][0]["value"])
    weights = [
        load_joint(f / "models" / "sub-02_seed-0").state_dict()["towers.eeg.project.weight"]
        for f in (out, done)
    ]
    assert weights[0].numpy() == pytest.approx(weights[1].numpy(), abs=1e-4)


def test_between_people_the_person_trains_nothing_but_the_calibration(data, tmp_path, monkeypatch):
    seen = []

    def train(dataset, **settings):
        seen.append(set(dataset.metadata["subject"]))
        return real_train(dataset, **settings)

    def calibrate(model, trials, **settings):
        seen.append((settings["subject"], settings["adapt"], len(trials), len(trials.pictures)))
        return real_calibrate(model, trials, **settings)

    real_train, real_calibrate = study_job.train_joint, study_job.calibrate
    monkeypatch.setattr(study_job, "train_joint", train)
    monkeypatch.setattr(study_job, "calibrate", calibrate)
    joint = JOINT | {"start": "random", "person_layer": True, "batch_size": 64}
    out = study(
        tmp_path / "out", data=data, joint=joint, subjects=[1, 2], kind="inter", calibration_pictures=15
    )
    assert seen == [{"02"}, ("01", "person", 60, 15), {"01"}, ("02", "person", 60, 15)]
    for run in record_of(out)["figures"]["runs"]:
        assert run["n_training_trials"] == 480
        assert run["calibrated"]["n_trials"] == 60
        assert run["calibrated"]["curve"] != run["curve"]
    page = (out / "report.html").read_text()
    assert "training parts of all other people" in page
    assert "After a calibration with 60 trials of the person" in page


def test_a_test_concept_in_training_is_refused(root, data, tmp_path):
    leaky = tmp_path / "leaky"
    shutil.copytree(root, leaky)
    names = np.load(leaky / "image_metadata.npy", allow_pickle=True).item()  # our own simulation's
    names["train_img_concepts"] = list(names["train_img_concepts"])
    names["test_img_concepts"] = list(names["test_img_concepts"])
    shared, old = names["train_img_concepts"][0], names["test_img_concepts"][0]
    names["test_img_concepts"][0] = shared
    np.save(leaky / "image_metadata.npy", names, allow_pickle=True)
    for layer in ("middle", "last"):
        path = leaky / "features" / layer / "test.safetensors"
        table = read_latents(path).rename(index=lambda name: name.replace(old, shared, 1))
        write_latents(table, path, space="z")
    with pytest.raises(ValueError, match=f"LeakageError: .*{shared}"):
        study(tmp_path / "out", data=data | {"root": leaky}, joint=JOINT)
    assert not (tmp_path / "out").exists()


def test_a_test_picture_in_training_is_refused(data, tmp_path, monkeypatch):
    def leaking(data, subject, split):
        part = own(data, subject, split)
        if split == "test":
            return part
        test = own(data, subject, "test")
        return PairedDataset.concatenate([part, test.subset(test.keys == test.keys[0])])

    own = study_job._part
    monkeypatch.setattr(study_job, "_part", leaking)
    with pytest.raises(ValueError, match=r"LeakageError.*test_images/"):
        study(tmp_path / "out", data=data, joint=JOINT, allow_confounded=True)
    with pytest.raises(ValueError, match=r"design is confounded: 1 pictures are in training and in test"):
        study(tmp_path / "other", data=data, joint=JOINT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "between"}, "Unknown kind 'between'"),
        ({"kind": "inter"}, r"two or more people; subjects are \[1\]"),
        ({"calibration_pictures": 5}, "got 5 for 'intra'"),
        ({"subjects": [2, 2]}, r"subjects is run once; got \[2, 2\]"),
        ({"joint": JOINT | {"seed": 3}}, "'seed' for each run; take it out of the section 'joint'"),
        ({"data": {"name": "things_eeg2", "subject": 1}}, "'subject' for each run"),
        ({"subjects": [7]}, "no folder sub-07"),
        ({"joint": JOINT | {"loss": "infonse"}}, "Unknown loss 'infonse'"),
        ({"subjects": [1, 2], "kind": "inter", "calibration_pictures": 999}, "999 pictures.*there are 120"),
    ],
)
def test_settings_that_do_not_fit_are_said(data, tmp_path, settings, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        study(tmp_path / "out", **({"data": data, "joint": JOINT | {"n_epochs": 1}} | settings))
    assert not (tmp_path / "out").exists()


def test_a_set_without_known_pictures_is_no_study(tmp_path, monkeypatch):
    monkeypatch.setattr(study_job, "load_dataset", lambda **settings: object())
    with pytest.raises(ValueError, match="needs the picture of each trial, which 'facecat' does not give"):
        study(tmp_path / "out", data={"name": "facecat"}, joint=JOINT)


def test_torchrun_is_no_way_to_run_a_study(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"not for torchrun \(WORLD_SIZE=2\)"):
        study(tmp_path / "out", data=data, joint=JOINT)


# simulated sets as files


def test_a_simulated_set_lies_where_it_is_read(tmp_path):
    out = simulate_files("kaneshiro2015", tmp_path / "out", subjects=[2], size="small")
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert len(load_dataset(name="kaneshiro2015", root=out, subject=2)) == 72 * 12
    with pytest.raises(ValueError, match="out exists; choose another --out"):
        simulate_files("kaneshiro2015", out, subjects=[1], size="small")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("kaneshiro2015", {"subjects": [1, 99], "size": "small"}, "subject must be 1 to 10"),
        ("things_eeg2", {"subjects": [0], "size": "small"}, r"different numbers from 1 on, got .*0"),
        ("things", {"subjects": [1]}, "Did you mean 'things_eeg2'"),
        ("things_eeg2", {"subjects": [1], "size": "tiny"}, "Unknown size 'tiny'"),
    ],
)
def test_a_simulation_that_fails_leaves_nothing(tmp_path, name, settings, message):
    with pytest.raises(ValueError, match=message):
        simulate_files(name, tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []
