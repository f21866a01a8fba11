"""Metric learning finds planted labels on held-out trials, nothing where there is nothing, and survives a save."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from brainedit.embedding_scores import kmeans_score, knn_score
from brainedit.metric import _Batches, load_metric, train_metric

SMALL = {
    "eeg_encoder": "eegproject",
    "n_dims": 16,
    "n_epochs": 25,
    "batch_size": 24,
    "n_per_label": 4,
    "learning_rate": 2e-3,
    "progress": False,
}
FEW = {"n_permutations": 200, "n_bootstrap": 20}


@pytest.fixture(scope="module")
def labelled(viewing):
    """The trials of six pictures as six labels."""
    epochs = viewing.epochs.copy()
    epochs.metadata = pd.DataFrame({"label": [f"class {i}" for i in viewing.own]})
    return epochs


@pytest.fixture(scope="module")
def model(labelled, viewing):
    return train_metric(labelled[viewing.train], **SMALL)


def held_out(model, epochs, viewing):
    train, test = epochs[viewing.train], epochs[viewing.test]
    return (
        model.embed_epochs(train),
        train.metadata["label"].to_numpy(),
        model.embed_epochs(test),
        test.metadata["label"].to_numpy(),
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"miner": "semi_hard"},
        {"loss": "multi_similarity"},
        {"loss": "multi_similarity", "miner": "all"},
        {"eeg_encoder": "linear", "miner": "all"},
    ],
)
def test_planted_labels_are_found_on_held_out_trials(labelled, viewing, settings):
    trained = train_metric(labelled[viewing.train], **SMALL | settings)
    data = held_out(trained, labelled, viewing)
    score = knn_score(*data, **FEW)
    assert score.value > 0.6
    assert score.p < 0.01
    assert kmeans_score(*data, **FEW).value > 0.4


def test_shuffled_labels_are_at_chance(labelled, viewing):
    shuffled = labelled.copy()
    shuffled.metadata["label"] = np.random.default_rng(0).permutation(labelled.metadata["label"])
    trained = train_metric(shuffled[viewing.train], **SMALL)
    assert trained.card["training"]["loss_history"][-1] < 0.7 * trained.card["training"]["loss_history"][0]
    score = knn_score(*held_out(trained, shuffled, viewing), **FEW)
    assert score.value < 0.42  # 24 trials of 6 labels: 4 by chance, 10 or more in 1 of 400
    assert score.p > 0.01


@pytest.mark.parametrize("settings", [{"eeg_encoder": "lstm"}, {"eeg_encoder": "cnn"}])
def test_the_published_encoders_learn_their_training_trials(labelled, viewing, settings, tmp_path):
    options = {"encoder_options": {"widths": (8, 16, 32, 64)}} if settings["eeg_encoder"] == "cnn" else {}
    trained = train_metric(labelled[viewing.train], **SMALL | settings | options | {"n_epochs": 5})
    history = trained.card["training"]["loss_history"]
    assert np.isfinite(history).all()
    assert min(history) < history[0]
    trained.save(tmp_path)
    again = load_metric(tmp_path)
    assert np.array_equal(again.embed_epochs(labelled), trained.embed_epochs(labelled))
    if settings["eeg_encoder"] == "lstm":
        assert (again.encoder.lstm.num_layers, again.encoder.project.bias) == (4, None)


def test_embeddings_have_unit_length_and_keep_their_order(model, labelled):
    embedding = model.embed_epochs(labelled)
    assert embedding.shape == (72, 16)
    assert np.linalg.norm(embedding, axis=1) == pytest.approx(np.ones(72), abs=1e-5)
    order = np.random.default_rng(0).permutation(72)
    assert np.allclose(model.embed_epochs(labelled[order]), embedding[order], atol=1e-5)
    reordered = labelled.copy().reorder_channels(labelled.ch_names[::-1])
    assert np.allclose(model.embed_epochs(reordered), embedding, atol=1e-5)
    eeg = model.prepare_eeg(labelled[:2]).requires_grad_()
    model.embed_eeg(eeg).sum().backward()
    assert eeg.grad.any()


def test_a_saved_model_is_the_same(model, labelled, tmp_path):
    model.save(tmp_path)
    again = load_metric(tmp_path)
    assert np.array_equal(again.embed_epochs(labelled), model.embed_epochs(labelled))
    assert again.card["training"] == model.card["training"]
    assert model.card["training"]["labels"] == [f"class {i}" for i in range(6)]
    assert not any(module.training for module in again.modules())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_same_seed_same_weights_and_the_global_generator_is_left_alone(labelled, viewing, model):
    before = torch.get_rng_state()
    again = train_metric(labelled[viewing.train], **SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_checkpoint_of_other_trials_is_not_continued(labelled, viewing, tmp_path):
    few = SMALL | {"n_epochs": 2, "checkpoint": tmp_path / "c.safetensors"}
    train_metric(labelled[viewing.train], **few)
    with pytest.raises(ValueError, match="identity"):
        train_metric(labelled[viewing.test], **few)


def edit_card(**changes):
    def edit(folder):
        card = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(card | changes))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edit_card(n_dims=9), "size mismatch"),
        (edit_card(format="brainedit joint model 2"), "it is a 'brainedit joint model 2', not a"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "its weights are not those"),
        (lambda f: (f / "model.json").write_text("{"), "Expecting"),
    ],
)
def test_a_damaged_model_is_told(model, tmp_path, damage, message):
    model.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(
        ValueError, match=r"The model in .* cannot be read \(.*; train or copy it again"
    ) as told:
        load_metric(tmp_path)
    assert message in str(told.value)


def test_no_model_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no model in .*nothing;"):
        load_metric(tmp_path / "nothing")


@pytest.mark.parametrize("numbers", [[40, 40, 40], [3, 17, 2, 90, 5], [2, 2], [300, 2]])
def test_an_epoch_holds_every_trial_and_several_of_a_label(numbers):
    label = np.random.default_rng(0).permutation(np.repeat(np.arange(len(numbers)), numbers))
    eeg = torch.arange(len(label)).float()[:, None, None]
    batches = _Batches(eeg, label, batch_size=24, n_per_label=4)
    drawn = list(batches(torch.Generator().manual_seed(0)))
    trials = torch.cat([batch[0].ravel() for batch in drawn]).long()
    assert set(trials.tolist()) == set(range(len(label)))
    assert len(trials) == len(label) or max(numbers) > 0.7 * sum(numbers)
    for batch, own in drawn:
        assert torch.equal(own, torch.from_numpy(label)[batch.ravel().long()])
        counts = Counter(own.tolist())
        assert len(counts) > 1
        assert min(counts.values()) >= 2
        assert len(own) <= 6 * (4 + 2)  # groups of a label may be half as large again
    other = torch.cat([batch[0].ravel() for batch in batches(torch.Generator().manual_seed(1))]).long()
    assert other.tolist() != trials.tolist() or len(label) < 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": "category"}, "needs 'category' for every trial; the epochs have label"),
        ({"loss": "tripet"}, r"Unknown metric loss 'tripet'\. Did you mean 'triplet'"),
        ({"miner": "semihard"}, r"Unknown miner 'semihard'\. Did you mean 'semi_hard'"),
        ({"loss": "multi_similarity", "miner": "semi_hard"}, "Unknown miner 'semi_hard'"),
        ({"eeg_encoder": "lsmt"}, r"Unknown EEG encoder 'lsmt'\. Did you mean 'lstm'"),
        ({"n_per_label": 1}, "got 1 of a label in a batch of 24"),
        ({"n_per_label": 24}, "got 24 of a label in a batch of 24"),
    ],
)
def test_unknown_settings_are_told(labelled, settings, message):
    with pytest.raises(ValueError, match=message):
        train_metric(labelled, **SMALL | settings)


def test_labels_that_cannot_be_learned_are_told(labelled):
    one = labelled[labelled.metadata["label"] == "class 2"]
    with pytest.raises(ValueError, match="two or more labels; all trials are 'class 2'"):
        train_metric(one, **SMALL)
    single = labelled.copy()
    single.metadata.loc[0, "label"] = "alone"
    with pytest.raises(ValueError, match="two or more trials of each label; 'alone' has one"):
        train_metric(single, **SMALL)
    single.metadata.loc[0, "label"] = None
    with pytest.raises(ValueError, match="needs 'label' for every trial"):
        train_metric(single, **SMALL)


def test_simulated_eeg_is_called_so(labelled, model):
    simulated = labelled.copy()
    simulated.metadata["simulated"] = True
    assert train_metric(simulated, **SMALL | {"n_epochs": 1}).card["training"]["simulated"]
    assert not model.card["training"]["simulated"]
