"""A generator's latents in units of their prior, so that steps and distances mean the same everywhere."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brainedit.generators.base import Generator

_N_SAMPLES = 2000  # for the covariance, and as many others for the range
_VARIANCE_FLOOR = (
    1e-3  # of the mean variance: moves where the prior hardly varies are unusual, not impossible
)


class LatentPrior:
    """A generator's latents in z, w or w+ as coordinates that have unit variance over its samples.

    space : "z", "w" or "w+", where each layer has the coordinates of w
    labels : (n, c_dim), which classes the samples of w are drawn from
    on_sphere : z of a generator that looks at its direction only
    range : the distances that 99.9 % of the prior's samples have
    """

    def __init__(self, generator: Generator, space: str, *, labels: Tensor | None = None, seed: int = 0):
        self.generator, self.space, self.labels = generator, space, labels
        self.on_sphere = space == "z" and generator.normalises_z
        first = next(generator.parameters())
        self.mean, self.basis, self.inverse = torch.zeros(()).to(first), None, None
        if space != "z":
            w = self.draw(_N_SAMPLES, seed=seed, space="w").double()
            values, vectors = torch.linalg.eigh(torch.cov(w.T))
            scales = values.clamp_min(_VARIANCE_FLOOR * values.mean().item()).sqrt()
            self.mean = w.mean(0).to(first)
            self.basis = (vectors * scales).T.to(first)  # (w_dim, w_dim), one coordinate a row
            self.inverse = (vectors / scales).to(first)
        one_layer = "z" if space == "z" else "w"
        distances = self.distance(self.draw(_N_SAMPLES, seed=seed + 1, space=one_layer))
        low, high = np.quantile(distances, [0.0005, 0.9995] if space == "z" else [0.0, 0.999])
        # on a sphere all distances are the same: rounding must not lead out of the range
        self.range = (float(low) * (1 - 1e-4) if space == "z" else 0.0, float(high) * (1 + 1e-4))

    def draw(self, n: int, *, seed: int, space: str) -> Tensor:
        """n samples in z or w, with `cycled_labels`."""
        return self.generator.sample(n, space=space, labels=self.cycled_labels(n), seed=seed)

    def cycled_labels(self, n: int) -> Tensor | None:
        """n of the labels, taken in turn."""
        return None if self.labels is None else self.labels[torch.arange(n) % len(self.labels)]

    def latents(self, u: Tensor) -> Tensor:
        """Coordinates -> latents."""
        if self.on_sphere:
            return F.normalize(u, dim=-1) * math.sqrt(u.shape[-1])
        return u if self.basis is None else self.mean + u @ self.basis

    def coordinates(self, latents: Tensor) -> Tensor:
        """Latents -> coordinates, in which the prior has mean 0 and about unit variance."""
        if self.on_sphere:
            return F.normalize(latents, dim=-1) * math.sqrt(latents.shape[-1])
        return latents if self.inverse is None else (latents - self.mean) @ self.inverse

    def distance(self, latents: Tensor) -> np.ndarray:
        """Mahalanobis distance (n,) from the prior's mean; in w+ the root mean square over layers."""
        lengths = self.coordinates(latents).double().norm(dim=-1)
        return (
            lengths.flatten(1).square().mean(1).sqrt().cpu().numpy()
            if lengths.ndim > 1
            else lengths.cpu().numpy()
        )

    def pull(self, u: Tensor) -> Tensor:
        """How much coordinates are to be drawn to the prior (n,): in z to its length, in w to its mean."""
        squares = u.square().mean(-1)
        if self.space == "z":
            squares = (squares.sqrt() - 1).square()
        return squares.flatten(1).mean(1) if squares.ndim > 1 else squares
