"""Photographs: crops by eyes and by hand, taking out and pasting back, the edit, the mark in the file."""

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from brainedit.crops import Crop, add_back, eyes_crop, paste_back, square_crop, take_out, yunet_eyes
from brainedit.directions import Direction
from brainedit.generators.load import load_generator
from brainedit.inversion_encoder import face_encoder
from brainedit.marks import colour_profile, read_mark, save_marked
from brainedit.photo import edit_photo

TURNED = Crop((70.0, 60.0), 60.0, 25.0)


class Pixels(nn.Module):
    """A distance that costs nothing, with the interface of `FeatureDistance`."""

    def prepare(self, images):
        return images

    def forward(self, images, prepared):
        return (images - prepared).square().mean((1, 2, 3))


@pytest.fixture(scope="module")
def faces():
    return load_generator("faces")


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (120, 150, 3), np.uint8)


def ramp(height=120, width=150):
    """Red grows with x, green with y: a pixel's shade says where it is, to 1 / 200 of a pixel's width."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([x, y, 0 * x], axis=-1)


def polygon(crop, shape, *, grow):
    """Pixels inside a crop's square that is larger by some pixels on every side."""
    larger = Crop(crop.centre, crop.side + 2 * grow, crop.angle)
    x, y = larger.outside(np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1]))
    mask = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(mask).polygon(list(zip(x - 0.5, y - 0.5, strict=True)), fill=1)
    return np.asarray(mask)


# crops


@pytest.mark.parametrize("template", ["celebahq", "faces", ((0.3, 0.4), (0.6, 0.4))])
def test_eyes_come_to_lie_where_the_template_has_them(noise, template):
    eyes = [(90.0, 61.0), (62.0, 50.0)]
    crop = eyes_crop(noise, eyes, template=template)
    assert crop == eyes_crop(noise, eyes[::-1], template=template)
    u, v = crop.inside(*np.array(sorted(eyes)).T)
    wanted = {"celebahq": (0.375, 0.625, 0.47), "faces": (0.38, 0.62, 0.5)}.get(template, (0.3, 0.6, 0.4))
    np.testing.assert_allclose([*u, *v], [*wanted, wanted[2]], atol=1e-12)
    assert crop.angle == pytest.approx(math.degrees(math.atan2(11, 28)))


def test_level_eyes_give_an_upright_crop_of_four_eye_distances(noise):
    crop = eyes_crop(noise, [(60, 50), (80, 50)])
    assert (crop.side, crop.angle) == (80, 0)
    assert crop.centre == pytest.approx((70, 50 + 0.03 * 80))


def test_places_go_in_and_out_of_a_crop():
    u, v = np.random.default_rng(0).random((2, 20))
    np.testing.assert_allclose(TURNED.inside(*TURNED.outside(u, v)), (u, v))
    corner = Crop((10.0, 20.0), 4.0, 90.0).outside(
        np.array(0.0), np.array(0.0)
    )  # clockwise: it goes up right
    np.testing.assert_allclose(corner, (12, 18))
    assert TURNED.share_within(120, 150) == 1
    assert Crop((0.0, 60.0), 40.0).share_within(120, 150) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("crop", "size"),
    [(Crop((70.0, 60.0), 64.0), 32), (TURNED, 24), (TURNED, 100), (Crop((75.0, 60.0), 100.0, -30.0), 12)],
)
def test_what_is_taken_out_comes_from_its_place(crop, size):
    grid = (np.arange(size) + 0.5) / size
    x, y = crop.outside(*np.meshgrid(grid, grid))
    photo = np.round(ramp() * 1.5).astype(np.uint8)
    taken = take_out(photo, crop, size=size)
    inner = slice(1, -1)  # at the edge a filter sees one side only
    np.testing.assert_allclose(taken[0, inner, inner] * 255 / 1.5, x[inner, inner], atol=0.5)
    np.testing.assert_allclose(taken[1, inner, inner] * 255 / 1.5, y[inner, inner], atol=0.5)


