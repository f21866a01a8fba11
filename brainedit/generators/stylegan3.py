"""StyleGAN3, T and R, in plain torch, with the parameter names of the reference implementation."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.signal
import scipy.special
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainedit.generators.base import Generator, Noise
from brainedit.generators.mapping import Linear, MappingNetwork, known_settings

_MAPPING_DEFAULTS = {
    "num_layers": 2,
    "lr_multiplier": 0.01,
    "w_avg_beta": 0.998,  # training only
}
SYNTHESIS_DEFAULTS = {
    "channel_base": 32768,
    "channel_max": 512,
    "num_layers": 14,
    "num_critical": 2,
    "first_cutoff": 2,
    "first_stopband": 2**2.1,
    "last_stopband_rel": 2**0.3,
    "margin_size": 10,
    "output_scale": 0.25,
    "num_fp16_res": 4,  # ours computes in the type of its weights
    "conv_kernel": 3,
    "filter_size": 6,
    "lrelu_upsampling": 2,
    "use_radial_filters": False,
    "conv_clamp": 256,
    "magnitude_ema_beta": 0.999,  # training only
}
_HIGH_RATE_VALUES = 2**22  # how many a layer holds at its high rate at once


class StyleGAN3(Generator):
    """StyleGAN3 in configuration T (the defaults) or R (1 x 1 convolutions, radial filters); without noise.

    The arguments are the reference constructor's own; weights start as in training, drawn from `seed`.
    The space "s" holds the four numbers of the input's rotation and shift, then the styles of each layer.
    The buffer `synthesis["input"].transform` (3, 3) moves the whole picture; 1 is the picture's width.

    c_dim : number of classes, 0 for none; then `map` needs labels

    Raises ValueError for an unknown or unsupported setting.
    Source: Karras et al., NeurIPS 2021 (section 3 and appendix C). Differs: activations are scaled instead of
    weights, neither is normalised before demodulation cancels it, no reduced precision.
    """

    architecture = "stylegan3"
    normalises_z = True

    def __init__(
        self,
        *,
        z_dim: int,
        w_dim: int,
        img_resolution: int,
        c_dim: int = 0,
        img_channels: int = 3,
        mapping_kwargs: Mapping[str, Any] | None = None,
        name: str = "stylegan3",
        licence: str = "Licence unknown: ask whoever trained these weights.",
        seed: int = 0,
        **synthesis_kwargs: Any,
    ):
        super().__init__()
        mapping = known_settings("StyleGAN3's mapping_kwargs", mapping_kwargs or {}, _MAPPING_DEFAULTS)
        synthesis = known_settings("StyleGAN3's synthesis", synthesis_kwargs, SYNTHESIS_DEFAULTS)
        _check_supported(img_resolution, img_channels, synthesis)
        self.kwargs = {
            "z_dim": z_dim,
            "c_dim": c_dim,
            "w_dim": w_dim,
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            "mapping_kwargs": dict(mapping_kwargs or {}),
            **synthesis_kwargs,
        }
        self.name, self.licence = name, licence
        self.spaces = ("z", "w", "w+", "s")
        self.z_dim, self.w_dim, self.c_dim = z_dim, w_dim, c_dim
        self.image_size = img_resolution
        self.output_scale = synthesis["output_scale"]
        self.mapping = MappingNetwork(
            z_dim, c_dim, w_dim, {**mapping, "embed_features": 0, "layer_features": 0}
        )
        self.synthesis = _synthesis_layers(w_dim, img_resolution, synthesis)
        self.n_layers = len(self.synthesis)
        self.n_styles = sum(layer.affine.weight.shape[0] for layer in self.synthesis.values())
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

    def styles(self, w_plus: Tensor) -> Tensor:
        """w+ (n, n_layers, w_dim) -> s (n, n_styles): rotation and shift (4), then channel scales by layer."""
        layers = zip(self.synthesis.values(), w_plus.unbind(1), strict=True)
        return torch.cat([layer.affine(w) for layer, w in layers], dim=1)

    def raw_images(
        self, latents: Tensor, *, space: str, labels: Tensor | int | None = None, noise: Noise = "const"
    ) -> Tensor:
        """The network's output (n, 3, height, width), about -1 to 1 and beyond."""
        self.check_noise(noise)
        if space == "s" and labels is None:
            styles = self.check_latents(latents, space=space)
        else:
            styles = self.styles(self.w_plus(latents, space=space, labels=labels))
        layers = self.synthesis.values()
        x = None
        for layer, style in zip(
            layers, styles.split([len(m.affine.bias) for m in layers], dim=1), strict=True
        ):
            x = layer(style) if x is None else layer(x, style)
        return (x * self.output_scale).contiguous()

    def style_weights(self) -> tuple[Tensor, ...]:
        """Per w+ layer the matrix (n_features, w_dim) from latent to the input's transform, then to styles."""
        affines = [layer.affine for layer in self.synthesis.values()]
        return tuple((affine.weight * affine.weight_gain).detach() for affine in affines)


