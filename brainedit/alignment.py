"""What a new person's first trials give: where and how wide that person's EEG lies, and which trials those are."""

import numpy as np
import pandas as pd

from brainedit.splits import RECORDING


def euclidean_alignment(data: np.ndarray, person: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Each person's trials with the mean response taken away and the mean spatial covariance made the identity.

    data : (n, n_channels, n_times); person : (n,)
    reference : (n,) bool; a person's mean and covariance come from these trials of that person alone

    Where channels depend on each other (an average reference) the directions that hold nothing stay empty.
    Raises ValueError for a person without two trials of reference.
    Source: He & Wu, IEEE TBME 67:399, 2020. Differs: the mean response is taken away too; from the first trials
    of each person instead of all.
    """
    aligned = np.empty(data.shape)
    for name in pd.unique(person):
        own = person == name
        first = data[own & reference]
        if len(first) < 2:
            raise ValueError(
                f"Person {str(name)!r} has {len(first)} trials to align by; two or more are needed."
            )
        mean = first.mean(0)
        first = first - mean
        values, axes = np.linalg.eigh(
            (first @ first.transpose(0, 2, 1)).sum(0) / first[0, 0].size / len(first)
        )
        scale = np.zeros(len(values))
        kept = values > 1e-6 * values[-1]
        scale[kept] = values[kept] ** -0.5
        aligned[own] = (axes * scale @ axes.T) @ (data[own] - mean)
    return aligned


def first_trials(metadata: pd.DataFrame, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Each person's first `n` trials of the first run, and all trials of that run, (n_trials,) bool each.

    Runs come in the order of their numbers, or of the trials where they are names; trials in that of `onset`, or as
    they stand.

    Raises ValueError without runs, or where the first run has no more than `n` trials or is all there is.
    """
    if "run" not in metadata or metadata["run"].isna().any():
        raise ValueError("A calibration by a new person's first run needs 'run' for every trial.")
    chosen, first_run = np.zeros(len(metadata), bool), np.zeros(len(metadata), bool)
    run_columns = [name for name in RECORDING if name in metadata and name != "subject"]
    for name, own in metadata.reset_index(drop=True).groupby("subject", sort=False):
        runs = own[run_columns].drop_duplicates()
        runs = runs.apply(lambda x: pd.to_numeric(x, errors="coerce").fillna(np.inf)).sort_values(
            run_columns, kind="stable"
        )
        if len(runs) < 2:
            raise ValueError(f"Person {name!r} has one run; a calibration by the first leaves none to score.")
        inside = own[(own[run_columns] == own.loc[runs.index[0], run_columns]).all(axis=1)]
        if len(inside) < n:
            raise ValueError(
                f"The first run of person {name!r} has {len(inside)} trials; n_calibration is {n}."
            )
        if "onset" in inside:
            inside = inside.sort_values("onset", kind="stable")
        chosen[inside.index[:n]] = True
        first_run[inside.index] = True
    return chosen, first_run
