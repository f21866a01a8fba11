"""Saliency with a planted truth: do picture and channel maps find what was put into simulated EEG?

All EEG here is simulated by brainedit.simulate. Needs no data. A picture holds four objects; the response codes one
of them, drawn at random, by dipoles below five electrodes with one peak. Settings were tuned on seed 0.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import mne
import numpy as np
import pandas as pd
import torch
from planted_brain import (
    MONTAGES,
    N_PICTURES,
    N_REGIONS,
    N_REPEATS,
    Reading,
    channel_maps,
    channel_row,
    read_brain,
)
from real_p300 import arguments, print_table, write_results
from scipy.ndimage import gaussian_filter
from scipy.stats import binom
from torch import Tensor, nn
from tqdm import tqdm

from brainedit.evaluation import Score, bootstrap_interval, permutation_p, proportion_score
from saliency.gradients import gradient_map
from saliency.image import multiscale_map, occlusion_map, region_hit
from saliency.rise import rise_map
from saliency.sanity import eeg_dependence

SNRS = (0.0, 0.1, 0.2, 0.4, 0.8)  # per trial, as `simulate_passive` defines it
BLOCK = 7  # pixels; maps of halves are correlated as means of blocks


@dataclass(frozen=True)
class Method:
    """A kind of picture map, and for how many held-out pictures it is made.

    blur : pixels; deviation of a Gaussian over the map, for maps whose single pixels are noise
    at_once : whether k scores cost as much as one; only then are halves of the repeats mapped as well
    every_level : False: only where there is no signal, and where it is clean
    """

    make: Callable[[nn.Module, Tensor], Tensor]
    n_pictures: int
    blur: float = 0.0
    at_once: bool = True
    every_level: bool = True


METHODS = {
    "occlusion": Method(partial(occlusion_map, window=56, stride=28), 40),
    "multi-scale": Method(partial(multiscale_map, windows=(28, 56, 84), stride=28), 24),
    "RISE": Method(partial(rise_map, n_masks=200, cells=7, fill=0.5), 20),
    "Grad-CAM": Method(partial(gradient_map, method="gradcam", relu=False), 24, at_once=False),
    "integrated gradients": Method(
        partial(gradient_map, baseline="blur", n_steps=32), 40, blur=28.0, at_once=False, every_level=False
    ),
}


class Together(nn.Module):
    """Pictures -> F with responses of many models, which share the image network: it is run once for all.

    responses : of each model (k, n_dims); columns stand in their order
    """

    def __init__(self, readings: list[Reading], responses: list[Tensor]) -> None:
        super().__init__()
        self.encoder = readings[0].model.image_encoder
        self.towers = nn.ModuleList([reading.model.towers for reading in readings])
        self.responses = responses
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images)
        pairs = zip(self.towers, self.responses, strict=True)
        return torch.cat([tower.embed_features(features) @ phi.T for tower, phi in pairs], 1)


@dataclass(frozen=True)
class PictureMaps:
    """What is kept of a method's maps for one model.

    hits : (n, 2) bool: the peak lies in the coded region, by own and by shuffled EEG
    nss, cc : (n, 2, n_regions): against each region, coded or not
    halves : two lists of n arrays (n, h / BLOCK, w / BLOCK); empty where no halves were mapped
    """

    hits: np.ndarray
    nss: np.ndarray
    cc: np.ndarray
    halves: tuple[list[np.ndarray], list[np.ndarray]]


def picture_maps(method: Method, readings: list[Reading], *, name: str) -> list[PictureMaps]:
    """Maps of held-out pictures for all models at once; shuffled EEG is the response to the next picture."""
    n = method.n_pictures
    found = [[] for _ in readings]
    for i, maps in enumerate(tqdm(_maps(method, readings), desc=name, total=n)):
        for reading, heat, rows in zip(readings, maps, found, strict=True):
            own, other = (i, (i + 1) % n) if method.at_once else (0, 1)
            pair = [gaussian_filter(heat[j], method.blur) for j in (own, other)]
            halves = (
                [_blocks(part) for part in heat[n:].reshape(2, n, *heat.shape[1:])] if method.at_once else []
            )
            rows.append((pair, halves, reading.truth["region"].iloc[i], _boxes(reading.truth)))
    return [_kept(rows) for rows in found]


def _maps(method: Method, readings: list[Reading]) -> Iterator[list[np.ndarray]]:
    """For each picture and model, maps (k, h, w): all mean responses and halves, or own and shuffled alone."""
    n = method.n_pictures
    score = Together(readings, [reading.phi[:, :n].flatten(0, 1) for reading in readings])
    for i in range(n):
        if not method.at_once:
            score = Together(readings, [reading.phi[0, [i, (i + 1) % n]] for reading in readings])
        image = readings[0].model.prepare_image(list(readings[0].images.values())[i])
        yield np.split(method.make(score, image).numpy(), len(readings))


def _boxes(truth: pd.DataFrame) -> np.ndarray:
    """Top, left, bottom, right of every region, (n_regions, 4)."""
    regions = truth.drop_duplicates("region").sort_values("region")
    return regions[["top", "left", "bottom", "right"]].to_numpy()


def _blocks(maps: np.ndarray) -> np.ndarray:
    n, height, width = maps.shape
    return maps.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK).mean((2, 4))


def _kept(rows: list[tuple]) -> PictureMaps:
    hits = [[region_hit(heat, tuple(boxes[region])) for heat in pair] for pair, _, region, boxes in rows]
    scores = np.array([[region_scores(heat, boxes) for heat in pair] for pair, _, _, boxes in rows])
    halves = tuple([parts[half] for _, parts, _, _ in rows if parts] for half in (0, 1))
    return PictureMaps(np.array(hits), scores[:, :, 0], scores[:, :, 1], halves)


def region_scores(heat: np.ndarray, boxes: np.ndarray) -> tuple[list[float], list[float]]:
    """NSS and CC of a map against each region: the mean z in it, and the correlation with its box.

    Of equal regions that tile the picture CC is NSS times the root of p / (1 - p), p being a region's share.
    """
    heat = heat.astype(float)
    spread = heat.std()
    z = (heat - heat.mean()) / spread if spread > 0 else np.zeros_like(heat)
    nss, cc = [], []
    for top, left, bottom, right in boxes:
        box = np.zeros_like(heat)
        box[top:bottom, left:right] = 1
        nss.append(float(z[box > 0].mean()))
        cc.append(float((z * (box - box.mean())).mean() / box.std()))
    return nss, cc


@dataclass(frozen=True)
class AgainstNull(Score):
    """A score and the 95 % of values that it has where nothing is planted."""

    null_interval: tuple[float, float] = (float("nan"), float("nan"))

    @property
    def inside(self) -> bool:
        return self.null_interval[0] <= self.value <= self.null_interval[1]

    def __str__(self) -> str:
        low, high = self.null_interval
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], null [{low:+.3f}, {high:+.3f}]"


def hit_score(hits: np.ndarray) -> AgainstNull:
    chance = 1 / N_REGIONS
    score = proportion_score(hits, name="hits", chance=chance, unit="picture")
    null = binom.interval(0.95, len(hits), chance)
    return AgainstNull(**score.as_dict(), null_interval=tuple(float(edge) / len(hits) for edge in null))


def region_score(name: str, values: np.ndarray, region: np.ndarray, *, seed: int) -> AgainstNull:
    """Mean over pictures of (n, n_regions) at the coded region; null: coded regions drawn anew."""
    rng = np.random.default_rng(seed)
    rows = np.arange(len(values))
    own = values[rows, region]
    drawn = np.array([values[rows, rng.integers(0, N_REGIONS, len(rows))].mean() for _ in range(2000)])
    ci = bootstrap_interval(lambda i: float(own[i].mean()), len(own), None, 2000, rng)
    p, null = permutation_p(own.mean(), drawn), tuple(np.quantile(drawn, [0.025, 0.975]).tolist())
    return AgainstNull(name, float(own.mean()), len(own), "picture", 0.0, *ci, p, 2000, "coded regions", null)


def dependence_score(maps: "PictureMaps", *, seed: int) -> AgainstNull:
    d = eeg_dependence(*maps.halves, seed=seed)
    return AgainstNull(
        "D", d.value, d.n_pictures, "picture", 0.0, *d.ci, d.p, d.n_permutations, "responses", d.null_interval
    )


def map_rows(maps: PictureMaps, reading: Reading, *, seed: int) -> dict[str, AgainstNull]:
    """Hits, NSS and CC by own and by shuffled EEG; D where halves were mapped."""
    region = reading.truth["region"].to_numpy()[: len(maps.hits)]
    rows = {}
    for column, eeg in enumerate(("own EEG", "shuffled EEG")):
        rows[f"hits, {eeg}"] = hit_score(maps.hits[:, column])
        rows[f"NSS, {eeg}"] = region_score("NSS", maps.nss[:, column], region, seed=seed)
        rows[f"CC, {eeg}"] = region_score("CC", maps.cc[:, column], region, seed=seed)
    if maps.halves[0]:
        rows["D"] = dependence_score(maps, seed=seed)
    return rows


def main() -> None:
    """Measure, print the tables, write the JSON file."""
    parser = arguments(__doc__.splitlines()[0], "saliency_truth")
    parser.add_argument("--seed", type=int, default=1, help="of recording, pictures, brain and training")
    parser.add_argument("--snr", type=float, nargs="+", default=SNRS, help="signal to noise of single trials")
    parser.add_argument("--channels", type=int, nargs="+", default=list(MONTAGES), choices=MONTAGES)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    mne.set_log_level("error")
    start = time.time()
    levels = [(n, snr) for n in options.channels for snr in options.snr]
    readings = [read_brain(*level, seed=options.seed) for level in tqdm(levels, desc="training")]
    print_signal(readings)
    maps = {name: print_maps(name, readings, seed=options.seed) for name in options.methods}
    channels = print_channels(readings, seed=options.seed)
    checks = print_checks(maps, channels, clean=max(options.snr))
    results = {"seed": options.seed, "maps": maps, "channels": channels, "checks": checks}
    write_results(options.out, "saliency_truth", results | {"seconds": round(time.time() - start)})


def label(reading: Reading) -> str:
    return f"{reading.n_channels} channels, snr {reading.snr:g}"


def print_signal(readings: list[Reading]) -> None:
    """How strong the planted signal is, and what a trial's signal to noise is."""
    print_table(
        f"Simulated viewing of {N_PICTURES} pictures, {N_REPEATS} repeats. snr: RMS of what tells the kinds of "
        "objects apart over\nRMS of all noise, single trials, over channels and .08 to .45 s",
        {
            label(
                r
            ): f"RMS of the signal {r.planted['topography'].max():.2f} µV at {r.planted['electrodes'][0]}"
            for r in readings
        },
    )


