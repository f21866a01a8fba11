"""Planted truth: does the toolkit find what was put into simulated EEG and simulated relevance?

All EEG here is simulated by brainedit.simulate. Needs no data.
"""

import time
from dataclasses import dataclass

import mne
import numpy as np
import pandas as pd
import torch
from real_p300 import arguments, print_table, write_results
from scipy.stats import norm
from tqdm import tqdm

from brainedit.datasets.paired import PairedDataset
from brainedit.directions import brain_direction
from brainedit.evaluation import Score, proportion_score
from brainedit.joint_training import train_joint
from brainedit.relevance import relevance_score, score_trials
from brainedit.simulate.viewing import simulate_oddball, simulate_passive
from saliency.image import occlusion_map, region_hit

SNR = 0.2  # the documented level: averages of 8 repeats are clean
WINDOW, STRIDE = 56, 28
SMALL = {"n_pictures": 320, "n_test": 16, "n_epochs": 40, "average_repeats": True}  # under a minute


@dataclass(frozen=True)
class PeakHits:
    """Whether the map of each held-out picture peaks in the coded region, by whose response it was made.

    own, shuffled : (n,) bool; shuffled EEG is the response to another held-out picture
    all_others : share of hits over all pairs of a picture and another one's response
    """

    own: np.ndarray
    shuffled: np.ndarray
    all_others: float


