"""Sheets of edited pictures with their captions, before and after, and moving pictures."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from brainedit.editing import grid_image

_INK, _PADDING = (40, 40, 40), 4


def captioned(images: Tensor, captions: Sequence[str], *, columns: int, zoom: int = 1) -> Image.Image:
    """Pictures (n, 3, height, width), 0 to 1, row by row, each over its caption (cut where it is too long).

    Raises ValueError when captions and pictures differ in number, or as `grid_image` does.
    """
    if len(captions) != len(images):
        raise ValueError(f"Need one caption a picture; got {len(captions)} for {len(images)} pictures.")
    pictures = grid_image(images, columns=columns, padding=0, zoom=zoom)
    height, width = images.shape[2] * zoom, images.shape[3] * zoom
    text = max(10, min(16, width // 9))
    step_y, step_x = height + text + 2 * _PADDING, width + _PADDING
    rows, columns = -(-len(images) // columns), min(columns, len(images))
    canvas = Image.new("RGB", (columns * step_x + _PADDING, rows * step_y + _PADDING), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(text)
    for i, caption in enumerate(captions):
        row, column = divmod(i, columns)
        left, top = _PADDING + column * step_x, _PADDING + row * step_y
        box = (column * width, row * height, (column + 1) * width, (row + 1) * height)
        canvas.paste(pictures.crop(box), (left, top))
        draw.text((left, top + height + 1), _fitting(caption, draw, font, width), _INK, font)
    return canvas


def strength_grid(images: Tensor, strengths: Sequence[float], *, zoom: int = 1) -> Image.Image:
    """One row a picture and one column a strength, as `edit` gives them for several: (n, k, 3, height, width).

    Raises ValueError when strengths and columns differ in number.
    """
    if images.ndim != 5 or images.shape[1] != len(strengths):
        raise ValueError(
            f"{len(strengths)} strengths need pictures (n, {len(strengths)}, 3, height, width); got "
            f"{tuple(images.shape)}."
        )
    captions = [f"{strength:+g} SD" if strength else "as it was" for strength in strengths]
    return captioned(images.flatten(0, 1), captions * len(images), columns=len(strengths), zoom=zoom)


def before_after(before: Tensor, after: Tensor, *, zoom: int = 1) -> Image.Image:
    """One row a picture: before, after, and how far each pixel changed (white 0, black the sheet's largest).

    before, after : (n, 3, height, width), 0 to 1

    Raises ValueError when their shapes differ.
    """
    if before.shape != after.shape:
        raise ValueError(
            f"Before and after need the same shape; got {tuple(before.shape)} and {tuple(after.shape)}."
        )
    change = (after - before).abs().mean(1, keepdim=True)
    largest = change.max().item()
    shown = 1 - change / (largest or 1.0)
    rows = torch.stack([before, after, shown.expand_as(before)], dim=1)
    captions = ["before", "after", f"change, to {largest:.2f}"] * len(before)
    return captioned(rows.flatten(0, 1), captions, columns=3, zoom=zoom)


def save_gif(
    images: Tensor,
    path: str | os.PathLike,
    *,
    milliseconds: int = 120,
    zoom: int = 1,
    there_and_back: bool = True,
) -> Path:
    """Pictures (k, 3, height, width), 0 to 1, as a moving picture without end; whole or not at all.

    A GIF has 256 colours a frame: what is measured is measured on the pictures, not on the file. Its comment
    says that the pictures were made by a generator.

    milliseconds : how long a frame stays, a multiple of 10 from 20 up
    there_and_back : after the last frame come the others, backwards

    Raises ValueError for fewer than 2 pictures or another time.
    """
    if len(images) < 2:
        raise ValueError(f"A moving picture needs 2 pictures or more; got {len(images)}.")
    if milliseconds < 20 or milliseconds % 10:
        raise ValueError(f"milliseconds must be a multiple of 10 from 20 up; got {milliseconds}.")
    frames = [grid_image(image[None], columns=1, padding=0, zoom=zoom) for image in images]
    if there_and_back:
        frames += frames[-2:0:-1]
    frames = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    partial = Path(f"{path}.partial")
    frames[0].save(
        partial,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=milliseconds,
        loop=0,
        comment=b"Made by a generative model with brainedit",
    )
    os.replace(partial, path)
    return Path(path)


def _fitting(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont, width: int) -> str:
    if draw.textlength(text, font) <= width:
        return text
    lengths = np.array([draw.textlength(f"{text[:i]}…", font) for i in range(len(text))])
    return f"{text[: max(0, int((lengths <= width).sum()) - 1)]}…"
