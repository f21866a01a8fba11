"""Directions without brains: planted boundaries and axes, independent libraries, properties, refusals."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from brainedit.attributes import face_attributes
from brainedit.directions import prior_scale
from brainedit.generators.base import Generator
from brainedit.generators.load import load_generator
from brainedit.generators.pggan import PGGAN
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.latent_axes import ganspace_directions, interfacegan_direction, sefa_directions

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


def boundary(generator=None, axis=Q[:, 0], **settings):
    settings = {"space": "z", "name": "planted", "n": 4000, **settings}
    return interfacegan_direction(generator or Planted(), along(axis), **settings)


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
    found = interfacegan_direction(
        Planted(), lambda images: torch.rand(len(images), generator=noise), space="z", name="noise", n=4000
    )
    # standard deviation of a share of 48 is .07, of 3,840 it is .008
    assert found.reliability["accuracy_validation"] == pytest.approx(0.5, abs=0.22)
    assert found.reliability["accuracy_rest"] == pytest.approx(0.5, abs=0.03)


def test_boundary_depends_on_the_order_of_scores_alone():
    one = boundary()
    skewed = interfacegan_direction(
        Planted(), lambda images: torch.exp(300 * along(Q[:, 0])(images)), space="z", name="skewed", n=4000
    )
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


def test_two_kinds_of_scores_are_a_score():
    def smiles(images):
        return (along(Q[:, 0])(images) > along(Q[:, 0])(torch.full((1, 3, 2, 2), 0.5))).float()

    found = interfacegan_direction(Planted(), smiles, space="z", name="smiles", n=2000, share=0.2)
    assert found.vector @ Q[:, 0] > 0.9
    assert found.reliability["accuracy_rest"] > 0.85
    whole = interfacegan_direction(Planted(), smiles, space="z", name="smiles", n=100, share=0.3)
    assert whole.reliability["n_rest"] == 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 400}, r"a share of 0\.02 of 400 samples is 8"),
        ({"share": 0.6}, r"up to \.5; got 0\.6"),
        ({"space": "w+"}, "Look for the boundary in 'w'"),
        ({"space": "w"}, "planted has no space 'w'"),
    ],
)
def test_boundary_requests_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        boundary(**settings)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda images: torch.zeros(len(images)), "highest begin at 0"),
        (lambda images: torch.full((len(images),), torch.nan), "finite; 1000 of 1000 are not"),
        (lambda images: torch.zeros(len(images), 2), r"one number a picture; got shape \(32, 2\)"),
        (lambda images: torch.zeros(3), r"one number a picture; got shape \(96,\)"),
    ],
)
def test_scores_that_make_no_sense(score, message):
    with pytest.raises(ValueError, match=message):
        interfacegan_direction(Planted(), score, space="z", name="odd", n=1000)


def test_boundary_of_the_bundled_faces_moves_its_attribute():
    generator, attributes = load_generator("faces"), face_attributes()
    column = attributes.names.index("smile")

    def smile(images):
        return attributes(images)[:, column]

    found = interfacegan_direction(generator, smile, space="w", name="smile", n=160, share=0.25)
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
        ({"space": "w+"}, r"Components are those of 'w'; got 'w\+'"),
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
