"""Drawings of saliency maps over a picture, the scalp and time: warm supports the score, cold opposes it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

if TYPE_CHECKING:
    import mne

Heat = torch.Tensor | np.ndarray

_INK, _QUIET = "#1f2328", "#6b7280"
_COLD = ["#8fd0ea", "#3b8fd0", "#274b9f"]
_WARM = ["#ffd166", "#f4773b", "#bd1f36"]


def evoked(heat: Heat, info: "mne.Info", tmin: float) -> "mne.EvokedArray":
    """A neural map as an EvokedArray, for MNE's own drawings.

    The values are in units of the score, not volts (the comment says so), so switch off MNE's scaling:
    `plot_topomap(scalings=1, units="score")`, or `plot_joint(ts_args=dict(scalings=dict(eeg=1),
    units=dict(eeg="score")), topomap_args=dict(scalings=1))`.

    heat : (n_channels, n_times) at the sampling rate of `info`
    tmin : time of the first sample, s

    Raises ValueError when the map is not finite or has other channels than `info`.
    """
    import mne

    values = _channel_map(heat, info)
    return mne.EvokedArray(values, info, tmin=tmin, comment="saliency in units of the score, not volts")


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
    colour, opacity = _colours(np.clip(values / strongest, -1, 1))
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
    figure = _figure(9.6, 0.55 + 2.8 * height / width)
    grid = figure.add_gridspec(1, 3, wspace=0.03)
    for column, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        axes = figure.add_subplot(grid[column])
        axes.imshow(panel, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(title, loc="left", fontsize=10.5, color=_INK, pad=6)
        if box is not None:
            _outline(axes, box, (height, width))
    _colour_bar(figure, axes.inset_axes([1.05, 0, 0.035, 1]), limit=limit, unit=unit, alpha=0.8)
    return figure


def neural_figure(
    heat: Heat,
    info: "mne.Info",
    tmin: float,
    *,
    times: Sequence[float] | None = None,
    unit: str = "score",
) -> Figure:
    """A neural map as channels by time, with scalp topographies above where electrode positions are known.

    heat : (n_channels, n_times) at the sampling rate of `info`
    tmin : time of the first sample, s
    times : of the topographies, s; None: up to four moments at which the map is strongest
    unit : what the colour bar counts

    Raises ValueError for a map that does not fit `info`, or a time outside it.
    """
    values = _channel_map(heat, info)
    n_times = values.shape[1]
    moments = tmin + np.arange(n_times) / info["sfreq"]
    shown = _strongest(values) if times is None else [_sample(time, moments, info["sfreq"]) for time in times]
    picks = _placed_channels(info)
    limit = np.abs(values).max() or 1.0
    heads = bool(picks) and bool(shown)
    figure = _figure(7.6, (1.75 if heads else 0) + min(4.6, 1.5 + 0.09 * len(values)))
    rows = figure.add_gridspec(1 + heads, 2, width_ratios=[1, 0.022], height_ratios=[1.3, 2.3][1 - heads :])
    axes = figure.add_subplot(rows[-1, 0])
    _draw_channels(axes, values, info["ch_names"], moments, limit)
    _colour_bar(figure, figure.add_subplot(rows[-1, 1]), limit=limit, unit=unit, alpha=1.0)
    if heads:
        top = rows[0, 0].subgridspec(1, len(shown))
        for column, sample in enumerate(shown):
            axes.axvline(1e3 * moments[sample], color=_QUIET, linewidth=0.7, dashes=(2, 3))
            head = figure.add_subplot(top[column])
            _draw_head(head, values[picks, sample], info, picks, limit)
            head.set_title(f"{1e3 * moments[sample]:.0f} ms", fontsize=9, color=_INK, pad=4)
    return figure


def _picture(image: torch.Tensor) -> np.ndarray:
    from saliency.image import check_picture

    check_picture(image)
    return image.detach().cpu().float().permute(1, 2, 0).numpy()  # (h, w, 3)


def _picture_map(heat: Heat) -> np.ndarray:
    values = torch.as_tensor(heat).detach().cpu().double().numpy()
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"Need one map (h, w) to draw, got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("Need a map of finite values, this one has NaN or infinity.")
    return values


def _channel_map(heat: Heat, info: "mne.Info") -> np.ndarray:
    values = torch.as_tensor(heat).detach().cpu().double().numpy()
    n_channels = len(info["ch_names"])
    if values.ndim != 2 or len(values) != n_channels or values.size == 0:
        raise ValueError(
            f"Need a map ({n_channels} channels, n_times), as in info, got shape {values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError("Need a map of finite values, this one has NaN or infinity.")
    return values


def _stretched(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if values.shape == shape:
        return values
    small = torch.from_numpy(values)[None, None]
    return torch.nn.functional.interpolate(small, size=shape, mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()


def _colours(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RGB (..., 3) and opacity (...) of values from -1 to 1."""
    warm = LinearSegmentedColormap.from_list("warm", _WARM)(np.clip(values, 0, 1))[..., :3]
    cold = LinearSegmentedColormap.from_list("cold", _COLD)(np.clip(-values, 0, 1))[..., :3]
    return np.where(values[..., None] < 0, cold, warm), np.abs(values) ** 0.75


