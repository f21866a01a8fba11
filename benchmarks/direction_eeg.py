"""Relevance out of raw simulated EEG, and the directions that follow from it.

All EEG and all latents here are simulated. A person looks for one thing in each task, as in Davis et al. 2022:
what scores a task was trained on the person's other tasks.
"""

from collections.abc import Mapping

import mne
import numpy as np
import pandas as pd

from brainedit.directions import brain_direction
from brainedit.evaluation import auc
from brainedit.relevance import pool_relevance, score_trials
from brainedit.simulate.viewing import amplitude_for_auc, simulate_oddball

SFREQ, TMAX = 125.0, 0.9  # Hz; s, where the windows of Davis et al. end
DIAL = 0.806  # of `amplitude_for_auc`; LDA then reaches .79 across tasks, as tuned on seeds 1000 to 1019

CLASSIFIERS = {
    "LDA": {"method": "lda"},
    "LDA, 25 windows": {"method": "lda", "preset": "davis2022"},
    "xDAWN": {"method": "xdawn"},
    "auto": {"method": "auto"},
}
PIPELINES = {  # (scores, direction method)
    "LDA, ridge": ("LDA", "ridge"),
    "xDAWN, ridge": ("xDAWN", "ridge"),
    "LDA of 25 windows, ridge": ("LDA, 25 windows", "ridge"),
    "LDA of 25 windows, SVR (the paper)": ("LDA, 25 windows", "svr"),
    "explicit labels, ridge": ("labels", "ridge"),
    "explicit labels, SVR": ("labels", "svr"),
    "LDA permuted over images, ridge": ("permuted", "ridge"),
}
AUTO = {"auto, ridge": ("auto", "ridge")}  # three times as long as all others together


def recorded(
    tasks: Mapping[str, pd.Series], *, dial: float | None = DIAL, amplitude_uv: float | None = None, seed: int
) -> mne.BaseEpochs:
    """Simulated EEG of one person: a run for each task, in which each picture is shown once, in random order.

    tasks : name -> which stimuli (the index) are targets, bool
    """
    rng = np.random.default_rng([seed, 2])
    runs = []
    for name, target in tasks.items():
        shown = target.iloc[rng.permutation(len(target))]
        table = pd.DataFrame({"stimulus": shown.index, "target": shown.to_numpy(bool)})
        runs.append(table.assign(task=name, run=len(runs) + 1, subject=f"sim{seed}"))
    if amplitude_uv is None:
        amplitude_uv = amplitude_for_auc(dial, tmax=TMAX)
    trials = pd.concat(runs, ignore_index=True)
    settings = {"sfreq": SFREQ, "tmax": TMAX, "eog": False}
    return simulate_oddball(trials, amplitude_uv=amplitude_uv, seed=seed, **settings).epochs


def task_scores(epochs: mne.BaseEpochs, **settings) -> pd.DataFrame:
    """Scores of all trials, those of a task by what was trained on the other tasks; `settings` of score_trials."""
    return score_trials(epochs, target="target", scheme="task_pair", **settings)


def planted_tasks(
    seed: int, *, n: int, n_dims: int, n_tasks: int
) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray], dict[str, pd.Series]]:
    """Latents (n, n_dims), truth (n_dims,) of length 1 and targets (n,) of each task; N(0, 1) latents of its own."""
    rng = np.random.default_rng([seed, 3])
    latents, truths, targets = {}, {}, {}
    for task in (f"task{k}" for k in range(n_tasks)):
        names = [f"{task}_face{i}" for i in range(n)]
        truth = rng.standard_normal(n_dims)
        latents[task] = pd.DataFrame(rng.standard_normal((n, n_dims)), names)
        truths[task] = truth / np.linalg.norm(truth)
        targets[task] = latents[task] @ truths[task] > 0
    return latents, truths, targets


def cosines_from_eeg(
    seed: int,
    *,
    n: int = 190,
    n_dims: int = 512,
    n_tasks: int = 4,
    pipelines: Mapping[str, tuple[str, str]] = PIPELINES,
    dial: float | None = DIAL,
    amplitude_uv: float | None = None,
) -> pd.DataFrame:
    """One row a task and pipeline of one person: the task's AUC and the direction's cosine to the truth."""
    latents, truths, targets = planted_tasks(seed, n=n, n_dims=n_dims, n_tasks=n_tasks)
    epochs = recorded(targets, dial=dial, amplitude_uv=amplitude_uv, seed=seed)
    wanted = {"LDA" if scores == "permuted" else scores for scores, _ in pipelines.values()} - {"labels"}
    scored = {name: task_scores(epochs, **CLASSIFIERS[name]) for name in sorted(wanted)}
    rows = []
    for name, (scores, method) in pipelines.items():
        for task, target in targets.items():
            relevance = _relevance(scored, scores, task, target, seed)
            found = brain_direction(latents[task], relevance, space="z", method=method)
            area = auc(target.to_numpy(), relevance[target.index].to_numpy())
            rows.append((seed, task, name, area, float(found.vector @ truths[task])))
    return pd.DataFrame(rows, columns=["seed", "task", "pipeline", "auc", "cosine"])


def pipeline_figures(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean AUC and cosine of each pipeline; standard errors are those over people."""
    by_person = rows.groupby(["pipeline", "seed"], sort=False)[["auc", "cosine"]].mean()
    found = {}
    for name in rows["pipeline"].unique():
        own = by_person.loc[name]
        errors = own.std(ddof=1) / np.sqrt(len(own))
        found[name] = {
            "auc": float(own["auc"].mean()),
            "auc_se": float(errors["auc"]),
            "cosine": float(own["cosine"].mean()),
            "cosine_se": float(errors["cosine"]),
            "n_people": len(own),
            "n_directions": int((rows["pipeline"] == name).sum()),
        }
    return found


def paired_difference(rows: pd.DataFrame, first: str, second: str, column: str) -> tuple[float, float]:
    """Mean difference of two pipelines over the same people, and its standard error."""
    table = rows.pivot_table(index="seed", columns="pipeline", values=column)
    difference = table[first] - table[second]
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def _relevance(
    scored: Mapping[str, pd.DataFrame], scores: str, task: str, target: pd.Series, seed: int
) -> pd.Series:
    """Relevance of each stimulus of a task: a classifier's, the labels themselves, or LDA's permuted."""
    if scores == "labels":
        return target.astype(float)
    trials = scored["LDA" if scores == "permuted" else scores]
    relevance = pool_relevance(trials[trials["task"] == task])
    if scores == "permuted":
        rng = np.random.default_rng([seed, 4])
        relevance = pd.Series(rng.permutation(relevance.to_numpy()), relevance.index)
    return relevance
