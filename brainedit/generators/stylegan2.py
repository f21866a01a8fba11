"""StyleGAN2 and StyleGAN2-ADA in plain torch, with the parameter names of the reference implementation."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from brainedit.generators.base import Generator, Noise
from brainedit.generators.mapping import MappingNetwork, known_settings
from brainedit.generators.modulated import Block, StyledConv, ToRGB, full_precision

_ALONE_FROM = 256  # pixels; smaller pictures are made faster all at once than one after the other
_STRIPS_FROM = 512  # pixels; smaller pictures gain nothing from being made in strips of rows

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
    "channels": None,  # ours: widths from 4 pixels up, for networks that follow another rule
    "num_fp16_res": 0,  # ours computes in the type of its weights
    "conv_clamp": None,
    "architecture": "skip",
    "resample_filter": (1, 3, 3, 1),
    "activation": "lrelu",
    "use_noise": True,
    "fp16_channels_last": False,
}


class StyleGAN2(Generator):
    """StyleGAN2 with skip architecture.

    The arguments are the reference constructor's own; weights start as in training, drawn from `seed`.
    The space "s" holds the channel scales of each convolution and RGB layer, from 4 pixels up, before
    the latter's gain of 1 / sqrt(n_channels).

    c_dim : number of classes, 0 for none; then `map` needs labels
    synthesis_kwargs : also takes "channels", the widths from 4 pixels up, in place of channel_base and channel_max

    Raises ValueError for an unknown or unsupported setting.
    Source: Karras et al., CVPR 2020, and Karras et al., NeurIPS 2020. Differs: computes in the type of its
    weights instead of float16 at `num_fp16_res` resolutions, the mapping, the styles and RGB always in float32 or
    better; channels last in memory; on a CPU without gradients large pictures are made singly and in strips.
    """

    architecture = "stylegan2"
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
        synthesis_kwargs: Mapping[str, Any] | None = None,
        name: str = "stylegan2",
        licence: str = "Licence unknown: ask whoever trained these weights.",
        seed: int = 0,
    ):
        super().__init__()
        mapping = known_settings("StyleGAN2's mapping_kwargs", mapping_kwargs or {}, _MAPPING_DEFAULTS)
        synthesis = known_settings(
            "StyleGAN2's synthesis_kwargs", synthesis_kwargs or {}, _SYNTHESIS_DEFAULTS
        )
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
        self.spaces = ("z", "w", "w+", "s")
        self.z_dim, self.w_dim, self.c_dim = z_dim, w_dim, c_dim
        self.image_size = img_resolution
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, mapping)
        self.synthesis = _synthesis_blocks(w_dim, img_resolution, synthesis)
        self.n_layers = 2 * len(self.synthesis)
        self.n_styles = sum(len(layer.affine.bias) for _, layer, _ in self._styled_layers())
        _draw_weights(self, seed)

    def map(self, z: Tensor, *, labels: Tensor | int | None = None) -> Tensor:
        """z (n, z_dim) -> w (n, w_dim).

        labels : needed by a conditional generator, refused by others

        Raises ValueError when z or labels do not fit.
        """
        z = self.check_latents(z, space="z")
        return self.mapping(full_precision(z), self.check_labels(labels, len(z)))

    def mean_w(self) -> Tensor:
        """The running mean of w (w_dim,) kept in training."""
        return self.mapping.w_avg

    def styles(self, w_plus: Tensor) -> Tensor:
        """w+ (n, n_layers, w_dim) -> s (n, n_styles), float32 or better; `style_channels` says what is where."""
        return self._styles(self.check_latents(w_plus, space="w+"))

    def style_channels(self) -> list[tuple[str, int, int]]:
        """Name of each layer, such as "b64.conv1", with start and stop of its channels in s."""
        channels, start = [], 0
        for name, layer, _ in self._styled_layers():
            channels.append((name, start, start := start + len(layer.affine.bias)))
        return channels

    def noise_sizes(self) -> tuple[int, ...]:
        """Heights of the noise maps: of b4.conv1, b8.conv0, b8.conv1, and so on; () for a network without noise."""
        layers = [layer for _, layer, _ in self._styled_layers() if hasattr(layer, "noise_const")]
        return tuple(len(layer.noise_const) for layer in layers)

    def raw_images(
        self, latents: Tensor, *, space: str, labels: Tensor | int | None = None, noise: Noise = "const"
    ) -> Tensor:
        """The network's output (n, 3, height, width) in float32 or better, about -1 to 1 and beyond."""
        if space == "s":
            if labels is not None:
                raise ValueError("Labels act on the way from z to w; latents in 's' take none.")
            styles = full_precision(self.check_latents(latents, space=space))
        else:
            styles = self._styles(self.w_plus(latents, space=space, labels=labels))
        maps = self._noise_maps(self.check_noise(noise), len(styles))
        if self.image_size < _ALONE_FROM or not self._spares_memory():
            return self._images(styles, maps)
        alone = range(len(styles))
        return torch.cat([self._images(styles[i : i + 1], [_of_sample(m, i) for m in maps]) for i in alone])

    def style_weights(self) -> tuple[Tensor, ...]:
        """Per w+ layer the matrix (n_channels, w_dim) from latent to styles: RGB if any, then convolution."""
        rows: list[list[Tensor]] = [[] for _ in range(self.n_layers)]
        for _, layer, i in self._styled_layers():
            rows[i].append((layer.affine.weight * layer.affine.weight_gain).detach())
        return tuple(torch.cat(row) for row in rows)

    def _styles(self, w_plus: Tensor) -> Tensor:
        w_plus = full_precision(w_plus)
        return torch.cat([layer.affine(w_plus[:, i]) for _, layer, i in self._styled_layers()], dim=1)

    def _images(self, styles: Tensor, noise_maps: list[Tensor | None]) -> Tensor:
        """Pictures of s (n, n_styles) with one noise map, or None, for each convolution."""
        parts = iter(styles.split([len(layer.affine.bias) for _, layer, _ in self._styled_layers()], dim=1))
        maps = iter(noise_maps)
        x = image = None
        for block in self.synthesis.values():
            block_styles = [next(parts) for _ in (*block.convs, "torgb")]
            block_maps = [next(maps) for _ in block.convs]
            if block.resolution == self.image_size >= _STRIPS_FROM and self._spares_memory():
                rgb = block.rgb_in_strips(x, block_styles, block_maps)
            else:
                x, rgb = block(x, block_styles, block_maps)
            image = rgb if image is None else rgb + block.upsample(image)
        return image

    def _styled_layers(self) -> Iterator[tuple[str, StyledConv | ToRGB, int]]:
        """Name, layer and place of its latent in w+; RGB shares it with the next block's first convolution."""
        for i, (block_name, block) in enumerate(self.synthesis.items()):
            places = {"conv0": 2 * i - 1, "conv1": 2 * i, "torgb": 2 * i + 1}
            for name in (*block.convs, "torgb"):
                yield f"{block_name}.{name}", getattr(block, name), places[name]

    def _noise_maps(self, noise: Noise, n: int) -> list[Tensor | None]:
        """One map for each convolution, or None where there is no noise."""
        convs = [layer for _, layer, _ in self._styled_layers() if isinstance(layer, StyledConv)]
        if not self.noise_sizes() or noise == "none":
            return [None] * len(convs)
        if noise == "const":
            return [conv.noise_const for conv in convs]
        if noise == "random":
            like = self.mapping.w_avg
            maps = [torch.randn(n, 1, size, size, device=like.device) for size in self.noise_sizes()]
            return [noise_map.to(like.dtype) for noise_map in maps]
        for noise_map in noise:
            if noise_map.ndim != 2 and noise_map.shape[:-2] not in ((n, 1), (1, 1)):
                raise ValueError(
                    f"A noise map is (height, width) or ({n}, 1, height, width); got {tuple(noise_map.shape)}."
                )
        return list(noise)

    def _spares_memory(self) -> bool:
        """Whether to compute in small pieces: faster on a CPU, slower elsewhere and where gradients are kept."""
        return self.device.type == "cpu" and not torch.is_grad_enabled()


