"""The bundled faces: there without a network, small, read by their regressor, found again by their encoder."""

import numpy as np
import pandas as pd
import pytest
import torch

from brainedit.assets import FACES
from brainedit.attributes import face_attributes, r_squared
from brainedit.directions import brain_direction
from brainedit.editing import edit
from brainedit.generators.load import load_generator
from brainedit.inversion import psnr
from brainedit.inversion_encoder import encode, face_encoder
from brainedit.judges import judge


@pytest.fixture(scope="module")
def faces():
    return load_generator("faces")


def test_what_is_bundled_is_small_and_says_what_it_is(faces):
    assert sum(file.stat().st_size for file in FACES.rglob("*")) < 20e6
    assert faces.licence.startswith("Apache-2.0")
    assert (faces.image_size, faces.spaces) == (64, ("z", "w", "w+", "s"))
    assert "KID" in (FACES / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_faces_differ_as_the_paintings_do(faces):
    """The regressor's readings of samples spread about as widely as the attributes of the paintings."""
    regressor = face_attributes()
    readings = regressor.table(faces.synthesize(faces.sample(150, seed=5), space="z"))
    ratio = readings.std() / regressor.std.numpy()
    assert ratio.between(0.5, 1.3).all(), ratio.round(2).to_dict()


def test_an_edit_moves_what_its_direction_names(faces):
    smile = judge("painted/smile")
    w = faces.sample(400, space="w", seed=6)
    names = [str(i) for i in range(len(w))]
    scores = torch.cat([smile.score(x) for x in faces.synthesize_batches(w, space="w")]).numpy()
    direction = brain_direction(
        pd.DataFrame(w.numpy(), index=names),
        pd.Series(scores.astype(float), index=names),
        space="w",
        generator=faces,
    )
    new = faces.sample(20, space="w", seed=7)
    before, after = edit(faces, new, [(direction, [0.0, 2.0])], space="w").unbind(1)
    assert (smile.score(after) - smile.score(before)).mean() > scores.std()


def test_the_encoder_finds_samples_at_once(faces):
    encoder = face_encoder()
    assert encoder.generator_sha256 == faces.sha256
    images = faces.synthesize(faces.sample(20, space="w", seed=8), space="w")
    found = faces.synthesize(encode(encoder, images), space="w")
    assert psnr(found, images).mean() > 22


def test_paintings_that_trained_nothing_are_read():
    pytest.importorskip("skia", exc_type=ImportError)
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tools.face_world.attributes import sample_attributes
    from tools.face_world.painter import paint

    regressor = face_attributes()
    table = sample_attributes(40, seed=77)
    images = np.stack([paint(row, seed=i, size=64) for i, row in enumerate(table.to_dict("records"))])
    found = regressor.table(torch.from_numpy(images).permute(0, 3, 1, 2))
    r2 = r_squared(found, table[regressor.names])
    assert r2[["smile", "age", "hair_colour", "yaw"]].min() > 0.7  # of 40; the model card has 2,000
