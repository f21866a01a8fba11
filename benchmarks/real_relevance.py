"""Relevance: is the pipeline that is chosen inside the training trials better than LDA, on recordings left out?

Candidates were chosen on simulated oddballs (`brainedit.simulate`), not on these recordings; LDA's windows and the
figures of xDAWN on these files were known before (README of this folder), so that xDAWN's are not blind.
"""

import time

import mne
import numpy as np
import pandas as pd
import torch
from real_p300 import add_data_option, arguments, data_file, muse_epochs, print_table, write_results

from brainedit.evaluation import Score, auc_difference, auc_score
from brainedit.relevance import score_trials
from brainedit.relevance_study import relevance_control

LDA, AUTO = "window means + shrinkage LDA", "chosen by nested selection, Platt"
PIPELINES = {
    LDA: {},
    "xDAWN + tangent space + logistic": {"method": "xdawn"},
    "chosen, not calibrated": {"method": "auto", "calibrate": "none"},
    AUTO: {"method": "auto", "calibrate": "platt"},
}
FILES = {"N170": ("n170_muse.npz", {1: "house", 2: "face"}, "label == 'face'")}
FILES["P300"] = ("p300_muse.npz", {1: "dog", 2: "cat"}, "label == 'cat'")
N_CALIBRATION = 40


def all_scores(epochs: mne.BaseEpochs, target: str) -> dict[str, pd.DataFrame]:
    """Trial scores of each pipeline, each recording left out within a person, and of the forehead alone."""
    found = {name: score_trials(epochs, target=target, **settings) for name, settings in PIPELINES.items()}
    return found | {"LDA at the eyes (AF7, AF8) alone": relevance_control(epochs, target=target)}


def summary(scores: dict[str, pd.DataFrame], own: np.ndarray) -> dict[str, Score]:
    """AUC of each pipeline on the trials `own` (n,) bool, and the paired difference of the chosen one to LDA."""
    tables = {name: table[own] for name, table in scores.items()}
    rows = {
        name: auc_score(table["target"], table["probability"], name=name, within=table["fold"].to_numpy())
        for name, table in tables.items()
    }
    target = tables[LDA]["target"].to_numpy()
    for name in list(tables)[1:4]:
        pair = (tables[k]["probability"].to_numpy() for k in (name, LDA))
        rows[f"{name} less LDA (paired)"] = auc_difference(target, *pair)
    return rows


def calibration_row(trials: pd.DataFrame) -> str:
    """The slope that would calibrate log-odds (1 where they are), and the cross-entropy at equal priors."""
    p, target = trials["probability"].clip(1e-9, 1 - 1e-9), trials["target"]
    log_odds = np.log(p / (1 - p))
    spread = (log_odds[target].var() + log_odds[~target].var()) / 2
    slope = (log_odds[target].mean() - log_odds[~target].mean()) / spread
    loss = -(np.log(p[target]).mean() + np.log(1 - p[~target]).mean()) / 2
    return f"slope {slope:.2f}, cross-entropy {loss:.3f} (no information {np.log(2):.3f})"


def transfer(epochs: mne.BaseEpochs, target: str) -> dict[str, Score]:
    """AUC on each person's later recordings by models of the other people, without and with a calibration."""
    rows = {}
    for method in ("lda", "xdawn"):
        for n in (0, N_CALIBRATION):
            table = score_trials(epochs, target=target, method=method, scheme="subject", n_calibration=n)
            for who, own in table.groupby("subject"):
                name = f"{method}, person {who}, {n} trials of calibration"
                rows[name] = auc_score(own["target"], own["probability"], name=name)
    return rows


def main() -> None:
    """Measure, print the tables, write the JSON file."""
    options = add_data_option(arguments(__doc__.splitlines()[0], "real_relevance")).parse_args()
    torch.set_num_threads(2)
    mne.set_log_level("error")
    start, results = time.time(), {}
    for title, (file, labels, target) in FILES.items():
        epochs = muse_epochs(data_file(options.data, file), labels)
        scores = all_scores(epochs, target)
        subject = epochs.metadata["subject"].to_numpy()
        people = {f"person {who}": subject == who for who in np.unique(subject)}
        if len(people) > 1:
            people["all people"] = np.ones(len(subject), bool)
        for who, own in people.items():
            rows = summary(scores, own)
            print_table(f"{title}, {who}, {own.sum()} trials, each recording left out within a person", rows)
            results[f"{title}, {who}"] = rows
        chosen = scores[AUTO].groupby("fold")["method"].first().value_counts().to_dict()
        rows = {"chosen in how many folds": str(chosen)}
        rows |= {name: calibration_row(scores[name]) for name in PIPELINES}
        print_table(f"{title}: choice and calibration", rows)
        results[f"{title}: choice and calibration"] = rows
        if len(people) > 1:
            results[f"{title}, transfer"] = transfer(epochs, target)
            print_table(
                f"{title}, trained on the other person, first recording not scored",
                results[f"{title}, transfer"],
            )
    write_results(options.out, "real_relevance", results | {"seconds": round(time.time() - start)})


if __name__ == "__main__":
    main()
