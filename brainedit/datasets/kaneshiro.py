"""Kaneshiro et al. 2015: ten people, 72 pictures of six categories, EEG of 124 channels, from S1.mat to S10.mat."""

from collections.abc import Mapping
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import scipy.io

from brainedit.datasets.paired import PairedDataset
from brainedit.eeg import check_signal
from brainedit.eeg_files import listed
from brainedit.montage import read_montage

CATEGORIES = (
    "human_body", "human_face", "animal_body", "animal_face", "fruit_vegetable", "inanimate_object",
)  # fmt: skip
N_EXEMPLARS, N_CHANNELS, N_TIMES, SFREQ = 72, 124, 32, 62.5
VARIABLES = ("X_3D", "categoryLabels", "exemplarLabels", "Fs")


def load_kaneshiro(
    root: str | Path, *, subject: int = 1, images: str | Path | Mapping | None = None
) -> PairedDataset:
    """One person's trials, 0 to .496 s after the picture's onset, as volts at 62.5 Hz.

    root : holds S1.mat to S10.mat as published
    subject : 1 to 10
    images : the pictures are not published with the EEG. A dict, or a CSV with columns `exemplar` and `file`
        (below the CSV's folder), says which file is exemplar 1 to 72 (or "exemplar_01"). None pairs by label,
        with the category's code (6 numbers, one of them 1) where a picture's features would be

    Metadata: stimulus ("exemplar_01" to "exemplar_72"), label (category), subject, and
    design_source="documented": the files do not tell session, block or time of a trial, the publication tells
    that the order was random in 2 sessions of 3 blocks. Names E1 to E124 and their positions (GSN-HydroCel-128
    without its last four) and the filters (1 to 25 Hz) are the publication's, too.
    Raises FileNotFoundError, or ValueError when the file has another layout.
    Source: Kaneshiro et al., PLoS ONE 10(8), 2015, e0135697; purl.stanford.edu/bq914sc3730 (CC BY 3.0).
    """
    if subject not in range(1, 11):
        raise ValueError(f"subject must be 1 to 10, got {subject!r}.")
    path = Path(root) / f"S{subject}.mat"
    content = _read(path)
    data = content["X_3D"]
    category = _labels(path, content, "categoryLabels", len(CATEGORIES), data.shape[-1])
    exemplar = _labels(path, content, "exemplarLabels", N_EXEMPLARS, data.shape[-1])
    _check_exemplars(path, category, exemplar)
    metadata = pd.DataFrame(
        {
            "stimulus": [_name(number) for number in exemplar],
            "label": [CATEGORIES[number - 1] for number in category],
            "subject": f"S{subject}",
            "design_source": "documented",
        }
    )
    if "simulated" in str(content.get("note", "")):
        metadata["simulated"] = True
    epochs = _epochs(path, data, category, metadata)
    if images is None:
        codes = np.eye(len(CATEGORIES), dtype=np.float32)
        return PairedDataset(
            epochs, {k: [code] for k, code in zip(CATEGORIES, codes, strict=True)}, pair_by="label"
        )
    return PairedDataset(epochs, _pictures(images))


def _name(exemplar: int) -> str:
    return f"exemplar_{exemplar:02d}"


