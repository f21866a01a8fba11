"""From EEG to how relevant each picture was: single-trial probabilities out of fold, pooled by picture."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping

import mne
import numpy as np
import pandas as pd

from brainedit._check import pick
from brainedit.alignment import euclidean_alignment, first_trials
from brainedit.eeg import check_signal
from brainedit.erp_classifiers import METHODS, PRESETS, Scorer, Windows
from brainedit.evaluation import Score, auc_score
from brainedit.relevance_nested import CALIBRATIONS, FoldScorer
from brainedit.relevance_pooling import pool_relevance
from brainedit.splits import recording_names, unit_names

__all__ = ["PRESETS", "metadata_of", "pool_relevance", "relevance_score", "score_trials", "target_mask"]

logger = logging.getLogger(__name__)

N_STIMULUS_FOLDS = 10
AUTO = {"lda": ("lda", None), "lda, davis2022": ("lda", PRESETS["davis2022"]), "xdawn": ("xdawn", None)}
AVERAGED = ("lda", "xdawn")


def score_trials(
    epochs: mne.BaseEpochs,
    *,
    target: str,
    method: str | Callable[[mne.BaseEpochs, np.ndarray, mne.BaseEpochs], np.ndarray] = "lda",
    scheme: str = "auto",
    tmin: float = Windows().tmin,
    tmax: float = Windows().tmax,
    n_windows: int = Windows().n,
    preset: str | None = None,
    calibrate: str | None = None,
    center: bool = True,
    n_calibration: int | None = None,
    n_training: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Probability, per trial, that the brain response was to a target.

    target : query on the metadata that is true for target trials, e.g. "label == 'smile'"
    method : "lda" (window means and shrinkage LDA); "xdawn" (xDAWN covariances of whole epochs, tangent space and
        logistic regression; needs the extra `riemann`); "eegnet", "eeginceptionerp" (need the extra `nets`); "auto"
        (in each fold the one of `AUTO`, or the mean of LDA and xDAWN, that does best on inner folds of its
        training trials); or a function (training epochs, (n,) bool which are targets, epochs to score) ->
        log-odds, e.g. of a joint model's compatibility. The epochs to score come without metadata
    scheme : what a fold leaves out; each probability comes from a model that has not seen it, trained on the
        same person's other trials (for "subject": on the other people's): "run",
        "block", "subject", "stimulus" (tenths of the pictures), or "task_pair" (the metadata column of that
        name where both poles of a pair share a value, else each `task`), or "auto": "task_pair" where everyone did
        tasks of two or more pairs and the metadata name these, else "run". Where there are tasks "task_pair" is the
        honest choice: training within a task already uses the labels of what is looked for, so its scores may
        carry the attribute and not relevance
    tmin, tmax, n_windows : the windows, s. The published settings are 25 in -.2 to .9 and 5 in 0 to .5
        (Davis et al. 2022), 7 in .05 to .8 (Kangassalo et al. 2020); the default is 16 in 0 to .75 (47 ms
        each, 12 samples at 256 Hz).
        A window that the epochs do not hold is cut, not padded. xDAWN takes whole epochs, networks tmin to tmax
    preset : these by name, "davis2022", "davis2022_public" or "kangassalo2020", in place of the three
    calibrate : "platt" or "isotonic" turn scores into log-odds by a curve that is fitted to the scores of inner folds
        of the training trials. 0.5 is then an even chance, were half the trials targets. None is "platt" for "auto",
        whose classifiers differ in their units from fold to fold, else "none"
    center : take away the mean log-odds of what is scored together. Must be False where folds hold one kind of trial
    n_calibration : for scheme "subject": trials at the start of the new person's first run that join the training.
        Everyone's EEG is aligned by as many first trials (`euclidean_alignment`). That run is not scored; 0
        leaves it out too and aligns nothing
    n_training : train each fold on that many of its trials, drawn at random with their share of targets; the trials
        of a calibration come on top

    Returns one row per trial in the order of the epochs: stimulus, subject, task, fold, probability (0 to 1),
    target; with "auto" also `method`, what was taken. A run that is not scored has no rows; the index is the
    trial's number. Log-odds have equal priors and are centred on their fold's mean, so that a drift between
    recordings does not decide; hence 0.5 is a fold's middle, not an even chance.
    Raises ValueError when the metadata lack the scheme's column, there is one fold, or a fold to train on has
    one kind of trial only.
    Source: Davis et al., CVPR 2022 (shrinkage LDA on window means). Differs: priors are equal and scores are
    centred per fold.
    """
    if n_windows != int(n_windows) or n_windows < 1:
        raise ValueError(f"The number of windows is a whole number from 1 on; got {n_windows}.")
    windows = _chosen_windows(preset, Windows(tmin, tmax, int(n_windows)))
    scheme = chosen_scheme(metadata_of(epochs), scheme)
    calibrate = calibrate or ("platt" if method == "auto" else "none")
    pick("calibration", calibrate, {"none": None, **CALIBRATIONS})
    if not callable(method):
        pick("method", method, {"auto": None, **METHODS})
    metadata = metadata_of(epochs)
    is_target = target_mask(metadata, target)
    fold = _folds(metadata, pick("scheme", scheme, SCHEMES), scheme, seed)
    early, unscored = _calibration(metadata, scheme, n_calibration)
    person = _people(metadata, scheme)
    score = FoldScorer(
        scorers=_scorers(epochs, method, windows, fold if early.any() else None, early, seed),
        averaged=AVERAGED if method == "auto" else (),
        is_target=is_target,
        unit=fold,
        recording=recording_names(metadata),
        calibrate=calibrate,
        center=center,
        seed=seed,
    )
    log_odds, taken = np.zeros(len(metadata)), np.full(len(metadata), "", object)
    for train, test in _splits(fold, is_target, person):
        train, test = np.flatnonzero(train), np.flatnonzero(test & ~unscored)
        if n_training is not None:
            train = _drawn(train, is_target, n_training, seed)
        train = np.concatenate([train, np.flatnonzero(early & (fold == fold[test[0]]))])
        log_odds[test], taken[test] = score(train, test)
    if center:
        _warn_of_one_kind(fold[~unscored], person[~unscored], is_target[~unscored])
    columns = {name: metadata.get(name, pd.Series(index=metadata.index)).to_numpy() for name in COPIED}
    probability = 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
    columns |= {"fold": fold, "probability": probability, "target": is_target}
    return pd.DataFrame(columns | ({"method": taken} if method == "auto" else {}))[~unscored]


