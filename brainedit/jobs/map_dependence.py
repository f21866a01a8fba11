"""The EEG-dependence of a model's maps over the pictures that a recording showed."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from brainedit.datasets.paired import Picture
from brainedit.encoders.image import read_picture
from brainedit.jobs.map_trials import ends_with, joined, other_trials, stimuli_of, texts
from brainedit.jobs.picture_maps import (
    Maker,
    NamedScore,
    Twin,
    prepare_picture,
    stand_ins,
    twin_vectors,
)
from brainedit.joint import JointModel
from saliency.dependence import EEGDependence, eeg_dependence, unit_rows
from saliency.sanity import SanityCheck, sanity_checks

N_PICTURES = {"occlusion": 24, "gradcam": 24}  # others take minutes a picture:
N_SLOW = 8
FEWEST = 4  # pictures; with 3 there are 6 relabellings, and p cannot reach .05
GRID = 56  # maps are averaged down to about so many pixels a side before they are correlated
ASKED = "none was asked for"
UNNAMED = "the epochs do not name their pictures"


@dataclass(frozen=True)
class Source:
    """A picture that the recording showed, and its trials (indices, in the order of recording).

    mapped : whether it is the picture whose map is asked for
    """

    name: str
    picture: Picture
    trials: np.ndarray
    mapped: bool = False


@dataclass(frozen=True)
class Sources(Sequence[Source]):
    """The pictures that D is measured on.

    where : the one subject and session that they are of; "" where the recording has no other
    unread : pictures that were left out, since their files cannot be read
    why_not : why there is no D, where these are too few
    """

    found: tuple[Source, ...] = ()
    where: str = ""
    unread: tuple[str, ...] = ()
    why_not: str = ""

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, i):
        return self.found[i]


@dataclass(frozen=True)
class MapDependence:
    """D of a model's maps, the correlations behind it, and what it was measured on.

    result : None where there is no D; why_not then says why
    checks : what the maps resemble, on average over the pictures
    correlations : (n, n), R_ij, the map of picture i for a half of its own trials with its map for a half of
        the trials of picture j
    seen : whether the pictures trained the model
    mapped : whether the picture whose map is asked for is among them
    where, unread : see `Sources`
    """

    result: EEGDependence | None
    checks: list[SanityCheck]
    correlations: np.ndarray
    names: tuple[str, ...]
    seen: bool = False
    why_not: str = ""
    mapped: bool = True
    where: str = ""
    unread: tuple[str, ...] = ()


def find_pictures(
    epochs: mne.BaseEpochs, image: str | Path | None = None, *, images: str | Path | None = None
) -> dict[str, Path]:
    """The files of the pictures that a recording showed, by stimulus; those that are not there are left out.

    image : a picture of the recording; without `images` its path less its stimulus is the folder of all
    images : a folder below which the stimuli are paths

    Raises FileNotFoundError where there is no folder `images`, ValueError where it holds none of the pictures.
    """
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"There is no folder of pictures {images}.")
    stimuli = stimuli_of(epochs)
    if stimuli is None:
        return {}
    names = pd.unique(stimuli[stimuli != ""]).tolist()
    root = Path(images) if images is not None else _root_of(image, names)
    found = {} if root is None else {name: root / name for name in names if (root / name).is_file()}
    if images is not None and not found:
        raise ValueError(f"None of the {len(names)} pictures of the recording is in {images}: {names[0]!r}.")
    return found


def dependence_sources(
    model: JointModel,
    epochs: mne.BaseEpochs,
    pictures: Mapping[str, Picture],
    own: np.ndarray,
    picture: Picture,
    *,
    n_most: int = 24,
    seed: int = 0,
) -> Sources:
    """This picture first, then others that were shown twice or more and can be read, drawn by seed.

    own : (n,) bool, the trials of this picture; a picture that has one of them is no other picture

    All trials are of one subject and session, that with most own trials: what differs between people or sessions
    would come again in both halves of a picture's trials. Where this picture did not train the model, only pictures
    that did not either are taken, if there are enough.
    """
    own, stimuli = np.array(own, bool), stimuli_of(epochs)
    if n_most < FEWEST or stimuli is None:
        asked = f"it was to be measured on at most {n_most} pictures, and needs {FEWEST}" if n_most else ASKED
        return Sources(why_not=f"There is no D: {UNNAMED if n_most >= FEWEST else asked}.")
    within, where = _one_recording(epochs.metadata, own)
    mine, kept = set(stimuli[own]), stimuli[within]
    order = _recording_order(epochs.metadata)
    order = order[within[order]]
    others = [name for name in pictures if name not in mine and (kept == name).sum() >= 2]
    trained = set(model.card["training"]["stimuli"])
    unseen = [name for name in others if name not in trained]
    first = [Source(_name(stimuli[own]), picture, order[own[order]], mapped=True)]
    first = first * (len(first[0].trials) >= 2)
    if len(unseen) + len(first) >= FEWEST and not mine & trained:
        others = unseen
    drawn = np.random.default_rng(seed).permutation(sorted(others)).tolist()
    read, unread = _readable(pictures, drawn, n_most - len(first))
    found = [*first, *(Source(name, pictures[name], order[stimuli[order] == name]) for name in sorted(read))]
    why_not = (
        f"There is no D: it needs {FEWEST} pictures that were shown twice or more{' in ' * bool(where)}{where} and "
        f"whose files are there, and had {len(found)}."
    )
    return Sources(tuple(found), where, tuple(unread), why_not * (len(found) < FEWEST))


def picture_dependence(
    model: JointModel,
    epochs: mne.BaseEpochs,
    sources: Sources,
    drawn: Maker,
    *,
    twin: Twin = "No twin was given.",
    seed: int = 0,
    progress: bool = True,
) -> MapDependence:
    """D over these pictures: maps from one half of the trials of each against maps from the other.

    Halves take turns in the order of recording, run by run, so that a drift is in both alike.
    twin : the model trained on permuted pairs, whose maps cost nothing here
    """
    names = tuple(source.name for source in sources)
    seen = bool(set(names) & set(model.card["training"]["stimuli"]))
    known = {"mapped": any(source.mapped for source in sources)}
    known |= {"seen": seen, "where": sources.where, "unread": sources.unread}
    if len(sources) < FEWEST:
        return MapDependence(None, [], np.zeros((0, 0)), names, why_not=sources.why_not, **known)
    with torch.no_grad():
        vectors = _source_vectors(model, epochs, sources, seed)
        score = NamedScore(model, vectors, twin_vectors(twin, epochs, [each.trials for each in sources]))
        first, second, checks = [], [], []
        for i, source in enumerate(tqdm(sources, "EEG-dependence", disable=not progress, unit="picture")):
            image = prepare_picture(model, source.picture)
            maps = {name: _smaller(part) for name, part in score.maps(drawn, image).items()}
            first.append(maps["first"])
            second.append(maps["second"])
            checks.append(_checks(maps, i, len(sources), _smaller(image), twin))
    result = eeg_dependence(first, second, seed=seed)
    return MapDependence(result, _means(checks), _correlations(first, second), names, **known)


def _source_vectors(
    model: JointModel, epochs: mne.BaseEpochs, sources: Sources, seed: int
) -> dict[str, torch.Tensor]:
    """Vectors for the halves of each source's trials, for all of them, and what stands in for these."""
    eeg = model.prepare_eeg(epochs)
    own = torch.stack([eeg[source.trials].mean(0) for source in sources])
    masks = [np.isin(np.arange(len(eeg)), source.trials) for source in sources]
    rest = torch.stack([eeg[other_trials(epochs, mask)].mean(0) for mask in masks])
    halves = [torch.stack([eeg[each.trials[half::2]].mean(0) for each in sources]) for half in (0, 1)]
    vectors = {"first": halves[0], "second": halves[1], "own": own}
    vectors = {name: model.embed_eeg(part) for name, part in vectors.items()}
    return vectors | stand_ins(model, own, rest, seed=seed)


