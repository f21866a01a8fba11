"""A direction from EEG embeddings: planted truths, what noise and drift must not give, and refusals."""

import mne
import numpy as np
import pandas as pd
import pytest
import torch

from brainedit.directions import prior_scale
from brainedit.embedding_direction import embedding_direction
from brainedit.generators.stylegan2 import StyleGAN2

N = 16  # z
GENERATOR = StyleGAN2(z_dim=N, w_dim=6, img_resolution=8)
QUICK = {"target": "label == 'target'", "space": "z", "n_splits": 5, "n_permutations": 99}


class MeanOverTime:
    """What the direction asks of a JointModel; a trial's embedding is its mean over time."""

    def __init__(self, *, seen=False):
        self.seen, self.subject = seen, None

    def check_unseen(self, epochs):
        if self.seen:
            raise ValueError("12 of these trials trained the model; keep some back.")

    def embed_epochs(self, epochs, *, subject=None):
        self.subject = subject
        return torch.as_tensor(epochs.get_data(copy=False)).mean(2)


def looking(n=200, *, repeats=2, n_channels=8, relevance=0.0, content=0.0, n_runs=1, seed=0):
    """Epochs, latents and the true direction; pictures on one side of it are targets.

    relevance : of a target in the first channel, content : of a picture's latent in all, in SDs of a trial's noise
    """
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(N)
    truth /= np.linalg.norm(truth)
    z = rng.standard_normal((n, N))
    target = z @ truth > 0.3
    shown = rng.permutation(np.tile(np.arange(n), repeats))
    data = rng.standard_normal((len(shown), n_channels))
    data[:, 0] += relevance * target[shown]
    data += content * (z @ rng.standard_normal((N, n_channels)) / np.sqrt(N))[shown]
    names = np.array([f"face{i}.png" for i in range(n)])
    metadata = {"stimulus": names[shown], "label": np.where(target, "target", "other")[shown]}
    if n_runs > 1:
        metadata["run"] = np.arange(len(shown)) % n_runs
    latents = pd.DataFrame(z, index=names).sample(frac=1, random_state=1)
    return to_epochs(data, metadata), latents, truth


def to_epochs(data, metadata):
    info = mne.create_info(data.shape[1], 100.0, "eeg")
    volts = np.repeat(data[..., None], 3, -1)
    return mne.EpochsArray(volts, info, metadata=pd.DataFrame(metadata), verbose="error")


def found_in(epochs, latents, *, model=None, generator=GENERATOR, **settings):
    return embedding_direction(model or MeanOverTime(), generator, epochs, latents, **QUICK | settings)


def labels_say(epochs, latents):
    """Unit difference (N,) between the mean latents of targets and others."""
    shown = epochs.metadata.drop_duplicates("stimulus").set_index("stimulus")["label"] == "target"
    difference = latents.loc[shown.index[shown]].mean() - latents.loc[shown.index[~shown]].mean()
    return (difference / np.linalg.norm(difference)).to_numpy()


@pytest.mark.parametrize("signal", [{"relevance": 3.0}, {"content": 2.0, "n_channels": 32}])
def test_a_planted_direction_is_found(signal):
    epochs, latents, truth = looking(400, **signal)
    direction = found_in(epochs, latents, n_splits=20)
    assert direction.vector @ truth > 0.8
    found = direction.reliability
    assert found["p"] == pytest.approx(0.01)
    assert found["strength"] > 2 * found["null_strength"]
    assert found["split_half_full"] > 0.5
    low, high = found["null_band"]
    assert low < 0 < high < 1
    assert direction.scale == pytest.approx(1.0, abs=0.03)
    origin = direction.provenance
    assert (origin["n"], origin["n_trials"], origin["method"]) == (400, 800, "embedding")
    assert origin["n_targets"] == (latents.to_numpy() @ truth > 0.3).sum()
    assert origin["generator_sha256"] == GENERATOR.sha256


