"""Move latents along directions, and lay out the pictures."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from brainedit._check import pick
from brainedit.directions import Direction
from brainedit.generators.base import Generator

Strengths = float | Sequence[float]
Moves = Sequence[tuple[Direction, Strengths]]


@dataclass(frozen=True)
class Dose:
    """How far an edit goes from where a latent was.

    mahalanobis : length of the move, along its path, in standard deviations of the prior
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
    locks: Sequence[Direction] = (),
    path: str = "line",
    labels: Tensor | int | None = None,
) -> Tensor:
    """Pictures of latents moved along directions.

    moves : (direction, strength) pairs, all applied; a strength is a multiple of Direction.scale. A number
        gives (n, 3, height, width); a sequence of k gives (n, k, 3, height, width), numbers serving all k
    layers : in "w+", the layers that a direction moves, such as range(4, 8); default all
    locks : directions along which no latent moves; every move keeps its length, at right angles to them
    path : "line" adds the moves. "great_circle", in z, turns latents without changing their length: a move of
        length s turns by s / sqrt(z_dim) radians towards the direction, and stops there. "auto" is the
        great circle where the generator looks at the direction of z alone, the line elsewhere
    labels : for latents in z of a conditional generator, as in `Generator.synthesize`

    Raises ValueError when a direction belongs to another generator or space, a strength is not finite, locks
    leave nothing of a direction, or a latent has no length to keep on a great circle.
    """
    moved = edit_latents(generator, latents, moves, space=space, layers=layers, locks=locks, path=path)
    if moved.ndim == 1 + len(generator.latent_shape(space)):
        return generator.synthesize(moved, space=space, labels=labels)
    # one strength at a time: the same batch as without an edit, hence the same rounding
    images = [generator.synthesize(part, space=space, labels=labels) for part in moved.unbind(1)]
    return torch.stack(images, dim=1)


def edit_latents(
    generator: Generator,
    latents: Tensor,
    moves: Moves,
    *,
    space: str,
    layers: Iterable[int] | None = None,
    locks: Sequence[Direction] = (),
    path: str = "line",
) -> Tensor:
    """The moved latents (n, ...) or, for a sequence of k strengths, (n, k, ...); settings as in `edit`."""
    latents = generator.check_latents(latents, space=space)
    _check_moves(moves)
    path = path_in(generator, space, path)
    if layers is not None and space != "w+":
        raise ValueError(f"Layers can be chosen in 'w+' only; the latents are in {space!r}.")
    chosen = None if layers is None else _layers(generator, layers)
    strengths = [_strengths(strength) for _, strength in moves]
    lengths = sorted({len(values) for values in strengths if values.ndim})
    if len(lengths) > 1:
        raise ValueError(f"All moves need equally many strengths; got {' and '.join(map(str, lengths))}.")
    shape = generator.latent_shape(space)
    shift = np.zeros((*lengths, *shape))
    for (direction, _), values in zip(moves, strengths, strict=True):
        step = step_of(generator, direction, space=space, layers=chosen, locks=locks)
        shift = shift + values.reshape(values.shape + (1,) * len(shape)) * step
    if path == "great_circle":
        return _turned(latents, shift, [lock.vector for lock in locks])
    shift = torch.as_tensor(shift, dtype=latents.dtype, device=latents.device)
    return latents[:, None] + shift if lengths else latents + shift


def _check_moves(moves: Moves) -> None:
    pairs = [isinstance(move, tuple | list) and len(move) == 2 for move in moves]
    if not all(pairs) or not all(isinstance(move[0], Direction) for move in moves):
        raise ValueError("Moves are a list of (direction, strength) pairs, such as [(smile, 2.0)].")