def _read(path: Path) -> dict:
    """The variables of a published file, its array checked."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}.")
    try:
        content = scipy.io.loadmat(path, variable_names=[*VARIABLES, "note"])
    except NotImplementedError as error:
        raise ValueError(
            f"{path} is of MATLAB 7.3, the published files are of version 5; save it with -v7."
        ) from error
    except Exception as error:  # damaged files raise anything, from zlib.error to TypeError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(f"{path} cannot be read as MATLAB 5: {reason}.") from error
    missing = [name for name in VARIABLES if name not in content]
    if missing:
        raise ValueError(f"{path} lacks {listed(missing)}; the published files have {listed(VARIABLES)}.")
    data, sfreq = content["X_3D"], np.ravel(content["Fs"])
    if data.ndim == 2:  # a single trial
        data = content["X_3D"] = data[..., None]
    if data.ndim != 3 or data.shape[:2] != (N_CHANNELS, N_TIMES) or data.dtype.kind != "f":
        raise ValueError(
            f"{path}: X_3D must be real, {N_CHANNELS} channels x {N_TIMES} samples x trials,"
            f" got {data.dtype} {data.shape}."
        )
    if sfreq.size != 1 or not np.isclose(float(sfreq[0]), SFREQ):
        raise ValueError(f"{path}: Fs must be {SFREQ} Hz, got {listed(sfreq)}.")
    return content


def _labels(path: Path, content: dict, name: str, highest: int, n_trials: int) -> np.ndarray:
    labels = np.ravel(content[name])
    if len(labels) != n_trials:
        raise ValueError(f"{path}: {name} has {len(labels)} entries, X_3D has {n_trials} trials.")
    wrong = ~np.isin(labels, np.arange(1, highest + 1))
    if wrong.any():
        raise ValueError(f"{path}: {name} must be 1 to {highest}, got {labels[wrong][0]}.")
    return labels.astype(int)


def _check_exemplars(path: Path, category: np.ndarray, exemplar: np.ndarray) -> None:
    """Raise ValueError when one picture is of two categories: the labels are of another order."""
    categories = pd.Series(category).groupby(exemplar).unique()
    mixed = categories[categories.map(len) > 1]
    if len(mixed):
        raise ValueError(
            f"{path}: exemplar {mixed.index[0]} is of categories {listed(mixed.iloc[0])}; each has one."
        )


def _epochs(path: Path, data: np.ndarray, category: np.ndarray, metadata: pd.DataFrame) -> mne.EpochsArray:
    names = [f"E{number}" for number in range(1, N_CHANNELS + 1)]
    trials = np.ascontiguousarray(data.transpose(2, 0, 1), dtype=np.float64)
    check_signal(trials, names)
    spread = trials.std()
    if not 0.05 < spread < 5000:
        raise ValueError(f"{path}: X_3D must be in µV; its standard deviation is {spread:.2g}.")
    trials *= 1e-6
    info = mne.create_info(names, SFREQ, "eeg", verbose="error")
    info.set_montage(read_montage("GSN-HydroCel-128"))
    with info._unlock():
        info["highpass"], info["lowpass"] = 1.0, 25.0
    events = np.column_stack([np.arange(len(trials)) * (N_TIMES + 1), 0 * category, category])
    ids = {CATEGORIES[k - 1]: int(k) for k in np.unique(category)}
    epochs = mne.EpochsArray(trials, info, events, tmin=0.0, event_id=ids, metadata=metadata, verbose="error")
    return epochs.set_eeg_reference([], verbose="error")  # it is the average already


def _pictures(images: str | Path | Mapping) -> dict:
    """The picture of each exemplar, by its name; each file is one exemplar's."""
    if isinstance(images, Mapping):
        pairs = list(images.items())
    elif Path(images).is_file():
        table = pd.read_csv(images, dtype=str, encoding="utf-8-sig")
        if not {"exemplar", "file"} <= set(table):
            raise ValueError(f"{images} needs columns 'exemplar' and 'file'; it has {listed(table.columns)}.")
        pairs = [
            (e, Path(images).parent / str(f)) for e, f in zip(table["exemplar"], table["file"], strict=True)
        ]
    else:
        raise ValueError(
            f"images must be a dict or a CSV that says which file is which exemplar, got {images};"
            " the order of files in a folder does not tell."
        )
    pictures: dict = {}
    for exemplar, picture in pairs:
        name = _exemplar(exemplar)
        if name in pictures:
            raise ValueError(f"{name} has two pictures; one is needed.")
        if isinstance(picture, str | Path):
            if not Path(picture).is_file():
                raise FileNotFoundError(f"There is no picture {picture} for {name}.")
            owner = next((k for k, v in pictures.items() if str(v) == str(picture)), None)
            if owner is not None:
                raise ValueError(f"{picture} stands for {owner} and for {name}; each needs its own.")
        pictures[name] = picture
    return pictures


def _exemplar(given: int | str) -> str:
    text = str(given).strip().removeprefix("exemplar_")
    if not text.isdigit() or not 1 <= int(text) <= N_EXEMPLARS:
        raise ValueError(f"An exemplar is 1 to {N_EXEMPLARS} (or 'exemplar_01'), got {given!r}.")
    return _name(int(text))
