"""Training of the joint model: features, people, starts, validation, sub-averages, sets on disk."""

import mne
import numpy as np
import pandas as pd
import pytest
import torch

from brainedit import eeg_input, joint_training
from brainedit.datasets.arrays import ArrayEpochs
from brainedit.datasets.paired import PairedDataset
from brainedit.evaluation import retrieval_score
from brainedit.joint import load_joint
from brainedit.joint_training import calibrate, train_joint

N_PICTURES, N_REPEATS, N_CHANNELS, N_TIMES, N_FEATURES = 60, 4, 6, 20, 10
SMALL = {"image_encoder": "features", "n_epochs": 6, "batch_size": 64, "sfreq": 50.0, "tmax": 0.4}
SMALL |= {"feature_dropout": 0.0, "progress": False}
LINEAR = SMALL | {"eeg_encoder": "linear", "whiten": "channels_times"}


def planted(seed=0, *, subject="01", n=N_PICTURES, mixing=None, noise=1.0, first=0):
    """Responses that are linear in three features of the picture, in white noise; simulated."""
    rng = np.random.default_rng([seed, 1])
    truth = np.random.default_rng(5).normal(size=(3, N_CHANNELS, N_TIMES))
    features = rng.normal(size=(n, N_FEATURES)).astype(np.float32)
    clean = np.tensordot(features[:, :3], truth, 1) * 0.5
    clean = clean if mixing is None else np.einsum("cd,ndt->nct", mixing, clean)
    picture = np.repeat(np.arange(n), N_REPEATS)
    data = (clean[picture] + noise * rng.normal(size=(len(picture), N_CHANNELS, N_TIMES))) * 1e-6
    names = [f"p{first + i:03d}.png" for i in range(n)]
    metadata = pd.DataFrame({"stimulus": np.array(names)[picture], "subject": subject})
    metadata["concept"] = [f"c{(first + i) // 4}" for i in picture]
    info = mne.create_info([f"E{i}" for i in range(N_CHANNELS)], 50.0, "eeg")
    epochs = mne.EpochsArray(data, info, metadata=metadata, verbose="error")
    return PairedDataset(epochs, dict(zip(names, features, strict=True)))


def top1(model, test, **how):
    averages = test.by_stimulus()
    f = model.embed_epochs(averages.epochs, **how) @ model.embed_pictures(test.pictures).T
    own = [list(test.pictures).index(name) for name in averages.keys]
    return retrieval_score(f.numpy(), np.array(own), n_permutations=20, n_bootstrap=20).value


@pytest.fixture(scope="module")
def data():
    whole = planted(n=90)
    held = np.isin(whole.keys, [f"p{i:03d}.png" for i in range(60, 90)])
    return whole.subset(~held), whole.subset(held)


def test_ready_features_take_the_place_of_pictures(data, tmp_path):
    train, test = data
    model = train_joint(train, **SMALL | {"n_epochs": 30})
    assert top1(model, test) > 0.3  # of 30
    model.save(tmp_path)
    again = load_joint(tmp_path)
    assert torch.equal(again.embed_pictures(test.pictures), model.embed_pictures(test.pictures))
    feature = test.pictures[test.keys[0]]
    assert torch.equal(model.prepare_image(feature), torch.from_numpy(feature))
    with pytest.raises(ValueError, match=r"10 ready-made features each; \(1, 3, 8, 8\)"):
        model.embed_image(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="needs 10 finite features; \\(4,\\)"):
        model.prepare_image(np.zeros(4, np.float32))


def test_features_and_pictures_are_not_confused(data):
    train, _ = data
    with pytest.raises(
        ValueError, match=r"'p000.png' comes as 10 ready-made features; use image_encoder='features'"
    ):
        train_joint(train, **SMALL | {"image_encoder": "efficientnet_lite0", "image_weights": "random"})
    pictures = {name: np.zeros((8, 8, 3), np.uint8) for name in train.pictures}
    with pytest.raises(ValueError, match="needs features in place of pictures"):
        train_joint(PairedDataset(train.epochs, pictures), **SMALL)


def test_a_start_from_the_encoding_model_is_near_the_best_linear_ranking(data):
    train, test = data
    model = train_joint(train, **LINEAR, start="encoding", normalize="distance", learning_rate=1e-5)
    assert model.card["training"]["start_rank"] == 3  # what was planted
    assert top1(model, test) > 0.9
    scrambled = dict(zip(test.pictures, list(test.pictures.values())[::-1], strict=True))
    assert top1(model, PairedDataset(test.epochs, scrambled)) < 0.2


def test_the_distance_form_ranks_as_the_distance_does(data):
    train, test = data
    model = train_joint(train, **LINEAR, normalize="distance", n_dims=5)
    with torch.inference_mode():
        phi, theta = model.embed_epochs(test.epochs), model.embed_pictures(test.pictures)
        scale = model.towers.log_scale.exp()
        f = phi @ theta.T
        distance = torch.cdist(phi[:, :-1], theta[:, :-1] / scale).square()
    expected = scale * (phi[:, :-1].square().sum(1, keepdim=True) - distance) / 2
    assert torch.allclose(f, expected, atol=1e-3)


