"""The layouts of other people's generator weights, and how each becomes our constructors' arguments and names."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from brainedit.generators.stylegan3 import SYNTHESIS_DEFAULTS as STYLEGAN3_DEFAULTS
from brainedit.generators.stylegan3 import layer_signals

KNOWN = "StyleGAN2 and 3 of NVIDIA (pickle or state dict), StyleGAN2 in rosinality's layout, and PGGAN"
TOP_SETTINGS = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs")
_MAX_PIXELS = 4096
_IGNORED_SETTINGS = ("class_name", "fused_modconv_default")


@dataclass
class Network:
    """Tensors by the file's own names, with whatever else the file tells of them."""

    tensors: dict[str, Tensor]
    settings: dict[str, Any] | None = None  # the constructor's arguments, where the file has them
    conv_clamp: float | None = None  # as the layers hold it
    mean: Tensor | None = None  # rosinality's latent_avg
    notes: list[str] = field(default_factory=list)


def recognise(tensors: dict[str, Tensor]) -> tuple[str, Callable[[Network], tuple[dict, dict[str, Tensor]]]]:
    """The architecture of these tensors, and the function that gives its arguments and its tensors by our names.

    Raises ValueError for a discriminator or tensors of no known layout.
    """
    for name, entry in _RECOGNISED.items():
        if name in tensors:
            return entry
    names = ", ".join(name[:60] for name in list(tensors)[:3])
    if any("fromrgb" in name or name.startswith("final_conv") for name in tensors):
        raise ValueError(f"holds a discriminator ({names}, ...) and no generator")
    raise ValueError(
        f"holds {len(tensors)} tensors ({names or 'none'}) of no known generator; known: {KNOWN}"
    )


