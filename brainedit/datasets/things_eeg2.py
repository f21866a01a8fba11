"""THINGS-EEG2: the published files of a person as trials, each with the picture that was seen, joined by name."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import mne
import numpy as np
import pandas as pd

from brainedit._check import pick
from brainedit.datasets.arrays import ArrayEpochs
from brainedit.datasets.latents import read_latents
from brainedit.datasets.paired import PairedDataset
from brainedit.datasets.things_eeg2_raw import mvnn, names_in, raw_trials, read_dict, without_unit
from brainedit.montage import read_montage

__all__ = ["load_things_eeg2", "mvnn"]

logger = logging.getLogger(__name__)

PARTS = {"train": "training", "test": "test"}
PICTURE_FOLDERS = (".", "image_set", "images_set", "images")  # below root; where the pictures may lie
LARGEST_VOLTS = 1e-3  # standard deviation; what varies more than this is no EEG in volts


def load_things_eeg2(
    root: str | Path,
    *,
    subject: int | str = 1,
    split: str = "train",
    channels: Sequence[str] | None = None,
    stimuli: Sequence[str] | None = None,
    n_repeats: int | None = None,
    features: str | None = None,
    raw: bool = False,
    whiten: bool = True,
    sfreq: float = 250.0,
) -> PairedDataset:
    """One person's trials of the published training or test part; the EEG stays on disk.

    root : holds sub-01/preprocessed_eeg_training.npy and ..._test.npy (or, raw, sub-01/ses-01/raw_eeg_training.npy
        and so on), image_metadata.npy, and training_images and test_images, themselves or in image_set
    channels : names, in the order wanted; None for all. Raw, they are chosen before the whitening
    stimuli : names as "training_images/00001_aardvark/aardvark_01b.jpg"; None for all
    n_repeats : the first so many of each picture; None for all
    features : in place of pictures, their features in root/features/NAME/training.safetensors and test.safetensors
        (see `read_latents`); "middle+last" puts those of two layers side by side
    raw : cut the continuous files, -.2 to 1 s, baseline before the onset, as they are read; `.epochs.save` keeps
        the result. whiten (per session, see `mvnn`; else volts) and sfreq (Hz) are for these alone

    Metadata: stimulus, concept, subject, repeat, and design_source: "documented" (stimuli in random order, 5 per
    second) where the file does not hold the order, as the preprocessed ones, which have neither session nor onset.
    Raw: "recorded", with session, run ("training" or "test": the file in which `onset` (s) counts; the breaks in
    a session's training file were cut out when it was published). Data that `simulate` wrote say simulated.
    EEG that was whitened has no unit: its channels' unit is "none", a standard deviation of the noise.
    Raises FileNotFoundError or ValueError in one sentence; nothing in the files is run.
    Source: Gifford et al., NeuroImage 2022, doi 10.1016/j.neuroimage.2022.119754, and the code published with it.
    """
    root = Path(root)
    part = pick("split", split, PARTS)
    person = _person(root, subject)
    names = _stimuli(root, part)
    if raw:
        epochs = raw_trials(
            root / person, names["stimulus"], part=part, channels=channels, whiten=whiten, sfreq=sfreq
        )
    else:
        epochs = _preprocessed(root / person / f"preprocessed_eeg_{part}.npy", names, channels)
    epochs = _described(epochs, root, person, part, names)
    epochs = _chosen(epochs, names, stimuli, n_repeats)
    shown = list(dict.fromkeys(epochs.metadata["stimulus"]))
    images = _features(root, features, part, shown) if features else _pictures(root, shown)
    return PairedDataset(epochs, images)


def _person(root: Path, subject: int | str) -> str:
    """The name of a person's folder."""
    have = sorted(path.name for path in root.glob("sub-*") if path.is_dir())
    number = str(subject).removeprefix("sub-")
    name = f"sub-{int(number):02d}" if number.isdecimal() else f"sub-{number}"
    if name not in have:
        raise FileNotFoundError(
            f"There is no folder {name} in {root}; there is {', '.join(have) or 'no sub-* at all'}."
        )
    return name


def _stimuli(root: Path, part: str) -> pd.DataFrame:
    """Stimulus and concept of each picture of a part, in the order of the EEG's conditions."""
    places = [root / folder / "image_metadata.npy" for folder in PICTURE_FOLDERS]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"There is no image_metadata.npy in {root}, which names the pictures in the order of the EEG."
        )
    table = read_dict(path, ())
    short = "train" if part == "training" else part
    lists = [names_in(table, f"{short}_img_{what}", path) for what in ("concepts", "files")]
    if len(lists[0]) != len(lists[1]) or not lists[0]:
        raise ValueError(
            f"{path} names {len(lists[0])} concepts and {len(lists[1])} files of {part} pictures."
        )
    odd = [text for text in (*lists[0], *lists[1]) if not _is_name(text)]
    if odd:
        raise ValueError(f"{path} names {odd[0]!r} where the name of a file or folder is needed.")
    stimulus = [f"{part}_images/{concept}/{file}" for concept, file in zip(*lists, strict=True)]
    if len(set(stimulus)) < len(stimulus):
        twice = next(name for name in stimulus if stimulus.count(name) > 1)
        raise ValueError(f"{path} names the picture {twice!r} twice.")
    return pd.DataFrame({"stimulus": stimulus, "concept": lists[0]})


