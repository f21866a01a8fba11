"""Which part of a picture a score depends on, by covering it with random masks (RISE)."""

import math
from collections.abc import Iterator

import torch
from torch.nn import functional as F
from tqdm import tqdm

from saliency.fills import Fill, fill_picture
from saliency.memory import inputs_within
from saliency.scores import Score, check_count, check_mode, check_picture, check_seed, evaluate, finite, pick


def rise_map(
    score: Score,
    image: torch.Tensor,
    *,
    n_masks: int = 4000,
    cells: int = 7,
    share: float = 0.5,
    fill: Fill = 0.0,
    estimator: str = "covariance",
    batch_size: int = 8,
    max_memory: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> torch.Tensor:
    """How much higher the score is when a pixel and its surroundings show, the rest covered by chance.

    score : pictures (n, 3, h, w) to (n,) or (n, k); all k maps come from the same masked pictures
    image : (3, h, w), float, 0 to 1
    n_masks : masked pictures; the map's chance error falls with the square root of their number
    cells : a mask is a grid of cells x cells zeros and ones, made larger by interpolation and shifted by
        chance by up to a cell, so that a map shows nothing smaller than a cell
    share : probability that a cell shows, between 0 and 1
    fill : what shows where a mask is 0, as in `fill_patches`, without "inpaint"; the Gaussian of "blur" has a
        deviation of half a cell; maps compare with occlusion maps of the same fill
    estimator : "covariance": the slope of the score on the mask's value at the pixel, in units of the score
        per pixel shown instead of covered; its expected value is 0 where nothing matters, it is signed and
        does not change when a constant is added to the score;
        "plain": the mean of the scores weighted by the mask, as published, in units of the score; it holds the
        mean score at every pixel, so neither its sign nor its zero mean anything
    batch_size : masked pictures held in memory at a time
    max_memory : bytes that a batch and what the score makes of it may take, the weights aside; batches hold
        fewer pictures to stay below; None: no bound

    Returns (h, w) for a score (n,), (k, h, w) for (n, k), also if k = 1, on the picture's device.
    Raises ValueError for a picture, setting or score that does not fit.
    Source: Petsiuk, Das & Saenko, BMVC 2018, section 3. Differs: the covariance, divided by the mask's
    variance at the pixel, is ours; both are measured over the masks drawn.
    """
    check_picture(image)
    for name, value in {"n_masks": n_masks, "cells": cells, "batch_size": batch_size}.items():
        check_count(name, value)
    check_seed(seed)
    _check_settings(image, cells=cells, share=share, estimator=estimator)
    check_mode(score)
    batch_size = inputs_within(score, image, batch_size, max_memory)
    masks = _Masks(image, n_masks, cells, share, seed=seed)
    hidden = fill_picture(image, fill=fill, sigma=max(_cell_sides(image, cells)) / 2, seed=seed)
    with torch.no_grad():
        clean = evaluate(score, image[None])
        values = []
        for start in tqdm(range(0, n_masks, batch_size), "masks", disable=not progress, unit="batch"):
            shown = torch.lerp(hidden, image, masks[start : start + batch_size][:, None].to(image))
            values.append(finite(evaluate(score, shown, like=clean)))
        scores = torch.cat(values).reshape(n_masks, -1).to(masks.place).double()
        heat = _ESTIMATORS[estimator](scores, masks)  # (k, h, w)
    heat = heat.to(torch.promote_types(clean.dtype, torch.float32)).to(image.device)
    return heat if clean.ndim == 2 else heat[0]


class _Masks:
    """Masks of a picture, 0 to 1, float64, each made anew whenever it is asked for: masks[4:9] is (5, h, w)."""

    def __init__(self, image: torch.Tensor, n_masks: int, cells: int, share: float, *, seed: int) -> None:
        self.place = torch.device("cpu") if image.device.type == "mps" else image.device  # MPS has no float64
        self.size, self.share, self.n = image.shape[1:], share, n_masks
        generator = torch.Generator().manual_seed(seed)
        self.grids = (torch.rand(n_masks, cells, cells, generator=generator) < share).double()
        sides = _cell_sides(image, cells)
        self.shifts = [torch.randint(side, (n_masks, 1), generator=generator) for side in sides]
        self.weights = [_interpolation(cells, side) for side in sides]

    def __getitem__(self, which: slice) -> torch.Tensor:
        rows, columns = (
            weight[shift[which] + torch.arange(size)].to(self.place)  # (n, size, cells)
            for weight, shift, size in zip(self.weights, self.shifts, self.size, strict=True)
        )
        return (rows @ self.grids[which].to(self.place) @ columns.mT).clamp(0, 1)

    def chunks(self, size: int = 64) -> Iterator[tuple[slice, torch.Tensor]]:
        for start in range(0, self.n, size):
            which = slice(start, start + size)
            yield which, self[which]


def _covariance(scores: torch.Tensor, masks: _Masks) -> torch.Tensor:
    """scores : (n, k), float64"""
    scores = scores - scores[0]  # exactly 0 where they do not differ
    scores = scores - scores.mean(0)
    first = second = products = 0.0
    for which, chunk in masks.chunks():
        centred = chunk - masks.share
        first = first + centred.sum(0)
        second = second + centred.square().sum(0)
        products = products + (scores[which].T @ centred.flatten(1))
    variance = second / masks.n - (first / masks.n) ** 2
    unseen = int((variance < 1e-9).sum())
    if unseen:
        raise ValueError(
            f"Need pixels both shown and covered, {unseen} of {variance.numel()} "
            f"were the same in all {masks.n} masks; raise n_masks or move share to 0.5."
        )
    return products.unflatten(1, masks.size) / masks.n / variance


def _plain(scores: torch.Tensor, masks: _Masks) -> torch.Tensor:
    """scores : (n, k), float64"""
    total = sum(scores[which].T @ chunk.flatten(1) for which, chunk in masks.chunks())
    return total.unflatten(1, masks.size) / (masks.n * masks.share)


_ESTIMATORS = {"covariance": _covariance, "plain": _plain}


def _interpolation(cells: int, side: int) -> torch.Tensor:
    """Weights ((cells + 1) * side, cells) that enlarge a line of cells by as much as the shift needs."""
    line = torch.eye(cells, dtype=torch.float64)[None]
    return F.interpolate(line, size=(cells + 1) * side, mode="linear", align_corners=False)[0].T


def _cell_sides(image: torch.Tensor, cells: int) -> tuple[int, int]:
    height, width = image.shape[1:]
    return math.ceil(height / cells), math.ceil(width / cells)


def _check_settings(image: torch.Tensor, *, cells: int, share: float, estimator: str) -> None:
    if not 2 <= cells <= min(image.shape[1:]):
        height, width = image.shape[1:]
        raise ValueError(f"Need from 2 cells to one per pixel ({height} x {width}), got {cells}.")
    if not 0 < share < 1:
        raise ValueError(f"Need a share of shown cells between 0 and 1, got {share}.")
    pick("estimator", estimator, _ESTIMATORS)
