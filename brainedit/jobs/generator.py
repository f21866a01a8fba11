"""Train a generator on pictures of one's own, and show how close its samples come to held-out ones."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from brainedit import figures
from brainedit.adversarial.pictures import Pictures, read_pictures
from brainedit.adversarial.train import train_generator
from brainedit.generators.load import save_generator
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.report import Result, Section, check_out, result_folder

CHECKPOINT = "checkpoint.safetensors"


def train(
    pictures: str | Path,
    out: str | Path,
    *,
    picture_settings: dict[str, Any] | None = None,
    overwrite: bool = False,
    **settings,
) -> Path:
    """Train a generator on a folder of pictures -> OUT/generator, its checkpoint, samples and a report.

    picture_settings : of `brainedit.adversarial.pictures.read_pictures`: size, labels
    settings : of `brainedit.adversarial.train.train_generator`

    What a run has reached lies in OUT.running, from where it continues after a kill. A finished run is
    prolonged with the same settings, a larger n_pictures and `overwrite`.
    """
    out = Path(out)
    check_out(out, overwrite=overwrite)
    data = read_pictures(pictures, **({"size": 64} | (picture_settings or {})))
    running = out.with_name(out.name + ".running")
    running.mkdir(parents=True, exist_ok=True)
    _take_over(out, running)
    generator = train_generator(
        data, checkpoint=running / CHECKPOINT, progress_folder=running / "progress", **settings
    )
    with result_folder(out, overwrite=overwrite) as folder:
        save_generator(generator, folder / "generator")
        result = _result(data, generator, running / "progress", pictures, settings)
        shutil.copytree(running / "progress", folder / "progress")
        os.replace(running / CHECKPOINT, folder / CHECKPOINT)
        result.write(folder)
    shutil.rmtree(running)
    return out


def _take_over(out: Path, running: Path) -> None:
    """Start from the checkpoint of a finished run that is to be prolonged."""
    if (out / CHECKPOINT).is_file() and not (running / CHECKPOINT).exists():
        shutil.copytree(out / "progress", running / "progress", dirs_exist_ok=True)
        shutil.copyfile(out / CHECKPOINT, running / f"{CHECKPOINT}.copy")
        os.replace(running / f"{CHECKPOINT}.copy", running / CHECKPOINT)


def _result(
    data: Pictures, generator: StyleGAN2, progress: Path, source: str | Path, settings: dict[str, Any]
) -> Result:
    log = pd.read_csv(progress / "log.csv")
    seen = int(log["pictures"].iloc[-1])
    result = Result(
        job="train generator",
        title=f"Generator: {generator.name}",
        lead=f"Trained on {len(data)} pictures of {data.size} pixels; {seen:,} were shown. {generator.licence}",
        settings=settings | {"size": data.size, "condition": list(data.columns), "network": generator.kwargs},
        inputs={"pictures": source},
        figures={"pictures_shown": seen, "generator_sha256": generator.sha256},
    )
    result.sections.append(_samples_section(progress))
    if (progress / "kid.csv").is_file():
        distances = pd.read_csv(progress / "kid.csv")
        result.figures["kid"] = distances.iloc[-1].to_dict()
        result.sections.append(_distance_section(distances))
    losses = [column for column in log if column != "pictures" and log[column].notna().any()]
    result.sections.append(
        Section("Training", pictures=[(_curves(log, losses), "Means over 500 pictures each.")])
    )
    return result


def _samples_section(progress: Path) -> Section:
    grids = sorted(progress.glob("samples-*.png"))
    text = [
        "The running average of the weights; the same latents in every grid, nothing picked. Where the method "
        "reconstructs, the last two rows are held-out pictures and what the generator makes of them."
    ]
    shown = [grids[-1], grids[0]] if len(grids) > 1 else grids
    return Section(
        "Samples",
        text,
        pictures=[(grid, f"After {int(grid.stem.split('-')[1]):,} pictures.") for grid in shown],
    )


def _distance_section(distances: pd.DataFrame) -> Section:
    last = distances.iloc[-1]
    return Section(
        "How far are samples from pictures that were never trained on?",
        [
            f"Kernel inception distance {last['kid']:.4f} (standard error {last['standard_error']:.4f}); two halves of "
            f"the held-out pictures are {last['two_real_halves']:.4f} ({last['its_error']:.4f}) apart. Features are "
            "those of EfficientNet-Lite0, so the values compare with each other and not with published ones. "
            "Where training looked through the same network, the distance flatters.",
        ],
        pictures=[
            (_distance_figure(distances), "Band: one standard error. Line: two halves of real pictures.")
        ],
    )


def _distance_figure(distances: pd.DataFrame) -> Figure:
    figure = figures.new_figure(5.2, 2.6)
    axes = figure.add_subplot()
    x, y, error = (distances[c].to_numpy() for c in ("pictures", "kid", "standard_error"))
    axes.plot(x, y, color=figures.CALM, lw=1.6)
    axes.fill_between(x, y - error, y + error, color=figures.CALM, alpha=0.2, lw=0)
    axes.axhline(distances["two_real_halves"].iloc[-1], color="#888", lw=1, ls=":")
    axes.set_xlabel("pictures shown", fontsize=8)
    axes.set_ylabel("distance to held-out pictures", fontsize=8)
    figures.style(axes)
    return figure


def _curves(log: pd.DataFrame, columns: list[str]) -> Figure:
    rows = int(np.ceil(len(columns) / 3))
    figure = figures.new_figure(7.5, 1.7 * rows)
    for i, column in enumerate(columns, start=1):
        axes = figure.add_subplot(rows, 3, i)
        axes.plot(log["pictures"], log[column], color=figures.CALM, lw=1.2)
        axes.set_title(column.replace("_", " "), fontsize=8)
        figures.style(axes)
    return figure
