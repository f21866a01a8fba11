"""Which electrode, when, and in which frequency band a model's score depends on, with a cluster test.

All of it is asked of EEG in units of its noise, after the model's whitening: there a channel that holds signal adds
to F. In volts a map shows the spatial filter too, which weighs channels that only hold noise to be taken
away (Haufe et al., NeuroImage 2014): on simulations with a known source gradients in volts found 0 or 1 of its 5
channels, in units of the noise 4 or 5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mne
import numpy as np
import torch
from torch import Tensor, nn

from brainedit.jobs.map_dependence import Source
from brainedit.jobs.map_trials import other_trials
from brainedit.jobs.picture_maps import prepare_picture
from brainedit.joint import JointModel
from brainedit.montage import read_montage
from saliency.bands import BANDS, band_map
from saliency.clusters import ClusterTest, cluster_test
from saliency.neural import neural_map, neural_maps

FEWEST_UNITS = 6  # with fewer trials or pictures no p of a cluster test can reach .05
MOST_TRIALS = 64  # of one kind whose maps are drawn for the cluster test


@dataclass(frozen=True)
class BrainMaps:
    """What of the response F depends on.

    neural : (n_channels, n_times), integrated gradients of F for the mean response, from the mean of the others
    clusters : where maps differ from those of other EEG, or None; tested : what was tested, or why it was not
    bands : name to (low, high), Hz; by_band : (n_channels, n_bands), fall of F without the band's phases
    """

    neural: np.ndarray
    clusters: ClusterTest | None
    tested: str
    bands: dict[str, tuple[float, float]]
    by_band: np.ndarray


def brain_maps(
    model: JointModel,
    epochs: mne.BaseEpochs,
    image: Tensor,
    own: np.ndarray,
    sources: Sequence[Source] = (),
    *,
    seed: int = 0,
) -> BrainMaps:
    """Neural map, its cluster test over trials (or, where they are too few, over pictures), and band map.

    image : (3, h, w) as the model sees it; own : (n,) bool, the trials of this picture
    sources : pictures with their trials, this one first
    """
    with torch.no_grad():
        eeg, own = model.eeg_input(model.prepare_eeg(epochs)), np.array(own, bool)
        theta = model.embed_image(image.to(model.device)[None])[0]
    score = _WhiteScore(model, theta)
    others = other_trials(epochs, own)
    response, rest = eeg[own].mean(0), eeg[others].mean(0)
    bands, sfreq = usable_bands(model), model.eeg_input.settings["sfreq"]
    clusters, tested = _clusters(model, eeg, theta, (own, others), sources, seed)
    return BrainMaps(
        neural=neural_map(score, response, baseline=rest).cpu().numpy(),
        clusters=clusters,
        tested=tested,
        bands=bands,
        by_band=band_map(score, response, sfreq=sfreq, bands=bands, n_draws=8, seed=seed).cpu().numpy(),
    )


class _WhiteScore(nn.Module):
    """Whitened EEG (n, n_channels, n_times) -> F with one image's embedding, (n,)."""

    def __init__(self, model: JointModel, theta: Tensor) -> None:
        super().__init__()
        self.towers = model.towers
        self.register_buffer("theta", theta)

    def forward(self, eeg: Tensor) -> Tensor:
        return self.towers.embed_eeg(eeg) @ self.theta


def usable_bands(model: JointModel) -> dict[str, tuple[float, float]]:
    """The standard bands, as far as the model's sampling rate and the length of its trials hold them."""
    n_times, sfreq = model.eeg_input.n_times, model.eeg_input.settings["sfreq"]
    spacing, nyquist = sfreq / n_times, sfreq / 2
    found = {}
    for name, (low, high) in BANDS.items():
        first, top = max(1, math.ceil(low / spacing - 1e-6)), min(high, nyquist)
        last = n_times // 2 if top == nyquist else math.ceil(top / spacing - 1e-6) - 1
        if low < nyquist and first <= last:
            found[name] = (low, top)
    return found


def model_info(model: JointModel) -> mne.Info:
    """The model's channels with standard positions where their names have one."""
    info = mne.create_info(
        model.eeg_input.channels, model.eeg_input.settings["sfreq"], "eeg", verbose="error"
    )
    info.set_montage(read_montage(), match_case=False, on_missing="ignore", verbose="error")
    return info


def _clusters(
    model: JointModel,
    eeg: Tensor,
    theta: Tensor,
    masks: tuple[np.ndarray, np.ndarray],
    sources: Sequence[Source],
    seed: int,
) -> tuple[ClusterTest | None, str]:
    """eeg : whitened; masks : which trials are this picture's, and which are of others"""
    n_pairs = min(int(mask.sum()) for mask in masks)
    if n_pairs >= FEWEST_UNITS:
        maps, unit = _trial_differences(_WhiteScore(model, theta), eeg, *masks, seed), "pairs of trials"
        tested = "maps of single trials, each of this picture less one of another picture"
    elif len(sources) >= FEWEST_UNITS:
        maps, unit = _picture_differences(model, eeg, sources), "pictures"
        tested = (
            "maps of each picture's mean response, for F with that picture less the mean F with the others"
        )
    else:
        return None, (
            f"No cluster test was run: it needs {FEWEST_UNITS} trials of this picture, and as many of others, or "
            f"{FEWEST_UNITS} pictures that were shown twice or more; there are {masks[0].sum()}, {masks[1].sum()} "
            f"and {len(sources)}."
        )
    settings = model.eeg_input.settings
    found = cluster_test(maps, model_info(model), tmin=settings["tmin"], unit=unit, seed=seed)
    return found, f"Tested: {tested}. {found.verdict}"


def _trial_differences(
    score: nn.Module, eeg: Tensor, own: np.ndarray, others: np.ndarray, seed: int
) -> np.ndarray:
    """Each own trial's map less that of one other trial, (n, n_channels, n_times), for the same score and baseline.

    Where own and other trials are alike, each difference is as likely with the other sign. Against one mean map of
    the others all differences would share its noise; against a baseline of the others alone, its bias.
    """
    rng = np.random.default_rng(seed)
    n = min(int(own.sum()), int(others.sum()), MOST_TRIALS)
    drawn = [np.sort(rng.permutation(np.flatnonzero(chosen))[:n]) for chosen in (own, others)]
    mine, theirs = (neural_maps(score, eeg[some], baseline=eeg.mean(0)).cpu() for some in drawn)
    return (mine - theirs).numpy()


def _picture_differences(model: JointModel, eeg: Tensor, sources: Sequence[Source]) -> np.ndarray:
    """A map for each picture's mean response, (n, n_channels, n_times), for F with it less F with the others.

    Where responses say nothing about pictures, these maps have a mean of 0.
    """
    with torch.no_grad():
        theta = torch.cat(
            [model.embed_image(prepare_picture(model, source.picture)[None]) for source in sources]
        )
    n, baseline = len(sources), torch.stack([eeg[source.trials].mean(0) for source in sources])
    contrasts = (theta - theta.mean(0)) * (n / (n - 1))
    maps = []
    for contrast, response in zip(contrasts, baseline, strict=True):
        maps.append(neural_map(_WhiteScore(model, contrast), response, baseline=baseline.mean(0)))
    return torch.stack(maps).cpu().numpy()