def test_a_start_that_cannot_be_is_told(data):
    with pytest.raises(ValueError, match=r"needs eeg_encoder='linear'.*got 'eegproject' and 'channels'"):
        train_joint(data[0], **SMALL, start="encoding")
    with pytest.raises(ValueError, match="Unknown start 'encodign'"):
        train_joint(data[0], **LINEAR, start="encodign")


def test_validation_pictures_choose_the_epoch_and_are_known_as_seen(data):
    train, _ = data
    model = train_joint(train, **SMALL | {"n_epochs": 25, "learning_rate": 0.03}, validate_by="concept")
    history = model.card["training"]["validation_history"]
    assert len(history) == 25
    held = joint_training._validation_split(train, "concept", 0)[1]
    batches = joint_training.PairBatches(
        model, held, batch_size=64, average=False, distort=[], progress=False
    )
    loss = joint_training._mean_loss(model.towers, joint_training.LOSSES["infonce"], batches)
    assert loss == pytest.approx(min(history), rel=1e-4)
    assert len(model.sketches) == len(train)
    fitted = joint_training._validation_split(train, "concept", 0)[0]
    assert not set(fitted.metadata["concept"]) & set(held.metadata["concept"])


def test_sub_averages_hold_every_trial_once_and_one_picture_each(data):
    train, _ = data
    model = train_joint(train, **SMALL | {"n_epochs": 1})
    batches = joint_training.PairBatches(
        model, train, batch_size=64, average=True, distort=[], progress=False
    )
    sizes = set()
    for seed in range(5):
        trials, starts, lengths = batches._groups(np.random.default_rng(seed))
        assert sorted(trials) == list(range(len(train)))
        groups = np.split(trials, starts[1:])
        assert [len(g) for g in groups] == list(lengths)
        assert all(len(set(train.keys[g])) == 1 for g in groups)
        sizes |= set(lengths)
        mean, first = batches._means(trials, starts[:7], lengths[:7])
        for i in range(7):
            assert torch.allclose(mean[i], batches.eeg[groups[i]].mean(0), atol=1e-5)
            assert train.keys[first[i]] == train.keys[groups[i][0]]
    assert sizes == {1, 2, 3, 4}


def test_people_with_other_heads_share_one_network():
    rng = np.random.default_rng(0)
    heads = [np.linalg.qr(rng.normal(size=(N_CHANNELS, N_CHANNELS)))[0] for _ in range(3)]
    people = [planted(i, subject=f"0{i}", mixing=heads[i], first=1000 * i, n=300) for i in range(3)]
    train = PairedDataset.concatenate(people[:2])
    settings = LINEAR | {
        "whiten": "none",
        "n_epochs": 60,
        "n_dims": 16,
        "batch_size": 128,
        "learning_rate": 3e-3,
    }
    with_layer = train_joint(train, person_layer=True, **settings)
    assert with_layer.card["subjects"] == ["00", "01"]
    held = [planted(10 + i, subject=f"0{i}", mixing=heads[i], first=5000, n=40) for i in range(2)]
    own = np.mean([top1(with_layer, held[i], subject=f"0{i}") for i in range(2)])
    swapped = np.mean([top1(with_layer, held[i], subject=f"0{1 - i}") for i in range(2)])
    assert own > swapped + 0.05
    new, scored = people[2], planted(20, mixing=heads[2], first=6000, n=40)
    adapted = calibrate(with_layer, new, subject="02", n_epochs=20, learning_rate=1e-2, progress=False)
    assert top1(adapted, scored, subject="02") > top1(with_layer, scored) + 0.05
    assert top1(adapted, held[0], subject="00") == top1(with_layer, held[0], subject="00")  # the others' stay
    with pytest.raises(ValueError, match="trained the model"):
        adapted.check_unseen(new.epochs)
    with pytest.raises(ValueError, match="Unknown subject '07'"):
        top1(adapted, scored, subject="07")
    with pytest.raises(ValueError, match="has a layer for '02' already"):
        calibrate(adapted, new, subject="02", progress=False)


def test_calibration_without_peoples_layers_is_told(data):
    model = train_joint(data[0], **SMALL | {"n_epochs": 1})
    with pytest.raises(ValueError, match=r"no people's layers.*adapt='all'"):
        calibrate(model, data[1], subject="02", progress=False)


