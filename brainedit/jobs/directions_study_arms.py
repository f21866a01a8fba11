"""One task of the directions study: the directions of people and crowds, faces moved by them, and their pooling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from brainedit.arms import random_directions
from brainedit.attributes import face_attributes
from brainedit.comparison import Scores, compare
from brainedit.comparison_tables import ArmResult, Comparison
from brainedit.datasets.facecat import TASK_PAIRS
from brainedit.directions import Direction, DirectionReliability, brain_direction, reliability
from brainedit.generators.base import Generator
from brainedit.generators.load import load_generator
from brainedit.judges import judge
from brainedit.relevance import pool_relevance
from brainedit.relevance_inputs import prepared

PAIRS = tuple(dict.fromkeys(TASK_PAIRS.values()))
WANTED = "wanted"
_PAINTED = "painted/"
_RELIABILITY = {"n_permutations": 200, "n_null": 1000, "n_splits": 20}

Crowds = Mapping[int, Sequence[tuple[str, ...]]]
"""Size -> for each person, in order, the crowd of that size whose direction moves this person's faces."""


@dataclass(frozen=True)
class TaskResult:
    """What one task gave.

    comparison : arms "brain, K", "explicit, K" (a draw a person: the direction of the person's crowd of K), "shuffled,
        K" and "random"; its scores are of the pairs of tasks, the wanted one higher where edits should raise it
    vectors : of each kind of direction and size ("brain, 1", "brain svr, 1"), crowd -> unit vector (n_dims,)
    predicted : one row a crowd: size, crowd, predicted_cosine, low, high
    """

    task: str
    comparison: Comparison
    vectors: dict[str, dict[tuple[str, ...], np.ndarray]]
    predicted: pd.DataFrame


def run_task(
    *,
    task: str,
    trials: pd.DataFrame,
    latents: pd.DataFrame,
    seeds: pd.DataFrame,
    crowds: Crowds,
    generator: str,
    judges: Mapping[str, str],
    n_shuffled: int,
    degrees: Sequence[float],
    seed: int,
) -> TaskResult:
    """Directions of one task, and the same faces moved along all of them.

    trials : of this task: subject, stimulus, probability, target
    seeds : of this task, in the order of people: subject, stimulus; two rows a person
    n_shuffled : draws for each size of crowd
    """
    maker = load_generator(generator)
    arms, vectors, predicted = task_arms(task, trials, latents, seeds, crowds, n_shuffled, seed)
    own = np.random.default_rng([seed, 1, list(TASK_PAIRS).index(task)]).integers(
        2**31
    )  # others in each task
    arms["random"] = random_directions(maker, space="z", n=n_shuffled, seed=int(own))
    start = torch.tensor(latents.loc[seeds["stimulus"]].to_numpy(np.float32))
    found = compare(
        maker,
        start,
        arms,
        wanted=TASK_PAIRS[task],
        scores=pair_scores(judges, task),
        steps=[step_of(angle, maker) for angle in degrees],
        space="z",
        path="auto",
        n_per_draw=2,  # draw i moves the two faces of person i
        n_population=300,
        seed=seed,
        progress=False,
    )
    return TaskResult(task, found, vectors, predicted)


def step_of(degrees: float, generator: Generator) -> float:
    """The length of a step in z that turns a typical latent by so much on a great circle."""
    return float(np.radians(degrees) * np.sqrt(generator.z_dim))


def task_arms(
    task: str,
    trials: pd.DataFrame,
    latents: pd.DataFrame,
    seeds: pd.DataFrame,
    crowds: Crowds,
    n_shuffled: int,
    seed: int,
) -> tuple[dict[str, list[Direction]], dict[str, dict], pd.DataFrame]:
    """Arms with one direction a person (draw i for person i, then round again), the vectors, predicted cosines."""
    arms: dict[str, list[Direction]] = {}
    vectors: dict[str, dict] = {}
    rows = []
    for size, of_person in crowds.items():
        looks = {crowd: Looks.of(task, crowd, trials, latents, seeds) for crowd in dict.fromkeys(of_person)}
        for kind in ("brain", "explicit"):
            found = {crowd: look.direction(kind) for crowd, look in looks.items()}
            arms[f"{kind}, {size}"] = [found[crowd] for crowd in of_person]
            vectors[f"{kind}, {size}"] = {crowd: direction.vector for crowd, direction in found.items()}
        rng = np.random.default_rng([seed, size, list(TASK_PAIRS).index(task)])
        drawn = [looks[of_person[i % len(of_person)]].shuffled(rng) for i in range(n_shuffled)]
        arms[f"shuffled, {size}"] = drawn
        if size == 1:  # the regression of the original
            svr = {crowd: look.direction("brain", "svr").vector for crowd, look in looks.items()}
            vectors["brain svr, 1"] = svr
        vectors[f"shuffled, {size}"] = {of_person[0]: drawn[0].vector}
        rows += [look.predicted() | {"size": size, "crowd": " ".join(crowd)} for crowd, look in looks.items()]
    return arms, vectors, pd.DataFrame(rows)


