"""How good trial scores are: AUC pooled and per fold, how it grows with trials, and what the eyes alone give."""

from collections.abc import Sequence
from dataclasses import replace

import mne
import numpy as np
import pandas as pd
from tqdm import tqdm

from brainedit._check import pick
from brainedit.eeg import standard_names
from brainedit.evaluation import Score, auc, auc_interval, auc_score, bootstrap_interval, permutation_p
from brainedit.relevance import score_trials

FOREHEAD, TEMPLES = ("Fp", "AF"), ("F7", "F8", "F9", "F10")  # how names begin; names


def relevance_scores(
    trials: pd.DataFrame,
    *,
    randomised: str = "auto",
    n_permutations: int = 2000,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Score]:
    """AUC of trial scores by name: "pooled" over all folds, "within folds", and of each fold.

    trials : as `score_trials` gives them
    randomised : what the experiment made a target at random, which is what permutations exchange: "trial" (inside a
        fold), "stimulus" (pictures inside a task: all showings of a picture move together, those of several people
        too where a picture is a target for everyone or no one), or "auto": "stimulus" where pictures are shown
        again and each is always or never a target, else "trial". Intervals draw the same units anew

    "within folds" compares trials of one fold alone, so it does not depend on how folds are centred. A fold of one
    kind of trial has no AUC and no entry.
    Raises ValueError when one kind is missing, or pictures that were to be exchanged are targets at times.
    """
    pick("unit of randomisation", randomised, dict.fromkeys(("auto", "trial", "stimulus")))
    target, score = trials["target"].to_numpy(bool), trials["probability"].to_numpy(float)
    fold = trials["fold"].astype(str).to_numpy()
    together = _joined(fold, trials["subject"].astype(str).to_numpy())  # what was centred
    unit, group, what = _randomised_units(trials, target, together, randomised)
    rng = np.random.default_rng(seed)
    null = np.array([_exchanged(target, unit, group, rng) for _ in range(n_permutations)])
    units = None if what == "trial" else unit
    note = {"n_permutations": n_permutations}
    note["permuted"] = {"trial": "targets within folds", "stimulus": "pictures within tasks"}[what]

    def scored(name: str, own: np.ndarray) -> Score:
        inside = None if units is None else units[own]
        label = "trial" if units is None else "picture"
        drawn = {
            "unit": label,
            "units": inside,
            "n_bootstrap": n_bootstrap,
            "n_permutations": 0,
            "seed": seed,
        }
        one = auc_score(target[own], score[own], name=name, **drawn)
        p = permutation_p(one.value, _aucs(null[:, own], score[own]))
        return replace(one, p=p, **note)

    everything = np.ones(len(target), bool)
    found = {
        "pooled": scored("relevance AUC", everything),
        "within folds": _within_folds(target, score, together, null, units, note, n_bootstrap, seed),
    }
    for name in dict.fromkeys(fold):
        own = fold == name
        if target[own].any() and not target[own].all():
            found[name] = scored(f"relevance AUC, fold {name}", own)
    return found


def relevance_learning_curve(
    epochs: mne.BaseEpochs,
    *,
    target: str,
    n_training: Sequence[int],
    n_draws: int = 5,
    n_bootstrap: int = 500,
    seed: int = 0,
    progress: bool = True,
    **settings,
) -> pd.DataFrame:
    """AUC against the number of trials that each fold trains on; the trials that are scored stay the same.

    n_training : numbers of trials, of which `n_draws` random choices are made each
    settings : of `score_trials`

    Returns one row a number: n_training, auc (mean over draws), sd (between draws), low, high (95 %, scored trials
    drawn anew), n_scored.
    Raises ValueError for a number that a fold does not have.
    """
    if not len(n_training) or n_draws < 1:
        raise ValueError(
            f"Need one or more numbers of trials and draws; got {list(n_training)} and {n_draws}."
        )
    rows = []
    for n in tqdm(n_training, desc="learning curve", disable=not progress):
        draws = [
            score_trials(epochs, target=target, n_training=n, **settings, seed=seed + k)
            for k in range(n_draws)
        ]
        scores = np.stack([draw["probability"] for draw in draws])
        wanted = draws[0]["target"].to_numpy(bool)
        values = np.array([auc(wanted, one) for one in scores])
        low, high = bootstrap_interval(
            lambda i, wanted=wanted, scores=scores: np.mean(
                [_auc_or_nan(wanted[i], one[i]) for one in scores]
            ),
            len(wanted),
            None,
            n_bootstrap,
            np.random.default_rng(seed),
        )
        sd = values.std(ddof=1) if n_draws > 1 else np.nan
        rows.append((n, values.mean(), sd, low, high, len(wanted)))
    return pd.DataFrame(rows, columns=["n_training", "auc", "sd", "low", "high", "n_scored"])


def relevance_control(epochs: mne.BaseEpochs, *, target: str, **settings) -> pd.DataFrame:
    """`score_trials` from channels at the eyes alone: what eye movements and blinks would give.

    settings : of `score_trials`; use those of the scores that it stands beside, then the trials and folds are the same

    Frontal channels see the brain too: a control above chance is a warning, not a proof.
    Raises ValueError where there is no such channel, or no other.
    """
    names = eye_channels(epochs)
    eyes = epochs.copy().load_data().pick(names)
    eyes.set_channel_types(dict.fromkeys(names, "eeg"), on_unit_change="ignore", verbose="error")
    return score_trials(eyes, target=target, **settings)


