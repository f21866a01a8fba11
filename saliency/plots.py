"""Drawings of saliency maps over a picture, the scalp and time: warm supports the score, cold opposes it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from saliency.brain_plots import band_figure as band_figure
from saliency.brain_plots import evoked as evoked
from saliency.brain_plots import neural_figure as neural_figure
from saliency.drawing import INK, QUIET, Heat, blank_figure, colour_bar, colours, finite_values


def overlay(
    image: torch.Tensor, heat: Heat, *, alpha: float = 0.55, limit: float | None = None
) -> np.ndarray:
    """The picture under its map: warm where it supports the score, cold where it opposes it.

    image : (3, h, w), 0 to 1
    heat : (h, w), signed; another size is stretched to the picture's, for this drawing only
    alpha : opacity of a value at the limit; smaller values are more transparent, zero is the picture itself;
        the picture's own colours fade to grey as the map's grow
    limit : value of the strongest colour, in units of the score; None: the largest absolute value

    Returns (h, w, 3) uint8.
    Raises ValueError for a picture, map, opacity or limit that does not fit.
    """
    picture = _picture(image)
    values = _stretched(_picture_map(heat), picture.shape[:2])
    if not 0 <= alpha <= 1:
        raise ValueError(f"Need alpha from 0 to 1, got {alpha}.")
    if limit is not None and not 0 < limit < float("inf"):
        raise ValueError(f"Need a positive colour limit, got {limit}.")
    strongest = limit or np.abs(values).max()
    if strongest == 0:
        return _bytes(picture)
    colour, opacity = colours(np.clip(values / strongest, -1, 1))
    grey = picture @ np.array([0.299, 0.587, 0.114])[:, None]  # (h, w, 1)
    base = picture + opacity[..., None] * (
        grey - picture
    )  # else red fur under a warm map looks like more map
    return _bytes(base + alpha * opacity[..., None] * (colour - base))


def saliency_figure(
    image: torch.Tensor,
    heat: Heat,
    control: Heat,
    *,
    box: tuple[int, int, int, int] | None = None,
    titles: Sequence[str] = ("Picture", "EEG", "Shuffled EEG"),
    unit: str = "score",
) -> Figure:
    """Picture, map and control map side by side, with one colour scale for both maps.

    image : (3, h, w), 0 to 1
    heat, control : (h, w), signed, e.g. for this EEG and for shuffled EEG
    box : top, left, bottom, right of a region to outline, pixels, as slices
    titles : of the three panels
    unit : what the colour bar counts

    Raises ValueError for a picture, map, box or number of titles that does not fit.
    """
    picture = _picture(image)
    maps = [_picture_map(heat), _picture_map(control)]
    if len(titles) != 3:
        raise ValueError(f"Need three titles, for picture, map and control, got {len(titles)}.")
    limit = max(np.abs(values).max() for values in maps) or 1.0
    panels = [_bytes(picture), *(overlay(image, values, limit=limit) for values in maps)]
    height, width = picture.shape[:2]
    figure = blank_figure(9.6, 0.55 + 2.8 * height / width)
    grid = figure.add_gridspec(1, 3, wspace=0.03)
    for column, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        axes = figure.add_subplot(grid[column])
        axes.imshow(panel, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(title, loc="left", fontsize=10.5, color=INK, pad=6)
        if box is not None:
            _outline(axes, box, (height, width))
    colour_bar(figure, axes.inset_axes([1.05, 0, 0.035, 1]), limit=limit, unit=unit, alpha=0.8)
    return figure


def time_strip(
    image: torch.Tensor,
    maps: Heat,
    windows: Sequence[tuple[float, float]],
    *,
    control: Heat | None = None,
    titles: Sequence[str] = ("EEG", "Shuffled EEG"),
    unit: str = "score",
) -> Figure:
    """The picture's map for successive windows of the response, as a strip, with one colour scale.

    image : (3, h, w), 0 to 1
    maps : (k, h, w), signed, one for each window, e.g. of the copies that `kept_windows` makes
    windows : k times (start, stop), s
    control : (k, h, w), the same for shuffled EEG, as a second row
    titles : of the rows; the second is used with a control alone
    unit : what the colour bar counts

    Raises ValueError for a picture, maps, windows, control or titles that do not fit.
    """
    picture = _picture(image)
    rows = [_window_maps(heat, windows) for heat in (maps, control) if heat is not None]
    if len(titles) < len(rows):
        raise ValueError(f"Need a title for each of {len(rows)} rows, got {len(titles)}.")
    limit = max(np.abs(values).max() for values in rows) or 1.0
    tall = picture.shape[0] / picture.shape[1]
    width = 1.3 + 1.75 * (1 + len(windows))
    size = 9.5 * max(1.0, width / 9)  # points, so that it can be read where the strip is a page wide
    figure = blank_figure(width, 0.45 + 1.75 * tall * len(rows))
    grid = figure.add_gridspec(len(rows), 1 + len(windows), wspace=0.03, hspace=0.03)
    _strip_panel(figure, grid[0, 0], _bytes(picture), "Picture", size=size)
    for row, values in enumerate(rows):
        for column, (heat, (start, stop)) in enumerate(zip(values, windows, strict=True)):
            span = f"{1e3 * start:.0f}–{1e3 * stop:.0f} ms" if row == 0 else ""
            shown = overlay(image, heat, limit=limit)
            axes = _strip_panel(figure, grid[row, column + 1], shown, span, size=size)
            if column == 0 and len(rows) > 1:
                settings = {"rotation": 90, "ha": "right", "va": "center", "transform": axes.transAxes}
                axes.text(-0.03, 0.5, titles[row], fontsize=size, color=QUIET, **settings)
    bar = figure.axes[len(windows)].inset_axes([1.06, 0, 0.05, 1])  # beside the first row's last map
    colour_bar(figure, bar, limit=limit, unit=unit, alpha=0.8, size=size)
    return figure


def _picture(image: torch.Tensor) -> np.ndarray:
    from saliency.scores import check_picture

    check_picture(image)
    return image.detach().cpu().float().permute(1, 2, 0).numpy()  # (h, w, 3)


def _picture_map(heat: Heat) -> np.ndarray:
    shape = tuple(torch.as_tensor(heat).shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"Need one map (h, w) to draw, got shape {shape}.")
    return finite_values(heat)


def _window_maps(maps: Heat, windows: Sequence[tuple[float, float]]) -> np.ndarray:
    shape = tuple(torch.as_tensor(maps).shape)
    if len(shape) != 3 or 0 in shape or shape[0] != len(windows):
        raise ValueError(f"Need a map (h, w) for each of {len(windows)} windows, got shape {shape}.")
    for window in windows:
        if len(window) != 2 or not window[0] < window[1]:
            raise ValueError(f"Need windows (start, stop) in seconds, got {tuple(window)}.")
    return finite_values(maps)


def _strip_panel(
    figure: Figure, cell: SubplotSpec, panel: np.ndarray, title: str, *, size: float = 9.5
) -> Axes:
    axes = figure.add_subplot(cell)
    axes.imshow(panel, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize=size, color=INK, pad=5)
    return axes


def _stretched(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if values.shape == shape:
        return values
    small = torch.from_numpy(values)[None, None]
    return torch.nn.functional.interpolate(small, size=shape, mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8)


def _outline(axes: Axes, box: tuple[int, int, int, int], shape: tuple[int, int]) -> None:
    top, left, bottom, right = box
    if not (0 <= top < bottom <= shape[0] and 0 <= left < right <= shape[1]):
        raise ValueError(f"Need a box (top, left, bottom, right) within {shape}, got {tuple(box)}.")
    frame = Rectangle(
        (left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor="white", linewidth=1.4
    )
    frame.set_path_effects([Stroke(linewidth=2.6, foreground="#00000080"), Normal()])
    axes.add_patch(frame)


def sanity_figure(image: torch.Tensor, own: Heat, alternatives: Mapping[str, Heat | str]) -> Figure:
    """The picture and its map beside maps that should differ from it, each on a colour scale of its own.

    image : (3, h, w), 0 to 1
    own : (h, w), signed
    alternatives : name -> map (h, w), or maps (k, h, w), of which the first is drawn; a sentence instead of a
        map says why it was not made and is left out, as `saliency.sanity.sanity_checks` takes them

    Raises ValueError for a picture or map that does not fit.
    """
    picture = _picture(image)
    panels = [("picture", _bytes(picture)), ("map", overlay(image, own))]
    for name, heat in alternatives.items():
        if not isinstance(heat, str):
            first = heat[0] if np.ndim(heat) == 3 else heat
            panels.append((name.replace("_", " ").replace("eeg", "EEG"), overlay(image, first)))
    n_columns = min(len(panels), 5)
    n_rows = -(-len(panels) // n_columns)
    figure = blank_figure(1.9 * n_columns, n_rows * (0.35 + 1.9 * picture.shape[0] / picture.shape[1]))
    cells = figure.add_gridspec(n_rows, n_columns)
    for cell, (name, panel) in zip(cells, panels, strict=False):
        _strip_panel(figure, cell, panel, name)
    return figure
