"""Directions from simulated relevance: how near to the planted truth, and does `reliability` know how near?

All latents, all relevance and all EEG here are simulated. Needs no data. `--part` runs some parts alone.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import direction_edits
import direction_eeg
import mne
import numpy as np
import pandas as pd
import torch
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


def planned_part(options: argparse.Namespace) -> dict:
    """The planning table."""
    found = {}
    for name, (world, method, table) in PLANNED.items():
        if options.only in name:
            cosines = planned_cosines(world, method, options.seeds)
            error = cosines.std(ddof=1) / np.sqrt(len(cosines))
            found[name] = {"mean": cosines.mean(), "se": error, "table": table}
    rows = {name: _planned_row(row) for name, row in found.items()}
    print_table("Simulated relevance: cosine to the truth", rows or {"-": ""})
    return found


def predicted_part(options: argparse.Namespace) -> dict:
    """The predicted cosine under many conditions; takes twenty minutes and more."""
    found = {}
    for name, (world, method) in PREDICTED.items():
        if options.only in name:
            found[name] = prediction_figures(predicted_cosines(world, method, options.sets))
            print(name, _predicted_row(found[name]), flush=True)
    rows = {name: _predicted_row(row) for name, row in found.items()}
    print_table("Simulated relevance: the predicted cosine", rows or {"-": ""})
    return found


def people_part(options: argparse.Namespace) -> dict:
    """Halves of the people, unequal people, and how many looks a cosine needs."""
    found = {
        "by_people": by_people(),
        "unequal_people": unequal_people(),
        "looks_needed": looks_needed_figures(options.sets),
    }
    for name, rows in found.items():
        print_table(name.replace("_", " "), rows)
    return found


def eeg_part(options: argparse.Namespace) -> dict:
    """From raw simulated EEG of one person and 190 images to the cosine, by pipeline."""
    pipelines = direction_eeg.PIPELINES | (direction_eeg.AUTO if options.auto else {})
    people = []
    for seed in tqdm(range(options.seeds), desc="people"):
        people.append(direction_eeg.cosines_from_eeg(seed, pipelines=pipelines))
        mean = people[-1].groupby("pipeline", sort=False)[["auc", "cosine"]].mean()
        print(f"person {seed}", mean.round(3).T.to_dict("list"), flush=True)
    rows = pd.concat(people, ignore_index=True)
    found = direction_eeg.pipeline_figures(rows)
    for name, row in found.items():
        if pipelines[name][0] in direction_eeg.CLASSIFIERS:
            world = World(190, auc=row["auc"])
            row["cosine_of_that_auc"] = planned_cosines(world, pipelines[name][1], 40).mean()
    table = {name: _pipeline_row(row) for name, row in found.items()}
    print_table("One person's raw simulated EEG, 190 images in 512-d", table)
    gain = {
        f"{best} less LDA, {column}": direction_eeg.paired_difference(
            rows, f"{best}, ridge", "LDA, ridge", column
        )
        for best in ("xDAWN", "auto")[: 1 + options.auto]
        for column in ("auc", "cosine")
    }
    print_table("Paired over people", {k: f"{mean:+.3f}  SE {se:.3f}" for k, (mean, se) in gain.items()})
    return {"pipelines": found, "differences": gain, "rows": rows.to_dict("records")}


def edits_part(options: argparse.Namespace) -> dict:
    """From a crowd's raw simulated EEG to edits of new faces, beside explicit labels."""
    parts = []
    for seed in tqdm(range(options.edit_seeds), desc="crowds"):
        parts.append(direction_edits.edit_figures(seed))
        for name, row in direction_edits.seed_rows(parts[-1]).items():
            print(name, row, flush=True)
    rows = pd.concat(parts, ignore_index=True)
    found = direction_edits.summary(rows)
    print_table("12 people, 200 bundled faces, means", direction_edits.summary_rows(found))
    return {"summary": found, "rows": rows.to_dict("records")}


PARTS: dict[str, Callable[[argparse.Namespace], dict]] = {
    "planned": planned_part,
    "predicted": predicted_part,
    "people": people_part,
    "eeg": eeg_part,
    "edits": edits_part,
}


def options_of(arguments_given: list[str] | None = None) -> argparse.Namespace:
    """The options; without --part all parts run, with --only those that it speaks of."""
    parser = arguments(__doc__.splitlines()[0], "direction_truth")
    parser.add_argument("--part", nargs="+", choices=PARTS, help="parts to run; all without it")
    parser.add_argument("--sets", type=int, default=200, help="simulated sets for each predicted cosine")
    parser.add_argument(
        "--seeds",
        type=int,
        default=20,
        help="seeds for the planning table, and people whose EEG is simulated",
    )
    parser.add_argument(
        "--edit-seeds", type=int, default=5, help="crowds of 12 people whose EEG is simulated"
    )
    parser.add_argument(
        "--auto", action="store_true", help="part eeg: also the classifier chosen by nested selection"
    )
    parser.add_argument(
        "--only", default="", help="of the parts planned and predicted: conditions whose name holds this text"
    )
    options = parser.parse_args(arguments_given)
    options.part = options.part or (["planned", "predicted"] if options.only else list(PARTS))
    return options


def main() -> None:
    """Measure, print the tables, write the JSON file."""
    options = options_of()
    mne.set_log_level("error")
    torch.set_num_threads(2)
    start = time.time()
    results = {name: PARTS[name](options) for name in options.part}
    write_results(options.out, "direction_truth", results | {"seconds": round(time.time() - start)})


def _pipeline_row(row: dict[str, float]) -> str:
    text = "AUC {auc:.3f} (SE {auc_se:.3f})  cosine {cosine:+.3f} (SE {cosine_se:.3f})".format(**row)
    expected = row.get("cosine_of_that_auc")
    return text if expected is None else f"{text}  Gaussian scores of that AUC {expected:.3f}"


def _planned_row(row: dict[str, float]) -> str:
    return f"{row['mean']:+.3f}  SE {row['se']:.3f}  table {row['table']:.3f}"


def _predicted_row(row: dict[str, float]) -> str:
    return (
        "true {true:+.3f}  bias {bias:+.3f}  mean absolute error {mae:.3f}  coverage {coverage:.3f}  width {width:.3f}"
        "  |  root of Spearman-Brown: bias {halves_bias:+.3f}, error {halves_mae:.3f}".format(**row)
    )


if __name__ == "__main__":
    main()
