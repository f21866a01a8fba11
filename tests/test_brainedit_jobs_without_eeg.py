"""Directions from labels, weights and samples: planted labels, the saved files, what the report says, refusals."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from brainedit.datasets.latents import write_latents
from brainedit.directions import Direction
from brainedit.generators.load import save_generator
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.jobs.directions_without_eeg import (
    direction_from_labels,
    directions_from_samples,
    directions_from_weights,
    read_labels,
)
from brainedit.latent_axes import ganspace_directions, sefa_directions

SMALL = {"channel_base": 64, "channel_max": 8}
AXIS = np.array([2.0, -1, 0, 0, 0, 0, 0, 0]) / np.sqrt(5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small generator, latents of 200 pictures, and a score and two kinds that follow one axis of z."""
    root = tmp_path_factory.mktemp("without")
    generator = StyleGAN2(z_dim=8, w_dim=8, img_resolution=16, synthesis_kwargs=SMALL)
    save_generator(generator, root / "generator")
    z = generator.sample(200, seed=3).numpy()
    names = [f"face_{i:03d}.png" for i in range(200)]
    write_latents(pd.DataFrame(z, index=names), root / "latents.safetensors", space="z")
    along = z @ AXIS
    score = pd.DataFrame({"stimulus": names, "label": along}).sample(150, random_state=0)
    score.to_csv(root / "score.csv", index=False)
    score.assign(label=(score["label"] > 0).astype(int)).to_csv(root / "kinds.csv", index=False)
    settings = {"generator": str(root / "generator")}
    return SimpleNamespace(root=root, generator=generator, settings=settings)


def told(folder):
    """The record and the page; every page says that no brain took part."""
    page = (folder / "report.html").read_text()
    record = json.loads((folder / "result.json").read_text())
    assert "No brain took part" in page
    assert record["figures"]["brain"] is False
    assert record["simulated"] is False
    return record, page


def labelled(world, out, file="score.csv", **settings):
    files = {"latents": world.root / "latents.safetensors"}
    return direction_from_labels(world.root / file, out, **files, **world.settings, **settings)


@pytest.mark.parametrize(
    ("file", "method", "least"),
    [("score.csv", "ridge", 0.99), ("kinds.csv", "logistic", 0.9), ("kinds.csv", "interfacegan", 0.9)],
)
def test_labels_give_the_planted_direction(world, tmp_path, file, method, least):
    out = labelled(world, tmp_path / "out", file, method=method, name="smile", n_permutations=19)
    found = Direction.load(out / "direction.safetensors")
    cosine = found.vector @ AXIS
    assert cosine > least
    assert found.name == "smile"
    assert found.scale == pytest.approx(1, abs=0.05)  # z is N(0, I)
    assert found.provenance["generator_sha256"] == world.generator.sha256
    assert found.provenance["n"] == 150
    assert found.provenance["supervision"] == "labels of pictures; no brain took part"
    record, page = told(out)
    assert set(record["inputs"]) == {"labels", "latents"}
    assert page.count("<img") == 2  # identity, and strips of new pictures
    if method == "interfacegan":
        assert found.reliability["accuracy_validation"] > 0.85
        assert "Balanced accuracy" in page
    else:
        assert found.reliability["p"] == pytest.approx(1 / 20)
        assert "Relevance stands for the label" in page


def test_a_lock_holds_for_labels_too(world, tmp_path):
    lock = Direction(np.eye(8)[0], "z", 1.0, "first", {"generator_sha256": world.generator.sha256})
    file = lock.save(tmp_path / "lock.safetensors")
    out = labelled(world, tmp_path / "out", locks=[file], n_permutations=19)
    found = Direction.load(out / "direction.safetensors")
    np.testing.assert_allclose(found.vector[0], 0, atol=1e-12)
    assert found.vector[1] < -0.95
    record, page = told(out)
    assert "lock 1" in record["inputs"]
    assert "before it was put at right angles to" in page


def test_weights_give_the_axes_of_sefa(world, tmp_path):
    out = directions_from_weights(tmp_path / "out", n_axes=2, layers=[1, 2], **world.settings)
    wanted = sefa_directions(world.generator, n=2, layers=[1, 2])
    check_axes(out, wanted)
    assert told(out)[0]["settings"]["layers"] == [1, 2]


def test_samples_give_the_components_of_w(world, tmp_path):
    out = directions_from_samples(300, tmp_path / "out", n_axes=3, seed=5, **world.settings)
    check_axes(out, ganspace_directions(world.generator, n=3, n_samples=300, seed=5))
    assert told(out)[0]["settings"]["n_samples"] == 300


def check_axes(out, wanted):
    """One file and one figure an axis, the strongest first."""
    files = sorted(out.glob("direction_*.safetensors"))
    assert len(files) == len(wanted)
    for file, move in zip(files, wanted, strict=True):
        found = Direction.load(file)
        np.testing.assert_array_equal(found.vector, move.vector)
        assert (found.space, found.scale, found.name) == (move.space, move.scale, move.name)
        assert "no brain took part" in found.provenance["supervision"]
    record, page = told(out)
    assert page.count("<img") == len(wanted)
    assert [one["rank"] for one in record["figures"]["directions"]] == list(range(1, len(wanted) + 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stimulus,score\na,1\n", "label is missing from stimulus, score"),
        ("stimulus,label\na,1\na,0\n", "more than one label for 'a'"),
        ("stimulus,label\na,1\nb,\n", "the label of 'b' is ''"),
        ("stimulus,label\na,smile\n", "the label of 'a' is 'smile'"),
        ("stimulus,label\na,inf\n", "the label of 'a' is 'inf'"),
        ("stimulus,label\na,nan\n", "the label of 'a' is 'nan'"),
        ("", "holds no labels that can be read"),
        (b"\xff\xfe\x00\x01", "holds no labels that can be read"),
    ],
)
def test_files_of_labels_that_make_no_sense(tmp_path, text, message):
    (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / "labels.csv")


def test_stimuli_keep_their_names(tmp_path):
    (tmp_path / "labels.csv").write_text("label,stimulus\n1,007\n0.5,NA\n")
    found = read_labels(tmp_path / "labels.csv")
    assert dict(found) == {"007": 1.0, "NA": 0.5}


def test_requests_that_make_no_sense_write_nothing(world, tmp_path):
    out = tmp_path / "never"
    with pytest.raises(FileNotFoundError, match=r"no file of labels .*gone\.csv"):
        labelled(world, out, "gone.csv")
    with pytest.raises(ValueError, match="holds latents in 'z'; needed are latents in 'w'"):
        labelled(world, out, space="w")
    with pytest.raises(ValueError, match="Did you mean 'ridge'"):
        labelled(world, out, method="rigde")
    with pytest.raises(ValueError, match="8 axes along which anything varies; 9 were asked for"):
        directions_from_weights(out, n_axes=9, **world.settings)
    with pytest.raises(ValueError, match="more samples than the 8 dimensions of w; got 8"):
        directions_from_samples(8, out, **world.settings)
    assert not list(tmp_path.glob("never*"))
