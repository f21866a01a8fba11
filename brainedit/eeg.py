"""EEG to epochs: names, cleaning, events, and cutting by the picture that was shown; the door to EEG files."""

import logging
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from brainedit._check import pick
from brainedit.eeg_files import (
    EEGFileError,
    events_from_annotations,
    listed,
    read_epochs,
    read_events,
    read_raw,
)
from brainedit.montage import read_montage

if TYPE_CHECKING:
    import mne

__all__ = [
    "EEGFileError",
    "check_signal",
    "eeg_names",
    "events_from_annotations",
    "make_epochs",
    "preprocess",
    "read_epochs",
    "read_events",
    "read_raw",
    "standard_names",
]

logger = logging.getLogger(__name__)

OLD_NAMES = {"t3": "T7", "t4": "T8", "t5": "P7", "t6": "P8"}
OTHER_TYPES = {"EOG": "eog", "ECG": "ecg", "EKG": "ecg", "EMG": "emg"}


def standard_names(names: Sequence[str]) -> list[str]:
    """Channel names in the spelling of the 10-05 system; unknown names stay as they are.

    "FP1", "fp1." and "EEG Fp1-REF" become "Fp1"; T3, T4, T5, T6 become T7, T8, P7, P8. A name stays as it
    is where the new one would occur twice.
    """
    new = [_standard_name(name) for name in names]
    return [s if new.count(s) == 1 else old for s, old in zip(new, names, strict=True)]


def check_signal(data: np.ndarray, names: Sequence[str]) -> None:
    """Raise ValueError that names the channels that hold NaN or infinity, or are flat.

    data : (n_channels, n_times) or (n_epochs, n_channels, n_times), any unit
    A channel is flat when in every epoch it varies less than a millionth of what channels usually do.
    """
    data = np.asarray(data)
    if data.ndim not in (2, 3) or data.shape[-2] != len(names) or not data.size:
        raise ValueError(
            f"Need {len(names)} channels as (n_channels, n_times) or (n_epochs, n_channels, n_times),"
            f" got shape {data.shape}."
        )
    data = data.reshape(-1, *data.shape[-2:])
    low, high = data.min(axis=-1), data.max(axis=-1)  # (n_epochs, n_channels)
    broken = ~(np.isfinite(low) & np.isfinite(high)).all(axis=0)
    if broken.any():
        raise ValueError(
            f"NaN or infinite values in channels {listed(np.array(names)[broken])};"
            " drop these channels or trials."
        )
    span = (high - low).max(axis=0)
    flat = span <= 1e-6 * np.median(span)
    if flat.any():
        raise ValueError(f"Flat channels: {listed(np.array(names)[flat])}; drop them or mark them as bad.")


def preprocess(
    raw: "mne.io.BaseRaw",
    *,
    l_freq: float | None = 0.1,
    h_freq: float | None = 40.0,
    notch: float | None = None,
    reference: str | Sequence[str] = "average",
    resample: float | None = 250.0,
    bads: str = "keep",
    eog: str | None = None,
    rename: bool = True,
    montage: str | None = "standard_1005",
) -> "mne.io.BaseRaw":
    """A cleaned copy: names, positions, filters, bad channels, reference, eye artefacts, sampling rate.

    l_freq, h_freq : pass band in Hz, None leaves that side open
    notch : mains frequency in Hz (50 or 60); it and its multiples are removed
    reference : "average", "keep", or the channels whose mean is the new reference
    resample : Hz; a recording that is slower already keeps its rate
    bads : what becomes of `raw.info["bads"]`: "keep" (marked), "interpolate" or "drop"
    eog : eye artefacts: None leaves them, "regress" and "ica" need EOG channels
    rename : spell the names as `standard_names` does, and type EOG, ECG, EMG channels by their names
    montage : template for channels without a position, None for none

    Raises ValueError for settings the recording cannot meet, and for flat or NaN channels not marked bad.
    """
    raw = raw.copy().load_data(verbose="error")
    _check_bands(raw, l_freq=l_freq, h_freq=h_freq, notch=notch, resample=resample)
    treat_bads = pick("treatment of bad channels", bads, BADS)
    remove_eog = pick("treatment of eye artefacts", eog, EOG) if eog is not None else None
    if rename:
        _rename(raw)
    if eog is not None and not _eog_names(raw):
        raise ValueError(f"eog={eog!r} needs EOG channels; there are {listed(raw.ch_names)} only.")
    names = eeg_names(raw, exclude="bads")
    check_signal(raw.get_data(picks=names), names)
    if montage is not None:
        _fill_positions(raw, montage)
    if notch is not None:
        raw.notch_filter(
            np.arange(notch, raw.info["sfreq"] / 2, notch), picks=["eeg", "eog"], verbose="error"
        )
    if l_freq is not None or h_freq is not None:
        raw.filter(l_freq, h_freq, picks=[*eeg_names(raw), *_eog_names(raw)], verbose="error")
    treat_bads(raw)
    _set_reference(raw, reference)
    if remove_eog is not None:
        remove_eog(raw)
    if resample is not None and resample < raw.info["sfreq"]:
        raw.resample(resample, verbose="error")
    elif resample is not None and resample > raw.info["sfreq"]:
        logger.warning("Recorded at %g Hz: not resampled to %g Hz.", raw.info["sfreq"], resample)
    return raw


