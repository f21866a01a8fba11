"""Encoding models: EEG predicted from features of the picture, and pictures ranked by how well they explain EEG."""

import numpy as np
import scipy.linalg
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from brainedit import _check

MAX_OUTPUTS = 6000  # channels x times; the noise covariance has the square of it
STRENGTHS = 10.0 ** np.arange(-6, 5, 0.25)  # ridge penalties, in units of the features' mean eigenvalue


class EncodingModel(BaseEstimator):
    """Linear regression from features to EEG with Gaussian noise of any covariance over channels and times.

    method : how the weights are shrunk, see `METHODS`. "low_rank": few combinations of features drive few patterns
        of EEG; which and how many is told by the singular values that noise alone cannot have. "ridge": one
        penalty for all, by Mallows' Cp
    chunk : pictures whose EEG is read at a time

    After `fit`: `weights_` (n_features, n_channels, n_times) of features with mean 0 and variance 1, `intercept_`
    (n_channels, n_times), `noise_covariance_` of one trial (n_channels * n_times, the same), `shrinkage_` (0 to 1, of
    that covariance), `rank_` ("low_rank") or `strength_` ("ridge").
    Source: Gavish & Donoho, IEEE Trans Inf Theory 2017 (singular values); Mallows, Technometrics 1973 (Cp); Ledoit &
    Wolf, J Multivar Anal 2004 (covariance).
    Differs: the noise is that of the differences between repeats of a picture, and weights are estimated where it
    is white. What the features leave unexplained of a picture is not part of it: no number of repeats averages it
    out. It has a covariance of its own, which the likelihood adds along the patterns that features drive.
    """

    def __init__(self, *, method: str = "low_rank", chunk: int = 512):
        self.method = method
        self.chunk = chunk

    def fit(self, features: np.ndarray, eeg: np.ndarray) -> "EncodingModel":
        """Fit on pictures.

        features : (n_pictures, n_features)
        eeg : single trials (n_pictures, n_repeats, n_channels, n_times), two or more repeats of each picture; may
            be a memory map or another array that is read by slices

        Raises ValueError for shapes that do not fit, values that are not finite, and features that never vary.
        """
        shrink = _check.pick("method", self.method, METHODS)
        features = self._check(features, eeg)
        self._mean, self._scale = features.mean(axis=0), features.std(axis=0)
        if not (self._scale > 0).all():
            raise ValueError(
                f"Feature {int(np.argmin(self._scale > 0))} is the same in all pictures; leave it out."
            )
        design = (features - self._mean) / self._scale
        sums = _Sums(design.shape[1], int(np.prod(eeg.shape[2:])), eeg.shape[1])
        for start in range(0, len(design), self.chunk):
            sums.add(design[start : start + self.chunk], eeg[start : start + self.chunk], start)
        self.noise_covariance_, self.shrinkage_ = _ledoit_wolf(sums)
        self._root = np.linalg.cholesky(self.noise_covariance_)
        self.intercept_ = (sums.mean / len(design)).reshape(eeg.shape[2:])
        self._learn(design.T @ design, sums, shrink)
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """EEG without noise of pictures (n, n_channels, n_times)."""
        check_is_fitted(self)
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or features.shape[1] != len(self._mean):
            raise ValueError(
                f"The model was fitted on {len(self._mean)} features; got shape {features.shape}."
            )
        return self.intercept_ + np.tensordot((features - self._mean) / self._scale, self.weights_, axes=1)

    def log_likelihood(self, eeg: np.ndarray, gallery: np.ndarray, *, n_averaged: int = 1) -> np.ndarray:
        """Log-likelihood (n, n_gallery) of EEG under every picture of a gallery; the largest in a row is its picture.

        eeg : averages (n, n_channels, n_times) of `n_averaged` trials each
        gallery : features of the pictures (n_gallery, n_features)
        """
        templates = self.predict(gallery)
        if eeg.ndim != 3 or eeg.shape[1:] != templates.shape[1:]:
            raise ValueError(f"The model was fitted on EEG of {templates.shape[1:]}; got shape {eeg.shape}.")
        root = self._root
        white, modelled = (
            scipy.linalg.solve_triangular(root, x.reshape(len(x), -1).T, lower=True).T
            for x in (eeg, templates)
        )
        along, expected = white @ self._axes, modelled @ self._axes
        beside = n_averaged * _squared_distances(
            white - along @ self._axes.T, modelled - expected @ self._axes.T
        )
        spread = np.linalg.cholesky(self._unexplained + np.eye(len(self._unexplained)) / n_averaged)
        inside = _squared_distances(*(np.linalg.solve(spread, x.T).T for x in (along, expected)))
        n_beside = len(root) - len(spread)
        volume = (
            2 * np.log(np.diag(root)).sum()
            + 2 * np.log(np.diag(spread)).sum()
            - n_beside * np.log(n_averaged)
        )
        return -0.5 * (beside + inside + volume + len(root) * np.log(2 * np.pi))

    def picture_covariance(self) -> np.ndarray:
        """Covariance over pictures (n_channels * n_times, the same) of responses that no feature tells."""
        check_is_fitted(self)
        axes = self._root @ self._axes
        return axes @ self._unexplained @ axes.T

    def _learn(self, gram: np.ndarray, sums: "_Sums", shrink) -> None:
        """Weights, by way of coordinates in which their estimate has white noise of variance 1."""
        values, vectors = np.linalg.eigh(gram)
        seen = values > 1e-6 * values[-1]  # features that are sums of others add nothing
        gains = np.zeros_like(values)
        gains[seen] = values[seen] ** -0.5
        precision = np.sqrt(sums.n_repeats)  # of averages
        white = scipy.linalg.solve_triangular(self._root, sums.cross.T, lower=True).T
        found, learned = shrink((gains * vectors).T @ white * precision, values * seen)
        for name, value in learned.items():
            setattr(self, name, value)
        weights = (vectors * gains) @ found / precision  # to EEG whose noise is white
        self.weights_ = (weights @ self._root.T).reshape(-1, *self.intercept_.shape)
        self._explain(weights, gram, white, sums)

    def _explain(self, weights: np.ndarray, gram: np.ndarray, white: np.ndarray, sums: "_Sums") -> None:
        """Covariance of what pictures add to their responses that no feature tells, along the responses."""
        _, height, axes = np.linalg.svd(weights, full_matrices=False)
        self._axes = axes[height > 1e-9 * max(height[0], 1e-300)].T  # (n_outputs, rank)
        turned = scipy.linalg.solve_triangular(self._root, self._axes, lower=True, trans=1)
        averages = (
            turned.T @ sums.averages @ turned - np.outer(turned.T @ sums.mean, turned.T @ sums.mean) / sums.n
        )
        fitted = (weights @ self._axes).T @ white @ self._axes
        explained = (weights @ self._axes).T @ gram @ (weights @ self._axes)
        residual = (averages - fitted - fitted.T + explained) / sums.n
        values, vectors = np.linalg.eigh(residual - np.eye(len(residual)) / sums.n_repeats)
        self._unexplained = (vectors * np.maximum(values, 0)) @ vectors.T

    def _check(self, features: np.ndarray, eeg: np.ndarray) -> np.ndarray:
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or len(eeg.shape) != 4 or len(features) != eeg.shape[0]:
            raise ValueError(
                "Need features (n_pictures, n_features) and EEG (n_pictures, n_repeats, n_channels, n_times), "
                f"got {features.shape} and {tuple(eeg.shape)}."
            )
        if eeg.shape[1] < 2 or len(features) < 3:
            raise ValueError(
                f"Need three or more pictures with two or more repeats, got EEG of {tuple(eeg.shape)}."
            )
        if eeg.shape[2] * eeg.shape[3] > MAX_OUTPUTS:
            raise ValueError(
                f"{eeg.shape[2]} channels x {eeg.shape[3]} times are more than {MAX_OUTPUTS} values for one noise "
                "covariance; choose fewer channels or times."
            )
        if not np.isfinite(features).all():
            raise ValueError("The features have values that are NaN or infinite.")
        return features


