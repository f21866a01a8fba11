"""Directions without brains: planted boundaries and axes, independent libraries, properties, refusals."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.svm import SVC

from brainedit.attributes import face_attributes
from brainedit.directions import prior_scale
from brainedit.generators.base import Generator
from brainedit.generators.load import load_generator
from brainedit.generators.pggan import PGGAN
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.latent_axes import (
    ganspace_directions,
    interfacegan_direction,
    scored_samples,
    sefa_directions,
)

N = 12
Q = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]  # its columns are the planted axes


class Planted(Generator):
    """w = units x z @ mixing.T; a picture of 2 x 2 pixels holds w (or z where there is no w) as it is."""

    name, image_size, licence = "planted", 2, "None."
    z_dim = N

    def __init__(self, *, mixing=None, units=1.0, sphere=False, lengths=False, weights=None):
        super().__init__()
        self.spaces, self.normalises_z = ("z",), sphere
        if mixing is not None:
            self.spaces, self.w_dim, self.n_layers = ("z", "w", "w+"), N, 3
            self.mixing = units * torch.as_tensor(mixing, dtype=torch.float32)
        self.lengths, self.weights = lengths, weights
        self.units = torch.nn.Parameter(torch.tensor(units))

    def map(self, z, *, labels=None):
        return z @ self.mixing.T

    def mean_w(self):
        return torch.zeros(N)

    def sample(self, n, *, space="z", seed=0, **settings):
        latents = super().sample(n, space=space, seed=seed, **settings)
        if self.lengths:
            latents = latents * 10 ** torch.linspace(-1, 1, n)[torch.randperm(n)][:, None]
        return latents

    def raw_images(self, latents, *, space, labels=None, noise="const"):
        x = latents / self.units
        if self.normalises_z and space == "z":
            x = x / x.norm(dim=1, keepdim=True) * N**0.5
        return (x * 0.01).view(-1, 3, 2, 2)

    def style_weights(self):
        return tuple(torch.as_tensor(weight, dtype=torch.float32) for weight in self.weights)


def along(axis):
    """A score that is the picture's own latent along an axis (N,)."""
    return lambda images: images.flatten(1) @ torch.as_tensor(axis, dtype=torch.float32)


def few_extremes(x):
    """-1 and 1 for a few, 0 for most."""
    return torch.where(x.abs() > 2.5, x.sign(), 0.0)


def boundary(generator=None, score=None, *, axis=Q[:, 0], space="z", n=4000, **settings):
    generator = generator or Planted()
    table, scores = scored_samples(generator, score or along(axis), space=space, n=n)
    return interfacegan_direction(table, scores, space=space, name="planted", generator=generator, **settings)