COPIED = ("stimulus", "subject", "task")
SCHEMES = {"run": "run", "block": "block", "subject": "subject", "stimulus": "stimulus", "task_pair": "task"}

QUERY_ATTRIBUTES = {"str", "contains", "startswith", "endswith", "lower", "isin", "between", "isna", "notna"}


def relevance_score(trials: pd.DataFrame, *, seed: int = 0) -> Score:
    """AUC of the trial scores over all folds; targets are permuted inside each fold.

    A fold that leaves out pictures is no unit of randomisation; permuting inside it is conservative.
    """
    return auc_score(
        trials["target"].to_numpy(),
        trials["probability"].to_numpy(),
        name="relevance AUC",
        within=trials["fold"].astype(str).to_numpy(),
        seed=seed,
    )


def target_mask(metadata: pd.DataFrame, target: str) -> np.ndarray:
    """Which trials a query on the metadata chooses, (n,) bool.

    A query compares columns; of attributes it may use `.str` and the few that ask a question, since pandas
    would run any other, those that write files included.
    Raises ValueError for a query that cannot be run, or that is true (or false) for every trial.
    """
    try:
        _check_query(target)
        chosen = np.asarray(metadata.eval(target))
        if chosen.shape != (len(metadata),) or not set(pd.unique(chosen)) <= {True, False}:
            raise ValueError("it does not give true or false for each trial")
        mask = chosen.astype(bool)
    except Exception as error:  # pandas raises many kinds for a query that is wrong
        columns = ", ".join(map(str, metadata.columns))
        raise ValueError(f"The target {target!r} cannot be asked of columns {columns} ({error}).") from error
    if mask.all() or not mask.any():
        raise ValueError(
            f"The target {target!r} is true for {mask.sum()} of {len(mask)} trials; both kinds are needed."
        )
    return mask


