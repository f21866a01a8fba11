"""Latents on disk: what is written comes back, by name; what is no table of latents is told."""

import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from brainedit.datasets.latents import read_latents, write_latents


@pytest.fixture
def table():
    values = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    return pd.DataFrame(values.astype(float), index=[f"faces/é{i}.png" for i in range(5)])


def test_what_is_written_comes_back(table, tmp_path):
    path = write_latents(table, tmp_path / "latents.safetensors", space="z")
    again = read_latents(path)
    assert again.index.tolist() == table.index.tolist()
    assert np.array_equal(again.to_numpy(), table.to_numpy())
    assert again.to_numpy().dtype == np.float64


def test_a_csv_is_told_by_its_bytes_and_its_names_stay_words(tmp_path):
    (tmp_path / "latents.safetensors").write_text("stimulus,0,1\n007,0.5,-1\n1e3,2,3\n")
    table = read_latents(tmp_path / "latents.safetensors")
    assert table.index.tolist() == ["007", "1e3"]
    assert table.to_numpy().tolist() == [[0.5, -1], [2, 3]]


def test_layers_come_flat_layer_by_layer(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    save_file({"latents": values}, tmp_path / "w", metadata={"stimulus": json.dumps(["a", "b"])})
    assert read_latents(tmp_path / "w").loc["b"].tolist() == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stimulus,0\na,1\na,2\n", "more than one row for 'a'"),
        ("stimulus,0\na,nan\n", "NaN or infinite"),
        ("stimulus,0\na,inf\n", "NaN or infinite"),
        ("stimulus,0\na,tall\n", "holds no latents that can be read.*tall"),
        ("", "holds no latents that can be read"),
        ("\x00\x01", "holds no latents that can be read"),
    ],
)
def test_tables_that_are_none_are_told(tmp_path, text, message):
    (tmp_path / "latents").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_latents(tmp_path / "latents")


def test_other_safetensors_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of latents .*nothing"):
        read_latents(tmp_path / "nothing")
    save_file({"latents": np.zeros((2, 3), np.float32)}, tmp_path / "nameless")
    with pytest.raises(ValueError, match=r"nameless holds no latents .*stimulus"):
        read_latents(tmp_path / "nameless")
    header = {"stimulus": json.dumps(["a", "b", "c"])}
    save_file({"latents": np.zeros((2, 3), np.float32)}, tmp_path / "short", metadata=header)
    with pytest.raises(ValueError, match="3 stimuli but 2 latents"):
        read_latents(tmp_path / "short")
    save_file({"other": np.zeros((3, 3), np.float32)}, tmp_path / "other", metadata=header)
    with pytest.raises(ValueError, match="other holds no latents"):
        read_latents(tmp_path / "other")