@dataclass(frozen=True)
class Looks:
    """What a crowd saw in a task, without the faces that its direction will move.

    latents : (n, n_dims); brain, explicit : relevance of the same faces
    """

    name: str
    latents: pd.DataFrame
    brain: pd.Series
    explicit: pd.Series

    @classmethod
    def of(
        cls,
        task: str,
        crowd: tuple[str, ...],
        trials: pd.DataFrame,
        latents: pd.DataFrame,
        seeds: pd.DataFrame,
    ) -> "Looks":
        """The crowd's looks; ValueError names people and task where they are too few or all of one kind."""
        left_out = seeds.loc[seeds["subject"].isin(crowd), "stimulus"]
        own = trials[trials["subject"].isin(crowd) & ~trials["stimulus"].isin(left_out)]
        brain = pool_relevance(own)
        explicit = own["target"].astype(float).groupby(own["stimulus"]).mean()
        name = f"{task}, person {crowd[0]}" if len(crowd) == 1 else f"{task}, {len(crowd)} people"
        if explicit.nunique() < 2:
            raise ValueError(
                f"{name}: the faces that are left to find a direction with are all of one kind ({len(explicit)} faces)."
            )
        return cls(name, latents.loc[brain.index], brain, explicit.loc[brain.index])

    def direction(self, kind: str, method: str = "ridge") -> Direction:
        """The direction of "brain" or "explicit" relevance."""
        relevance = getattr(self, kind)
        return brain_direction(self.latents, relevance, space="z", method=method, name=f"{kind}, {self.name}")

    def shuffled(self, rng: np.random.Generator) -> Direction:
        """The direction of the brain's relevance, shuffled over the same faces."""
        fit, y = prepared(self.latents, self.brain, "ridge")
        slope = fit.coefficients(rng.permutation(y))
        return Direction(slope / np.linalg.norm(slope), "z", 1.0, f"shuffled, {self.name}")

    def reliability(self) -> DirectionReliability:
        """Of the brain's direction."""
        return reliability(self.latents, self.brain, **_RELIABILITY)

    def predicted(self) -> dict[str, float]:
        """Cosine to the direction of infinitely many looks, predicted from these, with its interval."""
        found = self.reliability()
        low, high = found.predicted_interval
        return {"predicted_cosine": found.predicted_cosine, "low": low, "high": high, "n": found.n}


def pair_scores(judges: Mapping[str, str], task: str) -> Scores:
    """One score for each pair of tasks; that of the task's own pair is higher the more a face is of its kind.

    judges : task whose faces are scored high -> judge
    """
    signs = {TASK_PAIRS[high]: 1.0 for high in judges}
    signs[TASK_PAIRS[task]] = 1.0 if task in judges else -1.0
    names = {TASK_PAIRS[high]: name for high, name in judges.items()}
    made = {pair: judge(name) for pair, name in names.items()}
    if all(name.startswith(_PAINTED) for name in names.values()):  # one network reads them all at once
        table = face_attributes().table
        columns = {pair: name.removeprefix(_PAINTED) for pair, name in names.items()}

        def painted(images: Tensor) -> pd.DataFrame:
            found = table(images)
            return pd.DataFrame({pair: signs[pair] * found[columns[pair]] for pair in PAIRS})

        return painted

    def scores(images: Tensor) -> pd.DataFrame:
        return pd.DataFrame({pair: signs[pair] * made[pair].score(images).numpy() for pair in PAIRS})

    return scores


def pooled(results: Sequence[TaskResult]) -> Comparison:
    """All tasks as one comparison, the wanted score of each first.

    Units are people for the brain's and the explicit arms (whose faces a direction moved, in all tasks), draws for the
    others. Other scores keep no name: they are other pairs in other tasks.
    """
    first = results[0].comparison
    joined = {}
    for arm in first.arms:
        parts = [_wanted_first(result, arm, number) for number, result in enumerate(results)]
        columns = {
            f.name: [getattr(part, f.name) for part in parts] for f in fields(ArmResult) if f.name != "kid"
        }
        joined[arm] = ArmResult(**{key: np.concatenate(values) for key, values in columns.items()})
    others = [f"other {i + 1}" for i in range(len(PAIRS) - 1)]
    return Comparison(joined, first.steps, WANTED, [WANTED, *others], first.n_bootstrap, first.seed)


def _wanted_first(result: TaskResult, arm: str, number: int) -> ArmResult:
    """One task's arm with the wanted score in the first column; draws get units that no other task has."""
    found, own = result.comparison.arms[arm], result.comparison.attributes.index(result.comparison.wanted)
    order = [own, *(i for i in range(len(result.comparison.attributes)) if i != own)]
    units = found.units if arm.startswith(("brain", "explicit")) else 100_000 * number + found.units
    scored = {key: getattr(found, key)[..., order] for key in ("changes", "sizes", "drifts")}
    rest = {key: getattr(found, key) for key in ("losses", "off_prior", "mahalanobis", "degrees")}
    return ArmResult(**scored, **rest, units=units)
