"""StyleGAN2's residual discriminator in plain torch, differentiable twice."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainedit.generators.mapping import Linear


class StyleGAN2Discriminator(nn.Module):
    """Pictures (n, 3, size, size), -1 to 1, and conditions (n, c_dim) or None -> logits (n,).

    channel_base, channel_max : channels at a resolution are channel_base / resolution, at most channel_max
    group : pictures whose spread is compared in the minibatch-stddev channel

    Source: Karras et al., CVPR 2020, section 4.1; projection: Miyato & Koyama, ICLR 2018. Differs: a
    condition is embedded by one normalised layer.
    """

    def __init__(
        self,
        *,
        size: int,
        c_dim: int = 0,
        channel_base: int = 16384,
        channel_max: int = 512,
        group: int = 4,
        seed: int = 0,
    ):
        super().__init__()
        self.group = group
        resolutions = [size >> k for k in range(int(math.log2(size)) - 1)]  # size ... 4
        widths = [min(channel_base // r, channel_max) for r in resolutions]
        self.from_rgb = _Conv(3, widths[0], 1)
        self.blocks = nn.ModuleList(_Residual(a, b) for a, b in pairwise(widths))
        self.conv = _Conv(widths[-1] + 1, widths[-1], 3)
        self.hidden = Linear(widths[-1] * 16, widths[-1])
        self.out = Linear(widths[-1], widths[-1] if c_dim else 1)
        if c_dim:
            self.embed = Linear(c_dim, widths[-1])
        source = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                parameter.data.normal_(generator=source)

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        x = _lrelu(self.from_rgb(images))
        for block in self.blocks:
            x = block(x)
        x = _lrelu(self.conv(torch.cat([x, batch_spread(x, self.group)], 1)))
        x = self.out(_lrelu(self.hidden(x.flatten(1))))
        if condition is None:
            return x[:, 0]
        embedded = self.embed(condition)
        embedded = embedded * (embedded.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        return (x * embedded).sum(1) / math.sqrt(x.shape[1])


def batch_spread(x: Tensor, group: int) -> Tensor:
    """One channel (n, 1, height, width): the mean standard deviation within groups of pictures.

    A group is every (n / group)-th picture; with a batch that does not divide, all pictures are one group.
    Source: Karras et al., ICLR 2018, section 3.
    """
    n = len(x)
    group = group if n % group == 0 else n
    grouped = x.unflatten(0, (group, n // group))
    spread = (grouped.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    return spread.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])


class _Residual(nn.Module):
    """Two convolutions, the second halving the size, beside a halved 1 x 1 path."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.conv0 = _Conv(n_in, n_in, 3)
        self.conv1 = _Conv(n_in, n_out, 3)
        self.skip = _Conv(n_in, n_out, 1, bias=False)
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("filter", torch.outer(taps, taps) / 64)

    def forward(self, x: Tensor) -> Tensor:
        y = _lrelu(self.conv0(x))
        y = _lrelu(self.conv1(self._blurred(y, padding=2), stride=2, padding=0))
        return (y + self.skip(self._blurred(x, padding=1, stride=2))) / math.sqrt(2)

    def _blurred(self, x: Tensor, *, padding: int, stride: int = 1) -> Tensor:
        taps = self.filter.expand(x.shape[1], 1, -1, -1)
        return F.conv2d(x, taps, padding=padding, stride=stride, groups=x.shape[1])


class _Conv(nn.Module):
    """Convolution whose weights N(0, 1) are scaled at run time."""

    def __init__(self, n_in: int, n_out: int, kernel: int, *, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_out, n_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.gain = 1 / math.sqrt(n_in * kernel**2)

    def forward(self, x: Tensor, *, stride: int = 1, padding: int | None = None) -> Tensor:
        padding = self.weight.shape[-1] // 2 if padding is None else padding
        return F.conv2d(x, self.weight * self.gain, self.bias, stride=stride, padding=padding)


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)
