"""Joint training on two processes is that of one, and what is killed at any moment ends with the same bytes.

As a script it is what the two processes do under torchrun, and what starts jobs and kills them.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from test_brainedit_joint_training import SMALL, planted

from brainedit import cli, distributed, report
from brainedit.joint import load_joint
from brainedit.joint_training import calibrate, train_joint
from brainedit.simulate.things import simulate_things_eeg2
from brainedit.simulate.viewing import simulate_passive

HERE = Path(__file__)
N_KILLS = 3
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
    data, other = planted(n=30), planted(3, subject="02", n=20, first=500)
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
    """Every case, then the command that folder/argv.json has for "joint", to folder/two."""
    torch.set_num_threads(1)
    found = {case: trained(case) for case in CASES}
    torch.save(found, folder / f"{distributed.world().rank}.pt")
    sys.argv = [
        "brainedit",
        *json.loads((folder / "argv.json").read_text())["joint"],
        "--out",
        str(folder / "two"),
    ]
    cli.main()


def kill_them(folder):
    """Each command in a folder of its own. Drawing is most of their time and not what is looked at."""
    import brainedit.jobs.joint
    import brainedit.jobs.study  # noqa: F401

    report._as_image = lambda picture: Image.new("RGB", (1, 1))
    for name, arguments in json.loads((folder / "argv.json").read_text()).items():
        (folder / name).mkdir()
        kill_again_and_again(folder / name, arguments)


def kill_again_and_again(folder, arguments):
    """An unbroken run to folder/unbroken; one that is killed at random moments to folder/broken."""
    start, broken = time.monotonic(), folder / "broken"
    codes = [os.waitpid(command([*arguments, "--out", str(folder / "unbroken")]), 0)[1]]
    duration, moments, seen = time.monotonic() - start, random.Random(0), []
    while len(seen) < N_KILLS:
        pid = command([*arguments, "--out", str(broken)])
        time.sleep(duration * moments.random())
        os.kill(pid, signal.SIGKILL)
        if os.waitpid(pid, 0)[1] == signal.SIGKILL:
            seen.append(sorted(path.name for path in folder.glob("broken*")))
        if broken.exists():  # it was faster: again, with less patience
            whole = (broken / "report.html").is_file() and (broken / "result.json").is_file()
            codes.append(0 if whole else "half-written")
            shutil.rmtree(broken)
            duration *= 0.7
    codes.append(os.waitpid(command([*arguments, "--out", str(broken)]), 0)[1])
    (folder / "record.json").write_text(json.dumps({"codes": codes, "seen": seen}))


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


# what the tests look at


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The commands, and the simulated data that they train on."""
    folder = tmp_path_factory.mktemp("scale")
    commands = {"joint": on_epochs(folder), "study": on_a_published_layout(folder)}
    (folder / "argv.json").write_text(
        json.dumps({name: list(map(str, argv)) for name, argv in commands.items()})
    )
    return folder


def on_epochs(folder):
    made = simulate_passive(
        n_pictures=16, n_repeats=2, channels=("Oz", "Pz", "P7", "P8"), picture_size=64, seed=3
    )
    made.epochs.save(folder / "epochs-epo.fif", verbose="error")
    for name, picture in made.images.items():
        (folder / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / "pictures" / name)
    joint = {"eeg_encoder": "linear", "n_dims": 8, "n_epochs": 40, "batch_size": 8, "feature_dropout": 0.0}
    (folder / "joint.yaml").write_text(yaml.safe_dump({"joint": joint}))
    data = ["--epochs", folder / "epochs-epo.fif", "--images", folder / "pictures"]
    return ["train", "joint", *data, "--config", folder / "joint.yaml"]


def on_a_published_layout(folder):
    """A study of one person and two seeds."""
    counts = {"n_concepts": 20, "n_per_concept": 2, "n_train_repeats": 2, "n_test": 12, "n_test_repeats": 1}
    simulate_things_eeg2(folder / "data", subjects=(1,), n_features=6, n_codes=2, progress=False, **counts)
    joint = {
        "eeg_encoder": "linear",
        "n_dims": 8,
        "n_epochs": 20,
        "batch_size": 32,
        "image_encoder": "features",
    }
    content = {
        "data": {"name": "things_eeg2", "root": str(folder / "data"), "features": "middle"},
        "protocol": {"subjects": [1], "seeds": [0, 1]},
        "joint": joint,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return ["train", "joint", "--config", folder / "study.yaml"]


def started(*arguments):
    """A Python process with one thread and no accelerator."""
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def two(folder):
    where = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    started("-m", "torch.distributed.run", "--nproc-per-node=2", *where, HERE, "two", folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def killed(folder):
    started(HERE, "kill", folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_with_the_same_global_batch(two, case):
    alone = trained(case)
    assert len(set(alone["loss"].tolist())) == SHARED["n_epochs"]  # it does learn
    for process in two:
        assert list(process[case]) == list(alone)
        for name, value in alone.items():
            most = 0.01 if case == "tsconv" and name == "phi" else 1e-5
            torch.testing.assert_close(process[case][name], value, rtol=most, atol=most, msg=name)


@pytest.mark.parametrize("job", ["joint", "study"])
def test_what_is_killed_at_any_moment_ends_with_the_same_bytes(killed, job):
    record = json.loads((killed / job / "record.json").read_text())
    assert set(record["codes"]) == {0}
    checkpoints = [f"broken.{kind}checkpoint.safetensors" for kind in ("", "permuted.")]
    aside = {"broken.partial", "broken.running", *checkpoints, *(f"{name}.partial" for name in checkpoints)}
    assert set().union(*record["seen"]) <= aside
    assert any(record["seen"])
    assert sorted(path.name for path in (killed / job).iterdir()) == ["broken", "record.json", "unbroken"]
    files = [sorted((killed / job / name).rglob("*.safetensors")) for name in ("unbroken", "broken")]
    assert len(files[0]) == 2  # the model and its twin on permuted pairs; two seeds
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_command_trains_on_two_processes_and_one_of_them_writes(two, killed):
    assert sorted(path.name for path in killed.glob("two*")) == ["two"]
    assert (killed / "two" / "report.html").is_file()
    alone, together = (
        load_joint(killed / "joint" / "unbroken" / "model"),
        load_joint(killed / "two" / "model"),
    )
    losses = [model.card["training"]["loss_history"] for model in (alone, together)]
    assert np.allclose(*losses, rtol=1e-5)
    for (name, one), other in zip(alone.state_dict().items(), together.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, msg=name)


def test_a_study_under_torchrun_is_told(monkeypatch, tmp_path):
    from brainedit.jobs.study import study

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"not for torchrun \(WORLD_SIZE=2\)"):
        study(tmp_path / "out", data={"name": "things_eeg2", "root": str(tmp_path)}, joint={})
    assert not list(tmp_path.iterdir())


if __name__ == "__main__":
    {"two": train_in_two, "kill": kill_them}[sys.argv[1]](Path(sys.argv[2]))
