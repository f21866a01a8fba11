"""P300: how well single trials tell targets from others, leaving out one recording at a time.

Also holds what the other scripts on real data share: reading the data and scoring F out of fold.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from brainedit.datasets.paired import PairedDataset
from brainedit.evaluation import Score, auc_difference, auc_score
from brainedit.jobs.joint import label_scores
from brainedit.joint import JointModel
from brainedit.joint_training import train_joint
from brainedit.relevance import score_trials

# Chosen on the P300 recordings alone; never on a recording that real_n170.py scores.
F_SETTINGS = {
    "eeg_encoder": "eegproject",
    "whiten": "channels",
    "sfreq": 50.0,
    "tmin": 0.0,
    "tmax": 0.8,
    "normalize": "both",
    "n_epochs": 20,
    "batch_size": 64,
    "learning_rate": 3e-4,
    "weight_decay": 0.05,
    "seed": 0,
}
REJECT_UV = 150.0
HOW_TO_POINT = (
    "Give --data DIR, or set BRAINEDIT_DATA, to the folder that holds p300_muse.npz, n170_muse.npz, "
    "face_memory_scores.npz and stimuli/."
)


def data_file(folder: str | None, name: str) -> Path:
    """The path of one file of the real data; raises FileNotFoundError that says how to point elsewhere."""
    if not folder:
        raise FileNotFoundError(f"No folder of real data was given. {HOW_TO_POINT}")
    path = Path(folder) / name
    if not path.exists():
        raise FileNotFoundError(f"There is no {name} in {folder}. {HOW_TO_POINT}")
    return path


def muse_epochs(path: Path, labels: dict[int, str]) -> mne.EpochsArray:
    """Epochs in volts of a file (n, 4, 256) µV; baseline before 0 s, trials above 150 µV peak to peak dropped.

    labels : name of each code in `y`
    """
    with np.load(path) as data:
        volts = data["X"].astype(np.float64) * 1e-6
        info = mne.create_info([str(c) for c in data["channels"]], float(data["sfreq"]), "eeg")
        with info._unlock():
            info["highpass"], info["lowpass"] = 1.0, 30.0  # as the file's notes say
        epochs = mne.EpochsArray(volts, info, tmin=float(data["tmin"]), baseline=(None, 0), verbose="error")
        columns = {"subject": "subject", "session": "session", "run": "recording"}
        metadata = {column: data[name] for column, name in columns.items()}
        epochs.metadata = pd.DataFrame({"label": [labels[code] for code in data["y"].tolist()]} | metadata)
    return epochs[np.ptp(volts, axis=2).max(1) < REJECT_UV * 1e-6]


def held_out_models(
    dataset: PairedDataset, *, by: str = "run", shuffled: bool = False, description: str = "F"
) -> Iterator[tuple[JointModel, np.ndarray]]:
    """For each recording, a model trained on all others, and which trials (n,) bool it has not seen.

    by : metadata column whose values are left out: "run" (a recording) or "session"
    shuffled : train on EEG that was shuffled against the labels within each recording
    """
    units = dataset.metadata[by].to_numpy()
    training = shuffled_eeg(dataset) if shuffled else dataset
    for unit in tqdm(np.unique(units), desc=description):
        test = units == unit
        yield train_joint(training.subset(~test), progress=False, **F_SETTINGS), test


def shuffled_eeg(dataset: PairedDataset, *, seed: int = 0) -> PairedDataset:
    """The same trials with their labels permuted within each recording."""
    rng = np.random.default_rng(seed)
    epochs = dataset.epochs.copy()
    permuted = epochs.metadata.groupby("run")["label"].transform(lambda x: rng.permutation(x.to_numpy()))
    epochs.metadata = epochs.metadata.assign(label=permuted)
    pictures = {k: [dataset.pictures[n] for n in dataset.candidates(k)] for k in sorted(set(dataset.keys))}
    return PairedDataset(epochs, pictures, pair_by="label")


def centred_scores(model: JointModel, test: PairedDataset, labels: Sequence[str]) -> np.ndarray:
    """F of the second label less that of the first, (n,), centred on the fold's mean as in `score_trials`."""
    scores = label_scores(model, test, labels)
    return scores - scores.mean()


def f_scores(
    dataset: PairedDataset, labels: Sequence[str], *, by: str = "run", shuffled: bool = False
) -> np.ndarray:
    """Out-of-fold F of every trial, (n,); each recording (or session) is scored by a model that has not seen it."""
    scores = np.zeros(len(dataset))
    name = "F, shuffled EEG" if shuffled else "F"
    for model, test in held_out_models(dataset, by=by, shuffled=shuffled, description=name):
        scores[test] = centred_scores(model, dataset.subset(test), labels)
    return scores


