"""brainedit.cli: every command's help, one sentence and exit code 2 for what a user can mend."""

import json
import subprocess
import sys
from pathlib import Path

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
    for command in (
        "demo",
        "ui",
        "epochs",
        "train",
        "saliency",
        "directions",
        "edit",
        "invert",
        "convert",
        "sys-info",
    ):
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


def test_convert_and_invert(monkeypatch, capsys, world):
    pickled = Path(__file__).parent / "vectors" / "sg2_original.pkl"
    assert run(monkeypatch, "convert", pickled, "--out", world / "converted", "--licence", "CC0") == 0
    made = world / "converted"
    assert json.loads((made / "generator.json").read_text())["licence"] == "CC0"
    assert (made / "report.html").is_file()
    settings = ["--steps", 4, "--restarts", 1, "--space", "w"]
    pictures = world / "two"
    pictures.mkdir()
    for path in sorted((world / "pictures").rglob("*.png"))[:2]:
        (pictures / path.name).write_bytes(path.read_bytes())
    arguments = ["invert", "--images", pictures, "--generator", made, "--out", world / "inverted"]
    assert run(monkeypatch, *arguments, *settings) == 0
    assert capsys.readouterr().out.strip().endswith("inverted/report.html")
    assert (world / "inverted" / "latents.safetensors").is_file()


def test_train_generator(monkeypatch, world, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(64):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    monkeypatch.setenv("BRAINEDIT_CACHE", str(tmp_path / "cache"))
    network = {"z_dim": 4, "w_dim": 4, "synthesis_kwargs": {"channel_base": 64, "channel_max": 4}}
    settings = {"method": "stylegan2-ada", "batch_size": 4, "network": network}
    (tmp_path / "tiny.yaml").write_text(json.dumps({"pictures": {"size": 16}, "generator": settings}))
    arguments = ["train", "generator", "--pictures", tmp_path, "--config", tmp_path / "tiny.yaml"]
    out = tmp_path.parent / f"{tmp_path.name}-out"
    assert run(monkeypatch, *arguments, "--n-pictures", 8, "--out", out) == 0
    assert (out / "generator" / "generator.json").is_file()


def bad_inputs(world, trained):
    (world / "text.fif").write_text("no EEG")
    Image.new("RGB", (1, 1)).save(world / "dot.png")
    (world / "broken").mkdir(exist_ok=True)
    canary = f"open({str(world / 'never')!r}, 'w')".encode()
    (world / "hostile.pkl").write_bytes(b"cbuiltins\nexec\n(V" + canary + b"\ntR.")
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
        (["convert", world / "hostile.pkl", "--out", world / "never"], "builtins.exec, which was not run"),
        (["convert", world / "gone.pkl", "--out", world / "never"], "gone.pkl"),
        (["invert", "--images", world / "broken", "--out", world / "never"], "broken"),
        (["train", "generator", "--pictures", world / "broken", "--out", world / "never"], "at least 64"),
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