def _checks(
    maps: Mapping[str, np.ndarray], i: int, n: int, image: np.ndarray, twin: Twin
) -> list[SanityCheck]:
    """What the map of picture i for its own response resembles."""
    alternatives: dict[str, np.ndarray | str] = {
        "mean_eeg": maps["mean_eeg"][i],
        "constant_vector": maps["constant_vector"],
        "random_vector": maps["random_vector"],
        "random_eeg_encoder": maps["random_eeg_encoder"][i::n],
        "other_eeg": np.delete(maps["own"], i, axis=0),
        "permuted_training": twin if isinstance(twin, str) else maps["permuted_training"][i],
    }
    return sanity_checks(maps["own"][i], alternatives, torch.from_numpy(image))


def _means(checks: list[list[SanityCheck]]) -> list[SanityCheck]:
    """Each check's correlations averaged over the pictures for which it could be made."""
    found = []
    for several in zip(*checks, strict=True):
        ran = [check for check in several if check.ran]
        if not ran:
            found.append(several[0])
            continue
        means = {key: float(np.mean([getattr(check, key) for check in ran])) for key in ("r", "r_abs")}
        found.append(replace(ran[0], **means))
    return found


def _root_of(image: str | Path | None, names: list[str]) -> Path | None:
    """The folder below which the stimuli are paths, by the one that is this picture."""
    if image is None:
        return None
    path = Path(os.path.abspath(image)).as_posix()
    fits = [name for name in names if ends_with(path, name)]
    return Path(path[: -len(max(fits, key=len))] or ".") if fits else None


