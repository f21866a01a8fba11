"""Slopes: one factorisation against scikit-learn's refits, weights, halves, and generalised cross-validation."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge

from brainedit.slopes import MeanDifference, Ridge, factorise, halves, tuned_ridge

SHAPES = [(60, 15), (40, 65)]


def data(shape, *, decay=0.0, seed=0):
    """Centred latents with unequal variances, and a centred target that follows the first dimension."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * np.arange(1, shape[1] + 1.0) ** -decay
    y = x[:, 0] + rng.standard_normal(shape[0])
    return x - x.mean(0), y - y.mean()


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_give_the_latents_back(shape):
    x, _ = data(shape)
    x = np.column_stack([x, x[:, :3], np.zeros(len(x))])  # collinear and constant columns
    factors = factorise(x)
    np.testing.assert_allclose(factors.left * factors.singular @ factors.right.T, x, atol=1e-9)
    np.testing.assert_allclose(factors.left.T @ factors.left, np.eye(len(factors.singular)), atol=1e-8)
    assert len(factors.singular) == np.linalg.matrix_rank(x)
    assert factors.penalty == pytest.approx(x.var(axis=0).sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_penalty_is_that_of_generalised_cross_validation(shape):
    x, y = data(shape, decay=0.5)
    ridge = tuned_ridge(x)
    n, gcv = len(y), []
    for penalty in ridge.penalties:
        hat = x @ np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T) + 1 / n  # with the intercept
        gcv.append(((y - hat @ y) ** 2).sum() / np.trace(np.eye(n) - hat) ** 2)
    best = ridge.penalties[np.argmin(gcv)]
    assert ridge.penalty_of(y) == pytest.approx(best)
    np.testing.assert_allclose(ridge.coefficients(y), SklearnRidge(alpha=best).fit(x, y).coef_, rtol=1e-7)


def test_each_target_takes_its_own_penalty():
    x, y = data((60, 15))
    noise = np.random.default_rng(1).standard_normal(60)
    both = np.column_stack([y, noise - noise.mean()])
    ridge = tuned_ridge(x)
    penalties = [ridge.penalty_of(column) for column in both.T]
    assert penalties[0] < penalties[1]
    for column, penalty, slope, left_out in zip(
        both.T, penalties, ridge.coefficients(both).T, ridge.held_out(both).T, strict=True
    ):
        alone = Ridge(x, strengths=[penalty / ridge.alpha])
        np.testing.assert_allclose(slope, alone.coefficients(column))
        np.testing.assert_allclose(left_out, alone.held_out(column[:, None])[:, 0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strengths", [[1.0], [0.01]])
def test_halves_are_those_of_refits(shape, strengths):
    x, y = data(shape, decay=1.0)
    ridge = Ridge(x, strengths=strengths)
    first = halves(np.random.default_rng(0), len(y), 5)
    assert (first.sum(0) == len(y) // 2).all()
    for rows, found in zip(first.T, ridge.halves(y, first), strict=True):
        a, b = (SklearnRidge(alpha=ridge.penalties[0]).fit(x[r], y[r]).coef_ for r in (rows, ~rows))
        assert found == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-3)
    for rows, found in zip(first.T, MeanDifference(x).halves(y, first), strict=True):
        a, b = ((x[r] - x[r].mean(0)).T @ y[r] for r in (rows, ~rows))
        assert found == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-9)


def weighted(shape):
    """Latents, target and weights, and the same with rows times the root of their weight, for `ones`."""
    x, y = data(shape)
    weights = np.random.default_rng(2).uniform(0.2, 3, len(y))
    root = np.sqrt(weights)
    centred = (x - np.average(x, axis=0, weights=weights)) * root[:, None]
    return x, y, weights, centred, (y - np.average(y, weights=weights)) * root, root


@pytest.mark.parametrize("shape", SHAPES)
def test_weighted_images_are_those_of_scikit_learn(shape):
    x, y, weights, centred, target, root = weighted(shape)
    ridge = Ridge(centred, ones=root)
    reference = SklearnRidge(alpha=ridge.alpha).fit(x, y, sample_weight=weights)
    np.testing.assert_allclose(ridge.coefficients(target), reference.coef_, rtol=1e-7)
    left_out = ridge.held_out(target[:, None])[:, 0] / root + np.average(y, weights=weights)
    for i in range(0, len(y), 7):
        rest = np.arange(len(y)) != i
        refit = SklearnRidge(alpha=ridge.alpha).fit(x[rest], y[rest], sample_weight=weights[rest])
        assert left_out[i] == pytest.approx(refit.predict(x[i : i + 1])[0], rel=1e-6)
    first = halves(np.random.default_rng(0), len(y), 2)
    for rows, found in zip(first.T, ridge.halves(target, first), strict=True):
        a, b = (
            SklearnRidge(alpha=ridge.alpha).fit(x[r], y[r], sample_weight=weights[r]).coef_
            for r in (rows, ~rows)
        )
        assert found == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_projection_on_the_others_slope(shape):
    x, y, weights, centred, target, root = weighted(shape)
    ridge = Ridge(centred, ones=root)
    found = ridge.projected(target[:, None])[:, 0] / root
    for i in range(0, len(y), 9):
        rest = np.arange(len(y)) != i
        slope = SklearnRidge(alpha=ridge.alpha).fit(x[rest], y[rest], sample_weight=weights[rest]).coef_
        expected = (x[i] - np.average(x[rest], axis=0, weights=weights[rest])) @ slope
        assert found[i] == pytest.approx(expected, rel=1e-6)
