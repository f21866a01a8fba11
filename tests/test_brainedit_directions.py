"""Directions: planted truths, closed forms against scikit-learn, controls on noise, files and refusals."""

import pickle
import subprocess
import sys
import time

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from brainedit.directions import (
    Direction,
    brain_direction,
    compatibility_direction,
    prior_scale,
    reliability,
)
from brainedit.generators.base import Generator
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.slopes import METHODS, MeanDifference, Ridge


def faces(n, d, *, auc=None, seed=0):
    """Latents, relevance and the true direction; relevance is the label itself where no AUC is given."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, d))
    truth = rng.standard_normal(d)
    truth /= np.linalg.norm(truth)
    label = np.sign(z @ truth)
    relevance = (label + 1) / 2
    if auc is not None:
        d_prime = np.sqrt(2) * norm.ppf(auc)
        relevance = 1 / (1 + np.exp(-(rng.standard_normal(n) + label * d_prime / 2)))
    stimuli = [f"face{i}.png" for i in range(n)]
    return pd.DataFrame(z, index=stimuli), pd.Series(relevance, index=stimuli), truth


def mean_cosine(n_seeds=20, *, method="ridge", auc=None, shuffled=False):
    cosines = []
    for seed in range(n_seeds):
        latents, relevance, truth = faces(190, 512, auc=auc, seed=seed)
        if shuffled:
            relevance[:] = np.random.default_rng(seed).permutation(relevance)
        cosines.append(brain_direction(latents, relevance, space="z", method=method).vector @ truth)
    return np.mean(cosines)


def test_planning_table_of_190_pictures():
    assert mean_cosine(auc=0.79) == pytest.approx(0.24, abs=0.02)
    assert mean_cosine(auc=0.79, method="mean_difference") == pytest.approx(0.247, abs=0.02)
    assert mean_cosine() == pytest.approx(0.464, abs=0.02)
    # 20 cosines of standard deviation 1 / sqrt(512) each
    assert abs(mean_cosine(auc=0.79, shuffled=True)) < 3 / np.sqrt(512 * 20)
    assert mean_cosine(10, auc=0.79, method="svr") == pytest.approx(0.226, abs=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_direction_points_to_higher_relevance(method):
    latents, relevance, truth = faces(400, 5, auc=0.9)
    direction = brain_direction(latents * 3, relevance, space="z", method=method)
    assert direction.vector @ truth > 0.95
    assert direction.scale == pytest.approx(3.0, rel=0.1)
    assert brain_direction(latents, 1 - relevance, space="z", method=method).vector @ truth < -0.95


def test_join_is_by_stimulus_not_by_position():
    latents, relevance, _ = faces(50, 5)
    one = brain_direction(latents, relevance, space="z")
    two = brain_direction(latents, relevance.sample(frac=1, random_state=1), space="z")
    np.testing.assert_allclose(one.vector, two.vector)


@pytest.mark.parametrize("shape", [(40, 15), (20, 33)])
def test_ridge_equals_scikit_learn_and_its_leave_one_out(shape):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(shape), rng.standard_normal(shape[0])
    x, y = x - x.mean(0), y - y.mean()
    ours = Ridge(x)
    assert ours.alpha == pytest.approx(shape[1] * x.var(axis=0).mean())
    theirs = SklearnRidge(alpha=ours.alpha)
    np.testing.assert_allclose(ours.coefficients(y), theirs.fit(x, y).coef_, rtol=1e-8)
    left_out = cross_val_predict(theirs, x, y, cv=LeaveOneOut())
    np.testing.assert_allclose(ours.held_out(y[:, None])[:, 0], left_out, rtol=1e-8)


def test_mean_difference_leaves_one_out_exactly():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), rng.standard_normal(30)
    x, y = x - x.mean(0), y - y.mean()
    expected = []
    for i in range(30):
        rest = np.arange(30) != i
        slope = (x[rest] - x[rest].mean(0)).T @ (y[rest] - y[rest].mean())
        expected.append((x[i] - x[rest].mean(0)) @ slope)
    found = MeanDifference(x).held_out(y[:, None])[:, 0]
    np.testing.assert_allclose(found * 30 / 29, expected, rtol=1e-8)


def test_scale_is_that_of_the_generators_prior():
    generator = StyleGAN2(z_dim=8, w_dim=6, img_resolution=8).requires_grad_(False)
    w = generator.sample(200, space="w", seed=9).numpy()
    relevance = pd.Series(w[:, 0])
    direction = brain_direction(pd.DataFrame(w), relevance, space="w", generator=generator)
    prior = generator.sample(50_000, space="w", seed=5).double().numpy()
    assert direction.scale == pytest.approx((prior @ direction.vector).std(), rel=0.03)
    assert direction.provenance["generator_sha256"] == generator.sha256
    w_plus = pd.DataFrame(np.tile(w, (1, generator.n_layers)))
    everywhere = brain_direction(w_plus, relevance, space="w+", generator=generator)
    assert everywhere.vector.shape == (4, 6)
    assert everywhere.scale == pytest.approx((prior @ everywhere.vector.sum(0)).std(), rel=0.03)
    with pytest.raises(ValueError, match=r"latents \(8,\) in 'z'; these have 6"):
        brain_direction(pd.DataFrame(w), relevance, space="z", generator=generator)
    with pytest.raises(ValueError, match=r"'w\+' needs its generator"):
        brain_direction(w_plus, relevance, space="w+")


def test_bad_joins_are_refused():
    latents, relevance, _ = faces(20, 5)
    for change, message in [
        (lambda x, y: (x, y[3:]), "relevance for every latent; 'face0.png' and 2 more have none"),
        (lambda x, y: (x[2:], y), "a latent for every relevance; 'face0.png' and 1 more have none"),
        (lambda x, y: (x[:9], y[:9]), "10 or more images for a direction; got 9"),
        (lambda x, y: (x, y * 0 + 0.5), r"Relevance is 0\.5 for every image"),
        (
            lambda x, y: (x, y.where(y.index != "face4.png")),
            "relevance must be finite; 'face4.png' and 0 more",
        ),
        (lambda x, y: (x.replace(x.iloc[7, 2], np.inf), y), "latents must be finite; 'face7.png'"),
        (lambda x, y: (pd.concat([x, x[:1]]), y), "'face0.png' comes more than once in the latents"),
        (lambda x, y: (x, pd.concat([y, y[1:2]])), "'face1.png' comes more than once in the relevance"),
    ]:
        with pytest.raises(ValueError, match=message):
            brain_direction(*change(latents, relevance), space="z")
    with pytest.raises(ValueError, match=r"'rigde'.*Did you mean 'ridge'"):
        brain_direction(latents, relevance, space="z", method="rigde")
    with pytest.raises(ValueError, match="svr found no direction"):
        brain_direction(latents, 0.5 + relevance / 100, space="z", method="svr")
    with pytest.raises(ValueError, match="its slope is 0"):
        brain_direction(latents * 0, relevance, space="z", method="mean_difference")


@pytest.mark.parametrize("method", ["ridge", "mean_difference"])
def test_reliability_tells_truth_from_noise(method):
    latents, relevance, truth = faces(1000, 40, auc=0.8)
    found = reliability(latents, relevance, method=method, n_permutations=400, n_splits=50)
    assert found.p == pytest.approx(1 / 401)
    assert found.n == 1000
    cosine = brain_direction(latents, relevance, space="z", method=method).vector @ truth
    assert np.sqrt(found.split_half_full) == pytest.approx(cosine, abs=0.05)
    shuffled = pd.Series(np.random.default_rng(0).permutation(relevance), index=relevance.index)
    noise = reliability(latents, shuffled, method=method, n_permutations=400, n_splits=50)
    assert noise.p > 0.05
    low, high = noise.null_band
    assert low < noise.split_half < high
    # a random direction's cosine has standard deviation 1 / sqrt(n_dims)
    assert noise.null_band == pytest.approx((-1.96 / np.sqrt(40), 1.96 / np.sqrt(40)), abs=0.06)


def test_p_is_uniform_under_the_null():
    p = []
    for seed in range(60):
        latents, relevance, _ = faces(30, 8, auc=0.5, seed=seed)
        p.append(reliability(latents, relevance, n_permutations=99, n_splits=1).p)
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) <= 0.1) < 0.25


@pytest.mark.parametrize("method", ["svr", "logistic"])
def test_refitted_methods_have_their_reliability(method):
    latents, relevance, _ = faces(80, 6, auc=0.9)
    found = reliability(latents, relevance, method=method, n_permutations=19, n_splits=5)
    assert found.p == pytest.approx(0.05)
    assert found.split_half > 0.5


def test_a_thousand_permutations_take_matrix_products_only():
    latents, relevance, _ = faces(2000, 512, auc=0.79)
    start = time.process_time()
    found = reliability(latents, relevance, n_permutations=1000, n_splits=1)
    assert time.process_time() - start < 8  # .5 s on a free core; refitting a thousand times takes over 30
    assert found.p == pytest.approx(1 / 1001)


def make(vector, space="w", scale=2.0, name="a"):
    return Direction(np.asarray(vector) / np.linalg.norm(vector), space, scale, name)


def test_projecting_out_other_directions():
    rng = np.random.default_rng(0)
    a, b, c = (make(rng.standard_normal(10), name=name) for name in "abc")
    rest = a.orthogonal_to(b, c, make(b.vector + 1e-12, name="b2"), make(-c.vector, name="c2"))
    assert abs(rest.vector @ b.vector) < 1e-12
    assert abs(rest.vector @ c.vector) < 1e-12
    conditions = np.stack([b.vector, c.vector], axis=1)
    expected = a.vector - conditions @ np.linalg.lstsq(conditions, a.vector, rcond=None)[0]
    np.testing.assert_allclose(rest.vector, expected / np.linalg.norm(expected), atol=1e-10)
    assert (rest.scale, rest.provenance["scale_from"]) == (2.0, "kept")
    with pytest.raises(ValueError, match="Nothing of direction 'a' is left when 'd', 'b'"):
        a.orthogonal_to(make(a.vector + b.vector, name="d"), b)
    with pytest.raises(ValueError, match=r"'z' lives in 'z' \(3,\), 'a' in 'w' \(10,\)"):
        a.orthogonal_to(make(np.ones(3), "z", name="z"))


def test_direction_survives_its_file(tmp_path):
    direction = Direction(np.eye(4)[1], "z", 1.25, "smile", {"method": "ridge", "n": 190}, {"p": 0.01})
    again = Direction.load(direction.save(tmp_path / "smile.safetensors"))
    assert np.array_equal(again.vector, direction.vector)
    assert (again.space, again.scale, again.name) == ("z", 1.25, "smile")
    assert (again.provenance, again.reliability) == (direction.provenance, direction.reliability)
    with pytest.raises(FileNotFoundError, match="nothing"):
        Direction.load(tmp_path / "nothing")
    content = (tmp_path / "smile.safetensors").read_bytes()
    for bad in (content[:-3], pickle.dumps({}), content.replace(b'\\"z\\"', b'\\"q\\"'), b""):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(ValueError, match="bad is damaged or no direction"):
            Direction.load(tmp_path / "bad")


def test_direction_must_be_a_unit_vector_in_a_known_space():
    for args, message in [
        ((np.ones(4), "z", 1.0), "length 1; this one has 2"),
        ((np.full(4, np.nan), "z", 1.0), "length 1; this one has nan"),
        ((np.eye(4)[0], "x", 1.0), "space 'x'"),
        ((np.eye(4)[0], "z", 0.0), r"positive number; got 0\.0"),
        ((np.eye(2)[:1], "z", 1.0), r"cannot have the shape \(1, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            Direction(*args)
    with pytest.raises(ValueError, match="read-only"):
        Direction(np.eye(4)[0], "z", 1.0).vector[0] = 5


class LinearPictures(Generator):
    """z -> picture of 4 x 4 pixels, a smooth map whose Jacobian never vanishes."""

    name, spaces, z_dim, image_size, licence = "pictures", ("z",), 12, 4, "None."

    def __init__(self, *, bend=0.3):
        super().__init__()
        self.bend = bend
        weight = torch.randn(48, 12, generator=torch.Generator().manual_seed(1)) / 40
        self.weight = torch.nn.Parameter(weight)

    def raw_images(self, latents, *, space, labels=None, noise="const"):
        x = self.check_latents(latents, space=space) @ self.weight.T
        return (x + self.bend * x**2).view(-1, 3, 4, 4)

    def style_weights(self):
        return (self.weight.detach(),)


class LinearModel:
    """What the direction asks of a JointModel; EEG is embedded as it is, pictures linearly."""

    def __init__(self, *, seen=False):
        self.seen = seen
        self.weight = torch.randn(48, 6, generator=torch.Generator().manual_seed(2))

    def check_unseen(self, epochs):
        if self.seen:
            raise ValueError("12 of these trials trained the model; keep some back.")

    def prepare_eeg(self, epochs):
        return torch.as_tensor(epochs.get_data(copy=False), dtype=torch.float32)

    def embed_eeg(self, eeg):
        return eeg.mean(2)

    def resize_image(self, images):
        return images

    def embed_image(self, images):
        return images.flatten(1) @ self.weight


def trials(signal, *, n=400, seed=0):
    """Epochs with 6 channels: noise, plus `signal` (6,) in target trials."""
    rng = np.random.default_rng(seed)
    labels = np.where(np.arange(n) % 4 == 0, "target", "other")
    data = rng.standard_normal((n, 6, 5)) + rng.standard_normal((n, 6, 1))
    data[labels == "target"] += np.asarray(signal)[:, None]
    info = mne.create_info(6, 100.0, "eeg")
    metadata = pd.DataFrame({"label": labels, "run": np.arange(n) % 5})
    return mne.EpochsArray(data, info, metadata=metadata, verbose="error")


def compatible(epochs, *, model=None, generator=None, **settings):
    settings = {"target": "label == 'target'", "space": "z", "n_latents": 2000, **settings}
    return compatibility_direction(model or LinearModel(), generator or LinearPictures(), epochs, **settings)


def test_compatibility_direction_finds_a_planted_truth():
    signal = np.array([1.0, -0.5, 0.0, 0.8, 0.0, 0.0])
    model, generator = LinearModel(), LinearPictures(bend=0.0)
    direction = compatible(trials(signal), generator=generator)
    truth = generator.weight.detach().numpy().T @ model.weight.numpy() @ signal
    assert direction.vector @ truth / np.linalg.norm(truth) > 0.95
    assert direction.reliability["p"] == pytest.approx(1 / 201)
    assert direction.reliability["split_half_full"] > 0.8
    assert direction.reliability["permuted_within"] == "run"
    assert direction.provenance["n_targets"] == 100
    assert direction.scale == pytest.approx(1.0, abs=0.03)
    # without noise in pictures, the SD of dF over the prior is half the length of its slope (0..1 from -1..1)
    slope = 0.5 * generator.weight.detach().numpy().T @ model.weight.numpy() @ signal
    assert direction.reliability["strength"] == pytest.approx(np.linalg.norm(slope), rel=0.3)


def test_compatibility_direction_of_noise_is_within_the_null():
    found = [compatible(trials(np.zeros(6), seed=seed), n_latents=300, n_gradients=0) for seed in range(12)]
    p = [direction.reliability["p"] for direction in found]
    assert np.mean(np.array(p) < 0.05) < 0.3
    assert 0.25 < np.mean(p) < 0.75
    assert abs(np.mean([direction.reliability["split_half"] for direction in found])) < 0.3
    # directions of independent noise have nothing in common
    cosines = [a.vector @ b.vector for i, a in enumerate(found) for b in found[:i]]
    assert abs(np.mean(cosines)) < 0.2
    assert found[0].reliability["gradient_cosine"] is None


def test_mean_gradient_agrees_by_steins_lemma():
    signal = np.array([1.0, -0.5, 0.0, 0.8, 0.0, 0.0])
    direction = compatible(trials(signal), generator=LinearPictures(bend=0.3), n_gradients=512)
    assert direction.reliability["gradient_cosine"] > 0.98


def test_trials_that_trained_the_model_are_refused_before_anything_else():
    with pytest.raises(ValueError, match="12 of these trials trained the model"):
        compatible(None, model=LinearModel(seen=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "label == 'nothing'"}, "is true for 0 of 40 trials; both kinds are needed"),
        ({"target": "colour == 1"}, "'colour == 1' cannot be asked of columns label, run"),
        ({"target": "run"}, "'run' cannot be asked .* not give true or false for each trial"),
        ({"target": "@pd"}, "'@' is not allowed in a query"),
        ({"space": "w+"}, "Look for the direction in 'w'"),
        ({"space": "w"}, "pictures has no space 'w'"),
        ({"n_latents": 5}, "10 or more latents and permutations; got 5 and 200"),
    ],
)
def test_compatibility_requests_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        compatible(trials(np.zeros(6), n=40), **settings)


def test_embeddings_with_nan_are_refused():
    epochs = trials(np.zeros(6), n=40)
    epochs._data[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity for some EEG embeddings"):
        compatible(epochs)


def test_prior_scale_of_z_is_1():
    assert prior_scale(LinearPictures(), np.eye(12)[0], "z") == pytest.approx(1.0, abs=0.03)


def test_public_names_stay_what_they_are():
    code = "import brainedit, brainedit.direction_reliability\n"
    code += "for name in brainedit.__all__ * 2:\n    assert callable(getattr(brainedit, name)), name\n"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_directions_of_two_generators_are_not_compared():
    one, other = (
        Direction(vector, "z", 1.0, "d", {"generator_sha256": 64 * sha})
        for vector, sha in zip(np.eye(2), "ab", strict=True)
    )
    with pytest.raises(ValueError, match="found in another generator"):
        one.orthogonal_to(other)
    with pytest.raises(ValueError, match="got list"):
        one.orthogonal_to([other])


@pytest.mark.parametrize(("latents", "relevance"), [(None, pd.Series([1.0])), (pd.DataFrame([[1.0]]), None)])
def test_latents_without_relevance_and_the_reverse_are_one_sentence(latents, relevance):
    with pytest.raises(ValueError, match="got None"):
        brain_direction(latents, relevance, space="z")
