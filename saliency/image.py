"""Which part of a picture a score depends on: occlusion maps, and where they peak."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from numbers import Integral

import numpy as np
import torch
from torch import nn

Score = Callable[[torch.Tensor], torch.Tensor]

_VARYING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def occlusion_map(
    score: Score,
    image: torch.Tensor,
    *,
    window: int = 32,
    stride: int = 16,
    fill: float = 0.5,
    batch_size: int = 8,
    progress: bool = False,
) -> torch.Tensor:
    """How far the score falls when a square around each pixel is covered.

    score : pictures (n, 3, h, w) to (n,) or (n, k); all k maps come from the same covered pictures
    image : (3, h, w), float, 0 to 1
    window, stride : side of the square and its step, pixels; the last square of an axis is moved inward to
        end at the border, so that every pixel is covered
    fill : grey value put into the square, 0 to 1
    batch_size : covered copies held in memory at a time

    Returns the signed map score(clean) - score(covered), averaged over the squares that cover a pixel, in
    units of the score, on the picture's device: (h, w) for a score (n,), (k, h, w) for (n, k), also if k = 1.
    Raises ValueError for a picture, geometry or score that does not fit.
    Source: Zeiler & Fergus, ECCV 2014, section 4.2. Differs: overlapping squares are averaged, as in captum's
    Occlusion, which this equals where the squares tile the picture without the inward move.
    """
    check_picture(image)
    _check_geometry(image, window=window, stride=stride, fill=fill, batch_size=batch_size)
    check_mode(score)
    height, width = image.shape[1:]
    tops, lefts = window_starts(height, window, stride), window_starts(width, window, stride)
    corners = list(product(tops, lefts))
    with torch.no_grad():
        clean = evaluate(score, image[None])
        covered = [
            evaluate(score, _cover(image, corners[i : i + batch_size], window, fill), like=clean)
            for i in _steps(len(corners), batch_size, progress)
        ]
    drops = clean.cpu().double() - finite(torch.cat(covered)).cpu().double()
    grid = drops.reshape(len(tops), len(lefts), -1).permute(2, 0, 1)  # (k, tops, lefts)
    rows, heights = cover_cells(tops, window, height)
    columns, widths = cover_cells(lefts, window, width)
    cells = (rows.T @ grid @ columns).to(image.device, torch.promote_types(clean.dtype, torch.float32))
    maps = cells.repeat_interleave(heights.to(image.device), 1)
    maps = maps.repeat_interleave(widths.to(image.device), 2)  # (k, h, w)
    return maps if clean.ndim == 2 else maps[0]


def multiscale_map(
    score: Score,
    image: torch.Tensor,
    *,
    windows: Sequence[int] = (17, 33, 65),
    stride: int | None = None,
    fill: float = 0.5,
    batch_size: int = 8,
    progress: bool = False,
) -> torch.Tensor:
    """Sum of the occlusion maps of several window sizes: fine detail and wide context in one map.

    windows : sides of the squares, pixels
    stride : step for every window; None takes about a third of each window

    Returns (h, w) or (k, h, w), signed, in units of the score; the rest is as in `occlusion_map`.
    Source: Palazzo et al., TPAMI 2021, Eq. 3-4. Differs: signed and not normalised per picture; windows move
    by the stride instead of by one pixel and are averaged where they overlap; they are filled with grey
    (theirs is fill=0), and the smallest ones (3, 5, 9) are left out unless asked for.
    """
    check_picture(image)
    if len(windows) == 0:
        raise ValueError("Need at least one window, got none.")
    for window in windows:
        check_count("window", window)
    strides = [max(1, round(window / 3)) if stride is None else stride for window in windows]
    for window, step in zip(windows, strides, strict=True):
        _check_geometry(image, window=window, stride=step, fill=fill, batch_size=batch_size)
    settings = {"fill": fill, "batch_size": batch_size, "progress": progress}
    maps = [
        occlusion_map(score, image, window=window, stride=step, **settings)
        for window, step in zip(windows, strides, strict=True)
    ]
    return torch.stack(maps).sum(0)


def peak(heat: torch.Tensor | np.ndarray) -> tuple[int, int]:
    """Row and column of the map's maximum.

    Occlusion maps are constant over small rectangles, so the maximum is a plateau: the answer is its pixel
    nearest to its centre. Of separate plateaus of equal height the largest counts, then the first in reading
    order; values within a millionth of the map's range are equal.

    heat : (h, w)

    Raises ValueError for a map that is not 2-D, has NaN, or is constant (it has no peak).
    """
    from scipy.ndimage import label

    values = torch.as_tensor(heat).detach().cpu().double().numpy()
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"Need one map (h, w), got shape {values.shape}; pass the maps of k scores singly.")
    if not np.isfinite(values).all():
        raise ValueError("Need a map of finite values, this one has NaN or infinity.")
    span = values.max() - values.min()
    if span == 0:
        raise ValueError(f"The map is {values.flat[0]:g} everywhere, so it has no peak.")
    plateaus, _ = label(values >= values.max() - 1e-6 * span, structure=np.ones((3, 3)))
    largest = np.argmax(np.bincount(plateaus.ravel())[1:]) + 1
    pixels = np.argwhere(plateaus == largest)
    row, column = pixels[np.argmin(((pixels - pixels.mean(0)) ** 2).sum(1))]
    return int(row), int(column)


def region_hit(heat: torch.Tensor | np.ndarray, box: tuple[int, int, int, int]) -> bool:
    """Whether the map peaks inside a box.

    heat : (h, w); a constant map has no peak and counts as a miss
    box : top, left, bottom, right in pixels, as slices: bottom and right are the first ones outside

    Raises ValueError for an empty box, and as `peak` does.
    Source: the pointing game, Zhang et al., IJCV 2018. Differs: no tolerance around the box.
    """
    top, left, bottom, right = box
    if top >= bottom or left >= right:
        raise ValueError(f"Need a box (top, left, bottom, right) with some area, got {tuple(box)}.")
    values = torch.as_tensor(heat)
    if values.numel() and bool((values == values.flatten()[0]).all()):
        return False
    row, column = peak(values)
    return top <= row < bottom and left <= column < right


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along an axis; the last one is moved inward to end at the border."""
    starts = list(range(0, size - window + 1, stride))
    return starts if starts[-1] == size - window else [*starts, size - window]