def _is_name(text: str) -> bool:
    """Whether a text names one file or folder and leads nowhere else."""
    return text not in ("", ".", "..") and "\\" not in text and PurePosixPath(text).name == text


def _preprocessed(path: Path, names: pd.DataFrame, channels: Sequence[str] | None) -> ArrayEpochs:
    table = read_dict(path, ("preprocessed_eeg_data", "ch_names", "times"))
    data, ch_names = table["preprocessed_eeg_data"], names_in(table, "ch_names", path)
    if not isinstance(data, np.ndarray) or data.ndim != 4 or data.dtype.kind != "f" or not data.size:
        raise ValueError(f"{path} needs preprocessed_eeg_data (n_pictures, n_repeats, n_channels, n_times).")
    n_pictures, n_repeats, n_channels, n_times = data.shape
    if n_pictures != len(names):
        raise ValueError(f"{path} has {n_pictures} pictures and image_metadata.npy names {len(names)}.")
    if n_channels != len(ch_names):
        raise ValueError(f"{path} has {n_channels} channels and names {len(ch_names)}.")
    times = _times(table["times"], n_times, path)
    sfreq = round((n_times - 1) / (times[-1] - times[0]), 6)
    info = mne.create_info(ch_names, sfreq, "eeg")
    if not data.flags.c_contiguous:
        logger.warning("%s is not in C order and is copied into memory.", path)
    trials = data.reshape(-1, n_channels, n_times)  # a view of what lies in C order
    if _is_whitened(trials):
        without_unit(info)
    metadata = pd.DataFrame(
        {
            "stimulus": np.repeat(names["stimulus"].to_numpy(), n_repeats),
            "repeat": np.tile(np.arange(n_repeats), n_pictures),
            "design_source": "documented",
        }
    )
    epochs = ArrayEpochs(trials, info, tmin=times[0], metadata=metadata)
    return epochs if channels is None else epochs.pick(list(channels))


def _times(times: Any, n_times: int, path: Path) -> np.ndarray:
    """Times of the samples. A published script cuts the baseline off the data and not off the times."""
    times = np.asarray(times)
    if times.ndim != 1 or times.dtype.kind not in "fi" or len(times) < 2 or not np.isfinite(times).all():
        raise ValueError(f"{path} needs times (s), two or more; got {times.dtype} of shape {times.shape}.")
    step = np.diff(times)
    if step.min() <= 0 or np.ptp(step) > 0.01 * step.mean():
        raise ValueError(f"{path} has times at unequal steps, {step.min():g} to {step.max():g} s.")
    rest = times[len(times) - n_times :] if len(times) > n_times else times
    if len(rest) != n_times or n_times < 2 or (len(times) > n_times and abs(rest[0]) > 0.5 * step.mean()):
        raise ValueError(f"{path} has {n_times} samples and {len(times)} times, from {times[0]:g} s.")
    return rest.astype(float)


