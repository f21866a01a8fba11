"""Layers of StyleGAN2 whose input channels are scaled by a style, arranged for speed on a CPU."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainedit.generators.mapping import Linear

_GAIN = math.sqrt(2)  # of the leaky ReLU; it acts ahead of it, on weights, noise and bias
_STRIP = 64  # rows of a picture that are made at a time
_HALO = 4  # rows to either side that reach into a strip, twice those of its input


class Block(nn.Module):
    """One resolution: up to two convolutions, then its share of the RGB picture.

    n_in : channels of the resolution below; 0 for the first, which starts from a constant
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        w_dim: int,
        resolution: int,
        *,
        noise: bool,
        fir: Sequence[float],
        clamp: float | None,
    ):
        super().__init__()
        self.resolution = resolution
        self.register_buffer("resample_filter", _fir(fir))
        settings = {"noise": resolution if noise else None, "fir": fir, "clamp": clamp}
        if n_in == 0:
            self.const = nn.Parameter(torch.zeros(n_out, resolution, resolution))
        else:
            self.conv0 = StyledConv(n_in, n_out, w_dim, up=True, **settings)
        self.conv1 = StyledConv(n_out, n_out, w_dim, **settings)
        self.torgb = ToRGB(n_out, w_dim, clamp=clamp)
        self.convs = [name for name in ("conv0", "conv1") if hasattr(self, name)]

    def forward(
        self, x: Tensor | None, styles: Sequence[Tensor], noise: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """x (n, n_in, height, width) -> features and RGB of twice the size.

        styles : (n, n_channels) for each convolution, then for RGB
        noise : (height, width) or (n, 1, height, width) for each convolution, None for none
        """
        if x is None:
            x = self.const.expand(len(styles[0]), -1, -1, -1)
        for name, style, noise_map in zip(self.convs, styles, noise, strict=False):
            x = getattr(self, name)(x, style, noise_map)
        return x, self.torgb(x, styles[-1])

    def rgb_in_strips(self, x: Tensor, styles: Sequence[Tensor], noise: Sequence[Tensor | None]) -> Tensor:
        """The RGB of `forward`, a strip of rows at a time: the features never lie in memory as a whole."""
        strips = []
        for start in range(0, self.resolution, _STRIP):
            top, bottom = max(start - _HALO, 0), min(start + _STRIP + _HALO, self.resolution)
            part = [None if n is None else n[..., top:bottom, :] for n in noise]
            _, rgb = self(x[:, :, top // 2 : bottom // 2], styles, part)
            strips.append(rgb[:, :, start - top : start - top + _STRIP])
        return torch.cat(strips, dim=2)

    def upsample(self, image: Tensor) -> Tensor:
        """Twice the size: zeros between the pixels, then the FIR; both in one transposed convolution."""
        n_channels = image.shape[1]
        taps = (4 * self.resample_filter).to(image.dtype).expand(n_channels, 1, -1, -1)
        return F.conv_transpose2d(image, taps, stride=2, padding=1, groups=n_channels)


class StyledConv(nn.Module):
    """Modulated 3 x 3 convolution (upsampling by 2 if `up`), noise, bias, leaky ReLU."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        w_dim: int,
        *,
        noise: int | None,
        fir: Sequence[float],
        clamp: float | None,
        up: bool = False,
    ):
        super().__init__()
        self.up, self.clamp = up, clamp
        self.affine = Linear(w_dim, n_in)
        self.weight = nn.Parameter(_conv_weight(n_in, n_out, up=up))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.register_buffer("resample_filter", _fir(fir))
        if noise:
            self.register_buffer("noise_const", torch.zeros(noise, noise))
            self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        weight = self.weight.to(style.dtype)
        if x.dtype == torch.float16:  # without overflow: demodulation makes up for any scale
            weight = weight / (weight.abs().amax((1, 2, 3), keepdim=True) * math.sqrt(weight[0].numel()))
            style = style / style.abs().amax(1, keepdim=True)
        modulate = self._weights_modulated if _one_alone(x) else self._activations_modulated
        x = modulate(x, weight, style, self.bias * _GAIN)
        if noise is not None:
            x += noise * (self.noise_strength * _GAIN)
        return _clamp(F.leaky_relu(x, 0.2, inplace=True), self.clamp)

    def _weights_modulated(self, x: Tensor, weight: Tensor, style: Tensor, bias: Tensor) -> Tensor:
        """One sample without gradients: style and demodulation go into the filters."""
        weight = weight * style[:, :, None, None]
        demodulation = _demodulation(weight.square().sum((1, 2, 3)))[:, None, None, None]
        if self.up:
            return self._smooth(self._convolve(x, weight), demodulation, bias)
        return self._convolve(x, weight.mul_(demodulation), bias)

    def _activations_modulated(self, x: Tensor, weight: Tensor, style: Tensor, bias: Tensor) -> Tensor:
        """Any number of samples: style and demodulation scale what goes into and comes out of one convolution."""
        demodulation = _demodulation(style.square() @ weight.square().sum((2, 3)).T)
        x = self._convolve(x * style[:, :, None, None].to(x.dtype), weight)
        if self.up:
            x = self._smooth(x)
        return torch.addcmul(bias[:, None, None].to(x.dtype), x, demodulation[:, :, None, None].to(x.dtype))

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        weight, bias = weight.to(x.dtype), bias if bias is None else bias.to(x.dtype)
        if self.up:
            return F.conv_transpose2d(x, weight.transpose(0, 1), bias, stride=2)
        return F.conv2d(x, weight, bias, padding=1)

    def _smooth(self, x: Tensor, gain: Tensor | float = 1.0, bias: Tensor | None = None) -> Tensor:
        """Each channel convolved with the 4 x 4 filter; one row and one column fewer come back."""
        n_channels = x.shape[1]
        taps = gain * 4 * self.resample_filter.flip(0, 1).expand(n_channels, 1, -1, -1)
        bias = bias if bias is None else bias.to(x.dtype)
        return F.conv2d(x, taps.to(x.dtype), bias, padding=1, groups=n_channels)


class ToRGB(nn.Module):
    """Modulated 1 x 1 convolution to RGB without demodulation or noise; gives float32 or better."""

    def __init__(self, n_in: int, w_dim: int, *, clamp: float | None):
        super().__init__()
        self.clamp = clamp
        self.affine = Linear(w_dim, n_in)
        self.weight = nn.Parameter(torch.zeros(3, n_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        weight, style = self.weight, (style / math.sqrt(x.shape[1]))[:, :, None, None]
        if _one_alone(x):
            weight = weight * style
        else:
            x = x * style.to(x.dtype)
        image = F.conv2d(x, weight.to(x.dtype), self.bias.to(x.dtype))
        return _clamp(full_precision(image), self.clamp)


def full_precision(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _one_alone(x: Tensor) -> bool:
    """Whether modulated weights are faster than modulated activations; with gradients they are not."""
    return len(x) == 1 and not torch.is_grad_enabled()


def _demodulation(sums_of_squares: Tensor) -> Tensor:
    return (sums_of_squares + 1e-8).rsqrt() * _GAIN


def _clamp(x: Tensor, limit: float | None) -> Tensor:
    if limit is None:
        return x
    return x.clamp(-limit, limit) if torch.is_grad_enabled() else x.clamp_(-limit, limit)


def _conv_weight(n_in: int, n_out: int, *, up: bool) -> Tensor:
    """Zeros (n_out, n_in, 3, 3), in the order in memory that the (transposed) convolution reads fastest."""
    shape = (n_in, n_out, 3, 3) if up else (n_out, n_in, 3, 3)
    weight = torch.zeros(shape).contiguous(memory_format=torch.channels_last)
    return weight.transpose(0, 1) if up else weight


def _fir(taps: Sequence[float]) -> Tensor:
    taps = torch.as_tensor(taps, dtype=torch.float32)
    return torch.outer(taps, taps) / taps.sum() ** 2
