"""Each job on a tiny simulated world: files in, a whole result folder out, and nothing when it fails."""

import functools
import json
import shutil
from types import SimpleNamespace

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from brainedit.datasets.latents import write_latents
from brainedit.directions import Direction, compatibility_direction
from brainedit.eeg import read_epochs
from brainedit.generators.load import load_generator, save_generator
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.jobs import directions as directions_job
from brainedit.jobs import joint as joint_job
from brainedit.jobs.directions import direction_from_eeg
from brainedit.jobs.edit import edit_file
from brainedit.jobs.epochs import make_epochs_file
from brainedit.jobs.joint import train
from brainedit.jobs.saliency import MADE_ON_SIMULATED, map_picture, trials_of
from brainedit.joint import load_joint
from brainedit.joint_training import train_joint
from brainedit.simulate.viewing import simulate_oddball, simulate_passive

CHANNELS = ("Fz", "Cz", "Pz", "P3", "P4", "Oz", "O1", "O2")
AS_IT_IS = {"l_freq": None, "h_freq": None, "resample": None}
PAGE = {"result.json", "report.html"}

pytestmark = pytest.mark.filterwarnings("error:The given NumPy array is not writable")


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def record_of(folder):
    return json.loads((folder / "result.json").read_text())


def as_recording(epochs, root):
    """Epochs laid end to end as a continuous file, with the events.tsv that finds them again."""
    data = np.concatenate(list(epochs.get_data()), axis=1)
    raw = mne.io.RawArray(data, mne.create_info(epochs.ch_names, epochs.info["sfreq"], "eeg"))
    raw.save(root / "sim_raw.fif", verbose="error")
    start = np.arange(len(epochs)) * len(epochs.times) / epochs.info["sfreq"] - epochs.tmin
    table = epochs.metadata[["stimulus", "subject", "run", "simulated"]].rename(
        columns={"stimulus": "stim_file"}
    )
    table = table.assign(onset=start, duration=0.0)
    table.to_csv(root / "events.tsv", sep="\t", index=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A recording with its pictures, epochs and model made by the jobs; an oddball with its generator."""
    root = tmp_path_factory.mktemp("world")
    quick = {"channels": CHANNELS, "sfreq": 100.0}
    seen = simulate_passive(n_pictures=10, n_repeats=4, picture_size=64, snr=0.5, n_kinds=6, **quick)
    as_recording(seen.epochs, root)
    for name, image in seen.images.items():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "images" / name)
    window = {"tmin": seen.epochs.tmin, "tmax": seen.epochs.tmax}
    cut = functools.partial(
        make_epochs_file, root / "sim_raw.fif", events=root / "events.tsv", **window, **AS_IT_IS
    )
    epochs = cut(root / "epochs", images=root / "images")
    fit = functools.partial(
        train, epochs / "epochs-epo.fif", root / "images", n_dims=8, n_epochs=3, progress=False
    )
    trained = fit(root / "trained")
    generator = StyleGAN2(
        z_dim=8, w_dim=8, img_resolution=16, synthesis_kwargs={"channel_base": 64, "channel_max": 8}
    )
    save_generator(generator, root / "generator")
    z = generator.sample(48, seed=5).numpy()
    names = [f"face_{i:02d}.png" for i in range(48)]
    trials = pd.DataFrame({"stimulus": names, "target": z[:, 0] > 0, "subject": "s"})
    trials = pd.concat([trials.assign(run=run) for run in range(4)], ignore_index=True)
    simulate_oddball(trials, amplitude_uv=20.0, **quick).epochs.save(root / "odd-epo.fif", verbose="error")
    write_latents(pd.DataFrame(z, index=names), root / "latents.safetensors", space="z")
    write_latents(pd.DataFrame(z[:8], index=names[:8]), root / "short", space="z")
    return SimpleNamespace(root=root, seen=seen, cut=cut, epochs=epochs, fit=fit, trained=trained)


def find(world, out, **more):
    settings = {"target": "target", "generator": str(world.root / "generator"), "name": "liked"}
    settings |= {"latents": world.root / "latents.safetensors"} | more
    return direction_from_eeg(world.root / "odd-epo.fif", out, **settings)


@pytest.fixture(scope="module")
def found(world):
    return find(world, world.root / "found")


def test_epochs_are_those_that_the_recording_was_made_of(world):
    assert names_in(world.epochs) == PAGE | {"epochs-epo.fif"}
    epochs = read_epochs(world.epochs / "epochs-epo.fif")
    assert epochs.get_data() == pytest.approx(world.seen.epochs.get_data(), abs=1e-9)
    assert epochs.metadata["stimulus"].tolist() == world.seen.epochs.metadata["stimulus"].tolist()
    record = record_of(world.epochs)
    assert (record["job"], record["simulated"], record["figures"]["n_trials"]) == ("epochs", True, 40)


def test_a_model_is_trained_and_scored_on_pictures_it_has_not_seen(world):
    assert names_in(world.trained) == PAGE | {"model", "model_permuted"}
    model = load_joint(world.trained / "model")
    assert len(model.card["training"]["stimuli"]) == 8  # a fifth of ten is held out
    assert model.card["training"]["simulated"]
    record = record_of(world.trained)
    assert record["simulated"]
    assert [score["chance"] for score in record["scores"]] == [0.5] * 4  # the last is transductive
    assert record["scores"][-1]["name"].startswith("transductive")
    assert not list(world.root.glob("*checkpoint*"))


@pytest.mark.parametrize("by_query", [False, True])
def test_a_picture_is_mapped_beside_its_controls(world, tmp_path, by_query):
    held_out = set(world.seen.images) - set(load_joint(world.trained / "model").card["training"]["stimuli"])
    name = min(held_out)
    query = f"stimulus == '{name}'" if by_query else None
    files = (world.trained / "model", world.epochs / "epochs-epo.fif", world.root / "images" / name)
    out = map_picture(*files, tmp_path / "map", trials=query, window=112, stride=112)
    arrays = {"map.npy", "z.npy", "control_maps.npy", "neural_map.npy", "half_correlations.npy"}
    assert names_in(out) == PAGE | arrays | {"saliency.png"}
    heat, controls, neural, halves = (
        np.load(out / f"{a}.npy") for a in ("map", "control_maps", "neural_map", "half_correlations")
    )
    assert heat.shape == (224, 224)
    assert controls.shape == (100, 224, 224)
    assert len(neural) == len(CHANNELS)
    record = record_of(out)
    figures = record["figures"]
    assert (figures["n_trials"], record["simulated"]) == (4, True)
    assert 0 < figures["p_max"] <= 1
    found = figures["dependence"]
    assert found["n_pictures"] == len(found["by_picture"]) == len(halves) == 10
    rest = halves[~np.eye(10, dtype=bool)].mean()
    assert found["D"] == pytest.approx(np.diag(halves).mean() - rest, abs=1e-6)
    assert found["ci"][0] <= found["D"] <= found["ci"][1]
    assert {"permuted_training", "random_model", "centre", "edges"} <= set(figures["sanity"])
    assert all(abs(check["r"]) < 1.000001 for check in figures["sanity"].values())  # all were run
    page = (out / "report.html").read_text()
    lead = page.index(f"<p class=lead>{figures['verdict'][:30]}")
    assert lead < page.index("Does the map come from the brain?") < page.index("Which part of the picture")
    assert "fill: mean" in page


def test_a_map_says_what_could_not_be_run(world, tmp_path):
    name = min(world.seen.images)
    alone = tmp_path / "alone"
    shutil.copytree(world.trained / "model", alone / "model")
    picture = shutil.copy(world.root / "images" / name, tmp_path / "picture.png")
    files = (alone / "model", world.epochs / "epochs-epo.fif", picture)
    settings = {"trials": f"stimulus == '{name}'", "window": 112, "stride": 112}
    out = map_picture(*files, tmp_path / "map", **settings)
    figures = record_of(out)["figures"]
    assert "needs 4 pictures" in figures["dependence"]["why_not"]
    assert "No model_permuted lies beside" in figures["sanity"]["permuted_training"]["why_not"]
    assert "No cluster test was run" in figures["clusters"]["tested"]
    assert figures["verdict"].startswith("The map")
    assert not (out / "half_correlations.npy").exists()
    real = read_epochs(files[1])
    real.metadata = real.metadata.drop(columns="simulated")
    real.save(tmp_path / "real-epo.fif", verbose="error")
    files = (files[0], tmp_path / "real-epo.fif", picture)
    out = map_picture(*files, tmp_path / "with", images=world.root / "images", n_pictures=4, **settings)
    assert record_of(out)["figures"]["dependence"]["n_pictures"] == 4
    assert MADE_ON_SIMULATED in record_of(out)["warnings"]
    real.metadata = None
    real.save(files[1], overwrite=True, verbose="error")
    with pytest.raises(ValueError, match="have no metadata"):
        map_picture(*files, tmp_path / "never", **settings)
    with pytest.raises(ValueError, match="0 or more pictures for D, got -1"):
        map_picture(*files, tmp_path / "never", n_pictures=-1)


def test_a_twin_trained_on_permuted_pairs_lies_beside_the_model(world):
    model, twin = (load_joint(world.trained / name) for name in ("model", "model_permuted"))
    assert twin.card["training"]["permuted_pairs"] is True
    assert "permuted_pairs" not in model.card["training"]
    same = {"stimuli", "n_trials", "n_epochs", "seed", "design", "simulated"}
    assert all(twin.card["training"][key] == model.card["training"][key] for key in same)
    assert twin.card["eeg_input"] == model.card["eeg_input"]
    assert twin.card["training"]["loss_history"] != model.card["training"]["loss_history"]


def test_a_run_that_is_killed_while_the_twin_trains_goes_on(world, tmp_path, monkeypatch):
    calls = []

    def killed(dataset, **settings):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(settings["checkpoint"])
        return train_joint(dataset, **settings)

    monkeypatch.setattr(joint_job, "train_joint", killed)
    with pytest.raises(KeyboardInterrupt):
        world.fit(tmp_path / "out")
    assert names_in(tmp_path) == {"out.checkpoint.safetensors"}
    monkeypatch.undo()
    world.fit(tmp_path / "out")
    assert names_in(tmp_path) == {"out"}
    resumed, whole = (load_joint(root / "model") for root in (tmp_path / "out", world.trained))
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))
    assert names_in(world.fit(tmp_path / "plain", permuted_twin=False)) == PAGE | {"model"}


def test_trials_of_a_link_are_those_of_its_name(world, tmp_path):
    (tmp_path / "annex").write_bytes(b"")
    (tmp_path / "scenes").mkdir()
    name = next(iter(world.seen.images))
    (tmp_path / name).symlink_to(tmp_path / "annex")
    assert trials_of(world.seen.epochs, tmp_path / name).sum() == 4
    with pytest.raises(ValueError, match="No trial has the stimulus 'annex'"):
        trials_of(world.seen.epochs, tmp_path / "annex")


def test_a_planted_direction_is_found(world, found):
    files = {"direction.safetensors", "shuffled_direction.safetensors", "trial_scores.csv", "relevance.csv"}
    files.add("logged_targets_direction.safetensors")
    assert names_in(found) == PAGE | files
    direction = Direction.load(found / "direction.safetensors")
    assert direction.vector[0] > 0.8  # targets were the faces with a positive first latent
    assert direction.name == "liked"
    assert direction.provenance["simulated"] is True
    assert direction.reliability["p"] < 0.01
    control = Direction.load(found / "shuffled_direction.safetensors")
    assert control.provenance["simulated"] is True
    assert len(pd.read_csv(found / "trial_scores.csv")) == 4 * 48
    assert len(pd.read_csv(found / "relevance.csv")) == 48
    assert record_of(found)["scores"][0]["value"] > 0.8


def test_a_model_finds_a_direction_too(world, found, tmp_path, monkeypatch):
    few = functools.partial(compatibility_direction, n_latents=10, n_permutations=10, n_gradients=2)
    monkeypatch.setattr(directions_job, "compatibility_direction", few)
    out = find(world, tmp_path / "out", model=world.trained / "model", classifier="joint")
    by_model = Direction.load(out / "compatibility_direction.safetensors")
    assert by_model.name == "liked by F"
    assert by_model.provenance["simulated"] is True
    record = record_of(out)
    assert record["figures"]["compatibility"]["n_permutations"] == 10
    by_embedding = Direction.load(out / "embedding_direction.safetensors")
    assert (by_embedding.name, by_embedding.provenance["simulated"]) == ("liked by embeddings", True)
    assert record["figures"]["embedding"]["p"] == by_embedding.reliability["p"]
    assert record["settings"]["classifier"] == "joint"
    eyes = record["scores"][-1]  # by LDA: the model needs all channels
    assert (eyes["name"], eyes["chance"]) == ("eyes alone, AUC", 0.5)
    scores = pd.read_csv(out / "trial_scores.csv")["probability"]
    assert not np.allclose(scores, pd.read_csv(found / "trial_scores.csv")["probability"])


@pytest.mark.parametrize("own_latents", [False, True])
def test_pictures_move_by_strength_times_scale(world, found, tmp_path, own_latents):
    direction = Direction.load(found / "direction.safetensors")
    strengths = (-1.0, 0.0, 2.0)
    settings = {
        "generator": str(world.root / "generator"),
        "strengths": strengths,
        "n": 3,
        "seed": 4,
        "path": "line",
    }
    latents = world.root / "short" if own_latents else None
    out = edit_file(found / "direction.safetensors", tmp_path / "out", latents=latents, **settings)
    n = 8 if own_latents else 3
    assert names_in(out) == PAGE | {"latents.npy", "names.json"} | {f"strip_{i:03d}.png" for i in range(n)}
    moved = np.load(out / "latents.npy")
    step = direction.scale * direction.vector
    assert moved == pytest.approx(moved[:, [1]] + np.array(strengths)[:, None] * step, abs=1e-5)
    if not own_latents:
        start = load_generator(world.root / "generator").sample(3, space="z", seed=4)
        assert moved[:, 1] == pytest.approx(start.numpy(), abs=1e-6)
    names = json.loads((out / "names.json").read_text())
    assert names[0] == ("face_00.png" if own_latents else "seed 4, 0")
    strip = Image.open(out / "strip_000.png")
    assert strip.size == (3 * (2 * 16 + 2) + 2, 2 * 16 + 2 * 2)  # three pictures of 16 pixels, twice as large
    assert record_of(out)["simulated"]


def test_a_job_that_fails_leaves_nothing_behind(world, found, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="Give either events"):
        world.cut(out, codes="codes.csv")
    with pytest.raises(FileNotFoundError, match=r"no folder of pictures .*nowhere"):
        world.cut(out, images=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="need 'session' for every trial"):
        world.fit(out, hold_out="session")
    with pytest.raises(ValueError, match="Unknown loss 'infonse'"):
        world.fit(out, loss="infonse")
    picture = world.root / "images" / next(iter(world.seen.images))
    with pytest.raises(ValueError, match=r"run == '99'\" is true for 0 of 40"):
        map_picture(
            world.trained / "model", world.epochs / "epochs-epo.fif", picture, out, trials="run == '99'"
        )
    with pytest.raises(ValueError, match="no larger than the picture"):
        map_picture(world.trained / "model", world.epochs / "epochs-epo.fif", picture, out, window=300)
    few = world.root / "few-epo.fif"
    world.seen.epochs.copy().pick(CHANNELS[:3]).save(few, overwrite=True, verbose="error")
    with pytest.raises(ValueError, match=r"do not fit the model: .*P3"):
        map_picture(world.trained / "model", few, picture, out)
    with pytest.raises(
        ValueError, match=r"'face_08\.png' and 39 more pictures that were shown have no latent"
    ):
        find(world, out, latents=world.root / "short")
    with pytest.raises(ValueError, match="is damaged or no direction"):
        edit_file(world.root / "events.tsv", out, generator=str(world.root / "generator"))
    assert list(tmp_path.iterdir()) == []


def by_label(n_labels, root):
    """Epochs whose pictures are known by category only; each category has its response at one electrode."""
    rng = np.random.default_rng(0)
    labels = np.tile([f"kind{i}" for i in range(n_labels)], 40)
    data = rng.normal(size=(len(labels), len(CHANNELS), 100))
    data[np.arange(len(labels)), np.arange(len(labels)) % n_labels, 30:60] += 2
    epochs = mne.EpochsArray(
        data * 1e-6, mne.create_info(list(CHANNELS), 100.0, "eeg"), tmin=-0.2, verbose="error"
    )
    epochs.metadata = pd.DataFrame({"label": labels, "run": np.arange(len(labels)) * 4 // len(labels)})
    epochs.save(root / "labels-epo.fif", verbose="error")
    for i, color in enumerate(("crimson", "teal", "gold")[:n_labels]):
        for j in range(3):
            (root / "pictures" / f"kind{i}").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32 + j), color).save(root / "pictures" / f"kind{i}" / f"{j}.png")
    return root / "labels-epo.fif", root / "pictures"


@pytest.mark.parametrize("n_labels", [2, 3])
def test_trials_known_by_category_are_scored_on_a_recording_left_out(tmp_path, n_labels):
    epochs, pictures = by_label(n_labels, tmp_path)
    out = train(epochs, pictures, tmp_path / "out", pair_by="label", n_epochs=20, n_dims=16, progress=False)
    own, control, *embedded = record_of(out)["scores"]
    assert len(embedded) == 5  # neighbours, clusters, SVM, NMI, ARI
    assert all(s["low"] <= s["value"] <= s["high"] and s["p"] <= 1 for s in embedded)
    assert own["chance"] == pytest.approx(1 / n_labels, abs=0.05)
    assert own["value"] > 0.9
    assert own["p"] < 0.01
    assert control["low"] < own["chance"] < control["high"]