def labelled(n=60, n_dims=4, seed=0):
    """Latents of named stimuli, and labels 0 and 1 by the sign of the first dimension."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.standard_normal((n, n_dims)), index=[f"s{i}" for i in range(n)])
    return table, (table[0] > 0).astype(int)


def test_boundary_finds_a_planted_axis_and_says_how_well():
    found = boundary(share=0.1)
    assert found.vector @ Q[:, 0] > 0.97
    assert found.scale == pytest.approx(1.0, abs=0.03)
    assert found.reliability["accuracy_validation"] > 0.97
    assert 0.8 < found.reliability["accuracy_rest"] < found.reliability["accuracy_validation"]
    assert (found.reliability["n_validation"], found.reliability["n_rest"]) == (240, 3200)
    assert found.provenance["n_extremes"] == 800
    assert "no brain took part" in found.provenance["supervision"]
    assert boundary(axis=-Q[:, 0], share=0.1).vector @ Q[:, 0] < -0.97


def test_noise_scores_give_accuracies_at_chance():
    noise = torch.Generator().manual_seed(1)
    found = boundary(score=lambda images: torch.rand(len(images), generator=noise))
    # standard deviation of a share of 48 is .07, of 3,840 it is .008
    assert found.reliability["accuracy_validation"] == pytest.approx(0.5, abs=0.22)
    assert found.reliability["accuracy_rest"] == pytest.approx(0.5, abs=0.03)


def test_boundary_depends_on_the_order_of_scores_alone():
    one = boundary()
    skewed = boundary(score=lambda images: torch.exp(300 * along(Q[:, 0])(images)))
    np.testing.assert_allclose(one.vector, skewed.vector)
    assert one.reliability == skewed.reliability


def test_lengths_of_z_do_not_count_where_the_generator_ignores_them():
    one = boundary(Planted(sphere=True))
    other = boundary(Planted(sphere=True, lengths=True))  # .1 to 10 times as long
    assert one.vector @ other.vector > 0.9999


def test_units_of_w_do_not_count():
    one = boundary(Planted(mixing=np.eye(N)), space="w")
    small = boundary(Planted(mixing=np.eye(N), units=0.01), space="w")
    np.testing.assert_allclose(one.vector, small.vector, atol=1e-3)
    assert small.scale == pytest.approx(0.01 * one.scale, rel=1e-3)


def test_lengths_of_z_count_where_no_generator_is_known():
    table, scores = scored_samples(Planted(sphere=True, lengths=True), along(Q[:, 0]), space="z", n=4000)
    known, unknown = (
        interfacegan_direction(table, scores, space="z", generator=generator)
        for generator in (Planted(sphere=True), None)
    )
    assert known.vector @ Q[:, 0] > unknown.vector @ Q[:, 0]
    assert unknown.scale == pytest.approx((table.to_numpy() @ unknown.vector).std())
    assert unknown.provenance["scale_from"] == "latents"
    assert unknown.provenance["generator_sha256"] is None
    assert known.scale == pytest.approx(prior_scale(Planted(sphere=True), known.vector, "z"))
    assert known.provenance["scale_from"] == "prior"


def test_two_values_use_all_rows_of_both():
    table, labels = labelled(400)
    found = interfacegan_direction(table, labels, space="w")
    assert found.vector[0] > 0.95
    assert found.reliability["accuracy_rest"] is None
    assert found.reliability["n_rest"] == 0
    assert found.provenance["n_extremes"] == 400
    assert found.reliability["n_validation"] == sum(round(0.3 * (labels == kind).sum()) for kind in (0, 1))
    other = interfacegan_direction(table, labels * 5.0 - 2, space="w", share=0.3)  # any two values, any share
    np.testing.assert_allclose(other.vector, found.vector)
    np.testing.assert_allclose(interfacegan_direction(table, labels == 1, space="w").vector, found.vector)


def test_a_rare_label_weighs_as_much_as_a_common_one():
    rng = np.random.default_rng(0)
    labels = pd.Series([0] * 1000 + [1] * 60)
    table = pd.DataFrame(rng.standard_normal((1060, 3)))
    table[0] += 2 * labels
    found = interfacegan_direction(table, labels, space="z")
    # two spheres of unit variance a distance of 2 apart: the middle plane tells 84 % of either
    assert found.reliability["accuracy_validation"] == pytest.approx(0.84, abs=0.1)
    assert found.vector[0] > 0.9


def test_labels_are_joined_by_stimulus_not_by_row():
    table, labels = labelled(200)
    found = interfacegan_direction(table, labels, space="z")
    shuffled = labels.sample(frac=1, random_state=0)
    np.testing.assert_array_equal(interfacegan_direction(table, shuffled, space="z").vector, found.vector)


def test_a_boundary_equals_scikit_learn_on_what_it_fitted():
    table, labels = labelled(400, seed=1)
    found = interfacegan_direction(table, labels, space="z")
    normal = SVC(kernel="linear").fit(table.to_numpy(), labels).coef_[0]  # of all rows, not of seven tenths
    assert found.vector @ normal / np.linalg.norm(normal) > 0.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, y: (t, y.iloc[:-3]), "'s57' and 2 more have none"),
        (lambda t, y: (t.iloc[:-2], y), "'s58' and 1 more have none"),
        (lambda t, y: (t, pd.concat([y, y.iloc[:1]])), "'s0' comes more than once"),
        (lambda t, y: (t, y.where(y.index != "s4")), "'s4' and 0 more hold NaN"),
        (lambda t, y: (t, y * 0), "is 0 for every image"),
        (
            lambda t, y: (t, y.map({0: "neutral", 1: "smile"})),
            "Labels are numbers, .*; got '(smile|neutral)'",
        ),
        (lambda t, y: (t, (y.index == "s0") * 1 + 0 * y), "each label; 59 are 0 and 1 are 1"),
        (lambda t, y: (t, t[0]), r"a share of 0\.02 of 60 samples is 1"),
        (lambda t, y: (t * 0, y), "All 60 latents are the same"),
        (lambda t, y: (t.to_numpy(), y), "got ndarray and Series"),
    ],
)
def test_labels_that_make_no_sense(change, message):
    table, labels = change(*labelled())
    with pytest.raises(ValueError, match=message):
        interfacegan_direction(table, labels, space="z")


@pytest.mark.parametrize("space", ["w+", "s"])
def test_a_boundary_in_another_space_is_refused(space):
    table, labels = labelled()
    with pytest.raises(ValueError, match=f"in 'z' or in 'w'.*; got {re.escape(repr(space))}"):
        interfacegan_direction(table, labels, space=space)


def test_latents_of_another_generator_are_refused():
    table, labels = labelled()
    with pytest.raises(ValueError, match=r"planted has latents \(12,\) in 'z'; these have 4 numbers"):
        interfacegan_direction(table, labels, space="z", generator=Planted())


def test_scored_samples_are_the_prior_and_its_scores():
    generator = Planted(mixing=np.eye(N))
    table, scores = scored_samples(generator, along(Q[:, 2]), space="w", n=50, seed=4)
    np.testing.assert_array_equal(table, generator.sample(50, space="w", seed=4).double())
    np.testing.assert_allclose(scores, (0.5 + 0.005 * table.to_numpy()) @ Q[:, 2], atol=1e-5)
    assert table.index.equals(scores.index)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 400}, r"a share of 0\.02 of 400 samples is 8"),
        ({"share": 0.6}, r"up to \.5; got 0\.6"),
        ({"space": "w"}, "planted has no space 'w'"),
    ],
)
def test_boundary_requests_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        boundary(**settings)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda images: torch.zeros(len(images)), "is 0 for every image"),
        (lambda images: few_extremes((images[:, 0, 0, 0] - 0.5) * 200), "highest begin at 0"),
        (lambda images: torch.full((len(images),), torch.nan), "finite; 1000 of 1000 are not"),
        (lambda images: torch.zeros(len(images), 2), r"one number a picture; got shape \(32, 2\)"),
        (lambda images: torch.zeros(3), r"one number a picture; got shape \(96,\)"),
    ],
)
def test_scores_that_make_no_sense(score, message):
    with pytest.raises(ValueError, match=message):
        boundary(score=score, n=1000)


def test_boundary_of_the_bundled_faces_moves_its_attribute():
    generator, attributes = load_generator("faces"), face_attributes()
    column = attributes.names.index("smile")

    def smile(images):
        return attributes(images)[:, column]

    found = boundary(generator, smile, space="w", n=160, share=0.25)
    w = generator.sample(12, space="w", seed=7)
    step = 2 * found.scale * torch.tensor(found.vector, dtype=w.dtype)
    less, more = (
        attributes.table(generator.synthesize(w + sign * step, space="w"))["smile"] for sign in (-1, 1)
    )
    assert (more > less).mean() > 0.9


# weights


def planted_weights(counts, seed=0):
    """Rows along the planted axes, so many of each, of any length; a dead feature too."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([np.repeat(Q[:, [i]].T, count, axis=0) for i, count in enumerate(counts)])
    rows = rows * rng.choice([-3.0, 0.1, 1.0, 50.0], len(rows))[:, None]
    return np.concatenate([rows, np.zeros((1, N))])