def test_it_is_what_is_predicted_and_not_what_the_labels_say():
    """Of EEG that tells one axis of the latents, the direction is along that axis alone."""
    epochs, latents, _ = looking(300)
    axis = np.eye(N)[3]
    told = latents.loc[epochs.metadata["stimulus"], 3].to_numpy()
    direction = found_in(
        to_epochs(told[:, None] + 0.1 * epochs.get_data()[:, :, 0], epochs.metadata), latents
    )
    assert abs(direction.vector @ axis) > 0.95
    assert abs(labels_say(epochs, latents) @ axis) < 0.8


@pytest.mark.parametrize("n_runs", [1, 12])
def test_noise_gives_nothing_of_the_labels(n_runs):
    """As many embedding dimensions as pictures: inside the fit the predictions would be the latents themselves."""
    found, cosines = [], []
    for seed in range(25):
        epochs, latents, _ = looking(48, repeats=1, n_channels=48, n_runs=n_runs, seed=seed)
        found.append(found_in(epochs, latents, seed=seed, n_splits=2))
        cosines.append(found[-1].vector @ labels_say(epochs, latents))
    # a random cosine has standard deviation .25, a mean of 25 of them .05
    assert abs(np.mean(cosines)) < 0.2
    figures = pd.DataFrame([direction.reliability for direction in found])
    assert 0.3 < figures["p"].mean() < 0.7
    assert (figures["p"] < 0.05).mean() < 0.2
    assert abs(figures["split_half"].mean()) < 0.15
    assert figures["explained"].max() < 0.05


def test_p_is_uniform_where_the_eeg_tells_pictures_but_targets_mean_nothing():
    p = []
    for seed in range(30):
        epochs, latents, _ = looking(40, content=2.0, seed=seed)
        names = epochs.metadata["stimulus"].unique()
        chosen = np.random.default_rng(seed).permutation(names)[:15]
        epochs.metadata["label"] = np.where(epochs.metadata["stimulus"].isin(chosen), "target", "other")
        direction = found_in(epochs, latents, n_splits=1)
        assert direction.reliability["explained"] > 0.05
        p.append(direction.reliability["p"])
    assert 0.35 < np.mean(p) < 0.65
    assert (np.array(p) < 0.1).mean() < 0.3


def test_drift_between_runs_changes_nothing():
    epochs, latents, _ = looking(relevance=1.0, n_runs=4)
    drift = np.random.default_rng(1).standard_normal((4, 8)) * 100
    drifted = to_epochs(epochs.get_data()[:, :, 0] + drift[epochs.metadata["run"]], epochs.metadata)
    a, b = (found_in(part, latents) for part in (epochs, drifted))
    np.testing.assert_allclose(a.vector, b.vector, atol=1e-6)
    assert a.reliability["strength"] == pytest.approx(b.reliability["strength"])


def test_runs_that_hold_more_targets_are_no_signal():
    """The EEG tells the run, and the run tells the kind of picture: p must not be small."""
    p = []
    for seed in range(20):
        epochs, latents, _ = looking(60, repeats=1, seed=seed)
        rng = np.random.default_rng(seed)
        target = (epochs.metadata["label"] == "target").to_numpy()
        run = np.where(rng.random(60) < 0.8, target, ~target).astype(int)
        data = epochs.get_data()[:, :, 0] + 5 * run[:, None]
        direction = found_in(to_epochs(data, epochs.metadata.assign(run=run)), latents, n_splits=1)
        assert direction.reliability["permuted_within"] == "run"
        p.append(direction.reliability["p"])
    assert np.mean(p) > 0.3


def test_pictures_are_the_unit_however_often_they_are_shown():
    """Repeats of the same responses add nothing."""
    epochs, latents, _ = looking(60, repeats=1, relevance=1.0)
    often = to_epochs(
        np.tile(epochs.get_data()[:, :, 0], (20, 1)), pd.concat([epochs.metadata] * 20, ignore_index=True)
    )
    a, b = (found_in(part, latents) for part in (epochs, often))
    np.testing.assert_allclose(a.vector, b.vector, atol=1e-9)
    for figure in ("strength", "null_strength", "p", "explained", "split_half"):
        assert a.reliability[figure] == pytest.approx(b.reliability[figure])
    assert (a.provenance["n"], b.provenance["n"], b.provenance["n_trials"]) == (60, 60, 1200)