def _is_whitened(trials: np.ndarray) -> bool:
    """Whether EEG has the noise as its unit, by the size of the first trials."""
    return float(np.median(trials[:64].astype(np.float64).std(axis=2))) > LARGEST_VOLTS


def _described(epochs: ArrayEpochs, root: Path, person: str, part: str, names: pd.DataFrame) -> ArrayEpochs:
    """With positions, a description, and what is known of all trials."""
    info = epochs.info
    unit = {int(channel["unit"]) for channel in info["chs"]}
    whitened = unit == {int(mne.io.constants.FIFF.FIFF_UNIT_NONE)}
    simulated = _is_simulated(root)
    info["description"] = f"{'simulated ' if simulated else ''}THINGS-EEG2 {person} {part}; " + (
        "whitened, in standard deviations of the noise" if whitened else "volts"
    )
    info.set_montage(read_montage(), match_case=False, on_missing="ignore", verbose="error")
    concept = names.set_index("stimulus")["concept"]
    metadata = epochs.metadata.assign(subject=person.removeprefix("sub-"))
    metadata.insert(1, "concept", concept.loc[metadata["stimulus"]].to_numpy())
    if simulated:
        metadata["simulated"] = True
    return epochs.with_metadata(metadata)


def _is_simulated(root: Path) -> bool:
    """Whether `simulate` wrote a folder: the truth that is planted lies in it."""
    path = root / "truth.json"
    try:
        return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("simulated") is True
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, so whether the data are simulated is not known.") from error


def _chosen(
    epochs: ArrayEpochs, names: pd.DataFrame, stimuli: Sequence[str] | None, n_repeats: int | None
) -> ArrayEpochs:
    metadata = epochs.metadata
    keep = np.ones(len(metadata), bool)
    if stimuli is not None:
        unknown = sorted(set(stimuli) - set(names["stimulus"]))
        if unknown:
            raise ValueError(
                f"There is no stimulus {unknown[0]!r}; the first is {names['stimulus'].iloc[0]!r}."
            )
        keep &= metadata["stimulus"].isin(set(stimuli)).to_numpy()
    if n_repeats is not None:
        most = int(metadata["repeat"].max()) + 1
        if not 1 <= n_repeats <= most:
            raise ValueError(f"n_repeats is 1 to {most} here, got {n_repeats}.")
        keep &= (metadata["repeat"] < n_repeats).to_numpy()
    if not keep.any():
        raise ValueError("No trial is chosen; name one stimulus or more.")
    return epochs if keep.all() else epochs[keep]


def _pictures(root: Path, stimuli: list[str]) -> dict[str, Path]:
    folder = PurePosixPath(stimuli[0]).parts[0]
    bases = [root / base for base in PICTURE_FOLDERS if (root / base / folder).is_dir()]
    if not bases:
        raise FileNotFoundError(
            f"There is no folder {folder} in {root}; put the pictures at {root / stimuli[0]} and so on, or name "
            "ready-made features with features=."
        )
    pictures = {name: bases[0] / name for name in stimuli}
    missing = [path for path in pictures.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(pictures)} pictures are missing; one is {missing[0]}."
        )
    return pictures


def _features(root: Path, layers: str, part: str, stimuli: list[str]) -> dict[str, np.ndarray]:
    """Features of each picture; those of several layers ("middle+last") side by side."""
    folders = {path.name: path for path in (root / "features").glob("*") if path.is_dir()}
    if not folders:
        raise FileNotFoundError(f"There is no folder {root / 'features'} with features {layers!r}.")
    values = []
    for layer in layers.split("+"):
        path = pick("features", layer, folders) / f"{part}.safetensors"
        table = read_latents(path)
        missing = [name for name in stimuli if name not in table.index]
        if missing:
            raise ValueError(
                f"{path} has no features of {missing[0]!r} and {len(missing) - 1} more of {len(stimuli)}."
            )
        values.append(table.loc[stimuli].to_numpy(np.float32))
    return dict(zip(stimuli, np.hstack(values), strict=True))
