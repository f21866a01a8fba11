"""Does the score live on the pixels that a map names: deletion and insertion curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from saliency.baselines import edge_map
from saliency.fills import Fill, fill_picture
from saliency.scores import Score, check_count, check_mode, check_picture, check_seed, evaluate, pick

if TYPE_CHECKING:
    import pandas as pd

Map = torch.Tensor | np.ndarray


@dataclass(frozen=True)
class Curves:
    """Scores while a picture is changed pixel by pixel, in the order of a map, of its edges, and of chance.

    share : (m,), share of the pixels that are changed, 0 to 1
    heat, edges : (m,); random : (n_random, m), one row an order
    """

    share: np.ndarray
    heat: np.ndarray
    edges: np.ndarray
    random: np.ndarray

    @property
    def areas(self) -> dict[str, float | np.ndarray]:
        """Area under each curve: the mean score on the way; "random" has one a row."""
        curves = {"heat": self.heat, "edges": self.edges, "random": self.random}
        return {name: np.trapezoid(curve, self.share, axis=-1) for name, curve in curves.items()}


@dataclass(frozen=True)
class Faithfulness:
    """Deletion (lower is better) and insertion (higher is better), and how they were made.

    step : pixels changed at a time; fill : what replaces deleted pixels; start : what insertion starts from
    unit : "raw", "z" or "rank"; against : what z or rank refers to, "" for raw
    """

    deletion: Curves
    insertion: Curves
    step: int
    fill: str
    start: str
    unit: str
    against: str

    def table(self) -> "pd.DataFrame":
        """Areas of deletion and insertion: the map, the edges, the mean and the 95 % range of random orders."""
        import pandas as pd

        rows = {}
        for name, curves in (("deletion", self.deletion), ("insertion", self.insertion)):
            areas = curves.areas
            low, high = np.quantile(areas["random"], [0.025, 0.975])
            rows[name] = areas | {"random": areas["random"].mean(), "low": low, "high": high}
        return pd.DataFrame(rows).T


def deletion_insertion(
    score: Score,
    image: torch.Tensor,
    heat: Map,
    *,
    n_steps: int = 50,
    fill: Fill = "mean",
    start: Fill = "blur",
    sigma: float = 5.0,
    unit: str = "z",
    distractors: torch.Tensor | None = None,
    n_random: int = 10,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> Faithfulness:
    """How a score falls as a map's strongest pixels go, and rises as they come, against random and edge order.

    Deletion also rewards a map for finding inputs that the score has never seen, so a map says something only
    where it beats the two other orders, and in insertion as well.

    score : pictures (n, 3, h, w) to (n,)
    heat : (h, w), at the picture's size; pixels of equal value come in random order
    n_steps : changes from the first to the last pixel, each of as many pixels; the last may be of fewer
    fill, start : what replaces deleted pixels, and what insertion starts from: as in `fills.fill_picture`
    sigma : deviation in pixels of the Gaussian of "blur"
    unit : "z": scores less their mean over the distractors (without any: over the random orders' curves, both
        kinds together), divided by their deviation (N); a deviation of 0 gives 0; "rank": the share of distractors
        that score lower, ties half; "raw"
    distractors : (m, 3, h, w), other pictures, for "z" and "rank"
    n_random : random orders; the same ones for deletion and insertion

    Raises ValueError for a picture, map, setting or score that does not fit.
    Source: RISE, Petsiuk et al., BMVC 2018, section 4. Differs: z or rank for scores without bounds; deleted
    pixels take the picture's mean colour (theirs is ImageNet's: fill=(.485, .456, .406)); the other two orders.
    """
    check_picture(image)
    check_mode(score)
    for name, value in {"n_steps": n_steps, "n_random": n_random, "batch_size": batch_size}.items():
        check_count(name, value)
    check_seed(seed)
    _check_unit(unit, distractors, image)
    shown = fill_picture(image, fill=fill, sigma=sigma, seed=seed)
    begun = fill_picture(image, fill=start, sigma=sigma, seed=seed)
    ranks = _ranks(heat, image, n_random=n_random, seed=seed)
    n_pixels = ranks[0].numel()
    step = -(-n_pixels // n_steps)
    cuts = [*range(0, n_pixels, step), n_pixels]
    ways = {"deletion": (image, shown), "insertion": (begun, image)}
    with torch.no_grad():
        raw = {
            name: _curves(score, *ends, ranks, cuts, batch_size=batch_size, label=name if progress else None)
            for name, ends in ways.items()
        }
        scored = None if distractors is None else _all_scores(score, distractors, batch_size)
    reference = np.concatenate([raw[name][2:].ravel() for name in ways]) if scored is None else scored
    against = "random orders" if scored is None else f"{len(scored)} distractors"
    against = "" if unit == "raw" else against
    share = np.array(cuts) / n_pixels
    curves = {name: _UNITS[unit](values, reference) for name, values in raw.items()}
    curves = {name: Curves(share, values[0], values[1], values[2:]) for name, values in curves.items()}
    told = [f"blur, {sigma:g} px" if part == "blur" else _told(part) for part in (fill, start)]
    return Faithfulness(**curves, step=step, fill=told[0], start=told[1], unit=unit, against=against)


def checked_map(heat: Map, name: str, shape: tuple[int, int] | None = None) -> np.ndarray:
    """The map as float64; raises ValueError unless it is (h, w), or of the given shape, and finite."""
    values = (
        heat.detach().cpu().double().numpy() if isinstance(heat, torch.Tensor) else np.asarray(heat, float)
    )
    if values.ndim != 2 or values.size == 0 or (shape is not None and values.shape != shape):
        needed = "(h, w)" if shape is None else f"of shape {tuple(shape)}"
        raise ValueError(f"Need one {name} {needed}, got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"Need a {name} of finite values, this one has NaN or infinity.")
    return values


def _check_unit(unit: str, distractors: torch.Tensor | None, image: torch.Tensor) -> None:
    pick("unit", unit, _UNITS)
    if distractors is None:
        if unit == "rank":
            raise ValueError("A rank needs other pictures to be ranked among; give distractors (m, 3, h, w).")
        return
    if unit == "raw":
        raise ValueError(
            f"Raw scores refer to no distractors, got {len(distractors)}; use unit 'z' or 'rank'."
        )
    if not isinstance(distractors, torch.Tensor):
        kind = type(distractors).__name__
        raise TypeError(
            f"Need distractors as a tensor (m, 3, h, w), got {kind}; use torch.stack on pictures."
        )
    shape = tuple(distractors.shape)
    if shape[1:] != tuple(image.shape) or len(shape) != 4 or shape[0] == 0:
        raise ValueError(f"Need distractors (m, {', '.join(map(str, image.shape))}), got shape {shape}.")
    for distractor in distractors:
        check_picture(distractor)


def _ranks(heat: Map, image: torch.Tensor, *, n_random: int, seed: int) -> torch.Tensor:
    """Each pixel's turn, from 0, in the order of the map, of the edges, and of chance: (2 + n_random, h, w)."""
    rng = np.random.default_rng(seed)
    size = tuple(image.shape[1:])
    known = (checked_map(heat, "map", size), checked_map(edge_map(image), "edge map"))
    orders = [np.lexsort((rng.random(values.size), -values.ravel())) for values in known]
    orders += [rng.permutation(known[0].size) for _ in range(n_random)]
    return torch.from_numpy(np.argsort(orders, axis=1).reshape(-1, *size)).to(image.device)


