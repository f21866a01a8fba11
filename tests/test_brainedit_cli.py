"""brainedit.cli: every command's help, one sentence and exit code 2 for what a user can mend."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainedit.cli import main
from brainedit.datasets.latents import write_latents
from brainedit.directions import Direction
from brainedit.eeg import read_epochs
from brainedit.generators.load import save_generator
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.simulate.things import simulate_things_eeg2
from brainedit.simulate.viewing import simulate_oddball, simulate_passive


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
        "audit",
        "evaluate",
        "simulate",
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


def test_audit(monkeypatch, capsys, world):
    out = world / "audited"
    arguments = ["audit", world / "epochs-epo.fif", "--claim", "picture", "--split", "stimulus"]
    assert run(monkeypatch, *arguments, "--images", world / "pictures", "--design-only", "--out", out) == 0
    assert capsys.readouterr().out.strip() == f"{out}/report.html"
    assert json.loads((out / "result.json").read_text())["figures"]["design"]["verdict"] == "supported"


def test_evaluate_scores_pictures_that_did_not_train_the_model(monkeypatch, capsys, world, trained):
    epochs = read_epochs(world / "epochs-epo.fif")
    known = json.loads((trained / "model" / "model.json").read_text())["training"]["stimuli"]
    new = epochs[~epochs.metadata["stimulus"].isin(known).to_numpy()]
    new.save(world / "new-epo.fif", verbose="error")
    arguments = ["evaluate", "--model", trained, "--images", world / "pictures"]
    assert run(monkeypatch, *arguments, "--epochs", world / "new-epo.fif", "--out", world / "scored") == 0
    names = [score["name"] for score in json.loads((world / "scored" / "result.json").read_text())["scores"]]
    assert "single trials, top-1 of 4" in names
    assert "control: shuffled EEG, top-1" in names
    capsys.readouterr()
    assert run(monkeypatch, *arguments, "--epochs", world / "epochs-epo.fif", "--out", world / "leaked") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "15 more of these pictures trained the model" in said[0]
    assert not list(world.glob("leaked*"))


def test_a_confounded_design_is_one_sentence_and_exit_code_2(monkeypatch, capsys, world, tmp_path):
    epochs = read_epochs(world / "epochs-epo.fif")
    label = (epochs.metadata["stimulus"].str[-8:-4].astype(int) // 5).astype(str)
    order = np.lexsort([epochs.metadata["run"], label])  # each label in a block of its own
    onset = np.empty(len(epochs))
    onset[order] = np.arange(len(epochs)) * 1.5
    epochs.metadata = epochs.metadata.drop(columns="block").assign(onset=onset, run=1, label=label)
    epochs.save(tmp_path / "blocked-epo.fif", verbose="error")
    arguments = ["train", "joint", "--epochs", tmp_path / "blocked-epo.fif", "--images", world / "pictures"]
    (tmp_path / "quick.yaml").write_text("joint: {n_epochs: 1, n_dims: 4}")
    arguments += ["--config", tmp_path / "quick.yaml", "--out", tmp_path / "out"]
    assert run(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("brainedit: The design is confounded: The clock alone tells the label")
    assert not list(tmp_path.glob("out*"))
    assert run(monkeypatch, *arguments, "--allow-confounded") == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["stamp"] == "CONFOUNDED"


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    layout = {"n_concepts": 60, "n_per_concept": 2, "n_test": 12, "n_test_repeats": 4, "n_features": 6}
    out = tmp_path_factory.mktemp("things") / "simulated"
    return simulate_things_eeg2(out, n_codes=4, oracle=0.95, progress=False, **layout)


def test_a_bundled_protocol_runs_on_its_simulation(monkeypatch, capsys, things, tmp_path):
    arguments = ["train", "joint", "--config", "joint_things_eeg2", "--root", things]
    arguments += ["--features", "middle+last", "--subjects", "1,2", "--seeds", 0, "--out", tmp_path / "out"]
    assert run(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out.strip() == f"{tmp_path / 'out'}/report.html"
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["simulated"]
    assert record["settings"]["protocol"]["subjects"] == [1, 2]
    assert [run["seed"] for run in record["figures"]["runs"]] == [0, 0]
    assert record["scores"][0]["n"] == 2
    assert {p.name for p in (tmp_path / "out" / "models").iterdir()} == {"sub-01_seed-0", "sub-02_seed-0"}


def test_simulate(monkeypatch, capsys, tmp_path):
    arguments = [
        "simulate",
        "kaneshiro2015",
        "--size",
        "small",
        "--subjects",
        "2,3",
        "--out",
        tmp_path / "out",
    ]
    assert run(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"S2.mat", "S3.mat"}


def bad_settings(root, things):
    """YAML (or the name of a bundled configuration), options, and what must be said."""
    own = ["--epochs", root / "a-epo.fif", "--images", root]
    there = ["--root", things]
    data = "data: {name: things_eeg2, features: middle}\n"
    return [
        ("joint: {n_epoch: 3}", own, "Did you mean 'n_epochs'"),
        ("joint: {n_epochs: many}", own, "'many' came"),
        ("joints: {}", own, "Did you mean 'joint'"),
        ("protocol: {kind: intra}", own, "has a protocol but no data set"),
        ("joint: {}", [*own, *there], "names no data set; --root says nothing there"),
        ("joint: {}", [*own, "--jobs", 2], "--jobs says nothing there"),
        ("joint: {}", [], "--epochs and --images are needed"),
        (data + "protocol: {kinds: inter}", there, "Did you mean 'kind'"),
        (data + "protocol: {overwrite: true}", there, "'overwrite' does not belong in section 'protocol'"),
        (data + "protocol: {subjects: one}", there, "'one' came"),
        (data + "joint: {seed: 3, image_encoder: features}", there, "'seed' for each run"),
        ("data: {name: things_eeg2, feature: middle}", there, "Did you mean 'features'"),
        ("data: {name: things_eeg}", there, "Did you mean 'things_eeg2'"),
        ("data: {root: here}", there, "name"),
        (data, [*there, *own], "--epochs says nothing there"),
        (data, [*there, "--hold-out", "run"], "--hold-out says nothing there"),
        (data, [*there, "--no-permuted-twin"], "--no-permuted-twin says nothing there"),
        (data, [*there, "--seed", 1, "--seeds", "1,2"], "both came (1 and '1,2')"),
        (data, [*there, "--subjects", "1.5"], "'1.5' came"),
        (data, [], "needs root"),
    ]


def test_a_setting_that_is_unknown_or_passed_over_is_one_sentence(monkeypatch, capsys, things, tmp_path):
    for text, options, part in bad_settings(tmp_path, things):
        (tmp_path / "config.yaml").write_text(text)
        arguments = ["train", "joint", "--config", tmp_path / "config.yaml", "--out", tmp_path / "never"]
        assert run(monkeypatch, *arguments, *options) == 2, (text, options)
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1, said
        assert said[0].startswith("brainedit: ")
        assert part in said[0], said[0]
        assert not list(tmp_path.glob("never*"))


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
    shown = sorted(pictures.rglob("*.png"))[0]
    mapped = ["saliency", "--out", world / "never", "--eeg", epochs, "--image", shown, "--model", trained]
    evaluate = ["evaluate", "--out", world / "never", "--images", pictures, "--epochs", epochs]
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
        ([*mapped, "--stride", 0], "stride to be a whole number of at least 1, got 0"),
        ([*mapped, "--window", 999], "no larger than the picture (224 x 224), got 999"),
        ([*mapped, "--method", "gradcom"], "Did you mean 'gradcam'"),
        ([*mapped, "--method", "rise", "--masks", 0], "n_masks to be a whole number of at least 1, got 0"),
        ([*mapped, "--pictures", -1], "Input should be greater than or equal to 0"),
        ([*mapped, "--images", world / "nowhere"], "no folder of pictures"),
        ([*mapped, "--trials", f"stimulus != '{shown.relative_to(pictures)}'"], "there are 2 beside 38"),
        (["edit", "--direction", world / "text.fif", "--out", world / "never"], "text.fif"),
        (
            ["edit", "--direction", world / "text.fif", "--out", world / "never", "--strengths", "1,x"],
            "'1,x'",
        ),
        (["saliency", "--nothing"], "--nothing"),
        (["convert", world / "hostile.pkl", "--out", world / "never"], "builtins.exec, which was not run"),
        (["convert", world / "gone.pkl", "--out", world / "never"], "gone.pkl"),
        (["invert", "--images", world / "broken", "--out", world / "never"], "broken"),
        (["audit", epochs, "--out", world / "never", "--claim", "pictur"], "Did you mean 'picture'"),
        (["audit", epochs, "--out", world / "never", "--claim", "category"], "needs the column 'label'"),
        (["audit", world / "gone.fif", "--out", world / "never"], "gone.fif"),
        ([*evaluate, "--model", world / "nowhere"], "no model in"),
        ([*evaluate, "--model", trained, "--pair-by", "label"], "use pair_by='stimulus'"),
        ([*evaluate, "--model", trained, "--subject", "me"], "trained the model"),
        (["simulate", "things_eeg", "--out", world / "never"], "Did you mean 'things_eeg2'"),
        (["simulate", "things_eeg2", "--subjects", "1;2", "--out", world / "never"], "'1;2' came"),
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


@pytest.fixture(scope="module")
def oddball(tmp_path_factory):
    """Two people's epochs of an oddball, the latents of the pictures, and the generator that made them."""
    root = tmp_path_factory.mktemp("oddball")
    small = {"channel_base": 64, "channel_max": 8}
    generator = StyleGAN2(z_dim=8, w_dim=8, img_resolution=16, synthesis_kwargs=small)
    save_generator(generator, root / "generator")
    z = generator.sample(24, seed=5).numpy()
    names = [f"face_{i:02d}.png" for i in range(24)]
    shown = pd.DataFrame({"stimulus": names, "target": z[:, 0] > 0})
    trials = pd.concat([shown.assign(run=run) for run in range(3)], ignore_index=True)
    for person in ("ann", "bob"):
        made = simulate_oddball(
            trials.assign(subject=person), amplitude_uv=20.0, sfreq=100.0, channels=("Fz", "Cz", "Pz", "P3")
        )
        made.epochs.save(root / f"{person}-epo.fif", verbose="error")
        made.epochs[made.epochs.metadata["stimulus"].isin(names[:8]).to_numpy()].save(
            root / f"{person}_few-epo.fif", verbose="error"
        )
    write_latents(pd.DataFrame(z, index=names), root / "latents.safetensors", space="z")
    write_latents(pd.DataFrame(z, index=[f"x{n}" for n in names]), root / "others.safetensors", space="z")
    return root


