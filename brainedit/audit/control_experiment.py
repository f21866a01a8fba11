"""One claim, one pipeline, one split: made ready to be run on the data set or on a changed one, and scored."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil, factorial

import numpy as np
import pandas as pd
from tqdm import tqdm

from brainedit.audit.control_data import answers_of
from brainedit.audit.control_evidence import FoldEvidence, Folds, make_decoder
from brainedit.audit.control_statistics import STATISTICS, Measured, bootstrap_interval
from brainedit.audit.exchange import Exchange, exchange_of
from brainedit.datasets.paired import PairedDataset
from brainedit.evaluation import Score, permutation_p
from brainedit.splits import LeakageError, TrialSplit, check_split

POST_HOC = "on the held-out evidence, nothing refitted"
REFITTED = "the pipeline trained anew for each"
MAX_NUMBERS = 4_000_000  # of permuted answers that are held at a time


@dataclass(frozen=True)
class Experiment:
    """A claim, a pipeline and a split, ready to be run on the data set or on a changed one.

    codes : (n,) number of each trial's answer in `names`
    gallery : answers are the pictures of the test trials, not classes
    exchange : what is permuted; unit, units : (n,) what the bootstrap draws anew
    n_permutations : with the pipeline trained anew; n_post_hoc : on held-out evidence
    """

    dataset: PairedDataset
    decoder: object
    statistics: tuple
    split: TrialSplit | Folds
    folds: Folds
    codes: np.ndarray
    names: np.ndarray
    gallery: bool
    exchange: Exchange
    unit: str
    units: np.ndarray
    n_permutations: int
    n_post_hoc: int
    seed: int
    _prepared: dict = field(default_factory=dict)

    def evidence(self, codes: np.ndarray | list, dataset: PairedDataset | None = None) -> list[FoldEvidence]:
        """Held-out evidence of each fold when trained on these answers (one array, or one for each fold)."""
        prepared = self.prepare() if dataset is None else self.decoder.prepare(dataset, self.folds)
        by_fold = codes if isinstance(codes, list) else [codes] * len(self.folds)
        settings = {"names": self.names, "seed": self.seed}
        return [
            self.decoder.decode(prepared, i, fold, own, **settings)
            for i, (fold, own) in enumerate(zip(self.folds, by_fold, strict=True))
        ]

    def prepare(self) -> object:
        """What the decoder makes of the data set, made once."""
        if "main" not in self._prepared:
            self._prepared["main"] = self.decoder.prepare(self.dataset, self.folds)
        return self._prepared["main"]

    def measure(
        self, folds: list[FoldEvidence], codes: np.ndarray, *, which: int = 0, tables: list | None = None
    ) -> "Finding":
        """A statistic of the evidence with its null of permuted answers, nothing refitted.

        tables : of the evidence, where they are not the statistic's own
        """
        statistic = self.statistics[which]
        tables = [statistic.table(fold.values) for fold in folds] if tables is None else tables
        owns = [fold.own(codes) for fold in folds]
        return Finding(
            name=statistic.name,
            measured=statistic.measure(tables, owns, folds, len(codes)),
            chance=statistic.chance(tables, owns, folds),
            null=self._null(statistic, tables, folds, codes),
            permuted=f"{self.exchange.text}, {POST_HOC}",
            n_arrangements=self._n_arrangements(folds, codes),
        )

    def refitted_null(self, *, progress: bool) -> np.ndarray:
        """Each statistic (n_statistics, n_permutations) of pipelines trained and tested on permuted answers."""
        rng = np.random.default_rng([self.seed, 2])
        null = np.empty((len(self.statistics), self.n_permutations))
        for i in tqdm(range(self.n_permutations), desc="permutations", disable=not progress):
            codes = self.exchange.permute(self.codes, rng)
            folds = self.evidence(codes)
            owns = [fold.own(codes) for fold in folds]
            for k, s in enumerate(self.statistics):
                null[k, i] = s.value([s.table(fold.values) for fold in folds], owns, folds)
        return null

    def main_findings(self, *, refit: bool, progress: bool) -> list["Finding"]:
        """Each statistic of the true answers; with `refit` its null is from pipelines trained anew."""
        folds = self.evidence(self.codes)
        findings = [self.measure(folds, self.codes, which=k) for k in range(len(self.statistics))]
        if not refit:
            return findings
        how = f"{self.exchange.text}, {REFITTED}"
        null = self.refitted_null(progress=progress)
        n_arrangements = self.exchange.n_arrangements(self.codes)
        return [
            replace(finding, null=values, permuted=how, n_arrangements=n_arrangements)
            for finding, values in zip(findings, null, strict=True)
        ]

    def score(self, finding: "Finding") -> Score:
        """The finding with its interval over units and its p."""
        units = finding.measured.by_unit(self.units)
        low, high = self.interval(finding.measured)
        return Score(
            name=finding.name,
            value=finding.measured.value,
            n=len(units),
            unit=self.unit,
            chance=finding.chance,
            low=low,
            high=high,
            p=permutation_p(finding.measured.value, finding.null) if finding.p is None else finding.p,
            n_permutations=len(finding.null),
            permuted=finding.permuted,
        )

    def interval(self, measured: Measured) -> tuple[float, float]:
        return bootstrap_interval(measured.value, measured.by_unit(self.units), self.seed)

    def _null(
        self, statistic: object, tables: list, folds: list[FoldEvidence], codes: np.ndarray
    ) -> np.ndarray:
        """The statistic of permuted answers: pictures among those of the fold, else what was randomised.

        Where each trial trains other folds than its own, two folds share what they say of each pair of trials, and
        answers permuted on fixed evidence miss that: for a linear pipeline their variance is half of the true one.
        """
        rng = np.random.default_rng([self.seed, 3])
        size = max(1, MAX_NUMBERS // len(codes))
        parts = []
        for start in range(0, self.n_post_hoc, size):
            many = range(min(size, self.n_post_hoc - start))
            if self.gallery:
                owns = [
                    np.array([rng.permutation(len(f.columns))[f.own(codes)] for _ in many]) for f in folds
                ]
            else:
                permuted = [self.exchange.permute(codes, rng) for _ in many]
                owns = [np.array([fold.own(c) for c in permuted]) for fold in folds]
            parts.append(statistic.values(tables, owns, folds))
        null = np.concatenate(parts)
        return null.mean() + np.sqrt(2) * (null - null.mean()) if self._is_crossed() else null

    def _is_crossed(self) -> bool:
        """Whether test trials of one fold train another."""
        train, test = (np.unique(np.concatenate(side)) for side in zip(*self.folds, strict=True))
        return len(np.intersect1d(train, test)) > 0

    def _n_arrangements(self, folds: list[FoldEvidence], codes: np.ndarray) -> float:
        if self.gallery:
            return float(np.prod([factorial(min(len(fold.columns), 20)) for fold in folds], dtype=float))
        return self.exchange.n_arrangements(codes)


@dataclass(frozen=True)
class Finding:
    """A statistic, what it is by chance, and its null; p only where it is not from permutations.

    n_arrangements : how many different permutations there are; p cannot be under 1 / n_arrangements
    """

    name: str
    measured: Measured
    chance: float
    null: np.ndarray
    permuted: str
    p: float | None = None
    n_arrangements: float = np.inf
    notes: tuple[str, ...] = ()


def make_experiment(
    dataset: PairedDataset,
    pipeline: object,
    *,
    claim: str,
    split: str | TrialSplit | Sequence,
    column: str | None,
    n_permutations: int,
    smallest_p: float,
    seed: int,
) -> Experiment:
    """What runs: settings as in `run_controls`.

    smallest_p : that permutations on held-out evidence must be able to reach
    """
    metadata = dataset.metadata.reset_index(drop=True)
    names, codes = np.unique(answers_of(dataset, claim, column), return_inverse=True)
    split = TrialSplit(by=split, seed=seed) if isinstance(split, str) else split
    folds, by = _folds(metadata, split)
    gallery = claim in ("picture", "map")
    disjoint = all(not np.isin(codes[test], codes[train]).any() for train, test in folds)
    if not gallery:
        _check_classes(codes, names, folds)
    exchange = exchange_of(metadata, codes, claim=claim, disjoint=disjoint)
    unit, units = _unit(metadata, codes, by, gallery, exchange)
    return Experiment(
        dataset=dataset,
        decoder=make_decoder(pipeline, gallery=gallery),
        statistics=STATISTICS[claim],
        split=split if by else folds,
        folds=folds,
        codes=codes,
        names=names,
        gallery=gallery,
        exchange=exchange,
        unit=unit,
        units=units,
        n_permutations=n_permutations,
        n_post_hoc=max(n_permutations, ceil(1 / smallest_p)),
        seed=seed,
    )


def _folds(metadata: pd.DataFrame, split: TrialSplit | Sequence) -> tuple[list, str | None]:
    """Folds as pairs of indices, and the unit that they keep apart where it is known."""
    if isinstance(split, TrialSplit):
        folds = list(split.split(groups=metadata))
        for train, test in folds:
            check_split(metadata, train, test, by=split.by, embargo=split.embargo)
        return folds, split.by
    folds = [(np.asarray(train), np.asarray(test)) for train, test in split]
    if not folds:
        raise ValueError("The split has no fold; one or more pairs of indices (train, test) are needed.")
    for train, test in folds:
        _check_pair(train, test, len(metadata))
    return folds, None


def _check_pair(train: np.ndarray, test: np.ndarray, n: int) -> None:
    for side in (train, test):
        if side.ndim != 1 or side.dtype.kind != "i" or len(side) == 0 or side.min() < 0 or side.max() >= n:
            raise ValueError(f"A fold names trials 0 to {n - 1} in train and in test; got {side}.")
    if len(both := np.intersect1d(train, test)):
        raise LeakageError(f"Trial {both[0]} is in training and in test, and {len(both) - 1} more.")


def _check_classes(codes: np.ndarray, names: np.ndarray, folds: list) -> None:
    for i, (train, _) in enumerate(folds):
        missing = np.setdiff1d(codes, codes[train])
        if len(missing):
            raise ValueError(
                f"Fold {i} has no trial of {names[missing[0]]!r} to train on, and {len(missing) - 1} more are missing; "
                "choose another split or fewer classes."
            )


def _unit(
    metadata: pd.DataFrame, codes: np.ndarray, by: str | None, gallery: bool, exchange: Exchange
) -> tuple[str, np.ndarray]:
    """What the bootstrap draws anew: pictures, people, or what was randomised."""
    if gallery:
        return "picture", codes
    if by in ("subject", "person"):
        return "person", metadata["subject"].astype(str).to_numpy()
    if by == "stimulus":
        return "picture", metadata["stimulus"].astype(str).to_numpy()
    return exchange.unit, exchange.units
