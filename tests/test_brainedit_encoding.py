"""The encoding model finds planted weights, knows the noise, and ranks pictures by likelihood."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.covariance import ledoit_wolf

from brainedit.encoding import EncodingModel

SHAPE = (3, 5)  # channels, times


def world(n: int, *, n_repeats: int = 3, height: float = 1.0, unexplained: float = 0.0):
    """Features, single trials, weights of rank two and the noise covariance.

    unexplained : variance, in units of the features' power, of each picture along the weights that no feature tells
    """
    rng = np.random.default_rng(0)
    weights = height * rng.normal(size=(8, 2)) @ rng.normal(size=(2, 15))
    mixing = rng.normal(size=(15, 15)) / 4 + np.eye(15)
    rng = np.random.default_rng(1)
    features = rng.normal(size=(n, 8))
    noise = rng.normal(size=(n, n_repeats, 15)) @ mixing.T
    hidden = np.sqrt(unexplained / 8) * np.random.default_rng(2).normal(size=(n, 8))
    eeg = (2 + (features + hidden) @ weights)[:, None] + noise
    return features, eeg.reshape(n, n_repeats, *SHAPE).astype(np.float32), weights, mixing @ mixing.T


def test_planted_weights_and_noise_are_found():
    features, eeg, weights, covariance = world(4000)
    model = EncodingModel().fit(features, eeg)
    new = np.random.default_rng(9).normal(size=(50, 8))
    error = model.predict(new).reshape(50, -1) - 2 - new @ weights
    assert np.sqrt(np.mean(error**2)) < 0.05
    assert model.rank_ == 2
    np.testing.assert_allclose(model.noise_covariance_, covariance, atol=0.1 * np.abs(covariance).max())


@pytest.mark.parametrize("method", ["low_rank", "ridge"])
def test_both_methods_predict_better_than_least_squares_when_signals_are_weak(method):
    features, eeg, weights, _ = world(60, height=0.1)
    model = EncodingModel(method=method).fit(features, eeg)
    new = np.random.default_rng(9).normal(size=(500, 8))
    average = eeg.mean(axis=1).reshape(60, -1)
    plain = np.linalg.lstsq(features - features.mean(axis=0), average - average.mean(axis=0), rcond=None)[0]
    truth = new @ weights
    shrunk = model.predict(new).reshape(500, -1) - model.intercept_.ravel()
    assert np.mean((shrunk - truth) ** 2) < 0.8 * np.mean((new @ plain - truth) ** 2)


def test_ridge_without_need_of_shrinkage_is_least_squares():
    features, eeg, _, _ = world(500, height=30.0)
    model = EncodingModel(method="ridge").fit(features, eeg)
    average = eeg.mean(axis=1).reshape(500, -1)
    design = np.column_stack([np.ones(500), features])
    expected = design @ np.linalg.lstsq(design, average, rcond=None)[0]
    np.testing.assert_allclose(model.predict(features).reshape(500, -1), expected, atol=1e-2)


def test_noise_covariance_is_that_of_an_independent_library():
    features, eeg, _, _ = world(40, n_repeats=2)
    model = EncodingModel().fit(features, eeg)
    differences = ((eeg[:, 0] - eeg[:, 1]) / np.sqrt(2)).reshape(40, -1)
    covariance, shrinkage = ledoit_wolf(differences, assume_centered=True)
    np.testing.assert_allclose(model.noise_covariance_, covariance, rtol=1e-3, atol=1e-5)
    assert model.shrinkage_ == pytest.approx(shrinkage, rel=1e-3)


@pytest.mark.parametrize("method", ["low_rank", "ridge"])
@pytest.mark.parametrize("n_averaged", [1, 6])
def test_log_likelihood_is_that_of_the_normal_distribution(n_averaged, method):
    features, eeg, _, _ = world(300, unexplained=0.5)
    model = EncodingModel(method=method).fit(features, eeg)
    got = model.log_likelihood(eeg[:4, 0], features[:3], n_averaged=n_averaged)
    means = model.predict(features[:3]).reshape(3, -1)
    covariance = model.noise_covariance_ / n_averaged + model.picture_covariance()
    for j, mean in enumerate(means):
        expected = multivariate_normal(mean, covariance).logpdf(eeg[:4, 0].reshape(4, -1))
        np.testing.assert_allclose(got[:, j], expected, rtol=1e-4)


def test_what_features_do_not_tell_is_found_and_is_no_noise():
    features, eeg, weights, covariance = world(4000, unexplained=0.5)
    model = EncodingModel().fit(features, eeg)
    np.testing.assert_allclose(model.noise_covariance_, covariance, atol=0.1 * np.abs(covariance).max())
    planted = 0.5 * weights.T @ weights / 8
    np.testing.assert_allclose(model.picture_covariance(), planted, atol=0.1 * np.abs(planted).max())
    plain = EncodingModel().fit(*world(4000)[:2])
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    left = np.linalg.eigvalsh(whitening @ plain.picture_covariance() @ whitening.T)
    assert left.max() < 0.05  # the noise that three repeats leave, 1/3 here, is not taken for it


def test_chunks_and_memory_maps_change_nothing(tmp_path):
    features, eeg, _, _ = world(100)
    np.save(tmp_path / "eeg.npy", eeg)
    mapped = np.load(tmp_path / "eeg.npy", mmap_mode="r")
    whole, parts = EncodingModel().fit(features, eeg), EncodingModel(chunk=7).fit(features, mapped)
    np.testing.assert_allclose(parts.weights_, whole.weights_, atol=1e-4)
    np.testing.assert_allclose(parts.noise_covariance_, whole.noise_covariance_, atol=1e-4)


def test_units_of_features_and_doubled_features_change_no_prediction():
    features, eeg, _, _ = world(300)
    same = EncodingModel().fit(features, eeg).predict(features)
    for other in (features * np.geomspace(1e-3, 1e3, 8) + 5, np.hstack([features, features[:, :1]])):
        np.testing.assert_allclose(EncodingModel().fit(other, eeg).predict(other), same, atol=0.03)


def test_no_signal_leaves_no_rank():
    features, eeg, _, _ = world(300, height=0.0)
    model = EncodingModel().fit(features, eeg)
    assert model.rank_ == 0
    assert (model.weights_ == 0).all()


def test_parameters_survive_clone():
    assert clone(EncodingModel(method="ridge", chunk=3)).get_params() == {"method": "ridge", "chunk": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, e: (f[:-1], e), r"\(39, 8\) and \(40, 3, 3, 5\)"),
        (lambda f, e: (f, e[:, :1]), r"\(40, 1, 3, 5\)"),
        (lambda f, e: (np.where(f == f[3, 2], np.nan, f), e), "features have values that are NaN"),
        (lambda f, e: (f, np.where(e == e[17, 0, 0, 0], np.inf, e)), "EEG of picture 17"),
        (lambda f, e: (np.column_stack([f, np.ones(40)]), e), "Feature 8 is the same"),
        (lambda f, e: (f, np.zeros((40, 2, 63, 250), np.float32)), "63 channels x 250 times"),
    ],
)
def test_bad_input_is_refused(change, message):
    features, eeg, _, _ = world(40)
    with pytest.raises(ValueError, match=message):
        EncodingModel(chunk=5).fit(*change(features, eeg))


def test_unknown_methods_and_wrong_shapes_are_refused():
    features, eeg, _, _ = world(40)
    with pytest.raises(ValueError, match="rigde"):
        EncodingModel(method="rigde").fit(features, eeg)
    model = EncodingModel().fit(features, eeg)
    with pytest.raises(ValueError, match=r"8 features; got shape \(40, 7\)"):
        model.predict(features[:, 1:])
    with pytest.raises(ValueError, match=r"\(3, 5\); got shape \(40, 3, 4\)"):
        model.log_likelihood(eeg[:, 0, :, 1:], features)