def make_epochs(
    raw: "mne.io.BaseRaw",
    events: pd.DataFrame,
    *,
    tmin: float = -0.2,
    tmax: float = 0.8,
    baseline: tuple[float | None, float | None] | None = (None, 0.0),
    reject_uv: float | None = None,
) -> "mne.Epochs":
    """Epochs around the events, EEG and EOG channels, loaded.

    events : as `read_events` gives them; `onset` counts seconds from the recording's first sample. Events
        without a picture ("n/a") are left out, unless no event has one: then `trial_type` alone is used
    baseline : s, within tmin to tmax, None for none
    reject_uv : drop trials in which an EEG channel's range (µV, peak to peak) exceeds this

    `metadata` has `stimulus` (stim_file as a POSIX path, nothing cut off), `label` (trial_type), `onset` (s)
    and every further column of the table (subject, session, run, block, task, target, ...).
    Raises ValueError when nothing is left to cut, onsets lie outside, or a channel is flat or NaN.
    """
    import mne

    _check_window(tmin, tmax, baseline)
    names = eeg_names(raw)
    metadata = _metadata(events)
    samples = _samples(raw, metadata)
    first = ~pd.Series(samples).duplicated().to_numpy()
    if not first.all():
        logger.warning("%d events fall on another one's sample and are left out.", (~first).sum())
    metadata, samples = metadata[first].reset_index(drop=True), samples[first]
    labels = metadata["label"].astype(str) if "label" in metadata else pd.Series("stimulus", metadata.index)
    ids = {label: k for k, label in enumerate(sorted(labels.unique()), start=1)}
    epochs = mne.Epochs(
        raw,
        np.column_stack([samples, np.zeros_like(samples), labels.map(ids)]),
        ids,
        tmin=tmin,
        tmax=tmax,
        baseline=baseline,
        picks=[*names, *_eog_names(raw)],
        reject=None if reject_uv is None else {"eeg": reject_uv * 1e-6},
        metadata=metadata,
        preload=True,
        verbose="error",
    )
    if not len(epochs):
        reasons = sorted({reason for log in epochs.drop_log for reason in log})
        raise ValueError(
            f"All {len(samples)} trials were rejected ({listed(reasons)}); check reject_uv and tmin, tmax."
        )
    if len(epochs) < len(samples):
        logger.info("%d of %d trials dropped.", len(samples) - len(epochs), len(samples))
    good = [name for name in names if name not in epochs.info["bads"]]
    check_signal(epochs.get_data(picks=good), good)
    return epochs


def eeg_names(inst: "mne.io.BaseRaw | mne.Epochs", *, exclude: str | tuple = ()) -> list[str]:
    """Names of the EEG channels; ValueError when there is none."""
    import mne

    names = [inst.ch_names[k] for k in mne.pick_types(inst.info, eeg=True, exclude=exclude)]
    if not names:
        raise ValueError(
            f"No EEG channels; the channel types are {listed(sorted(set(inst.get_channel_types())))}."
        )
    return names


@lru_cache
def _canonical(montage: str = "standard_1005") -> dict[str, str]:
    return {name.lower(): name for name in read_montage(montage).ch_names}


