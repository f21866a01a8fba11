"""Directions that need no EEG, from labels of pictures, a generator's weights, or its samples, with a report."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from brainedit import figures
from brainedit._check import pick
from brainedit.directions import Direction, brain_direction, reliability
from brainedit.editing import edit
from brainedit.generators.base import Generator
from brainedit.generators.load import load_generator
from brainedit.jobs.direction_inputs import read_latents_in, read_locks
from brainedit.jobs.direction_sections import (
    STRENGTHS,
    identity_scan,
    identity_section,
    locks_sentence,
    reliability_section,
)
from brainedit.jobs.directions import CLOSED_FORM, N_PERMUTATIONS, N_REFITTED
from brainedit.latent_axes import ganspace_directions, interfacegan_direction, sefa_directions
from brainedit.relevance_inputs import HIERARCHICAL
from brainedit.report import Result, Section, check_out, result_folder
from brainedit.slopes import METHODS

INTERFACEGAN = "interfacegan"
NO_BRAIN = "No brain took part: no EEG was recorded or simulated for this."
_SHOWN, _SEED_SHOWN = 3, 1000  # new pictures in a report, and the first of their seeds


def direction_from_labels(
    labels: str | Path,
    out: str | Path,
    *,
    generator: str,
    latents: str | Path,
    space: str = "z",
    method: str = "ridge",
    locks: Sequence[str | Path] = (),
    name: str = "",
    n_permutations: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """The direction along which labels of pictures grow -> OUT/direction.safetensors and a report.

    labels : CSV with the columns stimulus and label, a number: a score, or two values such as 0 and 1
    latents : CSV or safetensors, one row a stimulus; rows of pictures without a label are left out
    method : as in `brain_direction` for one label a picture, or "interfacegan"
    locks : directions to stay at right angles to. The reliability is that of the direction before that
    n_permutations : as in `find_direction`; "interfacegan" makes none

    Raises ValueError when labels, latents, locks and generator do not fit.
    """
    check_out(out, overwrite=overwrite)
    told, table, maker = read_labels(labels), read_latents_in(latents, space), load_generator(generator)
    if len(missing := told.index[~told.index.isin(table.index)]):
        raise ValueError(f"{missing[0]!r} and {len(missing) - 1} more pictures of {labels} have no latent.")
    held = read_locks(locks, maker, space)
    shown = table.loc[told.index]
    settings = {"space": space, "method": method, "seed": seed}
    found = _labelled(shown, told, maker, name=name or "label", n_permutations=n_permutations, **settings)
    move = replace(found.orthogonal_to(*held, generator=maker), reliability=found.reliability)
    result = _result(f"A direction from labels: {move.name}", maker, settings)
    result.figures |= {"reliability": move.reliability, "provenance": move.provenance}
    result.lead = f"{len(told)} labelled pictures. {result.lead}"
    result.inputs = {"labels": labels, "latents": latents}
    result.inputs |= {f"lock {i + 1}": lock for i, lock in enumerate(locks)}
    result.sections.append(_trust(move))
    result.sections.append(identity_section(identity_scan(move, maker)))
    result.sections.append(_pictures([move], maker, seed=seed))
    return _written(result, {"direction": move}, out, overwrite=overwrite)


def directions_from_weights(
    out: str | Path,
    *,
    generator: str,
    n_axes: int = 5,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """What a generator's first weights move most (SeFa) -> OUT/direction_01.safetensors, ... and a report.

    layers : as in `sefa_directions`
    seed : of the pictures in the report; the directions belong to the weights
    """
    check_out(out, overwrite=overwrite)
    maker = load_generator(generator)
    found = sefa_directions(maker, n=n_axes, layers=layers)
    settings = {"method": "sefa", "n_axes": n_axes, "layers": _listed(layers), "seed": seed}
    what = "share of the features' power"
    return _axes(found, maker, settings, what, out, overwrite=overwrite)


def directions_from_samples(
    n_samples: int,
    out: str | Path,
    *,
    generator: str,
    n_axes: int = 5,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Along what a generator's w varies most (GANSpace) -> OUT/direction_01.safetensors, ... and a report.

    n_samples : w drawn with `seed`, more than w has dimensions
    layers : as in `ganspace_directions`
    """
    check_out(out, overwrite=overwrite)
    maker = load_generator(generator)
    found = ganspace_directions(maker, n=n_axes, n_samples=n_samples, layers=layers, seed=seed)
    settings = {"method": "ganspace", "n_samples": n_samples, "n_axes": n_axes}
    settings |= {"layers": _listed(layers), "seed": seed}
    return _axes(found, maker, settings, "share of the variance of w", out, overwrite=overwrite)


