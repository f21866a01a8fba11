"""StyleGAN2 and StyleGAN2-ADA in plain torch, with the parameter names of the reference implementation."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainedit.generators.base import Generator, Noise

_MAPPING_DEFAULTS = {
    "num_layers": 8,
    "embed_features": None,
    "layer_features": None,
    "activation": "lrelu",
    "lr_multiplier": 0.01,
    "w_avg_beta": 0.995,  # training only
}
_SYNTHESIS_DEFAULTS = {
    "channel_base": 32768,
    "channel_max": 512,
    "num_fp16_res": 0,  # ours computes in the type of its weights
    "conv_clamp": None,
    "architecture": "skip",
    "resample_filter": (1, 3, 3, 1),
    "activation": "lrelu",
    "use_noise": True,
    "fp16_channels_last": False,
}


class StyleGAN2(Generator):
    """StyleGAN2 with skip architecture; noise is the constant noise stored with the weights.

    The arguments are the reference constructor's own; weights start as in training, drawn from `seed`.

    c_dim : number of classes, 0 for none; then `map` needs labels

    Raises ValueError for an unknown or unsupported setting.
    Source: Karras et al., CVPR 2020, and Karras et al., NeurIPS 2020. Differs: activations are scaled
    instead of weights (the same in exact arithmetic), no reduced precision.
    """

    architecture = "stylegan2"

    def __init__(
        self,
        *,
        z_dim: int,
        w_dim: int,
        img_resolution: int,
        c_dim: int = 0,
        img_channels: int = 3,
        mapping_kwargs: Mapping[str, Any] | None = None,
        synthesis_kwargs: Mapping[str, Any] | None = None,
        name: str = "stylegan2",
        licence: str = "Licence unknown: ask whoever trained these weights.",
        seed: int = 0,
    ):
        super().__init__()
        mapping = _settings("mapping_kwargs", mapping_kwargs or {}, _MAPPING_DEFAULTS)
        synthesis = _settings("synthesis_kwargs", synthesis_kwargs or {}, _SYNTHESIS_DEFAULTS)
        _check_supported(img_resolution, img_channels, mapping, synthesis)
        self.kwargs = {
            "z_dim": z_dim,
            "c_dim": c_dim,
            "w_dim": w_dim,
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            "mapping_kwargs": dict(mapping_kwargs or {}),
            "synthesis_kwargs": dict(synthesis_kwargs or {}),
        }
        self.name, self.licence = name, licence
        self.spaces = ("z", "w", "w+")
        self.z_dim, self.w_dim, self.c_dim = z_dim, w_dim, c_dim
        self.image_size = img_resolution
        self.mapping = _Mapping(z_dim, c_dim, w_dim, mapping)
        resolutions = [2**i for i in range(2, int(math.log2(img_resolution)) + 1)]
        channels = {r: min(synthesis["channel_base"] // r, synthesis["channel_max"]) for r in resolutions}
        self.synthesis = nn.ModuleDict(
            {f"b{r}": _Block(channels.get(r // 2, 0), channels[r], w_dim, r, synthesis) for r in resolutions}
        )
        self.n_layers = 2 * len(resolutions)
        _draw_weights(self, seed)

    def map(self, z: Tensor, *, labels: Tensor | int | None = None) -> Tensor:
        """z (n, z_dim) -> w (n, w_dim).

        labels : needed by a conditional generator, refused by others

        Raises ValueError when z or labels do not fit.
        """
        z = self.check_latents(z, space="z")
        return self.mapping(z, self.check_labels(labels, len(z)))

    def mean_w(self) -> Tensor:
        """The running mean of w (w_dim,) kept in training."""
        return self.mapping.w_avg

    def raw_images(
        self, latents: Tensor, *, space: str, labels: Tensor | int | None = None, noise: Noise = "const"
    ) -> Tensor:
        """The network's output (n, 3, height, width), about -1 to 1 and beyond."""
        latents = self.w_plus(latents, space=space, labels=labels)
        noise = self.check_noise(noise)
        x = image = None
        for i, block in enumerate(self.synthesis.values()):
            # the last of a block's latents is the first of the next block's
            x, image = block(x, image, latents[:, max(2 * i - 1, 0) : 2 * i + 2])
        return image

    def style_weights(self) -> tuple[Tensor, ...]:
        """Per w+ layer the matrix (n_channels, w_dim) from latent to styles: convolution, then RGB if any."""
        rows: list[list[Tensor]] = [[] for _ in range(self.n_layers)]
        for i, block in enumerate(self.synthesis.values()):
            for name, layer in {"conv0": 2 * i - 1, "conv1": 2 * i, "torgb": 2 * i + 1}.items():
                if hasattr(block, name):
                    affine = getattr(block, name).affine
                    rows[layer].append((affine.weight * affine.weight_gain).detach())
        return tuple(torch.cat(row) for row in rows)


