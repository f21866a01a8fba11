"""One picture under several names: copies made here are found, different pictures are not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from brainedit.audit.duplicates import Duplicate, find_duplicates
from brainedit.simulate.pictures import KINDS, draw_scene

BOXES = [(8, 8, 108, 108), (8, 116, 108, 216), (116, 8, 216, 108), (116, 116, 216, 216)]


def scenes(n, size=224):
    rng = np.random.default_rng(1)
    kinds = [[list(KINDS)[i] for i in rng.choice(12, 4, replace=False)] for _ in range(n)]
    return {f"s{k}.png": draw_scene(kinds[k], BOXES, size=size, seed=(k,)) for k in range(n)}


def jpeg(picture, quality):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def resized(picture, width, height):
    return np.asarray(Image.fromarray(picture).resize((width, height)))


def noisy(picture):
    return np.clip(picture + np.random.default_rng(0).normal(0, 8, picture.shape), 0, 255).astype(np.uint8)


COPIES = {
    "jpeg": lambda p: jpeg(p, 40),
    "half the size": lambda p: resized(p, 112, 112),
    "another shape": lambda p: resized(p, 300, 260),
    "darker": lambda p: np.asarray(ImageEnhance.Brightness(Image.fromarray(p)).enhance(0.8)),
    "less contrast": lambda p: np.asarray(ImageEnhance.Contrast(Image.fromarray(p)).enhance(0.8)),
    "noise": noisy,
}


def test_different_pictures_are_different():
    assert find_duplicates(scenes(60)) == []


@pytest.mark.parametrize("copy", COPIES)
def test_a_changed_copy_is_found_and_its_mirror_image_too(copy):
    pictures = scenes(12)
    changed = COPIES[copy](pictures["s3.png"])
    assert find_duplicates(pictures | {"copy": changed}) == [Duplicate("s3.png", "copy", "near")]
    mirror = np.ascontiguousarray(changed[:, ::-1])
    assert find_duplicates(pictures | {"copy": mirror}) == [Duplicate("s3.png", "copy", "mirrored")]


def test_equal_pixels_are_identical_in_any_file(tmp_path):
    pictures = scenes(3)
    Image.fromarray(pictures["s1.png"]).save(tmp_path / "a.png")
    Image.fromarray(pictures["s1.png"]).save(tmp_path / "b.bmp")
    files = {"a": tmp_path / "a.png", "s0": pictures["s0.png"], "b": tmp_path / "b.bmp"}
    assert find_duplicates(files) == [Duplicate("a", "b", "identical")]
    again = files | {"c": pictures["s1.png"].copy()}
    assert find_duplicates(again)[1:] == [Duplicate("a", "c", "identical")]  # each with the earliest


def test_one_object_changed_is_another_picture():
    kinds = ["sun", "tree", "house", "fish"]
    for seed in range(20):
        first, second = (draw_scene([*kinds[:3], last], BOXES, seed=(seed,)) for last in ("fish", "cup"))
        assert find_duplicates({"first": first, "second": second}) == []


def test_a_symmetric_picture_is_no_copy_of_itself_and_flat_ones_are_none_of_each_other():
    half = draw_scene(["sun"], [(0, 0, 112, 112)], size=112)
    symmetric = np.concatenate([half, half[:, ::-1]], axis=1)
    assert find_duplicates({"a": symmetric, "b": scenes(1)["s0.png"]}) == []
    flat = {str(v): np.full((32, 32, 3), v, np.uint8) for v in (0, 100, 255)}
    assert find_duplicates(flat) == []


def test_features_are_compared_by_their_values():
    features = {name: np.arange(4.0) + shift for name, shift in (("a", 0), ("b", 1), ("c", 0))}
    assert find_duplicates(features) == [Duplicate("a", "c", "identical")]


def test_what_is_no_picture_is_told(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text.png is no picture"):
        find_duplicates({"a": tmp_path / "text.png"})
    with pytest.raises(FileNotFoundError, match=r"no picture .*missing.png"):
        find_duplicates({"a": tmp_path / "missing.png"})
