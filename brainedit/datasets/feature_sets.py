"""LatentDataset: trials that come as ready-made features, with the generator's latents of the faces that were seen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

SEEN = ("stimulus", "target_stimulus")  # the columns of metadata that name a row of latents


@dataclass(frozen=True, eq=False, repr=False)
class LatentDataset:
    """Features of trials, joined by name to the latents of their stimuli.

    features : (n_trials, ...) float32; what the axes after the first are is told by the loader
    latents : (n_stimuli, n_dims) numbers, one row a stimulus, indexed by its name
    metadata : one row a trial, in the order of `features`; `stimulus` names a row of `latents`, and so does
        `target_stimulus` (the picture that was looked for) where there is one
    name : the data set's
    note : one sentence that says what the design of the recording supports

    Raises ValueError when the lengths differ, a stimulus has no latent or two, or a number is NaN or infinite.
    """

    features: np.ndarray
    latents: pd.DataFrame
    metadata: pd.DataFrame
    name: str
    note: str

    def __post_init__(self) -> None:
        _check_features(self.features, self.metadata)
        _check_latents(self.latents)
        for column in _naming(self.metadata):
            _check_names(self.metadata[column], self.latents)

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.features.shape))
        return f"<LatentDataset {self.name}: features {shape}, latents {' x '.join(map(str, self.latents.shape))}>"

    def latents_of(self, column: str = "stimulus") -> np.ndarray:
        """The latent of each trial, (n_trials, n_dims).

        column : "stimulus", or "target_stimulus" where the metadata have it
        """
        if column not in _naming(self.metadata):
            have = ", ".join(_naming(self.metadata))
            raise ValueError(
                f"The trials of {self.name} have no latents by {column!r}; they have them by {have}."
            )
        return self.latents.loc[self.metadata[column]].to_numpy()

    def subset(self, trials: Sequence[int] | np.ndarray) -> "LatentDataset":
        """The trials with these indices (or this boolean mask), and the latents of their stimuli alone."""
        if np.size(trials) == 0 or len(chosen := np.arange(len(self))[np.asarray(trials)]) == 0:
            raise ValueError("The selection of trials is empty; choose at least one.")
        metadata = self.metadata.iloc[chosen].reset_index(drop=True)
        named = set().union(*(metadata[column] for column in _naming(metadata)))
        latents = self.latents[self.latents.index.isin(named)]
        return replace(self, features=self.features[chosen], latents=latents, metadata=metadata)


def _naming(metadata: pd.DataFrame) -> list[str]:
    return [column for column in SEEN if column in metadata]


def _check_features(features: np.ndarray, metadata: pd.DataFrame) -> None:
    if not isinstance(features, np.ndarray) or features.dtype != np.float32 or features.ndim < 2:
        came = (
            f"{features.dtype} {features.shape}"
            if isinstance(features, np.ndarray)
            else type(features).__name__
        )
        raise ValueError(f"Features need to be a float32 array (n_trials, ...); got {came}.")
    if len(features) != len(metadata) or len(features) == 0:
        raise ValueError(
            f"Features and metadata need one row for each of the same trials; there are {len(features)} and"
            f" {len(metadata)}."
        )
    if not np.isfinite(features).all():
        trial = int(np.flatnonzero(~np.isfinite(features).reshape(len(features), -1).all(axis=1))[0])
        raise ValueError(f"The features of trial {trial} are NaN or infinite; drop this trial.")
    if "stimulus" not in metadata:
        have = ", ".join(map(str, metadata)) or "no columns"
        raise ValueError(f"The metadata need a column 'stimulus'; they have {have}.")


def _check_latents(latents: pd.DataFrame) -> None:
    if latents.index.has_duplicates:
        twice = latents.index[latents.index.duplicated()][0]
        raise ValueError(f"The latents have more than one row for {twice!r}; one is needed.")
    values = latents.to_numpy()
    if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise ValueError("The latents need to be finite numbers; some are NaN, infinite or no numbers.")


def _check_names(names: pd.Series, latents: pd.DataFrame) -> None:
    if names.isna().any():
        raise ValueError(
            f"{int(names.isna().sum())} of {len(names)} trials have no {names.name!r}; drop them."
        )
    missing = names[~names.isin(latents.index)].unique()
    if len(missing):
        more = f" and {len(missing) - 1} more have" if len(missing) > 1 else " has"
        raise ValueError(f"The {names.name} {missing[0]!r}{more} no latent; every one needs one.")
