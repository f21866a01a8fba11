"""Which part of a picture a score depends on: occlusion here, RISE and gradients beside it; where maps peak."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import product

import numpy as np
import torch

from saliency.covered import CoveredScores
from saliency.fills import Fill, check_fill
from saliency.gradients import gradient_map as gradient_map
from saliency.rise import rise_map as rise_map
from saliency.scores import Score, check_count, check_mode, check_picture, pick

logger = logging.getLogger(__name__)

PALAZZO_WINDOWS = (3, 5, 9, 17, 33, 65)  # pixels, at 299


def occlusion_map(
    score: Score,
    image: torch.Tensor,
    *,
    window: int = 32,
    stride: int = 16,
    fill: Fill = 0.5,
    batch_size: int = 16,
    max_memory: int | None = None,
    precision: str = "float32",
    seed: int = 0,
    progress: bool = False,
) -> torch.Tensor:
    """How far the score falls when a square around each pixel is covered.

    score : pictures (n, 3, h, w) to (n,) or (n, k); all k maps come from the same covered pictures. One that is
        a torch.nn.Module of convolutions, pools, batch norms and point-wise operations is several times faster
        than others: only what a window changes is computed, exactly. The log says which way was taken
    image : (3, h, w), float, 0 to 1
    window, stride : side of the square and its step, pixels; the last square of an axis is moved inward to
        end at the border, so that every pixel is covered
    fill : what is put into the square, in the picture's 0 to 1, before any normalisation inside the score: a
        grey value, a colour, "mean", "blur", "noise", "inpaint" or a picture, as in `saliency.fills.fill_patches`
    batch_size : covered copies held in memory at a time, at most
    max_memory : bytes for those copies and what the score makes of them; the batch shrinks to fit
    precision : "bfloat16" runs the score under autocast, in less time where the device is made for it; the log
        gives the difference that it made on a few windows
    seed : of the fill "noise"

    Returns the signed map score(clean) - score(covered), averaged over the squares that cover a pixel, in
    units of the score, on the picture's device: (h, w) for a score (n,), (k, h, w) for (n, k), also if k = 1.
    Raises ValueError for a picture, geometry, setting or score that does not fit.
    Source: Zeiler & Fergus, ECCV 2014, section 4.2. Differs: overlapping squares are averaged, as in captum's
    Occlusion, which this equals where the squares tile the picture without the inward move.
    """
    grid = _Grid(image, window, stride)
    how = {"fill": fill, "batch_size": batch_size, "max_memory": max_memory}
    scores = _covered(score, image, window=window, **how, precision=precision, seed=seed)
    values = scores(grid.corners, bar=partial(_shown, label=f"occlusion, {window} px") if progress else iter)
    if precision == "bfloat16":
        _log_difference(score, scores, grid, values, how)
    return grid.spread(values, scores)


def occlusion_steps(
    score: Score,
    image: torch.Tensor,
    *,
    window: int = 32,
    stride: int = 16,
    fill: Fill = 0.5,
    batch_size: int = 16,
    max_memory: int | None = None,
    seed: int = 0,
) -> Iterator[torch.Tensor]:
    """The map of `occlusion_map` from coarse to fine: each one adds windows between those of the one before.

    The first has the fewest windows that cover every pixel, the last is the map itself; no window is computed
    twice. The arguments are those of `occlusion_map`.
    """
    _Grid(image, window, stride)
    settings = {"fill": fill, "batch_size": batch_size, "max_memory": max_memory, "seed": seed}
    scores = _covered(score, image, window=window, **settings, precision="float32")
    known: dict[tuple[int, int], torch.Tensor] = {}
    step = max(power for power in (2**k for k in range(16)) if power * stride <= window)
    while step >= 1:
        grid = _Grid(image, window, step * stride, within=stride)
        new = [corner for corner in grid.corners if corner not in known]
        if new:
            known |= dict(zip(new, scores(new), strict=True))
            yield grid.spread(torch.stack([known[corner] for corner in grid.corners]), scores)
        step //= 2


def multiscale_map(
    score: Score,
    image: torch.Tensor,
    *,
    windows: Sequence[int] | str = (17, 33, 65),
    stride: int | None = None,
    fill: Fill = 0.5,
    batch_size: int = 16,
    max_memory: int | None = None,
    precision: str = "float32",
    seed: int = 0,
    progress: bool = False,
) -> torch.Tensor:
    """Sum of the occlusion maps of several window sizes: fine detail and wide context in one map.

    windows : sides of the squares, pixels; "palazzo" takes the paper's 3, 5, 9, 17, 33 and 65, which it used
        on pictures of 299 pixels
    stride : step for every window, at most the smallest; None takes about a third of each window

    Returns (h, w) or (k, h, w), signed, in units of the score; the rest is as in `occlusion_map`.
    Source: Palazzo et al., TPAMI 2021, Eq. 3-4. Differs: signed and not normalised per picture; windows move
    by the stride instead of by one pixel (theirs is stride=1) and are averaged where they overlap; they are
    filled with grey (theirs is fill=0), and the smallest ones (3, 5, 9) are left out unless asked for.
    """
    if isinstance(windows, str):
        windows = pick("windows", windows, {"palazzo": PALAZZO_WINDOWS})
    check_picture(image)
    if len(windows) == 0:
        raise ValueError("Need at least one window, got none.")
    for window in windows:
        check_count("window", window)
    strides = [max(1, round(window / 3)) if stride is None else stride for window in windows]
    for window, step in zip(windows, strides, strict=True):
        _Grid(image, window, step)
    settings = {"fill": fill, "batch_size": batch_size, "max_memory": max_memory, "precision": precision}
    maps = [
        occlusion_map(score, image, window=window, stride=step, **settings, seed=seed, progress=progress)
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


class _Grid:
    """The windows of a picture, and how their scores become a map.

    within : the stride of a finer grid; windows moved inward keep to its places
    """

    def __init__(self, image: torch.Tensor, window: int, stride: int, *, within: int | None = None) -> None:
        check_picture(image)
        check_count("window", window)
        check_count("stride", stride)
        self.size, self.window, self.device = image.shape[1:], window, image.device
        if window > min(self.size):
            height, width = self.size
            raise ValueError(f"Need a window no larger than the picture ({height} x {width}), got {window}.")
        if stride > window:
            raise ValueError(
                f"Need a stride within the window ({window}) to cover every pixel, got {stride}."
            )
        fine = [window_starts(size, window, within or stride) for size in self.size]
        self.starts = [
            [*dict.fromkeys([*places[:: stride // (within or stride)], places[-1]])] for places in fine
        ]
        self.corners = list(product(*self.starts))

    def spread(self, values: torch.Tensor, scores: CoveredScores) -> torch.Tensor:
        """The windows' scores (n, k) as maps of what the score falls by: (h, w) or (k, h, w)."""
        drops = scores.clean - values
        (rows, heights), (columns, widths) = (
            cover_cells(starts, self.window, size)
            for starts, size in zip(self.starts, self.size, strict=True)
        )
        falls = drops.reshape(len(self.starts[0]), len(self.starts[1]), -1).permute(2, 0, 1)
        cells = (rows.T @ falls @ columns).to(self.device, scores.dtype)
        maps = cells.repeat_interleave(heights.to(self.device), 1)
        maps = maps.repeat_interleave(widths.to(self.device), 2)
        return maps[0] if scores.single else maps


def _covered(
    score: Score, image: torch.Tensor, *, batch_size: int, precision: str, **settings
) -> CoveredScores:
    check_count("batch_size", batch_size)
    pick("precision", precision, {"float32": None, "bfloat16": None})
    check_fill(settings["fill"], image)
    check_mode(score)
    return CoveredScores(score, image, batch_size=batch_size, precision=precision, **settings)


def _log_difference(
    score: Score, scores: CoveredScores, grid: _Grid, values: torch.Tensor, how: dict
) -> None:
    """Say how far bfloat16 is from float32, on up to eight windows."""
    some = torch.linspace(0, len(grid.corners) - 1, min(8, len(grid.corners))).long()
    plain = CoveredScores(
        score, scores.image, window=grid.window, **how, precision="float32", seed=scores.seed
    )
    exact = plain([grid.corners[i] for i in some])
    difference = ((scores.clean - values[some]) - (plain.clean - exact)).abs().max()
    span = (values.amax(0) - values.amin(0)).max()
    logger.warning("bfloat16 moves the map by up to %.2g, %.2g of its range.", difference, difference / span)


def _shown(batches: Iterable, *, label: str) -> Iterable:
    from tqdm import tqdm

    return tqdm(batches, desc=label, unit="batch")
