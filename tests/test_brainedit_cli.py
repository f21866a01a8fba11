"""brainedit.cli: every command's help, one sentence and exit code 2 for what a user can mend."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from brainedit.cli import main
from brainedit.simulate import simulate_passive


def run(monkeypatch, *arguments):
    """Exit code of the command, as the shell would see it."""
    monkeypatch.setattr(sys, "argv", ["brainedit", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A recording's epochs and pictures on disk."""
    folder = tmp_path_factory.mktemp("world")
    viewing = simulate_passive(
        n_pictures=20, n_repeats=2, channels=("Oz", "Pz", "P7", "P8"), picture_size=64, seed=3
    )
    viewing.epochs.save(folder / "epochs-epo.fif", verbose="error")
    for name, picture in viewing.images.items():
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


@pytest.fixture(scope="module")
def trained(world):
    arguments = ["train", "joint", "--epochs", world / "epochs-epo.fif", "--images", world / "pictures"]
    (world / "quick.yaml").write_text("joint: {n_epochs: 2, n_dims: 8}")
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, *arguments, "--config", world / "quick.yaml", "--out", world / "model") == 0
    return world / "model"


def test_help_imports_nothing_heavy():
    code = "import sys; sys.argv = ['brainedit', '--help']\nfrom brainedit.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    pass\n"
    code += (
        "heavy = {'torch', 'mne', 'sklearn', 'gradio', 'numpy'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("demo", "ui", "epochs", "train", "saliency", "directions", "edit", "sys-info"):
        assert command in done.stdout


def test_sys_info(monkeypatch, capsys):
    assert run(monkeypatch, "sys-info") == 0
    assert "torch" in capsys.readouterr().out


def test_train_then_saliency(monkeypatch, capsys, world, trained):
    assert (trained / "report.html").is_file()
    picture = next((world / "pictures").rglob("*.png"))
    arguments = [
        "--model",
        trained,
        "--eeg",
        world / "epochs-epo.fif",
        "--image",
        picture,
        "--out",
        world / "map",
    ]
    assert run(monkeypatch, "saliency", *arguments, "--window", 112, "--stride", 112) == 0
    assert capsys.readouterr().out.strip() == f"{world / 'map'}/report.html"
    assert np.load(world / "map" / "map.npy").shape == (224, 224)


def bad_inputs(world, trained):
    (world / "text.fif").write_text("no EEG")
    Image.new("RGB", (1, 1)).save(world / "dot.png")
    (world / "broken").mkdir(exist_ok=True)
    (world / "broken" / "model.json").write_text("{")
    epochs, pictures, picture = world / "epochs-epo.fif", world / "pictures", world / "dot.png"
    train = ["train", "joint", "--out", world / "never", "--images", pictures]
    saliency = ["saliency", "--out", world / "never", "--eeg", epochs, "--image", picture]
    return [
        ([*train, "--epochs", world / "text.fif"], "text.fif"),
        ([*train, "--epochs", world / "gone.fif"], "gone.fif"),
        ([*train, "--epochs", epochs, "--pair-by", "label"], "use pair_by='stimulus'"),
        ([*train, "--epochs", epochs, "--config", "jiont"], "Did you mean 'joint'"),
        ([*train, "--epochs", epochs, "--images", world / "broken"], "no picture in"),
        ([*saliency, "--model", world / "nowhere"], "no model in"),
        ([*saliency, "--model", world / "broken"], "cannot be read"),
        ([*saliency, "--model", trained], "No trial has the stimulus 'dot.png'"),
        ([*saliency, "--model", trained, "--trials", "onset < 10"], "1 x 1 pixels"),
        ([*saliency, "--model", trained, "--trials", "runs == 0"], "'runs == 0'"),
        (["edit", "--direction", world / "text.fif", "--out", world / "never"], "text.fif"),
        (
            ["edit", "--direction", world / "text.fif", "--out", world / "never", "--strengths", "1,x"],
            "'1,x'",
        ),
        (["saliency", "--nothing"], "--nothing"),
    ]


def test_bad_input_is_one_sentence_and_writes_nothing(monkeypatch, capsys, world, trained):
    for arguments, part in bad_inputs(world, trained):
        assert run(monkeypatch, *arguments) == 2, arguments
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("brainedit: "), said
        assert part in said
        assert not (world / "never").exists()
        assert not (world / "never.partial").exists()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(monkeypatch, capsys, world):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("brainedit.report.Result.write", full)
    arguments = ["train", "joint", "--epochs", world / "epochs-epo.fif", "--images", world / "pictures"]
    arguments += ["--config", world / "quick.yaml", "--out", world / "full"]
    (world / "quick.yaml").write_text("joint: {n_epochs: 1, n_dims: 8}")
    assert run(monkeypatch, *arguments) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (world / "full").exists()
    assert not (world / "full.partial").exists()
