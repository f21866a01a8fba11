"""Splits of trials that keep what belongs together on one side."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

UNITS = ("stimulus", "label", "task", "task_pair", "block", "run", "session", "subject")


def split_trials(
    metadata: pd.DataFrame, *, by: str = "stimulus", n_splits: int = 5, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices of training and test trials, `n_splits` times; a unit is never on both sides.

    by : "stimulus", "label", "task", "block", "run", "session" or "subject". A block belongs to its run, a run to its
        session and subject: equal names in two of these are two units

    Raises ValueError when the column is missing or has fewer than two units; with fewer units than splits,
    each unit is left out once.
    """
    if by not in UNITS:
        raise ValueError(f"Trials can be split by {', '.join(UNITS)}; not by {by!r}.")
    units = unit_names(metadata, by)
    names = np.random.default_rng(seed).permutation(np.unique(units))
    if len(names) < 2:
        raise ValueError(f"A split by {by} needs two or more of them; there is one, {names[0]!r}.")
    for part in np.array_split(names, min(n_splits, len(names))):
        test = np.isin(units, part)
        yield np.flatnonzero(~test), np.flatnonzero(test)


def unit_names(metadata: pd.DataFrame, by: str) -> np.ndarray:
    """The unit of each trial, (n,) str, with the names of what it belongs to in front."""
    if by not in metadata or metadata[by].isna().any():
        have = ", ".join(map(str, metadata.columns))
        raise ValueError(f"The metadata need {by!r} for every trial; they have {have}.")
    nested = {"block": ["subject", "session", "run"], "run": ["subject", "session"], "session": ["subject"]}
    columns = [c for c in nested.get(by, []) if c in metadata] + [by]
    return metadata[columns].astype(str).agg("/".join, axis=1).to_numpy()