class _Mapping(nn.Module):
    def __init__(self, z_dim: int, c_dim: int, w_dim: int, settings: dict[str, Any]):
        super().__init__()
        embed_features = (settings["embed_features"] or w_dim) if c_dim else 0
        hidden = settings["layer_features"] or w_dim
        n = settings["num_layers"]
        widths = [z_dim + embed_features] + [hidden] * (n - 1) + [w_dim]
        if c_dim:
            self.embed = _Linear(c_dim, embed_features)
        self.layers = [f"fc{i}" for i in range(n)]
        for i, name in enumerate(self.layers):
            self.add_module(name, _Linear(widths[i], widths[i + 1], lr_multiplier=settings["lr_multiplier"]))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        x = _unit_second_moment(z)
        if labels is not None:
            x = torch.cat([x, _unit_second_moment(self.embed(labels.to(z.dtype)))], dim=1)
        for name in self.layers:
            x = F.leaky_relu(getattr(self, name)(x), 0.2) * math.sqrt(2)
        return x


class _Block(nn.Module):
    """One resolution: up to two convolutions, then its share of the RGB picture."""

    def __init__(self, n_in: int, n_out: int, w_dim: int, resolution: int, settings: dict[str, Any]):
        super().__init__()
        fir, clamp = settings["resample_filter"], settings["conv_clamp"]
        noise = resolution if settings["use_noise"] else None
        self.register_buffer("resample_filter", _fir(fir))
        if n_in == 0:
            self.const = nn.Parameter(torch.zeros(n_out, resolution, resolution))
        else:
            self.conv0 = _StyledConv(n_in, n_out, w_dim, noise=noise, up=True, fir=fir, clamp=clamp)
        self.conv1 = _StyledConv(n_out, n_out, w_dim, noise=noise, fir=fir, clamp=clamp)
        self.torgb = _ToRGB(n_out, w_dim, clamp=clamp)

    def forward(self, x: Tensor | None, image: Tensor | None, w: Tensor) -> tuple[Tensor, Tensor]:
        if x is None:
            x = self.const.expand(len(w), -1, -1, -1)
        else:
            x = self.conv0(x, w[:, 0])
        x = self.conv1(x, w[:, -2])
        rgb = self.torgb(x, w[:, -1])
        return x, rgb if image is None else rgb + _upsample(image, self.resample_filter)


