"""Drawings of neural maps on the scalp, over time and by frequency band: warm supports the score."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from saliency.clusters import placed_channels
from saliency.drawing import INK, QUIET, Heat, blank_figure, colour_bar, finite_values, on_white

if TYPE_CHECKING:
    import mne


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


def neural_figure(
    heat: Heat,
    info: "mne.Info",
    tmin: float,
    *,
    times: Sequence[float] | None = None,
    mask: Heat | None = None,
    unit: str = "score",
) -> Figure:
    """A neural map as channels by time, with scalp topographies above where electrode positions are known.

    heat : (n_channels, n_times) at the sampling rate of `info`
    tmin : time of the first sample, s
    times : of the topographies, s; None: up to four moments at which the map is strongest
    mask : (n_channels, n_times) bool, cells to outline and electrodes to mark, as `ClusterTest.mask`
    unit : what the colour bar counts

    Raises ValueError for a map that does not fit `info`, a time outside it, or a mask of another shape.
    """
    values = _channel_map(heat, info)
    marked = _marks(mask, values.shape)
    n_times = values.shape[1]
    moments = tmin + np.arange(n_times) / info["sfreq"]
    shown = _strongest(values) if times is None else [_sample(time, moments, info["sfreq"]) for time in times]
    picks = placed_channels(info)
    limit = np.abs(values).max() or 1.0
    heads = bool(picks) and bool(shown)
    figure = blank_figure(7.6, (1.75 if heads else 0) + min(4.6, 1.5 + 0.09 * len(values)))
    rows = figure.add_gridspec(1 + heads, 2, width_ratios=[1, 0.022], height_ratios=[1.3, 2.3][1 - heads :])
    axes = figure.add_subplot(rows[-1, 0])
    _draw_channels(axes, values, info["ch_names"], moments, limit)
    _outline_cells(axes, marked)
    colour_bar(figure, figure.add_subplot(rows[-1, 1]), limit=limit, unit=unit, alpha=1.0)
    if heads:
        top = rows[0, 0].subgridspec(1, len(shown))
        for column, sample in enumerate(shown):
            axes.axvline(1e3 * moments[sample], color=QUIET, linewidth=0.7, dashes=(2, 3))
            head = figure.add_subplot(top[column])
            _draw_head(head, values[:, sample], info, picks, limit, marked[:, sample])
            head.set_title(f"{1e3 * moments[sample]:.0f} ms", fontsize=9, color=INK, pad=4)
    return figure


def band_figure(
    values: Heat,
    info: "mne.Info",
    names: Sequence[str] | Mapping[str, tuple[float, float]],
    *,
    mask: Heat | None = None,
    unit: str = "score",
) -> Figure:
    """A scalp topography for each frequency band, with one colour scale.

    Where electrode positions are not known, channels by bands.

    values : (n_channels, n_bands), from `band_map`
    names : of the bands, or the bands themselves, name to (low, high) in Hz
    mask : (n_channels, n_bands) bool, electrodes to mark
    unit : what the colour bar counts

    Raises ValueError for values, names or a mask that do not fit.
    """
    heat = _channel_map(values, info, columns="n_bands")
    marked = _marks(mask, heat.shape)
    labels = _band_labels(names)
    if len(labels) != heat.shape[1]:
        raise ValueError(f"Need a name for each of {heat.shape[1]} bands, got {len(labels)}.")
    picks = placed_channels(info)
    limit = np.abs(heat).max() or 1.0
    if not picks:
        return _band_image(heat, info["ch_names"], labels, marked, limit=limit, unit=unit)
    n_bands = len(labels)
    figure = blank_figure(0.8 + 1.7 * n_bands, 2.2)
    grid = figure.add_gridspec(1, n_bands + 1, width_ratios=[1] * n_bands + [0.04])
    for column, label in enumerate(labels):
        head = figure.add_subplot(grid[column])
        _draw_head(head, heat[:, column], info, picks, limit, marked[:, column])
        head.set_title(label, fontsize=9, color=INK, pad=4)
    colour_bar(figure, figure.add_subplot(grid[n_bands]), limit=limit, unit=unit, alpha=1.0)
    return figure


def _channel_map(heat: Heat, info: "mne.Info", *, columns: str = "n_times") -> np.ndarray:
    shape, n_channels = tuple(torch.as_tensor(heat).shape), len(info["ch_names"])
    if len(shape) != 2 or shape[0] != n_channels or 0 in shape:
        raise ValueError(f"Need a map ({n_channels} channels, {columns}), as in info, got shape {shape}.")
    return finite_values(heat)


def _marks(mask: Heat | None, shape: tuple[int, ...]) -> np.ndarray:
    if mask is None:
        return np.zeros(shape, bool)
    marked = torch.as_tensor(mask).detach().cpu().numpy()
    if marked.shape != shape or marked.dtype != bool:
        raise ValueError(f"Need a bool mask of the map's shape {shape}, got {marked.dtype} {marked.shape}.")
    return marked


def _band_labels(names: Sequence[str] | Mapping[str, tuple[float, float]]) -> list[str]:
    if isinstance(names, Mapping):
        return [f"{name}, {low:g}–{high:g} Hz" for name, (low, high) in names.items()]
    return list(names)


def _band_image(
    values: np.ndarray, channels: list[str], labels: list[str], marked: np.ndarray, *, limit: float, unit: str
) -> Figure:
    figure = blank_figure(1.6 + 1.2 * len(labels), min(4.6, 1.2 + 0.09 * len(values)))
    grid = figure.add_gridspec(1, 2, width_ratios=[1, 0.03])
    axes = figure.add_subplot(grid[0])
    extent = (-0.5, len(labels) - 0.5, len(values) - 0.5, -0.5)
    _draw_cells(axes, values, channels, extent, limit)
    _outline_cells(axes, marked)
    axes.set_xticks(range(len(labels)), labels)
    colour_bar(figure, figure.add_subplot(grid[1]), limit=limit, unit=unit, alpha=1.0)
    return figure


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


def _draw_head(
    axes: Axes, values: np.ndarray, info: "mne.Info", picks: list[int], limit: float, marked: np.ndarray
) -> None:
    """values, marked : (n_channels,), of which the picks are drawn."""
    import mne

    placed = mne.pick_info(info, picks)
    settings = {"cmap": on_white(1.0), "vlim": (-limit, limit), "contours": 0, "sensors": True}
    if marked[picks].any():
        dot = {"marker": "o", "markerfacecolor": INK, "markeredgecolor": "white"}
        settings |= {"mask": marked[picks], "mask_params": dot | {"linewidth": 0, "markersize": 3.5}}
    mne.viz.plot_topomap(values[picks], placed, axes=axes, show=False, **settings)
    for line in axes.lines:
        if line.get_linewidth():  # the marked electrodes are a line of no width
            line.set(color=QUIET, linewidth=0.9)


def _draw_channels(
    axes: Axes, values: np.ndarray, names: list[str], moments: np.ndarray, limit: float
) -> None:
    half = (moments[1] - moments[0]) / 2 if len(moments) > 1 else 0.5e-3
    extent = (1e3 * (moments[0] - half), 1e3 * (moments[-1] + half), len(names) - 0.5, -0.5)
    _draw_cells(axes, values, names, extent, limit)
    if moments[0] < 0 < moments[-1]:
        axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("time (ms)", fontsize=9, color=QUIET)


def _draw_cells(
    axes: Axes, values: np.ndarray, names: list[str], extent: tuple[float, ...], limit: float
) -> None:
    settings = {"aspect": "auto", "interpolation": "nearest", "cmap": on_white(1.0)}
    axes.imshow(values, extent=extent, vmin=-limit, vmax=limit, **settings)
    step = -(-len(names) // 32)
    axes.set_yticks(range(0, len(names), step), names[::step])
    axes.tick_params(length=0, labelsize=7.5, labelcolor=QUIET)
    axes.spines[:].set_visible(False)


def _outline_cells(axes: Axes, marked: np.ndarray) -> None:
    """A line around the marked cells of the image that the axes hold."""
    if not marked.any():
        return
    left, right, bottom, top = axes.images[0].get_extent()
    columns = np.linspace(left, right, marked.shape[1] + 1)
    rows = np.linspace(top, bottom, marked.shape[0] + 1)
    padded = np.pad(marked, 1)
    uprights = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    levels = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    lines = [[(columns[j], rows[i]), (columns[j], rows[i + 1])] for i, j in uprights]
    lines += [[(columns[j], rows[i]), (columns[j + 1], rows[i])] for i, j in levels]
    axes.add_collection(LineCollection(lines, colors=INK, linewidths=0.8, clip_on=False), autolim=False)