def eye_channels(epochs: mne.BaseEpochs) -> list[str]:
    """Names of the good channels that see the eyes best: EOG, and EEG of the forehead and temples (Fp, AF, F7 to F10).

    Raises ValueError where there is none, or where these are all EEG channels.
    """
    kinds, bads = epochs.get_channel_types(), epochs.info["bads"]
    good = [i for i, name in enumerate(epochs.ch_names) if name not in bads and kinds[i] in ("eeg", "eog")]
    near = [kinds[i] == "eog" or _near_eyes(name) for i, name in enumerate(standard_names(epochs.ch_names))]
    if not any(near[i] for i in good):
        raise ValueError(
            "The control needs EOG channels, or EEG of the forehead (Fp, AF, F7 to F10); there are "
            f"{', '.join(epochs.ch_names[i] for i in good)}."
        )
    if all(near[i] for i in good):
        raise ValueError("The control says nothing: the scores rest on channels at the eyes alone.")
    return [epochs.ch_names[i] for i in good if near[i]]


def _near_eyes(name: str) -> bool:
    return name in TEMPLES or name.startswith(FOREHEAD)


def _randomised_units(
    trials: pd.DataFrame, target: np.ndarray, fold: np.ndarray, randomised: str
) -> tuple[np.ndarray, np.ndarray, str]:
    """The unit of each trial and the group in which units are exchanged, (n,) each, and which it is."""
    number = np.arange(len(trials))
    if randomised == "trial":
        return number, fold, "trial"
    if trials["stimulus"].isna().any():
        if randomised == "stimulus":
            raise ValueError(f"{trials['stimulus'].isna().sum()} trials do not name their stimulus.")
        return number, fold, "trial"
    task = trials["task"].astype(str).to_numpy()
    person = trials["subject"].astype(str).to_numpy()
    picture = trials["stimulus"].astype(str).to_numpy()
    for group in (task, _joined(task, person)):  # pictures of all people, else each person's own
        unit = _joined(group, picture)
        if pd.Series(target).groupby(unit).nunique().max() == 1 and (
            randomised == "stimulus" or len(set(unit)) < len(unit)
        ):
            return unit, group, "stimulus"
    if randomised == "stimulus":
        raise ValueError(
            "Pictures cannot be exchanged: some are targets at times and not at others. Use randomised='trial'."
        )
    return number, fold, "trial"


def _joined(*names: np.ndarray) -> np.ndarray:
    return pd.MultiIndex.from_arrays(names).factorize()[0]


def _exchanged(
    target: np.ndarray, unit: np.ndarray, group: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Targets (n,) after an exchange of units inside their groups."""
    _, first, inverse = np.unique(unit, return_index=True, return_inverse=True)
    label, own = target[first], pd.factorize(group[first])[0]
    order = np.lexsort((rng.random(len(own)), own))
    place = np.argsort(own, kind="stable")
    moved = np.empty_like(label)
    moved[place] = label[order]
    return moved[inverse]


def _within_folds(
    target: np.ndarray,
    score: np.ndarray,
    fold: np.ndarray,
    null: np.ndarray,
    units: np.ndarray | None,
    note: dict,
    n_bootstrap: int,
    seed: int,
) -> Score:
    """Share of pairs of a target and another trial of one fold that are in the right order."""

    def statistic(wanted: np.ndarray, score: np.ndarray, fold: np.ndarray) -> np.ndarray:
        right = n_pairs = np.zeros(len(wanted))
        for k in np.unique(fold):
            own = fold == k
            pairs = wanted[:, own].sum(1) * (~wanted[:, own]).sum(1)
            right, n_pairs = right + pairs * _aucs(wanted[:, own], score[own]), n_pairs + pairs
        return np.where(n_pairs > 0, right / np.maximum(n_pairs, 1), np.nan)

    value = float(statistic(target[None], score, fold)[0])
    draws = {"n_bootstrap": n_bootstrap, "rng": np.random.default_rng(seed)}
    low, high = auc_interval(target, score, group=fold, units=units, **draws)
    n, unit = (len(target), "trial") if units is None else (len(np.unique(units)), "picture")
    p = permutation_p(value, statistic(null, score, fold))
    return Score("relevance AUC within folds", value, n, unit, 0.5, low, high, p, **note)


def _aucs(targets: np.ndarray, score: np.ndarray) -> np.ndarray:
    """AUC (m,) of the scores (n,) for m rows of targets (m, n) bool; one half where a row is of one kind."""
    from scipy.stats import rankdata

    n_targets = targets.sum(1)
    pairs = n_targets * (targets.shape[1] - n_targets)
    right = targets @ rankdata(score) - n_targets * (n_targets + 1) / 2
    return np.where(pairs > 0, right / np.maximum(pairs, 1), 0.5)


def _auc_or_nan(target: np.ndarray, score: np.ndarray) -> float:
    return float("nan") if target.all() or not target.any() else auc(target, score)
