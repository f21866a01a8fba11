"""Audit against the truth: are confounded designs caught, empty sets refused, and planted signals let through?

All EEG here is simulated: brainedit.audit.phantom, with or without a planted response, and the Kaneshiro layout.
Needs no data.
"""

import logging
import tempfile
import time
from collections import Counter
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from real_p300 import arguments, print_table, write_results
from scipy.stats import t
from tqdm import tqdm

from brainedit.audit.controls import Controls, run_controls
from brainedit.audit.design import audit_design
from brainedit.audit.phantom import phantom_trials
from brainedit.datasets.kaneshiro import load_kaneshiro
from brainedit.datasets.paired import PairedDataset
from brainedit.evaluation import Score, proportion_score
from brainedit.simulate.kaneshiro import simulate_kaneshiro

N_JOBS = 2
CHANNELS = ["Fp1", "Fp2", "Fz", "Cz", "Pz", "Oz", "O1", "O2"]
RESPONSE_UV = 4.0  # peak of the planted response at Oz: AUC about .85, power at p < .05 above .95
EVERY_CHANNEL = 4  # of the 124 of the Kaneshiro layout, one in four


# phantom EEG in the schedule of EEG-CVPR40


def cvpr40_phantom(
    *, n_classes: int = 40, n_images: int = 50, n_channels: int = 32, sfreq: float = 100.0, seed: int = 0
) -> PairedDataset:
    """Two recordings of phantom EEG: a block a class, .5 s a picture, 10 s between blocks, an order each."""
    rng = np.random.default_rng(seed)
    rows = []
    for run in ("first", "second"):
        start = 0.0
        for block, k in enumerate(rng.permutation(n_classes)):
            rows += [(f"class {k:02d}", run, block, start + 0.5 * i) for i in range(n_images)]
            start += 0.5 * n_images + 10
    metadata = pd.DataFrame(rows, columns=["label", "run", "block", "onset"]).assign(simulated=True)
    data = phantom_trials(
        metadata["onset"].to_numpy(),
        (metadata["run"] == "second").to_numpy().astype(int),
        np.arange(round(0.5 * sfreq)) / sfreq,
        n_channels=n_channels,
        seed=seed,
    )
    epochs = mne.EpochsArray(data, mne.create_info(n_channels, sfreq, "eeg"), metadata=metadata)
    none = np.zeros((4, 4, 3), np.uint8)
    return PairedDataset(epochs, {label: [none] for label in metadata["label"].unique()}, pair_by="label")