def classifier_scores(epochs: mne.BaseEpochs, target: str, method: str, *, by: str = "run") -> np.ndarray:
    """Out-of-fold log-odds (n,) of `score_trials`, leaving out one recording (or session) at a time."""
    if by != "run":
        epochs = epochs.copy()
        epochs.metadata = epochs.metadata.assign(run=epochs.metadata[by])
    p = score_trials(epochs, target=target, method=method, scheme="run")["probability"].to_numpy()
    return np.log(p / (1 - p))


def standard_error(score: Score) -> float:
    """Of the bootstrap, read off the 95 % interval."""
    return (score.high - score.low) / (2 * 1.96)


def arguments(description: str, name: str) -> argparse.ArgumentParser:
    """The options that all scripts share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", default=f"results/{name}", help="folder for the JSON file (and figures)")
    return parser


def add_data_option(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "--data", default=os.environ.get("BRAINEDIT_DATA"), help=f"folder of real data. {HOW_TO_POINT}"
    )
    return parser


def print_table(title: str, rows: dict[str, Score | float | str]) -> None:
    """A row a figure: value, 95 % interval and its unit, chance, permutation p."""
    width = max(len(name) for name in rows)
    print(f"\n{title}")
    for name, row in rows.items():
        if isinstance(row, Score):
            p = "" if row.p is None else f"  p {row.p:.4f}"
            interval = f"[{row.low:+.3f}, {row.high:+.3f}] over {row.n} {row.unit}s"
            text = f"{row.value:+.3f}  {interval}  chance {row.chance:.2f}{p}"
        else:
            text = row if isinstance(row, str) else f"{row:+.3f}"
        print(f"  {name:<{width}}  {text}")


def write_results(out: str, name: str, results: dict) -> Path:
    """OUT/NAME.json; scores as dictionaries."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(results, indent=1, default=_plain) + "\n")
    print(f"\nWritten to {path}")
    return path


def _plain(value: object) -> object:
    if isinstance(value, Score):
        return value.as_dict()
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def p300_dataset(folder: str | None) -> PairedDataset:
    """The oddball: cats are targets, dogs are not; trials are paired by label."""
    epochs = muse_epochs(data_file(folder, "p300_muse.npz"), {1: "dog", 2: "cat"})
    pictures = data_file(folder, "stimuli/cats_dogs")
    return PairedDataset(
        epochs,
        {"cat": sorted(pictures.glob("target*")), "dog": sorted(pictures.glob("nontarget*"))},
        pair_by="label",
    )


def main() -> None:
    """Measure, print the tables, write the JSON file."""
    parser = add_data_option(arguments(__doc__.splitlines()[0], "real_p300"))
    parser.add_argument(
        "--f-folds", choices=("session", "run"), default="session", help="what F leaves out; run takes longer"
    )
    options = parser.parse_args()
    torch.set_num_threads(2)
    mne.set_log_level("error")
    start = time.time()
    dataset = p300_dataset(options.data)
    target, by = "label == 'cat'", options.f_folds
    cat, run = dataset.keys == "cat", dataset.metadata["run"].to_numpy()
    classifiers = {
        "window means + shrinkage LDA": classifier_scores(dataset.epochs, target, "lda"),
        "xDAWN + tangent space + logistic": classifier_scores(dataset.epochs, target, "xdawn"),
    }
    by_run = {name: auc_score(cat, values, name=name, within=run) for name, values in classifiers.items()}
    print_table(
        f"P300, {len(dataset)} trials ({cat.sum()} targets), {len(np.unique(run))} recordings left out",
        by_run,
    )
    error = standard_error(by_run["window means + shrinkage LDA"])
    print(f"  LDA: standard error {error:.3f}; reference .762")
    lda = classifier_scores(dataset.epochs, target, "lda", by=by)
    f = f_scores(dataset, ("dog", "cat"), by=by)
    control = f_scores(dataset, ("dog", "cat"), by=by, shuffled=True)
    beside = {
        "LDA on the same folds": lda,
        "F (target against other)": f,
        "control: F on shuffled EEG": control,
    }
    rows = {name: auc_score(cat, values, name=name, within=run) for name, values in beside.items()}
    rows["F less LDA (paired)"] = auc_difference(cat, f, lda)
    print_table(f"P300, F by labels; each {by} left out", rows)
    print(
        "\nThe pictures are four cats and four dogs, and cats were the targets: what F learnt is relevance and\n"
        "content together. A direction of faces does not apply to them."
    )
    results = {"n_trials": len(dataset), "settings": F_SETTINGS, "by_recording": by_run, f"by_{by}": rows}
    write_results(options.out, "real_p300", results | {"seconds": round(time.time() - start)})


if __name__ == "__main__":
    main()
