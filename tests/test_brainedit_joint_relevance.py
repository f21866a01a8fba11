"""A joint model as a classifier of relevance: a planted difference, log-odds, and trials that it has seen."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from brainedit.eeg_input import EEGInput
from brainedit.encoders.image import ReadyFeatures
from brainedit.evaluation import auc
from brainedit.joint import assemble
from brainedit.joint_relevance import joint_scorer
from brainedit.relevance import score_trials

CARD = {
    "eeg_encoder": "linear",
    "n_dims": 12,
    "encoder_options": {},
    "layer_sizes": [5],
    "normalize": "none",
    "subjects": [],
    "feature_dropout": 0.0,
    "scale": 1.0,
    "image_encoder": {"name": "features"},
    "training": {"stimuli": ["shown in training.png"]},
}
QUERY = "kind == 'target'"


def searching(array_epochs, d_prime=0.0, *, n=240, n_runs=4, seed=0):
    """Trials of 6 channels x 8 samples of white noise; targets differ by d_prime along a fixed pattern."""
    rng = np.random.default_rng(seed)
    target = rng.permutation(np.arange(n) % 4 == 0)
    data = rng.standard_normal((n, 6, 8))
    pattern = np.random.default_rng(9).standard_normal((6, 8))
    data += d_prime * target[:, None, None] * pattern / np.linalg.norm(pattern)
    metadata = {
        "stimulus": [f"face{i % 60}.png" for i in range(n)],
        "kind": np.where(target, "target", "other"),
        "run": np.arange(n) * n_runs // n,
    }
    return array_epochs(1e-5 * data, metadata, sfreq=10.0, highpass=0.0, lowpass=5.0)


def model_of(epochs, *, n_dims=48, normalize="none"):
    """A JointModel whose phi is the whitened EEG, rotated (n_dims 48), or random projections of it."""
    card = CARD | {"n_dims": n_dims, "normalize": normalize}
    eeg_input = EEGInput.fit(epochs, epochs.metadata["stimulus"].to_numpy(), sfreq=10.0, tmax=0.8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return assemble(card, eeg_input, ReadyFeatures(5)).eval()


@pytest.fixture(scope="module")
def model(array_epochs):
    return model_of(searching(array_epochs, n=400, seed=50))


def scores(model, epochs, **settings):
    return score_trials(epochs, target=QUERY, method=joint_scorer(model), **settings)


def auc_of(model, epochs):
    table = scores(model, epochs)
    return auc(table["target"].to_numpy(), table["probability"].to_numpy())


def test_a_planted_difference_is_found_and_noise_is_not(model, array_epochs):
    found = auc_of(model, searching(array_epochs, 3.0))
    assert 0.85 < found < norm.cdf(3 / np.sqrt(2))  # the best that can be done
    noise = [auc_of(model, searching(array_epochs, seed=seed)) for seed in range(6)]
    assert np.mean(noise) == pytest.approx(0.5, abs=0.04)  # one has a standard deviation of .04


class Samples:
    """A model whose embeddings are the EEG itself, in units of its noise."""

    def check_unseen(self, epochs):
        pass

    def embed_epochs(self, epochs, *, subject=None):
        return torch.as_tensor(1e5 * epochs.get_data()).flatten(1)


def test_values_are_log_odds_at_equal_priors(array_epochs):
    epochs = searching(array_epochs, 2.0, n=4000)
    targets = (epochs.metadata["kind"] == "target").to_numpy()
    values = joint_scorer(Samples())(epochs[:2000], targets[:2000], epochs[2000:])
    # of two Gaussians d' apart, the log-odds have means of d' ** 2 / 2 on either side of 0, however many are targets
    assert values[targets[2000:]].mean() == pytest.approx(2.0, abs=0.3)
    assert values[~targets[2000:]].mean() == pytest.approx(-2.0, abs=0.3)


@pytest.mark.parametrize("normalize", ["both", "image", "distance"])
def test_every_kind_of_embedding_is_read(array_epochs, normalize):
    epochs = searching(array_epochs, 4.0)
    model = model_of(searching(array_epochs, n=400, seed=50), n_dims=24, normalize=normalize)
    assert auc_of(model, epochs) > 0.75


def test_it_serves_calibration_and_schemes(model, array_epochs):
    epochs = searching(array_epochs, 3.0)
    table = scores(model, epochs, scheme="stimulus", calibrate="platt", center=False)
    assert table["fold"].nunique() == 10
    assert table.groupby("target")["probability"].mean().diff().iloc[1] > 0.3


def test_trials_are_embedded_twice_at_most(model, array_epochs, monkeypatch):
    embedded = []
    embed = type(model).embed_epochs
    monkeypatch.setattr(
        type(model),
        "embed_epochs",
        lambda self, epochs, **kw: (embedded.append(len(epochs)), embed(self, epochs, **kw))[1],
    )
    epochs = searching(array_epochs, 3.0, n_runs=8)
    once = scores(model, epochs)
    assert sum(embedded) == 2 * len(epochs)  # with metadata, and without
    alone = searching(array_epochs, 3.0, n_runs=8)  # what was kept is what is computed
    np.testing.assert_array_equal(scores(model, alone)["probability"], once["probability"])


def test_trials_and_pictures_that_trained_the_model_are_refused(array_epochs):
    epochs = searching(array_epochs, 3.0)
    model = model_of(searching(array_epochs, n=400, seed=50))
    model.sketches = torch.from_numpy(model.eeg_input.sketch(model.prepare_eeg(epochs[200:210])))
    with pytest.raises(ValueError, match="10 of these 120 trials trained the model"):
        scores(model, epochs[60:])
    scores(model, epochs[:180])
    test = epochs[180:]
    test.metadata = None
    with pytest.raises(ValueError, match="10 of these 60 trials"):  # also where they are to be scored only
        joint_scorer(model)(epochs[:180], (epochs.metadata["kind"] == "target").to_numpy()[:180], test)
    known = epochs[:180]
    known.metadata.loc[known.metadata.index[7], "stimulus"] = "shown in training.png"
    with pytest.raises(ValueError, match=r"'shown in training\.png' and 0 more of these pictures trained"):
        scores(model, known)


def test_a_person_whom_the_model_does_not_know(model, array_epochs):
    with pytest.raises(ValueError, match="leave subject out"):
        score_trials(searching(array_epochs), target=QUERY, method=joint_scorer(model, subject="sub-1"))
