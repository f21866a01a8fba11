"""What a direction is found from: the recordings, one task, groups of pictures, locks, and latents of one space."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pandas as pd

from brainedit.datasets.latents import read_latents
from brainedit.directions import Direction
from brainedit.evaluation import Score
from brainedit.generators.base import Generator
from brainedit.relevance import chosen_scheme, metadata_of, score_trials
from brainedit.relevance_study import eye_channels, relevance_control, relevance_scores

Classifier = str | Callable[[mne.BaseEpochs, np.ndarray, mne.BaseEpochs], np.ndarray]
EYES = "eyes alone, AUC"


def recordings_of(epochs: mne.BaseEpochs | Sequence[mne.BaseEpochs]) -> list[mne.BaseEpochs]:
    """One recording or several as a list.

    Raises ValueError when there is none, or when a person is in two of them: each person is one recording.
    """
    recordings = [epochs] if isinstance(epochs, mne.BaseEpochs) else list(epochs)
    if not recordings:
        raise ValueError("A direction needs one recording or more; none came.")
    seen: set[str] = set()
    for recording in recordings:
        metadata = metadata_of(recording)
        people = set(metadata["subject"].dropna().astype(str)) if "subject" in metadata else set()
        if len(recordings) > 1 and (twice := sorted(seen & people)):
            raise ValueError(
                f"Person {twice[0]!r} is in two of the {len(recordings)} recordings; join one person's trials into "
                "one file, or name different people differently."
            )
        seen |= people
    return recordings


def trials_metadata(recordings: Sequence[mne.BaseEpochs], task: str | None) -> pd.DataFrame:
    """Metadata of the trials whose relevance is wanted, those of all recordings below each other.

    Raises ValueError for an unknown task, or for several where none is chosen.
    """
    table = pd.concat([metadata_of(recording) for recording in recordings], ignore_index=True)
    names = table["task"].dropna().astype(str) if "task" in table else pd.Series(dtype=str)
    known = sorted(set(names))
    if task is None and len(known) > 1:
        raise ValueError(
            f"The trials are of {len(known)} tasks ({', '.join(known[:8])}); choose with task= the one whose relevance "
            "gives the direction."
        )
    if task is None:
        return table
    if task not in known:
        raise ValueError(f"No trial has the task {task!r}; known: {', '.join(known) or 'none'}.")
    return table[table["task"].astype(str) == task]


def check_latents(
    latents: pd.DataFrame, metadata: pd.DataFrame, generator: Generator, space: str
) -> pd.DataFrame:
    """The latents of the pictures that were shown, before anything is computed.

    Raises ValueError when a picture has none, or they are not the generator's.
    """
    shape = generator.latent_shape(space)
    if latents.shape[1] != np.prod(shape):
        raise ValueError(
            f"{generator.name} has latents {shape} in {space!r}; these have {latents.shape[1]} numbers."
        )
    if "stimulus" not in metadata or metadata["stimulus"].isna().any():
        raise ValueError("Trials are joined with latents by their picture: fill the column 'stimulus'.")
    shown = sorted(set(metadata["stimulus"]))
    missing = [name for name in shown if name not in latents.index]
    if missing:
        raise ValueError(
            f"{missing[0]!r} and {len(missing) - 1} more pictures that were shown have no latent."
        )
    return latents.loc[shown]


def scored_trials(recordings: Sequence[mne.BaseEpochs], *, task: str | None, **settings) -> pd.DataFrame:
    """`score_trials` of each recording by itself, in one table; for the scheme "subject" of all together.

    settings : of `score_trials`
    """
    if settings.get("scheme") == "subject" and len(recordings) > 1:
        recordings = [together(recordings, "The scheme 'subject'")]
    tables = [score_trials(recording, **settings) for recording in recordings]
    if len(tables) > 1:  # a person without a name is one of several
        for i, table in enumerate(tables):
            table["subject"] = table["subject"].fillna(f"recording {i + 1}")
    trials = pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]
    return trials if task is None else trials[trials["task"].astype(str) == task]


def shared_scheme(recordings: Sequence[mne.BaseEpochs], scheme: str) -> str:
    """What "auto" means for all recordings alike."""
    chosen = {chosen_scheme(metadata_of(recording), scheme) for recording in recordings}
    return chosen.pop() if len(chosen) == 1 else "run"


def of_task(recordings: Sequence[mne.BaseEpochs], task: str | None) -> list[mne.BaseEpochs]:
    """The trials of one task, or all where none is named."""
    if task is None:
        return list(recordings)
    own = [(metadata_of(recording)["task"].astype(str) == task).to_numpy() for recording in recordings]
    return [recording[mine] for recording, mine in zip(recordings, own, strict=True) if mine.any()]


def classifier_name(classifier: Classifier) -> str:
    """What a file calls a classifier: a function's own name."""
    if isinstance(classifier, str):
        return classifier
    return getattr(classifier, "__name__", type(classifier).__name__)


