"""Other people's checkpoints: every layout read exactly, with the images of the reference, or refused."""

import copy
import hashlib
import json
import math
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from brainedit.generators.checkpoints import read_checkpoint
from brainedit.generators.load import build
from brainedit.generators.pggan import PGGAN
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.generators.stylegan3 import StyleGAN3

VECTORS = Path(__file__).parent / "vectors"
CONSTRUCTORS = {"stylegan2": StyleGAN2, "stylegan3": StyleGAN3, "pggan": PGGAN}


def twin(name):
    kwargs = json.loads((VECTORS / f"{name}_kwargs.json").read_text())
    return kwargs, load_file(VECTORS / f"{name}_weights.safetensors")


def worst(found, wanted):
    return ((found - wanted).abs().max() / wanted.std()).item()


def generator_of(checkpoint):
    parts = checkpoint.architecture, checkpoint.kwargs, checkpoint.tensors
    return build(*parts, source="file").requires_grad_(False)


@pytest.fixture(scope="module")
def rosinality():
    return torch.load(VECTORS / "rosinality_g_ema.pt", weights_only=True)


@pytest.fixture
def saved(tmp_path):
    """Reads objects back from a file that torch.save, pickle or safetensors wrote."""

    def read(value, how=torch.save):
        path = tmp_path / "net.pt"
        if how is save_file:
            save_file(value, path)
        elif how is pickle.dump:
            path.write_bytes(pickle.dumps(value))
        else:
            torch.save(value, path)
        return read_checkpoint(path)

    return read