class Signal(NamedTuple):
    """What lies between two layers; rates and frequencies are per picture width."""

    size: int  # samples along a side, margin included
    sampling_rate: int
    cutoff: float
    half_width: float  # of the transition band
    n_channels: int


def layer_signals(resolution: int, settings: dict[str, Any]) -> list[Signal]:
    """The output signal of every layer: cutoff and stopband grow geometrically until the critical layers.

    Source: Karras et al., NeurIPS 2021, section 3.2.
    """
    n_layers = settings["num_layers"]
    last_cutoff = resolution / 2
    progress = np.minimum(np.arange(n_layers + 1) / (n_layers - settings["num_critical"]), 1)
    first, last = settings["first_stopband"], last_cutoff * settings["last_stopband_rel"]
    cutoffs = settings["first_cutoff"] * (last_cutoff / settings["first_cutoff"]) ** progress
    stopbands = first * (last / first) ** progress
    rates = np.exp2(np.ceil(np.log2(np.minimum(2 * stopbands, resolution))))
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    sizes = rates + 2 * settings["margin_size"]
    sizes[-2:] = resolution
    n_channels = np.rint(np.minimum(settings["channel_base"] / 2 / cutoffs, settings["channel_max"]))
    n_channels[-1] = 3
    columns = (sizes.astype(int), rates.astype(int), cutoffs, half_widths, n_channels.astype(int))
    return [Signal(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _synthesis_layers(w_dim: int, resolution: int, settings: dict[str, Any]) -> nn.ModuleDict:
    signals = layer_signals(resolution, settings)
    names = [f"L{i}_{signal.size}_{signal.n_channels}" for i, signal in enumerate(signals)]
    layers = nn.ModuleDict({"input": _Input(signals[0], w_dim)})
    for i in range(settings["num_layers"]):
        critical = i >= settings["num_layers"] - settings["num_critical"]
        radial = settings["use_radial_filters"] and not critical
        layers[names[i]] = _Layer(signals[max(i - 1, 0)], signals[i], w_dim, settings, radial=radial)
    layers[names[-1]] = _ToRGB(signals[-2].n_channels, w_dim, clamp=settings["conv_clamp"])
    return layers


class _Input(nn.Module):
    """Sine waves, rotated and shifted by the latent and then by `transform`, mixed into channels.

    Waves that leave the band of the sampling rate when `transform` scales them fade out.
    """

    def __init__(self, signal: Signal, w_dim: int):
        super().__init__()
        self.signal = signal
        n = signal.n_channels
        self.affine = Linear(w_dim, 4)
        self.weight = nn.Parameter(torch.zeros(n, n))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", torch.zeros(n, 2))
        self.register_buffer("phases", torch.zeros(n))

    @torch.no_grad()
    def draw_waves(self, source: torch.Generator) -> None:
        """Waves of random direction, spread over the disc of the bandwidth; no rotation, no shift."""
        freqs = torch.randn(self.freqs.shape, generator=source)
        radii = freqs.square().sum(1, keepdim=True).sqrt()
        self.freqs.copy_(self.signal.cutoff * freqs / (radii * radii.square().exp().pow(0.25)))
        self.phases.uniform_(-0.5, 0.5, generator=source)
        self.affine.weight.zero_()
        self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))

    def forward(self, style: Tensor) -> Tensor:
        size, rate, bandwidth, _, n_channels = self.signal
        cosine, sine, *shift = (style / style[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        rotation = torch.stack([cosine, -sine, sine, cosine], dim=1).view(-1, 2, 2)
        shift = -rotation @ torch.stack(shift, dim=1)[:, :, None]
        transform = torch.cat([rotation, shift], dim=2) @ self.transform  # (n, 2, 3)
        freqs = self.freqs @ transform[:, :, :2]  # (n, n_channels, 2)
        phases = self.phases + (self.freqs @ transform[:, :, 2:]).squeeze(2)
        amplitudes = (1 - (freqs.norm(dim=2) - bandwidth) / (rate / 2 - bandwidth)).clamp(0, 1)
        positions = (torch.arange(size, device=style.device, dtype=style.dtype) + 0.5 - size / 2) / rate
        along_x, along_y = (positions[:, None] * freqs[:, None, :, axis] for axis in (0, 1))
        angles = along_x[:, None] + along_y[:, :, None] + phases[:, None, None]  # (n, size, size, n_channels)
        waves = torch.sin(2 * math.pi * angles) * amplitudes[:, None, None]
        return F.linear(waves, self.weight / math.sqrt(n_channels)).permute(0, 3, 1, 2)  # channels last


class _Layer(nn.Module):
    """Modulated convolution and bias, then leaky ReLU at a higher rate between two low-pass filters."""

    def __init__(self, before: Signal, after: Signal, w_dim: int, settings: dict[str, Any], *, radial: bool):
        super().__init__()
        self.clamp, kernel = settings["conv_clamp"], settings["conv_kernel"]
        self.affine = Linear(w_dim, before.n_channels)
        self.weight = nn.Parameter(torch.zeros(after.n_channels, before.n_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after.n_channels))
        self.register_buffer("magnitude_ema", torch.ones(()))
        high_rate = settings["lrelu_upsampling"] * max(before.sampling_rate, after.sampling_rate)
        self.up, self.down = high_rate // before.sampling_rate, high_rate // after.sampling_rate
        taps = settings["filter_size"]
        n_up, n_down = (taps * factor if factor > 1 else 1 for factor in (self.up, self.down))
        self.register_buffer("up_filter", _low_pass(before, n_taps=n_up, rate=high_rate))
        self.register_buffer("down_filter", _low_pass(after, n_taps=n_down, rate=high_rate, radial=radial))
        # the output needs so many high-rate samples, from the middle of those that filtering gives
        self.high_size = (after.size - 1) * self.down + n_down
        padding = self.high_size + n_up - 1 - (before.size + kernel - 1) * self.up
        self.first = n_up - 1 - (padding + self.up) // 2

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        squares = self.weight.square().sum((2, 3))  # (n_out, n_in)
        gain = (self.magnitude_ema * (style.square() @ squares.T + 1e-8)).rsqrt()
        x = F.conv2d(x * style[:, :, None, None], self.weight, padding=self.weight.shape[2] - 1)
        x = x * gain[:, :, None, None] + self.bias[:, None, None]
        # a few channels at a time, in sixteens for speed: the high rate takes much memory
        group = 16 * max(_HIGH_RATE_VALUES // (16 * len(x) * self.high_size**2), 1)
        return torch.cat([self._activate(part) for part in x.split(group, dim=1)], dim=1)

    def _activate(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)  # several times as fast on a CPU
        # the gain of leaky ReLU acts ahead of it
        x = _upsample(x, self.up_filter, self.up, first=self.first, size=self.high_size, gain=math.sqrt(2))
        x = F.leaky_relu(x, 0.2, inplace=True)
        if self.clamp is not None:
            x = x.clamp(-self.clamp, self.clamp)
        return _downsample(x, self.down_filter, self.down)


class _ToRGB(nn.Module):
    """Modulated 1 x 1 convolution to RGB, without demodulation or filters."""

    def __init__(self, n_in: int, w_dim: int, *, clamp: float | None):
        super().__init__()
        self.clamp = clamp
        self.affine = Linear(w_dim, n_in)
        self.weight = nn.Parameter(torch.zeros(3, n_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.register_buffer("magnitude_ema", torch.ones(()))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        style = style * (self.weight.shape[1] * self.magnitude_ema).rsqrt()
        x = F.conv2d(x * style[:, :, None, None], self.weight, self.bias)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


def _low_pass(signal: Signal, *, n_taps: int, rate: int, radial: bool = False) -> Tensor | None:
    """Kaiser-windowed sinc (n_taps,), or jinc (n_taps, n_taps), that keeps the signal's band; None for 1 tap.

    Source: Karras et al., NeurIPS 2021, appendix C.
    """
    if n_taps == 1:
        return None
    width = 2 * signal.half_width
    if not radial:
        taps = scipy.signal.firwin(n_taps, signal.cutoff, width=width, fs=rate)
        return torch.as_tensor(taps, dtype=torch.float32)
    times = (np.arange(n_taps) - (n_taps - 1) / 2) / rate
    radius = np.maximum(np.hypot(times, times[:, None]), 1e-9 / rate)  # jinc has a limit at 0
    jinc = scipy.special.j1(2 * np.pi * signal.cutoff * radius) / radius
    beta = scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(n_taps, width / (rate / 2)))
    window = np.kaiser(n_taps, beta)
    taps = jinc * np.outer(window, window)
    return torch.as_tensor(taps / taps.sum(), dtype=torch.float32)


def _upsample(x: Tensor, taps: Tensor | None, factor: int, *, first: int, size: int, gain: float) -> Tensor:
    """`gain` times the samples `first` to `first + size` a side, of x convolved with taps at `factor` the rate."""
    n_channels, n_in = x.shape[1:3]
    taps = (x.new_ones(1) if taps is None else taps) * (factor * math.sqrt(gain))
    n_taps = len(taps)
    # without the pixels that count for none of these samples, with zeros where samples lie outside
    start = min(max(-((n_taps - 1 - first) // factor), 0), first // factor)
    crop = first - start * factor
    stop = max(min(n_in, (first + size - 1) // factor + 1), start - (n_taps - size - 2 * crop) // factor + 1)
    x = F.pad(x, (-start, stop - n_in, -start, stop - n_in))
    taps = taps.expand(n_channels, 1, 1, -1)
    x = F.conv_transpose2d(x, taps, stride=(1, factor), padding=(0, crop), groups=n_channels)[..., :size]
    taps = taps.transpose(2, 3)
    return F.conv_transpose2d(x, taps, stride=(factor, 1), padding=(crop, 0), groups=n_channels)[:, :, :size]


def _downsample(x: Tensor, taps: Tensor | None, factor: int) -> Tensor:
    """Every `factor`-th sample a side of x convolved with taps, where they overlap in full."""
    if taps is None:
        return x
    n_channels = x.shape[1]
    if taps.ndim == 2:
        return F.conv2d(x, taps.flip(0, 1).expand(n_channels, 1, -1, -1), stride=factor, groups=n_channels)
    taps = taps.flip(0).expand(n_channels, 1, 1, -1)
    x = F.conv2d(x, taps, stride=(1, factor), groups=n_channels)
    return F.conv2d(x, taps.transpose(2, 3), stride=(factor, 1), groups=n_channels)


def _check_supported(size: int, n_channels: int, synthesis: dict[str, Any]) -> None:
    if size < 8 or size & (size - 1):
        raise ValueError(f"StyleGAN3's img_resolution must be a power of 2 from 8 up; got {size}.")
    if n_channels != 3:
        raise ValueError(f"Only RGB generators are supported; this one has img_channels {n_channels}.")
    n_layers, n_critical = synthesis["num_layers"], synthesis["num_critical"]
    if not 0 <= n_critical < n_layers:
        raise ValueError(f"num_critical must lie in 0 to num_layers - 1, {n_layers - 1}; got {n_critical}.")


@torch.no_grad()
def _draw_weights(generator: StyleGAN3, seed: int) -> None:
    """Starting weights: N(0, 1), over the learning-rate multiplier in the mapping; styles biased to 1."""
    source = torch.Generator().manual_seed(seed)
    for name, tensor in generator.state_dict().items():
        if name.endswith("weight"):
            tensor.normal_(generator=source)
        if name.endswith("affine.bias"):
            tensor.fill_(1.0)
    generator.synthesis["input"].draw_waves(source)
    generator.mapping.start(source)