def peak_hits(
    *,
    n_pictures: int = 480,
    n_test: int = 40,
    snr: float = SNR,
    n_epochs: int = 40,
    average_repeats: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> PeakHits:
    """Train on four fifths of the pictures of a simulated viewing, map held-out ones from averages of 8.

    n_test : held-out pictures that are mapped; with fewer than a fifth of all, the rest is left aside
    """
    viewing = simulate_passive(n_pictures=n_pictures, n_repeats=8, snr=snr, seed=seed)
    dataset = PairedDataset(viewing.epochs, viewing.images)
    held_out = np.random.default_rng(seed).permutation(list(viewing.images))[: n_pictures // 5]
    train = ~np.isin(dataset.keys, held_out)
    settings = {"n_epochs": n_epochs, "average_repeats": average_repeats, "seed": seed, "progress": progress}
    model = train_joint(dataset.subset(train), **settings)
    test = dataset.subset(np.isin(dataset.keys, held_out[:n_test])).by_stimulus()
    score = model.score_images(model.prepare_eeg(test.epochs))
    boxes = viewing.truth[["top", "left", "bottom", "right"]]
    hits = np.zeros((len(test), len(test)), bool)  # picture by response
    for i, name in enumerate(tqdm(test.keys, desc="maps", disable=not progress)):
        image = model.prepare_image(viewing.images[name])
        maps = occlusion_map(score, image, window=WINDOW, stride=STRIDE)
        hits[i] = [region_hit(heat, tuple(boxes.loc[name])) for heat in maps]
    others = hits[~np.eye(len(hits), dtype=bool)]
    return PeakHits(hits.diagonal(), np.roll(hits, -1, axis=1).diagonal(), float(others.mean()))


def hit_rows(hits: PeakHits) -> dict[str, Score | float]:
    """Shares with their Clopper-Pearson intervals; chance is one region of four."""
    own = proportion_score(hits.own, name="own EEG", chance=0.25, unit="picture")
    shuffled = proportion_score(hits.shuffled, name="shuffled EEG", chance=0.25, unit="picture")
    return {"peak in the coded region": own, "shuffled EEG": shuffled, "all other responses": hits.all_others}


def direction_cosines(
    *, method: str = "ridge", auc: float | None = 0.79, shuffled: bool = False, n_seeds: int = 20
) -> np.ndarray:
    """Cosine to the truth (n_seeds,) of directions from 190 pictures with latents from N(0, 1) in 512-d.

    A picture is relevant where its latent lies on the positive side of the truth; relevance is 0 or 1 where
    `auc` is None, else a probability from scores of two normal distributions with that AUC.
    """
    return np.array([_direction_cosine(method, auc, shuffled, seed) for seed in range(n_seeds)])


def _direction_cosine(method: str, auc: float | None, shuffled: bool, seed: int) -> float:
    rng = np.random.default_rng(seed)
    latents, truth = rng.standard_normal((190, 512)), rng.standard_normal(512)
    truth /= np.linalg.norm(truth)
    label = np.sign(latents @ truth)
    relevance = (label + 1) / 2
    if auc is not None:
        distance = np.sqrt(2) * norm.ppf(auc)
        relevance = 1 / (1 + np.exp(-(rng.standard_normal(190) + label * distance / 2)))
    if shuffled:
        relevance = rng.permutation(relevance)
    names = [f"face{i}" for i in range(190)]
    found = brain_direction(
        pd.DataFrame(latents, names), pd.Series(relevance, names), space="z", method=method
    )
    return float(found.vector @ truth)


def cosine_row(cosines: np.ndarray) -> str:
    spread = cosines.std(ddof=1)
    return (
        f"{cosines.mean():+.3f}  SD {spread:.3f}  SE {spread / np.sqrt(len(cosines)):.3f} (n {len(cosines)})"
    )


def oddball_aucs(auc: float, *, n_seeds: int = 3) -> list[Score]:
    """AUC of `score_trials` on simulated oddballs of 600 trials, half of them targets, dialled to an AUC."""
    found = []
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        target = rng.permutation(600) < 300
        trials = pd.DataFrame({"stimulus": [f"face{i:03d}" for i in range(600)], "target": target})
        epochs = simulate_oddball(trials, auc=auc, seed=seed).epochs
        found.append(relevance_score(score_trials(epochs, target="target")))
    return found


def main() -> None:
    """Measure, print the tables, write the JSON file."""
    parser = arguments(__doc__.splitlines()[0], "planted_truth")
    parser.add_argument(
        "--ladder", action="store_true", help="maps at four signal levels instead of the rest"
    )
    options = parser.parse_args()
    torch.set_num_threads(2)
    mne.set_log_level("error")
    start = time.time()
    results = ladder() if options.ladder else standard()
    name = "planted_truth_ladder" if options.ladder else "planted_truth"
    write_results(options.out, name, results | {"seconds": round(time.time() - start)})


def standard() -> dict:
    """Peaks at the documented signal level, directions from 190 pictures, the oddball's dial."""
    directions = {
        "ridge, AUC .79": direction_cosines(),
        "mean_difference, AUC .79": direction_cosines(method="mean_difference"),
        "svr, AUC .79": direction_cosines(method="svr"),
        "ridge, explicit labels": direction_cosines(auc=None),
        "ridge, AUC .79, permuted": direction_cosines(shuffled=True),
    }
    print_table(
        "Simulated relevance of 190 pictures: cosine to the truth",
        {name: cosine_row(values) for name, values in directions.items()},
    )
    dial = {auc: oddball_aucs(auc) for auc in tqdm((0.6, 0.79, 0.9), desc="oddball")}
    rows = {f"dial {auc:.2f}, seed {i}": s for auc, scores in dial.items() for i, s in enumerate(scores)}
    print_table("Simulated oddball, 600 trials: AUC of score_trials, runs left out", rows)
    peaks = hit_rows(peak_hits())
    print_table(f"Simulated passive viewing, snr {SNR}, 480 pictures, averages of 8 repeats", peaks)
    return {"directions": directions, "oddball": rows, "peaks": peaks}


def ladder() -> dict:
    """Peaks at four signal levels, with the fewer pictures of SMALL and training on averages of repeats."""
    found = {}
    for snr in (0.0, 0.05, 0.1, 0.2):
        found[f"snr {snr}"] = hit_rows(peak_hits(snr=snr, **SMALL))
        print_table(
            f"Simulated passive viewing, snr {snr}, {SMALL['n_pictures']} pictures, averages of 8 repeats",
            found[f"snr {snr}"],
        )
    return {"ladder": found}


if __name__ == "__main__":
    main()