def cover_cells(starts: Sequence[int], window: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (n_windows, n_cells) that average windows over each stretch that the same windows cover.

    Returns the weights, float64, and the stretches' lengths (n_cells,). Working on stretches instead of
    pixels keeps equal pixels exactly equal and makes the spreading of many maps cheap.
    """
    first = torch.tensor(starts)
    edges = torch.tensor(sorted({*starts, *(start + window for start in starts)}))
    cells = edges[:-1]
    cover = ((first[:, None] <= cells) & (cells < first[:, None] + window)).double()
    return cover / cover.sum(0), edges.diff()


def check_picture(image: torch.Tensor) -> None:
    """Raise ValueError or TypeError unless the picture is (3, h, w), float, finite, 0 to 1."""
    if not isinstance(image, torch.Tensor):
        raise TypeError(f"Need the picture as a tensor (3, h, w), got {type(image).__name__}.")
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"Need one RGB picture (3, h, w), got shape {tuple(image.shape)}.")
    if not image.is_floating_point():
        raise ValueError(f"Need a float picture from 0 to 1, got {image.dtype}; divide 8-bit values by 255.")
    if min(image.shape[1:]) < 2:
        raise ValueError(f"Need a picture of at least 2 x 2 pixels, got {image.shape[1]} x {image.shape[2]}.")
    if not bool(torch.isfinite(image).all()):
        raise ValueError("Need a picture of finite values, this one has NaN or infinity.")
    low, high = image.min().item(), image.max().item()
    if low < 0 or high > 1:
        raise ValueError(f"Need values from 0 to 1, got {low:g} to {high:g}; normalise inside the score.")


def check_mode(score: Score) -> None:
    """Raise ValueError if a network's dropout or batch norm would make its scores vary from call to call."""
    if isinstance(score, nn.Module):
        for name, part in score.named_modules():
            if part.training and isinstance(part, _VARYING):
                kind = type(part).__name__
                raise ValueError(
                    f"The score's {kind} {name!r} is in training mode; call .eval() on it first."
                )


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless the setting is a whole number of at least 1."""
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"Need {name} to be a whole number of at least 1, got {value!r}.")


def evaluate(score: Score, batch: torch.Tensor, *, like: torch.Tensor | None = None) -> torch.Tensor:
    """The score of a batch, (n,) or (n, k), checked for kind and shape.

    like : the scores of an earlier batch, whose trailing shape must come again; None: the first call, whose
        values are also checked to be finite
    """
    values = score(batch)
    if not isinstance(values, torch.Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, torch.Tensor) else type(values).__name__
        raise ValueError(f"Need the score to return a float tensor (n,) or (n, k), it returned {kind}.")
    shape = tuple(values.shape)
    if len(shape) not in (1, 2) or 0 in shape:
        raise ValueError(f"Need the score to return (n,) or (n, k) for n inputs, it returned shape {shape}.")
    if len(values) != len(batch):
        raise ValueError(f"Need one score for each of {len(batch)} inputs, the score returned shape {shape}.")
    if like is not None and shape[1:] != tuple(like.shape[1:]):
        before = (len(batch), *like.shape[1:])
        raise ValueError(f"Need scores of shape {before}, as for the first input, it returned {shape}.")
    return finite(values) if like is None else values


def finite(values: torch.Tensor) -> torch.Tensor:
    """The scores themselves; raises ValueError if some are NaN or infinite."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ValueError(f"Need finite scores, {bad} of {values.numel()} are NaN or infinite.")
    return values


def _check_geometry(image: torch.Tensor, *, window: int, stride: int, fill: float, batch_size: int) -> None:
    check_count("window", window)
    check_count("stride", stride)
    check_count("batch_size", batch_size)
    height, width = image.shape[1:]
    if window > min(height, width):
        raise ValueError(f"Need a window no larger than the picture ({height} x {width}), got {window}.")
    if stride > window:
        raise ValueError(f"Need a stride within the window ({window}) to cover every pixel, got {stride}.")
    if not (math.isfinite(fill) and 0 <= fill <= 1):
        raise ValueError(f"Need fill from 0 to 1, like the picture, got {fill}.")


def _cover(image: torch.Tensor, corners: list[tuple[int, int]], window: int, fill: float) -> torch.Tensor:
    copies = image.repeat(len(corners), 1, 1, 1)
    for copy, (top, left) in zip(copies, corners, strict=True):
        copy[:, top : top + window, left : left + window] = fill
    return copies


def _steps(n_items: int, batch_size: int, progress: bool) -> Sequence[int]:
    steps = range(0, n_items, batch_size)
    if not progress:
        return steps
    from tqdm import tqdm

    return tqdm(steps, desc="occlusion", unit="batch")
