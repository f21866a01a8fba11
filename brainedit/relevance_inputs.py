"""Latents and relevance, joined by stimulus, checked, and made ready for a direction method."""

from typing import Any

import numpy as np
import pandas as pd

from brainedit._check import pick
from brainedit.crowds import pool_people
from brainedit.slopes import METHODS, tuned_ridge

MIN_IMAGES = 10
HIERARCHICAL = "hierarchical"


def prepared(
    latents: pd.DataFrame, relevance: pd.Series | pd.DataFrame, method: str
) -> tuple[Any, np.ndarray]:
    """The method on the centred latents, and the centred relevance (n,) to give it.

    relevance : one number a stimulus; for "hierarchical" people x stimuli, NaN where a person did not see one

    Raises ValueError for stimuli that do not match, too few, constant relevance, NaN, or an unknown method.
    """
    _check_tables(latents, relevance)
    if method == HIERARCHICAL:
        return _prepared_crowd(latents, relevance)
    make = pick("direction method", method, METHODS | {HIERARCHICAL: None})
    if isinstance(relevance, pd.DataFrame):
        raise ValueError(
            f"Method {method!r} needs one relevance a stimulus; got a table {relevance.shape}. Pool the people "
            'first, or take method="hierarchical".'
        )
    x, y = joined(latents, relevance)
    return make(x), y


def _check_tables(latents: object, relevance: object) -> None:
    if not isinstance(latents, pd.DataFrame):
        raise ValueError(f"Need latents as a DataFrame, one row a stimulus; got {_kind(latents)}.")
    if not isinstance(relevance, pd.Series | pd.DataFrame):
        raise ValueError(f"Need relevance as a Series, one number a stimulus; got {_kind(relevance)}.")


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def joined(latents: pd.DataFrame, relevance: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Latents (n, n_dims) and relevance (n,), row for row the same stimulus, both centred."""
    _check_stimuli(latents.index, relevance.index)
    x = latents.to_numpy(dtype=np.float64)
    y = relevance.loc[latents.index].to_numpy(dtype=np.float64)
    for what, values in {"latents": x, "relevance": y[:, None]}.items():
        _check_finite(what, values, latents.index)
    if np.ptp(y) == 0:
        raise ValueError(f"Relevance is {y[0]:g} for every image; a direction needs it to differ.")
    return x - x.mean(0), y - y.mean()


def joined_people(latents: pd.DataFrame, relevance: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Latents (n, n_dims) and relevance (n_people, n), column for column the same stimulus; NaN where not seen."""
    if not isinstance(relevance, pd.DataFrame):
        raise ValueError(f"Need a table of people x stimuli; got a {type(relevance).__name__}.")
    _check_stimuli(latents.index, relevance.columns)
    if relevance.index.has_duplicates:
        twice = relevance.index[relevance.index.duplicated()][0]
        raise ValueError(f"Need one row a person; {twice!r} comes more than once in the relevance.")
    x = latents.to_numpy(dtype=np.float64)
    _check_finite("latents", x, latents.index)
    values = relevance[latents.index].to_numpy(dtype=np.float64)
    if np.isinf(values).any():
        raise ValueError(f"The relevance must be finite; {np.isinf(values).sum()} values are infinite.")
    unseen = np.isnan(values).all(0)
    if unseen.any():
        raise ValueError(f"Nobody saw {latents.index[unseen][0]!r} and {unseen.sum() - 1} more stimuli.")
    for person, row in zip(relevance.index, values, strict=True):
        row = row[np.isfinite(row)]
        if len(row) < 2 or np.ptp(row) == 0:
            raise ValueError(f"Person {person!r} has the same relevance for all {len(row)} images seen.")
    return x, values


def group_means(
    x: np.ndarray, y: np.ndarray, stimuli: pd.Index, groups: pd.Series
) -> tuple[np.ndarray, np.ndarray]:
    """Mean latents (n_groups, n_dims) and mean relevance (n_groups,), centred."""
    if groups.index.has_duplicates:
        twice = groups.index[groups.index.duplicated()][0]
        raise ValueError(f"Need one group a stimulus; {twice!r} comes more than once in the groups.")
    named = groups.reindex(stimuli)
    if named.isna().any():
        missing = stimuli[named.isna()]
        raise ValueError(
            f"Need a group for every stimulus; {missing[0]!r} and {len(missing) - 1} more have none."
        )
    codes, names = pd.factorize(named)
    if len(names) < MIN_IMAGES:
        raise ValueError(f"Need {MIN_IMAGES} or more groups; got {len(names)}.")
    sums = np.zeros((len(names), x.shape[1] + 1))
    np.add.at(sums, codes, np.column_stack([x, y]))
    means = sums / np.bincount(codes)[:, None]
    means -= means.mean(0)
    if np.abs(means[:, -1]).max() < 1e-12:
        raise ValueError(
            f"Mean relevance is the same in all {len(names)} groups; a direction needs it to differ."
        )
    return means[:, :-1], means[:, -1]


def _prepared_crowd(latents: pd.DataFrame, relevance: pd.DataFrame) -> tuple[Any, np.ndarray]:
    """Ridge on the people's pooled scores, each image weighted by how well it is known."""
    x, people = joined_people(latents, relevance)
    crowd = pool_people(people)
    root = np.sqrt(crowd.weight)
    x, y = (values - np.average(values, axis=0, weights=crowd.weight) for values in (x, crowd.score))
    return tuned_ridge(x * root[:, None], ones=root), y * root


def _check_stimuli(with_latent: pd.Index, with_relevance: pd.Index) -> None:
    for what, index in {"latents": with_latent, "relevance": with_relevance}.items():
        if index.has_duplicates:
            twice = index[index.duplicated()][0]
            raise ValueError(f"Need one row a stimulus; {twice!r} comes more than once in the {what}.")
    _check_all_there(with_latent, with_relevance, "relevance for every latent")
    _check_all_there(with_relevance, with_latent, "a latent for every relevance")
    if len(with_latent) < MIN_IMAGES:
        raise ValueError(f"Need {MIN_IMAGES} or more images for a direction; got {len(with_latent)}.")


def _check_all_there(wanted: pd.Index, given: pd.Index, need: str) -> None:
    missing = wanted[~wanted.isin(given)]
    if len(missing):
        raise ValueError(f"Need {need}; {missing[0]!r} and {len(missing) - 1} more have none.")


def _check_finite(what: str, values: np.ndarray, stimuli: pd.Index) -> None:
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise ValueError(
            f"The {what} must be finite; {stimuli[bad][0]!r} and {bad.sum() - 1} more hold NaN or infinity."
        )