def low_rank_weights(gram: np.ndarray, cross: np.ndarray, *, n_most: int) -> tuple[np.ndarray, np.ndarray]:
    """Regression weights of outputs whose noise is white with variance 1, as left (n_features, rank) @ right.

    gram : sum over trials of features x features; cross : of features x outputs (n_features, n_outputs)
    n_most : the largest rank; right has orthonormal rows (rank, n_outputs), the largest first. Rank is at least 1
    """
    values, vectors = np.linalg.eigh(gram)
    seen = values > 1e-6 * values[-1]
    back = vectors[:, seen] * values[seen] ** -0.5
    found, learned = _shrink_rank(back.T @ cross, values[seen])
    left, height, right = np.linalg.svd(found, full_matrices=False)
    rank = max(1, min(learned["rank_"], n_most))
    return back @ (left[:, :rank] * height[:rank]), right[:rank]


def _squared_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.sum(one**2, axis=1)[:, None] + np.sum(other**2, axis=1) - 2 * one @ other.T


class _Sums:
    """Sums over pictures that ridge regression and the noise covariance need, from EEG chunk by chunk."""

    def __init__(self, n_features: int, n_outputs: int, n_repeats: int):
        self.mean = np.zeros(n_outputs)
        self.cross = np.zeros((n_features, n_outputs))
        self.noise = np.zeros((n_outputs, n_outputs))
        self.noise_fourth = 0.0  # sum of |difference|⁴
        self.averages = np.zeros((n_outputs, n_outputs))
        self.n, self.n_noise, self.n_repeats = 0, 0, n_repeats
        self.contrasts = scipy.linalg.helmert(n_repeats).astype(np.float32)  # orthonormal, free of the mean

    def add(self, design: np.ndarray, eeg: np.ndarray, start: int) -> None:
        trials = np.asarray(eeg, np.float32).reshape(*eeg.shape[:2], -1)
        averages = trials.mean(axis=1)
        if not np.isfinite(averages).all():
            picture = start + int(np.argmin(np.isfinite(averages).all(axis=1)))
            raise ValueError(f"The EEG of picture {picture} has values that are NaN or infinite.")
        self.mean += averages.sum(axis=0, dtype=np.float64)
        self.averages += averages.T @ averages
        self.n += len(averages)
        self.cross += design.T.astype(np.float32) @ averages
        noise = (self.contrasts @ trials).reshape(-1, trials.shape[-1])
        self.noise += noise.T @ noise
        self.noise_fourth += np.sum(np.sum(noise**2, axis=1, dtype=np.float64) ** 2)
        self.n_noise += len(noise)


