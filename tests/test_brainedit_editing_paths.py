"""Editing: great circles, locks, layer ranges, scans over strengths, sheets and moving pictures."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import nn

from brainedit.directions import Direction
from brainedit.editing import Ruler, dose, edit, edit_latents, step_of, strip
from brainedit.generators.pggan import PGGAN
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.sheets import before_after, captioned, save_gif, strength_grid
from brainedit.strengths import EmbeddingDistance, IdentityLoss, scan, taken_for_same


class Pixels(nn.Module):
    """Mean squared pixel difference, with the interface of `FeatureDistance`."""

    def prepare(self, images):
        return images

    def forward(self, images, prepared):
        return (images - prepared).square().mean((1, 2, 3))


@pytest.fixture(scope="module")
def stylegan2():
    kwargs = {"channel_base": 64, "channel_max": 8}
    return StyleGAN2(z_dim=8, w_dim=6, img_resolution=16, synthesis_kwargs=kwargs).requires_grad_(False)


@pytest.fixture(scope="module")
def pggan():
    return PGGAN(resolution=8, channels=(16, 8, 8), z_dim=16, seed=2).requires_grad_(False)


def unit(*shape, seed=0):
    vector = np.random.default_rng(seed).standard_normal(shape)
    return vector / np.linalg.norm(vector)


def make(space="z", shape=(16,), scale=1.0, seed=0):
    return Direction(unit(*shape, seed=seed), space, scale, f"d{seed}")


CIRCLE = {"space": "z", "path": "great_circle"}


# great circles


def test_a_great_circle_turns_every_latent_by_the_same_angle_at_its_own_length(pggan):
    latents, direction = pggan.sample(5) * torch.linspace(0.5, 2, 5)[:, None], make(scale=1.5)
    moved = edit_latents(pggan, latents, [(direction, 2.0)], **CIRCLE)
    torch.testing.assert_close(moved.norm(dim=1), latents.norm(dim=1))
    found = dose(pggan, direction, 2.0, latents, path="great_circle")
    np.testing.assert_allclose(found.degrees, math.degrees(3.0 / math.sqrt(16)), rtol=1e-4)
    assert found.mahalanobis == pytest.approx(3.0)
    # the turn is in the plane of latent and direction: nothing else comes in
    planes = np.stack([latents.numpy(), np.broadcast_to(direction.vector, latents.shape)], axis=1)
    for plane, found in zip(planes, moved.double().numpy(), strict=True):
        rest = found - plane.T @ np.linalg.lstsq(plane.T, found, rcond=None)[0]
        assert np.abs(rest).max() < 1e-5
    assert ((moved - latents).numpy() @ direction.vector > 0).all()


def test_a_great_circle_there_and_back_is_the_same_and_0_exactly_the_same(pggan):
    latents, direction = pggan.sample(3), make()
    there = edit_latents(pggan, latents, [(direction, 2.0)], **CIRCLE)
    torch.testing.assert_close(edit_latents(pggan, there, [(direction, -2.0)], **CIRCLE), latents)
    three = edit(pggan, latents, [(direction, [-1.0, 0.0, 1.0])], **CIRCLE)
    assert torch.equal(three[:, 1], pggan.synthesize(latents, space="z"))
    assert not torch.allclose(three[:, 2], three[:, 1])


def test_a_great_circle_ends_at_the_direction(pggan):
    latents, direction = pggan.sample(3), make()
    strengths = list(np.linspace(0, 16, 9))  # 16 / sqrt(16) radians: past the far side
    moved = edit_latents(pggan, latents, [(direction, strengths)], **CIRCLE).double().numpy()
    along = moved @ direction.vector / np.linalg.norm(moved, axis=2)
    assert (np.diff(along, axis=1) > -1e-6).all()
    np.testing.assert_allclose(along[:, -1], 1.0, atol=1e-6)


def test_moves_on_a_great_circle_are_one_move_along_their_sum(pggan):
    latents, a, b = pggan.sample(3), make(seed=1), make(seed=2, scale=2.0)
    both = edit_latents(pggan, latents, [(a, 1.0), (b, -0.5)], **CIRCLE)
    total = a.vector - b.vector
    length = np.linalg.norm(total)
    one = edit_latents(pggan, latents, [(Direction(total / length, "z", length), 1.0)], **CIRCLE)
    torch.testing.assert_close(both, one)


def test_auto_is_the_circle_only_where_z_is_normalised(pggan, stylegan2):
    z = make()
    auto = edit_latents(pggan, pggan.sample(2), [(z, 2.0)], space="z", path="auto")
    torch.testing.assert_close(auto, edit_latents(pggan, pggan.sample(2), [(z, 2.0)], **CIRCLE))
    w, latents = make("w", (6,)), stylegan2.sample(2, space="w")
    auto = edit_latents(stylegan2, latents, [(w, 2.0)], space="w", path="auto")
    assert torch.equal(auto, edit_latents(stylegan2, latents, [(w, 2.0)], space="w"))


# locks and layers


@pytest.mark.parametrize("path", ["line", "great_circle"])
def test_locks_keep_what_latents_have_along_them(pggan, path):
    latents, move = pggan.sample(4), make(scale=1.5, seed=1)
    locks = [make(seed=2), make(seed=3), make(seed=2)]  # collinear locks are no harm
    moved = edit_latents(pggan, latents, [(move, [-2.0, 3.0])], space="z", path=path, locks=locks)
    held = np.stack([lock.vector for lock in locks], axis=1)
    before = latents.double().numpy() @ held
    np.testing.assert_allclose(moved.double().numpy() @ held, np.stack([before] * 2, axis=1), atol=1e-5)
    free = edit_latents(pggan, latents, [(move, 3.0)], space="z", path=path)
    assert np.abs(free.double().numpy() @ held - before).max() > 0.1
    if path == "line":
        torch.testing.assert_close((moved[:, 1] - latents).norm(dim=1), torch.full((4,), 4.5))
    else:
        torch.testing.assert_close(moved.norm(dim=2), latents.norm(dim=1)[:, None].expand(4, 2))


def test_locks_hold_inside_the_chosen_layers(stylegan2):
    latents = stylegan2.sample(2, space="w+")
    move, lock = make("w+", (6, 6), seed=1), make("w+", (6, 6), seed=2)
    moved = edit_latents(stylegan2, latents, [(move, 3.0)], space="w+", layers=range(2, 5), locks=[lock])
    shift = (moved - latents).double().numpy()
    np.testing.assert_allclose((shift * lock.vector).sum((1, 2)), 0, atol=1e-6)
    assert np.abs(shift).max((0, 2)).astype(bool).tolist() == [False, False, True, True, True, False]
    np.testing.assert_allclose(
        np.linalg.norm(shift, axis=(1, 2)), 3 * np.linalg.norm(move.vector[2:5]), rtol=1e-5
    )
    in_w = edit_latents(
        stylegan2,
        latents,
        [(make("w", (6,)), 1.0)],
        space="w+",
        layers=[0, 3],
        locks=[make("w", (6,), seed=1)],
    )
    np.testing.assert_allclose(
        (in_w - latents).double().numpy() @ make("w", (6,), seed=1).vector, 0, atol=1e-6
    )


def test_step_of_is_what_strength_1_adds(stylegan2):
    latents, move = stylegan2.sample(2, space="w+"), make("w", (6,), scale=2.0)
    settings = {"space": "w+", "layers": [1, 2], "locks": [make("w", (6,), seed=1)]}
    added = edit_latents(stylegan2, latents, [(move, 1.0)], **settings) - latents
    np.testing.assert_allclose(added[0].numpy(), step_of(stylegan2, move, **settings), atol=1e-5)


def test_a_strip_takes_locks_and_path(pggan):
    latent, move, lock = pggan.sample(1), make(seed=1), make(seed=2)
    row = strip(pggan, latent[0], move, (0, 2), locks=[lock], **CIRCLE)
    wanted = edit(pggan, latent, [(move, 2)], locks=[lock], **CIRCLE)
    torch.testing.assert_close(row[1], wanted[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "circle"}, "Unknown path 'circle'"),
        ({"locks": [make()]}, "Nothing of direction 'd0' is left when 'd0'"),
        ({"locks": [make("w", (6,), seed=1)]}, "cannot move 'z' latents|has no space"),
        ({"path": "great_circle", "opposite": True}, "latent 1 to the direction"),
        ({"path": "great_circle", "zero": True}, "latent 0 to the direction: it is zero"),
    ],
)
def test_paths_and_locks_that_make_no_sense(pggan, settings, message):
    latents = pggan.sample(2)
    if settings.pop("opposite", False):
        latents[1] = -3 * torch.tensor(make().vector)
    if settings.pop("zero", False):
        latents[0] = 0
    with pytest.raises(ValueError, match=message):
        edit_latents(pggan, latents, [(make(), 1.0)], space="z", **settings)


def test_a_great_circle_needs_a_sphere(stylegan2):
    latents = stylegan2.sample(1, space="w")
    with pytest.raises(ValueError, match="stylegan2 in 'w' has none"):
        edit_latents(stylegan2, latents, [(make("w", (6,)), 1.0)], space="w", path="great_circle")
    held = Direction(np.eye(36)[0].reshape(6, 6), "w+", 1.0, "first layer")
    with pytest.raises(ValueError, match="'first layer' holds nothing in the chosen layers"):
        step_of(stylegan2, held, space="w+", layers=[2], locks=[make("w+", (6, 6))])


def test_a_ruler_measures_in_standard_deviations(stylegan2):
    assert Ruler(stylegan2, "z").deviation() == 1
    w = stylegan2.sample(10_000, space="w").double().numpy()
    ruler = Ruler(stylegan2, "w")
    assert ruler.deviation() == pytest.approx(np.sqrt(w.var(0, ddof=1).mean()))
    squares = ruler.length(w - w.mean(0)) ** 2
    assert squares.mean() == pytest.approx(6, rel=1e-3)  # of 6 standard normal coordinates
    latents = torch.eye(8)[:2]
    small = Ruler(stylegan2, "z").degrees(latents, latents + 1e-4 * torch.eye(8)[2:4])
    np.testing.assert_allclose(small, np.degrees(np.arctan(1e-4)), rtol=1e-3)


# scans


class Blocks(PGGAN):
    """A picture that is linear in z: each of 12 numbers is the shade of one block of one colour."""

    normalises_z = False

    def raw_images(self, latents, *, space, labels=None, noise="const"):
        z = self.check_latents(latents, space=space).view(-1, 3, 2, 2)
        return 0.1 * z.repeat_interleave(8, 2).repeat_interleave(8, 3)


@pytest.fixture(scope="module")
def blocks():
    made = Blocks(resolution=16, channels=(12, 8, 8, 8), z_dim=12).requires_grad_(False)
    made.image_size = 16
    return made


def test_a_scan_finds_where_the_loss_reaches_the_limit(blocks):
    latents, direction = blocks.sample(6, seed=1), make(shape=(12,), scale=0.5)
    loss = IdentityLoss(blocks, Pixels())
    found = scan(blocks, latents, direction, np.linspace(-9, 9, 181), space="z", identity=Pixels())
    # a move of length s changes pixels by .05 s in the norm over 12 blocks
    squares = (0.05 * 0.5 * found.table["strength"]) ** 2 / 12 / loss.strangers
    np.testing.assert_allclose(found.table["identity_loss"], squares, atol=2e-5)
    edge = math.sqrt(0.5 * 12 * loss.strangers) / (0.05 * 0.5)
    assert found.breaks == (pytest.approx(-edge, abs=0.01), pytest.approx(edge, abs=0.01))
    np.testing.assert_allclose(found.table["mahalanobis"], found.table["strength"].abs() * 0.5, atol=1e-5)
    assert found.losses.shape == (6, 181)
    assert "50% as far" in found.rule
    near = scan(blocks, latents, direction, [1.0, 2.0], space="z", identity=Pixels())
    assert near.breaks == (None, None)
    assert near.table["strength"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"limit lies between 0 and 1; got 1\.5"):
        scan(blocks, latents, direction, [1.0], space="z", identity=Pixels(), limit=1.5)


def test_strangers_are_one_apart(blocks):
    loss = IdentityLoss(blocks, Pixels())
    images = blocks.synthesize(blocks.sample(400, seed=9), space="z")
    losses = loss(images[:200], loss.prepare(images[200:]))
    assert np.median(losses) == pytest.approx(1, rel=0.25)
    np.testing.assert_allclose(loss(images[:3], loss.prepare(images[:3])), 0, atol=1e-7)


def test_people_judged_the_progressive_gan():
    assert taken_for_same(0) == pytest.approx((0.493 + 0.503) / 2)  # the two nearest, pooled
    assert taken_for_same(6.8) == pytest.approx(0.289)
    shares = taken_for_same(np.linspace(0, 60, 200))
    assert (np.diff(shares) <= 0).all()
    with pytest.raises(ValueError, match="0 or more; got -1"):
        taken_for_same(-1.0)
    maker = PGGAN(resolution=8, channels=(512, 8, 8), z_dim=512).requires_grad_(False)
    direction = make(shape=(512,))
    found = scan(
        maker,
        maker.sample(5),
        direction,
        np.arange(0, 20, 0.5),
        space="z",
        path="great_circle",
        identity=Pixels(),
    )
    chord = 6.8 + (0.289 - 0.249) / (0.289 - 0.129) * (10.9 - 6.8)  # where .249, half of .498, is reached
    radius = math.sqrt(512)
    edge = (
        2 * radius * math.asin(chord / (2 * radius))
    )  # along the circle; near enough for lengths of 20 to 25
    assert found.breaks[0] is None
    assert found.breaks[1] == pytest.approx(edge, abs=0.05)
    assert "taken for the first" in found.rule


def test_an_embedding_makes_a_distance():
    distance = EmbeddingDistance(lambda images: images.mean((2, 3)))
    images = torch.zeros(2, 3, 4, 4)
    images[0, 0], images[1, 1] = 1, 1
    np.testing.assert_allclose(distance(images, distance.prepare(images)), 0, atol=1e-6)
    np.testing.assert_allclose(distance(images, distance.prepare(images.flip(0))), 1, atol=1e-6)


# sheets


def test_captioned_pictures_stand_over_their_words():
    images = torch.stack([torch.full((3, 20, 30), value) for value in (0.2, 0.4, 0.6)])
    sheet = np.asarray(captioned(images, ["one", "two", "a caption that is far too long"], columns=2))
    for value, (top, left) in zip((51, 102, 153), ((4, 4), (4, 38), (4 + 38, 4)), strict=True):
        assert (sheet[top : top + 20, left : left + 30] == value).all()
    assert (sheet[25:36, 4:34] < 128).any()  # there is ink below the picture
    assert (sheet[4:24, 34:38] == 255).all()
    assert (sheet[4 + 38 :, 34:] == 255).all()  # the long caption was cut
    with pytest.raises(ValueError, match="got 1 for 3 pictures"):
        captioned(images, ["one"], columns=2)


def test_before_after_shows_the_change():
    before, after = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.5)
    after[0, :, :8] = 0.75
    sheet = np.asarray(before_after(before, after))
    change = sheet[4:20, 4 + 2 * 20 : 20 + 2 * 20]
    assert (change[:8] == 0).all()
    assert (change[8:] == 255).all()
    same = np.asarray(before_after(before, before))
    assert (same[4:20, 44:60] == 255).all()
    with pytest.raises(ValueError, match=r"got \(1, 3, 16, 16\) and \(2, 3, 16, 16\)"):
        before_after(before, after.repeat(2, 1, 1, 1))


def test_a_strength_grid_has_a_column_for_each_strength():
    images = torch.rand(2, 3, 3, 16, 16)
    sheet = strength_grid(images, [-1, 0, 1], zoom=2)
    assert sheet.width == 3 * 36 + 4
    with pytest.raises(ValueError, match=r"2 strengths need pictures \(n, 2"):
        strength_grid(images, [0, 1])


def test_a_gif_goes_there_and_back(tmp_path):
    images = torch.stack([torch.full((3, 8, 8), value) for value in (0.0, 0.4, 1.0)])
    with Image.open(save_gif(images, tmp_path / "a.gif", milliseconds=50, zoom=2)) as gif:
        assert gif.size == (16, 16)
        assert gif.info["duration"] == 50
        assert gif.info["loop"] == 0
        assert b"generative" in gif.info["comment"]
        shades = [frame.convert("RGB").getpixel((3, 3))[0] for frame in ImageSequence.Iterator(gif)]
    assert shades == [0, 102, 255, 102]
    with Image.open(save_gif(images, tmp_path / "b.gif", there_and_back=False)) as gif:
        assert gif.n_frames == 3
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(ValueError, match="2 pictures or more; got 1"):
        save_gif(images[:1], tmp_path / "c.gif")
    with pytest.raises(ValueError, match="multiple of 10 from 20 up; got 25"):
        save_gif(images, tmp_path / "c.gif", milliseconds=25)
