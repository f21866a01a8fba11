"""What a model does to EEG before its network: channels by name, rate, window, whitening by the noise."""

import logging
import tempfile

import mne
import numpy as np
import torch
from torch import Tensor, nn

from brainedit._check import pick
from brainedit.eeg import check_signal, standard_names
from brainedit.encoders.features import cache_folder

logger = logging.getLogger(__name__)

FULL_WHITENING_LIMIT = 2048  # features; above this the covariance is taken over channels alone
SKETCH_DIMS = 8
CHUNK = 2048  # trials that are read at once from a set on disk, fewer where they are long:
CHUNK_VALUES = 2**23  # values of these trials
IN_MEMORY = 2**30  # bytes; prepared trials above this lie in a temporary file that is mapped into memory
NOISE_VALUES = 2**26  # the noise covariance is learned from trials of at most so many values

# fmt: off
POSTERIOR = (  # Gifford et al., NeuroImage 2022: the occipital and parietal channels of the published models
    "P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2",
)
# fmt: on


class EEGInput(nn.Module):
    """Fits any recording to the model, and whitens it by the noise of the training trials.

    `prepare` turns epochs into a tensor (n, n_channels, n_times) in volts at the model's rate and window;
    the module itself turns that tensor into units of the noise's standard deviation.
    Source: Guggenmos et al., NeuroImage 2018 (multivariate noise normalisation with a shrunken
    covariance). Differs: where n_channels x n_times allows, the covariance spans channels and times, as
    shrinkage LDA's does.
    """

    def __init__(self, settings: dict) -> None:
        super().__init__()
        self.settings = settings
        n_channels, n_times = len(settings["channels"]), settings["n_times"]
        n_white = {"channels_times": n_channels * n_times, "channels": n_channels, "none": 0}[
            settings["whiten"]
        ]
        self.register_buffer("mean", torch.zeros(n_channels, n_times))
        self.register_buffer("std", torch.ones(n_channels, 1))
        self.register_buffer("whitener", torch.eye(n_white))

    @property
    def channels(self) -> list[str]:
        return self.settings["channels"]

    @property
    def n_times(self) -> int:
        return self.settings["n_times"]

    @classmethod
    def fit(
        cls,
        epochs: mne.BaseEpochs,
        keys: np.ndarray,
        *,
        channels: list[str] | str | None = None,
        tmin: float = 0.0,
        tmax: float = 0.8,
        sfreq: float = 50.0,
        whiten: str = "auto",
    ) -> "EEGInput":
        """Learn channels, window and whitening from training trials.

        keys : each trial's stimulus or label; noise is what differs between trials of one key
        channels : names, "posterior" (those of the 17 occipital and parietal ones that there are; at least 4), or
            None for every EEG channel that is not marked bad
        tmin, tmax : window (s), cut to what the epochs hold
        sfreq : rate (Hz) that the model works at; a slower recording keeps its own
        whiten : "channels_times", "channels", "none", or "auto": the first where it has at most 2048
            features
        """
        names = _chosen_channels(epochs, channels)
        rate = min(sfreq, epochs.info["sfreq"])
        first, last = max(tmin, epochs.tmin), min(tmax, epochs.tmax + 1 / epochs.info["sfreq"])
        n_times = int(np.floor((last - first) * rate + 1e-6))
        if n_times < 2:
            raise ValueError(
                f"The window {tmin} to {tmax} s holds no two samples of epochs from {epochs.tmin:.3f} to "
                f"{epochs.tmax:.3f} s."
            )
        if whiten == "auto":
            whiten = "channels_times" if len(names) * n_times <= FULL_WHITENING_LIMIT else "channels"
        settings = {
            "channels": standard_names(names),
            "tmin": float(first),
            "n_times": n_times,
            "sfreq": float(rate),
            "whiten": pick(
                "whitening", whiten, dict.fromkeys(("channels_times", "channels", "none"), whiten)
            ),
            "highpass": float(epochs.info["highpass"]),
            "lowpass": float(epochs.info["lowpass"]),
            "average_reference": bool(epochs.info["custom_ref_applied"]),
        }
        fitted = cls(settings)
        fitted._learn(fitted._read(epochs).numpy(), keys)
        return fitted

    def _learn(self, eeg: np.ndarray, keys: np.ndarray) -> None:
        from sklearn.covariance import ledoit_wolf

        n_channels = eeg.shape[1]
        mean, scale = _moments(eeg)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(scale))
        if self.settings["whiten"] == "none":
            return
        some = _whole_keys(keys, max(64, NOISE_VALUES // eeg[0].size))
        noise = _residuals(eeg[some].astype(np.float64), np.asarray(keys)[some])
        noise /= scale
        if self.settings["whiten"] == "channels_times":
            noise = noise.reshape(len(noise), -1)
        else:
            noise = noise.transpose(0, 2, 1).reshape(-1, n_channels)
        self.whitener.copy_(_inverse_root(ledoit_wolf(noise, assume_centered=True)[0]))

    def prepare(self, epochs: mne.BaseEpochs) -> Tensor:
        """Epochs of any channel order and rate -> (n, n_channels, n_times) float32, volts.

        Raises ValueError that lists all that the recording lacks, or whose unit cannot be volts.
        """
        eeg = self._read(epochs)
        ratio = float(eeg.std((0, 2)).median()) / float(self.std.median())
        if not 0.01 < ratio < 100:
            raise ValueError(
                f"These epochs vary {ratio:.2g} times as much as those that trained the model; is their unit volts?"
            )
        return eeg

    def _read(self, epochs: mne.BaseEpochs) -> Tensor:
        want = self.settings
        index = _channel_index(epochs, self.channels)
        problems = _differences(epochs, want, index)
        if problems:
            raise ValueError(f"These epochs do not fit the model: {'; '.join(problems)}.")
        order = [index[name] for name in self.channels]
        prepared = _store((len(epochs), len(order), want["n_times"]))
        at_once = _at_once(len(order) * len(epochs.times))
        size = len(epochs) if isinstance(epochs, mne.BaseEpochs) else at_once
        for start in range(0, len(epochs), size):
            part = epochs if size == len(epochs) else epochs[start : start + size]
            data = part.get_data(picks=order, copy=False)
            check_signal(data, self.channels)
            prepared[start : start + size] = _bins(data, epochs.times, want)
        return torch.from_numpy(prepared)

    def forward(self, eeg: Tensor) -> Tensor:
        x = self._scaled(eeg)
        if self.settings["whiten"] == "channels_times":
            return (x.flatten(1) @ self.whitener).view_as(x)
        return self.whitener @ x if self.settings["whiten"] == "channels" else x

    def sketch(self, eeg: Tensor) -> np.ndarray:
        """A fingerprint of each prepared trial, (n, 8), that survives saving and rounding."""
        n_values, generator = self.mean.numel(), torch.Generator().manual_seed(1)
        directions = torch.randn(n_values, SKETCH_DIMS, generator=generator, dtype=torch.float64)
        # filled and not collected: small results between large temporaries keep these from being used again
        sketches, n = np.empty((len(eeg), SKETCH_DIMS), np.float32), _at_once(n_values)
        for start in range(0, len(eeg), n):
            x = self._scaled(eeg[start : start + n]).flatten(1).double().cpu()
            sketches[start : start + n] = (x @ directions / x.norm(dim=1, keepdim=True)).numpy()
        return sketches

    def whitened(self, eeg: Tensor) -> Tensor:
        """`forward` for many trials, in place: what comes is overwritten, so that nothing lies in memory twice."""
        with torch.no_grad():
            for chunk in eeg.split(_at_once(self.mean.numel())):
                chunk.copy_(self(chunk))
        return eeg

    def _scaled(self, eeg: Tensor) -> Tensor:
        """Trials less the mean, in standard deviations; one channel or sample would fit by broadcasting too."""
        n_channels, n_times = len(self.channels), self.n_times
        if eeg.ndim != 3 or eeg.shape[1:] != (n_channels, n_times):
            raise ValueError(
                f"Need EEG (n, {n_channels}, {n_times}) as prepare_eeg gives it, got {tuple(eeg.shape)}."
            )
        return (eeg - self.mean) / self.std


def _chosen_channels(epochs: mne.BaseEpochs, channels: list[str] | str | None) -> list[str]:
    if channels is not None and not isinstance(channels, str):
        return channels
    names = [epochs.ch_names[i] for i in mne.pick_types(epochs.info, eeg=True, exclude="bads")]
    if not names:
        raise ValueError(
            "The epochs have no EEG channel that is not marked bad; their types are "
            f"{', '.join(sorted(set(epochs.get_channel_types())))}."
        )
    if channels is None or pick("choice of channels", channels, {"all": True, "posterior": False}):
        return names
    posterior = [name for name in standard_names(names) if name in POSTERIOR]
    if len(posterior) < 4:
        raise ValueError(
            f"channels='posterior' needs at least 4 of {', '.join(POSTERIOR)}; there are {len(posterior)}. Name the "
            "channels, or take channels='all'."
        )
    return posterior


def _store(shape: tuple[int, ...]) -> np.ndarray:
    """An array to fill (float32): in memory, or in a temporary file that vanishes with it where it is large."""
    if 4 * np.prod(shape, dtype=float) <= IN_MEMORY:
        return np.empty(shape, np.float32)
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.float32, "w+", shape=shape)


def _at_once(n_values: int) -> int:
    """How many trials of so many values are worked on at once."""
    return max(1, min(CHUNK, CHUNK_VALUES // n_values))


def _moments(eeg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over trials (n_channels, n_times) and SD over trials and times (n_channels, 1), in double precision."""
    n = _at_once(eeg[0].size)
    starts = range(0, len(eeg), n)
    mean = sum(eeg[s : s + n].sum(0, dtype=np.float64) for s in starts) / len(eeg)
    middle = mean.mean(1)[:, None]
    squares = sum(((eeg[s : s + n] - middle) ** 2).sum((0, 2), dtype=np.float64) for s in starts)
    return mean, np.sqrt(squares / (len(eeg) * eeg.shape[2]))[:, None]


def _whole_keys(keys: np.ndarray, n_most: int) -> np.ndarray:
    """Trials to learn the noise from: all, or those of keys drawn at random until there are `n_most`."""
    names, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    if len(keys) <= n_most:
        return np.arange(len(keys))
    order = np.random.default_rng(0).permutation(len(names))
    taken = order[: max(1, int(np.searchsorted(np.cumsum(counts[order]), n_most)))]
    return np.flatnonzero(np.isin(inverse, taken))[: 4 * n_most]


def _bins(data: np.ndarray, times: np.ndarray, want: dict) -> np.ndarray:
    """Means over the model's sampling intervals: low-pass and resampling that see no sample outside.

    An interval begins at the sample nearest to its edge, so that none is empty where `_differences` agrees.
    """
    edges = want["tmin"] + np.arange(want["n_times"] + 1) / want["sfreq"]
    nearest = np.floor((edges - times[0]) * (len(times) - 1) / (times[-1] - times[0]) + 0.5 + 1e-6)
    bounds = np.clip(nearest.astype(int), 0, len(times))
    if (np.diff(bounds) == 1).all():
        return data[..., bounds[0] : bounds[-1]]
    sums = np.concatenate(
        [np.zeros((*data.shape[:-1], 1)), np.cumsum(data, axis=-1, dtype=np.float64)], axis=-1
    )
    return np.diff(sums[..., bounds], axis=-1) / np.diff(bounds)


def _channel_index(epochs: mne.BaseEpochs, channels: list[str]) -> dict[str, int]:
    have = {name.lower(): i for i, name in enumerate(standard_names(epochs.ch_names))}
    return {name: have[name.lower()] for name in channels if name.lower() in have}


def _differences(epochs: mne.BaseEpochs, want: dict, index: dict[str, int]) -> list[str]:
    problems = []
    missing = [name for name in want["channels"] if name not in index]
    if missing:
        problems.append(f"channels {', '.join(missing)} are missing")
    bad = [
        name
        for name in want["channels"]
        if name in index and epochs.ch_names[index[name]] in epochs.info["bads"]
    ]
    if bad:
        problems.append(f"channels {', '.join(bad)} are marked bad, interpolate them first")
    last = want["tmin"] + want["n_times"] / want["sfreq"]
    half = 0.49 / want["sfreq"]
    if epochs.tmin > want["tmin"] + half or epochs.tmax + 1 / epochs.info["sfreq"] < last - half:
        window = f"{epochs.tmin:.3f} to {epochs.tmax:.3f} s"
        problems.append(f"they span {window} where {want['tmin']:.3f} to {last:.3f} s is needed")
    if epochs.info["sfreq"] < want["sfreq"] - 1e-6:
        problems.append(
            f"their rate is {epochs.info['sfreq']:g} Hz where at least {want['sfreq']:g} Hz is needed"
        )
    if bool(epochs.info["custom_ref_applied"]) != want["average_reference"]:
        problems.append(
            "the model was trained on "
            + ("re-referenced EEG" if want["average_reference"] else "EEG as it was recorded")
            + ", these epochs are "
            + ("not" if want["average_reference"] else "re-referenced")
        )
    if epochs.info["lowpass"] < 0.5 * min(want["lowpass"], want["sfreq"] / 2):
        problems.append(
            f"they are low-passed at {epochs.info['lowpass']:g} Hz, the model's at {want['lowpass']:g} Hz"
        )
    if epochs.info["highpass"] > max(2 * want["highpass"], 0.5):
        problems.append(
            f"they are high-passed at {epochs.info['highpass']:g} Hz, the model's at {want['highpass']:g} Hz"
        )
    return problems


def _residuals(eeg: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Trials less the mean of their key, scaled for the degree of freedom that the mean takes.

    Where keys hardly repeat, the grand mean is all that can be taken away. What comes is overwritten: of a large
    set, copies of it would be most of the memory that training takes.
    """
    groups, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    if counts[inverse].mean() < 2 or len(groups) > 0.75 * len(keys):
        eeg -= eeg.mean(0)
        return eeg
    means = np.zeros((len(groups), *eeg.shape[1:]))
    np.add.at(means, inverse, eeg)
    means /= counts[:, None, None]
    factor = np.sqrt(counts / np.maximum(counts - 1, 1))[:, None, None]
    n = _at_once(eeg[0].size)
    for start in range(0, len(eeg), n):
        some, key = slice(start, start + n), inverse[start : start + n]
        eeg[some] -= means[key]
        eeg[some] *= factor[key]
    repeated = counts[inverse] > 1
    return eeg if repeated.all() else eeg[repeated]


def _inverse_root(covariance: np.ndarray) -> Tensor:
    values, vectors = np.linalg.eigh(covariance)
    return torch.from_numpy((vectors / np.sqrt(np.maximum(values, 1e-12))) @ vectors.T)
