"""Directions compared at equal dose: what each moves, what it drags along, and what it costs in identity."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from brainedit._check import pick
from brainedit.adversarial.kid import kid, kid_features
from brainedit.comparison_tables import ArmResult, Comparison
from brainedit.directions import Direction
from brainedit.editing import Ruler, edit_latents, path_in, step_of
from brainedit.encoders.image import ImageEncoder
from brainedit.generators.base import Generator
from brainedit.generators.prior import LatentPrior
from brainedit.judges import Judge
from brainedit.strengths import IdentityLoss

Scores = Callable[[Tensor], pd.DataFrame]
UNITS = ("euclidean", "mahalanobis")
_LEAST_FOR_KID = 20
_KEPT_PIXELS = 2**25  # of all unedited faces together, half a gigabyte


def judge_scores(judges: Mapping[str, Judge]) -> Scores:
    """Several judges as one table of scores: pictures (n, 3, height, width) -> one column a judge."""

    def scores(images: Tensor) -> pd.DataFrame:
        return pd.DataFrame({name: judge.score(images).numpy() for name, judge in judges.items()})

    return scores


def compare(
    generator: Generator,
    latents: Tensor,
    arms: Mapping[str, Direction | Sequence[Direction]],
    *,
    wanted: str,
    scores: Scores,
    steps: Sequence[float],
    space: str,
    unit: str = "euclidean",
    layers: Iterable[int] | None = None,
    locks: Sequence[Direction] = (),
    path: str = "line",
    identity: str | nn.Module = "efficientnet_lite0",
    both_ways: bool = True,
    n_per_draw: int = 8,
    n_population: int = 500,
    kid_encoder: ImageEncoder | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """The same faces moved along each arm's direction by the same steps, measured by the same scores.

    The directions' own scales play no part, so no arm gets a larger dose than another.

    latents : (n, ...) in `space`, faces that no direction was found with
    arms : a name such as "brain", "explicit", "shuffled" -> one direction, which moves all faces, or many draws,
        each of which moves `n_per_draw` faces in turn; then the draws are the units of the interval
    wanted : the column of the scores that the arms are meant to move
    scores : pictures (n, 3, height, width), 0 to 1 -> one row a picture, such as `AttributeRegressor.table` or
        `judge_scores(...)`. A judge that a direction was found with flatters that arm
    steps : lengths above 0, rising; 0 is added
    unit : "euclidean": a step is as long in the latent space for all arms, in root mean square standard
        deviations of the prior (in z standard deviations). "mahalanobis": it is as unusual. In z both are one
    layers, locks, path : as in `edit`, for all arms
    identity : as in `IdentityLoss`
    both_ways : faces are moved forwards and backwards, and a change is half the difference, since long steps in
        any direction leave the prior and move scores too (by half a standard deviation in shuffled arms); what
        both ways have in common is given as the drift. False moves forwards alone
    n_population : samples whose standard deviation is the unit of the scores
    kid_encoder : for the KID of faces moved forwards, each once, to as many samples; needs 20 faces or more in each
        arm. None leaves it out

    Raises ValueError when the scores lack the wanted column, an attribute never varies, steps are not rising, or
    as `edit` does.
    """
    latents = generator.check_latents(latents, space=space)
    doses, lists = _doses(steps), _arms(arms)
    layers = None if layers is None else list(layers)
    if min(n_per_draw, n_population - 1, n_bootstrap) < 1:
        raise ValueError(
            "Need 1 or more faces a draw and bootstraps, and 2 or more of the population; got "
            f"{n_per_draw}, {n_bootstrap} and {n_population}."
        )
    pick("unit", unit, dict.fromkeys(UNITS))
    path_in(generator, space, path)
    engine = _Engine(generator, space, scores, unit, layers, locks, path, both_ways, seed)
    strengths = {  # all that can be refused is refused before the first picture
        name: [engine.strengths(direction, doses) for direction in draws] for name, draws in lists.items()
    }
    if kid_encoder is not None:
        _check_enough(lists, len(latents), n_per_draw)
    engine.prepare(latents, wanted, identity, n_population, n_per_draw)
    results = {}
    n_jobs = sum(len(jobs) for jobs in (_jobs(draws, len(engine.blocks)) for draws in lists.values()))
    with tqdm(total=n_jobs, desc="comparing arms", disable=not progress, unit="block") as bar:
        for name, draws in lists.items():
            results[name] = engine.run(draws, strengths[name], kid_encoder, bar)
    return Comparison(results, doses, wanted, engine.names, n_bootstrap, seed)


def _doses(steps: Sequence[float]) -> np.ndarray:
    values = np.asarray(steps, np.float64)
    if (
        values.ndim != 1
        or not len(values)
        or not np.isfinite(values).all()
        or not (np.diff(values, prepend=0) > 0).all()
    ):
        raise ValueError(f"Steps are lengths above 0, rising; got {values.tolist()}.")
    return np.append(0.0, values)


def _arms(arms: Mapping[str, Direction | Sequence[Direction]]) -> dict[str, list[Direction]]:
    lists = {name: [arm] if isinstance(arm, Direction) else list(arm) for name, arm in arms.items()}
    empty = [name for name, draws in lists.items() if not draws]
    if empty or not lists:
        raise ValueError(f"An arm is one direction or more; got none for {empty[0] if empty else 'any'!r}.")
    return lists


def _check_enough(lists: dict[str, list[Direction]], n: int, n_per_draw: int) -> None:
    for name, draws in lists.items():
        moved = n if len(draws) == 1 else min(n, len(draws) * n_per_draw)
        if moved < _LEAST_FOR_KID:
            raise ValueError(f"KID needs {_LEAST_FOR_KID} faces or more; {name!r} moves {moved}.")


def _jobs(draws: Sequence[Direction], n_blocks: int) -> list[tuple[int, int]]:
    """Which draw moves which block of faces."""
    if len(draws) == 1:
        return [(0, block) for block in range(n_blocks)]
    return [(draw, draw % n_blocks) for draw in range(len(draws))]


@dataclass
class _Block:
    """Some faces: row numbers, latents, and how they were, where that is kept."""

    rows: np.ndarray
    latents: Tensor
    kept: "_AsItWas | None" = None


@dataclass
class _AsItWas:
    """Unedited pictures, what the identity loss needs of them, and their scores."""

    images: Tensor
    prepared: list
    scores: np.ndarray


@dataclass
class _Engine:
    generator: Generator
    space: str
    scores: Scores
    unit: str
    layers: list[int] | None
    locks: Sequence[Direction]
    path: str
    both_ways: bool
    seed: int

    def __post_init__(self) -> None:
        self.ruler = Ruler(self.generator, self.space)
        self.prior = None if self.space == "s" else LatentPrior(self.generator, self.space, seed=self.seed)
        self.blocks: list[_Block] = []
        self.names: list[str] = []
        self.keeps = True

    def strengths(self, direction: Direction, doses: np.ndarray) -> np.ndarray:
        """The strengths (k,) of one direction that give steps of these lengths."""
        step = step_of(self.generator, direction, space=self.space, layers=self.layers, locks=self.locks)
        if self.unit == "mahalanobis":
            return doses / self.ruler.length(step[None])[0]
        length = np.sqrt(np.square(step).sum() / (len(step) if step.ndim == 2 else 1))
        return doses * self.ruler.deviation() / length

    def prepare(
        self, latents: Tensor, wanted: str, identity: str | nn.Module, n_population: int, size: int
    ) -> None:
        """The faces as they were, and the population's standard deviations."""
        self.loss = IdentityLoss(self.generator, identity, seed=self.seed)
        one = "z" if self.space == "z" else "w"
        population = self.generator.sample(n_population, space=one, seed=self.seed + 101)
        rows = [self.scores(x) for x in self.generator.synthesize_batches(population, space=one)]
        table = pd.concat(rows, ignore_index=True)
        if wanted not in table:
            raise ValueError(f"The scores have no column {wanted!r}; they have {', '.join(map(str, table))}.")
        spread = table.std()
        still = [str(name) for name, value in spread.items() if not (np.isfinite(value) and value > 0)]
        if still:
            raise ValueError(
                f"The score {still[0]!r} is the same for all samples, or not finite; leave it out."
            )
        self.names, self.spread = list(table), spread.to_numpy()
        self.keeps = len(latents) * self.generator.image_size**2 <= _KEPT_PIXELS
        parts = torch.arange(len(latents)).split(size)
        self.blocks = [_Block(rows.numpy(), latents[rows]) for rows in parts]

    def as_it_was(self, block: _Block) -> _AsItWas:
        """The faces before any edit; made again each time where they would fill the memory."""
        if block.kept is not None:
            return block.kept
        images = self.images(block.latents)
        was = _AsItWas(images, self.loss.prepare(images), self.scored(images))
        block.kept = was if self.keeps else None
        return was

    def images(self, latents: Tensor) -> Tensor:
        with torch.no_grad():
            return self.generator.synthesize(latents, space=self.space)

    def scored(self, images: Tensor) -> np.ndarray:
        """Scores (n, n_attributes) in population standard deviations."""
        found = self.scores(images)[self.names].to_numpy(np.float64) / self.spread
        if not np.isfinite(found).all():
            raise ValueError("The scores of some edited pictures are not finite; they cannot be compared.")
        return found

    def run(
        self,
        draws: Sequence[Direction],
        strengths: Sequence[np.ndarray],
        encoder: ImageEncoder | None,
        bar: tqdm,
    ) -> ArmResult:
        """All that is measured of one arm."""
        jobs = _jobs(draws, len(self.blocks))
        parts, features, seen = [], [], set()
        for draw, number in jobs:
            block = self.blocks[number]
            once = None if number in seen else encoder  # faces that count twice would look like a narrow set
            parts.append(self.measured(block, draws[draw], strengths[draw], once, features))
            seen.add(number)
            bar.update()
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        rows = [self.blocks[number].rows for _, number in jobs]
        many = len(draws) > 1
        units = [np.full(len(r), draw) if many else r for (draw, _), r in zip(jobs, rows, strict=True)]
        found = None if encoder is None else self.kids(features, encoder)
        return ArmResult(**joined, units=np.concatenate(units), kid=found)

    def measured(
        self,
        block: _Block,
        direction: Direction,
        strengths: np.ndarray,
        encoder: ImageEncoder | None,
        features: list[list[np.ndarray]],
    ) -> dict[str, np.ndarray]:
        """Arrays (n_faces, k) and (n_faces, k, n_attributes) of one block."""
        was = self.as_it_was(block)
        found = self.one_way(block.latents, was, direction, strengths, encoder, features)
        ahead = found["changes"]
        if not self.both_ways:
            return found | {"sizes": np.abs(ahead), "drifts": np.zeros_like(ahead)}
        back = self.one_way(block.latents, was, direction, -strengths, None, features)
        joined = {key: (value + back[key]) / 2 for key, value in found.items()}
        return joined | {
            "changes": (ahead - back["changes"]) / 2,
            "sizes": (np.abs(ahead) + np.abs(back["changes"])) / 2,
            "drifts": joined["changes"],
        }

    def one_way(
        self,
        latents: Tensor,
        was: _AsItWas,
        direction: Direction,
        strengths: np.ndarray,
        encoder: ImageEncoder | None,
        features: list[list[np.ndarray]],
    ) -> dict[str, np.ndarray]:
        settings = {"space": self.space, "layers": self.layers, "locks": self.locks, "path": self.path}
        moved = edit_latents(self.generator, latents, [(direction, strengths)], **settings)
        columns: dict[str, list[np.ndarray]] = {}
        shown = []
        for part, images in zip(moved.unbind(1), self._pictures(was, moved), strict=True):
            shift = (part.double() - latents.double()).cpu().numpy()
            off = np.full(len(part), np.nan) if self.prior is None else self.prior.distance(part)
            row = {
                "changes": self.scored(images) - was.scores,
                "losses": self.loss(images, was.prepared),
                "off_prior": off,
                "mahalanobis": self.ruler.length(shift),
                "degrees": self.ruler.degrees(latents, part),
            }
            for key, value in row.items():
                columns.setdefault(key, []).append(value)
            if encoder is not None:
                shown.append(kid_features(encoder, (images * 255).round().byte()))
        if encoder is not None:
            features.append(shown)
        return {key: np.stack(values, axis=1) for key, values in columns.items()}

    def _pictures(self, was: _AsItWas, moved: Tensor) -> Iterator[Tensor]:
        yield was.images
        for part in moved[:, 1:].unbind(1):
            yield self.images(part)

    def kids(self, features: list[list[np.ndarray]], encoder: ImageEncoder) -> np.ndarray:
        """KID and its standard error (k, 2), to as many samples as there are faces."""
        edited = [np.concatenate(parts) for parts in zip(*features, strict=True)]
        one = "z" if self.space == "z" else "w"
        samples = self.generator.sample(len(edited[0]), space=one, seed=self.seed + 202)
        batches = self.generator.synthesize_batches(samples, space=one)
        real = np.concatenate([kid_features(encoder, (x * 255).round().byte()) for x in batches])
        found = [kid(part, real, seed=self.seed) for part in edited]
        return np.array([(one.value, one.standard_error) for one in found])