@pytest.fixture
def nvidia(monkeypatch, saved):
    """Reads a file as NVIDIA writes them; its persistent classes exist while it is written, not after."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")
    package = types.ModuleType("torch_utils"), types.ModuleType("dnnlib")
    util.EasyDict = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("ran")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj

    class Module:
        def __init__(self, tensors, **attributes):
            own = OrderedDict((name, value) for name, value in tensors.items() if "." not in name)
            children = dict.fromkeys(name.split(".")[0] for name in tensors if "." in name)
            inner = {
                c: {n[len(c) + 1 :]: t for n, t in tensors.items() if n.startswith(f"{c}.")} for c in children
            }
            self.state = {"_parameters": own, "_buffers": OrderedDict(), **attributes}
            self.state["_modules"] = OrderedDict((name, Module(part)) for name, part in inner.items())

        def __reduce__(self):
            meta = {
                "type": "class",
                "version": 6,
                "module_src": "raise",
                "class_name": "G",
                "state": self.state,
            }
            return _reconstruct_persistent_obj, (meta,)

    def read(make, how=pickle.dump):
        modules = (*package, persistence, util)
        with monkeypatch.context() as patch:
            for module in modules:
                patch.setitem(sys.modules, module.__name__, module)
            original, written = read_checkpoint, []
            patch.setattr(sys.modules[__name__], "read_checkpoint", written.append)
            saved(make(Module, util.EasyDict), how)
        assert "torch_utils" not in sys.modules
        return original(written[0])

    return read


@pytest.mark.parametrize(
    ("file", "name", "network"),
    [
        ("sg2_original.pkl", "sg2", "G_ema"),
        ("sg3t_original.pkl", "sg3t", "G_ema"),
        ("sg3r_cond_original.pkl", "sg3r_cond", "G_ema"),
        ("pggan_state.pth", "pggan", ""),
    ],
)
def test_originals_hold_the_tensors_of_their_twins(file, name, network):
    kwargs, tensors = twin(name)
    found = read_checkpoint(VECTORS / file)
    assert found.kwargs == kwargs
    assert found.network == network
    assert found.notes == ()
    assert found.sha256 == hashlib.sha256((VECTORS / file).read_bytes()).hexdigest()
    assert found.tensors.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert found.tensors[key].dtype == tensor.dtype
        assert torch.equal(found.tensors[key], tensor)


@pytest.mark.parametrize("name", ["sg2", "sg2_cond"])
def test_nvidia_pickles_give_the_images_of_the_reference(name):
    found = read_checkpoint(VECTORS / f"{name}_original.pkl")
    assert found.kwargs == json.loads((VECTORS / f"{name}_kwargs.json").read_text())
    golden = load_file(VECTORS / f"{name}_vectors.safetensors")
    generator = generator_of(found)
    assert worst(generator.raw_images(golden["out.w"], space="w+"), golden["out.image"]) < 1e-4
    labels = golden["in.c"] if found.kwargs["c_dim"] else None
    assert worst(generator.map(golden["in.z"], labels=labels), golden["out.w"][:, 0]) < 1e-4


def test_rosinality_files_give_the_images_of_the_reference(rosinality):
    found = read_checkpoint(VECTORS / "rosinality_g_ema.pt")
    golden = load_file(VECTORS / "rosinality_vectors.safetensors")
    generator = generator_of(found)
    assert (found.network, found.notes) == ("g_ema", ())
    weight = rosinality["g_ema"]["convs.2.conv.weight"][0]
    assert torch.equal(found.tensors["synthesis.b16.conv0.weight"], weight / math.sqrt(48 * 9))
    w = generator.map(golden["in.z"])
    assert worst(w, golden["out.w"]) < 1e-4
    assert worst(generator.raw_images(golden["out.w"], space="w"), golden["out.image"]) < 1e-4
    truncated = generator.truncate(w, psi=0.7)
    assert worst(generator.raw_images(truncated, space="w+"), golden["out.image_trunc0.7"]) < 1e-4


@pytest.mark.parametrize("name", ["sg2", "sg3t", "sg3r_cond", "pggan"])
@pytest.mark.parametrize("how", [torch.save, pickle.dump, save_file])
def test_state_dicts_make_the_same_network(saved, name, how):
    tensors = twin(name)[1]
    found = saved(tensors, how)
    wanted = CONSTRUCTORS[found.architecture](**found.kwargs).state_dict()
    assert {key: tensor.shape for key, tensor in wanted.items()} == {k: t.shape for k, t in tensors.items()}
    if name.startswith("sg3"):  # filters are made from the settings alone
        for key, tensor in wanted.items():
            if key.endswith("_filter"):
                torch.testing.assert_close(tensor, tensors[key])


@pytest.mark.parametrize(
    ("wrap", "network"),
    [
        (lambda t: {f"G_ema.{k}": v for k, v in t.items()} | {"D.b4.fromrgb.weight": torch.ones(1)}, ""),
        (lambda t: {f"module.generator.{k}": v for k, v in t.items()}, ""),
        (lambda t: {"state_dict": {f"G_ema.{k}": v for k, v in t.items()}, "epoch": 3}, "state_dict"),
        (lambda t: {"G": {"x": 1}, "G_ema": t, "D": {"y": 2}}, "G_ema"),
        (lambda t: {"model": {"g_ema": t}}, "g_ema"),
        (lambda t: {k: v.numpy() for k, v in t.items()}, ""),
    ],
)
def test_prefixes_and_parts_are_found(saved, wrap, network):
    tensors = twin("sg2")[1]
    found = saved(wrap(tensors), pickle.dump)
    assert found.network == network
    assert all(torch.equal(found.tensors[key], tensors[key]) for key in tensors)


def test_a_lone_network_or_one_in_training_is_taken(nvidia):
    kwargs, tensors = twin("sg2")
    lone = nvidia(lambda module, _: module(tensors, _init_args=(), _init_kwargs=kwargs))
    assert (lone.network, lone.kwargs, lone.notes) == ("", kwargs, ())
    assert all(torch.equal(lone.tensors[key], tensors[key]) for key in tensors)
    for how in (pickle.dump, torch.save):
        training = nvidia(lambda module, _: {"G": module(tensors, _init_kwargs=kwargs), "G_ema": None}, how)
        assert training.network == "G"
        assert "the one in training" in training.notes[0]


def test_settings_in_the_forms_of_both_repositories(nvidia):
    kwargs, tensors = twin("sg2")
    top = [kwargs[key] for key in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")]
    synthesis = {"channel_base": np.int64(512), "channel_max": 24, "fused_modconv_default": "inference_only"}

    def make(module, easy_dict):
        network = module(
            tensors, _init_args=top, _init_kwargs={"mapping_kwargs": easy_dict(num_layers=3)} | synthesis
        )
        layer = network.state["_modules"]["synthesis"].state["_modules"]["b4"].state["_modules"]["conv1"]
        layer.state["conv_clamp"] = 256
        return {"G_ema": network}

    found = nvidia(make)
    assert found.kwargs == {
        **dict(zip(("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"), top, strict=True)),
        "mapping_kwargs": {"num_layers": 3},
        "synthesis_kwargs": {"channel_base": 512, "channel_max": 24, "conv_clamp": 256},
    }
    generator_of(found)


def changed(kwargs, **changes):
    kwargs = copy.deepcopy(kwargs)
    for key, value in changes.items():
        part = kwargs
        *path, last = key.split("__")
        for name in path:
            part = part[name]
        part[last] = value
    return kwargs


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sg2", {"z_dim": 10**5}, "declares z_dim 100000 while its tensors make it 48"),
        ("sg2", {"img_resolution": 1024}, "declares img_resolution 1024 while"),
        ("sg2", {"synthesis_kwargs__channel_max": 512}, "declares other widths"),
        ("sg2", {"mapping_kwargs__num_layers": 8}, "declares num_layers 8 while its tensors make it 3"),
        ("sg2", {"mapping_kwargs__layer_features": 10**6}, "declares layer_features 1000000"),
        ("sg2", {"synthesis_kwargs__conv_clamp": 1e30}, "'synthesis_kwargs.conv_clamp' a value"),
        ("sg2", {"synthesis_kwargs__resample_filter": [1] * 100}, "resample_filter' a value"),
        ("sg2", {"mapping_kwargs": "x"}, "that are no dict"),
        ("sg2", {"z_dim": OrderedDict()}, "'z_dim' a value that is not known .OrderedDict"),
        ("sg2", {"synthesis_kwargs__channels": [9999] * 4}, "a setting 'channels', which no StyleGAN2"),
        ("sg3t", {"licence": "Do as you like."}, "a setting 'licence', which no StyleGAN3 has"),
        ("sg3t", {"num_layers": 14}, "declares num_layers 14 while its tensors make it 6"),
        ("sg3t", {"margin_size": 5}, "declares other layers than its tensors have .L0_24_24"),
        ("sg3t", {"num_critical": 6}, "declares 6 critical layers of 6"),
        ("sg3t", {"conv_kernel": 1}, "declares conv_kernel 1 while its tensors make it 3"),
        ("sg3t", {"filter_size": 10**6}, "filters or margins larger"),
    ],
)
def test_settings_that_the_tensors_deny_are_refused(nvidia, name, changes, message):
    kwargs, tensors = twin(name)
    with pytest.raises(ValueError, match=rf"net\.pt: .*{message}"):
        nvidia(lambda module, _: {"G_ema": module(tensors, _init_kwargs=changed(kwargs, **changes))})


def test_modules_that_hold_each_other_are_refused(nvidia):
    def endless(module, _):
        network = module({"a.b": torch.ones(1)})
        network.state["_modules"]["a"].state["_modules"]["again"] = network
        return network

    def doubling(module, _):
        network = module({"x": torch.ones(1)})
        for _ in range(60):
            network, inner = module({}), network
            network.state["_modules"] |= {"a": inner, "b": inner}
        return network

    for make in (endless, doubling):
        with pytest.raises(ValueError, match="nests its modules without end"):
            nvidia(make)


def test_discriminators_and_strangers_are_refused(nvidia, saved):
    tensors = {"b32.fromrgb.weight": torch.ones(1), "b4.out.weight": torch.ones(1)}
    with pytest.raises(ValueError, match=r"a discriminator \(b32\.fromrgb\.weight"):
        nvidia(lambda module, _: module(tensors))
    with pytest.raises(ValueError, match="holds a discriminator and no generator"):
        nvidia(lambda module, _: {"D": module(tensors), "augment_pipe": None})
    with pytest.raises(
        ValueError, match=r"2 tensors \(fc\.weight, fc\.bias\) of no known generator; known: Sty"
    ):
        saved(torch.nn.Sequential(OrderedDict(fc=torch.nn.Linear(2, 2))).state_dict())
    with pytest.raises(ValueError, match="holds epoch, lr and no generator"):
        saved({"epoch": 1, "lr": 0.1})
    with pytest.raises(ValueError, match="holds StoredTensor, which is no generator"):
        saved(torch.ones(3))
    with pytest.raises(ValueError, match=r"holds os\.system|holds posix\.system"):
        saved(__import__("os").system, pickle.dump)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sg2", lambda t: t.pop("mapping.fc0.weight"), r"'mapping\.fc0\.weight' of 2 dimensions is missing"),
        ("sg2", lambda t: t.pop("synthesis.b8.conv1.weight"), r"blocks at \[4, 16, 32\] pixels"),
        (
            "sg2",
            lambda t: t.update({"synthesis.b32.torgb.weight": torch.ones(1, 16, 1, 1)}),
            "1 channels; only RGB",
        ),
        (
            "sg2",
            lambda t: t.update({"mapping.fc1.weight": torch.ones(1, 1)}),
            r"shape \(1, 1\) where \(40, 40\)",
        ),
        (
            "sg2",
            lambda t: t.update({"mapping.w_avg": torch.ones(40, dtype=torch.int32)}),
            "float32, int32; weights",
        ),
        ("sg2", lambda t: t.update({"mapping.w_avg": "text"}), "str under 'mapping.w_avg'"),
        ("sg3t", lambda t: t.pop("synthesis.L0_24_24.weight"), "cannot be told from its shapes"),
        ("sg3t", lambda t: t.pop("synthesis.L2_40_24.weight"), "cannot be told from its shapes"),
        (
            "pggan",
            lambda t: t.pop("layer0.conv.weight"),
            r"'layer0\.conv\.weight' of 4 dimensions is missing",
        ),
        (
            "pggan",
            lambda t: t.pop("layer3.conv.weight"),
            r"'layer3\.conv\.weight' of 4 dimensions is missing",
        ),
        (
            "pggan",
            lambda t: t.update({"layer1.conv.weight": torch.ones(48, 1, 3, 3)}),
            r"where \(48, 48, 3, 3\)",
        ),
    ],
)
def test_changed_networks_are_refused(saved, name, change, message):
    tensors = twin(name)[1]
    change(tensors)
    with pytest.raises(ValueError, match=message):
        saved(tensors)


def test_few_bytes_do_not_become_a_large_network(saved):
    # 21 blocks of one channel would want noise of a million pixels a side
    tensors = {f"synthesis.b{2**k}.conv1.weight": torch.ones(1, 1, 3, 3) for k in range(2, 21)}
    tensors |= {f"synthesis.b{2**k}.torgb.weight": torch.ones(3, 1, 1, 1) for k in range(2, 21)}
    tensors |= {"synthesis.b4.const": torch.ones(1, 4, 4), "mapping.fc0.weight": torch.ones(1, 1)}
    with pytest.raises(ValueError, match="pictures of 1048576 pixels a side; up to 4096"):
        saved(tensors)
    whole = torch.ones(1000, 1000)
    with pytest.raises(ValueError, match="many times the bytes of the file"):
        saved({f"synthesis.b4.const{i}": whole for i in range(10)} | {"synthesis.b4.const": whole})


def test_other_precisions_become_float32(saved):
    tensors = twin("sg2")[1]
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        found = saved({name: tensor.to(kind) for name, tensor in tensors.items()})
        assert "were turned into float32" in found.notes[0]
        assert all(torch.equal(found.tensors[k], t.to(kind).float()) for k, t in tensors.items())


def test_nan_is_left_to_build(saved):
    tensors = twin("sg2")[1]
    tensors["mapping.w_avg"][3] = float("nan")
    with pytest.raises(ValueError, match=r"'mapping\.w_avg' holds NaN"):
        generator_of(saved(tensors))


def test_strange_names_are_noted(saved):
    class Odd:
        def __reduce__(self):
            return print, ("ran",)

    found = saved({"G_ema": twin("sg2")[1], "more": Odd()}, pickle.dump)
    assert any("not run: builtins.print" in note for note in found.notes)


def test_rosinality_without_mean_or_noise(saved, rosinality):
    state = {k: v for k, v in rosinality["g_ema"].items() if not k.startswith("noises.")}
    found = saved({"g_ema": state})
    assert "mean of w was taken over 10000 draws" in found.notes[-1]
    assert sum("has no noise" in note for note in found.notes) == 5
    generator = generator_of(found)
    mean = generator.map(torch.randn(20_000, 64)).mean(0)
    assert worst(generator.mean_w(), mean) < 0.2
    assert read_checkpoint(VECTORS / "rosinality_g_ema.pt").tensors["mapping.w_avg"].shape == (64,)


def test_rosinality_in_parts_or_alone(saved, rosinality):
    tensors = read_checkpoint(VECTORS / "rosinality_g_ema.pt").tensors
    everything = {"g": {"x": 1}, "d": {"y": 2}, "g_optim": {"state": {0: {"step": 1}}}, **rosinality}
    found = saved(everything)
    assert found.network == "g_ema"
    assert all(torch.equal(found.tensors[key], tensors[key]) for key in tensors)
    alone = saved({f"module.{key}": value for key, value in rosinality["g_ema"].items()})
    assert alone.kwargs == found.kwargs


def test_rosinality_left_over_or_missing_tensors_are_refused(saved, rosinality):
    state = dict(rosinality["g_ema"])
    with pytest.raises(ValueError, match="a tensor 'extra' that no StyleGAN2"):
        saved({"g_ema": state | {"extra": torch.ones(1)}})
    for name in (
        "convs.3.conv.modulation.bias",
        "style.2.bias",
        "to_rgbs.1.conv.weight",
        "conv1.noise.weight",
    ):
        with pytest.raises(ValueError, match=f"tensor '{name}' is missing"):
            saved({"g_ema": {key: value for key, value in state.items() if key != name}})


def test_widths_of_any_shape_are_read(saved, rosinality):
    state = dict(rosinality["g_ema"])
    for name, tensor in state.items():  # 40 channels at 8 pixels, 48 at 4 and 16
        if name.startswith(("convs.0.conv.weight", "convs.1.conv.weight")):
            state[name] = tensor[:, :40]
        if name.startswith(("convs.0.activate", "convs.1.activate")):
            state[name] = tensor[:40]
        if name.startswith(("convs.1.conv.mod", "convs.2.conv.mod", "to_rgbs.0.conv.mod")):
            state[name] = tensor[:40]
    for name in ("convs.1.conv.weight", "convs.2.conv.weight", "to_rgbs.0.conv.weight"):
        state[name] = state[name][:, :, :40]
    found = saved(
        {"g_ema": {k: v.contiguous() for k, v in state.items()}, "latent_avg": rosinality["latent_avg"]}
    )
    assert found.kwargs["synthesis_kwargs"] == {"channels": [48, 40, 48]}
    assert generator_of(found).synthesis["b8"].conv1.weight.shape == (40, 40, 3, 3)