def _of_sample(noise_map: Tensor | None, i: int) -> Tensor | None:
    shared = noise_map is None or noise_map.ndim == 2 or len(noise_map) == 1
    return noise_map if shared else noise_map[i : i + 1]


def _synthesis_blocks(w_dim: int, image_size: int, settings: dict[str, Any]) -> nn.ModuleDict:
    sizes = [2**i for i in range(2, int(math.log2(image_size)) + 1)]
    widths = settings["channels"] or [
        min(settings["channel_base"] // size, settings["channel_max"]) for size in sizes
    ]
    if len(widths) != len(sizes) or min(widths) < 1:
        raise ValueError(
            f"channels needs {len(sizes)} widths of 1 or more, from 4 to {image_size} pixels; got {list(widths)}."
        )
    shared = {
        "noise": settings["use_noise"],
        "fir": settings["resample_filter"],
        "clamp": settings["conv_clamp"],
    }
    return nn.ModuleDict(
        {
            f"b{size}": Block(n_in, n_out, w_dim, size, **shared)
            for size, n_in, n_out in zip(sizes, [0, *widths], widths, strict=False)
        }
    )


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
            # in the order of the shape, whatever the order in memory
            tensor.copy_(torch.randn(tensor.shape, generator=source))
        if name.endswith("affine.bias"):
            tensor.fill_(1.0)
    generator.mapping.start(source)
