"""The joint model on a planted problem: it finds held-out trials, nothing else, and survives a save."""

import json
import subprocess
import sys
from types import SimpleNamespace

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import binom

from brainedit import joint_training
from brainedit.datasets.paired import PairedDataset
from brainedit.encoders.eeg import EEG_ENCODERS
from brainedit.encoders.image import weights_sha256
from brainedit.evaluation import retrieval_score
from brainedit.joint import load_joint
from brainedit.joint_training import train_joint
from brainedit.losses import LOSSES

SMALL = {"n_dims": 32, "n_epochs": 15, "batch_size": 24, "progress": False}


def train(viewing, pictures, trials=None, **settings):
    dataset = PairedDataset(viewing.epochs, pictures).subset(viewing.train if trials is None else trials)
    return train_joint(dataset, **SMALL | settings)


@pytest.fixture(scope="module")
def model(viewing, pictures):
    return train(viewing, pictures)


@pytest.fixture(scope="module")
def held_out(model, viewing, pictures):
    """Prepared EEG of trials that did not train the model, images, and F between them."""
    eeg = model.prepare_eeg(viewing.epochs[viewing.test])
    images = torch.stack([model.prepare_image(p) for p in pictures.values()])
    with torch.no_grad():
        return SimpleNamespace(eeg=eeg, images=images, f=model.compatibility(eeg, images))


def test_held_out_trials_find_their_picture(held_out, viewing):
    score = retrieval_score(held_out.f.numpy(), viewing.own[viewing.test], n_permutations=200)
    assert score.value > 0.8
    assert score.p < 0.02


def test_shuffled_pairing_is_at_chance(viewing, pictures):
    rng = np.random.default_rng(0)
    shuffled = viewing.epochs.copy()
    shuffled.metadata["stimulus"] = rng.permutation(viewing.epochs.metadata["stimulus"])
    dataset = PairedDataset(shuffled, pictures)
    f = train_joint(dataset.subset(viewing.train), **SMALL)
    with torch.no_grad():
        phi = f.embed_eeg(f.prepare_eeg(viewing.epochs[viewing.test]))
    compatibility = phi @ f.embed_pictures(pictures).T
    for own in (viewing.own, [list(pictures).index(s) for s in shuffled.metadata["stimulus"]]):
        score = retrieval_score(compatibility.numpy(), np.asarray(own)[viewing.test], n_permutations=20)
        assert score.value <= binom.ppf(0.999, len(viewing.test), 1 / 6) / len(viewing.test)


def test_training_lowers_the_loss_and_writes_it_down(model):
    history = model.card["training"]["loss_history"]
    assert len(history) == SMALL["n_epochs"]
    assert history[-1] < 0.7 * history[0]
    assert model.card["training"]["n_trials"] == 48
    assert not model.card["training"]["simulated"]
    assert not any(m.training for m in model.modules())


def test_shapes_and_units(model, held_out):
    assert held_out.eeg.shape == (24, 8, 40)
    assert held_out.eeg.is_contiguous()  # or safetensors refuses it
    assert held_out.images.shape == (6, 3, 224, 224)
    assert held_out.f.shape == (24, 6)
    with torch.no_grad():
        assert model.embed_eeg(held_out.eeg).norm(dim=1).numpy() == pytest.approx(np.ones(24), abs=1e-5)
        lengths = model.embed_image(held_out.images).norm(dim=1)
    assert lengths.std() < 1e-4 * lengths.mean()


def test_scores_for_saliency_are_the_compatibility(model, held_out):
    with torch.no_grad():
        assert torch.allclose(model.score_images(held_out.eeg)(held_out.images), held_out.f.T, atol=1e-5)
        for i in (0, 4):
            score = model.score_eeg(held_out.images[i])(held_out.eeg)
            assert score.shape == (24,)
            assert torch.allclose(score, held_out.f[:, i], atol=1e-5)
        one = model.score_images(held_out.eeg[:1])(held_out.images)
    assert one.shape == (6, 1)


def test_any_vectors_can_stand_in_for_a_response(model, held_out):
    with torch.no_grad():
        phi = model.embed_eeg(held_out.eeg[:3])
        assert torch.equal(
            model.score_embeddings(phi)(held_out.images),
            model.score_images(held_out.eeg[:3])(held_out.images),
        )
        doubled = model.score_embeddings(2 * phi)(held_out.images)
        assert torch.allclose(doubled, 2 * held_out.f[:3].T, atol=1e-4)
    with pytest.raises(ValueError, match=r"vectors \(k, 32\) in place of phi, got shape \(3, 31\)"):
        model.score_embeddings(phi[:, :31])
    with pytest.raises(ValueError, match=r"got shape \(32,\)"):
        model.score_embeddings(phi[0])