def _stylegan2(network: Network) -> tuple[dict, dict[str, Tensor]]:
    tensors = _floats(network)
    sizes, blocks, widths = _stylegan2_sizes(tensors)
    if network.settings is None:
        network.notes.append("A state dict does not tell conv_clamp; none was assumed.")
        return {**sizes, "synthesis_kwargs": _width_settings(blocks, widths)}, tensors
    kwargs, synthesis = _settings(network.settings, sizes, n_layers=8)
    if "channels" in synthesis:  # ours, not NVIDIA's; it would go unchecked
        raise ValueError("declares a setting 'channels', which no StyleGAN2 of NVIDIA has")
    if network.conv_clamp is not None:  # the default differs between NVIDIA's two repositories
        synthesis.setdefault("conv_clamp", network.conv_clamp)
    base, most = synthesis.get("channel_base", 32768), synthesis.get("channel_max", 512)
    if [min(base // size, most) for size in blocks] != widths:
        raise ValueError(f"declares other widths than its tensors have ({widths})")
    return {**kwargs, "synthesis_kwargs": synthesis}, tensors


def _stylegan2_sizes(tensors: dict[str, Tensor]) -> tuple[dict, list[int], list[int]]:
    """What the shapes tell of the constructor's arguments, with the pixels and the width of each block."""
    found = filter(None, (re.match(r"synthesis\.b(\d+)\.conv1\.weight", name) for name in tensors))
    blocks = sorted(int(match[1]) for match in found)
    if not blocks or blocks != [2**k for k in range(2, 2 + len(blocks))]:
        raise ValueError(f"is a StyleGAN2 with blocks at {blocks[:12]} pixels; known are 4, 8, 16 and so on")
    sizes = _mapping_from_shapes(tensors)
    sizes |= _picture(tensors, f"synthesis.b{blocks[-1]}.torgb.weight", blocks[-1])
    widths = []
    for size in blocks:
        conv = f"synthesis.b{size}.conv1"
        widths.append(_shape(tensors, f"{conv}.weight", 4)[0])
        _expect(tensors, f"{conv}.weight", widths[-1], widths[-1], 3, 3)
        _expect(tensors, f"{conv}.affine.weight", widths[-1], sizes["w_dim"])
    return sizes, blocks, widths


def _stylegan3(network: Network) -> tuple[dict, dict[str, Tensor]]:
    tensors = _floats(network)
    found = filter(None, (re.match(r"synthesis\.(L(\d+)_(\d+)_\d+)\.weight", name) for name in tensors))
    layers = [match.groups() for match in sorted(found, key=lambda match: int(match[2]))]
    if len(layers) < 4:
        raise ValueError(f"is a StyleGAN3 with {len(layers)} layers; known are those from 4 up")
    names = [name for name, _, _ in layers]
    sizes = _mapping_from_shapes(tensors)
    sizes |= _picture(tensors, f"synthesis.{names[-1]}.weight", int(layers[-1][2]))
    kernel = _shape(tensors, f"synthesis.{names[0]}.weight", 4)[-1]
    settings = {"num_layers": len(names) - 1, "conv_kernel": kernel}
    if network.settings is None:
        margin = (int(layers[0][2]) - min(16, sizes["img_resolution"])) // 2
        kwargs = _stylegan3_from_shapes(network, names, {**sizes, **settings, "margin_size": margin})
    else:
        kwargs, rest = _settings(network.settings, sizes, n_layers=2)
        unknown = sorted(set(rest) - set(STYLEGAN3_DEFAULTS))
        if unknown:
            raise ValueError(f"declares a setting {unknown[0][:40]!r}, which no StyleGAN3 has")
        kwargs = {**kwargs, **rest}
    full = {**STYLEGAN3_DEFAULTS, **kwargs}
    for name, value in settings.items():
        if full[name] != value:
            raise ValueError(f"declares {name} {full[name]} while its tensors make it {value}")
    if _stylegan3_layers(full) != names:
        raise ValueError(f"declares other layers than its tensors have ({names[0]} to {names[-1]})")
    _check_stylegan3_shapes(tensors, full, names)
    return kwargs, tensors


def _check_stylegan3_shapes(tensors: dict[str, Tensor], settings: dict, names: list[str]) -> None:
    if not (
        settings["filter_size"] <= 32 and settings["lrelu_upsampling"] <= 8 and settings["margin_size"] <= 128
    ):
        raise ValueError("declares filters or margins larger than those of any known StyleGAN3")
    n_in = int(names[0].split("_")[2])
    _expect(tensors, "synthesis.input.weight", n_in, n_in)
    for i, name in enumerate(names):
        width, kernel = int(name.split("_")[2]), settings["conv_kernel"] if i < len(names) - 1 else 1
        _expect(tensors, f"synthesis.{name}.weight", width, n_in, kernel, kernel)
        _expect(tensors, f"synthesis.{name}.affine.weight", n_in, settings["w_dim"])
        n_in = width


def _stylegan3_from_shapes(network: Network, names: list[str], settings: dict) -> dict:
    """Settings whose layers would have these names; what leaves no trace in names and shapes is the default."""
    tensors = network.tensors
    settings["channel_max"] = max(int(name.split("_")[2]) for name in names)
    settings["use_radial_filters"] = any(k.endswith("down_filter") and tensors[k].ndim == 2 for k in tensors)
    for exponent in sorted(range(5, 21), key=lambda exponent: abs(exponent - 15)):  # published: 2**15, 2**16
        kwargs = {**settings, "channel_base": 2**exponent}
        if _stylegan3_layers({**STYLEGAN3_DEFAULTS, **kwargs}) == names:
            network.notes.append("The settings that leave no trace in a StyleGAN3's shapes are the defaults.")
            return kwargs
    raise ValueError(
        "is a StyleGAN3 whose settings cannot be told from its shapes; give NVIDIA's pickle instead"
    )


def _stylegan3_layers(settings: dict) -> list[str]:
    """The layers' names, which hold their sizes and widths."""
    if not 0 <= settings["num_critical"] < settings["num_layers"]:
        raise ValueError(f"declares {settings['num_critical']} critical layers of {settings['num_layers']}")
    signals = layer_signals(settings["img_resolution"], settings)
    return [f"L{i}_{signal.size}_{signal.n_channels}" for i, signal in enumerate(signals)]


def _rosinality(network: Network) -> tuple[dict, dict[str, Tensor]]:
    left = _floats(network)
    tensors: dict[str, Tensor] = {}
    n_mlp = sum(re.fullmatch(r"style\.\d+\.weight", name) is not None for name in left)
    for i in range(n_mlp):
        for part in ("weight", "bias"):
            tensors[f"mapping.fc{i}.{part}"] = _take(left, f"style.{i + 1}.{part}")
    tensors["synthesis.b4.const"] = _take(left, "input.input")[0]
    n_blocks = 1 + sum(re.fullmatch(r"to_rgbs\.\d+\.bias", name) is not None for name in left)
    blocks = [2 ** (k + 2) for k in range(n_blocks)]
    for k, size in enumerate(blocks):
        block, fir = f"synthesis.b{size}", _fir()
        if k:
            fir = left.pop(f"to_rgbs.{k - 1}.upsample.kernel", 4 * fir) / 4
            _convolution(network, left, f"convs.{2 * k - 2}", tensors, f"{block}.conv0", size, 2 * k - 1)
        conv1 = f"convs.{2 * k - 1}" if k else "conv1"
        _convolution(network, left, conv1, tensors, f"{block}.conv1", size, 2 * k)
        tensors[f"{block}.resample_filter"] = fir
        rgb = f"to_rgbs.{k - 1}" if k else "to_rgb1"
        tensors[f"{block}.torgb.weight"] = _take(left, f"{rgb}.conv.weight")[0]
        tensors[f"{block}.torgb.bias"] = _take(left, f"{rgb}.bias").flatten()
        _affine(left, rgb, tensors, f"{block}.torgb")
    if left:
        raise ValueError(f"holds a tensor {next(iter(left))[:80]!r} that no StyleGAN2 of this layout has")
    sizes, blocks, widths = _stylegan2_sizes(tensors)
    tensors["mapping.w_avg"] = _mean_w(tensors, n_mlp, network)
    return {**sizes, "synthesis_kwargs": _width_settings(blocks, widths)}, tensors


def _convolution(
    network: Network, left: dict, theirs: str, tensors: dict, ours: str, size: int, index: int
) -> None:
    weight = _take(left, f"{theirs}.conv.weight")[0]
    # their run-time scale goes into the weights, so that the demodulation's epsilon means the same
    tensors[f"{ours}.weight"] = weight / math.sqrt(weight[0].numel())
    tensors[f"{ours}.bias"] = _take(left, f"{theirs}.activate.bias")
    tensors[f"{ours}.resample_filter"] = left.pop(f"{theirs}.conv.blur.kernel", 4 * _fir()) / 4
    tensors[f"{ours}.noise_strength"] = _take(left, f"{theirs}.noise.weight").reshape(())
    noise = left.pop(f"noises.noise_{index}", None)
    if noise is None:
        noise = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(index))
        network.notes.append(f"The file has no noise for {ours}; it was drawn from seed {index}.")
    tensors[f"{ours}.noise_const"] = noise.reshape(noise.shape[-2:])
    _affine(left, theirs, tensors, ours)


def _fir() -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64


def _affine(left: dict, theirs: str, tensors: dict, ours: str) -> None:
    for part in ("weight", "bias"):
        tensors[f"{ours}.affine.{part}"] = _take(left, f"{theirs}.conv.modulation.{part}")


def _mean_w(tensors: dict, n_mlp: int, network: Network) -> Tensor:
    """latent_avg, or where the file has none the mean over 10000 draws."""
    if network.mean is not None:
        return network.mean
    network.notes.append("The file has no latent_avg; the mean of w was taken over 10000 draws (seed 0).")
    z_dim = tensors["mapping.fc0.weight"].shape[1]
    x = torch.randn(10_000, z_dim, generator=torch.Generator().manual_seed(0))
    x = x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    for i in range(n_mlp):
        weight, bias = tensors[f"mapping.fc{i}.weight"], tensors[f"mapping.fc{i}.bias"]
        x = F.leaky_relu(F.linear(x, weight * (0.01 / math.sqrt(weight.shape[1])), bias * 0.01), 0.2)
        x = x * math.sqrt(2)
    return x.mean(0)


def _pggan(network: Network) -> tuple[dict, dict[str, Tensor]]:
    tensors = _floats(network)
    n_blocks = sum(re.fullmatch(r"output\d+\.conv\.weight", name) is not None for name in tensors)
    channels = [_shape(tensors, "layer0.conv.weight", 4)[1]]
    for k in range(n_blocks):
        width, kernel = _shape(tensors, f"layer{2 * k}.conv.weight", 4)[0], 3 if k else 4
        _expect(tensors, f"layer{2 * k}.conv.weight", width, channels[-1], kernel, kernel)
        _expect(tensors, f"layer{2 * k + 1}.conv.weight", width, width, 3, 3)
        channels.append(width)
    picture = _picture(tensors, f"output{n_blocks - 1}.conv.weight", 2 ** (n_blocks + 1))
    return {"resolution": picture["img_resolution"], "channels": channels, "z_dim": channels[0]}, tensors


def _floats(network: Network) -> dict[str, Tensor]:
    """The tensors in float32, without gaps in memory."""
    types = {tensor.dtype for tensor in network.tensors.values()}
    kinds = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in types))
    if not all(kind.is_floating_point for kind in types):
        raise ValueError(f"holds tensors of {kinds}; weights are floating-point numbers")
    if types != {torch.float32}:
        network.notes.append(f"Weights of {kinds} were turned into float32.")
    return {name: tensor.float().contiguous() for name, tensor in network.tensors.items()}


