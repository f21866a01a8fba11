"""Sanity checks: what a map resembles that it should not, and whether it may be called a brain map."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from saliency.baselines import centre_map, edge_map
from saliency.dependence import ALPHA, EEGDependence, Maps, array_of, unit_rows
from saliency.dependence import eeg_dependence as eeg_dependence
from saliency.dependence import map_z as map_z
from saliency.scores import check_picture

ALIKE = math.sqrt(0.5)  # from this correlation on, two maps share half of their variance

WHAT_IT_SHOWS = {
    "other_eeg": "responses to other pictures stand in for this picture's",
    "mean_eeg": "the mean of all responses stands in for this picture's",
    "constant_vector": "a constant vector stands in for the response's embedding",
    "random_vector": "a random vector stands in for the response's embedding",
    "permuted_training": "the model was trained with pictures and responses paired at random",
    "random_eeg_encoder": "the EEG encoder has random weights",
    "random_image_encoder": "the image encoder has random weights",
    "random_model": "both encoders have random weights",
    "image_distance": "the score is how far the picture's embedding moves, without EEG",
    "classifier": "the score is that of a classifier of pictures, without EEG",
    "centre": "a Gaussian at the picture's centre is drawn instead",
    "edges": "the picture's edges (Sobel) are drawn instead",
}


def randomised(module: nn.Module, *, parts: Sequence[str] | None = None, seed: int = 0) -> nn.Module:
    """A copy of a network that has forgotten what it learned: a map that survives this is not about it.

    Every parameter is drawn anew from a normal of its own mean and deviation; one that has no spread, such as
    a single number, stays. Running means and variances of norm layers become their mean over channels. Other
    buffers, such as a scale fitted to the data, stay.

    parts : dotted names of submodules or parameters; only those are drawn anew. None: all

    Raises ValueError for a part that the module does not have.
    Source: Adebayo et al., NeurIPS 2018, section 3. Differs: they draw from the network's initialiser; with
    that, deep networks whose batch norm was folded into their weights die out, and any map of a dead
    network looks like a passed check.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"Need a torch module, got {type(module).__name__}.")
    copied = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    named = dict(copied.named_parameters())
    chosen = _chosen([*named, *(name for name, _ in copied.named_buffers())], parts)
    with torch.no_grad():
        for name, values in named.items():
            if name in chosen and values.is_floating_point() and values.numel() > 1:
                drawn = torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values.device)
                values.copy_(values.double().mean() + values.double().std(correction=0) * drawn)
        for name, values in copied.named_buffers():
            if name in chosen and name.rpartition(".")[2] in ("running_mean", "running_var"):
                values.fill_(values.mean())
    return copied


@dataclass(frozen=True)
class SanityCheck:
    """How much a map resembles one that it should not resemble.

    what_it_shows : what gave the other map
    r, r_abs : Spearman's correlation over pixels of the signed maps, and of their absolute values; the mean
        over several maps; NaN if it was not run
    ran, why_not : whether the two could be compared, and if not, why
    """

    name: str
    what_it_shows: str
    r: float
    r_abs: float
    ran: bool
    why_not: str = ""


def sanity_checks(
    own: Maps, alternatives: Mapping[str, Maps | str], image: torch.Tensor
) -> list[SanityCheck]:
    """Compare a map with maps that lack what should matter; the picture's centre and edges always come last.

    own : (h, w)
    alternatives : name -> map (h, w), maps (k, h, w), or a sentence why it was not run; names in
        `WHAT_IT_SHOWS` are explained by it
    image : (3, h, w), 0 to 1, for the edges

    A constant map cannot be compared and counts as not run: a network that died says nothing. Smooth maps of
    unrelated things easily reach |r| of .3 by chance, so small values mean little either way.
    Raises ValueError for maps that are not finite or differ in size.
    Source: Adebayo et al., NeurIPS 2018, section 4 (signed and absolute rank correlation). Differs: the EEG
    is exchanged and the two encoders are randomised apart; no SSIM, no HOG.
    """
    check_picture(image)
    values = array_of(own, "a map")
    if values.ndim != 2 or values.shape != tuple(image.shape[1:]):
        raise ValueError(f"Need a map of the picture's size {tuple(image.shape[1:])}, got {values.shape}.")
    baselines = {"centre": centre_map(values.shape), "edges": edge_map(image)}
    return [_check(name, values, other) for name, other in {**alternatives, **baselines}.items()]


