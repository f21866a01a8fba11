"""Photographs on the page: what is refused, where a click falls, and that a face found once serves later edits."""

import struct
import zlib
from functools import partial
from html import escape

import numpy as np
import pytest
from PIL import Image

from brainedit.directions import Direction
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.marks import read_mark
from webui import guards
from webui.tabs import photo

EYES = [(60.0, 70.0), (100.0, 70.0)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An upload folder."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


@pytest.fixture(scope="module")
def maker():
    small = {"channel_base": 128, "channel_max": 16}
    return StyleGAN2(z_dim=8, w_dim=8, img_resolution=32, synthesis_kwargs=small)


def along(*axes, space="w", name="x"):
    """A direction along the sum of some axes."""
    vector = np.zeros(8)
    vector[list(axes)] = 1
    return Direction(vector / np.linalg.norm(vector), space, 1.0, name=name)


def save_noise(path, height=150, width=170):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def large_png(width, height):
    """A file that says it is a large picture and holds no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_photographs_of_three_kinds_are_taken(cache, kind):
    save_noise(cache / f"a.{kind}")
    assert photo.checked_photo(cache / f"a.{kind}") == (cache / f"a.{kind}").resolve()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", large_png(6000, 5000), r"a\.png has 6000 x 5000 pixels; at most 24,000,000"),
        ("b.png", large_png(60_000, 50_000), r"b\.png (has 60000 x 50000 pixels|is no photograph)"),
        ("c.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", r"c\.jpg is no photograph in JPEG"),
        ("d.jpg", b"GIF89a\x09\x00\x09\x00\x00\x00\x00;", r"d\.jpg is no photograph in JPEG"),
        ("e.webp", b"RIFF", r"e\.webp is no photograph"),
    ],
)
def test_other_files_are_refused_by_their_first_bytes(cache, name, content, message):
    (cache / name).write_bytes(content)
    with pytest.raises(guards.RefusedUpload, match=message):
        photo.checked_photo(cache / name)


def test_a_file_that_was_not_uploaded_is_not_opened(cache):
    save_noise(cache.parent / "mine.png")
    with pytest.raises(guards.RefusedUpload, match="was not uploaded"):
        photo.checked_photo(cache.parent / "mine.png")
    with pytest.raises(guards.RefusedUpload, match="Upload a photograph first"):
        photo.checked_photo(None)


def test_eyes_are_four_numbers():
    assert photo.read_eyes(" 60, 70; 100 70.5 ,") == [(60, 70), (100, 70.5)]
    assert photo.read_eyes("60,70") == [(60, 70)]
    assert photo.read_eyes(None) == photo.read_eyes("  ") == []
    assert photo.read_eyes(photo.eyes_text(EYES)) == EYES
    for wrong in ("1, 2, 3", "left", "1, 2, 3, nan", "1, 2, 3, 4, 5, 6", "1e999, 2"):
        with pytest.raises(ValueError, match=f"four numbers.*{wrong}"):
            photo.read_eyes(wrong)


def test_a_third_click_moves_the_nearer_eye():
    one = photo.with_click([], (60, 70))
    two = photo.with_click(one, (100, 70))
    assert two == [(60, 70), (100, 70)]
    assert sorted(photo.with_click(two, (64, 72))) == [(64, 72), (100, 70)]
    assert sorted(photo.with_click(two, (95, 60))) == [(60, 70), (95, 60)]


@pytest.mark.parametrize("turned", [False, True])
def test_a_click_on_what_is_shown_is_that_place_in_the_upright_photograph(cache, turned):
    upright = np.zeros((1200, 1600, 3), np.uint8)
    upright[598:603, 998:1003] = 255  # around (1000.5, 600.5)
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1  # stored on its side
    stored = Image.fromarray(np.rot90(upright) if turned else upright)
    stored.save(cache / "a.jpg", exif=exif, quality=95)
    shown, step = photo.shown_photo(cache / "a.jpg", [], "celebahq")
    assert shown.shape == (600, 800, 3)
    assert step == 2
    y, x = np.unravel_index(shown.sum(2).argmax(), shown.shape[:2])
    told = photo.PhotoHandlers(None).clicked(str(cache / "a.jpg"), "", [int(x), int(y)])
    np.testing.assert_allclose(photo.read_eyes(told)[0], (1000.5, 600.5), atol=2)
    marked, _ = photo.shown_photo(cache / "a.jpg", photo.read_eyes(told), "celebahq")
    ys, xs = np.nonzero((marked != shown).any(2))
    np.testing.assert_allclose((xs.mean(), ys.mean()), (x, y), atol=1)
    with pytest.raises(ValueError, match="two numbers"):
        photo.PhotoHandlers(None).clicked(str(cache / "a.jpg"), "", {"a": 1})


@pytest.mark.parametrize("paste", ["change", "picture"])
def test_a_face_found_once_gives_the_same_edit_as_finding_it_again(cache, maker, paste):
    was = save_noise(cache / "a.png")
    settings = {"eyes": EYES, "paste": paste, "steps": 2}
    first, found = photo.edited_photo(maker, cache / "a.png", along(0), strength=1.0, **settings)
    assert found.inversion is first.inversion
    other = {"strength": -2.0, "locks": [along(0, name="held")], **settings}
    fresh, _ = photo.edited_photo(maker, cache / "a.png", along(0, 1, name="y"), **other)
    again, same = photo.edited_photo(maker, cache / "a.png", along(0, 1, name="y"), known=found, **other)
    assert same is found
    assert again.marks == fresh.marks
    np.testing.assert_allclose(again.images[0].astype(int), fresh.images[0], atol=1)  # rounding
    np.testing.assert_array_equal(again.photo, was)
    assert (again.images[0] != first.images[0]).any()
    still, _ = photo.edited_photo(maker, cache / "a.png", along(0), strength=0.0, known=found, **settings)
    assert np.array_equal(still.images[0], was) == (paste == "change")


def test_another_photograph_eye_or_space_is_looked_for_anew(cache, maker):
    save_noise(cache / "a.png")
    save_noise(cache / "b.png", 151, 171)
    settings = {"strength": 1.0, "steps": 1}
    _, found = photo.edited_photo(maker, cache / "a.png", along(0), eyes=EYES, **settings)
    assert (
        photo.edited_photo(maker, cache / "a.png", along(0), eyes=EYES[::-1], known=found, **settings)[1]
        is found
    )
    moved = [EYES[0], (101.0, 70.0)]
    for name, direction, eyes in (
        ("b.png", along(0), EYES),
        ("a.png", along(0), moved),
        ("a.png", along(0, space="z"), EYES),
    ):
        edit, new = photo.edited_photo(maker, cache / name, direction, eyes=eyes, known=found, **settings)
        assert new is not found
    assert edit.marks[0]["path"] == "great_circle"  # z of this generator lies on a sphere


def test_a_face_is_asked_for_unless_the_picture_is_square(cache, maker):
    save_noise(cache / "a.png")
    save_noise(cache / "square.png", 90, 90)
    settings = {"strength": 1.0, "steps": 1}
    for eyes, n in (([], 0), (EYES[:1], 1)):
        with pytest.raises(ValueError, match=f"{n} of 2 are marked"):
            photo.edited_photo(maker, cache / "a.png", along(0), eyes=eyes, **settings)
    edit, _ = photo.edited_photo(maker, cache / "square.png", along(0), eyes=[], **settings)
    assert edit.crop.side == 90
    with pytest.raises(ValueError, match=r"eye at \(900, 70\) is outside"):
        photo.shown_photo(cache / "a.png", [EYES[0], (900, 70)], "celebahq")


def test_the_page_shows_the_error_and_hands_out_a_marked_file(cache, maker, monkeypatch):
    save_noise(cache / "a.png")
    monkeypatch.setattr(photo, "edited_photo", partial(photo.edited_photo, steps=1))
    move = along(0, name="smile")
    do = photo.PhotoHandlers(lambda name, locks, made, strength: (move, [], maker))
    given = str(cache / "a.png"), "60, 70, 100, 70", "smile", 2.0, [], "change"
    html, file, found = do.edit(*given, None, {})
    assert html.count("<img") == 5
    assert f"Found, {found.inversion.psnr[0]:.1f} dB" in html
    assert all(escape(warning) in html for warning in found.inversion.warnings[0])
    assert guards.uploaded(file["value"]).suffix == ".png"  # it lies where the page may hand it out
    assert read_mark(file["value"])["moves"][0]["name"] == "smile"
    page, _, same = do.edit(*given, found, {})
    assert (page, same) == (html, found)