def _shape(tensors: dict[str, Tensor], name: str, n_dims: int) -> tuple[int, ...]:
    if name not in tensors or tensors[name].ndim != n_dims:
        got = "is missing" if name not in tensors else f"has shape {tuple(tensors[name].shape)}"
        raise ValueError(f"is incomplete or changed: tensor {name!r} of {n_dims} dimensions {got}")
    return tuple(tensors[name].shape)


def _take(left: dict[str, Tensor], name: str) -> Tensor:
    if name not in left or left[name].numel() == 0:
        raise ValueError(f"is incomplete: tensor {name!r} is missing")
    return left.pop(name)


def _expect(tensors: dict[str, Tensor], name: str, *shape: int) -> None:
    if _shape(tensors, name, len(shape)) != shape:
        raise ValueError(f"has a tensor {name!r} of shape {tuple(tensors[name].shape)} where {shape} belongs")


def _picture(tensors: dict[str, Tensor], to_rgb: str, size: int) -> dict[str, int]:
    n_channels = _shape(tensors, to_rgb, 4)[0]
    if n_channels != 3:
        raise ValueError(f"makes pictures of {n_channels} channels; only RGB generators are supported")
    if size > _MAX_PIXELS:
        raise ValueError(f"makes pictures of {size} pixels a side; up to {_MAX_PIXELS} are supported")
    return {"img_resolution": size, "img_channels": n_channels}


