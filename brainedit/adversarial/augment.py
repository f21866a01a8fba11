"""Differentiable augmentation of what a discriminator sees: a fixed weak one, and StyleGAN2-ADA's adaptive one."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def weak_augment(images: Tensor, *, color: float = 1.0, shift: float = 0.125) -> Tensor:
    """Each picture with its own random brightness, saturation, contrast and shift; differentiable.

    color : 1 for the published range, 0 for none
    shift : largest translation, as a share of the side; what comes in is black

    Source: Zhao et al., NeurIPS 2020, section 3. Differs: nothing is cut out.
    """
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, device=images.device, dtype=images.dtype) * (high - low) + low

    if color:
        images = images + color * uniform(-0.5, 0.5)
        grey = images.mean(1, keepdim=True)
        images = grey + (images - grey) * (1 + color * uniform(-1, 1))
        mean = images.mean((1, 2, 3), keepdim=True)
        images = mean + (images - mean) * (1 + color * uniform(-0.5, 0.5))
    if shift:
        images = _shifted(images, round(shift * images.shape[-1]))
    return images


class AdaptiveAugment:
    """Flips, quarter turns, shifts, scaling, rotation and colour, each with probability p; differentiable once.

    Every transformation maps the distribution of pictures so that it can be told apart from others after it, as
    long as p is below about .8; then what leaks into the generator's pictures is nothing.

    Source: Karras et al., NeurIPS 2020, appendix B. Differs: bilinear sampling without the wavelet low-pass; one
    rotation instead of two; no filtering, noise or cutout in image space, which the paper found no use for.
    """

    def __init__(self, p: float = 0.0):
        self.p = p

    def adjust(self, change: float) -> None:
        """Move p, which stays in 0 to 1."""
        self.p = min(1.0, max(0.0, self.p + change))

    def __call__(self, images: Tensor) -> Tensor:
        """Pictures (n, 3, height, width), -1 to 1, each changed in its own way."""
        if self.p == 0:
            return images
        n, _, height, width = images.shape
        geometry = self._geometry(n, images.device)[:, :2]
        grid = F.affine_grid(geometry, [n, 3, height, width], align_corners=False)
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        color = self._color(n, images.device)
        return torch.einsum("nij,njhw->nihw", color[:, :3, :3], images) + color[:, :3, 3, None, None]

    def _geometry(self, n: int, device: torch.device) -> Tensor:
        """From output to input coordinates in -1 to 1, (n, 3, 3)."""
        flip = torch.where(self._chosen(n, device) & (torch.rand(n, device=device) < 0.5), -1.0, 1.0)
        turn = torch.where(
            self._chosen(n, device), torch.randint(0, 4, (n,), device=device) * math.pi / 2, 0.0
        )
        shift = (torch.rand(n, 2, device=device) * 2 - 1) * 0.25  # an eighth of the side
        shift = torch.where(self._chosen(n, device)[:, None], shift, 0.0)
        scale = self._normal(n, device, 0.2).exp2()
        stretch = self._normal(n, device, 0.2).exp2()
        angle = torch.where(self._chosen(n, device), (torch.rand(n, device=device) * 2 - 1) * math.pi, 0.0)
        move = torch.stack([self._normal(n, device, 0.25), self._normal(n, device, 0.25)], 1)
        matrix = _diagonal(scale * stretch * flip, scale / stretch)
        return matrix @ _rotation(turn + angle) @ _translation(shift + move)

    def _color(self, n: int, device: torch.device) -> Tensor:
        """Affine map of RGB, (n, 4, 4)."""
        grey = torch.tensor([1.0, 1.0, 1.0, 0.0], device=device) / math.sqrt(3)
        along = torch.outer(grey, grey)  # projection on the grey axis
        identity = torch.eye(4, device=device)
        brightness = identity.repeat(n, 1, 1)
        brightness[:, :3, 3] = self._normal(n, device, 0.2)[:, None]
        contrast = self._normal(n, device, 0.5).exp2()
        matrix = _diagonal(contrast, contrast, contrast) @ brightness
        inverted = (self._chosen(n, device) & (torch.rand(n, device=device) < 0.5)).float()
        matrix = (identity - 2 * along * inverted[:, None, None]) @ matrix
        angle = torch.where(self._chosen(n, device), (torch.rand(n, device=device) * 2 - 1) * math.pi, 0.0)
        matrix = _hue(angle, grey) @ matrix
        saturation = self._normal(n, device, 1.0).exp2()[:, None, None]
        keep = along.clone()
        keep[3, 3] = 1
        return (keep + (identity - keep) * saturation) @ matrix

    def _chosen(self, n: int, device: torch.device) -> Tensor:
        return torch.rand(n, device=device) < self.p

    def _normal(self, n: int, device: torch.device, spread: float) -> Tensor:
        """N(0, spread) for those that are chosen, 0 for the others."""
        return torch.where(self._chosen(n, device), torch.randn(n, device=device) * spread, 0.0)


def _diagonal(*factors: Tensor) -> Tensor:
    """Homogeneous scaling, (n, k + 1, k + 1)."""
    return torch.diag_embed(torch.stack([*factors, torch.ones_like(factors[0])], 1))


def _rotation(angle: Tensor) -> Tensor:
    matrix = torch.eye(3, device=angle.device).repeat(len(angle), 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 0, 1], matrix[:, 1, 0] = -angle.sin(), angle.sin()
    return matrix


def _translation(shift: Tensor) -> Tensor:
    matrix = torch.eye(3, device=shift.device).repeat(len(shift), 1, 1)
    matrix[:, :2, 2] = shift
    return matrix


def _hue(angle: Tensor, axis: Tensor) -> Tensor:
    """Rotation of RGB about the grey axis, (n, 4, 4)."""
    x, y, z = axis[:3]
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    angle = angle[:, None, None]
    turned = torch.eye(3, device=axis.device) + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)
    matrix = torch.eye(4, device=axis.device).repeat(len(turned), 1, 1)
    matrix[:, :3, :3] = turned
    return matrix


def _shifted(images: Tensor, largest: int) -> Tensor:
    """Each picture moved by whole pixels, up to `largest` in both directions."""
    n, _, height, width = images.shape
    dy, dx = torch.randint(0, 2 * largest + 1, (2, n, 1), device=images.device)
    rows = torch.arange(height, device=images.device) + dy  # (n, height)
    columns = torch.arange(width, device=images.device) + dx
    padded = F.pad(images, [largest] * 4).permute(0, 2, 3, 1)
    index = torch.arange(n, device=images.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
