"""What a comparison of directions found: curves over dose, and tables at equal step, identity loss or change."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainedit._check import pick

_MATCHES = ("step", "identity_loss", "change")


@dataclass(frozen=True)
class ArmResult:
    """One arm, a row for each face and direction that moved it.

    changes : (n_rows, k, n_attributes) of the scores, population standard deviations; both ways, half the difference
    sizes : of the same shape, how far each edited picture moved, without its sign
    drifts : of the same shape, what forwards and backwards have in common
    losses : (n_rows, k), identity losses
    off_prior : (n_rows, k), distance of the moved latents from the prior's mean
    mahalanobis, degrees : (n_rows, k), from before to after
    units : (n_rows,), what the interval draws: the face, or where there are many directions the direction
    kid : (k, 2), KID and its standard error, or None
    """

    changes: np.ndarray
    sizes: np.ndarray
    drifts: np.ndarray
    losses: np.ndarray
    off_prior: np.ndarray
    mahalanobis: np.ndarray
    degrees: np.ndarray
    units: np.ndarray
    kid: np.ndarray | None = None


@dataclass(frozen=True)
class Comparison:
    """Arms at the same steps.

    steps : (k,), the first is 0
    wanted : the attribute that the arms are meant to move
    attributes : names of all scores

    Intervals are percentile intervals of 95 % over faces or, for an arm of many directions, over directions; single
    directions meet the same drawn faces, so that their differences and ratios are paired.
    """

    arms: dict[str, ArmResult]
    steps: np.ndarray
    wanted: str
    attributes: list[str]
    n_bootstrap: int = 1000
    seed: int = 0

    def curves(self) -> pd.DataFrame:
        """One row for each arm and step.

        change, low, high : of the wanted score, population standard deviations, with its interval
        drift : what forwards and backwards do alike to the wanted score; 0 where only one way was gone
        dependency_mean, dependency_max : mean absolute change of the other scores, and of the one that moves most
        selectivity : mean change of the wanted score over `others`, that of the other scores, without signs
        identity_loss, loss_low, loss_high : 0 is the same face, 1 as far as two samples are apart
        off_prior, mahalanobis, degrees : means; kid and kid_error where they were asked for

        Source: Wu et al., CVPR 2021 (attribute dependency); Shen et al., TPAMI 2020 (re-scoring).
        """
        tables = []
        for name, arm in self.arms.items():
            drawn = self._replicates(arm)
            table = pd.DataFrame(self._means(arm))
            table["low"], table["high"] = np.percentile(drawn["change"], [2.5, 97.5], axis=0)
            table["loss_low"], table["loss_high"] = np.percentile(drawn["identity_loss"], [2.5, 97.5], axis=0)
            if "others" in table:
                table["selectivity"] = table["change"].abs() / table["others"].where(table["others"] > 0)
            table.insert(0, "step", self.steps)
            table.insert(0, "arm", name)
            tables.append(table.assign(n_units=len(np.unique(arm.units))))
        return pd.concat(tables, ignore_index=True)

    def matched(self, by: str, level: float) -> pd.DataFrame:
        """All arms where they are equal in one thing, one row an arm; what `curves` holds, between the steps.

        by : "step"; "identity_loss", at equal cost; or "change", at the same change of the wanted score
        level : of that thing. An arm that does not reach it has NaN, never a value from beyond its curve; an
            interval is NaN where over 2.5 % of the drawn curves do not reach it

        Raises ValueError for a level at or below 0, or a step beyond the last.
        Differs: other comparisons give each arm its own dose, and then call the larger dose the better direction.
        """
        pick("thing to match", by, dict.fromkeys(_MATCHES))
        if not level > 0:
            raise ValueError(f"Arms are matched at a level above 0; got {level}.")
        if by == "step" and level > self.steps[-1]:
            raise ValueError(f"The steps end at {self.steps[-1]:g}; got {level}.")
        rows = {}
        for name, arm in self.arms.items():
            means = self._means(arm)
            step = self._step_at(means, by, level)
            found = {key: _at(self.steps, values, step) for key, values in means.items()}
            for key, ends in (("change", ("low", "high")), ("identity_loss", ("loss_low", "loss_high"))):
                found |= dict(zip(ends, self._interval(self._drawn_at(arm, key, by, level)), strict=True))
            if "others" in found:
                found["selectivity"] = abs(found["change"]) / (found["others"] or np.nan)
            rows[name] = {"step": step, **found}
        return pd.DataFrame(rows).T.rename_axis("arm")

    def ratio(self, arm: str, reference: str, by: str, level: float) -> tuple[float, float, float]:
        """Change of the wanted score along one arm over that along another, matched, with its interval.

        Raises ValueError for an unknown arm, or as `matched` does.
        """
        two = [pick("arm", name, self.arms) for name in (arm, reference)]
        table = self.matched(by, level)
        value = table.loc[arm, "change"] / table.loc[reference, "change"]
        drawn = self._drawn_at(two[0], "change", by, level) / self._drawn_at(two[1], "change", by, level)
        return float(value), *self._interval(drawn)

    def rescoring(self, step: float) -> pd.DataFrame:
        """Mean change of every score (columns, population standard deviations) along every arm (rows) at a step.

        With one arm for each attribute the diagonal is what was wanted.

        Raises ValueError for a step outside the comparison.
        Source: Shen et al., TPAMI 2020.
        """
        if not 0 <= step <= self.steps[-1]:
            raise ValueError(f"The steps go from 0 to {self.steps[-1]:g}; got {step}.")
        rows = {
            name: [_at(self.steps, column, step) for column in _unit_means(arm.changes, arm.units).mean(0).T]
            for name, arm in self.arms.items()
        }
        return pd.DataFrame(rows, index=self.attributes).T.rename_axis("arm")

    def monotonicity(self) -> pd.DataFrame:
        """Does more strength give more of the wanted score? One row an arm.

        rising : share of faces whose score rises at every step
        rank_correlation : mean over faces of Spearman's correlation of step and score
        r2 : of a straight line through 0 and the mean change
        """
        from scipy.stats import rankdata

        rows = {}
        ranks = rankdata(self.steps)
        for name, arm in self.arms.items():
            change = arm.changes[..., self._column]  # (n_rows, k)
            spread = change.std(1) > 0
            rho = np.zeros(len(change))
            if spread.any():
                rho[spread] = [np.corrcoef(ranks, rankdata(row))[0, 1] for row in change[spread]]
            mean = _unit_means(change, arm.units).mean(0)
            slope = (self.steps @ mean) / (self.steps @ self.steps)
            total = np.square(mean - mean.mean()).sum()
            left = np.square(mean - slope * self.steps).sum()
            rows[name] = {
                "rising": float((np.diff(change, axis=1) > 0).all(1).mean()),
                "rank_correlation": float(rho.mean()),
                "r2": float(1 - left / total) if total > 0 else np.nan,
            }
        return pd.DataFrame(rows).T.rename_axis("arm")

    @property
    def _column(self) -> int:
        return self.attributes.index(self.wanted)

    def _means(self, arm: ArmResult) -> dict[str, np.ndarray]:
        """Curves (k,) over all faces."""
        others = [i for i in range(len(self.attributes)) if i != self._column]
        signed = _unit_means(arm.changes, arm.units).mean(0)  # (k, n_attributes)
        size = _unit_means(arm.sizes, arm.units).mean(0)
        found = {"change": signed[:, self._column]}
        found["drift"] = _unit_means(arm.drifts[..., self._column], arm.units).mean(0)
        if others:
            found["others"] = np.abs(signed[:, others]).mean(1)
            found["dependency_mean"] = size[:, others].mean(1)
            found["dependency_max"] = size[:, others].max(1)
        found["identity_loss"] = _unit_means(arm.losses, arm.units).mean(0)
        for key in ("off_prior", "mahalanobis", "degrees"):
            found[key] = _unit_means(getattr(arm, key), arm.units).mean(0)
        if arm.kid is not None:
            found |= {"kid": arm.kid[:, 0], "kid_error": arm.kid[:, 1]}
        return found

    def _replicates(self, arm: ArmResult) -> dict[str, np.ndarray]:
        """Curves (n_bootstrap, k) of the change and the loss, over units drawn with replacement."""
        change = _unit_means(arm.changes[..., self._column], arm.units)
        loss = _unit_means(arm.losses, arm.units)
        n = len(change)
        rng = np.random.default_rng(self.seed)  # the same draws for all arms of as many units
        weights = rng.multinomial(n, np.full(n, 1 / n), size=self.n_bootstrap) / n
        return {"change": weights @ change, "identity_loss": weights @ loss}

    def _drawn_at(self, arm: ArmResult, key: str, by: str, level: float) -> np.ndarray:
        """The change or the loss (n_bootstrap,) of each drawn curve where it is matched."""
        drawn = self._replicates(arm)
        found = []
        for change, loss in zip(drawn["change"], drawn["identity_loss"], strict=True):
            curve = {"change": change, "identity_loss": loss}
            found.append(_at(self.steps, curve[key], self._step_at(curve, by, level)))
        return np.array(found)

    def _step_at(self, means: dict[str, np.ndarray], by: str, level: float) -> float:
        """The step at which a curve first reaches the level, NaN where it never does."""
        if by == "step":
            return float(level)
        curve = means[by]
        over = np.flatnonzero(curve >= level)
        if not len(over):
            return np.nan
        i = over[0]  # above 0: at step 0 nothing has changed
        part = (level - curve[i - 1]) / (curve[i] - curve[i - 1])
        return float(self.steps[i - 1] + part * (self.steps[i] - self.steps[i - 1]))

    def _interval(self, values: np.ndarray) -> tuple[float, float]:
        if np.isnan(values).mean() > 0.025:
            return np.nan, np.nan
        low, high = np.nanpercentile(values, [2.5, 97.5])
        return float(low), float(high)


def _at(steps: np.ndarray, values: np.ndarray, step: float) -> float:
    """Linear between steps; NaN for a NaN step."""
    return float(np.interp(step, steps, values)) if np.isfinite(step) else np.nan


def _unit_means(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """The mean over the rows of each unit (n_units, ...), in order."""
    names, place, counts = np.unique(units, return_inverse=True, return_counts=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, place, values)
    return sums / counts.reshape(-1, *[1] * (values.ndim - 1))