def read_labels(path: str | Path) -> pd.Series:
    """Labels (n,) float64 by stimulus, from a CSV with the columns stimulus and label.

    Raises FileNotFoundError or ValueError in one sentence: no table, a column is missing, a label is no finite
    number, or a stimulus comes twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of labels {path}.")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # all that pandas raises for a file that is no CSV in UTF-8
        raise ValueError(f"{path} holds no labels that can be read ({error}).") from error
    if missing := [column for column in ("stimulus", "label") if column not in table]:
        raise ValueError(
            f"{path} needs the columns stimulus and label; {missing[0]} is missing from {', '.join(table)}."
        )
    if table["stimulus"].duplicated().any():
        twice = table["stimulus"][table["stimulus"].duplicated()].iloc[0]
        raise ValueError(f"{path} has more than one label for {twice!r}; one is needed.")
    values = pd.to_numeric(table["label"], errors="coerce")
    bad = ~values.abs().lt(float("inf"))  # NaN too
    if bad.any():
        first = table[bad].iloc[0]
        raise ValueError(
            f"{path} needs a finite number for every picture, such as 0 and 1; the label of {first['stimulus']!r} is "
            f"{first['label']!r}."
        )
    return pd.Series(values.to_numpy(float), index=table["stimulus"].to_list(), name="label")


def _labelled(
    latents: pd.DataFrame,
    labels: pd.Series,
    maker: Generator,
    *,
    space: str,
    method: str,
    name: str,
    n_permutations: int | None,
    seed: int,
) -> Direction:
    """The direction of one method, with its reliability and with provenance that says that no brain took part."""
    if method == HIERARCHICAL:
        raise ValueError(f"The method {method!r} pools people; labels are one number a picture.")
    pick("direction method", method, METHODS | {INTERFACEGAN: None})
    if method == INTERFACEGAN:
        return interfacegan_direction(latents, labels, space=space, name=name, generator=maker, seed=seed)
    found = brain_direction(latents, labels, space=space, method=method, name=name, generator=maker)
    n = n_permutations or (N_PERMUTATIONS if method in CLOSED_FORM else N_REFITTED)
    trust = reliability(latents, labels, method=method, n_permutations=n, seed=seed)
    origin = found.provenance | {"supervision": "labels of pictures; no brain took part"}
    return replace(found, provenance=origin, reliability=asdict(trust))


def _axes(
    found: Sequence[Direction],
    maker: Generator,
    settings: dict[str, Any],
    share: str,
    out: str | Path,
    *,
    overwrite: bool,
) -> Path:
    title = f"Directions without labels: {found[0].name} to {found[-1].name.split()[-1]}"
    result = _result(title, maker, settings)
    result.figures["directions"] = [{"name": move.name} | move.provenance for move in found]
    rows = [(move.name, f"{move.provenance['strength']:.1%}", f"{move.scale:.3g}") for move in found]
    text = [
        "Nothing says what these directions change: look at the pictures. Their sign is arbitrary: the largest entry "
        "is positive."
    ]
    head = ("", share, "SD of the latents along it")
    result.sections.append(Section("The directions", text, table=(head, rows)))
    result.sections.append(_pictures(found, maker, seed=settings["seed"]))
    moves = {f"direction_{i:02d}": move for i, move in enumerate(found, start=1)}
    return _written(result, moves, out, overwrite=overwrite)


def _result(title: str, maker: Generator, settings: dict[str, Any]) -> Result:
    lead = f"Pictures made by {maker.name}. {NO_BRAIN} {maker.licence}"
    return Result(job="directions", title=title, lead=lead, settings=settings, figures={"brain": False})


def _trust(move: Direction) -> Section:
    """How far to trust a direction from labels."""
    if move.provenance["method"] != INTERFACEGAN:
        section = reliability_section(move)
        text = ["Relevance stands for the label of a picture here: no brain took part.", *section.text]
        return replace(section, text=text)
    r = move.reliability
    rows = [("labels left out of the fit", f"{r['accuracy_validation']:.3f}", str(r["n_validation"]))]
    if r["accuracy_rest"] is not None:
        rows.append(("pictures between the extremes", f"{r['accuracy_rest']:.3f}", str(r["n_rest"])))
    text = ["Balanced accuracy of the boundary on pictures that did not fit it; chance is .5."]
    if "orthogonal_to" in move.provenance:
        text.append(locks_sentence(move))
    return Section("How far to trust the direction", text, table=(("", "accuracy", "pictures"), rows))


def _pictures(found: Sequence[Direction], maker: Generator, *, seed: int) -> Section:
    """Strips of the same new pictures along each direction."""
    space = found[0].space
    latents = maker.sample(_SHOWN, space=space, seed=_SEED_SHOWN + seed)
    pictures = []
    for move in found:
        images = edit(maker, latents, [(move, STRENGTHS)], space=space, path="auto").detach().cpu().numpy()
        rows = [(f"picture {i + 1}", strip) for i, strip in enumerate(images)]
        pictures.append((figures.strips_figure(rows, STRENGTHS), f"Along {move.name!r}. Framed: unedited."))
    text = [
        "Pictures that took no part. Strengths are standard deviations of the latents along the direction."
    ]
    return Section("New pictures, edited", text, pictures=pictures)


def _written(result: Result, moves: dict[str, Direction], out: str | Path, *, overwrite: bool) -> Path:
    with result_folder(out, overwrite=overwrite) as folder:
        for key, move in moves.items():
            move.save(folder / f"{key}.safetensors")
        result.write(folder)
    return Path(out)


def _listed(layers: Sequence[int] | None) -> list[int] | None:
    return None if layers is None else list(layers)
