"""Editing: the identity, units of strength, spaces and layers, doses, and pictures on a grid."""

import numpy as np
import pytest
import torch
from PIL import Image

from brainedit.directions import Direction, prior_scale
from brainedit.editing import dose, edit, edit_latents, grid_image, save_png, strip
from brainedit.generators.stylegan2 import StyleGAN2


@pytest.fixture(scope="module")
def generator():
    kwargs = {"channel_base": 64, "channel_max": 8}
    return StyleGAN2(z_dim=8, w_dim=6, img_resolution=16, synthesis_kwargs=kwargs).requires_grad_(False)


def unit(*shape, seed=0):
    vector = np.random.default_rng(seed).standard_normal(shape)
    return vector / np.linalg.norm(vector)


def make(space="w", shape=(6,), scale=2.0, seed=0, **provenance):
    return Direction(unit(*shape, seed=seed), space, scale, f"d{seed}", provenance)


def test_edit_by_0_returns_exactly_the_same_picture(generator):
    for space, shape in {"z": (8,), "w": (6,), "w+": (6, 6)}.items():
        direction = make(space, shape)
        latents = generator.sample(3, space=space)
        same = generator.synthesize(latents, space=space)
        assert torch.equal(edit(generator, latents, [(direction, 0.0)], space=space), same)
        assert torch.equal(edit(generator, latents, [], space=space), same)
        several = edit(generator, latents, [(direction, [-1.0, 0.0, 1.0])], space=space)
        assert several.shape == (3, 3, 3, 16, 16)
        assert torch.equal(several[:, 1], same)
        assert not torch.allclose(several[:, 2], same)


def test_strength_is_a_multiple_of_scale(generator):
    latents = generator.sample(2, space="w")
    direction = make(scale=2.0)
    moved = edit_latents(generator, latents, [(direction, 1.5)], space="w")
    np.testing.assert_allclose((moved - latents).numpy() @ direction.vector, 3.0, rtol=1e-5)


def test_moves_add_and_numbers_serve_all_strengths(generator):
    latents, a, b = generator.sample(2, space="w"), make(seed=1), make(seed=2)
    both = edit_latents(generator, latents, [(a, [1, 2]), (b, -1)], space="w")
    step = torch.as_tensor(2.0 * (2 * a.vector - b.vector), dtype=torch.float32)
    torch.testing.assert_close(both[:, 1], latents + step)
    back = edit_latents(generator, both[:, 1], [(a, -2), (b, 1)], space="w")
    torch.testing.assert_close(back, latents, atol=1e-5, rtol=0)


def test_w_direction_serves_chosen_layers_of_w_plus(generator):
    direction = make()
    w = generator.sample(2, space="w")
    w_plus = w[:, None].repeat(1, generator.n_layers, 1)
    torch.testing.assert_close(
        edit(generator, w_plus, [(direction, 1)], space="w+"), edit(generator, w, [(direction, 1)], space="w")
    )
    moved = edit_latents(generator, w_plus, [(direction, 1)], space="w+", layers=[1, 4])
    changed = (moved != w_plus).any(2).any(0)
    assert changed.tolist() == [False, True, False, False, True, False]


def test_strip_is_edit_of_one_latent(generator):
    latent, direction = generator.sample(1, space="w"), make()
    row = strip(generator, latent[0], direction, (-2, 0, 2), space="w")
    torch.testing.assert_close(row[2], edit(generator, latent, [(direction, 2)], space="w")[0])
    with pytest.raises(ValueError, match="one latent; got 2"):
        strip(generator, latent.repeat(2, 1), direction, (0,), space="w")


