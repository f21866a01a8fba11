"""Figures of a report that are not saliency maps: responses, rankings, directions."""

from collections.abc import Sequence

import mne
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from brainedit.evaluation import Score

INK, SOFT, ACCENT, CALM, GOLD = "#1d2430", "#8a92a0", "#b3452c", "#2f6f9f", "#b58a1b"


def new_figure(width: float, height: float) -> Figure:
    """A figure without global state, in the report's type."""
    return Figure((width, height), layout="constrained", facecolor="white")


def style(axes) -> None:
    """No frame, quiet ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=SOFT, labelsize=8, labelcolor=INK)


def response_figure(conditions: dict[str, mne.Evoked], *, times: Sequence[float] | None = None) -> Figure:
    """Mean responses at the electrode where they differ (or vary) most, and topographies of it.

    With two conditions the topographies show the first less the second; with one, the response itself.
    times : s, of the topographies; the three largest peaks in time when None
    """
    shown = _difference(conditions)
    data = shown.data * 1e6
    inside = shown.times >= 0.03
    power = np.abs(data[:, inside])
    electrode = int(power.max(1).argmax())
    times = list(times) if times is not None else _peaks(shown.times[inside], data[:, inside].std(0))
    has_positions = _has_positions(shown.info)
    figure = new_figure(9.2, 2.9)
    grid = figure.add_gridspec(1, 2 + len(times) if has_positions else 1, width_ratios=None)
    axes = figure.add_subplot(grid[0, :2] if has_positions else grid[0, 0])
    for (name, evoked), color in zip(conditions.items(), (ACCENT, CALM, SOFT), strict=False):
        axes.plot(evoked.times * 1e3, evoked.data[electrode] * 1e6, color=color, lw=1.6, label=name)
    axes.axvline(0, color=SOFT, lw=0.6)
    axes.axhline(0, color=SOFT, lw=0.6)
    axes.set_xlabel("ms after the picture", fontsize=8)
    axes.set_ylabel(f"{shown.ch_names[electrode]}, µV", fontsize=8)
    axes.legend(frameon=False, fontsize=8, loc="best")
    style(axes)
    if has_positions:
        limit = float(np.abs(data[:, inside]).max())
        for i, time in enumerate(times):
            _topography(figure.add_subplot(grid[0, 2 + i]), shown, time, limit)
    return figure


def _topography(axes, evoked: mne.Evoked, time: float, limit: float) -> None:
    at = int(np.abs(evoked.times - time).argmin())
    mne.viz.plot_topomap(
        evoked.data[:, at] * 1e6,
        evoked.info,
        axes=axes,
        show=False,
        cmap="RdBu_r",
        vlim=(-limit, limit),
        contours=4,
    )
    axes.set_title(f"{evoked.times[at] * 1e3:.0f} ms\n±{limit:.1f} µV", fontsize=8, color=INK)


def _difference(conditions: dict[str, mne.Evoked]) -> mne.Evoked:
    first, *others = conditions.values()
    return mne.combine_evoked([first, others[0]], [1, -1]) if others else first


def _has_positions(info: mne.Info) -> bool:
    """Topographies need at least four electrodes at known, different places."""
    places = np.array([ch["loc"][:3] for ch in info["chs"]])
    known = np.isfinite(places).all(1) & (np.abs(places).sum(1) > 0)
    return bool(known.all()) and len(np.unique(places.round(4), axis=0)) >= 4


def _peaks(times: np.ndarray, spread: np.ndarray, n: int = 3) -> list[float]:
    from scipy.signal import find_peaks

    found, _ = find_peaks(spread, distance=max(1, round(0.06 / (times[1] - times[0]))))
    found = found if len(found) else np.array([spread.argmax()])
    largest = found[np.argsort(spread[found])[::-1][:n]]
    return sorted(times[largest])


def null_figure(value: float, null: np.ndarray, *, label: str, chance: float | None = None) -> Figure:
    """A value against what permutations give."""
    figure = new_figure(4.6, 2.4)
    axes = figure.add_subplot()
    axes.hist(null, bins=30, color=SOFT, alpha=0.6, label="permuted")
    axes.axvline(value, color=ACCENT, lw=2, label="observed")
    if chance is not None:
        axes.axvline(chance, color=INK, lw=0.8, ls=":")
    axes.set_xlabel(label, fontsize=8)
    axes.set_yticks([])
    axes.legend(frameon=False, fontsize=8)
    style(axes)
    axes.spines["left"].set_visible(False)
    return figure


def loss_figure(history: Sequence[float]) -> Figure:
    """Training loss over epochs."""
    figure = new_figure(4.6, 2.4)
    axes = figure.add_subplot()
    axes.plot(np.arange(1, len(history) + 1), history, color=CALM, lw=1.6)
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel("training loss", fontsize=8)
    style(axes)
    return figure


def repeats_figure(curve: dict[str, Sequence[Score]], repeats: Sequence[int]) -> Figure:
    """Scores against the number of repeats that were averaged, with intervals; dotted lines are chance."""
    figure = new_figure(5.2, 2.9)
    axes = figure.add_subplot()
    for (name, scores), color in zip(curve.items(), (ACCENT, CALM, GOLD), strict=False):
        axes.plot(repeats, [s.value for s in scores], color=color, lw=1.8, marker="o", ms=3.5, label=name)
        axes.fill_between(
            repeats, [s.low for s in scores], [s.high for s in scores], color=color, alpha=0.18, lw=0
        )
        axes.axhline(scores[0].chance, color=color, lw=0.9, ls=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(repeats), [str(k) for k in repeats])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("repeats averaged", fontsize=8)
    axes.set_ylabel("share of responses", fontsize=8)
    axes.legend(frameon=False, fontsize=8)
    style(axes)
    return figure


def strips_figure(rows: Sequence[tuple[str, np.ndarray]], strengths: Sequence[float]) -> Figure:
    """Rows of edited pictures, (k, 3, h, w) each, over columns of strengths; the middle is unedited."""
    k = len(strengths)
    figure = new_figure(1.15 * k + 1.3, 1.2 * len(rows) + 0.3)
    grid = figure.subplots(len(rows), k, squeeze=False)
    for i, (name, images) in enumerate(rows):
        for j, image in enumerate(np.asarray(images)):
            axes = grid[i, j]
            axes.imshow(image.transpose(1, 2, 0).clip(0, 1), interpolation="lanczos")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(visible=strengths[j] == 0, color=ACCENT, linewidth=1.4)
            if i == 0:
                axes.set_title(
                    f"{strengths[j]:+g} SD" if strengths[j] else "as it was", fontsize=8, color=INK
                )
        grid[i, 0].set_ylabel(name, fontsize=8, color=INK, rotation=0, ha="right", va="center")
    return figure


def effect_figure(effects: dict[str, np.ndarray], strengths: Sequence[float], *, label: str) -> Figure:
    """Mean measured change over strengths, one line an arm; arrays (n_arms_draws, k), a band where many."""
    figure = new_figure(4.8, 2.8)
    axes = figure.add_subplot()
    for (name, values), color in zip(effects.items(), (ACCENT, CALM, GOLD, SOFT), strict=False):
        values = np.atleast_2d(values)
        axes.plot(strengths, values.mean(0), color=color, lw=1.8, label=name)
        if len(values) > 1:
            low, high = np.percentile(values, [2.5, 97.5], axis=0)
            axes.fill_between(strengths, low, high, color=color, alpha=0.25, lw=0)
    axes.axhline(0, color=SOFT, lw=0.6)
    axes.set_xlabel("edit, SD of the latents along the direction", fontsize=8)
    axes.set_ylabel(label, fontsize=8)
    axes.legend(frameon=False, fontsize=8)
    style(axes)
    return figure


def learning_curve_figure(
    curve: dict[str, Sequence[float]],
    *,
    n: int,
    cosine: float,
    interval: tuple[float, float],
    null: float,
    label: str = "pictures",
) -> Figure:
    """Expected cosine to the true direction against the number of pictures, with what was found at n.

    curve : n, cosine (median), low and high (95 %), as `DirectionReliability.learning_curve`
    null : cosine that permuted relevance reaches
    """
    sizes, middle, low, high = (np.asarray(curve[key]) for key in ("n", "cosine", "low", "high"))
    enough = np.flatnonzero(low >= 0.9)
    shown = slice(0, max(enough[0] + 1, 17) if len(enough) else len(sizes))
    figure = new_figure(5.2, 2.9)
    axes = figure.add_subplot()
    axes.fill_between(sizes[shown], low[shown], high[shown], color=CALM, alpha=0.2, lw=0)
    axes.plot(sizes[shown], middle[shown], color=CALM, lw=1.8)
    axes.plot([n, n], interval, color=ACCENT, lw=1.6)
    axes.plot(n, cosine, "o", color=ACCENT, ms=5)
    axes.axhline(null, color=SOFT, lw=0.9, ls=":")
    axes.set_xscale("log")
    axes.set_ylim(min(0.0, interval[0]), 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.set_xlabel(f"{label} looked at", fontsize=8)
    axes.set_ylabel("cosine to the true direction", fontsize=8)
    style(axes)
    return figure


def comparison_figure(curves: pd.DataFrame, draws: dict[str, np.ndarray], *, label: str) -> Figure:
    """Mean measured change over steps, one line an arm with its interval; a band where an arm has many directions.

    curves : as `Comparison.curves` gives them
    draws : arm -> mean change (n_draws, k) of each of its directions; the first has the band, others their mean
    """
    figure = new_figure(5.4, 3.0)
    axes = figure.add_subplot()
    steps = np.unique(curves["step"])
    for i, (name, values) in enumerate(draws.items()):
        if i == 0:
            low, high = np.percentile(values, [2.5, 97.5], axis=0)
            axes.fill_between(steps, low, high, color=SOFT, alpha=0.25, lw=0)
        axes.plot(steps, values.mean(0), color=SOFT, lw=1.4, ls=("-", ":")[i > 0], label=f"{name}, mean")
    single = [name for name in dict.fromkeys(curves["arm"]) if name not in draws]
    for name, color in zip(single, (ACCENT, CALM, GOLD, INK), strict=False):
        own = curves[curves["arm"] == name]
        spread = np.abs(own[["low", "high"]].to_numpy().T - own["change"].to_numpy())
        axes.errorbar(
            own["step"], own["change"], spread, color=color, lw=1.8, elinewidth=1.1, capsize=2, label=name
        )
    axes.axhline(0, color=SOFT, lw=0.6)
    axes.set_xlabel("step, root mean square SD of the latents", fontsize=8)
    axes.set_ylabel(label, fontsize=8)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    style(axes)
    return figure


def identity_figure(
    table: pd.DataFrame, breaks: tuple[float | None, float | None], *, limit: float = 0.5
) -> Figure:
    """Identity loss over strengths, the limit dotted, with lines where identity breaks.

    table, breaks : of a `Scan`; where people judged the pictures their share is drawn instead of the loss
    limit : of the loss, or of that share as part of what it is for the same picture
    """
    key = "taken_for_same" if "taken_for_same" in table else "identity_loss"
    figure = new_figure(5.2, 2.6)
    axes = figure.add_subplot()
    axes.plot(table["strength"], table[key], color=CALM, lw=1.8, marker="o", ms=3.5)
    whole = 1.0 if key == "identity_loss" else table[key].max()
    axes.axhline(limit * whole, color=SOFT, lw=1, ls=":")
    for at in breaks:
        if at is not None:
            axes.axvline(at, color=ACCENT, lw=1.2, ls="--")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("edit, SD of the latents along the direction", fontsize=8)
    axes.set_ylabel(key.replace("_", " "), fontsize=8)
    style(axes)
    return figure


def gallery_figure(
    shown: Sequence[tuple[np.ndarray, Sequence[np.ndarray], int]],
    *,
    own: str = "was seen",
    best: str = "best",
) -> Figure:
    """Rows: the picture that was seen, then the pictures that F ranks best; the right one is framed."""
    k = len(shown[0][1])
    figure = new_figure(1.15 * (k + 1) + 0.4, 1.2 * len(shown) + 0.3)
    grid = figure.subplots(len(shown), k + 1, squeeze=False)
    for i, (seen, ranked, right) in enumerate(shown):
        for j, image in enumerate([seen, *ranked]):
            axes = grid[i, j]
            axes.imshow(image)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(visible=j > 0 and j - 1 == right, color=ACCENT, linewidth=2.2)
            if i == 0:
                axes.set_title(own if j == 0 else f"{best} {j}", fontsize=8, color=INK)
    return figure
