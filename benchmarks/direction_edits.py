"""End to end on the bundled faces: a crowd's simulated EEG -> a direction -> new faces edited, beside labels.

The people looked for upper halves of an attribute, read by the bundled regressor, which also measures the edits:
it flatters all arms alike. All EEG here is simulated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from direction_eeg import recorded, task_scores
from scipy.stats import t

from brainedit.arms import shuffled_directions
from brainedit.attributes import AttributeRegressor, face_attributes
from brainedit.comparison import compare
from brainedit.comparison_tables import Comparison
from brainedit.directions import Direction, brain_direction
from brainedit.evaluation import auc
from brainedit.generators.base import Generator
from brainedit.generators.load import load_generator
from brainedit.relevance import pool_relevance
from brainedit.strengths import EmbeddingDistance

ATTRIBUTES = ("smile", "age", "hair_colour")


@dataclass(frozen=True)
class Setting:
    """`n_people` saw the same `n_faces`; `n_new` others are edited by `step`, RMS standard deviations of `space`.

    dial : of `amplitude_for_auc`; with this one, tuned on seeds 1000 and 1001, LDA reaches .79 from the two other
        tasks' 400 trials
    amplitude_uv : of the response, in place of the dial
    n_per_draw : new faces that each shuffled direction, and each person's own, moves
    """

    n_people: int = 12
    n_faces: int = 200
    n_new: int = 24
    n_shuffled: int = 100
    n_per_draw: int = 2
    n_population: int = 200
    step: float = 2.0
    space: str = "w"
    dial: float = 0.82
    amplitude_uv: float | None = None


def edit_figures(
    seed: int,
    setting: Setting = Setting(),
    *,
    attributes: Sequence[str] = ATTRIBUTES,
    edited: Sequence[str] | None = None,
) -> pd.DataFrame:
    """One row an attribute: AUC, cosines to the explicit direction, changes and ratios at one step.

    attributes : what people look for, a task each, two or more
    edited : those of them whose edits are measured; all when None
    crowd, explicit, person, shuffled : change of the attribute, population standard deviations
    ratio, person_ratio : over the explicit labels' change, with `_low`, `_high`: intervals over faces, or people
    shuffled_low, shuffled_high : interval over the shuffled draws
    """
    generator, regressor = load_generator("faces"), face_attributes()
    latents, targets = shown_faces(generator, regressor, attributes, setting, seed)
    response = {"dial": setting.dial, "amplitude_uv": setting.amplitude_uv}
    people = (
        task_scores(recorded(targets, **response, seed=100 * seed + person))
        for person in range(setting.n_people)
    )
    scores = pd.concat(people, ignore_index=True)
    new = generator.sample(setting.n_new, space=setting.space, seed=20_000 + seed)
    rows = []
    for name in edited or attributes:
        trials = scores[scores["task"] == name]
        arms = made_arms(generator, latents, trials, targets[name], setting, seed)
        found = compared(generator, regressor, new, arms, name, setting, seed)
        rows.append(
            {"seed": seed, "attribute": name} | _aucs(trials) | _cosines(arms) | _changes(found, setting)
        )
    return pd.DataFrame(rows)


def shown_faces(
    generator: Generator,
    regressor: AttributeRegressor,
    attributes: Sequence[str],
    setting: Setting,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """Latents of the faces that all people see, and which are targets: the upper half of each attribute."""
    latents = generator.sample(setting.n_faces, space=setting.space, seed=10_000 + seed)
    batches = generator.synthesize_batches(latents, space=setting.space)
    table = regressor.table(torch.cat(list(batches)))
    names = [f"face{i}" for i in range(setting.n_faces)]
    targets = {name: pd.Series((table[name] > table[name].median()).to_numpy(), names) for name in attributes}
    return pd.DataFrame(latents.double().numpy(), names), targets


def made_arms(
    generator: Generator,
    latents: pd.DataFrame,
    trials: pd.DataFrame,
    target: pd.Series,
    setting: Setting,
    seed: int,
) -> dict[str, Direction | list[Direction]]:
    """The crowd's direction, that of the labels of the same faces, each person's own, and shuffled ones."""
    settings = {"space": setting.space, "generator": generator}
    relevance = pool_relevance(trials)
    people = [pool_relevance(own) for _, own in trials.groupby("subject", sort=False)]
    return {
        "crowd": brain_direction(latents, relevance, **settings),
        "explicit": brain_direction(latents, target.astype(float), **settings),
        "person": [brain_direction(latents, own, **settings) for own in people],
        "shuffled": shuffled_directions(
            latents, relevance, n=setting.n_shuffled, seed=seed, progress=False, **settings
        ),
    }


def compared(
    generator: Generator,
    regressor: AttributeRegressor,
    new: torch.Tensor,
    arms: dict[str, Direction | list[Direction]],
    wanted: str,
    setting: Setting,
    seed: int,
) -> Comparison:
    """The same new faces moved along every arm by the same step."""
    return compare(
        generator,
        new,
        arms,
        wanted=wanted,
        scores=regressor.table,
        steps=[setting.step],
        space=setting.space,
        identity=EmbeddingDistance(lambda x: x.flatten(1), name="pixels"),  # quick: it is not used
        n_per_draw=setting.n_per_draw,
        n_population=setting.n_population,
        seed=seed,
        progress=False,
    )


def summary(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Means over seeds of each attribute, with 95 % t intervals over seeds where there are two or more."""
    found = {}
    for name, own in rows.groupby("attribute", sort=False):
        figures = {}
        for key in (
            "auc",
            "cosine",
            "person_cosine",
            "crowd",
            "explicit",
            "ratio",
            "person_ratio",
            "shuffled",
        ):
            figures[key] = float(own[key].mean())
            half = np.nan
            if len(own) > 1:
                half = t.ppf(0.975, len(own) - 1) * own[key].std(ddof=1) / np.sqrt(len(own))
            figures[f"{key}_low"], figures[f"{key}_high"] = figures[key] - half, figures[key] + half
        covers = (own["shuffled_low"] <= 0) & (own["shuffled_high"] >= 0)
        figures |= {
            "n_seeds": len(own),
            "least_ratio": float(own["ratio"].min()),
            "seeds_below_80": int((own["ratio"] < 0.8).sum()),
            "seeds_shuffled_covers_0": int(covers.sum()),
        }
        found[str(name)] = figures
    return found


