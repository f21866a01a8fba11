"""Simulated recordings with a planted code, models of them, and where and when those find the code.

All EEG here is simulated by brainedit.simulate. Used by saliency_truth.py.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from brainedit.datasets.paired import PairedDataset
from brainedit.eeg_input import POSTERIOR
from brainedit.joint import JointModel
from brainedit.joint_training import train_joint
from brainedit.montage import read_montage
from brainedit.simulate.viewing import simulate_passive
from saliency.bands import window_maps
from saliency.neural import neural_maps

MONTAGES = {64: tuple(read_montage("biosemi64").ch_names), 17: POSTERIOR}
PLACES = {  # electrodes above the dipoles, latency (s)
    "right": (("P8", "PO8", "P6", "PO4", "O2"), 0.2),
    "left": (("P7", "P5", "P3", "P1", "PO3"), 0.3),
}
N_PICTURES, N_REPEATS, N_REGIONS, SFREQ = 640, 8, 4, 200.0
TRAINING = {"n_epochs": 40, "tmax": 0.5}
N_OTHERS = 2  # responses to other pictures beside the own one, in channel maps


@dataclass(frozen=True, eq=False)
class Reading:
    """A model of one simulated recording and held-out responses, which no training saw.

    truth : of the held-out pictures, in the order of responses
    eeg : their mean responses (n, n_channels, n_times), volts; theta : the pictures (n, n_dims)
    phi : embedded mean responses and the means of odd and of even repeats, (3, n, n_dims)
    """

    n_channels: int
    snr: float
    place: str
    model: JointModel
    truth: pd.DataFrame
    planted: dict
    images: dict[str, np.ndarray]
    eeg: Tensor
    theta: Tensor
    phi: Tensor


def read_brain(n_channels: int, snr: float, *, place: str = "right", seed: int) -> Reading:
    """Simulate a viewing and train on four fifths of its pictures."""
    electrodes, latency = PLACES[place]
    viewing = simulate_passive(
        n_pictures=N_PICTURES,
        n_repeats=N_REPEATS,
        n_regions=N_REGIONS,
        snr=snr,
        channels=MONTAGES[n_channels],
        sfreq=SFREQ,
        electrodes=electrodes,
        latency=latency,
        brain_seed=seed,
        seed=seed,
    )
    dataset = PairedDataset(viewing.epochs, viewing.images)
    held_out = np.random.default_rng(seed).permutation(list(viewing.images))[: N_PICTURES // 5]
    is_test = np.isin(dataset.keys, held_out)
    model = train_joint(dataset.subset(~is_test), **TRAINING, seed=seed, progress=False)
    test = dataset.subset(is_test)
    run = test.metadata["run"].to_numpy()
    parts = [
        test.average([np.flatnonzero((test.keys == name) & kept) for name in held_out])
        for kept in (run > 0, run % 2 == 1, run % 2 == 0)
    ]
    pictures = {name: viewing.images[name] for name in held_out}
    with torch.no_grad():
        phi = torch.stack([model.embed_eeg(model.prepare_eeg(part.epochs)) for part in parts])
    eeg, theta = model.prepare_eeg(parts[0].epochs), model.embed_pictures(pictures).clone()
    truth = viewing.truth.loc[held_out]
    return Reading(n_channels, snr, place, model, truth, viewing.planted, pictures, eeg, theta, phi)


@dataclass(frozen=True)
class ChannelMap:
    """Where and when F's preference for the own response comes from.

    values : by channel, the largest first; latency : s, where the sum over channels peaks
    """

    values: pd.Series
    latency: float

    def overlap(self, planted: dict) -> int:
        """How many of the five largest channels are among the five largest planted ones."""
        return len(set(self.values.index[:5]) & set(planted["electrodes"][:5]))


def channel_maps(reading: Reading) -> dict[str, ChannelMap]:
    """Maps of F of the own response less F of other responses, averaged over all held-out pictures.

    In units of the noise, after the model's whitening, a channel that holds signal adds a positive share to F.
    In volts a map shows the model's spatial filter too, and that weighs channels which only hold noise to be
    taken away, with either sign (Haufe et al., NeuroImage 2014); these maps are given beside.
    """
    whiten = reading.model.eeg_input
    with torch.no_grad():
        white = whiten(reading.eeg)
    found = {}
    for unit, eeg, before in (("noise units", white, nn.Identity()), ("volts", reading.eeg, whiten)):
        towers = nn.Sequential(before, _EEGTower(reading.model))
        for method, explain in {"integrated gradients": _by_gradients, "matched noise": _by_noise}.items():
            parts = [explain(towers, eeg, theta, i) for i, theta in enumerate(reading.theta)]
            by_channel, by_time = (torch.stack(part).mean(0) for part in zip(*parts, strict=True))
            values = pd.Series(by_channel.numpy(), whiten.channels).sort_values(ascending=False)
            found[f"{method}, {unit}"] = ChannelMap(values, _latency(reading, by_time))
    return found


class _EEGTower(nn.Module):
    """Whitened EEG -> phi."""

    def __init__(self, model: JointModel) -> None:
        super().__init__()
        self.tower = model.towers

    def forward(self, eeg: Tensor) -> Tensor:
        return self.tower.embed_eeg(eeg)


def _by_gradients(embed: nn.Module, eeg: Tensor, theta: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """Own less others, by channel and by time; the baseline is the mean of the other responses."""
    chosen = _own_and_others(i, len(eeg))
    baseline = eeg[torch.arange(len(eeg)) != i].mean(0)
    maps = neural_maps(
        lambda batch: embed(batch) @ theta, eeg[chosen], baseline=baseline, n_steps=12, batch_size=512
    )
    difference = maps[0] - maps[1:].mean(0)
    return difference.sum(1), difference.sum(0)


def _by_noise(embed: nn.Module, eeg: Tensor, theta: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """Own less others: each channel's whole row replaced by noise, and three samples of all channels."""
    trials, settings = eeg[_own_and_others(i, len(eeg))], {"n_draws": 4, "batch_size": 512, "seed": i}

    def score(batch: Tensor) -> Tensor:
        return embed(batch) @ theta

    with torch.no_grad():
        rows = neural_maps(score, trials, method="occlusion", **settings)[..., 0]
        times, _ = window_maps(score, trials, sfreq=1.0, tmin=0.0, length=3.0, step=1.0, **settings)
    times = nn.functional.pad(times, (1, 1))  # a window's value stands at its middle sample
    return rows[0] - rows[1:].mean(0), times[0] - times[1:].mean(0)


def _own_and_others(i: int, n: int) -> list[int]:
    return [(i + step) % n for step in range(1 + N_OTHERS)]


def _latency(reading: Reading, by_time: Tensor) -> float:
    """Time, s, of the largest value after a Gaussian of one sample.

    Each of the model's samples is the mean of the recording's samples in its interval, whose centre is its time.
    """
    settings = reading.model.eeg_input.settings
    largest = int(gaussian_filter1d(by_time.numpy().astype(float), 1.0).argmax())
    return float(settings["tmin"] + (largest + 0.5) / settings["sfreq"] - 0.5 / SFREQ)


def channel_row(found: ChannelMap, planted: dict) -> dict:
    """What the table says of a channel map."""
    return {
        "overlap": found.overlap(planted),
        "latency": found.latency,
        "error": found.latency - planted["peak_latency"],
        "channels": list(found.values.index[:5]),
        "planted": planted["electrodes"][:5],
    }