def print_maps(name: str, readings: list[Reading], *, seed: int) -> dict[str, dict]:
    """The table of a method; returns its rows by level."""
    method, found = METHODS[name], {}
    ends = {min(reading.snr for reading in readings), max(reading.snr for reading in readings)}
    readings = [reading for reading in readings if method.every_level or reading.snr in ends]
    for reading, maps in zip(readings, picture_maps(method, readings, name=name), strict=True):
        found[label(reading)] = map_rows(maps, reading, seed=seed)
    rows = {f"{level}: {what}": str(row) for level, some in found.items() for what, row in some.items()}
    print_table(f"{name}: maps of {method.n_pictures} held-out pictures and the coded region", rows)
    return found


def print_channels(readings: list[Reading], *, seed: int) -> dict[str, dict]:
    """Channel maps at every level, and of a second place at the clean one."""
    clean = max(reading.snr for reading in readings)
    montages = dict.fromkeys(reading.n_channels for reading in readings)
    elsewhere = [read_brain(n, clean, place="left", seed=seed) for n in montages]
    found = {}
    for reading in tqdm([*readings, *elsewhere], desc="channel maps"):
        for method, channel_map in channel_maps(reading).items():
            row = channel_row(channel_map, reading.planted) | {"snr": reading.snr}
            found[f"{label(reading)}, {reading.place}: {method}"] = row
    rows = {
        name: f"{row['overlap']} of 5  {1000 * row['latency']:.0f} ms ({1000 * row['error']:+.0f})  "
        f"{' '.join(row['channels'])} (planted {' '.join(row['planted'])})"
        for name, row in found.items()
    }
    print_table("Channel maps: largest five channels, latency and its error", rows)
    return found


