"""brainedit.config: settings are checked against the function that takes them."""

import inspect

import pytest
import yaml

from brainedit.config import config_path, read_config
from brainedit.joint_training import train_joint

SECTIONS = {"joint": train_joint}


def written(tmp_path, text):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return path


def test_checked_values_come_back(tmp_path):
    path = written(
        tmp_path, "joint: {n_epochs: 3, learning_rate: 0.001, normalize: image, channels: [O1, O2]}"
    )
    expected = {"n_epochs": 3, "learning_rate": 0.001, "normalize": "image", "channels": ["O1", "O2"]}
    assert read_config(path, SECTIONS) == {"joint": expected}


def test_an_empty_file_means_the_defaults(tmp_path):
    assert read_config(written(tmp_path, ""), SECTIONS) == {"joint": {}}


@pytest.mark.parametrize("name", ["joint", "joint_labels"])
def test_bundled_configurations_hold_settings_of_the_function(name):
    settings = read_config(name, SECTIONS)["joint"]
    assert set(settings) <= set(inspect.signature(train_joint).parameters)
    assert yaml.safe_load(config_path(name).read_text())["joint"] == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("joint: {n_epoch: 3}", "my.yaml: Unknown key in section 'joint' 'n_epoch'. Did you mean 'n_epochs'"),
        ("joints: {}", "Unknown section 'joints'. Did you mean 'joint'"),
        ("joint: {learning_rate: 1e-3x}", r"key 'learning_rate': '1e-3x' came"),
        ("joint: {n_epochs: 2.5}", r"key 'n_epochs': 2\.5 came"),
        ("joint: {n_epochs: true}", "key 'n_epochs': True came"),
        ("joint: [1, 2]", "settings are needed"),
        ("- a\n- b", "it holds a list"),
        ("joint: {n_epochs: 3", "no YAML that can be read"),
        ("joint: !!python/object:os.system {}", "no YAML that can be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_config(written(tmp_path, text), SECTIONS)


def test_yaml_reads_an_exponent_as_text_and_it_is_still_a_number(tmp_path):
    path = written(tmp_path, "joint: {learning_rate: 1e-3}")
    assert read_config(path, SECTIONS)["joint"]["learning_rate"] == 0.001


def test_missing_files_and_unknown_names():
    with pytest.raises(ValueError, match=r"Unknown configuration 'joint_label'. Did you mean 'joint_labels'"):
        config_path("joint_label")
    with pytest.raises(FileNotFoundError, match=r"no configuration file nowhere/x.yaml"):
        config_path("nowhere/x.yaml")
