"""Edits from files: where pictures go along lines, circles, layers and locks; moving pictures; a photograph."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainedit.datasets.latents import write_latents
from brainedit.directions import Direction
from brainedit.generators.load import save_generator
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.jobs.edit import N_FRAMES, edit_file, farthest_of
from brainedit.jobs.edit_photo import edit_photo_file
from brainedit.marks import read_mark
from brainedit.report import SIMULATED

SMALL = {"channel_base": 64, "channel_max": 8}


def record_of(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small generator whose z and w have as many numbers, with a direction in each and latents in each."""
    root = tmp_path_factory.mktemp("edit")
    generator = StyleGAN2(z_dim=8, w_dim=8, img_resolution=32, synthesis_kwargs=SMALL)
    save_generator(generator, root / "generator")
    rng = np.random.default_rng(0)
    made = {}
    for space in ("z", "w"):
        vector = rng.normal(size=8)
        record = {"generator_sha256": generator.sha256, "simulated": True}
        made[space] = Direction(vector / np.linalg.norm(vector), space, 1.5, f"in {space}", record)
        made[space].save(root / f"{space}.safetensors")
        table = pd.DataFrame(generator.sample(3, space=space, seed=1).numpy(), index=list("abc"))
        write_latents(table, root / f"latents_{space}.safetensors", space=space)
    plus = generator.sample(2, space="w+", seed=2).flatten(1).numpy()
    write_latents(pd.DataFrame(plus, index=["d", "e"]), root / "latents_plus.safetensors", space="w+")
    Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(root / "photo.png")
    settings = {"generator": str(root / "generator"), "strengths": [-2.0, 0.0, 2.0]}
    return SimpleNamespace(root=root, generator=generator, made=made, settings=settings, plus=plus)


def edited(world, out, space="w", **more):
    out = edit_file(world.root / f"{space}.safetensors", out, **(world.settings | {"n": 2} | more))
    return out, np.load(out / "latents.npy")


def test_z_turns_on_its_sphere_and_goes_straight_when_asked(world, tmp_path):
    _, turned = edited(world, tmp_path / "turned", "z")
    lengths = np.linalg.norm(turned, axis=-1)
    assert lengths == pytest.approx(np.repeat(lengths[:, 1:2], 3, axis=1), rel=1e-5)
    _, straight = edited(world, tmp_path / "straight", "z", path="line")
    step = world.made["z"].scale * world.made["z"].vector
    assert straight[:, 2] - straight[:, 1] == pytest.approx(np.repeat(2 * step[None], 2, axis=0), abs=1e-5)
    with pytest.raises(ValueError, match="A great circle needs latents on a sphere"):
        edited(world, tmp_path / "never", "w", path="great_circle")
    assert record_of(tmp_path / "turned")["settings"]["path"] == "auto"


def test_chosen_layers_alone_are_moved(world, tmp_path):
    _, moved = edited(world, tmp_path / "out", layers=[2, 3])
    change = moved[:, 2] - moved[:, 1]  # (2, n_layers, 8)
    step = 2 * world.made["w"].scale * world.made["w"].vector
    assert change[:, 2:4] == pytest.approx(np.broadcast_to(step, (2, 2, 8)), abs=1e-5)
    assert np.delete(change, [2, 3], axis=1) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="got 99"):
        edited(world, tmp_path / "never", layers=[99])
    with pytest.raises(ValueError, match="Layers can be chosen in 'w\\+' only; the latents are in 'z'"):
        edited(world, tmp_path / "never", "z", layers=[1])


def test_nothing_moves_along_locks(world, tmp_path):
    held = Direction(np.eye(8)[3], "w", 1.0, "held", {"generator_sha256": world.generator.sha256})
    file = held.save(tmp_path / "held.safetensors")
    out, moved = edited(world, tmp_path / "out", locks=[file])
    change = moved[:, 2] - moved[:, 1]
    assert change[:, 3] == pytest.approx(0, abs=1e-5)
    assert np.linalg.norm(change, axis=1) == pytest.approx(2 * world.made["w"].scale, rel=1e-4)
    assert record_of(out)["settings"]["locks"] == ["held"]
    assert "lock 1" in record_of(out)["inputs"]
    with pytest.raises(ValueError, match="Nothing of direction 'in w' is left"):
        edited(world, tmp_path / "never", locks=[world.root / "w.safetensors"])
    with pytest.raises(ValueError, match="lock 'in z' lives in 'z'"):
        edited(world, tmp_path / "never", locks=[world.root / "z.safetensors"])


