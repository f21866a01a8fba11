"""The audit as a user runs it; a confounded design is refused, or everything made from it says so."""

import base64
import functools
import io
import json
import re
from types import SimpleNamespace

import mne
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainedit.datasets.latents import write_latents
from brainedit.datasets.paired import PairedDataset
from brainedit.directions import Direction, compatibility_direction
from brainedit.generators.load import save_generator
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.jobs import directions as directions_job
from brainedit.jobs.audit import audit_file, joint_pipeline
from brainedit.jobs.directions import direction_from_eeg, find_direction
from brainedit.jobs.edit import edit_file
from brainedit.jobs.joint import evaluate, train
from brainedit.jobs.saliency import map_picture
from brainedit.joint import load_joint
from brainedit.simulate.kaneshiro import simulate_kaneshiro
from brainedit.simulate.viewing import simulate_oddball, simulate_passive

CHANNELS = ("Fz", "Cz", "Pz", "P3", "P4", "Oz")
QUICK = {"channels": CHANNELS, "sfreq": 100.0}
SMALL = {"n_epochs": 2, "n_dims": 8, "progress": False}
BAND = (179, 69, 44)  # the colour of the stamp's band
NOT_EVIDENCE = "Not evidence of stimulus decoding"


def record_of(folder):
    return json.loads((folder / "result.json").read_text())