def _shrink_rank(noisy: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, dict]:
    """The matrix of low rank nearest to the truth, of one seen in white noise of variance 1."""
    left, singular, right = np.linalg.svd(noisy, full_matrices=False)
    few, many = sorted((np.count_nonzero(values), noisy.shape[1]))
    ratio, size = few / many, np.sqrt(many)
    scaled = singular / size
    above = scaled > 1 + np.sqrt(ratio)
    inside = np.maximum((scaled**2 - ratio - 1) ** 2 - 4 * ratio, 0)
    kept = np.where(above, np.sqrt(inside) / np.maximum(scaled, 1e-300), 0) * size
    return (left * kept) @ right, {"rank_": int(above.sum())}


def _shrink_ridge(noisy: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, dict]:
    """Rows shrunk as by ridge regression with the strength of the least expected error."""
    power, n_outputs = np.sum(noisy**2, axis=1), noisy.shape[1]

    def expected_error(strength: float) -> float:
        kept = values / (values + strength)
        return float(np.sum((1 - kept) ** 2 * power + 2 * kept * n_outputs))

    strength = float(min(STRENGTHS * values.mean(), key=expected_error))
    return noisy * (values / (values + strength))[:, None], {"strength_": strength}


METHODS = {"low_rank": _shrink_rank, "ridge": _shrink_ridge}


def _ledoit_wolf(sums: _Sums) -> tuple[np.ndarray, float]:
    """Covariance of one trial's noise, shrunk towards a multiple of the identity, and by how much."""
    n, covariance = sums.n_noise, sums.noise / sums.n_noise
    level = np.trace(covariance) / len(covariance)
    spread = np.sum(covariance**2) - len(covariance) * level**2
    error = (sums.noise_fourth / n - np.sum(covariance**2)) / n
    shrinkage = float(np.clip(error / spread, 0, 1)) if spread > 0 else 1.0
    covariance *= 1 - shrinkage
    covariance[np.diag_indices_from(covariance)] += shrinkage * level
    return covariance, shrinkage
