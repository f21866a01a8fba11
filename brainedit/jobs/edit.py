"""Pictures moved along a saved direction."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from brainedit import editing, figures
from brainedit.datasets.latents import read_latents
from brainedit.directions import Direction
from brainedit.generators.load import load_generator
from brainedit.jobs.audit import CONFOUNDED
from brainedit.report import Result, Section, check_out, result_folder

STRENGTHS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)


def edit_file(
    direction: str | Path,
    out: str | Path,
    *,
    generator: str,
    strengths: Sequence[float] = STRENGTHS,
    latents: str | Path | None = None,
    n: int = 6,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Pictures moved along a direction -> OUT with PNGs, the moved latents, a report.

    latents : CSV or safetensors, one row a picture; n new ones from `seed` when None
    """
    check_out(out, overwrite=overwrite)
    maker, move = load_generator(generator), Direction.load(direction)
    space = move.space
    if latents is None:
        names = [f"seed {seed}, {i}" for i in range(n)]
        start = maker.sample(n, space=space, seed=seed)
    else:
        table = read_latents(latents)
        names = [str(name) for name in table.index]
        start = torch.from_numpy(np.array(table, np.float32)).reshape(len(table), *maker.latent_shape(space))
    moves = [(move, list(strengths))]
    moved = editing.edit_latents(maker, start, moves, space=space)  # (n, k, ...)
    images = editing.edit(maker, start, moves, space=space).detach()
    result = Result(
        job="edit",
        title=f"Edited: {move.name}",
        lead=f"{len(start)} pictures made by {maker.name}. {maker.licence}",
        settings={"strengths": list(strengths), "seed": seed, "space": space},
        inputs={"direction": direction} | ({"latents": latents} if latents else {}),
        figures={"reliability": move.reliability, "provenance": move.provenance},
        simulated=bool(move.provenance.get("simulated")),
        stamp=CONFOUNDED if move.provenance.get("stamp") else "",
    )
    rows = list(zip(names, images.numpy(), strict=True))
    result.sections.append(
        Section("Strips", pictures=[(figures.strips_figure(rows[:12], list(strengths)), "Framed: unedited.")])
    )
    with result_folder(out, overwrite=overwrite) as folder:
        for i, strip in enumerate(images):
            editing.grid_image(strip, columns=len(strip), zoom=2).save(folder / f"strip_{i:03d}.png")
        np.save(folder / "latents.npy", moved.cpu().numpy())
        (folder / "names.json").write_text(json.dumps(names))
        result.write(folder)
    return Path(out)