def signed(vector):
    return vector * np.sign(vector[np.abs(vector).argmax()])


def test_sefa_finds_planted_axes_in_order():
    found = sefa_directions(Planted(weights=[planted_weights([2, 7, 1])]), n=3)
    for direction, axis, share in zip(found, (1, 0, 2), (0.7, 0.2, 0.1), strict=True):
        np.testing.assert_allclose(direction.vector, signed(Q[:, axis]), atol=1e-6)
        assert direction.provenance["strength"] == pytest.approx(share)
        assert "no brain took part" in direction.provenance["supervision"]
    assert [direction.space for direction in found] == ["z"] * 3
    assert [direction.name for direction in found] == ["SeFa 1", "SeFa 2", "SeFa 3"]


def test_sefa_of_layers_takes_their_weights_and_moves_them_alone():
    weights = [planted_weights(counts) for counts in ([9], [0, 5, 2], [0, 1, 4])]
    generator = Planted(mixing=np.diag(np.arange(1.0, N + 1)), weights=weights)
    one = sefa_directions(generator, n=1, layers=[1])[0]
    assert (one.space, one.vector.shape) == ("w+", (3, N))
    np.testing.assert_allclose(one.vector[1], signed(Q[:, 1]), atol=1e-6)
    assert not one.vector[[0, 2]].any()
    two = sefa_directions(generator, n=2, layers=range(1, 3))  # 6 rows along each of two axes
    assert two[0].provenance["strength"] == pytest.approx(0.5)
    np.testing.assert_allclose(two[0].vector[1], two[0].vector[2])
    assert two[0].provenance["layers"] == [1, 2]
    whole = sefa_directions(generator, n=1)[0]
    assert whole.space == "w"
    np.testing.assert_allclose(whole.vector, signed(Q[:, 0]), atol=1e-6)
    for direction in (one, *two, whole):
        assert direction.scale == pytest.approx(prior_scale(generator, direction.vector, direction.space))


