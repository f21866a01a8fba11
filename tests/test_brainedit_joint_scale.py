"""Joint training on two processes is that of one, and what is killed at any moment ends with the same bytes.

As a script it is what the two processes do under torchrun, and what starts jobs and kills them.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from test_brainedit_joint_training import SMALL, planted

from brainedit import cli, distributed
from brainedit.joint import load_joint
from brainedit.joint_training import calibrate, train_joint
from brainedit.simulate import simulate_passive
from brainedit.simulate_things import simulate_things_eeg2

HERE = Path(__file__)
N_KILLS = 4
SHARED = SMALL | {"n_epochs": 3, "n_dims": 8}
STILL = {"dropout": 0.0, "dropout_in": 0.0}
CASES = {
    "linear": SHARED | {"eeg_encoder": "linear"},
    "eegproject": SHARED
    | {"eeg_encoder": "eegproject", "encoder_options": STILL, "person_layer": True}
    | {"average_repeats": True, "validate_by": "concept"},
    "tsconv": SHARED | {"eeg_encoder": "tsconv", "encoder_options": {"dropout": 0.0}},
}
# constants that a norm takes away wander by rounding, and its running mean follows them with a lag
WANDERING = ("trunk.0.bias", "trunk.4.bias", "running_mean")


def trained(case):
    """What training gives; with people's layers also what calibration for a new person does."""
    data, other = planted(n=30), planted(3, n=20, first=500)
    model = train_joint(data, **CASES[case])
    found = {"phi": model.embed_epochs(other.epochs), "theta": model.embed_pictures(other.pictures)}
    found["loss"] = torch.tensor(model.card["training"]["loss_history"])
    found |= {name: value for name, value in model.state_dict().items() if not name.endswith(WANDERING)}
    if case == "eegproject":
        model = calibrate(model, other, subject="02", n_epochs=2, progress=False)
        found["calibrated"] = model.embed_epochs(other.epochs, subject="02")
    return found


# what the processes do


def train_in_two(folder):
    torch.set_num_threads(1)
    found = {case: trained(case) for case in CASES}
    torch.save(found, folder / f"{distributed.world().rank}.pt")


def command(arguments):
    """Run brainedit in a process of its own, which shares this one's imports; its id."""
    pid = os.fork()
    if pid:
        return pid
    sys.argv = ["brainedit", *arguments]
    try:
        cli.main()
    except SystemExit as stop:
        os._exit(stop.code or 0)
    os._exit(0)


def kill_again_and_again(folder, *arguments):
    """An unbroken run to folder/unbroken; one that is killed at random moments to folder/broken."""
    import brainedit.jobs.joint
    import brainedit.jobs.study  # noqa: F401

    start = time.monotonic()
    codes = [os.waitpid(command([*arguments, "--out", str(folder / "unbroken")]), 0)[1]]
    duration, moments = time.monotonic() - start, random.Random(0)
    killed, seen = 0, []
    for k in moments.sample(range(N_KILLS), N_KILLS):
        pid = command([*arguments, "--out", str(folder / "broken")])
        time.sleep(duration * (k + moments.random()) / N_KILLS)
        os.kill(pid, signal.SIGKILL)
        killed += os.waitpid(pid, 0)[1] == signal.SIGKILL
        if (folder / "broken").exists():
            break
        seen.append(sorted(path.name for path in folder.glob("broken*")))
    if not (folder / "broken").exists():
        codes.append(os.waitpid(command([*arguments, "--out", str(folder / "broken")]), 0)[1])
    (folder / "record.json").write_text(json.dumps({"codes": codes, "killed": killed, "seen": seen}))


# what the tests look at


def started(*arguments, **settings):
    """A Python process with one thread and no accelerator."""
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(HERE.parents[1])}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **settings,
    )


