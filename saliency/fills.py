"""What a map puts into the covered part of a picture: grey, noise, a blur, or the surroundings carried on."""

from collections.abc import Sequence

import numpy as np
import torch

from saliency.scores import check_count, check_picture, pick

Fill = float | str | Sequence[float] | torch.Tensor


def fill_patches(
    image: torch.Tensor, corners: Sequence[tuple[int, int]], window: int, *, fill: Fill, seed: int = 0
) -> torch.Tensor:
    """What is put into each covered square of a picture.

    image : (3, h, w), float, 0 to 1; the fill has the same range, before any normalisation inside the score
    corners : first row and first column of each square
    window : side of the squares, pixels
    fill : a number: that grey; three numbers: that colour; a tensor (3, h, w): a picture that shows through;
        all from 0 to 1; or a name:
        "mean": the picture's mean per channel
        "blur": the picture blurred by a Gaussian with a deviation of half the window; at the border the
            weights of the pixels that exist are scaled up to sum to 1
        "noise": normal noise with the picture's mean and deviation per channel, cut off at 0 and 1; each
            square has its own draw, which depends on seed, corner and window alone
        "inpaint": the surrounding pixels carried on smoothly (Laplace's equation: each pixel is the mean of
            its four neighbours); where the square touches the picture's border, that side counts for nothing
    seed : of "noise", 0 or more

    Returns (n, 3, window, window), 0 to 1, with the picture's dtype and device.
    Raises ValueError for a fill that is unknown or outside 0 to 1, for a square that is not inside the
    picture, and for "inpaint" where the square is the whole picture.
    """
    check_fill(fill, image)
    _check_squares(image, corners, window)
    if isinstance(fill, str) and fill in _BY_SQUARE:
        return _BY_SQUARE[fill](image, corners, window, seed).to(image)
    shown = fill_picture(image, fill=fill, sigma=window / 2)
    return torch.stack([shown[:, top : top + window, left : left + window] for top, left in corners])


def fill_picture(image: torch.Tensor, *, fill: Fill, sigma: float, seed: int = 0) -> torch.Tensor:
    """The picture that shows where a mask of any shape covers: (3, h, w), 0 to 1.

    fill : as in `fill_patches`, without "inpaint"; "noise" is one draw for the whole picture
    sigma : deviation of the Gaussian of "blur", pixels

    Raises ValueError as `fill_patches` does, and for "inpaint", which needs to know what is covered.
    """
    check_fill(fill, image)
    if not isinstance(fill, str):
        values = _values(fill).to(image)
        return (values if values.ndim == 3 else values.reshape(-1, 1, 1)).expand_as(image)
    if fill not in _BY_PICTURE:
        raise ValueError(f"Need a fill that does not depend on the covered square, got {fill!r}.")
    if not 0 < sigma < float("inf"):
        raise ValueError(f"Need a positive sigma in pixels, got {sigma}.")
    return _BY_PICTURE[fill](image, sigma, seed).to(image)


def check_fill(fill: Fill, image: torch.Tensor) -> None:
    """Raise ValueError or TypeError unless the fill can be put into this picture (3, h, w), 0 to 1."""
    check_picture(image)
    if isinstance(fill, str):
        pick("fill", fill, FILLS)
        return
    values = _values(fill)
    if values.shape not in ((), (3,), image.shape):
        raise ValueError(
            f"Need a fill with one value, three, or the picture's shape {tuple(image.shape)}, "
            f"got shape {tuple(values.shape)}."
        )
    if not bool(((values >= 0) & (values <= 1)).all()):  # false for NaN too
        low, high = values.min().item(), values.max().item()
        raise ValueError(f"Need fill from 0 to 1, like the picture, got {low:g} to {high:g}.")


def _values(fill: float | Sequence[float] | torch.Tensor) -> torch.Tensor:
    try:
        values = torch.as_tensor(fill)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"Need fill as a number, three numbers, a tensor or a name, got {fill!r}.") from None
    if values.dtype == torch.bool or values.is_complex():
        raise TypeError(f"Need fill as numbers from 0 to 1, got {values.dtype}.")
    return values.detach().cpu().double()


def _check_squares(image: torch.Tensor, corners: Sequence[tuple[int, int]], window: int) -> None:
    check_count("window", window)
    height, width = image.shape[1:]
    if len(corners) == 0:
        raise ValueError("Need the corner of at least one square, got none.")
    for top, left in corners:
        if not (0 <= top <= height - window and 0 <= left <= width - window):
            raise ValueError(
                f"Need squares inside the picture ({height} x {width}), "
                f"got one of side {window} at {(top, left)}."
            )