def test_two_people_give_a_direction_that_edits(monkeypatch, capsys, oddball):
    arguments = ["directions", "--from-eeg", oddball / "ann-epo.fif", "--from-eeg", oddball / "bob-epo.fif"]
    arguments += [
        "--target",
        "target",
        "--latents",
        oddball / "latents.safetensors",
        "--weights",
        "reliability",
    ]
    arguments += [
        "--generator",
        oddball / "generator",
        "--preset",
        "kangassalo2020",
        "--out",
        oddball / "found",
    ]
    assert run(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out.strip() == f"{oddball / 'found'}/report.html"
    record = json.loads((oddball / "found" / "result.json").read_text())
    assert record["settings"]["weights"] == "reliability"
    assert record["figures"]["provenance"]["n_people"] == 2
    move = ["edit", "--direction", oddball / "found" / "direction.safetensors", "--n", 1, "--gif"]
    move += ["--generator", oddball / "generator", "--path", "great_circle", "--strengths", "-1,0,1"]
    assert run(monkeypatch, *move, "--out", oddball / "moved") == 0
    assert (oddball / "moved" / "strip_000.gif").is_file()


def test_directions_without_eeg(monkeypatch, oddball):
    rows = "".join(f"face_{i:02d}.png,{i % 2}\n" for i in range(24))
    (oddball / "kinds.csv").write_text(f"stimulus,label\n{rows}")
    labels = ["--from-labels", oddball / "kinds.csv", "--latents", oddball / "latents.safetensors"]
    routes = {
        "interfacegan": [*labels, "--method", "interfacegan", "--name", "odd"],
        "sefa": ["--from-weights", "--n-axes", 1, "--layers", "0-1"],
        "ganspace": ["--from-samples", 50, "--n-axes", 1, "--seed", 2],
    }
    for method, arguments in routes.items():
        out = oddball / method
        common = ["--generator", oddball / "generator", "--out", out]
        assert run(monkeypatch, "directions", *arguments, *common) == 0
        found = Direction.load(next(out.glob("direction*.safetensors")))
        assert found.provenance["method"] == method
        assert "no brain took part" in found.provenance["supervision"]
        assert json.loads((out / "result.json").read_text())["settings"]["seed"] == (method == "ganspace") * 2
    assert Direction.load(oddball / "interfacegan" / "direction.safetensors").name == "odd"
    assert Direction.load(oddball / "sefa" / "direction_01.safetensors").provenance["layers"] == [0, 1]


def bad_directions(root):
    """Options beside the good ones of a direction, and what must be said."""
    other = Direction(np.eye(8)[0], "z", 1.0, "far", {"generator_sha256": "0" * 64})
    other.save(root / "far.safetensors")
    return [
        (["--latents", root / "others.safetensors"], "23 more pictures that were shown have no latent"),
        (["--from-eeg", root / "ann_few-epo.fif"], "Need 10 or more images for a direction; got 8"),
        (["--from-eeg", root / "gone-epo.fif"], "gone-epo.fif"),
        (["--target", "run >= 0"], "is true for 72 of 72 trials"),
        (["--target", "runs == 0"], "'runs == 0'"),
        (["--space", "w"], "holds latents in 'z'; needed are latents in 'w'"),
        (["--preset", "kangasalo2020"], "Did you mean 'kangassalo2020'"),
        (["--classifier", "xdaw"], "Did you mean 'xdawn'"),
        (["--classifier", "joint"], "give the model too"),
        (["--weights", "reliable"], "Did you mean 'reliability'"),
        (["--groups", "kind"], "the column 'kind'"),
        (["--task", "old"], "No trial has the task 'old'"),
        (["--judge", "painted/smiles"], "Did you mean 'painted/smile'"),
        (["--method", "rigde"], "Did you mean 'ridge'"),
        (["--lock", root / "far.safetensors"], "'far' was found in another generator"),
        (["--lock", root / "latents.safetensors"], "is damaged or no direction"),
    ]


def bad_routes(root):
    """What a direction comes from, and what must be said."""
    (root / "labels.csv").write_text(
        "stimulus,label\n" + "".join(f"face_{i:02d}.png,{i % 2}\n" for i in range(24))
    )
    (root / "few.csv").write_text("stimulus,label\nface_00.png,1\n")
    labels = ["--from-labels", root / "labels.csv"]
    latents = ["--latents", root / "latents.safetensors"]
    samples = ["--from-samples", 100]
    return [
        (["--target", "target"], "--from-samples, --config; none came"),
        (["--from-eeg", root / "ann-epo.fif"], "--target is missing"),
        ([*labels, "--from-weights"], "--from-labels and --from-weights came"),
        ([*samples, "--from-eeg", root / "ann-epo.fif"], "--from-eeg and --from-samples came"),
        (["--from-weights", "--config", "davis2022"], "--from-weights and --config came"),
        (labels, "--latents is missing"),
        (
            [*labels, *latents, "--judge", "painted/smile"],
            "come from --from-labels; --judge says nothing there",
        ),
        ([*labels, *latents, "--n-axes", 2], "--n-axes says nothing there"),
        ([*labels, "--latents", root / "others.safetensors"], "'face_00.png' and 23 more pictures"),
        ([*labels, *latents, "--method", "interfacegn"], "Did you mean 'interfacegan'"),
        ([*labels, *latents, "--method", "hierarchical"], "'hierarchical' pools people"),
        (["--from-labels", root / "few.csv", *latents], "Need 10 or more images for a direction; got 1"),
        (["--from-labels", root / "gone.csv", *latents], "gone.csv"),
        (["--from-weights", *latents], "come from --from-weights; --latents says nothing there"),
        (["--from-weights", "--n-axes", 99], "99 were asked for"),
        (["--from-weights", "--layers", "4-x"], "'4-x' came"),
        (["--from-weights", "--layers", "99"], "not [99]"),
        ([*samples, "--space", "z"], "--space says nothing there"),
        (["--from-samples", 8], "more samples than the 8 dimensions of w; got 8"),
    ]


def bad_edits(root):
    near = root / "near.safetensors"
    Direction(np.eye(8)[0], "z", 1.0, "near").save(near)
    Image.new("RGB", (32, 20)).save(root / "photo.png")
    photo = ["--photo", root / "photo.png"]
    return [
        (["--strengths", "1,nan"], "Strengths must be finite numbers"),
        (["--direction", root / "far.safetensors"], "'far' was found in another generator"),
        (["--lock", near], "Nothing of direction 'near' is left"),
        (["--path", "circle"], "Unknown path 'circle'"),
        (["--layers", "1-x"], "'1-x' came"),
        (["--layers", "1"], "Layers can be chosen in 'w+' only"),
        (["--latents", root / "gone.csv"], "gone.csv"),
        (["--eyes", "1,2,3,4"], "There is no --photo; --eyes says nothing there"),
        ([*photo, "--eyes", "1,2,3"], "'1,2,3' came"),
        ([*photo, "--n", 2], "--n says nothing there"),
        ([*photo, "--scan"], "--scan says nothing there"),
        (photo, "32 x 20 pixels and is not square; say with --eyes"),
        (["--photo", root / "none.png"], "none.png"),
        (
            ["--latents", root / "latents.safetensors", "--n", 1],
            "With --latents the pictures of the file are edited",
        ),
        ([*photo, "--eyes", "1,2,1,2"], "eyes"),
    ]


def test_bad_directions_and_edits_are_one_sentence_and_write_nothing(monkeypatch, capsys, oddball):
    generator = {"--generator": oddball / "generator", "--out": oddball / "never"}
    good = {"--from-eeg": oddball / "ann-epo.fif", "--target": "target"}
    good |= {"--latents": oddball / "latents.safetensors"} | generator
    cases = [("directions", good, *case) for case in bad_directions(oddball)]
    cases += [
        ("edit", {"--direction": oddball / "near.safetensors"} | generator, *c) for c in bad_edits(oddball)
    ]
    cases += [("directions", generator, *case) for case in bad_routes(oddball)]
    out = {"--out": oddball / "never"}
    study = {"--config": "davis2022"} | out
    cases += [
        ("directions", study, ["--target", "x"], "--target says nothing there"),
        ("directions", study, ["--root", oddball / "none"], "There is no facecat.xz"),
        ("directions", out, ["--config", "joint"], "Unknown section 'joint'"),
        ("directions", good, ["--root", oddball], "come from --from-eeg; --root says nothing there"),
    ]
    for command, options, more, part in cases:
        kept = {key: value for key, value in options.items() if key not in more}
        arguments = [word for pair in kept.items() for word in pair]
        assert run(monkeypatch, command, *arguments, *more) == 2, more
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("brainedit: "), said
        assert part in said
        assert not list(oddball.glob("never*"))


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