def step_of(
    generator: Generator,
    direction: Direction,
    *,
    space: str,
    layers: Iterable[int] | None = None,
    locks: Sequence[Direction] = (),
) -> np.ndarray:
    """The step that an edit of strength 1 adds, in the shape of one latent; settings as in `edit`.

    Locks act inside the chosen layers: there, and not only over all layers, the step is at right angles to them.
    """
    chosen = _layers(generator, layers)
    step = direction.scale * _in_space(direction, generator, space, chosen)
    if not locks:
        return step
    held = [_in_space(lock, generator, space, chosen) for lock in locks]
    if direction.space == "w+":
        pairs = zip(locks, held, strict=True)
        locks = [_of_vector(lock, vector) for lock, vector in pairs if lock.space != "w+" or vector.any()]
        direction = _of_vector(direction, step)
    return direction.scale * _in_space(direction.orthogonal_to(*locks), generator, space, chosen)


def path_in(generator: Generator, space: str, path: str) -> str:
    """What "line", "great_circle" or "auto" means in this space: one of the first two.

    Raises ValueError for another name, or a great circle where latents lie on no sphere.
    """
    sphere = "great_circle" if space == "z" and generator.normalises_z else "line"
    path = pick("path", path, {"line": "line", "great_circle": "great_circle", "auto": sphere})
    if path == "great_circle" and sphere == "line":
        raise ValueError(
            f"A great circle needs latents on a sphere: z of a generator that normalises it. {generator.name} in "
            f"{space!r} has none; use path='line'."
        )
    return path


def strip(
    generator: Generator,
    latent: Tensor,
    direction: Direction,
    strengths: Sequence[float],
    *,
    space: str,
    layers: Iterable[int] | None = None,
    locks: Sequence[Direction] = (),
    path: str = "line",
) -> Tensor:
    """Pictures (k, 3, height, width) of one latent at k strengths.

    latent : without or with a leading 1
    layers, locks, path : as in `edit`
    """
    latent = torch.as_tensor(latent)
    if latent.ndim == len(generator.latent_shape(space)):
        latent = latent[None]
    if len(latent) != 1:
        raise ValueError(f"A strip shows one latent; got {len(latent)}.")
    moves = [(direction, list(strengths))]
    return edit(generator, latent, moves, space=space, layers=layers, locks=locks, path=path)[0]


def dose(
    generator: Generator, direction: Direction, strength: float, latents: Tensor, *, path: str = "line"
) -> Dose:
    """How far `strength` moves latents of the direction's own space.

    In "w" the prior's covariance comes from 10,000 samples; in "w+" each layer is measured in w and the root
    mean square over layers is given, so that the same move in all layers counts as in w. In "s", whose
    covariance is singular (styles follow w), each channel counts in its own standard deviations.

    path : as in `edit`

    Raises ValueError as `edit` does.
    """
    space = direction.space
    latents = generator.check_latents(latents, space=space)
    moved = edit_latents(generator, latents, [(direction, strength)], space=space, path=path)
    if moved.shape != latents.shape:
        raise ValueError(f"A dose is measured for one strength; got {strength}.")
    shift = float(strength) * direction.scale * direction.vector
    ruler = Ruler(generator, space)
    return Dose(mahalanobis=float(ruler.length(shift[None])[0]), degrees=ruler.degrees(latents, moved))