def test_scores_can_be_differentiated(model, held_out):
    image = held_out.images[:1].clone().requires_grad_()
    model.score_images(held_out.eeg[:2])(image).sum().backward()
    assert image.grad.abs().sum() > 0
    eeg = held_out.eeg[:1].clone().requires_grad_()
    model.score_eeg(held_out.images[0])(eeg).sum().backward()
    assert (eeg.grad.abs().sum(-1) > 0).all()


def test_pictures_by_name_are_the_images(model, pictures, held_out):
    with torch.no_grad():
        direct = model.embed_image(held_out.images)
    assert torch.allclose(model.embed_pictures(pictures), direct, atol=1e-4)
    backwards = model.embed_pictures(dict(reversed(pictures.items())))
    assert torch.allclose(backwards, direct.flip(0), atol=1e-4)


def test_same_seed_same_weights(model, viewing, pictures):
    before = torch.get_rng_state()
    again = train(viewing, dict(reversed(pictures.items())))  # the order of a dict is no setting
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    other = train(viewing, pictures, seed=1, n_epochs=1)
    assert not torch.equal(other.towers.image.weight, model.towers.image.weight)


def test_a_killed_training_ends_with_the_same_weights(viewing, pictures, tmp_path, monkeypatch):
    settings = {"n_epochs": 4, "eeg_encoder": "tsconv"}
    whole = train(viewing, pictures, **settings)
    call, count = joint_training.PairBatches.__call__, []

    def killed(self, generator):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return call(self, generator)

    monkeypatch.setattr(joint_training.PairBatches, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        train(viewing, pictures, checkpoint=tmp_path / "c.safetensors", **settings)
    resumed = train(viewing, pictures, checkpoint=tmp_path / "c.safetensors", **settings)
    assert len(count) == 5
    assert resumed.card["training"]["loss_history"] == whole.card["training"]["loss_history"]
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# saved and read


@pytest.mark.parametrize("other", [{"trials": list(range(40))}, {"loss": "triplet"}, {"batch_size": 7}])
def test_a_checkpoint_of_another_run_is_not_continued(viewing, pictures, tmp_path, other):
    settings = {"n_epochs": 2, "checkpoint": tmp_path / "c.safetensors"}
    train(viewing, pictures, **settings)
    with pytest.raises(ValueError, match="identity"):
        train(viewing, pictures, **settings, **other)


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_is_the_same(model, saved, held_out, pictures, viewing):
    again = load_joint(saved)
    with torch.no_grad():
        assert torch.equal(again.compatibility(held_out.eeg, held_out.images), held_out.f)
    assert torch.equal(again.prepare_eeg(viewing.epochs), model.prepare_eeg(viewing.epochs))
    assert torch.equal(again.embed_pictures(pictures), model.embed_pictures(pictures))
    assert again.card["training"] == model.card["training"]
    with pytest.raises(ValueError, match="trained the model"):
        again.check_unseen(viewing.epochs[viewing.train])
    assert sorted(p.name for p in saved.iterdir()) == ["model.json", "model.safetensors"]
    assert (saved / "model.safetensors").stat().st_size < 2_000_000  # the bundled network is not repeated


def test_another_process_computes_the_same(saved, held_out, tmp_path):
    save_file(
        {"eeg": held_out.eeg, "images": held_out.images.flip(0).contiguous()}, tmp_path / "in.safetensors"
    )
    script = (
        "import sys, torch\nfrom safetensors.torch import load_file, save_file\n"
        "from brainedit.joint import load_joint\n"
        "x = load_file(sys.argv[2])\nwith torch.no_grad():\n"
        "    f = load_joint(sys.argv[1]).compatibility(x['eeg'], x['images'])\n"
        "save_file({'f': f}, sys.argv[3])\n"
    )
    out = tmp_path / "out.safetensors"
    subprocess.run(
        [sys.executable, "-c", script, saved, tmp_path / "in.safetensors", out], check=True, timeout=60
    )
    # another number of threads rounds the network's features differently
    assert torch.allclose(load_file(out)["f"].flip(1), held_out.f, atol=2e-3)


def test_an_encoder_that_is_not_bundled_is_saved_too(viewing, pictures, tmp_path, held_out):
    trained = train(
        viewing, pictures, image_encoder="torchvision/resnet18", image_weights="random", n_epochs=1
    )
    with torch.no_grad():
        trained.image_encoder.network.conv1.weight.mul_(2)  # weights that no seed gives
    sha256 = weights_sha256(trained.image_encoder.network)
    trained.card["image_encoder"]["sha256"] = sha256
    trained.save(tmp_path)
    again = load_joint(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.embed_image(held_out.images[:2]), trained.embed_image(held_out.images[:2]))
    assert again.image_encoder.sha256 == sha256  # or the cache would hand out features of other weights


def test_no_model_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no model in .*nothing; a model is a folder"):
        load_joint(tmp_path / "nothing")


def damage_weights(folder):
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def edit_card(**changes):
    def edit(folder):
        card = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(card | changes))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_weights, "its weights are not those that model.json describes"),
        (cut_weights, "its weights are not those"),
        (lambda f: (f / "model.safetensors").unlink(), "No such file"),
        (lambda f: (f / "model.json").write_text('{"n_dims": 3'), "Expecting"),
        (lambda f: (f / "model.json").write_text("[]"), "object has no attribute"),
        (lambda f: (f / "model.json").write_bytes(b"\xff\xfe\x00"), "codec can't decode"),
        (edit_card(n_dims=31), "size mismatch"),
        (edit_card(eeg_encoder="tsconv"), "size mismatch"),
        (edit_card(eeg_encoder="none"), "Unknown EEG encoder 'none'"),
        (
            edit_card(image_encoder={"name": "efficientnet_lite0", "weights": "pretrained", "sha256": "0"}),
            "other weights",
        ),
    ],
)
def test_a_damaged_model_is_told(saved, damage, message):
    damage(saved)
    with pytest.raises(
        ValueError, match=r"The model in .*model cannot be read .*; train or copy it again"
    ) as told:
        load_joint(saved)
    assert message in str(told.value)
    assert "\n" not in str(told.value)