def _on_white(alpha: float) -> ListedColormap:
    colour, opacity = _colours(np.linspace(-1, 1, 511))
    return ListedColormap(1 + alpha * opacity[:, None] * (colour - 1))


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _outline(axes: Axes, box: tuple[int, int, int, int], shape: tuple[int, int]) -> None:
    top, left, bottom, right = box
    if not (0 <= top < bottom <= shape[0] and 0 <= left < right <= shape[1]):
        raise ValueError(f"Need a box (top, left, bottom, right) within {shape}, got {tuple(box)}.")
    frame = Rectangle(
        (left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor="white", linewidth=1.4
    )
    frame.set_path_effects([Stroke(linewidth=2.6, foreground="#00000080"), Normal()])
    axes.add_patch(frame)


def _colour_bar(figure: Figure, axes: Axes, *, limit: float, unit: str, alpha: float) -> None:
    scale = ScalarMappable(Normalize(-limit, limit), _on_white(alpha))
    bar = figure.colorbar(scale, cax=axes, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels([f"−{limit:.2g}", "0", f"+{limit:.2g}"])
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=_QUIET, pad=4)
    bar.outline.set_visible(False)
    bar.set_label(unit, fontsize=8, color=_QUIET, labelpad=2)


def _strongest(values: np.ndarray, *, n_shown: int = 4) -> list[int]:
    """Samples with the largest root mean square over channels, an eighth of the trial apart, in order."""
    strength = np.sqrt(np.square(values).mean(0))
    if np.ptp(strength) <= 1e-9 * strength.max():
        return [len(strength) // 2]
    chosen: list[int] = []
    for sample in np.argsort(-strength, kind="stable"):
        far = all(abs(sample - other) >= len(strength) / 8 for other in chosen)
        if far and strength[sample] > 0.3 * strength.max() and len(chosen) < n_shown:
            chosen.append(int(sample))
    return sorted(chosen)


def _sample(time: float, moments: np.ndarray, sfreq: float) -> int:
    sample = int(np.argmin(np.abs(moments - time)))
    if abs(moments[sample] - time) > 0.5 / sfreq + 1e-9:
        raise ValueError(f"Need times from {moments[0]:g} to {moments[-1]:g} s, got {time:g}.")
    return sample


def _placed_channels(info: "mne.Info") -> list[int]:
    """EEG channels whose own position is known; none if there are too few to draw a head."""
    import mne

    picks, places = [], set()
    for pick in mne.pick_types(info, eeg=True, exclude=[]):
        place = info["chs"][pick]["loc"][:3]
        if np.isfinite(place).all() and place.any() and tuple(place) not in places:
            picks.append(int(pick))
            places.add(tuple(place))
    return picks if len(picks) >= 4 else []


def _draw_head(axes: Axes, values: np.ndarray, info: "mne.Info", picks: list[int], limit: float) -> None:
    import mne

    placed = mne.pick_info(info, picks)
    colours = {"cmap": _on_white(1.0), "vlim": (-limit, limit)}
    mne.viz.plot_topomap(values, placed, axes=axes, show=False, contours=0, sensors=True, **colours)
    for line in axes.lines:
        line.set(color=_QUIET, linewidth=0.9)


def _draw_channels(
    axes: Axes, values: np.ndarray, names: list[str], moments: np.ndarray, limit: float
) -> None:
    half = (moments[1] - moments[0]) / 2 if len(moments) > 1 else 0.5e-3
    extent = (1e3 * (moments[0] - half), 1e3 * (moments[-1] + half), len(names) - 0.5, -0.5)
    settings = {"aspect": "auto", "interpolation": "nearest", "cmap": _on_white(1.0)}
    axes.imshow(values, extent=extent, vmin=-limit, vmax=limit, **settings)
    if moments[0] < 0 < moments[-1]:
        axes.axvline(0, color=_INK, linewidth=0.8)
    step = -(-len(names) // 32)
    axes.set_yticks(range(0, len(names), step), names[::step])
    axes.set_xlabel("time (ms)", fontsize=9, color=_QUIET)
    axes.tick_params(length=0, labelsize=7.5, labelcolor=_QUIET)
    axes.spines[:].set_visible(False)
