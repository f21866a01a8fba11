"""Pipelines under one interface: held-out evidence for each answer, fold by fold."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import mne
import numpy as np

from brainedit._check import pick
from brainedit.audit.control_data import blinded, relabelled
from brainedit.datasets.arrays import ArrayEpochs
from brainedit.datasets.paired import PairedDataset
from brainedit.eeg import check_signal

WINDOW_LENGTH, LAST_WINDOW = 0.75 / 16, 0.75  # s, those of `score_trials`
FEW_CLASSES = 8  # up to which a dense product is quicker than a sparse one
CHUNK = 1024  # trials of a set on disk that are read at a time

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class FoldEvidence:
    """How well each answer fits each held-out trial of a fold.

    rows : (n_test,) trials; values : (n_test, m), larger fits better; columns : (m,) code of each answer
    """

    rows: np.ndarray
    values: np.ndarray
    columns: np.ndarray

    def own(self, codes: np.ndarray) -> np.ndarray:
        """Column of each trial's own answer, (n_test,); -1 where it has none."""
        place = np.full(max(codes.max(), self.columns.max()) + 1, -1)
        place[self.columns] = np.arange(len(self.columns))
        return place[codes[self.rows]]


def make_decoder(pipeline: object, *, gallery: bool) -> "LinearDecoder | EstimatorDecoder | CallableDecoder":
    """The pipeline under one interface: `prepare(dataset, folds)`, then `decode(prepared, fold, ...)`.

    gallery : the answers are the pictures of the test trials, not the classes of the training trials
    """
    if isinstance(pipeline, str):
        return pick("pipeline", pipeline, {"lda": LinearDecoder})(gallery)
    if hasattr(pipeline, "fit") and (
        hasattr(pipeline, "decision_function") or hasattr(pipeline, "predict_proba")
    ):
        return EstimatorDecoder(pipeline, gallery)
    if callable(pipeline):
        return CallableDecoder(pipeline, gallery)
    raise ValueError(
        "A pipeline is 'lda', a scikit-learn classifier with decision_function or predict_proba, or a function "
        f"(train, test) -> (n_test, m); got {type(pipeline).__name__}."
    )


class LinearDecoder:
    """Nearest class mean of window means, whitened by the shrunken covariance of all training trials.

    With two classes the direction is that of linear discriminant analysis; priors are equal. As the covariance
    takes no labels, whatever labels are tried share one factorisation.
    Source: Ledoit & Wolf, J. Multivariate Anal. 2004 (shrinkage). Differs from `score_trials`: its covariance
    is within classes.
    """

    uses_pictures = False

    def __init__(self, gallery: bool = False) -> None:
        self.gallery = gallery

    def prepare(self, dataset: PairedDataset, folds: Folds) -> list[tuple[np.ndarray, np.ndarray]]:
        return self.whiten(window_means(dataset), folds)

    def whiten(self, features: np.ndarray, folds: Folds) -> list[tuple[np.ndarray, np.ndarray]]:
        """Whitened training and test features (n_train, p), (n_test, p) of each fold."""
        return [_whitened(features[train], features[test]) for train, test in folds]

    def decode(self, prepared: list, index: int, fold: tuple, codes: np.ndarray, **_: object) -> FoldEvidence:
        train, test = fold
        z_train, z_test = prepared[index]
        columns, own = np.unique(codes[train], return_inverse=True)
        if self.gallery:
            columns, own = _gallery(codes, train, test)
        means = _class_means(z_train, own, len(columns))
        return FoldEvidence(test, z_test @ means.T - 0.5 * (means**2).sum(1), columns)


class EstimatorDecoder:
    """A scikit-learn classifier of X (n, n_channels, n_times) in volts, the samples from 0 s on."""

    uses_pictures = False

    def __init__(self, estimator: object, gallery: bool) -> None:
        self.estimator, self.gallery = estimator, gallery

    def prepare(self, dataset: PairedDataset, folds: Folds) -> np.ndarray:
        return eeg_of(dataset.epochs)[..., dataset.epochs.times > -1e-9]

    def decode(
        self, x: np.ndarray, index: int, fold: tuple, codes: np.ndarray, *, names: np.ndarray, **_: object
    ) -> FoldEvidence:
        from sklearn.base import clone

        train, test = fold
        model = clone(self.estimator).fit(x[train], names[codes[train]])
        score = model.decision_function if hasattr(model, "decision_function") else model.predict_proba
        values = np.asarray(score(x[test]), float)
        if values.ndim == 1:
            values = np.column_stack([-values, values])
        columns = np.searchsorted(names, model.classes_)
        _check_values(values, (len(test), len(columns)))
        if self.gallery:
            wanted = _gallery(codes, train, test)[0]
            values, columns = values[:, np.searchsorted(columns, wanted)], wanted
        return FoldEvidence(test, values, columns)


