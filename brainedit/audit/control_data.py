"""What controls do to a data set: other answers, another window, other channels, other pictures."""

from collections.abc import Mapping

import mne
import numpy as np
import pandas as pd

from brainedit.audit.exchange import recordings
from brainedit.datasets.arrays import ArrayEpochs
from brainedit.datasets.paired import PairedDataset
from brainedit.eeg import standard_names

DESIGN_COLUMNS = ("subject", "session", "run", "task", "task_pair", "block", "onset", "repeat", "n_averaged")
EYE_CHANNELS = ("Fp1", "Fp2", "AF7", "AF8", "F7", "F8")
CODEBOOK_DIMS = 512
N_PSEUDO_BLOCKS = 10  # a recording


class CannotRun(ValueError):
    """Why a control does not apply to these data."""


def answers_of(dataset: PairedDataset, claim: str, column: str | None) -> np.ndarray:
    """What the pipeline has to tell of each trial, (n,) str: the picture, or the value of a metadata column.

    column : the metadata column; None takes the pictures for "picture" and "map", `target` where there is one
        for "relevance" and "direction", else `label`

    Raises ValueError when trials are paired by label and single pictures are claimed, when the column is missing
    or holds one value (two are needed, exactly two for relevance and direction).
    """
    if claim in ("picture", "map"):
        if dataset.pair_by != "stimulus" or column is not None:
            what = f"column={column!r}" if column is not None else f"pair_by={dataset.pair_by!r}"
            raise ValueError(f"A claim about a {claim} needs trials paired by stimulus; got {what}.")
        return dataset.keys
    metadata = dataset.metadata
    if column is None:
        wanted = ("target", "label") if claim in ("relevance", "direction") else ("label",)
        column = next((c for c in wanted if c in metadata), "label")
    if column not in metadata or metadata[column].isna().any():
        have = ", ".join(map(str, metadata.columns))
        raise ValueError(f"The answers need {column!r} for every trial; the metadata have {have}.")
    answers = metadata[column].astype(str).to_numpy()
    n_values = len(np.unique(answers))
    if n_values < 2 or (claim in ("relevance", "direction") and n_values != 2):
        need = "two or more values" if claim == "category" else "exactly two values"
        raise ValueError(f"A claim about {claim} needs {need} of {column!r}; there are {n_values}.")
    return answers


# data sets with other answers, for pipelines that are functions


def relabelled(
    dataset: PairedDataset, rows: np.ndarray, answers: np.ndarray, *, gallery: bool
) -> PairedDataset:
    """The trials `rows` with these answers as their keys: pictures (gallery), else labels with their pictures."""
    part = dataset.subset(rows)
    column = "stimulus" if gallery else "label"
    if dataset.pair_by == column and (part.keys == answers).all():
        return part
    metadata = part.metadata.reset_index(drop=True).assign(**{column: answers})
    epochs = with_metadata(part.epochs, metadata)
    if gallery:
        images = {name: dataset.pictures[dataset.candidates(name)[0]] for name in np.unique(answers)}
        return PairedDataset(epochs, images, pair_by="stimulus")
    return PairedDataset(epochs, _pictures_by_answer(dataset, part.keys, answers), pair_by="label")


def blinded(
    dataset: PairedDataset,
    rows: np.ndarray,
    answers: np.ndarray,
    training: PairedDataset,
    *,
    gallery: bool,
    seed: int,
) -> PairedDataset:
    """The trials `rows` without their answers: keys are dealt at random, metadata tell the recording alone.

    Of a gallery its pictures remain; else the keys are those of `training`, with its pictures.
    """
    rng = np.random.default_rng([seed, 17])
    part = dataset.subset(rows)
    metadata = part.metadata.reset_index(drop=True)
    metadata = metadata[[c for c in DESIGN_COLUMNS if c in metadata]]
    named = [c for c in ("task", "run", "block") if c in metadata]  # a name may hold the answer
    metadata = metadata.assign(**{c: pd.factorize(metadata[c])[0] for c in named})
    if gallery:
        images = {name: dataset.pictures[dataset.candidates(name)[0]] for name in np.unique(answers)}
        keys = rng.permutation(answers)
    else:
        keys = rng.permutation(np.resize(np.unique(training.keys), len(rows)))
        images = {k: [training.pictures[n] for n in training.candidates(k)] for k in np.unique(keys)}
    column = "stimulus" if gallery else "label"
    epochs = with_metadata(part.epochs, metadata.assign(**{column: keys}))
    if isinstance(epochs, mne.BaseEpochs):  # event codes are answers too
        epochs.events[:, 2] = 1
        epochs.event_id = {"trial": 1}
    return PairedDataset(epochs, images, pair_by=column)


