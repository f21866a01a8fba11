"""Attributes read off pictures: a planted world, files, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from brainedit.attributes import AttributeRegressor, r_squared, train_attributes


def planted(n, seed):
    """A bright square whose place is `x` and whose redness is `red`, on grey noise."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"x": rng.uniform(-1, 1, n), "red": rng.uniform(0, 10, n)})
    images = rng.integers(90, 110, (n, 3, 32, 32))
    for image, row in zip(images, table.itertuples(), strict=True):
        left = round(13 + 8 * row.x)
        image[:, 12:20, left : left + 8] = np.array([40 + 20 * row.red, 120, 120])[:, None, None]
    return torch.tensor(images, dtype=torch.uint8), table


@pytest.fixture(scope="module")
def trained():
    images, table = planted(600, 0)
    return train_attributes(images, table, image_size=32, n_epochs=6, progress=False)


def test_planted_attributes_are_read_back_in_their_units(trained):
    images, table = planted(200, 1)
    found = trained.table(images)
    assert r_squared(found, table).min() > 0.9
    assert abs(found["red"].mean() - table["red"].mean()) < 0.5


def test_pictures_of_another_size_are_resized(trained):
    images, _ = planted(20, 2)
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    np.testing.assert_allclose(trained.table(large), trained.table(images), atol=0.5)


def test_r_squared_by_hand():
    wanted = pd.DataFrame({"a": [0.0, 1.0, 2.0]})
    assert r_squared(wanted, wanted)["a"] == 1
    assert r_squared(wanted * 0 + 1, wanted)["a"] == 0


def test_saved_regressor_comes_back(trained, tmp_path):
    images, _ = planted(5, 3)
    again = AttributeRegressor.load(trained.save(tmp_path / "a.safetensors"))
    pd.testing.assert_frame_equal(again.table(images), trained.table(images))
    half = AttributeRegressor.load(trained.save(tmp_path / "h.safetensors", precision=torch.float16))
    np.testing.assert_allclose(half.table(images), trained.table(images), atol=0.05)


def test_training_is_seeded():
    images, table = planted(64, 4)
    one, two = (
        train_attributes(images, table, image_size=32, n_epochs=1, seed=3, progress=False) for _ in range(2)
    )
    assert torch.equal(one.head[2].weight, two.head[2].weight)


def test_what_is_refused(trained, tmp_path):
    images, table = planted(8, 5)
    with pytest.raises(ValueError, match="got 8 and 4"):
        train_attributes(images[:4], table)
    with pytest.raises(ValueError, match="'flat' is constant"):
        train_attributes(images, table.assign(flat=1.0))
    with pytest.raises(ValueError, match="got 40"):
        AttributeRegressor(["a"], image_size=40)
    with pytest.raises(ValueError, match=r"got \(3, 32, 32\)"):
        trained(torch.zeros(3, 32, 32))
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        AttributeRegressor.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04N.")
    with pytest.raises(ValueError, match=r"bad\.safetensors is damaged"):
        AttributeRegressor.load(tmp_path / "bad.safetensors")
