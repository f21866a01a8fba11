"""Which cells of many neural maps differ from zero together: cluster permutation tests, by MNE."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from saliency.scores import check_count

if TYPE_CHECKING:
    import mne
    import pandas as pd
    from scipy.sparse import csr_array

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterTest:
    """Clusters of channels and moments at which the maps of several units share a sign.

    t : (n_channels, n_times) or (n_channels,), one-sample t over the units; 0 where every map is zero
    clusters : (n_clusters, *t.shape) bool, one sign each, the smallest p first
    mass : (n_clusters,), sum of t within each cluster
    p : (n_clusters,), corrected for all cells: share of sign flips (the given signs among them) whose largest
        absolute mass reaches the cluster's
    mask : as t, bool: cells of the clusters with p <= alpha
    unit, n_units : what was flipped, and how many
    threshold : |t| from which a cell can belong to a cluster
    n_permutations : sign flips behind each p
    neighbours : which channels counted as neighbours, in words
    names : of the channels
    times : (n_times,) s; sample numbers without a sampling rate; names of bands where the maps have bands
    """

    t: np.ndarray
    clusters: np.ndarray
    mass: np.ndarray
    p: np.ndarray
    mask: np.ndarray
    unit: str
    n_units: int
    threshold: float
    n_permutations: int
    alpha: float
    neighbours: str
    names: tuple[str, ...]
    times: np.ndarray

    @property
    def verdict(self) -> str:
        """One sentence on what was found; it says nothing of where a cluster begins or ends."""
        n_found, scope = int((self.p <= self.alpha).sum()), f"{self.n_units} {self.unit}"
        least = f"smallest p = {self.p.min():.3g}" if len(self.p) else f"no |t| above {self.threshold:.3g}"
        how = f"{self.n_permutations} sign flips, {self.neighbours}"
        if not n_found:
            return f"No cluster over {scope} has p at most {self.alpha:g} ({least}; {how})."
        noun = "cluster has" if n_found == 1 else "clusters have"
        return f"{n_found} {noun} p at most {self.alpha:g} over {scope} ({least}; {how})."

    def table(self) -> "pd.DataFrame":
        """A row for each cluster: p, mass, n_cells, its channels, and its first and last time."""
        import pandas as pd

        rows = []
        for cluster, mass, p in zip(self.clusters, self.mass, self.p, strict=True):
            cells = cluster.reshape(len(self.names), -1)
            names = ", ".join(name for name, hit in zip(self.names, cells.any(1), strict=True) if hit)
            moments = self.times[cells.any(0)]
            rows.append((p, mass, int(cells.sum()), names, moments[0], moments[-1]))
        return pd.DataFrame(rows, columns=["p", "mass", "n_cells", "channels", "first", "last"])


def cluster_test(
    maps: torch.Tensor | np.ndarray,
    info: "mne.Info | None" = None,
    *,
    tmin: float = 0.0,
    sfreq: float | None = None,
    bands: Sequence[str] | None = None,
    n_permutations: int = 1000,
    threshold: float | None = None,
    alpha: float = 0.05,
    unit: str = "trials",
    seed: int = 0,
) -> ClusterTest:
    """Whether the maps of several trials, pictures or people differ from zero, with one p for each cluster.

    Each map must be a difference that is as likely to be positive as negative where there is no effect, such
    as the map of a trial's own score less the mean of its maps for other scores. A map by itself has no such
    symmetry: a score whose gain is the same in every trial gives it a mean that no brain response is behind.
    The p holds for new `unit`s alone: trials of one person say nothing about other people, and units that
    share data (trials of one picture among many) are too alike to be counted one by one: average them first.
    A small p says that there is a difference; the cluster's borders are not tested.

    maps : (n, n_channels, n_times), or (n, n_channels) for one value a channel; n units
    info : with electrode positions neighbouring channels form clusters (Delaunay triangles); without, only
        successive samples of one channel do
    tmin : time of the first sample, s
    sfreq : sampling rate, Hz; None takes that of `info`
    bands : names of the bands, for maps (n, n_channels, n_bands); successive bands are neighbours
    n_permutations : sign flips; all 2 ** (n - 1) of them are taken where those are fewer
    threshold : |t| from which a cell can belong to a cluster; None: two-sided p < 0.05 of a single cell
    unit : what one map stands for, in the plural, for the verdict

    Cells that are zero in all maps, to within a millionth of the largest value, cannot join a cluster:
    rounding has a sign, too.
    Raises ValueError for maps, settings or an info that do not fit, and for so few units or permutations that
    no p could reach alpha.
    Source: Maris & Oostenveld, J. Neurosci. Methods 2007 (by MNE); Sassenhagen & Draschkow, Psychophysiology
    2019 (what a cluster does not say).
    """
    values, n_flips = _check_maps(maps, n_permutations=n_permutations, threshold=threshold, alpha=alpha)
    n, n_channels, n_times = values.shape
    sfreq = _check_info(info, n_channels, sfreq)
    if bands is not None and len(bands) != n_times:
        raise ValueError(f"Need a name for each of {n_times} bands, got {len(bands)}.")
    adjacency, neighbours = _adjacency(info, n_channels)
    cells, t = _t_values(values)
    cut = _threshold(n) if threshold is None else float(threshold)
    clusters, mass, p = np.zeros((0, n_channels, n_times), bool), np.zeros(0), np.zeros(0)
    if (np.abs(t) > cut).any():
        clusters, mass, p = _clusters(values, t, cells, adjacency, cut, n_permutations, seed)
    shape = np.shape(maps)[1:]
    return ClusterTest(
        t=t.reshape(shape),
        clusters=clusters.reshape(-1, *shape),
        mass=mass,
        p=p,
        mask=clusters[p <= alpha].any(0).reshape(shape),
        unit=unit,
        n_units=n,
        threshold=cut,
        n_permutations=n_flips,
        alpha=alpha,
        neighbours=neighbours,
        names=tuple(info["ch_names"]) if info else tuple(str(i) for i in range(n_channels)),
        times=_columns(n_times, tmin, sfreq, bands),
    )


def placed_channels(info: "mne.Info") -> list[int]:
    """EEG channels whose own position is known; none if there are too few to draw a head."""
    import mne

    picks, places = [], set()
    for pick in mne.pick_types(info, eeg=True, exclude=[]):
        place = info["chs"][pick]["loc"][:3]
        if np.isfinite(place).all() and place.any() and tuple(place) not in places:
            picks.append(int(pick))
            places.add(tuple(place))
    return picks if len(picks) >= 4 else []


def _check_maps(
    maps: torch.Tensor | np.ndarray, *, n_permutations: int, threshold: float | None, alpha: float
) -> tuple[np.ndarray, int]:
    """The maps (n, n_channels, n_times), and how many sign flips there will be."""
    values = torch.as_tensor(maps).detach().cpu().double().numpy()
    if values.ndim not in (2, 3) or values.size == 0:
        raise ValueError(f"Need maps (n, n_channels, n_times) or (n, n_channels), got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("Need maps of finite values, these have NaN or infinity.")
    check_count("n_permutations", n_permutations)
    if threshold is not None and not 0 < threshold < float("inf"):
        raise ValueError(f"Need a positive threshold for |t|, got {threshold}.")
    if not 0 < alpha < 1:
        raise ValueError(f"Need alpha between 0 and 1, got {alpha}.")
    n_flips = min(n_permutations, 2 ** (len(values) - 1))
    if 1 / n_flips > alpha:
        came = f"{len(values)} maps and {n_permutations} permutations"
        raise ValueError(
            f"Need more maps or permutations: with {came} no p is below {1 / n_flips:.3g}, alpha is {alpha:g}."
        )
    return values.reshape(*values.shape[:2], -1), n_flips


def _check_info(info: "mne.Info | None", n_channels: int, sfreq: float | None) -> float | None:
    if sfreq is not None and not 0 < sfreq < float("inf"):
        raise ValueError(f"Need a positive sampling rate in Hz, got {sfreq}.")
    if info is None:
        return sfreq
    if len(info["ch_names"]) != n_channels:
        raise ValueError(f"Need maps of the info's {len(info['ch_names'])} channels, got {n_channels}.")
    return sfreq or info["sfreq"]


def _columns(n_times: int, tmin: float, sfreq: float | None, bands: Sequence[str] | None) -> np.ndarray:
    if bands is not None:
        return np.array(list(bands))
    return tmin + np.arange(n_times) / sfreq if sfreq else np.arange(n_times)


def _adjacency(info: "mne.Info | None", n_channels: int) -> tuple["csr_array", str]:
    """Which channels are neighbours (n_channels, n_channels), and how that is said."""
    import mne
    from scipy.sparse import csr_array

    linked = np.eye(n_channels, dtype=bool)
    picks = placed_channels(info) if info is not None else []
    if not picks:
        logger.info("Electrode positions are not known: channels are no neighbours in the cluster test.")
        return csr_array(linked), "no channel neighbours another"
    placed = mne.pick_info(info, picks)
    with mne.use_log_level("ERROR"):
        triangles, _ = mne.channels.find_ch_adjacency(placed, "eeg")
    linked[np.ix_(picks, picks)] |= triangles.toarray().astype(bool)
    left_out = f" of the {len(picks)} placed channels" if len(picks) < n_channels else ""
    return csr_array(linked), f"neighbours by Delaunay triangles{left_out}"


def _threshold(n: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, n - 1))


def _t_values(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells that are not zero everywhere, and the one-sample t of each: (n_channels, n_times) both.

    A cell with one and the same value in all maps has a t of 1e9 or -1e9, not infinity or rounding error.
    """
    strength = np.abs(values).max(0)
    cells = strength > 1e-6 * strength.max()
    with np.errstate(divide="ignore", invalid="ignore"):
        t = values.mean(0) / (values.std(0, ddof=1) / np.sqrt(len(values)))
    return cells, np.where(cells, np.clip(t, -1e9, 1e9), 0.0)


def _clusters(
    values: np.ndarray,
    t: np.ndarray,
    cells: np.ndarray,
    adjacency: "csr_array",
    threshold: float,
    n_permutations: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks (n_clusters, n_channels, n_times), masses and p of the clusters, the smallest p first."""
    import mne

    with mne.use_log_level("ERROR"), np.errstate(divide="ignore", invalid="ignore"):
        _, found, p, _ = mne.stats.permutation_cluster_1samp_test(
            values.transpose(0, 2, 1),  # (n, n_times, n_channels)
            threshold=threshold,
            n_permutations=n_permutations,
            adjacency=adjacency,
            exclude=~cells.T.ravel(),
            out_type="mask",
            seed=seed,
        )
    masks = np.array([mask.T for mask in found]).reshape(-1, *t.shape)
    mass = np.array([t[mask].sum() for mask in masks])
    order = np.lexsort((-np.abs(mass), p))
    return masks[order], mass[order], np.asarray(p)[order]