def test_beyond_the_photograph_its_edge_goes_on():
    photo = np.full((40, 40, 3), 200, np.uint8)
    photo[:, :20] = 100
    taken = take_out(photo, Crop((0.0, 20.0), 40.0), size=40)
    np.testing.assert_allclose(taken[0, :, :19] * 255, 100, atol=1e-3)
    assert taken.shape == (3, 40, 40)


@pytest.mark.parametrize("feather", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("crop", [TURNED, Crop((75.0, 50.0), 40.0), Crop((5.0, 110.0), 50.0, 70.0)])
def test_no_pixel_outside_the_crop_changes(noise, crop, feather):
    was = noise.copy()
    pasted = paste_back(noise, crop, torch.ones(3, 16, 16), feather=feather)
    changed = (pasted != was).any(2)
    assert np.array_equal(noise, was)
    assert not (changed & ~polygon(crop, was.shape, grow=1)).any()
    if not crop.angle:  # 40 pixels around (75, 50), to the pixel
        changed[30:70, 55:95] = False
        assert not changed.any()
    inner = polygon(crop, was.shape, grow=-2 - feather * crop.side)
    assert (pasted[inner] == 255).all()
    if not feather:
        assert inner.sum() > 0.7 * crop.side**2 * crop.share_within(*was.shape[:2])


@pytest.mark.parametrize("size", [20, 150])
def test_a_picture_is_pasted_where_it_was_taken_out(size):
    photo = np.round(ramp() * 1.5).astype(np.uint8)
    pasted = paste_back(photo, TURNED, take_out(photo, TURNED, size=size), feather=0.1)
    assert np.abs(pasted.astype(int) - photo).max() <= 2


def test_a_change_is_added(noise):
    assert np.array_equal(add_back(noise, TURNED, torch.zeros(3, 8, 8)), noise)
    dark = np.full_like(noise, 100)
    brighter = add_back(dark, TURNED, torch.full((3, 8, 8), 0.2), feather=0.0)
    assert sorted(np.unique(brighter)) == [100, 151]
    with pytest.raises(ValueError, match=r"0 to 0\.5 of the crop's side; got 0\.6"):
        add_back(noise, TURNED, torch.zeros(3, 8, 8), feather=0.6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: eyes_crop(p, [(10, 10), (12, 10)]), r"8 pixels or more apart; these are 2\.0"),
        (lambda p: eyes_crop(p, [(10, 10), (160, 10)]), r"eye at \(160, 10\) is outside .* 150 x 120"),
        (lambda p: eyes_crop(p, [(10, 10)]), r"two places \(x, y\); got \[\(10, 10\)\]"),
        (lambda p: eyes_crop(p, [(10, float("nan")), (50, 10)]), "two places .* nan"),
        (lambda p: eyes_crop(p, [(10, 10), (50, 10)], template="face"), "Did you mean 'faces'"),
        (
            lambda p: eyes_crop(p, [(10, 10), (50, 10)], template=((0.3, 0.4), (0.6, 0.5))),
            r"side by side .*0\.5",
        ),
        (lambda p: square_crop(p, 100, 0, 60), "150 x 120 pixels .* left 100, top 0, side 60"),
        (lambda p: square_crop(p, 0, 0, 1), "side 1"),
        (lambda p: square_crop(p, 0, float("nan"), 9), "top nan"),
    ],
)
def test_crops_that_cannot_be(noise, make, message):
    with pytest.raises(ValueError, match=message):
        make(noise)


