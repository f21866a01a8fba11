"""How long the statistics of a direction take, beside a loop over scikit-learn's Ridge and one linear SVR fit.

All latents and all relevance here are simulated. Needs no data; best on a machine that does nothing else.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from direction_truth import World
from real_p300 import arguments, print_table, write_results
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.svm import SVR as SklearnSVR
from threadpoolctl import threadpool_limits

from brainedit.directions import brain_direction, reliability

N_PERMUTATIONS = 1000


def seconds(work: Callable[[], object], *, rounds: int = 5) -> dict[str, float]:
    """Median and quartiles of the wall clock over rounds, s, and the median of the processor time."""
    wall, processor = [], []
    for _ in range(rounds):
        start = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    low, middle, high = np.quantile(wall, [0.25, 0.5, 0.75])
    return {"median": middle, "low": low, "high": high, "processor": float(np.median(processor))}


def sklearn_loop(latents: np.ndarray, relevance: np.ndarray, n_refits: int) -> None:
    """Slopes of permuted relevance, one fit each."""
    rng = np.random.default_rng(0)
    model = SklearnRidge(alpha=latents.shape[1])
    for _ in range(n_refits):
        model.fit(latents, rng.permutation(relevance))


def permutations(latents: pd.DataFrame, relevance: pd.Series) -> None:
    """Permutations of the direction alone: no null band beyond them, no halves to speak of."""
    reliability(latents, relevance, n_permutations=N_PERMUTATIONS, n_null=N_PERMUTATIONS, n_splits=1)


def measured(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Each piece of work by name; the loop of refits is timed on a few and scaled up."""
    latents, people, _ = World(options.images, options.dims).draw(0)
    relevance = people.mean()
    x, y = latents.to_numpy(), relevance.to_numpy()
    found = {
        "brain_direction, ridge": seconds(lambda: brain_direction(latents, relevance, space="z")),
        f"reliability, {N_PERMUTATIONS} permutations, left-out images, predicted cosine": seconds(
            lambda: permutations(latents, relevance)
        ),
        "reliability, all of it": seconds(lambda: reliability(latents, relevance)),
        "scikit-learn Ridge, one fit": seconds(lambda: sklearn_loop(x, y, 1)),
    }
    loop = seconds(lambda: sklearn_loop(x, y, options.refits), rounds=1)
    scale = N_PERMUTATIONS / options.refits
    found[f"scikit-learn Ridge, {N_PERMUTATIONS} fits (from {options.refits})"] = {
        key: value * scale for key, value in loop.items()
    }
    if options.svr:
        found["scikit-learn linear SVR, one fit"] = seconds(
            lambda: SklearnSVR(kernel="linear").fit(x, y), rounds=1
        )
    return found


def main() -> None:
    """Measure, print the table, write the JSON file."""
    parser = arguments(__doc__.splitlines()[0], "direction_statistics")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--refits", type=int, default=100, help="fits of the loop that are timed")
    parser.add_argument("--svr", action="store_true", help="time one linear SVR fit too (minutes)")
    options = parser.parse_args()
    with threadpool_limits(options.threads):
        found = measured(options)
    rows = {
        name: "{median:8.3f} s  quartiles {low:.3f} to {high:.3f}  processor {processor:.3f} s".format(**row)
        for name, row in found.items()
    }
    print_table(f"{options.images} images, {options.dims} dimensions, {options.threads} threads", rows)
    write_results(options.out, "direction_statistics", {"seconds": found} | vars(options))


if __name__ == "__main__":
    main()