def test_a_set_on_disk_trains_as_one_in_memory(data, tmp_path, monkeypatch):
    train, test = data
    values = train.epochs.get_data(copy=False).astype(np.float32)
    np.save(tmp_path / "eeg.npy", values)
    lazy = ArrayEpochs(
        np.load(tmp_path / "eeg.npy", mmap_mode="r"), train.epochs.info, tmin=0.0, metadata=train.metadata
    )
    plain = train_joint(train, **SMALL)
    monkeypatch.setattr(eeg_input, "IN_MEMORY", 1000)
    monkeypatch.setattr(eeg_input, "CHUNK", 50)
    on_disk = train_joint(PairedDataset(lazy, train.pictures), **SMALL)
    for (name, a), b in zip(plain.state_dict().items(), on_disk.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=2e-3, rtol=2e-3), name
    assert top1(on_disk, test) == pytest.approx(top1(plain, test), abs=0.07)


def test_posterior_channels_are_chosen_by_name():
    names = ["Fz", "oz", "O1", "POz", "P7", "Cz"]
    info = mne.create_info(names, 50.0, "eeg")
    epochs = mne.EpochsArray(np.random.default_rng(0).normal(size=(6, 6, 20)) * 1e-6, info, verbose="error")
    fitted = eeg_input.EEGInput.fit(epochs, np.arange(6), channels="posterior")
    assert fitted.channels == ["Oz", "O1", "POz", "P7"]
    with pytest.raises(ValueError, match=r"at least 4 of P7.*there are 2"):
        eeg_input.EEGInput.fit(epochs.copy().pick(["Fz", "O1", "POz"]), np.arange(6), channels="posterior")


def test_differences_between_people_are_no_noise():
    people = [planted(i, subject=f"0{i}", first=0) for i in range(2)]
    loud = people[1].epochs.copy()
    loud._data += 50e-6  # another person's mean response
    both = PairedDataset.concatenate([people[0], PairedDataset(loud, people[0].pictures)])
    settings = SMALL | {"n_epochs": 1, "whiten": "channels"}
    alone, together = train_joint(people[0], **settings), train_joint(both, **settings)
    size = [m.eeg_input.whitener.diagonal().mean() / m.eeg_input.std.mean() for m in (alone, together)]
    assert float(size[1] / size[0]) == pytest.approx(1, abs=0.15)


def test_repeats_of_two_people_are_never_averaged_together(data):
    other = data[0].with_metadata(data[0].metadata.assign(subject="02"))
    both = PairedDataset.concatenate([data[0], other])
    model = train_joint(both, **SMALL | {"n_epochs": 1})
    batches = joint_training.PairBatches(model, both, batch_size=64, average=True, distort=[], progress=False)
    people = both.metadata["subject"].to_numpy()
    trials, starts, _ = batches._groups(np.random.default_rng(0))
    groups = np.split(trials, starts[1:])
    assert max(map(len, groups)) > 1
    assert all(len(set(people[group])) == 1 for group in groups)


@pytest.mark.parametrize("changed", ["features", "validation"])
def test_a_checkpoint_of_other_pictures_is_refused(data, tmp_path, changed):
    settings = SMALL | {"n_epochs": 2, "checkpoint": tmp_path / "c.safetensors", "validate_by": "concept"}
    train_joint(data[0], **settings)
    again = train_joint(data[0], **settings | {"progress": True})  # how it is shown is no setting
    assert len(again.card["training"]["loss_history"]) == 2
    held = joint_training._validation_split(data[0], "concept", 0)[1]
    if changed == "features":
        other = {name: feature[::-1].copy() for name, feature in data[0].pictures.items()}
        other = PairedDataset(data[0].epochs, other)
    else:
        epochs = data[0].epochs.copy()
        epochs._data[np.isin(data[0].keys, held.keys)] *= -1
        other = PairedDataset(epochs, data[0].pictures)
    with pytest.raises(ValueError, match="its identity is"):
        train_joint(other, **settings)


def test_calibration_leaves_the_rest_to_the_bit_and_takes_one_person():
    people = [planted(i, subject=f"0{i}", first=100 * i) for i in range(3)]
    settings = SMALL | {"n_epochs": 2, "eeg_encoder": "tsconv", "whiten": "none", "scale": 1.65}
    model = train_joint(PairedDataset.concatenate(people[:2]), person_layer=True, **settings)
    new = calibrate(model, people[2], subject="02", n_epochs=3, progress=False)
    for name, before in model.towers.state_dict().items():
        if name != "people.deviation":
            assert torch.equal(before, new.towers.state_dict()[name]), name
    assert new.towers.people.subjects == ["00", "01", "02"]
    whole = calibrate(model, people[2], subject="02", adapt="all", n_epochs=3, progress=False)
    assert float(whole.towers.log_scale.exp()) == pytest.approx(1.65)
    with pytest.raises(ValueError, match="this person's trials alone; some are of '01'"):
        calibrate(model, PairedDataset.concatenate(people[1:]), subject="02", progress=False)


def test_a_validation_of_one_picture_is_told(data):
    few = data[0].subset(np.isin(data[0].keys, sorted(set(data[0].keys))[:6]))
    with pytest.raises(ValueError, match="holds out one stimulus of 6"):
        train_joint(few, **SMALL, validate_by="stimulus")