def test_latents_are_joined_by_name_and_others_are_left_out():
    epochs, latents, _ = looking(60, relevance=2.0)
    others = pd.DataFrame(np.full((3, N), 99.0), index=["x", "y", "z"])
    a = found_in(epochs, latents)
    b = found_in(epochs, pd.concat([others, latents.iloc[::-1]]))
    np.testing.assert_allclose(a.vector, b.vector)


def test_layers_of_w_plus_and_persons_are_passed_on():
    epochs, latents, _ = looking(60, relevance=2.0)
    rng = np.random.default_rng(0)
    w = rng.standard_normal((60, 6))
    layered = pd.DataFrame(np.hstack([w, 0 * w, 2 * w, 0 * w]), index=latents.index)
    model = MeanOverTime()
    direction = found_in(epochs, layered, model=model, space="w+", subject="sub-3")
    assert direction.vector.shape == (4, 6)
    np.testing.assert_allclose(direction.vector[2], 2 * direction.vector[0], atol=1e-9)
    assert not direction.vector[[1, 3]].any()
    assert direction.scale == pytest.approx(prior_scale(GENERATOR, direction.vector, "w+"))
    assert model.subject == "sub-3"


def test_seed_alone_decides_chance():
    epochs, latents, _ = looking(60, relevance=1.0)
    a, b, c = (found_in(epochs, latents, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.vector, b.vector)
    assert a.reliability == b.reliability
    assert a.reliability["null_strength"] != c.reliability["null_strength"]


def test_trials_that_trained_the_model_are_refused_before_anything_else():
    with pytest.raises(ValueError, match="12 of these trials trained the model"):
        found_in(None, None, model=MeanOverTime(seen=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "label == 'nothing'"}, "is true for 0 of 80 trials"),
        ({"space": "x"}, "has no space 'x'"),
        ({"space": "w"}, r"Latents of shape \(6,\) are needed; these have 16 numbers"),
        ({"n_permutations": 9}, "10 or more permutations, .* got 9, 5 and 5"),
        ({"n_folds": 1}, "2 or more folds; got 99, 5 and 1"),
        ({"target": "stimulus in ('face0.png', 'face1.png')"}, "6 or more pictures of each kind; 2 of 40"),
    ],
)
def test_requests_that_make_no_sense(settings, message):
    epochs, latents, _ = looking(40)
    with pytest.raises(ValueError, match=message):
        found_in(epochs, latents, **settings)


def test_tables_that_do_not_fit_are_refused():
    epochs, latents, _ = looking(40)
    for change, message in [
        (
            latents.drop(["face3.png", "face9.png"]),
            "'face[39].png' and 1 more pictures that were shown have no",
        ),
        (pd.concat([latents, latents.loc[["face3.png"]]]), "'face3.png' comes more than once"),
        (latents.where(latents.index.to_series() != "face7.png"), "finite; 'face7.png' and 0 more"),
    ]:
        with pytest.raises(ValueError, match=message):
            found_in(epochs, change)
    twofold = epochs.copy()
    own = twofold.metadata.index[twofold.metadata["stimulus"] == "face5.png"]
    twofold.metadata.loc[own, "label"] = ["target", "other"]
    with pytest.raises(
        ValueError, match=r"'face5\.png' and 0 more pictures are targets in some trials and not"
    ):
        found_in(twofold, latents)
    unnamed = epochs.copy()
    unnamed.metadata = unnamed.metadata.drop(columns="stimulus")
    with pytest.raises(ValueError, match="Need the 'stimulus' of every trial; the metadata have label"):
        found_in(unnamed, latents)
    broken = epochs.copy()
    broken._data[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity for some EEG embeddings"):
        found_in(broken, latents)
