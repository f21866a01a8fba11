"""Which trials stand behind a map: this picture's, those of other pictures, and the sets it is compared with."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mne
import numpy as np
import pandas as pd
import torch
from torch import Tensor

if TYPE_CHECKING:
    from brainedit.joint import JointModel

N_CONTROLS = 100  # maps of other EEG beside each map; they cost next to nothing
N_COMPARED = 20  # maps of other pictures' EEG that the map is correlated with
ONE_EACH = 99  # other pictures shown as often, from which on each control is of a picture of its own
FEWEST_SETS = 20  # of trials, this picture's among them: with fewer p cannot reach .05

MEMORISED = "This picture trained the model; its map may show what the model memorised."


@dataclass(frozen=True)
class Responses:
    """Mean responses of a model's prepared EEG, (n_channels, n_times) each, volts.

    own : to this picture; rest : of all trials of other pictures
    controls : (k, ...), each the mean of as many trials, see `mean_responses`
    permuted : whether the controls are drawn from all trials, own ones included; else each is of one other picture
    others : (at most 20, ...), means of as many trials of other pictures alone, of one picture each where that can be
    """

    own: Tensor
    rest: Tensor
    controls: Tensor
    permuted: bool
    others: Tensor


def mean_responses(
    eeg: Tensor, epochs: mne.BaseEpochs, own: np.ndarray, *, n_controls: int = N_CONTROLS, seed: int = 0
) -> Responses:
    """The mean response to a picture, and means of as many trials with which it is exchangeable without an effect.

    eeg : (n, n_channels, n_times), the model's prepared EEG of the epochs
    own : (n,) bool

    With 99 other pictures of as many trials each control is of one of them, so that no two share a trial. Else
    each is a set of all trials drawn at random, own ones included, as in an exact permutation test: sets of few
    other trials would share them, and lie closer together than the own set to any of them.
    Raises ValueError where there are no own trials, or too few others.
    """
    own = np.array(own, bool)  # a copy: pandas gives arrays that cannot be written to, which torch warns of
    n, others = int(own.sum()), np.flatnonzero(other_trials(epochs, own))
    if n == 0:
        raise ValueError("No trial was chosen for this picture; choose at least one.")
    mine = tuple(np.flatnonzero(own).tolist())
    pool = np.sort(np.concatenate([np.array(mine), others]))
    if len(others) < n or math.comb(len(pool), n) < FEWEST_SETS:
        raise ValueError(
            f"Need more trials of other pictures as controls, there are {len(others)} beside {n} of this one; choose "
            "fewer trials or record more pictures."
        )
    rng, groups = np.random.default_rng(seed), _groups(epochs, others, n)
    alike = _draws(groups, n, N_COMPARED, rng)
    apart = [*alike, *_draws([others], n, N_COMPARED - len(alike), rng, taken=alike)]
    permuted = len(groups) < min(ONE_EACH, n_controls)
    if permuted:
        controls = _draws([pool], n, n_controls, rng, taken=[mine])
    else:
        controls = [
            rng.choice(groups[i], n, replace=False) for i in rng.permutation(len(groups))[:n_controls]
        ]
    means = (torch.stack([eeg[list(trials)].mean(0) for trials in sets]) for sets in (controls, apart))
    return Responses(eeg[own].mean(0), eeg[others].mean(0), next(means), permuted, next(means))


def stimuli_of(epochs: mne.BaseEpochs) -> np.ndarray | None:
    """The picture of each trial, (n,) str, "" where a trial names none; None where no trial does."""
    table = epochs.metadata
    if table is None or "stimulus" not in table:
        return None
    names = texts(table["stimulus"])
    return names if (names != "").any() else None


def other_trials(epochs: mne.BaseEpochs, own: np.ndarray) -> np.ndarray:
    """Which trials showed another picture, (n,) bool: none of an own trial's picture, and none of an unknown one.

    Only trials of the people and sessions of the own ones: what differs between people is no effect of a picture.
    """
    own, names = np.array(own, bool), stimuli_of(epochs)
    others = ~own
    if epochs.metadata is not None:
        where = joined(epochs.metadata, ("subject", "session"))
        mine = set(where[own])
        others &= np.array([place in mine for place in where], bool)
    if names is None:
        return others
    mine = set(names[own])
    return others & np.array([name != "" and name not in mine for name in names], bool)


def texts(column: pd.Series) -> np.ndarray:
    """A column as (n,) str; "" where a value is missing."""
    return np.array(["" if pd.isna(value) else str(value) for value in column], object)


def joined(table: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """What these columns say of each trial, those that the table has, as (n,) str: "A/2"."""
    found = [texts(table[name]) for name in columns if name in table]
    return np.array(["/".join(values) for values in zip(*found, strict=True)] or [""] * len(table), object)


def ends_with(path: str | Path, name: str) -> bool:
    """Whether a path is a stimulus, or ends with it."""
    whole = Path(os.path.abspath(path)).as_posix()  # links are kept: DataLad's lead to other names
    return whole == name or whole.endswith("/" + name)


def memorised(
    model: "JointModel", epochs: mne.BaseEpochs, own: np.ndarray, path: str | Path | None = None
) -> list[str]:
    """Warnings where this picture, by its trials' stimulus or its path, or its trials trained the model."""
    own, trained, names = np.array(own, bool), model.card["training"], stimuli_of(epochs)
    known, shown = set(trained["stimuli"]), set() if names is None else set(names[own])
    found = bool(shown & known)
    if path is not None:
        found |= any(ends_with(path, name) for name in known)
        if names is None or trained.get("pair_by") == "label":
            found |= Path(path).name in {Path(name).name for name in known}
    n = int(model._seen(model.prepare_eeg(epochs))[own].sum())
    told = f"{n} of the {own.sum()} trials behind this map trained the model; it may show their noise."
    return [MEMORISED] * found + [told] * (n > 0)


def _groups(epochs: mne.BaseEpochs, others: np.ndarray, n: int) -> list[np.ndarray]:
    """The trials of each other picture that has as many as this one."""
    names = stimuli_of(epochs)
    if names is None:
        return []
    found = pd.Series(others).groupby(names[others], sort=False)
    return [group.to_numpy() for _, group in found if len(group) >= n]


def _draws(
    pools: Sequence[np.ndarray], n: int, wanted: int, rng: np.random.Generator, *, taken: Sequence[tuple] = ()
) -> list[tuple]:
    """Up to `wanted` different sets of n trials, each from one pool, pool by pool in a random order."""
    found, seen, round_ = [], set(taken), 0
    order = [pools[i] for i in rng.permutation(len(pools))]
    while len(found) < wanted and order:
        for pool in order[: wanted - len(found)]:
            drawn = (tuple(sorted(rng.choice(pool, n, replace=False).tolist())) for _ in range(20))
            fresh = next((trials for trials in drawn if trials not in seen), None)
            if fresh is not None:
                found.append(fresh)
                seen.add(fresh)
        round_ += 1
        order = [pool for pool in order if math.comb(len(pool), n) > round_]
    return found
