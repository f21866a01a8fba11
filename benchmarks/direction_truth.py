"""Directions from simulated relevance: how near to the planted truth, and does `reliability` know how near?

All latents and all relevance here are simulated. Needs no data.
"""

import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
from real_p300 import arguments, print_table, write_results
from scipy.stats import norm
from tqdm import tqdm

from brainedit.directions import brain_direction, reliability

N_DIMS = 512


@dataclass(frozen=True)
class World:
    """Simulated latents, and relevance that says with noise on which side of the truth an image lies.

    auc : of one person's score of one image; None gives the label itself, .5 gives noise
    n_people : people who see the same images; their scores are averaged
    decay : the variance of latent dimension k goes with k ** -decay; 0 is isotropic
    alignment : the truth's variance in a dimension goes with the latents' variance ** alignment
    """

    n: int
    n_dims: int = N_DIMS
    auc: float | None = 0.79
    n_people: int = 1
    decay: float = 0.0
    alignment: float = 0.0

    def draw(self, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
        """Latents (n, n_dims), relevance of each person (n_people, n), truth (n_dims,) of length 1."""
        rng = np.random.default_rng([seed, self.n, self.n_dims])
        variance = np.arange(1.0, self.n_dims + 1) ** -self.decay
        variance /= variance.mean()
        latents = rng.standard_normal((self.n, self.n_dims)) * np.sqrt(variance)
        truth = rng.standard_normal(self.n_dims) * variance ** (self.alignment / 2)
        label = np.sign(latents @ truth)
        relevance = np.tile((label + 1) / 2, (self.n_people, 1))
        if self.auc is not None:
            distance = np.sqrt(2) * norm.ppf(self.auc)
            noise = rng.standard_normal((self.n_people, self.n))
            relevance = 1 / (1 + np.exp(-(noise + label * distance / 2)))
        names = [f"face{i}" for i in range(self.n)]
        return (
            pd.DataFrame(latents, names),
            pd.DataFrame(relevance, columns=names),
            truth / np.linalg.norm(truth),
        )


PLANNED = {  # cosine of the planning table: (world, method, what the table says)
    "190 images, AUC .79, ridge": (World(190), "ridge", 0.24),
    "190 images, AUC .79, fixed ridge": (World(190), "ridge_fixed", 0.244),
    "190 images, AUC .79, mean difference": (World(190), "mean_difference", 0.247),
    "190 images, AUC .79, SVR": (World(190), "svr", 0.226),
    "190 images, explicit, ridge": (World(190, auc=None), "ridge", 0.46),
    "190 images, 12 people, ridge": (World(190, n_people=12), "ridge", 0.42),
    "190 images, 30 people, ridge": (World(190, n_people=30), "ridge", 0.44),
    "190 images, 12 people, hierarchical": (World(190, n_people=12), "hierarchical", 0.42),
    "1,900 images, AUC .79, ridge": (World(1900), "ridge", 0.61),
    "5,700 images, AUC .79, ridge": (World(5700), "ridge", 0.81),
}

PREDICTED = {
    "60 images": (World(60), "ridge"),
    "190 images, AUC .6": (World(190, auc=0.6), "ridge"),
    "190 images, AUC .7": (World(190, auc=0.7), "ridge"),
    "190 images": (World(190), "ridge"),
    "190 images, AUC .9": (World(190, auc=0.9), "ridge"),
    "190 images, explicit": (World(190, auc=None), "ridge"),
    "190 images, 12 people averaged": (World(190, n_people=12), "ridge"),
    "190 images, mean difference": (World(190), "mean_difference"),
    "190 images, variance 1/k": (World(190, decay=1.0), "ridge"),
    "190 images, variance 1/k, truth in the small": (World(190, decay=1.0, alignment=-1.0), "ridge"),
    "190 images, variance 1/k, truth in the large": (World(190, decay=1.0, alignment=1.0), "ridge"),
    "480 images": (World(480), "ridge"),
    "400 images in 64-d": (World(400, 64), "ridge"),
    "400 images in 64-d, AUC .6": (World(400, 64, 0.6), "ridge"),
    "1,000 in 128-d, variance 1/k": (World(1000, 128, decay=1.0), "ridge"),
    "1,000 in 128-d, variance 1/k, small": (World(1000, 128, decay=1.0, alignment=-1.0), "ridge"),
    "1,000 in 128-d, variance 1/k, large": (World(1000, 128, decay=1.0, alignment=1.0), "ridge"),
    "1,000 in 128-d, 1/k, mean difference": (World(1000, 128, decay=1.0), "mean_difference"),
    "190 images, noise alone": (World(190, auc=0.5), "ridge"),
    "1,900 images, AUC .6": (World(1900, auc=0.6), "ridge"),
    "1,900 images": (World(1900), "ridge"),
    "1,900 images, explicit": (World(1900, auc=None), "ridge"),
    "1,900 images, variance 1/k": (World(1900, decay=1.0), "ridge"),
}


def planned_cosines(world: World, method: str, n_seeds: int) -> np.ndarray:
    """Cosine to the truth (n_seeds,) of the direction that `brain_direction` finds."""
    found = []
    for seed in range(n_seeds):
        latents, people, truth = world.draw(seed)
        relevance = people if method == "hierarchical" else people.mean()
        found.append(brain_direction(latents, relevance, space="z", method=method).vector @ truth)
    return np.array(found)


def predicted_cosines(
    world: World, method: str, n_sets: int, *, first: int = 10_000
) -> dict[str, np.ndarray]:
    """True and predicted cosine of n_sets simulated sets, the interval, and the root of Spearman-Brown."""
    rows = []
    for seed in tqdm(range(first, first + n_sets), desc=f"{world.n} images", leave=False):
        latents, people, truth = world.draw(seed)
        relevance = people.mean()
        if method == "mean_difference":  # its limit is the covariance, not the slope
            variance = np.arange(1.0, world.n_dims + 1) ** -world.decay
            truth = truth * variance / np.linalg.norm(truth * variance)
        vector = brain_direction(latents, relevance, space="z", method=method).vector
        r = reliability(
            latents, relevance, method=method, n_permutations=99, n_null=100, n_splits=5, seed=seed
        )
        halves = np.sqrt(max(r.split_half_full, 0.0))
        rows.append((vector @ truth, r.predicted_cosine, *r.predicted_interval, halves, r.p))
    return dict(zip(("true", "predicted", "low", "high", "halves", "p"), np.array(rows).T, strict=True))


def prediction_figures(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Bias, mean absolute error and coverage of the prediction, beside the root of Spearman-Brown."""
    error, halves = found["predicted"] - found["true"], found["halves"] - found["true"]
    covered = (found["low"] <= found["true"]) & (found["true"] <= found["high"])
    return {
        "true": float(found["true"].mean()),
        "bias": float(error.mean()),
        "mae": float(np.abs(error).mean()),
        "coverage": float(covered.mean()),
        "width": float((found["high"] - found["low"]).mean()),
        "halves_bias": float(halves.mean()),
        "halves_mae": float(np.abs(halves).mean()),
        "share_p_below_05": float((found["p"] < 0.05).mean()),
        "n_sets": len(error),
    }


def by_people(n_sets: int = 20, *, n: int = 190, n_people: int = 12) -> dict[str, float]:
    """The forbidden split: two halves of the people who saw the same images, beside the truth."""
    rows = []
    for seed in range(n_sets):
        latents, people, truth = World(n, n_people=n_people).draw(seed)
        a, b = (people.iloc[part::2].mean() for part in (0, 1))
        first, second, both = (brain_direction(latents, r, space="z").vector for r in (a, b, people.mean()))
        agreement = first @ second
        rows.append((2 * agreement / (1 + agreement), both @ truth))
    split, cosine = np.mean(rows, axis=0)
    return {"halves of the people, Spearman-Brown": float(split), "cosine to the truth": float(cosine)}


def unequal_people(n_sets: int = 20, *, n: int = 190) -> dict[str, float]:
    """Cosine to the truth with 12 people of AUC .5 to .95: equal weights against the hierarchical pooling."""
    rows = []
    for seed in range(n_sets):
        latents, _, truth = World(n).draw(seed)
        rng = np.random.default_rng(seed)
        label = np.sign(latents.to_numpy() @ truth)
        distance = np.sqrt(2) * norm.ppf(np.linspace(0.5, 0.95, 12))[:, None]
        scores = rng.standard_normal((12, n)) + label * distance / 2
        seen = rng.random((12, n)) < rng.uniform(0.2, 1, n)
        seen[rng.integers(12, size=n), np.arange(n)] = True
        people = pd.DataFrame(1 / (1 + np.exp(-scores)), columns=latents.index).where(seen)
        pair = (
            brain_direction(latents, people.mean(), space="z"),
            brain_direction(latents, people, space="z", method="hierarchical"),
        )
        rows.append([direction.vector @ truth for direction in pair])
    equal, pooled = np.mean(rows, axis=0)
    return {"equal weights": float(equal), "hierarchical": float(pooled)}


def looks_needed_figures(
    n_sets: int, *, n: int = 480, wanted: float = 0.61, truth: float = 1770
) -> dict[str, float]:
    """From n images: how many a cosine needs, against the number that gave it (AUC .79, 512-d)."""
    found = []
    for seed in tqdm(range(20_000, 20_000 + n_sets), desc="looks needed", leave=False):
        latents, people, _ = World(n).draw(seed)
        r = reliability(latents, people.mean(), n_permutations=1, n_null=1, n_splits=1, seed=seed)
        needed = r.looks_needed(wanted)
        found.append((needed.n, needed.low, needed.high))
    middle, low, high = np.array(found).T
    return {
        "median": float(np.median(middle)),
        "coverage": float(np.mean((low <= truth) & (truth <= high))),
        "median low": float(np.median(low)),
        "median high": float(np.median(high)),
        "truth": truth,
    }


def main() -> None:
    """Measure, print the tables, write the JSON file."""
    parser = arguments(__doc__.splitlines()[0], "direction_truth")
    parser.add_argument("--sets", type=int, default=200, help="simulated sets for each predicted cosine")
    parser.add_argument("--seeds", type=int, default=20, help="seeds for each line of the planning table")
    parser.add_argument("--only", default="", help="only conditions whose name holds this text")
    options = parser.parse_args()
    start = time.time()
    planned, predicted = {}, {}
    for name, (world, method, table) in PLANNED.items():
        if options.only in name:
            cosines = planned_cosines(world, method, options.seeds)
            planned[name] = {
                "mean": cosines.mean(),
                "se": cosines.std(ddof=1) / np.sqrt(len(cosines)),
                "table": table,
            }
    print_table(
        "Simulated relevance: cosine to the truth",
        {k: _planned_row(v) for k, v in planned.items()} or {"-": ""},
    )
    for name, (world, method) in PREDICTED.items():
        if options.only in name:
            predicted[name] = prediction_figures(predicted_cosines(world, method, options.sets))
            print(name, _predicted_row(predicted[name]), flush=True)
    print_table(
        "Simulated relevance: the predicted cosine",
        {k: _predicted_row(v) for k, v in predicted.items()} or {"-": ""},
    )
    results = {"planned": planned, "predicted": predicted}
    if not options.only:
        results |= {
            "by_people": by_people(),
            "unequal_people": unequal_people(),
            "looks_needed": looks_needed_figures(options.sets),
        }
        for name in ("by_people", "unequal_people", "looks_needed"):
            print_table(name.replace("_", " "), results[name])
    write_results(options.out, "direction_truth", results | {"seconds": round(time.time() - start)})


def _planned_row(row: dict[str, float]) -> str:
    return f"{row['mean']:+.3f}  SE {row['se']:.3f}  table {row['table']:.3f}"


def _predicted_row(row: dict[str, float]) -> str:
    return (
        "true {true:+.3f}  bias {bias:+.3f}  mean absolute error {mae:.3f}  coverage {coverage:.3f}  width {width:.3f}"
        "  |  root of Spearman-Brown: bias {halves_bias:+.3f}, error {halves_mae:.3f}".format(**row)
    )


if __name__ == "__main__":
    main()