def _curves(
    score: Score,
    first: torch.Tensor,
    last: torch.Tensor,
    ranks: torch.Tensor,
    cuts: Sequence[int],
    *,
    batch_size: int,
    label: str | None,
) -> np.ndarray:
    """Scores (n_orders, m) on the way from the first to the last picture, which all orders share."""
    ends = torch.stack([_one_score(score, part[None])[0] for part in (first, last)]).cpu().double().numpy()
    inner = [(order, cut) for order in range(len(ranks)) for cut in cuts[1:-1]]
    batches = [inner[i : i + batch_size] for i in range(0, len(inner), batch_size)]
    if label is not None:
        from tqdm import tqdm

        batches = tqdm(batches, desc=label, unit="batch")
    found = []
    for batch in batches:
        orders, turns = torch.tensor(batch, device=ranks.device).T
        changed = ranks[orders] < turns[:, None, None]
        found.append(_one_score(score, torch.where(changed[:, None], last, first)).cpu().double().numpy())
    middle = np.concatenate([*found, np.empty(0)]).reshape(len(ranks), len(cuts) - 2)
    sides = np.broadcast_to(ends, (len(ranks), 2))
    return np.concatenate([sides[:, :1], middle, sides[:, 1:]], axis=1)


def _all_scores(score: Score, pictures: torch.Tensor, batch_size: int) -> np.ndarray:
    return np.concatenate(
        [_one_score(score, part).cpu().double().numpy() for part in pictures.split(batch_size)]
    )


def _one_score(score: Score, batch: torch.Tensor) -> torch.Tensor:
    values = evaluate(score, batch)
    if values.ndim != 1:
        raise ValueError(f"Need one score per picture (n,), the score returned shape {tuple(values.shape)}.")
    return values


def _z(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    if reference.min() == reference.max():
        return np.zeros(values.shape)
    return (values - reference.mean()) / reference.std()


def _rank(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    ordered = np.sort(reference)
    return (
        (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right"))
        / 2
        / len(ordered)
    )


_UNITS = {"raw": lambda values, _reference: values, "z": _z, "rank": _rank}


def _told(fill: Fill) -> str:
    if isinstance(fill, torch.Tensor) and fill.ndim == 3:
        return "a picture"
    return str(fill.tolist() if isinstance(fill, torch.Tensor) else fill)
