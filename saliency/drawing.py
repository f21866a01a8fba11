"""The look that all drawings share: warm supports the score, cold opposes it, zero is white."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, Normalize
from matplotlib.figure import Figure

Heat = torch.Tensor | np.ndarray

INK, QUIET = "#1f2328", "#6b7280"
_COLD = ["#8fd0ea", "#3b8fd0", "#274b9f"]
_WARM = ["#ffd166", "#f4773b", "#bd1f36"]


def finite_values(heat: Heat) -> np.ndarray:
    """The map as a float64 array; raises ValueError if it has NaN or infinity."""
    values = torch.as_tensor(heat).detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise ValueError("Need a map of finite values, this one has NaN or infinity.")
    return values


def colours(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RGB (..., 3) and opacity (...) of values from -1 to 1."""
    warm = LinearSegmentedColormap.from_list("warm", _WARM)(np.clip(values, 0, 1))[..., :3]
    cold = LinearSegmentedColormap.from_list("cold", _COLD)(np.clip(-values, 0, 1))[..., :3]
    return np.where(values[..., None] < 0, cold, warm), np.abs(values) ** 0.75


def on_white(alpha: float) -> ListedColormap:
    colour, opacity = colours(np.linspace(-1, 1, 511))
    return ListedColormap(1 + alpha * opacity[:, None] * (colour - 1))


def blank_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def colour_bar(figure: Figure, axes: Axes, *, limit: float, unit: str, alpha: float, size: float = 8) -> None:
    scale = ScalarMappable(Normalize(-limit, limit), on_white(alpha))
    bar = figure.colorbar(scale, cax=axes, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels([f"−{limit:.2g}", "0", f"+{limit:.2g}"])
    bar.ax.tick_params(length=0, labelsize=size, labelcolor=QUIET, pad=4)
    bar.outline.set_visible(False)
    bar.set_label(unit, fontsize=size, color=QUIET, labelpad=2)