@pytest.mark.parametrize(
    "generator",
    [
        StyleGAN2(z_dim=8, w_dim=6, img_resolution=16),
        PGGAN(resolution=8, channels=[10, 6, 4], z_dim=10),
    ],
    ids=["stylegan2", "pggan"],
)
def test_sefa_equals_the_singular_vectors_of_the_weights(generator):
    rows = np.concatenate([weight.detach().double().numpy() for weight in generator.style_weights()])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    _, values, vectors = np.linalg.svd(rows, full_matrices=False)
    found = sefa_directions(generator, n=3)
    for i, direction in enumerate(found):
        np.testing.assert_allclose(direction.vector, signed(vectors[i]), atol=1e-6)
        assert direction.provenance["strength"] == pytest.approx(values[i] ** 2 / (values**2).sum())
        assert direction.provenance["generator_sha256"] == generator.sha256


def test_ten_axes_or_all_where_there_are_fewer():
    assert len(sefa_directions(Planted(weights=[planted_weights([1, 2])]))) == 2
    assert len(sefa_directions(Planted(weights=[planted_weights([1] * N)]))) == 10
    few = Planted(mixing=np.diag([1.0, 2.0, *[0.0] * (N - 2)]))
    assert len(ganspace_directions(few)) == 2
    assert len(ganspace_directions(Planted(mixing=np.eye(N)))) == 10
    with pytest.raises(ValueError, match="Weights of planted: 0 axes"):
        sefa_directions(Planted(weights=[np.zeros((3, N))]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 3}, "Weights of planted: 2 axes .*; 3 were asked for"),
        ({"n": 0}, "0 were asked for"),
        ({"layers": [3]}, r"layers 0 to 2; name some of them once each, not \[3\]"),
        ({"layers": [1, 1]}, r"not \[1, 1\]"),
        ({"layers": [-1]}, r"not \[-1\]"),
        ({"layers": []}, r"not \[\]"),
    ],
)
def test_sefa_requests_that_make_no_sense(settings, message):
    generator = Planted(mixing=np.eye(N), weights=[planted_weights([1, 2])] * 3)
    with pytest.raises(ValueError, match=message):
        sefa_directions(generator, **settings)
    with pytest.raises(ValueError, match=r"planted has no layers of w\+; leave layers out instead of \[0\]"):
        sefa_directions(Planted(weights=[np.eye(N)]), layers=[0])


# latents


def test_ganspace_finds_planted_components_with_their_spread():
    spread = np.array([5.0, 3.0, 2.0, *[0.1] * (N - 3)])
    generator = Planted(mixing=Q * spread)
    found = ganspace_directions(generator, n=3)
    for i, direction in enumerate(found):
        assert abs(direction.vector @ Q[:, i]) > 0.999
        assert direction.scale == pytest.approx(spread[i], rel=0.03)
        assert direction.provenance["strength"] == pytest.approx(spread[i] ** 2 / (spread**2).sum(), abs=0.02)
        assert "no brain took part" in direction.provenance["supervision"]


def test_ganspace_equals_scikit_learn():
    generator = StyleGAN2(z_dim=8, w_dim=6, img_resolution=8)
    found = ganspace_directions(generator, n=4, n_samples=500, seed=3)
    theirs = PCA(4).fit(generator.sample(500, space="w", seed=3).double().numpy())
    for direction, vector, share in zip(
        found, theirs.components_, theirs.explained_variance_ratio_, strict=True
    ):
        np.testing.assert_allclose(direction.vector, signed(vector), atol=1e-6)
        assert direction.provenance["strength"] == pytest.approx(share)
        assert direction.scale == pytest.approx(prior_scale(generator, direction.vector, "w"))
    some = ganspace_directions(generator, n=1, n_samples=500, layers=[0, 2], seed=3)[0]
    np.testing.assert_allclose(some.vector[2], found[0].vector / np.sqrt(2))
    assert not some.vector[[1, 3]].any()
    # one scale of an edit moves a chosen layer by one standard deviation of w along the axis
    assert some.scale * some.vector[0] == pytest.approx(found[0].scale * found[0].vector)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": "z"}, r"z of planted is drawn from N\(0, I\)"),
        ({"n_samples": N}, "more samples than the 12 dimensions of w; got 12"),
        ({"n": 3}, "w of planted: 2 axes along which anything varies; 3"),
        ({"layers": [7]}, r"layers 0 to 2; .* not \[7\]"),
    ],
)
def test_ganspace_requests_that_make_no_sense(settings, message):
    generator = Planted(mixing=np.diag([1.0, 2.0, *[0.0] * (N - 2)]))
    with pytest.raises(ValueError, match=message):
        ganspace_directions(generator, **{"n": 1} | settings)
    with pytest.raises(ValueError, match="planted has no space 'w'"):
        ganspace_directions(Planted())