def test_a_detector_gives_the_eyes_of_one_face(noise, tmp_path, monkeypatch):
    faces = []

    class Network:
        @staticmethod
        def create(model, config, size):
            assert size == (640, 512)  # the photograph made smaller
            return SimpleNamespace(detect=lambda image: (1, np.array(faces) if faces else None))

    monkeypatch.setattr(cv2, "FaceDetectorYN", Network)
    with pytest.raises(FileNotFoundError, match=r"yunet\.onnx; give the eyes by hand"):
        yunet_eyes(tmp_path / "yunet.onnx")
    (tmp_path / "yunet.onnx").touch()
    detect, photo = yunet_eyes(tmp_path / "yunet.onnx"), np.zeros((1024, 1280, 3), np.uint8)
    with pytest.raises(ValueError, match="found 0 faces"):
        detect(photo)
    faces.append([0, 0, 90, 90, 30, 40, 60, 42, *range(7)])
    assert detect(photo) == [(60, 80), (120, 84)]
    faces.append(faces[0])
    with pytest.raises(ValueError, match="found 2 faces"):
        detect(photo)


# the mark


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_the_file_says_that_it_was_edited(noise, tmp_path, name):
    mark = {"edited": True, "moves": [{"name": "größer", "strength": 2.0}]}
    path = save_marked(noise, tmp_path / name, mark, colour_profile=b"profile")
    assert read_mark(path) == mark
    with Image.open(path) as picture:
        exif = picture.getexif()
        assert exif[0x010E] == "Edited with a generative model"
        assert exif[0x0131].startswith("brainedit ")
        assert picture.info["icc_profile"] == b"profile"
        assert b"digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in path.read_bytes()
        if name == "a.png":
            assert np.array_equal(np.asarray(picture), noise)
    assert not list(tmp_path.glob("*.partial"))


def test_other_pictures_have_no_mark(noise, tmp_path):
    Image.fromarray(noise).save(tmp_path / "plain.jpg", comment=b"hello")
    assert read_mark(tmp_path / "plain.jpg") is None
    assert colour_profile(tmp_path / "plain.jpg") is None
    assert colour_profile(noise) is None
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png is no picture"):
        read_mark(tmp_path / "text.png")
    with pytest.raises(ValueError, match=r"\.png, \.jpg or \.jpeg; got 'a\.gif'"):
        save_marked(noise, tmp_path / "a.gif", {})


# the edit


QUICK = {"steps": 25, "n_restarts": 1, "perceptual": Pixels(), "progress": False, "template": "faces"}


@pytest.fixture(scope="module")
def planted(faces):
    """A face of the generator in a larger photograph, turned by 25 degrees, and its eyes."""
    ground = np.random.default_rng(1).integers(0, 256, (120, 150, 3), np.uint8)
    face = faces.synthesize(faces.sample(1, space="w", seed=4), space="w")[0]
    photo = paste_back(ground, TURNED, face, feather=0.0)
    x, y = TURNED.outside(np.array([0.38, 0.62]), np.array([0.5, 0.5]))
    return photo, list(zip(x.tolist(), y.tolist(), strict=True))


@pytest.fixture(scope="module")
def darker(faces):
    """A direction in w with a visible effect: the first principal axis of w."""
    w = faces.sample(500, space="w").double().numpy()
    axis = np.linalg.svd(w - w.mean(0), full_matrices=False)[2][0]
    return Direction(axis, "w", float((w @ axis).std()), "axis", {"generator_sha256": faces.sha256})


@pytest.fixture(scope="module")
def edited(faces, planted, darker):
    photo, eyes = planted
    return edit_photo(faces, photo, [(darker, [0.0, 2.0])], eyes=eyes, encoder=face_encoder(), **QUICK)


def test_a_photograph_is_edited_inside_its_crop_alone(edited, planted, tmp_path):
    photo, _ = planted
    assert edited.crop.side == pytest.approx(60)
    assert len(edited.images) == len(edited.marks) == len(edited.edited) == 2
    outside = ~polygon(TURNED, photo.shape, grow=1)
    for image in edited.images:
        assert np.array_equal(image[outside], photo[outside])
    with Image.open(edited.save(tmp_path / "after.png")) as file:
        after = np.asarray(file)
    assert np.array_equal(after[outside], photo[outside])
    inside = polygon(TURNED, photo.shape, grow=-10)
    moved = np.abs(edited.images[1][inside].astype(int) - edited.images[0][inside]).mean()
    error = np.abs(edited.images[0][inside].astype(int) - photo[inside]).mean()
    assert moved > 2 * error


