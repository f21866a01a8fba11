"""Pictures moved along a saved direction."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from brainedit import editing, figures
from brainedit.directions import Direction
from brainedit.generators.base import Generator
from brainedit.generators.load import load_generator
from brainedit.jobs.audit import CONFOUNDED
from brainedit.jobs.direction_inputs import latents_space, read_latents_in, read_locks
from brainedit.jobs.direction_sections import STRENGTHS, identity_section, trust_sentence
from brainedit.report import Result, Section, check_out, result_folder
from brainedit.sheets import before_after, save_gif
from brainedit.strengths import scan as scan_strengths

N_FRAMES = 25  # of a moving picture
_SHOWN = 12


def edit_file(
    direction: str | Path,
    out: str | Path,
    *,
    generator: str,
    strengths: Sequence[float] = STRENGTHS,
    latents: str | Path | None = None,
    n: int = 6,
    path: str = "auto",
    layers: Sequence[int] | None = None,
    locks: Sequence[str | Path] = (),
    gif: bool = False,
    scan: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Pictures moved along a direction -> OUT with PNGs, the moved latents, a report.

    latents : CSV or safetensors, one row a picture; n new ones from `seed` when None. Latents in w+ may be moved
        along a direction in w
    path : "auto" turns z about the prior's mean where the generator normalises it and goes straight elsewhere;
        "line" or "great_circle"
    layers : the layers that are moved, 0 the coarsest; latents are then in w+
    locks : directions along which nothing moves
    gif : a moving picture of each
    scan : measure where another face begins, over these strengths
    """
    check_out(out, overwrite=overwrite)
    if scan and not any(strengths):
        raise ValueError("A scan needs strengths other than 0.")
    maker, move = load_generator(generator), Direction.load(direction)
    space = _space(move, layers, latents)
    names, start = _start(maker, latents, space=space, n=n, seed=seed)
    settings = {
        "space": space,
        "path": path,
        "layers": None if layers is None else list(layers),
        "locks": read_locks(locks, maker, move.space),
    }
    moves = [(move, list(strengths))]
    moved = editing.edit_latents(maker, start, moves, **settings)  # (n, k, ...)
    images = editing.edit(maker, start, moves, **settings).detach()
    result = edit_result(move, maker, list(strengths), settings, seed=seed)
    result.lead = f"{len(start)} pictures made by {maker.name}. {maker.licence}"
    result.inputs = {"direction": direction} | ({"latents": latents} if latents else {}) | _numbered(locks)
    result.sections += _sections(names, images, list(strengths))
    if scan:
        found = scan_strengths(maker, start, move, strengths, **settings)
        result.sections.append(identity_section(found))
        result.figures["breaks"] = found.breaks
    with result_folder(out, overwrite=overwrite) as folder:
        for i, strip in enumerate(images):
            editing.grid_image(strip, columns=len(strip), zoom=2).save(folder / f"strip_{i:03d}.png")
        if gif:
            _save_gifs(folder, maker, start, move, strengths, settings, result.stamp)
        np.save(folder / "latents.npy", moved.cpu().numpy())
        (folder / "names.json").write_text(json.dumps(names))
        result.write(folder)
    return Path(out)


def edit_result(
    move: Direction, maker: Generator, strengths: list[float], settings: dict, *, seed: int
) -> Result:
    """What the reports of an edit share: settings, how far to trust the direction, and what it may not be taken for."""
    told = settings | {"locks": [lock.name for lock in settings["locks"]]}
    return Result(
        job="edit",
        title=f"Edited: {move.name}",
        settings={"strengths": strengths, "seed": seed} | told,
        figures={"reliability": move.reliability, "provenance": move.provenance},
        sections=[Section("How far to trust the direction", [trust_sentence(move)])],
        simulated=bool(move.provenance.get("simulated")),
        stamp=CONFOUNDED if move.provenance.get("stamp") else "",
    )


def farthest_of(strengths: Sequence[float]) -> int:
    """Which strength moves most; of two as large the positive one."""
    return max(range(len(strengths)), key=lambda k: (abs(strengths[k]), strengths[k]))


def _space(move: Direction, layers: Sequence[int] | None, latents: str | Path | None) -> str:
    """Where pictures are moved: the direction's space, but w+ for chosen layers or latents that say so."""
    said = None if latents is None else latents_space(latents)
    return "w+" if move.space == "w" and (layers is not None or said == "w+") else move.space


def _start(
    maker: Generator, latents: str | Path | None, *, space: str, n: int, seed: int
) -> tuple[list[str], Tensor]:
    """Names and latents (n, ...) of the pictures as they were."""
    if latents is None:
        return [f"seed {seed}, {i}" for i in range(n)], maker.sample(n, space=space, seed=seed)
    table, shape = read_latents_in(latents, space), maker.latent_shape(space)
    if table.shape[1] != np.prod(shape):
        raise ValueError(
            f"{maker.name} has latents {shape} in {space!r}; those of {latents} have {table.shape[1]} numbers."
        )
    start = torch.from_numpy(np.array(table, np.float32)).reshape(len(table), *shape)
    return [str(name) for name in table.index], start


def _numbered(locks: Sequence[str | Path]) -> dict[str, str | Path]:
    return {f"lock {i + 1}": lock for i, lock in enumerate(locks)}


def _sections(names: list[str], images: Tensor, strengths: list[float]) -> list[Section]:
    rows = list(zip(names, images.cpu().numpy(), strict=True))
    sections = [
        Section("Strips", pictures=[(figures.strips_figure(rows[:_SHOWN], strengths), "Framed: unedited.")])
    ]
    farthest = farthest_of(strengths)
    if 0.0 in strengths and strengths[farthest]:
        was, now = images[: _SHOWN // 2, strengths.index(0.0)], images[: _SHOWN // 2, farthest]
        caption = f"Before, after {strengths[farthest]:+g} SD, and where pixels changed."
        sheet = before_after(was.cpu(), now.cpu(), zoom=max(1, 160 // was.shape[-1]))
        sections.append(Section("Before and after", pictures=[(sheet, caption)]))
    return sections


def _save_gifs(
    folder: Path,
    maker: Generator,
    start: Tensor,
    move: Direction,
    strengths: Sequence[float],
    settings: dict,
    stamp: str,
) -> None:
    """A moving picture of each picture from the lowest strength to the highest; a stamp stands in the name."""
    between = np.linspace(min(strengths), max(strengths), N_FRAMES)
    for i in range(len(start)):
        frames = editing.edit(maker, start[i : i + 1], [(move, between)], **settings).detach()[0]
        name = f"{stamp}_strip_{i:03d}.gif" if stamp else f"strip_{i:03d}.gif"
        save_gif(frames.cpu(), folder / name, zoom=max(1, 128 // frames.shape[-1]))
