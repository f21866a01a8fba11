"""Command that paints a set of faces: python -m tools.face_world --n 20000 --size 128 --out DIR."""

import argparse
import logging
import multiprocessing
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from tools.face_world.attributes import sample_attributes
from tools.face_world.painter import paint
from tools.face_world.sheets import contact_sheet, sweep_sheet

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Paints what the options ask for: a set with its table, a contact sheet, sweeps."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.out is not None:
        paint_set(options.out, n=options.n, size=options.size, seed=options.seed, processes=options.processes)
    if options.sheet is not None:
        Image.fromarray(contact_sheet(seed=options.seed, size=options.size)).save(
            options.sheet, optimize=True
        )
    if options.sweeps is not None:
        Image.fromarray(sweep_sheet(size=options.size)).save(options.sweeps, optimize=True)


def paint_set(folder: Path, *, n: int, size: int = 128, seed: int = 0, processes: int = 1) -> pd.DataFrame:
    """Writes 000000.png and on, with attributes.csv; pictures that are there already are kept.

    Returns the table: file, seed, and one column per attribute. `paint` makes any picture again from its row.
    Raises ValueError when the folder holds the table of another set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = _table(n, seed=seed)
    _write_table(table, folder / "attributes.csv", size=size)
    missing = [row for row in table.to_dict("records") if not (folder / row["file"]).exists()]
    logger.info("%d pictures to paint, %d there already", len(missing), n - len(missing))
    job = partial(_paint_row, folder=folder, size=size)
    if processes == 1:
        list(tqdm(map(job, missing), total=len(missing)))
    else:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            list(tqdm(pool.imap_unordered(job, missing, chunksize=16), total=len(missing)))
    return table


def _table(n: int, *, seed: int) -> pd.DataFrame:
    attributes = sample_attributes(n, seed=seed)
    attributes.insert(0, "file", [f"{index:06d}.png" for index in range(n)])
    attributes.insert(1, "seed", range(n))
    return attributes


def _write_table(table: pd.DataFrame, path: Path, *, size: int) -> None:
    """A longer or shorter run of the same set may follow; another set may not."""
    if path.exists():
        old = pd.read_csv(path)
        if not _same_start(old, table) or _size_of_any(old, path.parent) not in (None, size):
            raise ValueError(
                f"Need an empty folder or one of this very set; {str(path)!r} is the table of another."
            )
        if len(old) >= len(table):
            return
    table.to_csv(path, index=False)


def _same_start(old: pd.DataFrame, new: pd.DataFrame) -> bool:
    common = min(len(old), len(new))
    return list(old.columns) == list(new.columns) and np.allclose(
        old.drop(columns="file")[:common], new.drop(columns="file")[:common], rtol=0, atol=1e-9
    )


def _size_of_any(table: pd.DataFrame, folder: Path) -> int | None:
    """Pixels along one side of the first picture that is there."""
    for path in (folder / file for file in table["file"]):
        if path.exists():
            with Image.open(path) as picture:
                return picture.width
    return None


def _paint_row(row: dict, *, folder: Path, size: int) -> None:
    attributes = {name: value for name, value in row.items() if name not in ("file", "seed")}
    picture = paint(attributes, seed=row["seed"], size=size)
    part = folder / (row["file"] + ".part")
    Image.fromarray(picture).save(part, format="PNG")
    part.replace(folder / row["file"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.face_world", description=__doc__)
    parser.add_argument("--n", type=int, default=20000, help="number of pictures")
    parser.add_argument("--size", type=int, default=128, help="pixels along one side")
    parser.add_argument("--out", type=Path, help="folder for the pictures and attributes.csv")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another set")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of 8 x 6 faces here")
    parser.add_argument("--sweeps", type=Path, help="write every named attribute moved over its range here")
    return parser


if __name__ == "__main__":
    main()
