"""The mapping network from z and labels to w, and its layers, which StyleGAN2 and 3 share."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MappingNetwork(nn.Module):
    """z, and labels where there are any, normalised -> fully connected layers -> w; keeps the running mean of w."""

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, settings: dict[str, Any]):
        super().__init__()
        embed_features = (settings["embed_features"] or w_dim) if c_dim else 0
        hidden = settings["layer_features"] or w_dim
        n = settings["num_layers"]
        widths = [z_dim + embed_features] + [hidden] * (n - 1) + [w_dim]
        if c_dim:
            self.embed = Linear(c_dim, embed_features)
        self.layers = [f"fc{i}" for i in range(n)]
        for i, name in enumerate(self.layers):
            self.add_module(name, Linear(widths[i], widths[i + 1], lr_multiplier=settings["lr_multiplier"]))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        x = unit_second_moment(z)
        if labels is not None:
            x = torch.cat([x, unit_second_moment(self.embed(labels.to(z.dtype)))], dim=1)
        for name in self.layers:
            x = F.leaky_relu(getattr(self, name)(x), 0.2) * math.sqrt(2)
        return x

    @torch.no_grad()
    def start(self, source: torch.Generator) -> None:
        """Once the weights are N(0, 1): bring them to their starting scale, and take the mean of w without labels."""
        for name in self.layers:
            layer = getattr(self, name)
            layer.weight /= layer.lr_multiplier
        if not hasattr(self, "embed"):
            z = torch.randn(1000, self.fc0.weight.shape[1], generator=source)
            self.w_avg.copy_(self(z, None).mean(0))


class Linear(nn.Module):
    """Fully connected layer whose stored weights are scaled at run time (equalised learning rate)."""

    def __init__(self, n_in: int, n_out: int, *, lr_multiplier: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.lr_multiplier = lr_multiplier
        self.weight_gain = lr_multiplier / math.sqrt(n_in)

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        return F.linear(x, self.weight.to(dtype) * self.weight_gain, self.bias.to(dtype) * self.lr_multiplier)


def unit_second_moment(x: Tensor) -> Tensor:
    """x (n, k) with the mean square of each row brought to 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def known_settings(kind: str, given: Mapping[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The defaults with what was given.

    kind : what is set, for the message, e.g. "StyleGAN2's mapping_kwargs"

    Raises ValueError for a name that is not among the defaults.
    """
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise ValueError(f"{kind} has no setting {unknown[0]!r}; known: {', '.join(defaults)}.")
    return {**defaults, **given}