def _recording_order(table: pd.DataFrame) -> np.ndarray:
    """Trials run by run as the recording has them, by onset where that is known."""
    runs = pd.factorize(joined(table, ("subject", "session", "run")))[0]
    onset = np.arange(len(table))
    if "onset" in table:
        onset = pd.to_numeric(table["onset"], errors="coerce").to_numpy(float)  # "n/a" comes last in its run
    return np.lexsort((np.arange(len(table)), onset, runs))


def _one_recording(table: pd.DataFrame, own: np.ndarray) -> tuple[np.ndarray, str]:
    """The trials (n,) bool of the subject and session that has most own trials, and which one; "" if it is all."""
    columns = [name for name in ("subject", "session") if name in table]
    labels = joined(table, columns)
    if len(set(labels)) == 1:
        return np.ones(len(table), bool), ""
    most = pd.Series(labels[own]).value_counts(sort=False).idxmax()
    within = labels == most
    parts = (f"{name} {texts(table[name])[within][0] or 'unknown'}" for name in columns)
    return within, ", ".join(parts)


def _readable(
    pictures: Mapping[str, Picture], names: Sequence[str], wanted: int
) -> tuple[list[str], list[str]]:
    """The first `wanted` of these pictures that can be read, and those before them that cannot."""
    read, unread = [], []
    for name in names:
        if len(read) == wanted:
            break
        try:
            read_picture(pictures[name])
            read.append(name)
        except (ValueError, OSError):
            unread.append(name)
    return read, unread


def _name(stimuli: np.ndarray) -> str:
    names = pd.unique(stimuli)
    return str(names[0]) if len(names) == 1 else "the chosen trials"


def _smaller(maps: torch.Tensor | np.ndarray) -> np.ndarray:
    """Maps (or a picture's channels) averaged over squares of pixels."""
    step = max(1, min(maps.shape[1:]) // GRID)
    return torch.nn.functional.avg_pool2d(torch.as_tensor(maps).cpu()[None], step)[0].numpy()


def _correlations(first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
    """R_ij: picture i's map for its own half with its map for a half of source j, both ways averaged."""
    rows = []
    for i, (one, two) in enumerate(zip(first, second, strict=True)):
        r = unit_rows(one.astype(float)) @ unit_rows(two.astype(float)).T
        rows.append((r[i] + r[:, i]) / 2)
    return np.stack(rows)