class Ruler:
    """Lengths and angles of moves in one latent space, as in `dose`; the prior is sampled once.

    mean : of the prior, (n_dims,), 0 in z
    covariance : of the prior in z and w, (n_dims, n_dims); in w+ that of w, None in s
    """

    def __init__(self, generator: Generator, space: str):
        self.shape, self.space, self.covariance = generator.latent_shape(space), space, None
        if space == "z":
            self.mean, self.covariance = np.zeros(self.shape), np.eye(*self.shape)
        elif space == "s":
            prior = generator.sample(2_000, space="s").double().cpu().numpy()
            self.mean, self.deviations = prior.mean(0), prior.std(0)
        else:
            prior = generator.sample(10_000, space="w").double().cpu().numpy()
            self.mean, self.covariance = prior.mean(0), np.cov(prior.T)
            # eigenvalues below 1e-9 of the largest are directions in which the prior does not vary
            self.inverse = np.linalg.pinv(self.covariance, rcond=1e-9, hermitian=True)

    def length(self, shifts: np.ndarray) -> np.ndarray:
        """Mahalanobis lengths (n,) of moves (n, ...)."""
        shifts = np.asarray(shifts, np.float64)
        if self.space == "z":
            return np.linalg.norm(shifts, axis=1)
        if self.space == "s":
            return np.linalg.norm(shifts / self.deviations, axis=1)
        rows = shifts.reshape(len(shifts), -1, self.shape[-1])  # (n, n_layers or 1, w_dim)
        return np.sqrt(((rows @ self.inverse) * rows).sum(2).mean(1))

    def deviation(self) -> float:
        """Root mean square standard deviation of the prior over dimensions, 1 in z."""
        if self.covariance is None:
            return float(np.sqrt(np.square(self.deviations).mean()))
        return float(np.sqrt(np.trace(self.covariance) / len(self.covariance)))

    def degrees(self, before: Tensor, after: Tensor) -> np.ndarray:
        """Angles (n,) that latents (n, ...) turn about the prior's mean."""
        a, b = ((x.double().cpu().numpy() - self.mean).reshape(len(x), -1) for x in (before, after))
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        # by the chord: the arc cosine loses small angles to rounding
        chord, rest = np.linalg.norm(a - b, axis=1), np.linalg.norm(a + b, axis=1)
        return np.degrees(2 * np.arctan2(chord, rest))


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


def _of_vector(direction: Direction, vector: np.ndarray) -> Direction:
    """The direction with another vector of its space, whose length becomes its scale."""
    length = np.linalg.norm(vector)
    if length == 0:
        raise ValueError(f"Direction {direction.name!r} holds nothing in the chosen layers.")
    if vector.shape != direction.vector.shape:
        return direction
    return replace(direction, vector=vector / length, scale=length)


def _turned(latents: Tensor, shift: np.ndarray, locks: Sequence[np.ndarray]) -> Tensor:
    """Latents (n, d) turned towards a shift (d,), or towards each of k shifts (k, d), at their own length.

    What a latent has along the locks stays as it is; the rest turns, so that its projections on them are kept.
    """
    z = latents.double().cpu().numpy()
    basis = _basis(locks, z.shape[1])
    kept = z @ basis @ basis.T
    free = z - kept
    moved = [kept + _turned_free(free, step) if step.any() else z for step in np.atleast_2d(shift)]
    moved = torch.as_tensor(np.stack(moved, axis=1), dtype=latents.dtype, device=latents.device)
    return moved if shift.ndim > 1 else moved[:, 0]


def _turned_free(free: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Vectors (n, d) turned towards a step (d,) by its length / sqrt(d), at most until they point along it."""
    length = np.linalg.norm(step)
    goal = step / length
    radius = np.linalg.norm(free, axis=1, keepdims=True)
    along = free @ goal[:, None]
    across = np.linalg.norm(free - along * goal, axis=1, keepdims=True)
    lost = (across <= 1e-6 * radius) & (along <= 0)  # float32 knows no smaller angle
    if lost.any():
        raise ValueError(
            f"No great circle leads from latent {np.flatnonzero(lost)[0]} to the direction: it is zero, or points "
            "exactly away from it; use path='line'."
        )
    turn = np.minimum(length / math.sqrt(free.shape[1]), np.arctan2(across, along))
    aside = (goal * radius**2 - free * along) / np.maximum(across, 1e-6 * radius)  # as long as free
    return np.cos(turn) * free + np.sin(turn) * aside


def _basis(vectors: Sequence[np.ndarray], n_dims: int) -> np.ndarray:
    """Orthonormal columns (n_dims, rank) that span vectors, which may be collinear."""
    if not len(vectors):
        return np.zeros((n_dims, 0))
    left, sizes, _ = np.linalg.svd(np.stack(vectors, axis=1), full_matrices=False)
    return left[:, sizes > 1e-8]


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