def _mapping_from_shapes(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """z_dim, c_dim, w_dim and mapping_kwargs of StyleGAN2 and 3."""
    n_layers = sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in tensors)
    hidden, n_in = _shape(tensors, "mapping.fc0.weight", 2)
    w_dim = _shape(tensors, f"mapping.fc{n_layers - 1}.weight", 2)[0]
    for i in range(1, n_layers):
        _expect(tensors, f"mapping.fc{i}.weight", hidden if i < n_layers - 1 else w_dim, hidden)
    settings: dict[str, Any] = {"num_layers": n_layers}
    n_embedded = c_dim = 0
    if "mapping.embed.weight" in tensors:
        n_embedded, c_dim = _shape(tensors, "mapping.embed.weight", 2)
        if n_embedded != w_dim:
            settings["embed_features"] = n_embedded
    if hidden != w_dim:
        settings["layer_features"] = hidden
    return {"z_dim": n_in - n_embedded, "c_dim": c_dim, "w_dim": w_dim, "mapping_kwargs": settings}


def _width_settings(blocks: list[int], widths: list[int]) -> dict[str, Any]:
    """channel_base and channel_max that give these widths, or else the widths themselves."""
    base, most = widths[-1] * blocks[-1], max(widths)
    if [min(base // size, most) for size in blocks] == widths:
        return {"channel_base": base, "channel_max": most}
    return {"channels": widths}


def _settings(given: dict, sizes: dict, *, n_layers: int) -> tuple[dict, dict]:
    """The file's arguments, checked against the shapes: those of the whole network, and the synthesis's own.

    n_layers : of the mapping, where the file does not say
    """
    given = {"c_dim": 0, "img_channels": 3, "mapping_kwargs": {}, **given}
    known = {key: given.pop(key, None) for key in TOP_SETTINGS}
    mapping, synthesis = known["mapping_kwargs"], given.pop("synthesis_kwargs", {})
    if not isinstance(mapping, dict) or not isinstance(synthesis, dict):
        raise ValueError("gives mapping_kwargs or synthesis_kwargs that are no dict")
    synthesis = {key: value for key, value in {**synthesis, **given}.items() if key not in _IGNORED_SETTINGS}
    hidden = {"num_layers": n_layers, "embed_features": sizes["w_dim"], "layer_features": sizes["w_dim"]}
    pairs = [(key, known[key], sizes[key]) for key in TOP_SETTINGS if key != "mapping_kwargs"]
    for key, default in hidden.items():
        declared = mapping.get(key)
        found = sizes["mapping_kwargs"].get(key, default)
        pairs.append((key, default if declared is None else declared, found))
    for key, declared, found in pairs:
        if declared != found:
            raise ValueError(f"declares {key} {declared!r} while its tensors make it {found}")
    return known, synthesis


_RECOGNISED: dict[str, tuple[str, Callable]] = {  # the tensor that only this layout has
    "synthesis.b4.const": ("stylegan2", _stylegan2),
    "synthesis.input.freqs": ("stylegan3", _stylegan3),
    "input.input": ("stylegan2", _rosinality),
    "output0.conv.weight": ("pggan", _pggan),
}
