"""What the directions study measured, and its tables: AUCs, curves, cosines, people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from brainedit.comparison_tables import Comparison
from brainedit.evaluation import auc
from brainedit.jobs.directions_study_arms import Crowds, TaskResult, pooled

# of a column over all tasks, whose scores are of another pair in each: their means and maxima say nothing
_UNNAMED = ["others", "selectivity", "dependency_max"]


@dataclass(frozen=True)
class Study:
    """Everything that the study measured.

    trials : as `score_people` gives them; seeds : faces that were moved; order : people, as crowds have them
    references : task -> direction of a judge from many new faces
    """

    trials: pd.DataFrame
    latents: pd.DataFrame
    seeds: pd.DataFrame
    order: list[str]
    crowds: Crowds
    results: Sequence[TaskResult]
    references: Mapping[str, np.ndarray]
    degrees: Sequence[float]
    identity_loss: float

    @cached_property
    def pooled(self) -> Comparison:
        """All tasks together."""
        return pooled(self.results)

    @cached_property
    def levels(self) -> dict[str, float]:
        """Where arms are compared: at the longest step, and at the chosen loss of identity."""
        return {"step": float(self.pooled.steps[-1]), "identity_loss": self.identity_loss}

    @cached_property
    def matched(self) -> dict[str, pd.DataFrame]:
        """All arms, all tasks together, at each of the levels."""
        return {
            how: self.pooled.matched(how, level).drop(columns=_UNNAMED) for how, level in self.levels.items()
        }

    @cached_property
    def ratios(self) -> dict[str, dict[int, tuple[float, float, float]]]:
        """Change along the brain's direction over that along the explicit one, with its interval, by size."""
        return {
            how: {size: brain_ratio(self.pooled, size, how, level) for size in self.crowds}
            for how, level in self.levels.items()
        }

    def aucs(self) -> pd.DataFrame:
        """One row for each person and task: subject, task, auc, n_trials, n_faces."""
        rows = [
            {
                "subject": subject,
                "task": task,
                "auc": auc(own["target"].to_numpy(), own["probability"].to_numpy()),
                "n_trials": len(own),
                "n_faces": own["stimulus"].nunique(),
            }
            for (subject, task), own in self.trials.groupby(["subject", "task"], sort=False)
        ]
        return pd.DataFrame(rows)

    def curves(self) -> pd.DataFrame:
        """`Comparison.curves` of all tasks together and of each, with the degrees that a step turns a face."""
        tables = [self.pooled.curves().drop(columns=_UNNAMED).assign(task="all")]
        tables += [result.comparison.curves().assign(task=result.task) for result in self.results]
        return pd.concat(tables, ignore_index=True)

    def cosines(self) -> pd.DataFrame:
        """One row for each task, kind of direction, size and crowd: cosine to the reference, the predicted one."""
        rows = []
        for result in self.results:
            predicted = result.predicted.set_index(["size", "crowd"])
            for name, vectors in result.vectors.items():
                kind, size = name.split(", ")
                for crowd, vector in vectors.items() if kind != "shuffled" else ():
                    own = result.vectors[f"explicit, {size}"][crowd]
                    row = {"task": result.task, "kind": kind, "size": int(size), "crowd": " ".join(crowd)}
                    row |= {"to_reference": float(vector @ self.references[result.task])}
                    row |= {"to_explicit": float(vector @ own)}
                    if kind == "brain":
                        row |= predicted.loc[(int(size), row["crowd"])].to_dict()
                    rows.append(row)
        return pd.DataFrame(rows)

    def people(self) -> pd.DataFrame:
        """One row a person: means over tasks of AUC, cosines, and the change at the longest step."""
        cosines = self.cosines()
        alone = cosines[(cosines["size"] == 1) & (cosines["kind"] == "brain")].set_index("crowd")
        table = self.aucs().groupby("subject")["auc"].mean().to_frame()
        for column in ("predicted_cosine", "to_reference", "to_explicit"):
            table[column] = alone[column].groupby(level=0).mean()
        for arm in ("brain", "explicit"):
            found = self.pooled.arms[f"{arm}, 1"]
            who = np.array(self.order)[found.units]
            table[f"change_{arm}"] = pd.Series(found.changes[:, -1, 0]).groupby(who).mean()
        return table.loc[sorted(self.order, key=int)]


def cosine_means(study: Study) -> pd.DataFrame:
    """Means over tasks and crowds: one row for each kind and size."""
    table = study.cosines()
    table["covered"] = (
        (table["low"] <= table["to_reference"]) & (table["to_reference"] <= table["high"])
    ).where(table["low"].notna())
    columns = ["to_reference", "to_explicit", "predicted_cosine", "covered", "n"]
    means = table.groupby(["kind", "size"])[columns].agg(lambda values: values.astype(float).mean())
    return means.reset_index()


def brain_ratio(found: Comparison, size: int, by: str, level: float) -> tuple[float, float, float]:
    """Brain over explicit of one size; the other arms, which cost time, are left out."""
    two = [f"{kind}, {size}" for kind in ("brain", "explicit")]
    return replace(found, arms={arm: found.arms[arm] for arm in two}).ratio(*two, by, level)


def numbers(study: Study) -> dict[str, Any]:
    """All figures for result.json."""
    return {
        "auc": auc_summary(study.aucs()["auc"]),
        "equal_step": study.matched["step"].to_dict("index"),
        "equal_identity_loss": study.matched["identity_loss"].to_dict("index"),
        "brain_against_explicit": {
            how: {str(size): ratio for size, ratio in of_size.items()}
            for how, of_size in study.ratios.items()
        },
        "cosines": cosine_means(study).to_dict("records"),
        "people": study.people().reset_index().to_dict("records"),
    }


def auc_summary(values: pd.Series) -> dict[str, float]:
    """What the published distribution is told by."""
    return {"mean": values.mean(), "SD": values.std(), "lowest": values.min(), "highest": values.max()}
