"""The figures of the directions study: AUCs, effects, cosines, and faces that were moved."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image

from brainedit.directions import Direction
from brainedit.editing import edit
from brainedit.figures import ACCENT, CALM, GOLD, INK, SOFT, new_figure, style
from brainedit.generators.base import Generator
from brainedit.jobs.directions_study_arms import step_of
from brainedit.jobs.directions_study_found import Study
from brainedit.sheets import captioned


def auc_figure(values: pd.Series) -> Figure:
    """How many people and tasks have which AUC."""
    figure = new_figure(4.6, 2.4)
    axes = figure.add_subplot()
    axes.hist(values, bins=np.arange(0.4, 1.01, 0.025), color=CALM, alpha=0.75)
    axes.axvline(values.mean(), color=ACCENT, lw=1.6)
    axes.axvline(0.5, color=SOFT, lw=0.9, ls=":")
    axes.set_xlabel("AUC of single trials", fontsize=8)
    axes.set_ylabel("people and tasks", fontsize=8)
    style(axes)
    return figure


def curves_figure(study: Study) -> Figure:
    """A panel for each size of crowd: change against degrees, the four arms."""
    curves = study.pooled.curves()
    degrees = [0.0, *study.degrees]
    figure = new_figure(2.5 * len(study.crowds) + 0.6, 2.8)
    panels = figure.subplots(1, len(study.crowds), sharey=True, squeeze=False)[0]
    for axes, size in zip(panels, study.crowds, strict=True):
        arms = {"explicit": CALM, "brain": ACCENT, "shuffled": SOFT, "random": GOLD}
        for kind, color in arms.items():
            own = curves[curves["arm"] == ("random" if kind == "random" else f"{kind}, {size}")]
            axes.plot(degrees, own["change"], color=color, lw=1.6, label=kind)
            axes.fill_between(degrees, own["low"], own["high"], color=color, alpha=0.2, lw=0)
        axes.set_title(who(size), fontsize=9, color=INK)
        axes.set_xlabel("degrees", fontsize=8)
        style(axes)
    panels[0].set_ylabel("change of what was looked for, SD", fontsize=8)
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def cosine_figure(study: Study) -> Figure:
    """Predicted cosine of each person and task against that to the judge's direction."""
    table = study.cosines()
    own = table[(table["kind"] == "brain") & (table["size"] == 1)]
    figure = new_figure(3.4, 3.2)
    axes = figure.add_subplot()
    axes.scatter(own["predicted_cosine"], own["to_reference"], s=9, color=ACCENT, alpha=0.6, lw=0)
    axes.axline((0, 0), slope=1, color=SOFT, lw=0.9)
    axes.set_xlabel("predicted cosine", fontsize=8)
    axes.set_ylabel("cosine to the judge's direction", fontsize=8)
    style(axes)
    return figure


def strips_sheet(
    study: Study, generator: Generator, latent: pd.Series, arms: Mapping[str, np.ndarray]
) -> Image.Image:
    """One face moved along directions, a row each: back by the longest step, as it was, forwards."""
    angles = [-study.degrees[-1], 0.0, *study.degrees]
    start = torch.tensor(latent.to_numpy(np.float32))[None]
    rows, captions = [], []
    for name, vector in arms.items():
        moves = [(Direction(vector, "z", 1.0), [step_of(angle, generator) for angle in angles])]
        rows.append(edit(generator, start, moves, space="z", path="auto")[0].detach())
        captions += [f"{angle:+g}°" if angle else name for angle in angles]
    zoom = max(1, round(128 / generator.image_size))
    return captioned(torch.cat(rows), captions, columns=len(angles), zoom=zoom)


def who(size: int) -> str:
    """What a size of crowd is called."""
    return "one person" if size == 1 else f"crowd of {size}"