def torchrun(*arguments):
    where = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    return started("-m", "torch.distributed.run", "--nproc-per-node=2", *where, *arguments)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    done = torchrun(HERE, "two", folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_with_the_same_global_batch(two, case):
    alone = trained(case)
    assert len(set(alone["loss"].tolist())) == SHARED["n_epochs"]  # it does learn
    for process in two:
        assert list(process[case]) == list(alone)
        for name, value in alone.items():
            most = 0.01 if case == "tsconv" and name == "phi" else 1e-5
            torch.testing.assert_close(process[case][name], value, rtol=most, atol=most, msg=name)


@pytest.fixture(scope="module")
def viewing(tmp_path_factory):
    """Command line of a training on epochs and pictures on disk (simulated)."""
    folder = tmp_path_factory.mktemp("viewing")
    made = simulate_passive(
        n_pictures=16, n_repeats=2, channels=("Oz", "Pz", "P7", "P8"), picture_size=64, seed=3
    )
    made.epochs.save(folder / "epochs-epo.fif", verbose="error")
    for name, picture in made.images.items():
        (folder / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / "pictures" / name)
    joint = {"eeg_encoder": "linear", "n_dims": 8, "n_epochs": 60, "batch_size": 8, "feature_dropout": 0.0}
    (folder / "joint.yaml").write_text(yaml.safe_dump({"joint": joint}))
    data = ["--epochs", folder / "epochs-epo.fif", "--images", folder / "pictures"]
    return ["train", "joint", *data, "--config", folder / "joint.yaml"]


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    """Command line of a study of one person and two seeds (simulated)."""
    folder = tmp_path_factory.mktemp("protocol")
    counts = {"n_concepts": 20, "n_per_concept": 2, "n_train_repeats": 2, "n_test": 12, "n_test_repeats": 2}
    simulate_things_eeg2(folder / "data", subjects=(1,), n_features=6, n_codes=2, progress=False, **counts)
    joint = {"eeg_encoder": "linear", "n_dims": 8, "n_epochs": 40, "batch_size": 16, "feature_dropout": 0.0}
    content = {
        "data": {"name": "things_eeg2", "root": str(folder / "data"), "features": "middle"},
        "protocol": {"subjects": [1], "seeds": [0, 1]},
        "joint": joint | {"image_encoder": "features"},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return ["train", "joint", "--config", folder / "study.yaml"]


def killed(arguments, folder):
    done = started(HERE, "kill", folder, *arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads((folder / "record.json").read_text())
    assert set(record["codes"]) == {0}, done.stderr[-4000:]
    assert record["killed"] >= 2
    aside = {"broken.partial", "broken.checkpoint.safetensors", "broken.checkpoint.safetensors.partial"}
    for names in record["seen"]:
        assert set(names) <= aside | {"broken.running"}
    assert sum(map(len, record["seen"])) > 0
    for name in ("unbroken", "broken"):
        assert json.loads((folder / name / "result.json").read_text())["simulated"]
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["broken", "record.json", "unbroken"]


@pytest.fixture(scope="module")
def joint_runs(viewing, tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    killed(viewing, folder)
    return folder


def test_a_killed_training_ends_with_the_same_bytes(joint_runs):
    first, second = (joint_runs / name / "model" / "model.safetensors" for name in ("unbroken", "broken"))
    assert first.read_bytes() == second.read_bytes()


def test_a_killed_study_ends_with_the_same_bytes(protocol, tmp_path):
    killed(protocol, tmp_path)
    models = sorted(
        path.relative_to(tmp_path / "broken") for path in (tmp_path / "broken").rglob("*.safetensors")
    )
    assert len(models) == 2
    for path in models:
        assert (tmp_path / "broken" / path).read_bytes() == (tmp_path / "unbroken" / path).read_bytes()


def test_the_command_trains_on_two_processes_and_one_of_them_writes(viewing, joint_runs, tmp_path):
    done = torchrun("-m", "brainedit.cli", *viewing, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr[-4000:]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "report.html").is_file()
    alone, together = load_joint(joint_runs / "unbroken" / "model"), load_joint(tmp_path / "out" / "model")
    for (name, one), other in zip(alone.state_dict().items(), together.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, msg=name)


def test_a_study_under_torchrun_is_told(monkeypatch, tmp_path):
    from brainedit.jobs.study import study

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"not for torchrun \(WORLD_SIZE=2\)"):
        study(tmp_path / "out", data={"name": "things_eeg2", "root": str(tmp_path)}, joint={})
    assert not list(tmp_path.iterdir())


if __name__ == "__main__":
    what = {"two": train_in_two, "kill": kill_again_and_again}[sys.argv[1]]
    what(Path(sys.argv[2]), *sys.argv[3:])