def map_verdict(evidence: EEGDependence | float, checks: Sequence[SanityCheck] = ()) -> str:
    """The sentences that say whether maps may be called brain maps or only picture maps.

    evidence : the dependence of a set of maps, or the p of one map from `map_z`
    checks : what the map was compared with; a correlation of .71 (half of the variance) counts as alike
    """
    depends, opening = _evidence(evidence)
    too_few = isinstance(evidence, EEGDependence) and evidence.p_floor > ALPHA
    compared = [(max(check.r, check.r_abs), check) for check in checks if check.ran]
    alike, closest = max(compared, key=lambda pair: pair[0], default=(0.0, None))
    if alike >= ALIKE:
        end = "the EEG changes what is mainly a picture map" if depends else "read it as a picture map"
        return f"{opening} Most of it is there too when {closest.what_it_shows} (r = {alike:.2f}): {end}."
    if too_few:
        return opening
    if not depends:
        return f"{opening} Read it as a picture map, not as a brain map."
    if not compared:
        return f"{opening} It was compared with no map that should differ."
    return f"{opening} Of {len(compared)} maps that should differ, none is alike (largest r = {alike:.2f})."


def _evidence(evidence: EEGDependence | float) -> tuple[bool, str]:
    if isinstance(evidence, EEGDependence):
        return evidence.depends, evidence.verdict
    if not 0 <= evidence <= 1:
        raise ValueError(f"Need a p from 0 to 1, or an EEGDependence, got {evidence}.")
    if evidence <= ALPHA:
        return True, f"The map differs from those that other responses give (p = {evidence:.2g})."
    return False, f"The map cannot be told from those that other responses give (p = {evidence:.2g})."


def _check(name: str, own: np.ndarray, other: Maps | str) -> SanityCheck:
    shows = WHAT_IT_SHOWS.get(name, name)
    if isinstance(other, str):
        return SanityCheck(name, shows, math.nan, math.nan, False, other)
    maps = array_of(other, f"the map {name!r}")
    maps = maps[None] if maps.ndim == 2 else maps
    if maps.shape[1:] != own.shape:
        raise ValueError(f"Need the map {name!r} at the size {own.shape} of the own map, got {maps.shape}.")
    if not unit_rows(own[None]).any():
        return SanityCheck(name, shows, math.nan, math.nan, False, "The map itself is constant.")
    if not unit_rows(maps).any():
        return SanityCheck(name, shows, math.nan, math.nan, False, "The map to compare with is constant.")
    return SanityCheck(name, shows, _spearman(own, maps), _spearman(np.abs(own), np.abs(maps)), True)


def _spearman(own: np.ndarray, maps: np.ndarray) -> float:
    """Mean rank correlation of the map with (k, h, w) others; a constant one counts 0."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) * unit_rows(values[None]).any() for values in (own, *maps)]
    rows = unit_rows(np.stack(ranks))
    return float((rows[1:] @ rows[0]).mean())


def _chosen(names: Sequence[str], parts: Sequence[str] | None) -> set[str]:
    if parts is None:
        return set(names)
    if isinstance(parts, str):
        raise TypeError(f"Need parts as a list of names, got the single string {parts!r}.")
    found = {part: {name for name in names if name == part or name.startswith(f"{part}.")} for part in parts}
    for part, under in found.items():
        if not under:
            raise ValueError(f"The module has no parameters under {part!r}; they begin {sorted(names)[:3]}.")
    return set().union(*found.values())