def _standard_name(name: str) -> str:
    bare = re.sub(r"^EEG[ _-]+", "", name.strip(), flags=re.IGNORECASE).rstrip(". ")
    bare = re.sub(r"[-_ ](REF|LE|AVG|AR|A1A2)$", "", bare, flags=re.IGNORECASE).rstrip(". ").lower()
    return OLD_NAMES.get(bare) or _canonical().get(bare, name)


def _rename(raw: "mne.io.BaseRaw") -> None:
    """Standard names in place; EEG channels that are called EOG, ECG or EMG get that type, logged."""
    old = list(raw.ch_names)
    new = standard_names(old)
    raw.rename_channels({a: b for a, b in zip(old, new, strict=True) if a != b}, verbose="error")
    types = {}
    for name in eeg_names(raw):
        found = re.search("EOG|ECG|EKG|EMG", name.upper())
        if found:
            types[name] = OTHER_TYPES[found.group()]
    if types:
        logger.warning("By their names these are no EEG channels: %s.", listed(types))
        raw.set_channel_types(types, verbose="error")


def _fill_positions(raw: "mne.io.BaseRaw", montage: str) -> None:
    """Template positions for EEG channels that have none; those that have one keep it. Logged."""
    lacking = set(_without_position(raw))
    if not lacking:
        return
    kept = {ch["ch_name"]: ch["loc"].copy() for ch in raw.info["chs"] if ch["ch_name"] not in lacking}
    template = read_montage(montage)
    known = {name.lower() for name in template.ch_names}
    lost = sorted(name for name in lacking if name.lower() not in known)
    if lost:
        logger.warning("No position in %s for channels %s.", montage, listed(lost))
    raw.set_montage(template, match_case=False, on_missing="ignore", verbose="error")
    for ch in raw.info["chs"]:
        ch["loc"][:] = kept.get(ch["ch_name"], ch["loc"])


def _without_position(raw: "mne.io.BaseRaw") -> list[str]:
    places = {ch["ch_name"]: ch["loc"][:3] for ch in raw.info["chs"]}
    return [n for n in eeg_names(raw) if not np.isfinite(places[n]).all() or not places[n].any()]


def _check_bands(raw, *, l_freq, h_freq, notch, resample) -> None:
    """Raise ValueError for frequencies that the sampling rate or each other forbid."""
    nyquist = raw.info["sfreq"] / 2
    for name, value in {"l_freq": l_freq, "h_freq": h_freq, "notch": notch, "resample": resample}.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0 Hz or None, got {value}.")
        if value is not None and name != "resample" and value >= nyquist:
            raise ValueError(
                f"{name}={value} Hz needs a sampling rate above {2 * value:g} Hz, this recording has"
                f" {2 * nyquist:g} Hz; choose {name} below {nyquist:g} or None."
            )
    if l_freq is not None and h_freq is not None and l_freq >= h_freq:
        raise ValueError(f"l_freq must be below h_freq, got {l_freq} and {h_freq} Hz.")
    if l_freq is not None and raw.times[-1] < 3.3 / l_freq:
        logger.warning("A high-pass at %g Hz needs %.0f s; only %.0f s.", l_freq, 3.3 / l_freq, raw.times[-1])


def _interpolate(raw: "mne.io.BaseRaw") -> None:
    lacking = _without_position(raw)
    if lacking and raw.info["bads"]:
        raise ValueError(
            f"bads='interpolate' needs a position for every EEG channel; {listed(lacking)} have none:"
            " set a montage, or drop these channels."
        )
    raw.interpolate_bads(reset_bads=True, verbose="error")


def _drop(raw: "mne.io.BaseRaw") -> None:
    raw.drop_channels(raw.info["bads"])
    eeg_names(raw)


def _set_reference(raw: "mne.io.BaseRaw", reference: str | Sequence[str]) -> None:
    """Re-reference in place; ValueError names the reference channels that the recording lacks."""
    if reference == "keep":
        return
    if reference != "average":
        reference = [reference] if isinstance(reference, str) else list(reference)
        missing = [name for name in reference if name not in raw.ch_names]
        if missing or not reference:
            raise ValueError(
                f"reference must be 'average', 'keep' or channels of the recording, got {listed(missing)};"
                f" its channels are {listed(raw.ch_names, 40)}."
            )
    raw.set_eeg_reference(reference, verbose="error")


def _eog_names(raw: "mne.io.BaseRaw") -> list[str]:
    return [name for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True) if kind == "eog"]