@pytest.mark.parametrize(
    ("direction", "strength", "settings", "message"),
    [
        (make("z", (8,)), 1, {"space": "w"}, "lives in 'z' and cannot move 'w'"),
        (make("w+", (6, 6)), 1, {"space": "w"}, r"lives in 'w\+' and cannot move 'w'"),
        (make(shape=(7,)), 1, {"space": "w"}, r"is \(7,\); stylegan2 needs \(6,\)"),
        (make(generator_sha256="0" * 64), 1, {"space": "w"}, "found in another generator"),
        (make(), float("nan"), {"space": "w"}, "finite numbers; got nan"),
        (make(), [1, float("inf")], {"space": "w"}, "finite numbers; got .*inf"),
        (make(), [], {"space": "w"}, "number or a sequence"),
        (make(), 1, {"space": "w", "layers": [1]}, r"Layers can be chosen in 'w\+' only"),
        (make(), 1, {"space": "w+", "layers": [6]}, "layers 0 to 5; got 6"),
        (make(), 1, {"space": "w+", "layers": []}, "got none"),
    ],
)
def test_edits_that_make_no_sense_are_refused(generator, direction, strength, settings, message):
    latents = generator.sample(1, space=settings["space"])
    with pytest.raises(ValueError, match=message):
        edit(generator, latents, [(direction, strength)], **settings)


def test_strengths_must_be_equally_many(generator):
    with pytest.raises(ValueError, match="got 2 and 3"):
        edit(generator, generator.sample(1, space="w"), [(make(), [1, 2]), (make(), [1, 2, 3])], space="w")


def test_dose_in_z_is_length_and_angle(generator):
    direction = Direction(np.eye(8)[0], "z", 1.5)
    latents = torch.eye(8)[[1, 0]] * 3  # the second lies along the direction
    found = dose(generator, direction, 2.0, latents)
    assert found.mahalanobis == pytest.approx(3.0)
    np.testing.assert_allclose(found.degrees, [45.0, 0.0], atol=1e-4)


def test_dose_in_w_counts_prior_deviations(generator):
    prior = generator.sample(10_000, space="w").double().numpy()
    variances, axes = np.linalg.eigh(np.cov(prior.T))
    for axis, variance in zip(axes.T, variances, strict=True):  # along an axis, in units of its own deviation
        direction = Direction(axis, "w", prior_scale(generator, axis, "w"))
        found = dose(generator, direction, 1.0, generator.sample(2, space="w"))
        assert found.mahalanobis == pytest.approx(direction.scale / np.sqrt(variance), rel=1e-3)
        assert found.mahalanobis == pytest.approx(1.0, rel=1e-2)
    everywhere = Direction(np.tile(axis, (6, 1)) / np.sqrt(6), "w+", np.sqrt(6 * variance))
    moved = dose(generator, everywhere, 1.0, generator.sample(2, space="w+"))
    assert moved.mahalanobis == pytest.approx(1.0, rel=1e-2)


def test_grid_places_every_picture(tmp_path):
    images = torch.stack([torch.full((3, 4, 5), value) for value in (0.0, 0.4, 1.0)])
    grid = grid_image(images, columns=2, padding=1)
    assert grid.size == (2 * 6 + 1, 2 * 5 + 1)
    assert (grid.getpixel((1, 1)), grid.getpixel((7, 1))) == ((0, 0, 0), (102, 102, 102))
    assert grid.getpixel((0, 0)) == grid.getpixel((8, 7)) == (255, 255, 255)
    assert grid_image(images, columns=3, padding=0, zoom=2).size == (30, 8)
    path = save_png(grid, tmp_path / "grid.png")
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(grid))
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("images", "columns", "message"),
    [
        (torch.zeros(3, 4, 4), 1, r"got \(3, 4, 4\)"),
        (torch.full((1, 3, 4, 4), 1.5), 1, r"go from 1\.5 to 1\.5"),
        (torch.full((1, 3, 4, 4), float("nan")), 1, "nan"),
        (torch.zeros(1, 3, 4, 4), 0, "got 0 and 1"),
    ],
)
def test_grids_that_cannot_be_drawn(images, columns, message):
    with pytest.raises(ValueError, match=message):
        grid_image(images, columns=columns)


@pytest.mark.parametrize("moves", [(make(), 1.0), [make()], [(1, 2)]])
def test_moves_are_pairs(generator, moves):
    with pytest.raises(ValueError, match=r"list of \(direction, strength\) pairs"):
        edit_latents(generator, generator.sample(1, space="w"), moves, space="w")