def random_folds(n: int, *, k: int = 5, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds over trials without regard to anything, as they are often used."""
    parts = np.array_split(np.random.default_rng(seed).permutation(n), k)
    return [(np.setdiff1d(np.arange(n), part), np.sort(part)) for part in parts]


def block_design(*, n_permutations: int = 100, **size: int) -> dict[str, Controls]:
    """The controls under random folds inside blocks, and under a split by recording."""
    dataset = cvpr40_phantom(**size)
    splits = {"random folds over trials": random_folds(len(dataset)), "leave recording out": "run"}
    return {
        name: run_controls(
            dataset, claim="category", split=split, n_permutations=n_permutations, progress=False
        )
        for name, split in tqdm(splits.items(), desc="block design")
    }


def print_block_design(found: dict[str, Controls], dataset: PairedDataset) -> None:
    audit = audit_design(dataset.metadata, claim="category", split=random_folds(len(dataset)))
    print(f"\nThe audit of the schedule under random folds\n{audit}")
    for name, controls in found.items():
        ran = {r.name: r.score for r in controls.results if r.score is not None}
        rows = {score.name: score for score in controls.scores} | ran
        print_table(f"Phantom EEG, schedule of EEG-CVPR40, {name}", rows)
        print(f"  {controls.verdict}")


# randomised sets with and without a planted response


def randomised_set(amplitude_uv: float, *, seed: int, n_runs: int = 5, n_trials: int = 48) -> PairedDataset:
    """Phantom EEG of two labels in random order; one evokes a response at posterior channels around .25 s."""
    rng = np.random.default_rng([seed, 101])
    times = -0.2 + np.arange(80) / 100
    run = np.repeat(np.arange(n_runs), n_trials)
    label = np.concatenate([rng.permutation(np.arange(n_trials) % 2) for _ in range(n_runs)])
    onset = np.concatenate([np.cumsum(rng.uniform(0.9, 1.3, n_trials)) for _ in range(n_runs)])
    metadata = pd.DataFrame({"label": np.array(["a", "b"])[label], "run": run, "onset": onset})
    metadata = metadata.assign(stimulus=[f"picture {i}" for i in range(len(run))], simulated=True)
    data = phantom_trials(onset, run, times, n_channels=len(CHANNELS), highpass=0.1, lowpass=40.0, seed=seed)
    field = np.array([0, 0, 0.05, 0.2, 0.6, 1, 0.9, 0.9])
    response = field[:, None] * np.exp(-0.5 * ((times - 0.25) / 0.05) ** 2)
    data = data + 1e-6 * amplitude_uv * label[:, None, None] * response
    info = mne.create_info(CHANNELS, 100.0, "eeg")
    with info._unlock():
        info["highpass"], info["lowpass"] = 0.1, 40.0
    epochs = mne.EpochsArray(data, info, tmin=-0.2, baseline=(None, 0), metadata=metadata)
    pictures = np.random.default_rng([seed, 102]).integers(0, 255, (len(run), 8, 8, 3), dtype=np.uint8)
    return PairedDataset(epochs, dict(zip(metadata["stimulus"], pictures, strict=True)))


def _judge(amplitude_uv: float, seed: int, n_permutations: int) -> Controls:
    mne.set_log_level("error")
    logging.disable(logging.WARNING)
    dataset = randomised_set(amplitude_uv, seed=seed)
    settings = {"n_permutations": n_permutations, "seed": seed, "progress": False}
    return run_controls(dataset, claim="category", split="run", **settings)


def many_sets(amplitude_uv: float, *, n_sets: int = 100, n_permutations: int = 100) -> list[Controls]:
    """The controls of sets that differ in nothing but the seed."""
    jobs = Parallel(n_jobs=N_JOBS, return_as="generator")(
        delayed(_judge)(amplitude_uv, seed, n_permutations) for seed in range(n_sets)
    )
    return list(tqdm(jobs, total=n_sets, desc=f"sets with {amplitude_uv:g} µV"))


def set_rows(found: list[Controls]) -> dict[str, Score | float | str]:
    """How many sets are called supported, how many scores are above chance, and what the controls did."""
    supported = np.array([c.supported for c in found])
    above = np.array([c.score.p < c.alpha for c in found])
    fired = Counter(r.name for c in found for r in c.results if r.fires)
    vetoed = Counter(r.name for c in found for r in c.results if r.vetoes)
    share = {"chance": 0.05, "unit": "set"}
    return {
        "mean AUC": float(np.mean([c.score.value for c in found])),
        "called supported": proportion_score(supported, name="supported", **share),
        "score above chance": proportion_score(above, name="above chance", **share),
        "above chance, vetoed": float((above & ~supported).mean()),
        "controls above chance": ", ".join(f"{k} {v}" for k, v in sorted(fired.items())) or "none",
        "controls that veto": ", ".join(f"{k} {v}" for k, v in sorted(vetoed.items())) or "none",
        "designs": ", ".join(f"{k} {v}" for k, v in sorted(Counter(c.design for c in found).items())),
    }


# pictures on both sides, layout of Kaneshiro et al. 2015


def _person(subject: int, snr_category: float, n_repeats: int) -> dict[str, float]:
    """Accuracy of six categories for one simulated person under two splits."""
    mne.set_log_level("error")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        simulate_kaneshiro(Path(folder), subject=subject, snr_category=snr_category, n_repeats=n_repeats)
        dataset = load_kaneshiro(folder, subject=subject)
    dataset.epochs.pick(dataset.epochs.ch_names[::EVERY_CHANNEL])
    splits = {"random folds over trials": random_folds(len(dataset)), "leave exemplars out": "stimulus"}
    settings = {"claim": "category", "controls": [], "refit": False, "n_permutations": 20, "progress": False}
    return {
        name: run_controls(dataset, split=split, **settings).scores[1].value for name, split in splits.items()
    }


def exemplar_inflation(*, n_people: int = 6, n_repeats: int = 16) -> dict[str, dict[str, Score]]:
    """Accuracy under random folds and with exemplars left out, and their difference, over simulated people."""
    found = {}
    for name, snr_category in {"pictures alone are coded": 0.0, "categories are coded too": 0.1}.items():
        jobs = Parallel(n_jobs=N_JOBS, return_as="generator")(
            delayed(_person)(subject, snr_category, n_repeats) for subject in range(1, n_people + 1)
        )
        table = pd.DataFrame(list(tqdm(jobs, total=n_people, desc=name)))
        table["inflation, points"] = 100 * (table.iloc[:, 0] - table.iloc[:, 1])
        found[name] = {column: mean_score(column, values.to_numpy()) for column, values in table.items()}
    return found


def mean_score(name: str, values: np.ndarray) -> Score:
    """Mean over people with its t interval."""
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    chance = 0.0 if "points" in name else 1 / 6
    mean = float(values.mean())
    return Score(name, mean, len(values), "simulated person", chance, mean - half, mean + half)


def main() -> None:
    """Measure, print the tables, write the JSON file."""
    parser = arguments(__doc__.splitlines()[0], "audit_truth")
    parser.add_argument(
        "--small", action="store_true", help="a tenth of the sets, 10 classes, 2 people: a trial run"
    )
    options = parser.parse_args()
    mne.set_log_level("error")
    logging.disable(logging.WARNING)
    start = time.time()
    size = {"n_classes": 10, "n_images": 20} if options.small else {}
    blocks = block_design(**size)
    print_block_design(blocks, cvpr40_phantom(**size))
    n_sets = 10 if options.small else 100
    sets = {f"{uv:g} µV": set_rows(many_sets(uv, n_sets=n_sets)) for uv in (0.0, RESPONSE_UV)}
    for name, rows in sets.items():
        print_table(f"{n_sets} randomised sets of 240 trials, planted response {name}", rows)
    inflation = exemplar_inflation(n_people=2 if options.small else 6)
    for name, rows in inflation.items():
        print_table(f"Simulated Kaneshiro layout, six categories, {name}: accuracy", rows)
    results = {"block_design": {name: c.as_dict() for name, c in blocks.items()}, "randomised": sets}
    write_results(
        options.out, "audit_truth", results | {"exemplars": inflation, "seconds": round(time.time() - start)}
    )


if __name__ == "__main__":
    main()