# trials and pictures that trained it


def with_other_pictures(epochs):
    new = epochs.copy()
    new.metadata = pd.DataFrame({"stimulus": [f"new/{i}.png" for i in range(len(new))]})
    return new


def test_new_trials_of_new_pictures_are_accepted(model, viewing):
    model.check_unseen(with_other_pictures(viewing.epochs[viewing.test]))
    bare = viewing.epochs[viewing.test]
    bare.metadata = None
    model.check_unseen(bare)


def test_trials_that_trained_it_are_refused(model, viewing, tmp_path):
    seen = with_other_pictures(viewing.epochs[viewing.train])
    with pytest.raises(ValueError, match="48 of these 48 trials trained the model"):
        model.check_unseen(seen)
    with pytest.raises(ValueError, match="10 of these 10 trials"):
        model.check_unseen(seen[np.random.default_rng(0).permutation(48)[:10]])
    with pytest.raises(ValueError, match="48 of these 72 trials"):
        model.check_unseen(with_other_pictures(viewing.epochs))
    seen.copy().reorder_channels(seen.ch_names[::-1]).save(tmp_path / "x-epo.fif", verbose="error")
    with pytest.raises(ValueError, match="48 of these 48 trials"):
        model.check_unseen(mne.read_epochs(tmp_path / "x-epo.fif", verbose="error"))
    rounded = seen.copy()
    rounded._data = np.round(rounded._data / 1e-7) * 1e-7  # a file of 16 bit with steps of 0.1 microvolt
    with pytest.raises(ValueError, match="48 of these 48 trials"):
        model.check_unseen(rounded)
    mixed = mne.concatenate_epochs(
        [with_other_pictures(viewing.epochs[viewing.test]), seen[[5]]], verbose="error"
    )
    with pytest.raises(ValueError, match="1 of these 25 trials"):
        model.check_unseen(mixed)


def test_pictures_that_trained_it_are_refused(model, viewing, pictures):
    with pytest.raises(ValueError, match=f"{min(pictures)!r} and 5 more of these pictures trained the model"):
        model.check_unseen(viewing.epochs[viewing.test])
    one = with_other_pictures(viewing.epochs[viewing.test])
    one.metadata.loc[3, "stimulus"] = "red.png"
    with pytest.raises(ValueError, match=r"'red\.png' and 0 more"):
        model.check_unseen(one)