def test_the_error_of_the_inversion_is_shown(edited, faces):
    found = edited.inversion
    error = (found.images[0] - edited.before).square().mean()
    assert found.psnr[0] == pytest.approx(-10 * math.log10(error), rel=1e-4)
    assert found.psnr[0] > 20
    torch.testing.assert_close(edited.edited[0], found.images[0], atol=1e-5, rtol=0)
    assert "The crop of 60 pixels was enlarged to the generator's 64." in edited.warnings
    assert set(found.warnings[0]) <= set(edited.warnings)
    assert edited.sheet().width == 4 * (64 + 4) + 4  # crop, what was found, two edits


def test_the_mark_says_what_was_done(edited, faces, tmp_path):
    mark = read_mark(edited.save(tmp_path / "after.jpg", k=1))
    assert mark["edited"] is True
    assert mark["generator_sha256"] == faces.sha256
    assert [(move["name"], move["strength"]) for move in mark["moves"]] == [("axis", 2.0)]
    assert mark["space"] == "w+"


def test_a_change_of_0_leaves_the_photograph_as_it_is(faces, planted, darker):
    photo, eyes = planted
    found = edit_photo(faces, photo, [(darker, 0.0)], eyes=eyes, paste="change", **QUICK | {"steps": 2})
    # the edit is synthesised again, so its pixels may round the other way
    assert np.abs(found.images[0].astype(int) - photo).max() <= 1


def test_a_file_is_upright_loses_its_place_and_keeps_its_colours(faces, darker, tmp_path):
    face = faces.synthesize(faces.sample(1, space="w", seed=4), space="w")[0]
    upright = (face * 255).round().byte().permute(1, 2, 0).numpy()
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    sideways = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    sideways.save(tmp_path / "photo.png", exif=exif, icc_profile=b"profile")
    found = edit_photo(faces, tmp_path / "photo.png", [(darker, 1.0)], **QUICK | {"steps": 2})
    assert np.array_equal(found.photo, upright)
    torch.testing.assert_close(found.before, face, atol=0.003, rtol=0)
    with Image.open(found.save(tmp_path / "after.png")) as after:
        exif = after.getexif()
        assert 0x0112 not in exif
        assert 0x010F not in exif
        assert not exif.get_ifd(0x8825)
        assert after.info["icc_profile"] == b"profile"


def test_a_detector_may_find_the_eyes(faces, planted, darker):
    photo, eyes = planted
    found = edit_photo(faces, photo, [(darker, 0.0)], detect=lambda p: eyes, **QUICK | {"steps": 1})
    assert found.crop == eyes_crop(photo, eyes, template="faces")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "150 x 120 pixels and is not square"),
        ({"square": (0, 0, 60), "eyes": [(10, 10), (50, 10)]}, "got eyes and square"),
        ({"square": (0, 0, 60), "paste": "all"}, "Unknown way to paste 'all'"),
        ({"square": (0, 0, 60), "layers": [99]}, "layers 0 to 9; got 99"),
        ({"square": (0, 0, 60), "space": "z"}, "lives in 'w' and cannot move 'z'"),
        ({"square": (0, 0, 60), "strength": float("nan")}, "finite numbers; got nan"),
    ],
)
def test_photographs_that_cannot_be_edited(faces, planted, darker, settings, message):
    moves = [(darker, settings.pop("strength", 1.0))]
    with pytest.raises(ValueError, match=message):
        edit_photo(faces, planted[0], moves, **QUICK | {"steps": 10**9} | settings)


def test_directions_of_several_kinds_are_refused(faces, planted, darker):
    z = Direction(np.eye(64)[0], "z", 1.0)
    with pytest.raises(ValueError, match=r"of one kind, .* got \['w', 'z'\]"):
        edit_photo(faces, planted[0], [(darker, 1.0), (z, 1.0)], square=(0, 0, 60), **QUICK)
