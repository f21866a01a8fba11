"""From EEG to how relevant each picture was: single-trial probabilities out of fold, pooled by picture."""

import re
from collections.abc import Iterator
from itertools import pairwise

import mne
import numpy as np
import pandas as pd

from brainedit._check import pick
from brainedit.eeg import check_signal
from brainedit.evaluation import Score, auc_score
from brainedit.splits import unit_names

N_STIMULUS_FOLDS = 10


def score_trials(
    epochs: mne.BaseEpochs,
    *,
    target: str,
    method: str = "lda",
    scheme: str = "run",
    tmin: float = 0.0,
    tmax: float = 0.75,
    n_windows: int = 16,
    seed: int = 0,
) -> pd.DataFrame:
    """Probability, per trial, that the brain response was to a target.

    target : query on the metadata that is true for target trials, e.g. "label == 'smile'"
    method : "lda" (window means and shrinkage LDA) or "xdawn" (xDAWN covariances, tangent space and logistic
        regression; needs the extra `riemann`)
    scheme : what a fold leaves out; each probability comes from a model that has not seen it, trained on the
        same person's other trials (for "subject": on the other people's): "run",
        "block", "subject", "stimulus" (tenths of the pictures), or "task_pair" (the metadata column of that
        name where both poles of a pair share a value, else each `task`)
    tmin, tmax, n_windows : the windows, s. The published settings are 25 in -.2 to .9 and 5 in 0 to .5
        (Davis et al. 2022), 7 in .05 to .8 (Kangassalo et al. 2020); the default is 16 in 0 to .75 (47 ms
        each, 12 samples at 256 Hz).
        A window that the epochs do not hold is cut, not padded

    Returns one row per trial in the order of the epochs: stimulus, subject, task, fold, probability (0 to 1),
    target. Log-odds have equal priors and are centred on their fold's mean, so that a drift between
    recordings does not decide; hence 0.5 is a fold's middle, not an even chance.
    Raises ValueError when the metadata lack the scheme's column, there is one fold, or a fold to train on has
    one kind of trial only.
    Source: Davis et al., CVPR 2022 (shrinkage LDA on window means). Differs: priors are equal and scores are
    centred per fold.
    """
    classify = pick("method", method, {"lda": _lda, "xdawn": _xdawn})
    metadata = metadata_of(epochs)
    is_target = target_mask(metadata, target)
    fold = _folds(metadata, pick("scheme", scheme, SCHEMES), scheme, seed)
    data = _eeg(epochs)
    features = _windows(data, epochs.times, tmin, tmax, n_windows) if method == "lda" else data
    log_odds = np.zeros(len(metadata))
    for train, test in _splits(fold, is_target, _people(metadata, scheme)):
        values = classify(features[train], is_target[train], features[test])
        log_odds[test] = values - values.mean()
    columns = {name: metadata.get(name, pd.Series(index=metadata.index)).to_numpy() for name in COPIED}
    probability = 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
    return pd.DataFrame(columns | {"fold": fold, "probability": probability, "target": is_target})


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


def pool_relevance(
    trials: pd.DataFrame, *, by: str = "stimulus", weights: pd.Series | None = None
) -> pd.Series:
    """Relevance of each picture, 0 to 1: the mean of its trials' log-odds, over repeats and people.

    weights : weight of each subject, indexed by subject; all equal when None

    Raises ValueError when the trials do not name the picture, or a subject has no weight.
    """
    if by not in trials or trials[by].isna().any():
        raise ValueError(f"Pooling by {by!r} needs that column filled in the trial scores.")
    p = trials["probability"].clip(1e-9, 1 - 1e-9)
    log_odds = np.log(p / (1 - p))
    weight = pd.Series(1.0, index=trials.index)
    if weights is not None:
        missing = sorted(set(trials["subject"]) - set(weights.index))
        if missing:
            raise ValueError(f"Subject {missing[0]!r} and {len(missing) - 1} more have no weight.")
        weight = trials["subject"].map(weights)
    sums = pd.DataFrame({"x": log_odds * weight, "w": weight}).groupby(trials[by]).sum()
    return (1 / (1 + np.exp(-sums["x"] / sums["w"]))).rename("relevance")


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
    if epochs.metadata is None:
        raise ValueError("The epochs have no metadata; a target is a query on it, e.g. \"label == 'smile'\".")
    return epochs.metadata.reset_index(drop=True)


def _eeg(epochs: mne.BaseEpochs) -> np.ndarray:
    picks = mne.pick_types(epochs.info, eeg=True, exclude="bads")
    if len(picks) == 0:
        raise ValueError("The epochs have no EEG channel that is not marked bad.")
    data = epochs.get_data(picks=picks, copy=False)
    check_signal(data, [epochs.ch_names[i] for i in picks])
    return data


def _windows(data: np.ndarray, times: np.ndarray, tmin: float, tmax: float, n_windows: int) -> np.ndarray:
    """Means over windows of equal length, (n, n_channels * n_windows); the standard deviation is the unit."""
    length = (tmax - tmin) / n_windows
    bounds = np.searchsorted(times, tmin + np.arange(n_windows + 1) * length - 1e-6)
    kept = [data[:, :, a:b].mean(-1) for a, b in pairwise(bounds) if b > a]
    if len(kept) < 2:
        raise ValueError(
            f"Only {len(kept)} of {n_windows} windows in {tmin} to {tmax} s hold samples of epochs that span "
            f"{times[0]:.3f} to {times[-1]:.3f} s."
        )
    features = np.stack(kept, -1).reshape(len(data), -1)
    return features / features.std()


def _folds(metadata: pd.DataFrame, column: str, scheme: str, seed: int) -> np.ndarray:
    """The fold of each trial, (n,) str; tenths of the pictures for "stimulus"."""
    if scheme == "task_pair" and "task_pair" in metadata:
        column = "task_pair"
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


def _lda(train: np.ndarray, is_target: np.ndarray, test: np.ndarray) -> np.ndarray:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
    return model.fit(train, is_target).decision_function(test)


def _xdawn(train: np.ndarray, is_target: np.ndarray, test: np.ndarray) -> np.ndarray:
    try:
        from pyriemann.estimation import XdawnCovariances
        from pyriemann.tangentspace import TangentSpace
    except ImportError:
        raise ValueError("The method 'xdawn' needs pyriemann: pip install 'brainedit[riemann]'.") from None
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    scale = train.std()
    n_filters = min(4, train.shape[1])
    model = make_pipeline(
        XdawnCovariances(n_filters, estimator="oas"),
        TangentSpace(),
        LogisticRegression(class_weight="balanced", max_iter=1000),
    )
    return model.fit(train / scale, is_target.astype(int)).decision_function(test / scale)