def _check_query(target: str) -> None:
    """Refuse all that could run more than a comparison; quoted names and texts are looked past."""
    bare = re.sub(r"`[^`]*`|'[^']*'|\"[^\"]*\"", " quoted ", target)
    refused = re.findall(r"'{3}|\"{3}|\n|\\", target) + re.findall(r"[@#`'\"]|__", bare)
    refused += [name for name in re.findall(r"\.\s*([^\W\d]\w*)", bare) if name not in QUERY_ATTRIBUTES]
    if refused:
        raise ValueError(f"{refused[0]!r} is not allowed in a query")


def metadata_of(epochs: mne.BaseEpochs) -> pd.DataFrame:
    """The epochs' metadata, one row a trial in their order; ValueError where there are none."""
    if not hasattr(epochs, "metadata"):
        raise ValueError(f"Need mne.Epochs, whose metadata say what was shown; got {type(epochs).__name__}.")
    if epochs.metadata is None:
        raise ValueError("The epochs have no metadata; a target is a query on it, e.g. \"label == 'smile'\".")
    return epochs.metadata.reset_index(drop=True)


def _chosen_windows(preset: str | None, windows: Windows) -> Windows:
    if preset is None:
        return windows
    chosen = pick("preset", preset, PRESETS)
    if windows not in (Windows(), chosen):
        raise ValueError(
            f"The preset {preset!r} has {chosen.n} windows in {chosen.tmin} to {chosen.tmax} s; got "
            f"{windows.n} in {windows.tmin} to {windows.tmax} s too. Give one of the two."
        )
    return chosen