def _mean(image: torch.Tensor, _sigma: float, _seed: int) -> torch.Tensor:
    return image.detach().cpu().double().mean((1, 2), keepdim=True).expand(image.shape)


def _blur(image: torch.Tensor, sigma: float, _seed: int) -> torch.Tensor:
    rows, columns = (_gaussian(size, sigma) for size in image.shape[1:])
    return (rows @ image.detach().cpu().double() @ columns.T).clamp(0, 1)


def _gaussian(size: int, sigma: float) -> torch.Tensor:
    """Weights (size, size) of the Gaussian mean around each pixel of a line."""
    places = torch.arange(size, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((places[:, None] - places) / sigma) ** 2)
    return weights / weights.sum(1, keepdim=True)


def _noise(image: torch.Tensor, _sigma: float, seed: int) -> torch.Tensor:
    return _draw(image, tuple(image.shape[1:]), (seed,))


def _noise_squares(
    image: torch.Tensor, corners: Sequence[tuple[int, int]], window: int, seed: int
) -> torch.Tensor:
    return torch.stack([_draw(image, (window, window), (seed, *corner, window)) for corner in corners])


def _draw(image: torch.Tensor, size: tuple[int, int], key: tuple[int, ...]) -> torch.Tensor:
    if key[0] < 0:
        raise ValueError(f"Need a seed of at least 0, got {key[0]}.")
    pixels = image.detach().cpu().double().flatten(1)
    mean, deviation = pixels.mean(1)[:, None, None], pixels.std(1, correction=0)[:, None, None]
    normal = torch.from_numpy(np.random.default_rng(key).standard_normal((3, *size)))
    return (mean + deviation * normal).clamp(0, 1)


def _inpainted(
    image: torch.Tensor, corners: Sequence[tuple[int, int]], window: int, _seed: int
) -> torch.Tensor:
    """Harmonic squares (n, 3, window, window), by the eigenvectors of the second difference of each axis.

    Source: Lynch, Rice & Thomas, Numerische Mathematik 6, 1964 (fast diagonalisation).
    """
    if tuple(image.shape[1:]) == (window, window):
        raise ValueError(f"Need pixels around the square to inpaint it, {window} is the whole picture.")
    padded = torch.nn.functional.pad(image.detach().cpu().double(), (1, 1, 1, 1))  # 0 where there is no pixel
    around = torch.stack([padded[:, t : t + window + 2, left : left + window + 2] for t, left in corners])
    inner = slice(1, -1)
    pull = torch.zeros(len(corners), 3, window, window, dtype=torch.float64)
    pull[..., 0, :] += around[..., 0, inner]
    pull[..., -1, :] += around[..., -1, inner]
    pull[..., :, 0] += around[..., inner, 0]
    pull[..., :, -1] += around[..., inner, -1]
    tops, lefts = torch.tensor(list(corners)).T
    row_values, rows = _second_difference(tops, window, image.shape[1])
    column_values, columns = _second_difference(lefts, window, image.shape[2])
    modes = rows.mT @ pull @ columns / (row_values[..., :, None] + column_values[..., None, :])
    return (rows @ modes @ columns.mT).clamp(0, 1)


def _second_difference(starts: torch.Tensor, window: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (n, 1, window) and eigenvectors (n, 1, window, window) along one axis for each square.

    An end on the picture's border has one neighbour fewer: no flux passes it.
    """
    line = torch.full((window - 1,), -1.0, dtype=torch.float64)
    difference = 2 * torch.eye(window, dtype=torch.float64) + line.diag(1) + line.diag(-1)
    kinds = difference.repeat(2, 2, 1, 1)  # at the first border or not, at the last border or not
    kinds[1, :, 0, 0] -= 1
    kinds[:, 1, -1, -1] -= 1
    values, vectors = torch.linalg.eigh(kinds)
    first, last = (starts == 0).long(), (starts + window == size).long()
    return values[first, last][:, None], vectors[first, last][:, None]


_BY_PICTURE = {"mean": _mean, "blur": _blur, "noise": _noise}
_BY_SQUARE = {"noise": _noise_squares, "inpaint": _inpainted}
FILLS = {**_BY_PICTURE, **_BY_SQUARE}
