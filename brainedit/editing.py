"""Move latents along directions, and lay out the pictures."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from brainedit.directions import Direction
from brainedit.generators.base import Generator

Strengths = float | Sequence[float]
Moves = Sequence[tuple[Direction, Strengths]]


@dataclass(frozen=True)
class Dose:
    """How far an edit goes from where a latent was.

    mahalanobis : length of the move in standard deviations of the prior
    degrees : per latent (n,), the angle it turns about the prior's mean
    """

    mahalanobis: float
    degrees: np.ndarray


def edit(
    generator: Generator,
    latents: Tensor,
    moves: Moves,
    *,
    space: str,
    layers: Iterable[int] | None = None,
    labels: Tensor | int | None = None,
) -> Tensor:
    """Pictures of latents moved along directions.

    moves : (direction, strength) pairs, all applied; a strength is a multiple of Direction.scale. A number
        gives (n, 3, height, width); a sequence of k gives (n, k, 3, height, width), numbers serving all k
    layers : in "w+", the layers that a w direction moves; default all
    labels : for latents in z of a conditional generator, as in `Generator.synthesize`

    Raises ValueError when a direction belongs to another generator or space, or a strength is not finite.
    """
    moved = edit_latents(generator, latents, moves, space=space, layers=layers)
    if moved.ndim == 1 + len(generator.latent_shape(space)):
        return generator.synthesize(moved, space=space, labels=labels)
    # one strength at a time: the same batch as without an edit, hence the same rounding
    images = [generator.synthesize(part, space=space, labels=labels) for part in moved.unbind(1)]
    return torch.stack(images, dim=1)


def edit_latents(
    generator: Generator, latents: Tensor, moves: Moves, *, space: str, layers: Iterable[int] | None = None
) -> Tensor:
    """The moved latents (n, ...) or, for a sequence of k strengths, (n, k, ...); settings as in `edit`."""
    latents = generator.check_latents(latents, space=space)
    if layers is not None and space != "w+":
        raise ValueError(f"Layers can be chosen in 'w+' only; the latents are in {space!r}.")
    chosen = _layers(generator, layers)
    strengths = [_strengths(strength) for _, strength in moves]
    lengths = sorted({len(values) for values in strengths if values.ndim})
    if len(lengths) > 1:
        raise ValueError(f"All moves need equally many strengths; got {' and '.join(map(str, lengths))}.")
    shape = generator.latent_shape(space)
    shift = np.zeros((*lengths, *shape))
    for (direction, _), values in zip(moves, strengths, strict=True):
        step = direction.scale * _in_space(direction, generator, space, chosen)
        shift = shift + values.reshape(values.shape + (1,) * len(shape)) * step
    shift = torch.as_tensor(shift, dtype=latents.dtype, device=latents.device)
    return latents[:, None] + shift if lengths else latents + shift


def strip(
    generator: Generator,
    latent: Tensor,
    direction: Direction,
    strengths: Sequence[float],
    *,
    space: str,
    layers: Iterable[int] | None = None,
) -> Tensor:
    """Pictures (k, 3, height, width) of one latent at k strengths.

    latent : without or with a leading 1
    """
    latent = torch.as_tensor(latent)
    if latent.ndim == len(generator.latent_shape(space)):
        latent = latent[None]
    if len(latent) != 1:
        raise ValueError(f"A strip shows one latent; got {len(latent)}.")
    return edit(generator, latent, [(direction, list(strengths))], space=space, layers=layers)[0]


def dose(generator: Generator, direction: Direction, strength: float, latents: Tensor) -> Dose:
    """How far `strength` moves latents of the direction's own space.

    In "w" the prior's covariance comes from 10,000 samples; in "w+" each layer is measured in w and the root
    mean square over layers is given, so that the same move in all layers counts as in w. In "s", whose
    covariance is singular (styles follow w), each channel counts in its own standard deviations.

    Raises ValueError as `edit` does.
    """
    space = direction.space
    latents = generator.check_latents(latents, space=space)
    moved = edit_latents(generator, latents, [(direction, strength)], space=space)
    if moved.shape != latents.shape:
        raise ValueError(f"A dose is measured for one strength; got {strength}.")
    shift = float(strength) * direction.scale * direction.vector
    if space == "z":
        mean, mahalanobis = 0.0, float(np.linalg.norm(shift))
    elif space == "s":
        prior = generator.sample(2_000, space="s").double().cpu().numpy()
        mean, mahalanobis = prior.mean(0), float(np.linalg.norm(shift / prior.std(0)))
    else:
        prior = generator.sample(10_000, space="w").double().cpu().numpy()
        mean = prior.mean(0)
        # eigenvalues below 1e-9 of the largest are directions in which the prior does not vary
        inverse = np.linalg.pinv(np.cov(prior.T), rcond=1e-9, hermitian=True)
        rows = np.atleast_2d(shift)
        mahalanobis = float(np.sqrt(np.einsum("ij,jk,ik->i", rows, inverse, rows).mean()))
    before, after = ((x.double().cpu().numpy() - mean).reshape(len(x), -1) for x in (latents, moved))
    cosine = (before * after).sum(1) / (np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1))
    return Dose(mahalanobis=mahalanobis, degrees=np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def grid_image(images: Tensor, *, columns: int, padding: int = 2, zoom: int = 1) -> Image.Image:
    """Pictures (n, 3, height, width), 0 to 1, row by row on a white ground.

    padding : white pixels around each picture
    zoom : whole number by which each pixel is repeated

    Raises ValueError for another shape, values outside 0 to 1, or settings below 1 (padding: below 0).
    """
    if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(f"A grid takes pictures (n, 3, height, width); got {tuple(images.shape)}.")
    if columns < 1 or padding < 0 or zoom < 1:
        raise ValueError(
            f"A grid needs columns and zoom of 1 or more; got {columns} and {zoom}, padding {padding}."
        )
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"A grid takes pictures between 0 and 1; these go from {low:.3g} to {high:.3g}.")
    pixels = (images.detach().cpu().float() * 255).round().byte().permute(0, 2, 3, 1).numpy()
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)  # (n, height, width, 3)
    n, height, width, _ = pixels.shape
    rows = -(-n // columns)
    step_y, step_x = height + padding, width + padding
    canvas = np.full((rows * step_y + padding, min(columns, n) * step_x + padding, 3), 255, dtype=np.uint8)
    for i, picture in enumerate(pixels):
        top, left = padding + i // columns * step_y, padding + i % columns * step_x
        canvas[top : top + height, left : left + width] = picture
    return Image.fromarray(canvas)


def save_png(image: Image.Image, path: str | os.PathLike) -> Path:
    """Write a picture as PNG, whole or not at all."""
    partial = Path(f"{path}.partial")
    image.save(partial, format="PNG")
    os.replace(partial, path)
    return Path(path)


def _strengths(strength: Strengths) -> np.ndarray:
    values = np.asarray(strength, dtype=np.float64)
    if values.ndim > 1 or values.size == 0:
        raise ValueError(f"A strength is a number or a sequence of numbers; got the shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"Strengths must be finite numbers; got {strength}.")
    return values


def _layers(generator: Generator, layers: Iterable[int] | None) -> list[int]:
    if layers is None:
        return list(range(generator.n_layers))
    chosen = list(layers)
    wrong = [layer for layer in chosen if layer not in range(generator.n_layers)]
    if wrong or not chosen:
        got = wrong[0] if wrong else "none"
        raise ValueError(f"{generator.name} has the layers 0 to {generator.n_layers - 1}; got {got}.")
    return chosen


def _in_space(direction: Direction, generator: Generator, space: str, layers: list[int]) -> np.ndarray:
    """The direction's vector in the shape of one latent, zero outside the chosen layers."""
    origin = direction.provenance.get("generator_sha256")
    if origin is not None and origin != generator.sha256:
        raise ValueError(
            f"Direction {direction.name!r} was found in another generator (sha256 {origin[:12]}); "
            f"{generator.name} has {generator.sha256[:12]}."
        )
    if (direction.space, space) not in {(space, space), ("w", "w+")}:
        raise ValueError(
            f"Direction {direction.name!r} lives in {direction.space!r} and cannot move {space!r} latents."
        )
    shape = generator.latent_shape(direction.space)
    if direction.vector.shape != shape:
        raise ValueError(
            f"Direction {direction.name!r} is {direction.vector.shape}; {generator.name} needs {shape}."
        )
    if space != "w+":
        return direction.vector
    step = np.zeros(generator.latent_shape("w+"))
    step[layers] = np.broadcast_to(direction.vector, step.shape)[layers]
    return step