def _calibration(
    metadata: pd.DataFrame, scheme: str, n_calibration: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which trials calibrate and which are not scored, (n,) bool each."""
    if n_calibration is None:
        none = np.zeros(len(metadata), bool)
        return none, none
    if scheme != "subject":
        raise ValueError(
            f"n_calibration={n_calibration} is for a new person, scheme 'subject'; got {scheme!r}."
        )
    if n_calibration < 0 or n_calibration == 1:
        raise ValueError(f"n_calibration is 2 trials or more, or 0 for none; got {n_calibration}.")
    return first_trials(metadata, n_calibration)


def _scorers(
    epochs: mne.BaseEpochs,
    method: str | Callable,
    windows: Windows,
    person: np.ndarray | None,
    reference: np.ndarray,
    seed: int,
) -> Mapping[str, Scorer]:
    """The classifier, or the candidates of "auto", by name; on aligned EEG where people are given."""
    if callable(method):
        if person is not None:
            raise ValueError(
                "A function cannot be calibrated to a new person: its epochs are not aligned. Use n_calibration=None."
            )
        return {"function": _function_scorer(epochs, method)}
    data = _eeg(epochs)
    if person is not None:
        data = euclidean_alignment(data, person, reference)
    chosen = AUTO if method == "auto" else {method: (method, None)}
    return {
        name: METHODS[kind](data, epochs.times, own or windows, seed=seed)
        for name, (kind, own) in chosen.items()
    }


def _function_scorer(epochs: mne.BaseEpochs, function: Callable) -> Scorer:
    def score(train: np.ndarray, is_target: np.ndarray, test: np.ndarray) -> np.ndarray:
        asked = epochs[test]
        asked.metadata, asked.events[:, 2], asked.event_id = (
            None,
            1,
            {"asked": 1},
        )  # nothing that tells targets
        values = np.asarray(function(epochs[train], is_target, asked), float)
        if values.shape != test.shape or not np.isfinite(values).all():
            raise ValueError(
                f"The method must give a finite log-odds for each of {len(test)} trials; got shape {values.shape}, "
                f"{(~np.isfinite(values)).sum()} of them not finite."
            )
        return values

    return score


def _drawn(train: np.ndarray, is_target: np.ndarray, n: int, seed: int) -> np.ndarray:
    """`n` of the training trials, at random, with their share of targets but at least two of each kind."""
    if not 4 <= n <= len(train):
        raise ValueError(f"n_training is 4 up to the {len(train)} trials that a fold trains on; got {n}.")
    rng = np.random.default_rng([seed, *train[[0, -1]]])
    targets, others = train[is_target[train]], train[~is_target[train]]
    n_targets = int(np.clip(round(n * len(targets) / len(train)), 2, n - 2))
    n_targets = min(max(n_targets, n - len(others)), len(targets))
    parts = [rng.permutation(targets)[:n_targets], rng.permutation(others)[: n - n_targets]]
    return np.sort(np.concatenate(parts))


def _warn_of_one_kind(fold: np.ndarray, person: np.ndarray, is_target: np.ndarray) -> None:
    together = pd.Series(is_target).groupby([fold, person]).nunique()
    if (together < 2).any():
        logger.warning(
            "%d of %d folds hold targets alone or none (the first is %r); centring takes away what sets them apart "
            "from other folds. Choose another scheme, or center=False.",
            (together < 2).sum(),
            len(together),
            together.index[together < 2][0][0],
        )


def _eeg(epochs: mne.BaseEpochs) -> np.ndarray:
    picks = mne.pick_types(epochs.info, eeg=True, exclude="bads")
    if len(picks) == 0:
        raise ValueError("The epochs have no EEG channel that is not marked bad.")
    data = epochs.get_data(picks=picks, copy=False)
    check_signal(data, [epochs.ch_names[i] for i in picks])
    return data


def _folds(metadata: pd.DataFrame, column: str, scheme: str, seed: int) -> np.ndarray:
    """The fold of each trial, (n,) str; tenths of the pictures for "stimulus"."""
    if scheme == "task_pair":
        column = task_pair_column(metadata)
        if column == "task":
            logger.warning(
                "The metadata have no column `task_pair`, so a task is scored by training on all others. Where one of "
                "them looks for the opposite, its trials teach the attribute with the wrong sign: name the pairs."
            )
    elif (
        scheme not in ("subject", "stimulus") and metadata.get("task", pd.Series(dtype=object)).nunique() > 1
    ):
        logger.warning(
            "There are %d tasks, and the scheme %r trains within them, on the labels of what was looked for: its "
            "scores may carry the attribute and not relevance. Prefer scheme='task_pair'.",
            metadata["task"].nunique(),
            scheme,
        )
    fold = unit_names(metadata, column)
    names = np.unique(fold)
    if len(names) < 2:
        raise ValueError(
            f"The scheme {scheme!r} needs two or more values of {column!r}; all are {names[0]!r}."
        )
    if column == "stimulus":
        order = np.random.default_rng(seed).permutation(len(names))
        tenth = {name: f"tenth {i % N_STIMULUS_FOLDS}" for name, i in zip(names, order, strict=True)}
        fold = np.array([tenth[name] for name in fold])
    return fold


def chosen_scheme(metadata: pd.DataFrame, scheme: str) -> str:
    """What "auto" means for these trials, as `score_trials` says; any other scheme is returned as it is."""
    if scheme != "auto":
        return scheme
    if "task_pair" not in metadata or metadata["task_pair"].isna().any():
        return "run"
    pairs = metadata["task_pair"].astype(str).groupby(_people(metadata, "task_pair")).nunique()
    return "task_pair" if pairs.min() >= 2 else "run"


def task_pair_column(metadata: pd.DataFrame) -> str:
    """Which column the scheme "task_pair" leaves out: the pairs where they are named, else each task."""
    return "task_pair" if "task_pair" in metadata else "task"


def _people(metadata: pd.DataFrame, scheme: str) -> np.ndarray:
    """Whose trials train together: each person's own, unless the fold is the person."""
    if scheme == "subject" or "subject" not in metadata:
        return np.zeros(len(metadata))
    return metadata["subject"].astype(str).to_numpy()


def _splits(
    fold: np.ndarray, is_target: np.ndarray, person: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which trials train and which are scored, for each fold of each person."""
    for name, who in dict.fromkeys(zip(fold, person, strict=True)):
        test = (fold == name) & (person == who)
        train = (fold != name) & (person == who)
        if not train.any():
            raise ValueError(f"Person {str(who)!r} has fold {str(name)!r} alone; a person needs two or more.")
        if is_target[train].all() or not is_target[train].any():
            share = "all" if is_target[train].any() else "none"
            raise ValueError(
                f"Without fold {str(name)!r} {share} of the trials to train on are targets; choose another scheme."
            )
        yield train, test