def eyes_alone(
    recordings: Sequence[mne.BaseEpochs], *, task: str | None, seed: int = 0, **settings
) -> Score | str:
    """What the channels at the eyes alone give, by the same classifier; or why a recording cannot tell.

    A function of the user's is replaced by "lda": it may need all channels.
    """
    try:
        for recording in recordings:
            eye_channels(recording)
    except ValueError as error:
        return str(error)
    if callable(settings["method"]):
        settings["method"] = "lda"
    if settings.get("scheme") == "subject" and len(recordings) > 1:
        recordings = [together(recordings, "The scheme 'subject'")]
    tables = [relevance_control(recording, seed=seed, **settings) for recording in recordings]
    trials = pd.concat(tables, ignore_index=True)
    trials = trials if task is None else trials[trials["task"].astype(str) == task]
    return replace(relevance_scores(trials, seed=seed)["pooled"], name=EYES)


def picture_groups(metadata: pd.DataFrame, column: str) -> pd.Series:
    """The group of each picture, from a column of the metadata.

    Raises ValueError when the column is missing, empty for a trial, or differs between trials of one picture.
    """
    if column not in metadata or metadata[column].isna().any():
        raise ValueError(f"Groups come from the column {column!r}, filled for every trial of the metadata.")
    by_picture = metadata.groupby("stimulus")[column]
    several = by_picture.nunique() > 1
    if several.any():
        raise ValueError(
            f"Picture {several.index[several][0]!r} is in several groups of {column!r}; a picture has one."
        )
    return by_picture.first()


def read_locks(
    locks: Sequence[Direction | str | Path], generator: Generator, space: str
) -> tuple[Direction, ...]:
    """Directions to stay at right angles to, from files or as they are.

    Raises ValueError for a lock of another generator or space.
    """
    found = tuple(lock if isinstance(lock, Direction) else Direction.load(lock) for lock in locks)
    for lock in found:
        origin = lock.provenance.get("generator_sha256")
        if origin is not None and origin != generator.sha256:
            raise ValueError(
                f"The lock {lock.name!r} was found in another generator (sha256 {origin[:12]}); {generator.name} has "
                f"{generator.sha256[:12]}."
            )
        if lock.space != space:
            raise ValueError(
                f"The lock {lock.name!r} lives in {lock.space!r}; the direction is looked for in {space!r}."
            )
    return found


def read_latents_in(path: str | Path, space: str) -> pd.DataFrame:
    """Latents of one space from a file; a CSV does not say which space it holds.

    Raises ValueError when the file says another: z and w may have equally many numbers.
    """
    table = read_latents(path)
    said = latents_space(path)
    if said is not None and said != space:
        raise ValueError(f"{path} holds latents in {said!r}; needed are latents in {space!r}.")
    return table


def latents_space(path: str | Path) -> str | None:
    """The space that a file of latents says it holds, None for a CSV."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return (file.metadata() or {}).get("space")
    except (SafetensorError, OSError):
        return None


def together(recordings: Sequence[mne.BaseEpochs], who: str) -> mne.BaseEpochs:
    """Several recordings as one.

    who : what needs them together, for the message

    Raises ValueError when their channels or times differ.
    """
    if len(recordings) == 1:
        return recordings[0]
    try:
        return mne.concatenate_epochs(list(recordings), verbose="error")
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{who} needs recordings of the same channels and times ({reason}).") from error
