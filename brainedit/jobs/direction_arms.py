"""What a brain's direction is compared with: logged targets, shuffled relevance, chance, and a judge's own scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from torch import Tensor

from brainedit.arms import judge_direction, random_directions, shuffled_directions
from brainedit.attributes import face_attributes
from brainedit.comparison import compare, judge_scores
from brainedit.comparison_tables import Comparison
from brainedit.directions import Direction, brain_direction, prior_scale
from brainedit.editing import Ruler
from brainedit.generators.base import Generator
from brainedit.judges import Judge, judge
from brainedit.relevance_inputs import HIERARCHICAL

N_DRAWS = 100  # of the shuffled and of the random arm
MULTIPLES = (1.5, 3.0)  # steps, in standard deviations of the latents along the brain's direction
N_FACES, N_PER_DRAW, N_JUDGED = 24, 2, 1000
PAINTED = "painted/"


def shuffled_arm(
    latents: pd.DataFrame,
    relevance: pd.Series,
    *,
    generator: Generator,
    space: str,
    method: str,
    groups: pd.Series | None = None,
    seed: int = 0,
) -> list[Direction]:
    """100 directions from relevance shuffled over the pictures, or over groups of pictures where there are any.

    With groups their mean relevance is exchanged between groups, and what is left inside each.
    """
    method = arm_method(method)
    if groups is None:
        settings = {"space": space, "n": N_DRAWS, "method": method, "seed": seed}
        return shuffled_directions(latents, relevance, generator=generator, **settings)
    rng = np.random.default_rng(seed)
    maker = generator if space == "w+" else None  # else it only gives a scale, at a price
    return [
        brain_direction(
            latents,
            _exchanged(relevance, groups.loc[relevance.index], rng),
            space=space,
            method=method,
            name=f"shuffled {i}",
            generator=maker,
        )
        for i in range(N_DRAWS)
    ]


def control_of(shuffled: Sequence[Direction], generator: Generator, **provenance: object) -> Direction:
    """The first shuffled direction as a control to look at, with the prior's scale."""
    first = shuffled[0]
    record = {"generator_sha256": generator.sha256, "scale_from": "prior"} | provenance
    scale = prior_scale(generator, first.vector, first.space)
    return replace(first, name="shuffled EEG", scale=scale, provenance=first.provenance | record)


def explicit_direction(
    latents: pd.DataFrame, trials: pd.DataFrame, *, generator: Generator, space: str, method: str
) -> Direction | None:
    """The direction of the logged targets of the same trials; None where all pictures were targets as often."""
    logged = trials.groupby("stimulus")["target"].mean().astype(float).loc[latents.index]
    if np.ptp(logged) == 0:
        return None
    settings = {"space": space, "method": arm_method(method), "generator": generator}
    return brain_direction(latents, logged, name="logged targets", **settings)


def arm_method(method: str) -> str:
    """The method of the arms: people have one list of logged targets, so what pools people becomes its ridge."""
    return "ridge" if method == HIERARCHICAL else method


def compare_arms(
    brain: Direction,
    shuffled: Sequence[Direction],
    generator: Generator,
    measure: str | Judge,
    *,
    explicit: Direction | None = None,
    others: Mapping[str, Direction] | None = None,
    locks: Sequence[Direction] = (),
    n_faces: int = N_FACES,
    n_per_draw: int = N_PER_DRAW,
    n_judged: int = N_JUDGED,
    seed: int = 0,
) -> Comparison:
    """The brain's direction beside logged targets, shuffled relevance, random directions and the judge's own.

    All arms move new faces by the same steps: 1.5 and 3 standard deviations of the latents along the brain's
    direction. A painted judge brings all of its attributes, so that what moves along with the wanted one is seen.

    measure : a judge or its name; others : further directions by name

    Raises ValueError as `judge` and `compare` do.
    """
    wanted, score, scores = measures_of(measure)
    space = brain.space
    judged = judge_direction(
        generator, score, space="w" if space == "w+" else space, name=wanted, n=n_judged, seed=seed + 11
    )
    arms: dict[str, Direction | Sequence[Direction]] = {"brain": brain}
    arms |= {} if explicit is None else {"logged targets": explicit}
    arms |= others or {}
    arms |= {
        "judge's own": judged,
        "shuffled": list(shuffled),
        "random": random_directions(generator, space=space, n=N_DRAWS, seed=seed + 12),
    }
    return compare(
        generator,
        generator.sample(n_faces, space=space, seed=seed + 2000),
        arms,
        wanted=wanted,
        scores=scores,
        steps=steps_of(brain, generator),
        space=space,
        locks=locks,
        path="auto",
        n_per_draw=n_per_draw,
        seed=seed,
    )


def steps_of(brain: Direction, generator: Generator) -> list[float]:
    """1.5 and 3 standard deviations along a direction, as steps of `compare`."""
    rows = len(brain.vector) if brain.vector.ndim == 2 else 1
    one = brain.scale / np.sqrt(rows) / Ruler(generator, brain.space).deviation()
    return [multiple * one for multiple in MULTIPLES]


def measures_of(
    measure: str | Judge,
) -> tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], pd.DataFrame]]:
    """The wanted column, the judge's own score, and the table of scores; ValueError as `judge`."""
    one = judge(measure) if isinstance(measure, str) else measure
    if isinstance(measure, str) and measure.startswith(PAINTED):
        return measure.removeprefix(PAINTED), one.score, face_attributes().table
    return one.name, one.score, judge_scores({one.name: one})


def _exchanged(relevance: pd.Series, groups: pd.Series, rng: np.random.Generator) -> pd.Series:
    """Relevance whose group means are dealt to other groups, and its rest to other pictures of the group."""
    codes, names = pd.factorize(groups)
    values = relevance.to_numpy()
    means = np.bincount(codes, values) / np.bincount(codes)
    rest = values - means[codes]
    for code in range(len(names)):
        own = codes == code
        rest[own] = rng.permutation(rest[own])
    return pd.Series(rng.permutation(means)[codes] + rest, index=relevance.index)