def test_pictures_named_by_numbers_are_known_too(viewing, pictures):
    epochs = viewing.epochs.copy()
    epochs.metadata["stimulus"] = viewing.own
    numbered = PairedDataset(epochs, {str(i): p for i, p in enumerate(pictures.values())})
    trained = train_joint(numbered.subset(viewing.train), **SMALL | {"n_epochs": 1})
    with pytest.raises(ValueError, match="'0' and 5 more of these pictures"):
        trained.check_unseen(epochs[viewing.test])


# settings


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("normalize", ["both", "image", "none"])
def test_every_loss_with_every_normalisation_stays_finite(viewing, pictures, loss, normalize):
    trained = train(viewing, pictures, loss=loss, normalize=normalize, n_epochs=3)
    assert np.isfinite(trained.card["training"]["loss_history"]).all()
    assert all(p.isfinite().all() for p in trained.towers.parameters())


@pytest.mark.parametrize("name", EEG_ENCODERS)
def test_every_eeg_encoder_trains_and_loads(viewing, pictures, name, tmp_path):
    trained = train(viewing, pictures, eeg_encoder=name, n_epochs=1)
    trained.save(tmp_path)
    again = load_joint(tmp_path)
    eeg = trained.prepare_eeg(viewing.epochs[:3])
    with torch.no_grad():
        assert torch.equal(again.embed_eeg(eeg), trained.embed_eeg(eeg))


@pytest.mark.parametrize("average", [True, False])
def test_single_trials_train_it_as_well_as_averages(viewing, pictures, average):
    trained = train(viewing, pictures, average_repeats=average)
    with torch.no_grad():
        phi = trained.embed_eeg(trained.prepare_eeg(viewing.epochs[viewing.test]))
    f = phi @ trained.embed_pictures(pictures).T
    assert (f.argmax(1).numpy() == viewing.own[viewing.test]).mean() > 0.6


def test_pairing_by_label_tells_categories_apart(viewing, pictures):
    epochs = viewing.epochs.copy()
    epochs.metadata["label"] = np.where(viewing.own < 3, "first", "last")
    values = list(pictures.values())
    dataset = PairedDataset(epochs, {"first": values[:3], "last": values[3:]}, pair_by="label")
    trained = train_joint(dataset.subset(viewing.train), **SMALL)
    with torch.no_grad():
        phi = trained.embed_eeg(trained.prepare_eeg(epochs[viewing.test]))
    f = phi @ trained.embed_pictures(pictures).T
    margin = (f[:, :3].mean(1) - f[:, 3:].mean(1)).numpy()
    assert ((margin > 0) == (viewing.own[viewing.test] < 3)).mean() > 0.8
    assert trained.card["training"]["keys"] == ["first", "last"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "info_nce"}, "Unknown loss 'info_nce'. Did you mean 'infonce'"),
        ({"eeg_encoder": "eegnet"}, "Unknown EEG encoder 'eegnet'"),
        ({"image_encoder": "vgg"}, "Unknown image encoder 'vgg'"),
        ({"normalize": "eeg"}, "Unknown normalize 'eeg'"),
        ({"whiten": "zca"}, "Unknown whitening 'zca'"),
        ({"tmin": 3.0, "tmax": 4.0}, "holds no two samples"),
        ({"channels": ["Fz", "Iz"]}, "channels Iz are missing"),
    ],
)
def test_unknown_settings_are_told(viewing, pictures, settings, message):
    with pytest.raises(ValueError, match=message):
        train(viewing, pictures, **settings)


def test_one_picture_cannot_be_told_apart(viewing, pictures):
    with pytest.raises(ValueError, match=r"two or more stimuli to tell apart; all are 'red\.png'"):
        train(viewing, pictures, np.flatnonzero(viewing.own == list(pictures).index("red.png")))


def test_nan_and_flat_channels_are_told(viewing, pictures):
    broken = viewing.epochs.copy()
    broken._data[0, 2, 3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite values in channels Pz"):
        train_joint(PairedDataset(broken, pictures), **SMALL)
    broken._data[:, 2] = 1e-5
    with pytest.raises(ValueError, match="Flat channels: Pz"):
        train_joint(PairedDataset(broken, pictures), **SMALL)


def test_simulated_eeg_is_called_so(viewing, pictures):
    epochs = viewing.epochs.copy()
    epochs.metadata["simulated"] = True
    trained = train_joint(PairedDataset(epochs, pictures), **SMALL | {"n_epochs": 1})
    assert trained.card["training"]["simulated"]