def test_latents_are_taken_for_what_their_file_says(world, tmp_path):
    with pytest.raises(
        ValueError, match=r"latents_z\.safetensors holds latents in 'z'; needed are latents in 'w'"
    ):
        edited(world, tmp_path / "never", latents=world.root / "latents_z.safetensors")
    with pytest.raises(
        ValueError, match=r"latents_w\.safetensors holds latents in 'w'; needed are latents in 'z'"
    ):
        edited(world, tmp_path / "never", "z", latents=world.root / "latents_w.safetensors")
    out, moved = edited(world, tmp_path / "plus", latents=world.root / "latents_plus.safetensors")
    assert moved[:, 1].reshape(2, -1) == pytest.approx(world.plus, abs=1e-6)  # a w direction serves w+
    assert json.loads((out / "names.json").read_text()) == ["d", "e"]
    pd.DataFrame(np.ones((2, 5)), index=["a", "b"]).to_csv(tmp_path / "five.csv")
    with pytest.raises(ValueError, match=r"has latents \(8,\) in 'w'; those of .*five\.csv have 5 numbers"):
        edited(world, tmp_path / "never", latents=tmp_path / "five.csv")


def test_moving_pictures_and_a_scan(world, tmp_path):
    out, _ = edited(world, tmp_path / "out", gif=True, scan=True)
    with Image.open(out / "strip_001.gif") as moving:
        assert moving.n_frames == 2 * N_FRAMES - 2  # there and back
    assert len(list(out.glob("*.gif"))) == 2
    page = (out / "report.html").read_text()
    assert "Until when it is the same face" in page
    assert "How reliable &#x27;in w&#x27; is was not measured." in page
    assert len(record_of(out)["figures"]["breaks"]) == 2


def test_what_cannot_be_edited_leaves_nothing(world, tmp_path):
    with pytest.raises(ValueError, match="Strengths must be finite numbers; got"):
        edited(world, tmp_path / "never", strengths=[0.0, float("nan")])
    other = world.made["w"].save(tmp_path / "other.safetensors")
    far = Direction(np.eye(8)[0], "w", 1.0, "far", {"generator_sha256": "0" * 64}).save(other)
    with pytest.raises(ValueError, match="'far' was found in another generator"):
        edit_file(far, tmp_path / "never", **world.settings)
    with pytest.raises(ValueError, match="'far' was found in another generator"):
        edit_photo_file(far, world.root / "photo.png", tmp_path / "never", **world.settings)
    assert {path.name for path in tmp_path.iterdir()} == {"other.safetensors"}


@pytest.fixture(scope="module")
def quick(world):
    return world.settings | {"steps": 3, "restarts": 1}


def test_a_photograph_is_edited_and_says_so(world, quick, tmp_path):
    photo = world.root / "photo.png"
    out = edit_photo_file(
        world.root / "w.safetensors", photo, tmp_path / "out", eyes=[[18, 22], [30, 22]], **quick
    )
    files = {f"photo_{k:03d}.png" for k in range(3)} | {
        "sheet.png",
        "latents.npy",
        "result.json",
        "report.html",
    }
    assert {path.name for path in out.iterdir()} == files
    mark = read_mark(out / "photo_002.png")
    assert mark["edited"] is True
    assert mark["moves"] == [{"name": "in w", "scale": 1.5, "simulated": True, "strength": 2.0}]
    assert Image.open(out / "photo_002.png").size == (48, 48)
    record = record_of(out)
    assert {"psnr", "ssim", "feature_distance", "off_prior"} == set(record["figures"]["inversion"])
    assert record["settings"]["eyes"] == [[18, 22], [30, 22]]
    assert record["warnings"]  # random pixels are no face of the generator
    page = (out / "report.html").read_text()
    assert SIMULATED in page
    assert f"{record['figures']['inversion']['psnr']:.1f} dB" in page


def test_a_stamped_photograph_keeps_its_mark(world, quick, tmp_path):
    move = world.made["w"]
    stamped = Direction(move.vector, "w", move.scale, "stamped", move.provenance | {"stamp": "CONFOUNDED"})
    file = stamped.save(tmp_path / "stamped.safetensors")
    out = edit_photo_file(file, world.root / "photo.png", tmp_path / "out", **quick)
    assert read_mark(out / "photo_000.png")["edited"] is True
    assert Image.open(out / "photo_000.png").size[1] > 48  # the band
    moved = edit_file(file, tmp_path / "moved", gif=True, n=1, **world.settings)
    assert [path.name for path in moved.glob("*.gif")] == ["CONFOUNDED_strip_000.gif"]


def test_a_photograph_that_is_not_square_needs_eyes(world, quick, tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match="60 x 40 pixels and is not square"):
        edit_photo_file(world.root / "w.safetensors", tmp_path / "wide.png", tmp_path / "never", **quick)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        edit_photo_file(world.root / "w.safetensors", tmp_path / "gone.png", tmp_path / "never", **quick)
    assert {path.name for path in tmp_path.iterdir()} == {"wide.png"}


@pytest.mark.parametrize(("strengths", "k"), [([-2, 0, 2], 2), ([3, -4, 1], 1), ([0.5], 0)])
def test_the_farthest_strength_is_shown(strengths, k):
    assert farthest_of(strengths) == k