def _pictures_by_answer(dataset: PairedDataset, keys: np.ndarray, answers: np.ndarray) -> dict[str, list]:
    pairs = sorted(set(zip(answers.tolist(), keys.tolist(), strict=True)))
    names = {answer: [] for answer, _ in pairs}
    for answer, key in pairs:
        names[answer] += [n for n in dataset.candidates(key) if n not in names[answer]]
    return {answer: [dataset.pictures[n] for n in found] for answer, found in names.items()}


# data sets with other EEG or other pictures


class _Part:
    """Channels and samples of epochs as an array (n, n_channels, n_times), read by row when asked for."""

    dtype, ndim = np.dtype(np.float32), 3

    def __init__(self, epochs: ArrayEpochs, names: list[str], samples: slice) -> None:
        self.epochs, self.names, self.samples = epochs, names, samples
        self.shape = (len(epochs), len(names), len(epochs.times[samples]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.epochs[rows].get_data(picks=self.names, copy=False)[..., self.samples]


def with_metadata(
    epochs: mne.BaseEpochs | ArrayEpochs, metadata: pd.DataFrame
) -> mne.BaseEpochs | ArrayEpochs:
    """The caller's own epochs with other metadata; what lies on disk stays there."""
    if isinstance(epochs, ArrayEpochs):
        return ArrayEpochs(
            _Part(epochs, epochs.ch_names, slice(None)), epochs.info, tmin=epochs.tmin, metadata=metadata
        )
    epochs.metadata = metadata
    return epochs


def with_eeg(dataset: PairedDataset, data: np.ndarray | _Part, info: mne.Info, tmin: float) -> PairedDataset:
    """The same trials and pictures with other EEG (n, n_channels, n_times), volts."""
    metadata = dataset.metadata.reset_index(drop=True)
    if isinstance(dataset.epochs, ArrayEpochs):
        epochs = ArrayEpochs(data, info, tmin=tmin, metadata=metadata)
    else:
        epochs = mne.EpochsArray(data, info, tmin=tmin, baseline=None, metadata=metadata, verbose="error")
    return PairedDataset(epochs, images_of(dataset), pair_by=dataset.pair_by)


def _part_of(
    dataset: PairedDataset, names: list[str], samples: slice, info: mne.Info, tmin: float
) -> PairedDataset:
    epochs = dataset.epochs
    if isinstance(epochs, ArrayEpochs):
        return with_eeg(dataset, _Part(epochs, names, samples), info, tmin)
    return with_eeg(dataset, epochs.get_data(picks=names, copy=False)[..., samples], info, tmin)


def images_of(dataset: PairedDataset) -> Mapping:
    """The pictures as `PairedDataset` takes them."""
    keys = dict.fromkeys(dataset.keys)
    if dataset.pair_by == "stimulus":
        return {key: dataset.pictures[dataset.candidates(key)[0]] for key in keys}
    return {key: [dataset.pictures[name] for name in dataset.candidates(key)] for key in keys}


def before_stimulus(dataset: PairedDataset) -> PairedDataset:
    """The samples before 0 s, with the time of the first called 0 s so that every pipeline finds them."""
    before = dataset.epochs.times < -1e-9
    if before.sum() < 2:
        raise CannotRun(f"the epochs hold {before.sum()} samples before 0 s, two or more are needed")
    epochs = dataset.epochs
    return _part_of(dataset, epochs.ch_names, slice(0, int(before.sum())), epochs.info, 0.0)


def before_stimulus_notes(epochs: mne.BaseEpochs) -> tuple[str, ...]:
    """What makes a window before the stimulus less than independent of what follows."""
    notes, info = [], epochs.info
    baseline = getattr(epochs, "baseline", None)
    if baseline is not None:
        notes.append(
            "a baseline was subtracted: its mean is gone from this window and is now, with its sign turned, in the "
            "window of the score"
        )
    if info["highpass"] > 0.3:
        notes.append(
            f"the high-pass of {info['highpass']:g} Hz, if it is not causal, carries the response back by "
            f"some {1 / info['highpass']:.1g} s"
        )
    if 0 < info["lowpass"] < 20:
        notes.append(
            f"the low-pass of {info['lowpass']:g} Hz, if it is not causal, carries the response back by "
            f"some {1 / info['lowpass']:.2f} s"
        )
    return tuple(notes)


def eye_channels(dataset: PairedDataset) -> PairedDataset:
    """EOG channels and those above the eyes alone, all called EEG."""
    epochs = dataset.epochs
    kinds = epochs.get_channel_types()
    near = {name.lower() for name in EYE_CHANNELS}
    good = [i for i, name in enumerate(epochs.ch_names) if name not in epochs.info["bads"]]
    standard = [name.lower() for name in standard_names(epochs.ch_names)]
    chosen = [i for i in good if kinds[i] == "eog" or (kinds[i] == "eeg" and standard[i] in near)]
    if not chosen:
        raise CannotRun(f"there is no EOG channel and none of {', '.join(EYE_CHANNELS)}")
    if {i for i in good if kinds[i] == "eeg"} <= set(chosen):
        raise CannotRun("the score itself rests on these channels alone")
    names = [epochs.ch_names[i] for i in chosen]
    info = mne.create_info(names, epochs.info["sfreq"], "eeg", verbose="error")
    with info._unlock():
        info["highpass"], info["lowpass"] = epochs.info["highpass"], epochs.info["lowpass"]
        info["custom_ref_applied"] = epochs.info["custom_ref_applied"]
    return _part_of(dataset, names, slice(None), info, epochs.tmin)


def random_codebook(dataset: PairedDataset, answers: np.ndarray, *, seed: int) -> PairedDataset:
    """Each answer gets a random Gaussian vector in place of its pictures' content."""
    rng = np.random.default_rng([seed, 23])
    first = next(iter(dataset.pictures.values()))
    n_dims = first.size if isinstance(first, np.ndarray) and first.ndim == 1 else CODEBOOK_DIMS
    code = {name: rng.standard_normal(n_dims).astype(np.float32) for name in np.unique(answers)}
    answer_of = dict(zip(dataset.keys, answers, strict=True))
    if any(answer_of[key] != own for key, own in zip(dataset.keys, answers, strict=True)):
        raise CannotRun("a picture has several answers")
    vectors = {key: code[own] for key, own in answer_of.items()}
    images = vectors if dataset.pair_by == "stimulus" else {key: [vector] for key, vector in vectors.items()}
    return PairedDataset(dataset.epochs, images, pair_by=dataset.pair_by)


def low_level_features(dataset: PairedDataset) -> np.ndarray:
    """What needs no brain and no meaning, (n, 8): luminance, contrast, colour, size, spectral slope."""
    if dataset.pair_by != "stimulus":
        raise CannotRun("the picture of each trial is not known, only its label")
    names, index = np.unique(dataset.keys, return_inverse=True)
    pictures = [dataset.pictures[dataset.candidates(name)[0]] for name in names]
    if any(isinstance(p, np.ndarray) and p.ndim == 1 for p in pictures):
        raise CannotRun("there are no pictures, only feature vectors; give the pictures")
    features = np.stack([_low_level(picture) for picture in pictures])[index]
    spread = features.std(0)
    if not (spread > 1e-9).any():
        raise CannotRun("all pictures are alike in these features")
    return ((features - features.mean(0)) / np.maximum(spread, 1e-9))[:, spread > 1e-9]


def _low_level(picture: object) -> np.ndarray:
    from brainedit.encoders.image import read_picture

    rgb = read_picture(picture) / 255.0
    grey = rgb @ np.array([0.2126, 0.7152, 0.0722])
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    red_green, blue_yellow = red - green, blue - (red + green) / 2
    spread = np.hypot(red_green.std(), blue_yellow.std())
    height, width = grey.shape
    colour = [red_green.mean(), blue_yellow.mean(), spread]
    size = [np.log(height * width), np.log(width / height)]
    return np.array([grey.mean(), grey.std(), *colour, *size, _spectral_slope(grey)])


def _spectral_slope(grey: np.ndarray) -> float:
    """Slope of log amplitude over log spatial frequency (cycles a pixel); natural pictures have about -1."""
    amplitude = np.abs(np.fft.fft2(grey - grey.mean()))
    f = np.hypot(np.fft.fftfreq(grey.shape[0])[:, None], np.fft.fftfreq(grey.shape[1]))
    used = (f > 0) & (f < 0.5)
    if used.sum() < 3:
        return 0.0
    return float(np.polyfit(np.log(f[used]), np.log(amplitude[used] + 1e-6), 1)[0])


def pseudo_blocks(metadata: pd.DataFrame, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Contiguous pseudo-blocks (n,), ten a recording, and a random label of two for each trial (n,).

    Time is `onset` where every trial has one, else the order of the trials. In each recording half the blocks
    have each label.
    """
    rng = np.random.default_rng([seed, 29])
    n = len(metadata)
    has_onset = "onset" in metadata and not metadata["onset"].isna().any()
    time = metadata["onset"].to_numpy(float) if has_onset else np.arange(n, dtype=float)
    blocks, labels = np.zeros(n, int), np.zeros(n, int)
    recording = recordings(metadata)
    for name in np.unique(recording):
        rows = np.flatnonzero(recording == name)
        rows = rows[np.argsort(time[rows], kind="stable")]
        part = np.arange(len(rows)) * N_PSEUDO_BLOCKS // len(rows)
        blocks[rows] = part + name * N_PSEUDO_BLOCKS
        labels[rows] = rng.permutation(np.arange(N_PSEUDO_BLOCKS) % 2)[part]
    return blocks, labels
