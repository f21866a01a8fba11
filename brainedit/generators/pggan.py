"""The Progressive GAN in plain torch, with the parameter names of its widely shared PyTorch port."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainedit.generators.base import Generator, Noise


class PGGAN(Generator):
    """Progressive GAN: z on a sphere, then pairs of convolutions from 4 pixels up to `resolution`.

    The network divides z by its own length, so only z's direction matters. Weights start as in training,
    drawn from `seed`.

    resolution : pixels, a power of 2 from 8 to 1024
    channels : width of z, then of the maps at 4, 8, ... pixels; default min(16384 / pixels, 512) as published
    z_dim : width of z, the same as channels[0]

    Raises ValueError for a size or widths that make no such network.
    Source: Karras et al., ICLR 2018 (table 2 and section 4). Differs: doubling and convolution are one
    transposed convolution (the same in exact arithmetic, in half the time).
    """

    architecture = "pggan"
    normalises_z = True

    def __init__(
        self,
        *,
        resolution: int,
        channels: Sequence[int] | None = None,
        z_dim: int = 512,
        name: str = "pggan",
        licence: str = "Licence unknown: ask whoever trained these weights.",
        seed: int = 0,
    ):
        super().__init__()
        widths = _widths(resolution, channels, z_dim)
        self.kwargs = {"resolution": resolution, "channels": widths, "z_dim": z_dim}
        self.name, self.licence = name, licence
        self.spaces = ("z",)
        self.z_dim, self.image_size = z_dim, resolution
        self.n_blocks = len(widths) - 1
        for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            first = _DoublingLayer(n_in, n_out, kernel=3) if i else _FirstLayer(n_in, n_out, kernel=4)
            self.add_module(f"layer{2 * i}", first)
            self.add_module(f"layer{2 * i + 1}", _Layer(n_out, n_out, kernel=3))
            self.add_module(f"output{i}", _Layer(n_out, 3, kernel=1, linear=True))
        self.register_buffer("lod", torch.zeros(()))  # level of detail: doublings not yet trained
        _draw_weights(self, seed)

    def raw_images(
        self, latents: Tensor, *, space: str, labels: Tensor | int | None = None, noise: Noise = "const"
    ) -> Tensor:
        """The network's output (n, 3, height, width), about -1 to 1 and beyond.

        While `lod` is above 0 the last blocks are left out, as in training, and the picture is doubled instead.
        """
        x = self.check_latents(latents, space=space)
        self.check_labels(labels, len(x))
        self.check_noise(noise)
        fade, skipped = math.modf(self._level())
        last = self.n_blocks - 1 - int(skipped)
        image = None
        for i in range(last + 1):
            x = self.get_submodule(f"layer{2 * i}")(x)
            x = self.get_submodule(f"layer{2 * i + 1}")(x)
            if i == last or (fade and i == last - 1):
                rgb = self.get_submodule(f"output{i}")(x)
                image = rgb if image is None else rgb.lerp(F.interpolate(image, scale_factor=2.0), fade)
        return F.interpolate(image, scale_factor=2.0 ** int(skipped)) if skipped else image

    def style_weights(self) -> tuple[Tensor, ...]:
        """The first layer's matrix (n_channels * 16, z_dim) from normalised z to its 4 x 4 map."""
        return (self.layer0.kernel().detach(),)

    def _level(self) -> float:
        level = self.lod.item()
        if not 0 <= level <= self.n_blocks - 1:
            raise ValueError(
                f"{self.name} has levels of detail 0 to {self.n_blocks - 1}; its lod is {level}."
            )
        return level


class _Layer(nn.Module):
    """Each pixel normalised, a convolution with scaled weights (equalised learning rate), leaky ReLU."""

    def __init__(self, n_in: int, n_out: int, *, kernel: int, linear: bool = False):
        super().__init__()
        self.linear = linear
        self.scale = (1.0 if linear else math.sqrt(2)) / math.sqrt(n_in * kernel**2)
        self.conv = nn.Conv2d(n_in, n_out, kernel, bias=False)
        self.wscale = nn.ParameterDict({"bias": torch.zeros(n_out)})
        self._cached: tuple[Tensor, int, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        x = self.convolve(x, self.kernel(), self.wscale["bias"])
        return x if self.linear else F.leaky_relu(x, 0.2)

    def kernel(self) -> Tensor:
        """The weights as `convolve` wants them; computed once for weights that stay as they are."""
        weight = self.conv.weight
        if weight.requires_grad:
            return self.prepare(weight * self.scale)
        held = self._cached  # holds the weights too, so that no others can come to lie at their address
        if held is None or held[0].data_ptr() != weight.data_ptr() or held[1] != weight._version:
            held = self._cached = (weight.detach(), weight._version, self.prepare(weight * self.scale))
        return held[2]

    def prepare(self, weight: Tensor) -> Tensor:
        return weight.contiguous(memory_format=torch.channels_last)

    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)


class _FirstLayer(_Layer):
    """z (n, z_dim) -> (n, n_out, 4, 4): a 4 x 4 convolution of one pixel that is padded by 3."""

    def prepare(self, weight: Tensor) -> Tensor:
        """(n_out * 16, z_dim); the place (y, x) meets the kernel's (3 - y, 3 - x)."""
        return weight.flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2)

    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        x = F.linear(x, kernel).unflatten(1, (-1, 4, 4)) + bias[:, None, None]
        return x.contiguous(memory_format=torch.channels_last)  # the convolutions behind it keep the format


class _DoublingLayer(_Layer):
    """Every pixel twice in height and width, then the convolution."""

    def prepare(self, weight: Tensor) -> Tensor:
        """A 3 x 3 kernel over doubled pixels is a 4 x 4 kernel over pixels two apart."""
        w = F.pad(weight.flip(2, 3), (1, 1, 1, 1))
        w = w[:, :, 1:, 1:] + w[:, :, :-1, 1:] + w[:, :, 1:, :-1] + w[:, :, :-1, :-1]
        return w.transpose(0, 1).contiguous(memory_format=torch.channels_last)

    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)


def _widths(resolution: int, channels: Sequence[int] | None, z_dim: int) -> list[int]:
    """Width of z and of the maps of each block."""
    if resolution not in [2**k for k in range(3, 11)]:
        raise ValueError(f"PGGAN's resolution must be a power of 2 from 8 to 1024; got {resolution}.")
    sizes = [2**k for k in range(2, resolution.bit_length())]
    if channels is None:
        channels = [z_dim] + [min(16384 // size, 512) for size in sizes]
    widths = list(channels)
    if len(widths) != len(sizes) + 1 or min(widths) < 1:
        raise ValueError(
            f"PGGAN at {resolution} pixels needs {len(sizes) + 1} widths of 1 or more in channels; got {widths}."
        )
    if widths[0] != z_dim:
        raise ValueError(f"The first of PGGAN's channels is z_dim, {z_dim}; got {widths[0]}.")
    return widths


@torch.no_grad()
def _draw_weights(generator: PGGAN, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    for name, tensor in generator.state_dict().items():
        if name.endswith("conv.weight"):
            tensor.normal_(generator=source)
