"""What of a simulated response tells kinds of objects apart: from many places, or from below given electrodes."""

from collections.abc import Sequence

import numpy as np

from brainedit._check import pick
from brainedit.simulate.head import bumps_at, head_model, leadfield, places_below
from brainedit.simulate.pictures import KINDS

CODE_WINDOW = (0.08, 0.45)  # s, when the passive response depends on the picture
PEAKS = (0.12, 0.41)  # s, where responses may peak
PEAK = 0.2  # s, where the one of a code below given electrodes does
PEAK_WIDTH = 0.03  # s, standard deviation of a peak
DEPTH = 0.82  # of the head's radius: cortex close below an electrode


def kind_patterns(
    channels: Sequence[str],
    times: np.ndarray,
    n_kinds: int,
    brain_seed: int,
    *,
    electrodes: Sequence[str] | None = None,
    latency: float | None = None,
) -> np.ndarray:
    """What tells the kinds apart (n_kinds, n_channels, n_times), mean 0 over kinds, any scale.

    electrodes : names below which all of it arises, peaking at `latency` (s; None: .2); None: ten occipito-temporal
        places, each kind with three peaks of its own in each

    The same for any channels, rate and number of kinds up to all.
    """
    rng = np.random.default_rng([brain_seed, 7])
    if electrodes is None:
        places, directions, courses = _many_places(times, len(KINDS), rng)
    else:
        places, directions, courses = _below_electrodes(times, len(KINDS), rng, electrodes, latency or PEAK)
    start, stop = CODE_WINDOW
    courses = courses * np.clip(np.minimum(times - start, stop - times) / 0.03, 0, 1)
    patterns = np.einsum("cs,kst->kct", leadfield(channels, places, directions), courses[:n_kinds])
    return (patterns - patterns.mean(axis=0)).astype(np.float32) * 1e-3


def check_code(electrodes: Sequence[str] | None, latency: float | None) -> None:
    """Raise ValueError for no or unknown electrodes, or a latency without them or whose peak would be cut off."""
    if isinstance(electrodes, str) or (electrodes is not None and len(electrodes) == 0):
        raise ValueError(f"electrodes must be a list of one or more names, got {electrodes!r}.")
    for name in electrodes or ():
        pick("electrode", name, head_model()[0])
    if electrodes is None and latency is not None:
        raise ValueError(f"latency={latency} needs electrodes; without them responses peak at many times.")
    if latency is not None and not PEAKS[0] <= latency <= PEAKS[1]:
        raise ValueError(f"latency must lie from {PEAKS[0]} to {PEAKS[1]} s, got {latency}.")


def _many_places(times: np.ndarray, n_kinds: int, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ten dipoles of random direction; each kind gives each dipole three bumps of random height."""
    names = ("O1", "O2", "PO7", "PO8", "P7", "P8", "PO3", "PO4", "TP7", "TP8")
    places, out = places_below(names)
    directions = out + 0.8 * rng.normal(size=out.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    shape = (n_kinds, len(names), 3)
    peaks, heights = rng.uniform(*PEAKS, shape), rng.normal(size=shape)
    bumps = bumps_at(times, peaks.ravel(), PEAK_WIDTH).reshape(*shape, -1)
    return places, directions, np.einsum("ksb,ksbt->kst", heights, bumps)


def _below_electrodes(
    times: np.ndarray, n_kinds: int, rng, electrodes: Sequence[str], latency: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A radial dipole below each electrode; each kind gives each dipole one bump, of random height and RMS 1."""
    places, out = places_below(electrodes, DEPTH)
    heights = rng.normal(size=(n_kinds, len(places)))
    heights -= heights.mean(axis=0)
    heights /= heights.std(axis=0)
    return places, out, heights[..., None] * bumps_at(times, latency, PEAK_WIDTH)