class CallableDecoder:
    """A function (train, test) of two data sets -> (n_test, m); the test set's own answers are hidden from it."""

    def __init__(self, function: Callable, gallery: bool) -> None:
        self.function, self.gallery = function, gallery
        self.uses_pictures = getattr(function, "uses_pictures", True)

    def prepare(self, dataset: PairedDataset, folds: Folds) -> PairedDataset:
        return dataset

    def decode(
        self,
        dataset: PairedDataset,
        index: int,
        fold: tuple,
        codes: np.ndarray,
        *,
        names: np.ndarray,
        seed: int,
    ) -> FoldEvidence:
        train, test = fold
        training = relabelled(dataset, train, names[codes[train]], gallery=self.gallery)
        hidden = blinded(dataset, test, names[codes[test]], training, gallery=self.gallery, seed=seed)
        values = np.asarray(self.function(training, hidden), float)
        columns = np.unique(codes[test] if self.gallery else codes[train])
        _check_values(values, (len(test), len(columns)))
        return FoldEvidence(test, values, columns)


def eeg_of(epochs: mne.BaseEpochs | ArrayEpochs) -> np.ndarray:
    """EEG (n, n_channels, n_times), volts, of the channels that are not marked bad."""
    picks = mne.pick_types(epochs.info, eeg=True, exclude="bads")
    if len(picks) == 0:
        raise ValueError("The epochs have no EEG channel that is not marked bad.")
    data = epochs.get_data(picks=picks, copy=False)
    check_signal(data, [epochs.ch_names[i] for i in picks])
    return data


def window_means(dataset: PairedDataset) -> np.ndarray:
    """Means of windows of 47 ms from 0 to .75 s (n, n_channels * n_windows); their standard deviation is the unit."""
    times = dataset.epochs.times
    edges = np.arange(0, LAST_WINDOW + WINDOW_LENGTH / 2, WINDOW_LENGTH)
    bounds = [(a, b) for a, b in pairwise(np.searchsorted(times, edges - 1e-6)) if b > a]
    if not bounds:
        raise ValueError(
            f"No window in 0 to {LAST_WINDOW} s holds samples of epochs of {times[0]:.3f} to {times[-1]:.3f} s."
        )
    features = np.concatenate([_means(part, bounds) for part in _chunks(dataset.epochs)])
    return features / features.std()


def _chunks(epochs: mne.BaseEpochs | ArrayEpochs) -> Iterator[mne.BaseEpochs | ArrayEpochs]:
    """The epochs, a thousand trials at a time where they lie on disk."""
    if not isinstance(epochs, ArrayEpochs):
        yield epochs
        return
    for start in range(0, len(epochs), CHUNK):
        yield epochs[start : start + CHUNK]


def _means(epochs: mne.BaseEpochs | ArrayEpochs, bounds: list[tuple[int, int]]) -> np.ndarray:
    eeg = eeg_of(epochs)
    return np.concatenate([eeg[..., a:b].mean(-1, dtype=np.float64) for a, b in bounds], axis=1)


def _whitened(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.covariance import ledoit_wolf

    mean = train.mean(0)
    values, vectors = np.linalg.eigh(ledoit_wolf(train)[0])
    whitener = vectors / np.sqrt(np.maximum(values, 1e-10 * values.max()))
    return (train - mean) @ whitener, (test - mean) @ whitener


def _class_means(x: np.ndarray, own: np.ndarray, n_classes: int) -> np.ndarray:
    """Mean of the rows of each class, (n_classes, p); rows of a class beyond them are left out."""
    if n_classes <= FEW_CLASSES:
        weight = (own == np.arange(n_classes)[:, None]).astype(float)
        return (weight / weight.sum(1, keepdims=True)) @ x
    from scipy.sparse import csr_array

    rows = np.flatnonzero(own < n_classes)
    weight = 1 / np.bincount(own[rows], minlength=n_classes)[own[rows]]
    return csr_array((weight, (own[rows], rows)), shape=(n_classes, len(x))) @ x


def _gallery(codes: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The test trials' pictures (m,), and each training trial's place among them (m where it has none)."""
    columns = np.unique(codes[test])
    if not np.isin(columns, codes[train]).all():
        raise ValueError(
            "A classifier cannot score pictures that it was not trained on; take a pipeline that reads pictures, "
            "or a split that has each picture on both sides, e.g. split='run'."
        )
    place = np.searchsorted(columns, codes[train])
    place[~np.isin(codes[train], columns)] = len(columns)
    return columns, place


def _check_values(values: np.ndarray, shape: tuple[int, int]) -> None:
    if values.shape != shape:
        raise ValueError(f"The pipeline must give (n_test, m) = {shape} values; it gave {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{np.sum(~np.isfinite(values))} of {values.size} values of the pipeline are not finite."
        )