class _StyledConv(nn.Module):
    """Modulated 3 x 3 convolution (upsampling by 2 if `up`), constant noise, bias, leaky ReLU."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        w_dim: int,
        *,
        noise: int | None,
        fir: tuple[float, ...],
        clamp: float | None,
        up: bool = False,
    ):
        super().__init__()
        self.up, self.clamp = up, clamp
        self.affine = _Linear(w_dim, n_in)
        self.weight = nn.Parameter(torch.zeros(n_out, n_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.register_buffer("resample_filter", _fir(fir))
        if noise:
            self.register_buffer("noise_const", torch.zeros(noise, noise))
            self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w)
        squares = self.weight.square().sum((2, 3))  # (n_out, n_in)
        demodulation = (style.square() @ squares.T + 1e-8).rsqrt()
        x = x * style[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            x = _filter(x, 4 * self.resample_filter)
        else:
            x = F.conv2d(x, self.weight, padding=1)
        x = x * demodulation[:, :, None, None]
        if hasattr(self, "noise_const"):
            x = x + self.noise_const * self.noise_strength
        x = F.leaky_relu(x + self.bias[:, None, None], 0.2) * math.sqrt(2)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class _ToRGB(nn.Module):
    """Modulated 1 x 1 convolution to RGB, without demodulation or noise."""

    def __init__(self, n_in: int, w_dim: int, *, clamp: float | None):
        super().__init__()
        self.clamp = clamp
        self.affine = _Linear(w_dim, n_in)
        self.weight = nn.Parameter(torch.zeros(3, n_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w) / math.sqrt(self.weight.shape[1])
        x = F.conv2d(x * style[:, :, None, None], self.weight, self.bias)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class _Linear(nn.Module):
    """Fully connected layer whose stored weights are scaled at run time (equalised learning rate)."""

    def __init__(self, n_in: int, n_out: int, *, lr_multiplier: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.lr_multiplier = lr_multiplier
        self.weight_gain = lr_multiplier / math.sqrt(n_in)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.lr_multiplier)


def _unit_second_moment(x: Tensor) -> Tensor:
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def _fir(taps: tuple[float, ...]) -> Tensor:
    taps = torch.as_tensor(taps, dtype=torch.float32)
    return torch.outer(taps, taps) / taps.sum() ** 2


def _filter(x: Tensor, fir: Tensor) -> Tensor:
    """Each channel of x convolved with a 4 x 4 filter; one row and one column fewer come back."""
    n_channels = x.shape[1]
    return F.conv2d(x, fir.flip(0, 1).expand(n_channels, 1, -1, -1), padding=1, groups=n_channels)


def _upsample(image: Tensor, fir: Tensor) -> Tensor:
    """Twice the size: zeros between the pixels, then the 4 x 4 filter; both in one transposed convolution."""
    n_channels = image.shape[1]
    taps = (4 * fir).expand(n_channels, 1, -1, -1)
    return F.conv_transpose2d(image, taps, stride=2, padding=1, groups=n_channels)


def _settings(kind: str, given: Mapping[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise ValueError(f"StyleGAN2's {kind} has no setting {unknown[0]!r}; known: {', '.join(defaults)}.")
    return {**defaults, **given}


def _check_supported(size: int, n_channels: int, mapping: dict[str, Any], synthesis: dict[str, Any]) -> None:
    if size < 8 or size & (size - 1):
        raise ValueError(f"StyleGAN2's img_resolution must be a power of 2 from 8 up; got {size}.")
    if n_channels != 3:
        raise ValueError(f"Only RGB generators are supported; this one has img_channels {n_channels}.")
    if synthesis["architecture"] != "skip":
        raise ValueError(f"Only architecture 'skip' is supported; got {synthesis['architecture']!r}.")
    if len(synthesis["resample_filter"]) != 4:
        raise ValueError(
            f"Only a resample_filter of 4 taps is supported; got {synthesis['resample_filter']}."
        )
    for settings in (mapping, synthesis):
        if settings["activation"] != "lrelu":
            raise ValueError(f"Only activation 'lrelu' is supported; got {settings['activation']!r}.")


@torch.no_grad()
def _draw_weights(generator: StyleGAN2, seed: int) -> None:
    """Starting weights: N(0, 1), over the learning-rate multiplier in the mapping; styles biased to 1."""
    source = torch.Generator().manual_seed(seed)
    for name, tensor in generator.state_dict().items():
        if name.endswith(("weight", "const", "noise_const")):
            tensor.normal_(generator=source)
        if name.endswith("affine.bias"):
            tensor.fill_(1.0)
    for name in generator.mapping.layers:
        layer = getattr(generator.mapping, name)
        layer.weight /= layer.lr_multiplier
    if generator.c_dim == 0:
        z = torch.randn(1000, generator.z_dim, generator=source)
        generator.mapping.w_avg.copy_(generator.map(z).mean(0))
