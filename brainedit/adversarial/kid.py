"""Kernel inception distance between two sets of pictures, with a standard error, on EfficientNet-Lite0 features."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brainedit.encoders.image import ImageEncoder


@dataclass(frozen=True)
class KID:
    """Mean over subsets that share no picture, and the standard error of that mean."""

    value: float
    standard_error: float


def kid(features: np.ndarray, other: np.ndarray, *, n_subsets: int = 10, seed: int = 0) -> KID:
    """Squared maximum mean discrepancy of two sets of features, unbiased: near 0 for the same distribution.

    features, other : (n, n_features), (m, n_features)
    n_subsets : parts into which both are cut at random; they share nothing, so their spread gives the error

    Raises ValueError when a subset would have fewer than 2 pictures.
    Source: Binkowski et al., ICLR 2018, equation 4 and section 3.2 (kernel (x.y / d + 1)^3). Differs: subsets
    are disjoint, not drawn again and again, so that the standard error is honest; the network is another one,
    so values compare with each other alone.
    """
    size = min(len(features), len(other)) // n_subsets
    if size < 2:
        raise ValueError(
            f"{n_subsets} subsets need at least {2 * n_subsets} pictures on each side; "
            f"{len(features)} and {len(other)} came."
        )
    rng = np.random.default_rng(seed)
    one = np.asarray(features, np.float64)[rng.permutation(len(features))]
    two = np.asarray(other, np.float64)[rng.permutation(len(other))]
    parts = [slice(k * size, (k + 1) * size) for k in range(n_subsets)]
    values = [_unbiased(one[part], two[part]) for part in parts]
    error = float(np.std(values, ddof=1) / np.sqrt(n_subsets)) if n_subsets > 1 else float("nan")
    return KID(float(np.mean(values)), error)


def _unbiased(x: np.ndarray, y: np.ndarray) -> float:
    n, d = x.shape

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / d + 1) ** 3

    within = [(k.sum() - np.trace(k)) / (n * (n - 1)) for k in (kernel(x, x), kernel(y, y))]
    return sum(within) - 2 * kernel(x, y).mean()


@torch.no_grad()
def kid_features(
    encoder: ImageEncoder, images: np.ndarray | Tensor, *, size: int = 128, batch_size: int = 50
) -> np.ndarray:
    """Features (n, n_features) of pictures uint8 (n, 3, height, width), brought to `size` pixels first."""
    rows = []
    for start in range(0, len(images), batch_size):
        batch = torch.as_tensor(np.ascontiguousarray(images[start : start + batch_size]))
        batch = batch.to(encoder.mean.device).float() / 255
        batch = F.interpolate(batch, (size, size), mode="bilinear", antialias=True)
        rows.append(encoder(batch).cpu().numpy())
    return np.concatenate(rows)