def _regress_eog(raw: "mne.io.BaseRaw") -> None:
    """Subtract what the EOG channels predict. Source: Gratton et al., 1983, without averaging (as in MNE)."""
    import mne

    names = eeg_names(raw)
    plain = raw.copy().set_eeg_reference([], verbose="error")  # MNE wants a word on the reference
    with mne.use_log_level("error"):
        model = mne.preprocessing.EOGRegression(picks="eeg", picks_artifact=_eog_names(raw), proj=False)
        cleaned = model.fit(plain).apply(plain, copy=True).get_data(picks=names)
    raw._data[[raw.ch_names.index(name) for name in names]] = cleaned


def _ica_eog(raw: "mne.io.BaseRaw") -> None:
    """Remove independent components that correlate with an EOG channel above .5; fitted above 1 Hz."""
    from mne.preprocessing import ICA

    names = _eog_names(raw)
    picks = eeg_names(raw, exclude="bads")
    fast = raw.copy().filter(1.0, None, picks=[*picks, *names], verbose="error")
    ica = ICA(random_state=0, verbose="error")
    ica.fit(fast, picks=picks, verbose="error")
    # a z-score, MNE's default measure, cannot reach its threshold with ten components or fewer
    like_eog = {"measure": "correlation", "threshold": 0.5, "verbose": "error"}
    ica.exclude = sorted({int(k) for name in names for k in ica.find_bads_eog(fast, name, **like_eog)[0]})
    logger.info("ICA removes %d of %d components.", len(ica.exclude), ica.n_components_)
    ica.apply(raw, verbose="error")


BADS: dict[str, Callable] = {"keep": lambda raw: None, "interpolate": _interpolate, "drop": _drop}

EOG: dict[str, Callable] = {"regress": _regress_eog, "ica": _ica_eog}


def _check_window(tmin, tmax, baseline) -> None:
    if not tmin < tmax:
        raise ValueError(f"tmin must be below tmax, got {tmin} and {tmax} s.")
    if baseline is not None:
        start, stop = (
            edge if given is None else given for given, edge in zip(baseline, (tmin, tmax), strict=True)
        )
        if not tmin <= start <= stop <= tmax:
            raise ValueError(
                f"baseline must lie within {tmin} to {tmax} s, got {baseline}; None leaves it out."
            )


def _metadata(events: pd.DataFrame) -> pd.DataFrame:
    """The rows to cut, in order of time, in the words of our metadata."""
    if "onset" not in events or not {"stim_file", "trial_type"} & set(events.columns):
        raise ValueError(
            f"events need 'onset' and 'stim_file' (or 'trial_type'); they have {listed(events.columns)}."
        )
    table = events.rename(columns={"stim_file": "stimulus", "trial_type": "label"})
    key = "stimulus" if "stimulus" in table and table["stimulus"].notna().any() else "label"
    if key == "label":
        table = table.drop(columns="stimulus", errors="ignore")
    keep = table[key].notna() if key in table else pd.Series(False, table.index)
    if not keep.any():
        raise ValueError(f"No events left: none of {len(table)} has a stim_file or a trial_type.")
    if not keep.all():
        logger.info("%d of %d events have no %s and are left out.", (~keep).sum(), len(table), key)
    table = table[keep].drop(columns=["duration", "sample"], errors="ignore")
    if key == "stimulus":
        paths = table["stimulus"].astype(str).str.strip().str.replace("\\", "/").str.removeprefix("./")
        table = table.assign(stimulus=paths)
    if "label" in table:
        table = table.assign(label=table["label"].fillna("n/a").astype(str))
    return table.sort_values("onset", kind="stable", ignore_index=True)


def _samples(raw: "mne.io.BaseRaw", metadata: pd.DataFrame) -> np.ndarray:
    """Sample of each onset in MNE's count, which starts at `raw.first_samp`."""
    onset = metadata["onset"].to_numpy(dtype=float)
    outside = ~((onset >= 0) & (onset <= raw.times[-1]))
    if outside.any():
        raise ValueError(
            f"{outside.sum()} of {len(onset)} events lie outside the recording of {raw.times[-1]:.3f} s,"
            f" the first at {onset[outside][0]:g}; onsets must be seconds from its first sample."
        )
    return np.round(onset * raw.info["sfreq"]).astype(int) + raw.first_samp