def seed_rows(rows: pd.DataFrame) -> dict[str, str]:
    """A line for each seed and attribute."""
    text = (
        "AUC {auc:.3f}  cosine to explicit {cosine:.3f}  crowd {crowd:+.2f}  explicit {explicit:+.2f}  "
        "ratio {ratio:.2f} [{ratio_low:.2f}, {ratio_high:.2f}]  one person {person_ratio:.2f} "
        "[{person_ratio_low:.2f}, {person_ratio_high:.2f}]  shuffled {shuffled:+.3f} "
        "[{shuffled_low:+.3f}, {shuffled_high:+.3f}]"
    )
    return {f"{row['attribute']}, seed {row['seed']}": text.format(**row) for row in rows.to_dict("records")}


def summary_rows(found: dict[str, dict[str, float]]) -> dict[str, str]:
    """A line for each attribute."""
    text = (
        "AUC {auc:.3f}  cosine to explicit {cosine:.3f}, one person {person_cosine:.3f}  ratio {ratio:.3f} "
        "[{ratio_low:.3f}, {ratio_high:.3f}], least {least_ratio:.2f}, below .8 in {seeds_below_80} of {n_seeds}  "
        "one person {person_ratio:.3f} [{person_ratio_low:.3f}, {person_ratio_high:.3f}]  shuffled {shuffled:+.3f} "
        "[{shuffled_low:+.3f}, {shuffled_high:+.3f}], covers 0 in {seeds_shuffled_covers_0} of {n_seeds}"
    )
    return {name: text.format(**figures) for name, figures in found.items()}


def _aucs(trials: pd.DataFrame) -> dict[str, float]:
    """Mean, least and largest AUC of the people in this task."""
    own = [auc(part["target"].to_numpy(), part["probability"]) for _, part in trials.groupby("subject")]
    return {"auc": float(np.mean(own)), "auc_least": float(min(own)), "auc_largest": float(max(own))}


def _cosines(arms: dict[str, Direction | list[Direction]]) -> dict[str, float]:
    explicit = arms["explicit"].vector
    people = [float(one.vector @ explicit) for one in arms["person"]]
    return {"cosine": float(arms["crowd"].vector @ explicit), "person_cosine": float(np.mean(people))}


def _changes(found: Comparison, setting: Setting) -> dict[str, float]:
    table = found.matched("step", setting.step)
    row = {name: float(table.loc[name, "change"]) for name in ("crowd", "explicit", "person", "shuffled")}
    row |= {f"shuffled_{end}": float(table.loc["shuffled", end]) for end in ("low", "high")}
    for key, arm in (("ratio", "crowd"), ("person_ratio", "person")):
        values = found.ratio(arm, "explicit", "step", setting.step)
        row |= dict(zip((key, f"{key}_low", f"{key}_high"), values, strict=True))
    return row
