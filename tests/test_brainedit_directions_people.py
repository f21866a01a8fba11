"""Several people: loadings, weights and shrinkage against planted ones, and refusals."""

import numpy as np
import pandas as pd
import pytest

from brainedit.crowds import pool_people
from brainedit.directions import brain_direction, person_directions, reliability


def crowd(loadings, n=400, *, share=1.0, seed=0):
    """Relevance (n_people, n) with a loading each on one shared score, and that score; NaN where not seen."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(n)
    loadings = np.asarray(loadings)[:, None]
    values = loadings * shared + np.sqrt(1 - loadings**2) * rng.standard_normal((len(loadings), n))
    values = values * rng.uniform(0.1, 9, len(loadings))[:, None] + 4  # each person's own units
    unseen = rng.random(values.shape) > share
    unseen[0] = False
    values[unseen] = np.nan
    return values, shared


def named(latents, values):
    names = [f"face{i}.png" for i in range(values.shape[1])]
    people = pd.DataFrame(values, [f"P{i:02d}" for i in range(len(values))], names)
    return pd.DataFrame(latents, names), people[names[::-1]]


def test_loadings_are_found():
    planted = [0.0, 0.2, 0.4, 0.6, 0.8]
    values, shared = crowd(planted, 2000, share=0.7)
    found = pool_people(values)
    np.testing.assert_allclose(found.loading, planted, atol=0.1)
    # an image's score is worth its weight: both sides as a weighted estimate of the shared score
    standard = (values - np.nanmean(values, 1, keepdims=True)) / np.nanstd(values, 1, keepdims=True)
    error = [
        np.average((score / np.average(score * shared, weights=weight) - shared) ** 2, weights=weight)
        for score, weight in [
            (found.score, found.weight),
            (np.nanmean(standard, 0), np.isfinite(values).sum(0)),
        ]
    ]
    assert error[0] < 0.8 * error[1]


def test_equal_people_who_saw_all_count_alike():
    values, _ = crowd([0.5] * 8, 60)
    found = pool_people(values)
    assert np.ptp(found.loading) < 0.15  # shrunk; each correlation alone errs by .13
    np.testing.assert_allclose(found.weight, 1.0)
    standard = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
    assert np.corrcoef(found.score, standard.mean(0))[0, 1] > 0.99


def test_images_that_more_people_saw_weigh_more():
    values, _ = crowd([0.5] * 6, 200)
    values[1:, :100] = np.nan
    weight = pool_people(values).weight
    assert weight[:100].max() < weight[100:].min()
    assert weight.mean() == pytest.approx(1)


def people_of_a_direction(n_people, *, own=0.0, n=300, d=20, noise=1.5, seed=0):
    """Latents, a table of people x stimuli, the shared truth and each person's own (n_people, d)."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(d) / np.sqrt(d)
    truths = truth + own * rng.standard_normal((n_people, d)) / np.sqrt(d)
    z = rng.standard_normal((n, d))
    values = truths @ z.T + noise * rng.standard_normal((n_people, n))
    return *named(z, values), truth, truths


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_one_person_is_ridge():
    latents, people, _, _ = people_of_a_direction(1)
    pooled = brain_direction(latents, people, space="z", method="hierarchical")
    alone = brain_direction(latents, people.iloc[0], space="z")
    np.testing.assert_allclose(pooled.vector, alone.vector, atol=1e-6)
    assert (pooled.provenance["n"], pooled.provenance["n_people"]) == (300, 1)


def test_people_who_tell_little_do_no_harm():
    gain = []
    for seed in range(10):
        latents, people, truth, _ = people_of_a_direction(10, noise=1.0, seed=seed)
        people.iloc[3:] = np.random.default_rng(seed).standard_normal((7, 300))
        pooled = brain_direction(latents, people, space="z", method="hierarchical").vector
        equal = brain_direction(latents, people.mean(), space="z").vector
        gain.append(cosine(pooled, truth) - cosine(equal, truth))
    assert np.mean(gain) > 0.01


def test_reliability_takes_people():
    latents, people, truth, _ = people_of_a_direction(6)
    vector = brain_direction(latents, people, space="z", method="hierarchical").vector
    r = reliability(latents, people, method="hierarchical", n_permutations=99, n_null=100, n_splits=5)
    assert r.p == pytest.approx(0.01)
    assert r.predicted_interval[0] <= cosine(vector, truth) <= r.predicted_interval[1]


def test_each_person_gets_what_they_share_and_what_is_their_own():
    latents, people, truth, truths = people_of_a_direction(8, own=1.0, n=500)
    pooled = brain_direction(latents, people, space="z", method="hierarchical").vector
    found = person_directions(latents, people, space="z")
    assert list(found) == list(people.index)
    own = np.mean([cosine(d.vector, t) for d, t in zip(found.values(), truths, strict=True)])
    alone = [brain_direction(latents, row, space="z").vector for _, row in people.iterrows()]
    assert own > np.mean([cosine(pooled, t) for t in truths]) + 0.05
    assert own > np.mean([cosine(a, t) for a, t in zip(alone, truths, strict=True)]) - 0.01
    assert found["P03"].provenance["person"] == "P03"
    latents, people, truth, truths = people_of_a_direction(8, own=0.0, n=100)
    found = person_directions(latents, people, space="z")
    alone = [brain_direction(latents, row, space="z").vector for _, row in people.iterrows()]
    own = np.mean([cosine(d.vector, truth) for d in found.values()])
    assert own > np.mean([cosine(a, truth) for a in alone]) + 0.1


def test_tables_that_make_no_sense():
    latents, people, _, _ = people_of_a_direction(3, n=20)
    for change, message in [
        (lambda p: p.assign(**{"face4.png": np.nan}), "Nobody saw 'face4.png' and 0 more"),
        (lambda p: p.assign(**{"face2.png": np.inf}), "must be finite; 3 values are infinite"),
        (lambda p: pd.concat([p, p[:1]]), "one row a person; 'P00' comes more than once"),
        (lambda p: p.drop(columns="face1.png"), "relevance for every latent; 'face1.png' and 0 more"),
        (lambda p: p.mul([1, 0, 1], axis=0), "Person 'P01' has the same relevance for all 20"),
        (lambda p: p.iloc[0], "people x stimuli; got a Series"),
    ]:
        with pytest.raises(ValueError, match=message):
            brain_direction(latents, change(people), space="z", method="hierarchical")
    with pytest.raises(ValueError, match=r"people x stimuli; got a Series"):
        person_directions(latents, people.iloc[0], space="z")
