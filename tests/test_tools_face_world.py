"""Painted faces: even and separate attributes, true turning, independent draws, tables that repaint."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("skia", exc_type=ImportError)
CHECKOUT = Path(__file__).resolve().parents[1]
if not (CHECKOUT / "tools" / "face_world").is_dir():
    pytest.skip("The folder tools is absent; run the tests in a checkout.", allow_module_level=True)
sys.path.insert(0, str(CHECKOUT))

from tools.face_world.__main__ import main, paint_set  # noqa: E402
from tools.face_world.attributes import (  # noqa: E402
    ATTRIBUTES,
    BY_NAME,
    neutral_attributes,
    sample_attributes,
)
from tools.face_world.head import Camera, Head, normals  # noqa: E402
from tools.face_world.painter import paint  # noqa: E402

NAMED = [attribute.name for attribute in ATTRIBUTES if attribute.named]
VARIETY = [attribute.name for attribute in ATTRIBUTES if not attribute.named]
FACE = neutral_attributes() | {"hair_length": 0.6, "hair_curl": 0.4, "age": 0.4, "fringe": 0.2, "gender": 0.3}


def face(*, seed: int = 5, size: int = 64, **changes: float) -> np.ndarray:
    return paint(FACE | changes, seed=seed, size=size).astype(int)


def moved(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """True where two pictures differ, (size, size)."""
    return (first != second).any(axis=-1)


def test_same_face_twice_is_the_same_picture():
    first, second = paint(FACE, seed=5, size=48), paint(FACE, seed=5, size=48)
    assert first.shape == (48, 48, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)


def test_seed_moves_the_locks_and_nothing_in_the_face():
    change = moved(face(), face(seed=6))
    assert change.sum() > 200
    assert not change[26:44, 26:39].any()


@pytest.mark.parametrize("name", NAMED)
def test_named_attribute_moves_evenly(name):
    values = np.linspace(BY_NAME[name].low, BY_NAME[name].high, 7)
    pictures = [face(**{name: value}) for value in values]
    steps = [np.abs(a - b).mean() for a, b in pairwise(pictures)]
    assert min(steps) > 0.1
    assert max(steps) < 3 * np.median(steps)


@pytest.mark.parametrize("name", VARIETY)
def test_variety_moves_the_picture(name):
    low, high = BY_NAME[name].low, BY_NAME[name].high
    first, middle, last = (face(**{name: value}) for value in (low, (low + high) / 2, high))
    assert moved(first, middle).sum() > 10
    assert moved(middle, last).sum() > 10


def test_smile_leaves_hair_and_forehead_alone():
    change = moved(face(smile=-1), face(smile=1))
    assert change[36:54].any()
    assert not change[:22].any()


@pytest.mark.parametrize("name", ["hair_colour", "hair_warmth"])
def test_hair_colour_leaves_the_mouth_alone(name):
    change = moved(face(**{name: BY_NAME[name].low}), face(**{name: BY_NAME[name].high}))
    assert change[:20, 24:40].mean() > 0.4
    assert not change[38:52, 24:40].any()  # so a beard of 0 is no beard: it would take the colour of the hair


def test_beard_and_glasses_stay_in_their_places():
    beard, glasses = moved(face(), face(beard=1)), moved(face(), face(glasses=1))
    assert beard[42:54, 22:42].mean() > 0.6
    assert not beard[:28].any()
    assert not beard[:38, 22:42].any()
    assert glasses[26:38, 18:46].mean() > 0.3
    assert not glasses[42:].any()
    assert not glasses[:26].any()


def test_light_leaves_every_outline_alone():
    outlines = []
    for light in (-1, 0.2, 1):
        pictures = [face(light=light, background_hue=hue, background_light=1) for hue in (0, 0.5)]
        outlines.append(moved(*pictures))  # the background, and no more, takes its own colour
    np.testing.assert_array_equal(outlines[0], outlines[1])
    np.testing.assert_array_equal(outlines[1], outlines[2])


def test_mirrored_yaw_and_light_mirror_the_face():
    straight = FACE | {"hair_length": 0.0, "hair_part": 0.0}
    left = paint(straight | {"yaw": -0.4, "light": -0.7}, seed=1, size=32).astype(int)
    right = paint(straight | {"yaw": 0.4, "light": 0.7}, seed=1, size=32).astype(int)[:, ::-1]
    face_only = np.s_[14:26, 6:24]
    assert np.abs(left - right)[face_only].mean() < 3.0 < np.abs(left - right[:, ::-1])[face_only].mean()


@pytest.mark.parametrize("width", [-1, 1])
@pytest.mark.parametrize("yaw", [-0.5, 0.5])
def test_nothing_falls_off_the_far_side(yaw, width):
    head = Head(FACE | {"face_width": width, "eye_size": 1.0, "age": 0.0})
    camera = Camera(yaw=yaw, pitch=0.2, roll=0.0)
    side = np.sign(yaw)
    corners = [(head.eye_x + 0.13, head.eye_y), (0.225, head.mouth_y)]
    for x, y in corners:
        corner = camera.flatten(head.on_face(side * x, y))
        near = head.surface(np.linspace(-np.pi, np.pi, 181)[:, None], np.linspace(y - 0.15, y + 0.15, 31))
        outline = camera.flatten(near).reshape(-1, 2)
        level = outline[np.abs(outline[:, 1] - corner[1]) < 0.02]
        assert (side * level[:, 0]).max() > side * corner[0]


def test_camera_turns_rigidly_and_leaves_the_straight_view_alone():
    points = np.random.default_rng(0).normal(size=(20, 3))
    turned = Camera(yaw=0.4, pitch=-0.2, roll=0.1).turn(points)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(points, axis=1))
    flat = Camera(yaw=0, pitch=0, roll=0).flatten(points * [1, 1, 0])
    np.testing.assert_allclose(flat, points[:, :2])
    nose = Camera(yaw=0.3, pitch=0, roll=0).turn(np.array([0.0, 0.0, 1.0]))
    np.testing.assert_allclose(nose, [np.sin(0.3), 0, np.cos(0.3)])  # a positive yaw goes to the right


def test_normals_of_a_sphere_point_outwards():
    around, down = np.linspace(-0.5, 0.5, 101), np.linspace(-0.5, 0.5, 101)[:, None]
    sphere = np.stack(
        [np.cos(down) * np.sin(around), np.sin(down) + 0 * around, np.cos(down) * np.cos(around)], axis=-1
    )
    np.testing.assert_allclose(normals(sphere)[1:-1, 1:-1], sphere[1:-1, 1:-1], atol=1e-4)


def test_draws_are_uniform_independent_and_do_not_depend_on_their_number():
    n = 4000
    table = sample_attributes(n, seed=3)
    assert list(table.columns) == list(BY_NAME)
    correlation = np.corrcoef(table.to_numpy().T) - np.eye(table.shape[1])
    assert np.abs(correlation).max() < 4.5 / np.sqrt(n)
    for attribute in ATTRIBUTES:
        drawn = table[attribute.name]
        has = drawn > attribute.low
        assert has.mean() == pytest.approx(attribute.share, abs=0.03)
        scaled = np.sort((drawn[has] - attribute.low) / (attribute.high - attribute.low))
        assert np.abs(scaled - np.linspace(0, 1, len(scaled))).max() < 0.05  # Kolmogorov's distance
    pd.testing.assert_frame_equal(sample_attributes(7, seed=3), table[:7])


def test_table_beside_the_pictures_repaints_them(tmp_path):
    main(["--n", "3", "--size", "32", "--out", str(tmp_path), "--seed", "2"])
    names = ["000000.png", "000001.png", "000002.png", "attributes.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for row in pd.read_csv(tmp_path / "attributes.csv").to_dict("records"):
        picture = np.asarray(Image.open(tmp_path / row.pop("file"))).astype(int)
        repaint = paint(row, seed=row.pop("seed"), size=32)
        assert np.abs(picture - repaint).max() <= 1


def test_second_run_paints_only_what_is_missing(tmp_path):
    paint_set(tmp_path, n=2, size=16)
    kept, removed = tmp_path / "000000.png", tmp_path / "000001.png"
    before = removed.read_bytes()
    kept.write_bytes(kept.read_bytes() + b" ")
    marked = kept.read_bytes()
    removed.unlink()
    paint_set(tmp_path, n=3, size=16)
    assert kept.read_bytes() == marked
    assert removed.read_bytes() == before
    assert len(pd.read_csv(tmp_path / "attributes.csv")) == 3


@pytest.mark.parametrize("other", [{"seed": 1}, {"size": 32}])
def test_folder_of_another_set_is_refused(tmp_path, other):
    paint_set(tmp_path, n=1, size=16)
    with pytest.raises(ValueError, match="is the table of another"):
        paint_set(tmp_path, n=1, **({"size": 16} | other))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({k: v for k, v in FACE.items() if k != "smile"}, "'smile' and 0 more are missing"),
        (FACE | {"hat": 1.0}, "got 'hat'"),
        (FACE | {"yaw": 0.7}, "yaw from -0.5 to 0.5; got 0.7"),
        (FACE | {"age": float("nan")}, "age from 0 to 1; got nan"),
    ],
)
def test_wrong_attributes_are_named(attributes, message):
    with pytest.raises(ValueError, match=message):
        paint(attributes, seed=0)


def test_wrong_numbers_are_named():
    with pytest.raises(ValueError, match="16 to 384 pixels; got 8"):
        paint(FACE, seed=0, size=8)
    with pytest.raises(ValueError, match="got -1"):
        sample_attributes(-1)