def print_checks(maps: dict, channels: dict, *, clean: float) -> dict[str, str]:
    """What was hoped for, and where it is not so."""
    tables = {f"{name}, {level}": some for name, levels in maps.items() for level, some in levels.items()}
    rows = {f"{table}: {what}": row for table, some in tables.items() for what, row in some.items()}
    hits = {name: row.value >= 0.95 for name, row in rows.items() if f"snr {clean:g}: hits, own" in name}
    silent = {f"{name} {row}": row.inside for name, row in rows.items() if "snr 0:" in name}
    shuffled = {f"{name} {row}": row.inside for name, row in rows.items() if "shuffled" in name}
    series = {}
    for name, row in rows.items():
        if name.endswith(": D"):
            series.setdefault(name.rpartition(",")[0], []).append(row.value)
    rising = {name: bool((np.diff(values) > 0).all()) for name, values in series.items() if len(values) > 1}
    found = {
        name: row["overlap"] >= 4 and abs(row["error"]) <= 0.02
        for name, row in channels.items()
        if row["snr"] == clean and "noise units" in name
    }
    hopes = {
        f"at least 95 % hits at snr {clean:g}": hits,
        "inside the null interval at snr 0": silent,
        "inside it by shuffled EEG, any snr": shuffled,
        "D rises with snr": rising,
        f"4 of 5 channels, within 20 ms at snr {clean:g}": found,
    }
    checks = {hope: _exceptions(holds) for hope, holds in hopes.items()}
    print_table("What was hoped for", checks)
    return checks


def _exceptions(holds: dict[str, bool]) -> str:
    if not holds:
        return "not measured"
    wrong = [name for name, so in holds.items() if not so]
    return f"{len(holds) - len(wrong)} of {len(holds)}" + (f"; not: {'; '.join(wrong)}" if wrong else "")


if __name__ == "__main__":
    main()
