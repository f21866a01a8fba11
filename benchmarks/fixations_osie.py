"""Fixations on photographs: what a map must beat, and how far people themselves predict one another.

250 of the 700 photographs of OSIE (Xu et al., Journal of Vision 2014), 15 viewers, free viewing. No brain was recorded:
the figures say what the scores of a map mean on such pictures, by maps that know nothing of the score under study.
"""

import io
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from real_p300 import add_data_option, arguments, data_file, print_table, write_results

from brainedit.evaluation import Score
from saliency.baselines import centre_map, edge_map
from saliency.evaluation import fixation_density
from saliency.fixations import (
    FixationSet,
    bootstrap_pictures,
    other_pictures_map,
    read_fixations,
    score_pictures,
    score_viewers,
)

BLUR = 12.0  # px; the pictures were shown at twice the size, about 24 px a degree if 800 px filled 33 degrees
UNIFORM = 0.01
NOTHING = "uniform"
READING = f"""\
sauc sets a map against places that are looked at in any picture, so a map of the centre has .5 there and more in
auc_uniform and auc_judd. "The rest for a viewer" is the ceiling for one person; "own fixations" are scored by their own
density, as high as a score can go. kl: 0 is best. ig: bits per fixation over the other pictures' density. Edges, other
pictures and viewers are mixed with {UNIFORM:g} of a uniform density, which sim, kl and ig feel: with more of it one
viewer alone would do better there."""


def photographs(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and picture (3, h, w), 0 to 1, one after the other."""
    with np.load(path, allow_pickle=False) as data:
        names, jpeg, offset = data["name"].tolist(), data["jpeg"], data["offset"]
    for name, (start, end) in zip(names, pairwise(offset), strict=True):
        pixels = np.array(Image.open(io.BytesIO(jpeg[start:end].tobytes())).convert("RGB"))
        yield name, torch.from_numpy(pixels).permute(2, 0, 1) / 255


def edge_density(image: torch.Tensor) -> torch.Tensor:
    edges = edge_map(image).double()
    return (1 - UNIFORM) * edges / edges.sum() + UNIFORM / edges.numel()


def baseline_maps(
    fixations: FixationSet, path: Path, blur: float
) -> dict[str, Callable[[], Iterator[tuple]]]:
    """Maps picture by picture of everything that knows nothing of a score."""
    sizes = fixations.sizes
    settings = {"blur": blur, "uniform": UNIFORM}
    return {
        NOTHING: lambda: ((name, np.ones(size)) for name, size in sizes.items()),
        "edges (Sobel)": lambda: ((name, edge_density(image)) for name, image in photographs(path)),
        "centre Gaussian": lambda: ((name, centre_map(size)) for name, size in sizes.items()),
        "other pictures": lambda: ((name, other_pictures_map(fixations, name, **settings)) for name in sizes),
        "own fixations": lambda: (
            (name, fixation_density(fixations.of(name), size, blur=blur)) for name, size in sizes.items()
        ),
    }


def baseline_scores(fixations: FixationSet, path: Path, blur: float) -> dict[str, pd.DataFrame]:
    """A row a picture, a column a score, for each baseline."""
    settings = {"blur": blur, "uniform": UNIFORM, "progress": True}
    makers = baseline_maps(fixations, path, blur)
    found = {name: score_pictures(make(), fixations, **settings) for name, make in makers.items()}
    found["a viewer for the rest"] = score_viewers(fixations, predict="rest", **settings)
    found["the rest for a viewer"] = score_viewers(fixations, predict="viewer", **settings)
    return found | {"own fixations": found.pop("own fixations")}


def with_intervals(found: dict[str, pd.DataFrame]) -> dict[str, dict[str, Score]]:
    """For each score every baseline, with its interval over pictures; chance is the uniform map's mean."""
    summaries = {name: bootstrap_pictures(scores) for name, scores in found.items()}
    tables = {}
    for score in summaries[NOTHING].index:
        chance = float(summaries[NOTHING].loc[score, "value"])
        tables[score] = {}
        for name, summary in summaries.items():
            row = summary.loc[score]
            limits = {"low": float(row["low"]), "high": float(row["high"])}
            tables[score][name] = Score(
                score, float(row["value"]), int(row["n"]), "picture", chance, **limits
            )
    return tables


def main() -> None:
    """Measure, print a table a score, write the JSON file."""
    parser = add_data_option(arguments(__doc__.splitlines()[0], "fixations_osie"))
    parser.add_argument(
        "--blur", type=float, default=BLUR, help="deviation of the density's Gaussian, pixels"
    )
    options = parser.parse_args()
    torch.set_num_threads(2)
    start = time.time()
    path = data_file(options.data, "fixations_osie.npz")
    fixations = read_fixations(path)
    tables = with_intervals(baseline_scores(fixations, path, options.blur))
    n = f"{len(fixations.table)} fixations of {len(fixations.viewers)} viewers on {len(fixations.pictures)} pictures"
    print(f"{n}; blur {options.blur:g} px")
    for score, rows in tables.items():
        print_table(score, rows)
    print(f"\n{READING}")
    settings = {"blur_px": options.blur, "uniform": UNIFORM, "ig_baseline": "other pictures"}
    results = {"settings": settings, "scores": tables, "seconds": round(time.time() - start)}
    write_results(options.out, "fixations_osie", results)


if __name__ == "__main__":
    main()
