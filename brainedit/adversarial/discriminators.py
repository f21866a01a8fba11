"""The two discriminators: StyleGAN2's residual one, and small heads on the maps of a frozen network."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from brainedit.encoders.image import make_image_encoder
from brainedit.generators.mapping import unit_second_moment

STAGES = (3, 5, 11, 16)  # blocks of EfficientNet-Lite0 before its maps shrink: strides 4, 8, 16, 32


class FrozenFeatures(nn.Module):
    """Maps of EfficientNet-Lite0 at strides 4, 8, 16 and 32, mixed by fixed random convolutions.

    images (n, 3, height, width), -1 to 1, are brought to `size` and give four maps (n, width, size / stride, same).
    A 1 x 1 convolution mixes the channels of each map; from the deepest map up, each is upsampled, added
    to the next and mixed by a 3 x 3 convolution. All are drawn once from `seed` and never trained.

    Source: Sauer et al., NeurIPS 2021, section 3. Differs: the same width at every scale, and each channel is
    brought to mean 0 and variance 1 on real pictures (`calibrate`), without which the heads win at once.
    """

    def __init__(self, *, size: int, width: int = 64, weights: str = "pretrained", seed: int = 0):
        super().__init__()
        self.size, self.width = size, width
        self.encoder = make_image_encoder("efficientnet_lite0", weights=weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            channels = _n_channels(self.encoder)
            self.across_channels = nn.ModuleList(nn.Conv2d(c, width, 1, bias=False) for c in channels)
            self.across_scales = nn.ModuleList(
                nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in channels[1:]
            )
            for layer in (*self.across_channels, *self.across_scales):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        for i in range(len(STAGES)):
            self.register_buffer(f"mean{i}", torch.zeros(1, width, 1, 1))
            self.register_buffer(f"scale{i}", torch.ones(1, width, 1, 1))
        self.requires_grad_(False)

    @property
    def map_sizes(self) -> list[int]:
        """Sides of the maps, finest first."""
        return [math.ceil(self.size / stride) for stride in (4, 8, 16, 32)]

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Measure each channel's mean and variance on real pictures."""
        parts = [self._mixed(part) for part in images.split(64)]
        for i, maps in enumerate(zip(*parts, strict=True)):
            x = torch.cat(maps)
            getattr(self, f"mean{i}").copy_(x.mean((0, 2, 3), keepdim=True))
            getattr(self, f"scale{i}").copy_(x.var((0, 2, 3), keepdim=True).clamp_min(1e-12).rsqrt())

    def forward(self, images: Tensor) -> list[Tensor]:
        return [
            (x - getattr(self, f"mean{i}")) * getattr(self, f"scale{i}")
            for i, x in enumerate(self._mixed(images))
        ]

    def _mixed(self, images: Tensor) -> list[Tensor]:
        maps = [mix(x) for mix, x in zip(self.across_channels, self._stages(images), strict=True)]
        mixed = [maps[-1]]
        for mix, x in zip(reversed(self.across_scales), reversed(maps[:-1]), strict=True):
            above = F.interpolate(mixed[0], size=x.shape[-2:], mode="bilinear")
            mixed.insert(0, mix((x + above) / math.sqrt(2)))
        return mixed

    def _stages(self, images: Tensor) -> list[Tensor]:
        if images.shape[-1] != self.size:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        network = self.encoder.network.network
        x = (images * 0.5 + 0.5 - self.encoder.mean) / self.encoder.std
        x = network._swish(network._bn0(network._conv_stem(x)))
        stages = []
        for i, block in enumerate(network._blocks, start=1):
            x = block(x)
            if i in STAGES:
                stages.append(x)
        return stages


class ProjectedDiscriminator(nn.Module):
    """Spectrally normed heads, one for each map of `FrozenFeatures`; with a condition, projection heads.

    forward: maps, condition (n, c_dim) or None -> logits (n, n_logits) of all heads and places

    Source: Sauer et al., NeurIPS 2021, section 3; projection: Miyato & Koyama, ICLR 2018.
    """

    def __init__(self, map_sizes: list[int], *, width: int = 64, c_dim: int = 0, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(_Head(size, width, c_dim) for size in map_sizes)

    def forward(self, maps: list[Tensor], condition: Tensor | None = None) -> Tensor:
        logits = [head(x, condition).flatten(1) for head, x in zip(self.heads, maps, strict=True)]
        return torch.cat(logits, 1)


class _Head(nn.Module):
    """Halves a map until 8 pixels (4 for small maps) are left, then one logit for each 4 x 4 window."""

    def __init__(self, size: int, width: int, c_dim: int):
        super().__init__()
        end = 8 if size > 8 else 4
        layers: list[nn.Module] = []
        if size <= end:
            layers += [spectral_norm(nn.Conv2d(width, width, 3, padding=1)), nn.LeakyReLU(0.2)]
        while size > end:
            layers += [spectral_norm(nn.Conv2d(width, width, 4, stride=2, padding=1)), nn.BatchNorm2d(width)]
            layers += [nn.LeakyReLU(0.2)]
            size //= 2
        self.body = nn.Sequential(*layers)
        n_out = width if c_dim else 1
        self.out = spectral_norm(nn.Conv2d(width, n_out, min(size, 4)))
        if c_dim:
            self.embed = nn.Linear(c_dim, n_out)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.out(self.body(x))
        if condition is None:
            return x
        embedded = unit_second_moment(self.embed(condition))
        return (x * embedded[:, :, None, None]).mean(1, keepdim=True) * math.sqrt(x.shape[1])


def _n_channels(encoder: nn.Module) -> list[int]:
    blocks = encoder.network.network._blocks
    return [blocks[k - 1]._project_conv.out_channels for k in STAGES]