def page_of(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def draw_pictures(root, names):
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(root / name)


@pytest.fixture(scope="module")
def oddball():
    """40 pictures in random order in each of four runs; the same ones are targets in all."""
    rng = np.random.default_rng(0)
    names = [f"face_{i:02d}.png" for i in range(40)]
    target = dict(zip(names, rng.permutation(40) < 16, strict=True))
    parts = [pd.DataFrame({"stimulus": rng.permutation(names), "run": run}) for run in range(4)]
    trials = pd.concat(parts, ignore_index=True)
    trials["target"] = trials["stimulus"].map(target)
    return simulate_oddball(trials, amplitude_uv=20.0, blink_rate=0.0, eog=False, **QUICK).epochs


def saved(epochs, folder, **columns):
    """The epochs with other columns in a file; None takes a column away."""
    epochs = epochs.copy()
    metadata = epochs.metadata.assign(**{k: v for k, v in columns.items() if v is not None})
    epochs.metadata = metadata.drop(columns=[k for k, v in columns.items() if v is None])
    path = folder / "some-epo.fif"
    epochs.save(path, verbose="error")
    return path


relevance = functools.partial(audit_file, claim="relevance", target="target", n_permutations=39)


def test_a_design_alone_is_judged_without_its_eeg(oddball, tmp_path):
    silent = mne.EpochsArray(
        np.zeros((len(oddball), 1, 10)), mne.create_info(1, 100.0), metadata=oddball.metadata, verbose="error"
    )
    out = relevance(saved(silent, tmp_path), tmp_path / "out", split="stimulus", design_only=True)
    record = record_of(out)
    assert record["figures"]["design"]["verdict"] == "supported"
    assert "controls" not in record["figures"]
    assert "stamp" not in record
    assert record["simulated"]
    for words in ("Supported by its design", "a split by stimulus.", "the EEG was not looked at"):
        assert words in page_of(out)


def test_without_onsets_a_design_cannot_be_verified(oddball, tmp_path):
    out = relevance(saved(oddball, tmp_path, onset=None), tmp_path / "out", design_only=True)
    assert record_of(out)["figures"]["design"]["verdict"] == "unverifiable"
    assert "There is no onset" in page_of(out)
    assert "What to do: Add `onset` (s)" in page_of(out)


def test_blocks_of_one_label_are_confounded(confounded, tmp_path):
    file = confounded.one
    for split in ("stimulus", "trial"):
        settings = {"claim": "category", "split": split, "embargo": 1.0 if split == "trial" else None}
        out = audit_file(file, tmp_path / split, design_only=True, **settings)
        record = record_of(out)
        assert (record["figures"]["design"]["verdict"], record["stamp"]) == ("confounded", "CONFOUNDED")
        assert_stamped(out)
    assert "a split by trial, 1 s apart." in page_of(out)


def test_a_response_is_supported_and_the_controls_are_reported(oddball, tmp_path):
    out = relevance(saved(oddball, tmp_path), tmp_path / "out", split="stimulus")
    controls = record_of(out)["figures"]["controls"]
    assert controls["supported"]
    assert controls["scores"][0]["value"] > 0.75
    found = {control["name"]: control for control in controls["controls"]}
    ran = {name for name, control in found.items() if control["score"] is not None}
    assert {"shuffled_pairs", "prestimulus", "phantom", "pseudo_blocks"} <= ran
    assert not any(control["vetoes"] for control in found.values())
    assert record_of(out)["scores"][0]["name"] == "AUC"
    page = page_of(out)
    assert "Supported: AUC" in page
    assert "a baseline was subtracted" in page  # what weakens a control is said beside it
    for name in found:
        assert f"<th scope=row>{name}</th>" in page
    assert "eye_channels was not run: there is no EOG channel" in page


def test_what_is_there_before_the_picture_is_no_evidence(oddball, tmp_path):
    shifted = oddball.copy()
    shifted._data[shifted.metadata["target"], CHANNELS.index("Oz")] += 60e-6
    out = relevance(saved(shifted, tmp_path), tmp_path / "out", split="stimulus")
    record = record_of(out)
    assert record["figures"]["design"]["verdict"] == "supported"
    assert not record["figures"]["controls"]["supported"]
    vetoes = [c["name"] for c in record["figures"]["controls"]["controls"] if c["vetoes"]]
    assert vetoes == ["prestimulus"]
    assert NOT_EVIDENCE in record["figures"]["controls"]["verdict"]
    assert NOT_EVIDENCE in page_of(out)
    assert "<td>veto</td>" in page_of(out)


def test_the_joint_pipeline_scores_pictures_that_training_did_not_have(tmp_path):
    seen = simulate_passive(n_pictures=10, n_repeats=3, picture_size=64, **QUICK)
    for name, picture in seen.images.items():
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "images" / name)
    whole = PairedDataset(seen.epochs, tmp_path / "images")
    names = np.unique(whole.keys)
    train_part, test_part = (whole.subset(np.isin(whole.keys, some)) for some in (names[:7], names[7:]))
    decode = joint_pipeline(**SMALL, image_weights="random")
    assert decode(train_part, test_part).shape == (9, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"claim": "truth"}, "Unknown claim 'truth'"),
        ({"claim": "picture"}, "--pipeline joint --images DIR"),
        ({"claim": "picture", "pipeline": "joint"}, r"reads pictures; give images \(--images\)"),
        ({"claim": "relevance", "pipeline": "svm"}, "Unknown pipeline 'svm'"),
        ({"claim": "category"}, "needs the column 'label'"),
        ({"claim": "relevance", "target": "targets"}, "'targets' cannot be asked"),
        ({"claim": "relevance", "split": "session"}, "'session'"),
    ],
)
def test_what_cannot_be_audited_is_said_and_leaves_nothing(oddball, tmp_path, settings, message):
    file = saved(oddball, tmp_path)
    with pytest.raises(ValueError, match=message):
        audit_file(file, tmp_path / "out", **settings)
    oddball_without = oddball.copy()
    oddball_without.metadata = None
    oddball_without.save(tmp_path / "bare-epo.fif", verbose="error")
    with pytest.raises(ValueError, match=r"bare-epo.fif have no metadata"):
        audit_file(tmp_path / "bare-epo.fif", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


# what a confounded design leaves on files


def blocked(folder, *, seed, n_runs=1):
    """Noise of pictures of four labels, each label in one block of its run: time tells the label."""
    rng = np.random.default_rng(seed)
    rows = []
    for run in range(n_runs):
        order = rng.permutation(4)
        rows += [
            (f"kind{k}", f"kind{k}/{seed}_{i}.png", run) for k in order for _ in range(3) for i in range(5)
        ]
    metadata = pd.DataFrame(rows, columns=["label", "stimulus", "run"])
    metadata["onset"] = metadata.groupby("run").cumcount() * 1.5
    metadata["simulated"] = True
    data = rng.normal(size=(len(rows), len(CHANNELS), 101)) * 1e-5
    info = mne.create_info(list(CHANNELS), 100.0, "eeg")
    epochs = mne.EpochsArray(data, info, tmin=-0.2, metadata=metadata, verbose="error")
    epochs.set_eeg_reference("average", verbose="error")
    epochs.save(folder / f"blocked{seed}-epo.fif", verbose="error")
    draw_pictures(folder / "pictures", sorted(set(metadata["stimulus"])))
    return folder / f"blocked{seed}-epo.fif"


@pytest.fixture(scope="module")
def confounded(tmp_path_factory):
    root = tmp_path_factory.mktemp("confounded")
    one, other = blocked(root, seed=1), blocked(root, seed=2)
    model = train(one, root / "pictures", root / "trained", allow_confounded=True, **SMALL) / "model"
    return SimpleNamespace(root=root, pictures=root / "pictures", one=one, other=other, model=model)


def assert_stamped(folder):
    """Every picture has the band, every JSON the stamp, every table and array the word in its name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        if path.suffix == ".png":
            assert Image.open(path).convert("RGB").getpixel((0, 0)) == BAND, path
        elif path.suffix == ".json":
            assert json.loads(path.read_text())["stamp"] == "CONFOUNDED", path
        elif path.suffix in (".npy", ".csv"):
            assert path.name.startswith("CONFOUNDED_"), path
        else:
            assert path.suffix in (".html", ".safetensors"), path
    page = page_of(folder)
    assert "CONFOUNDED: nothing on this page is evidence" in page
    assert all("(CONFOUNDED)</h2>" in part for part in page.split("<section>")[1:])
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    for source in sources:
        image = Image.open(io.BytesIO(base64.b64decode(source))).convert("RGB")
        assert image.getpixel((0, 0)) == BAND
        top = np.asarray(image)[: max(14, min(image.width // 22, 48))]
        assert (top == 255).all(-1).any()  # white letters on it
    return len(sources)


def test_a_confounded_design_is_not_trained_unasked(confounded, tmp_path):
    with pytest.raises(
        ValueError, match=r"design is confounded: The clock alone tells the label.*Nothing was"
    ):
        train(confounded.one, confounded.pictures, tmp_path / "out", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_confounded_model_says_so_everywhere(confounded):
    assert assert_stamped(confounded.model.parent) >= 3
    model = load_joint(confounded.model)
    assert model.card["training"]["design"] == "confounded"
    assert record_of(confounded.model.parent)["settings"]["design"] == "confounded"


def test_a_supported_model_bears_no_stamp(tmp_path):
    seen = simulate_passive(n_pictures=10, n_repeats=2, picture_size=64, **QUICK)
    for name, picture in seen.images.items():
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "images" / name)
    seen.epochs.save(tmp_path / "seen-epo.fif", verbose="error")
    out = train(tmp_path / "seen-epo.fif", tmp_path / "images", tmp_path / "out", **SMALL)
    assert load_joint(out / "model").card["training"]["design"] == "supported"
    assert "CONFOUNDED" not in page_of(out) + (out / "result.json").read_text()


def test_an_evaluation_keeps_the_stamp_and_needs_leave(confounded, tmp_path):
    files = (confounded.model, confounded.other, confounded.pictures)
    with pytest.raises(ValueError, match="trained on a confounded design; with --allow-confounded"):
        evaluate(*files, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    out = evaluate(*files, tmp_path / "out", allow_confounded=True)
    assert assert_stamped(out) >= 3
    scores = {score["name"]: score for score in record_of(out)["scores"]}
    assert scores["single trials, top-1 of 20"]["p"] > 0.01  # new pictures in other noise: nothing is there


def test_what_trained_a_model_does_not_score_it(confounded, tmp_path):
    settings = {"allow_confounded": True}
    with pytest.raises(ValueError, match=r"kind0/1_\d.png' and 15 more of these pictures trained the model"):
        evaluate(confounded.model, confounded.one, confounded.pictures, tmp_path / "out", **settings)
    renamed = mne.read_epochs(confounded.one, verbose="error")
    renamed.metadata = renamed.metadata.assign(stimulus=renamed.metadata["stimulus"].str.replace("1_", "2_"))
    renamed.save(tmp_path / "renamed-epo.fif", verbose="error")
    with pytest.raises(ValueError, match="48 of these 60 trials trained the model"):
        evaluate(
            confounded.model, tmp_path / "renamed-epo.fif", confounded.pictures, tmp_path / "out", **settings
        )
    assert not (tmp_path / "out").exists()


def test_a_map_keeps_the_stamp(confounded, tmp_path):
    picture = confounded.pictures / "kind0" / "2_0.png"
    out = map_picture(confounded.model, confounded.other, picture, tmp_path / "map", window=112, stride=112)
    assert assert_stamped(out) == 6
    names = {path.name for path in out.glob("*.npy")}
    arrays = ("map", "z", "control_maps", "neural_map", "half_correlations")
    assert names == {f"CONFOUNDED_{name}.npy" for name in arrays}
    assert (out / "saliency.png").is_file()


def test_a_direction_by_a_confounded_model_keeps_the_stamp(confounded, oddball, tmp_path, monkeypatch):
    few = functools.partial(compatibility_direction, n_latents=10, n_permutations=10, n_gradients=2)
    monkeypatch.setattr(directions_job, "compatibility_direction", few)
    monkeypatch.setattr(
        directions_job, "find_direction", functools.partial(find_direction, n_permutations=20)
    )
    small = {"channel_base": 64, "channel_max": 8}
    generator = StyleGAN2(z_dim=4, w_dim=4, img_resolution=16, synthesis_kwargs=small)
    save_generator(generator, tmp_path / "generator")
    names = sorted(set(oddball.metadata["stimulus"]))
    z = np.random.default_rng(0).normal(size=(len(names), 4)).astype(np.float32)
    write_latents(pd.DataFrame(z, index=names), tmp_path / "latents.safetensors", space="z")
    settings = {"target": "target", "generator": str(tmp_path / "generator")}
    settings["latents"] = tmp_path / "latents.safetensors"
    out = direction_from_eeg(saved(oddball, tmp_path), tmp_path / "out", model=confounded.model, **settings)
    assert assert_stamped(out) >= 2
    assert Direction.load(out / "compatibility_direction.safetensors").provenance["stamp"] == "CONFOUNDED"
    assert "stamp" not in Direction.load(out / "direction.safetensors").provenance  # it came from no model
    settings = {"generator": str(tmp_path / "generator"), "n": 2, "strengths": (-1.0, 0.0, 1.0)}
    edited = edit_file(out / "compatibility_direction.safetensors", tmp_path / "edited", **settings)
    assert assert_stamped(edited) == 2
    plain = edit_file(out / "direction.safetensors", tmp_path / "plain", **settings)
    assert "CONFOUNDED" not in page_of(plain)


def test_a_published_data_set_is_audited_by_name(tmp_path):
    simulate_kaneshiro(tmp_path / "kan", subject=1, n_repeats=3, snr_exemplar=0.5, snr_category=0.3)
    out = audit_file(
        tmp_path / "kan", tmp_path / "apart", data="kaneshiro2015", split="stimulus", n_permutations=40
    )
    record = json.loads((out / "result.json").read_text())
    assert record["figures"]["design"]["verdict"] == "unverifiable"
    assert record["figures"]["controls"]["verdict"].startswith("Above chance, not refuted, but unverifiable")
    out = audit_file(
        tmp_path / "kan", tmp_path / "random", data="kaneshiro2015", split="trial", design_only=True
    )
    record = json.loads((out / "result.json").read_text())
    assert record["stamp"] == "CONFOUNDED"
    with pytest.raises(ValueError, match="Unknown data set 'kaneshiro'"):
        audit_file(tmp_path / "kan", tmp_path / "x", data="kaneshiro")
    assert not (tmp_path / "x").exists()
