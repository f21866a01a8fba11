"""Splits of trials that keep what belongs together on one side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

UNITS = (
    *("stimulus", "concept", "label", "task", "task_pair"),
    *("block", "run", "session", "subject", "person", "trial"),
)
RECORDING = ("subject", "session", "run")  # trials that agree in these share a clock
NESTED = {
    "block": ("subject", "session", "run"),
    "run": ("subject", "session"),
    "session": ("subject",),
    "source": RECORDING,
}


class LeakageError(ValueError):
    """Something is on both sides of a split; the message names it."""


def split_trials(
    metadata: pd.DataFrame,
    *,
    by: str = "stimulus",
    n_splits: int = 5,
    embargo: float | None = None,
    apart: Sequence[str] = (),
    need_labels: str | None = None,
    seed: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices of training and test trials, `n_splits` times; a unit is never on both sides.

    by : "stimulus", "concept", "label", "task", "task_pair", "block", "run", "session", "subject" ("person" is the
        same) or "trial". A block belongs to its run, a run to its session and subject: equal names in two of these
        are two units. A stimulus is one picture, whoever sees it and in whichever task. Where each unit has one
        `label`, the labels are spread evenly over the folds.
        "trial" is for randomised designs alone and asks for an embargo: neighbours share slow drifts and what the
        filters smear, so a trial may not be tested with the trials around it in training. Each recording is cut in
        `n_splits` stretches of time, and a fold tests one stretch of each
    embargo : s; training trials whose onset lies this near to a test trial of the same recording (subject, session and
        run), before or after it, are dropped. Recordings have a clock each: the last trial of one and the
        first of the next are never near
    apart : further units that must not be on both sides, e.g. by="subject" and apart=["stimulus"] tests new pictures
        on new people. A fold then tests the trials that are in its part of every unit, and trains on those that are
        in its part of none, so not every trial is tested
    need_labels : a column; every value of it must be among the training trials of each fold

    Raises ValueError when a column is missing, there are fewer than two units, nothing is left to train on,
    or a needed label is left out; with fewer units than splits, each unit is left out once.
    Source: the embargo follows Lopez de Prado, Advances in Financial Machine Learning, 2018, ch. 7.
    Differs: it holds before the test trials too, since EEG drifts both ways.
    """
    apart = [apart] if isinstance(apart, str) else list(apart)
    _check_settings(by, n_splits, embargo, apart)
    onset = None if embargo is None else _onsets(metadata)
    if need_labels is not None and need_labels not in metadata:
        raise ValueError(f"need_labels={need_labels!r} is no column of the metadata: {_have(metadata)}.")
    for train, test in _sides(metadata, [by, *apart], n_splits, seed):
        if onset is not None:
            train = _outside_embargo(recording_names(metadata), onset, train, test, embargo)
        if len(train) == 0 or len(test) == 0:
            limits = [f"{unit} apart" for unit in apart]
            limits += [] if embargo is None else [f"an embargo of {embargo} s"]
            raise ValueError(
                f"With {' and '.join(limits)} a fold trains on {len(train)} trials and tests {len(test)}; ask for "
                "less, or for another number of splits."
            )
        if need_labels is not None:
            _check_labels(metadata, train, need_labels)
        yield train, test


@dataclass(frozen=True, kw_only=True)
class TrialSplit:
    """`split_trials` as a scikit-learn splitter, e.g. `cross_val_score(model, X, y, groups=metadata, cv=TrialSplit())`.

    by, n_splits, embargo, apart, seed : as there
    """

    by: str = "stimulus"
    n_splits: int = 5
    embargo: float | None = None
    apart: Sequence[str] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        apart = [self.apart] if isinstance(self.apart, str) else list(self.apart)
        _check_settings(self.by, self.n_splits, self.embargo, apart)

    def split(
        self,
        X: Sequence | None = None,
        y: Sequence | None = None,
        groups: pd.DataFrame | Sequence | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Indices of training and test trials.

        groups : the metadata, or the unit of each trial; then `y`, if given, is what is spread over the folds

        Raises ValueError without groups, or where an embargo has names of units instead of metadata.
        """
        lengths = {len(part) for part in (X, y, groups) if part is not None}
        if groups is not None and len(lengths) > 1:
            raise ValueError(f"Each trial needs its group; got lengths {sorted(lengths)} of X, y and groups.")
        metadata = self._metadata(y, groups)
        yield from split_trials(metadata, **vars(self))

    def get_n_splits(self, X: Sequence | None = None, y: Sequence | None = None, groups=None) -> int:
        """How many splits there will be: fewer than `n_splits` where `groups` has fewer units."""
        if groups is None:
            return self.n_splits
        apart = [self.apart] if isinstance(self.apart, str) else list(self.apart)
        return len(_sides(self._metadata(y, groups), [self.by, *apart], self.n_splits, self.seed))

    def _metadata(self, y: Sequence | None, groups: pd.DataFrame | Sequence | None) -> pd.DataFrame:
        if isinstance(groups, pd.DataFrame):
            return groups
        whole = self.by == "trial" or self.embargo is not None or len(self.apart) > 0
        if groups is None or whole:
            what = "the metadata" if whole else "the metadata or the unit of each trial"
            raise ValueError(f"{self} needs groups: {what}.")
        # the names given are whole units, so nothing is nested
        table = pd.DataFrame({_column(self.by): np.asarray(groups)})
        return table.assign(label=np.asarray(y)) if np.ndim(y) == 1 and self.by != "label" else table


def check_split(
    metadata: pd.DataFrame,
    train: Sequence[int] | np.ndarray,
    test: Sequence[int] | np.ndarray,
    *,
    by: str,
    embargo: float | None = None,
    sources: str = "source",
) -> None:
    """Nothing when the two sides are apart, else a LeakageError that names what crosses.

    train, test : indices or boolean masks of trials
    by : the unit that must not be on both sides, as in `split_trials`; for "stimulus", "concept" and "label" two
        pictures of equal content (the column `picture_sha256`, where there is one) count as one
    sources : the column that says which recorded trial a window was cut from; windows are cut after the split

    Raises ValueError for trials that there are not, an empty side, or a column that is missing.
    """
    _check_settings(by, 2, embargo)
    if sources != "source" and sources not in metadata:
        raise ValueError(f"sources={sources!r} is no column of the metadata: {_have(metadata)}.")
    train, test = (_indices(side, len(metadata), name) for side, name in ((train, "train"), (test, "test")))
    _check_apart(np.arange(len(metadata)), train, test, "Trial {} is in training and in test.")
    if by != "trial":
        _check_apart(
            unit_names(metadata, by),
            train,
            test,
            f"The {by} {{!r}} is in training and in test; split by {by}.",
        )
    if sources in metadata:
        text = (
            "Windows of one recorded trial, {!r}, are in training and in test; cut windows after the split."
        )
        _check_apart(source_names(metadata, sources), train, test, text)
    if by in ("stimulus", "concept", "label") and "picture_sha256" in metadata:
        _check_content(metadata, train, test)
    if embargo is not None:
        onset = _onsets(metadata)
        kept = _outside_embargo(recording_names(metadata), onset, train, test, embargo)
        if len(kept) < len(train):
            first = np.setdiff1d(train, kept)[0]
            raise LeakageError(
                f"{len(train) - len(kept)} training trials, the first is {first} at {onset[first]:.3f} s, lie within "
                f"{embargo} s of a test trial of their recording; drop them (split_trials does)."
            )


def unit_names(metadata: pd.DataFrame, by: str) -> np.ndarray:
    """The unit of each trial, (n,) str, with the names of what it belongs to in front."""
    if by == "trial":
        return np.arange(len(metadata)).astype(str).astype(object)
    by = _column(by)
    if by not in metadata or metadata[by].isna().any():
        raise ValueError(f"The metadata need {by!r} for every trial; they have {_have(metadata)}.")
    return _joined(metadata, [c for c in NESTED.get(by, ()) if c in metadata] + [by])


def recording_names(metadata: pd.DataFrame) -> np.ndarray:
    """The recording of each trial, (n,) str: subject, session and run, as far as they are known."""
    columns = [column for column in RECORDING if column in metadata]
    return _joined(metadata, columns) if columns else np.full(len(metadata), "", object)


def source_names(metadata: pd.DataFrame, column: str = "source") -> np.ndarray:
    """The recorded trial that each row was cut from, (n,) str; each row is its own where there is no such column."""
    if column not in metadata:
        return unit_names(metadata, "trial")
    if metadata[column].isna().any():
        raise ValueError(
            f"{int(metadata[column].isna().sum())} rows have no {column!r}; every window needs one."
        )
    return _joined(metadata, [c for c in RECORDING if c in metadata] + [column])


def _sides(
    metadata: pd.DataFrame, units: list[str], n_splits: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test trials of each fold, as units have parts of their own."""
    parts = [_test_parts(metadata, unit, n_splits, seed) for unit in units]
    fewest = min(map(len, parts))
    if fewest < max(map(len, parts)):
        parts = [_test_parts(metadata, unit, fewest, seed) for unit in units]
    folds = [np.stack(masks) for masks in zip(*parts, strict=True)]  # (n_units, n) each
    return [(np.flatnonzero(~masks.any(0)), np.flatnonzero(masks.all(0))) for masks in folds]


def _test_parts(metadata: pd.DataFrame, by: str, n_splits: int, seed: int) -> list[np.ndarray]:
    """Which trials each fold tests, (n,) bool."""
    rng = np.random.default_rng(seed)
    if by == "trial":
        return _stretches(metadata, n_splits, rng)
    units = unit_names(metadata, by)
    unit, names = pd.factorize(units, sort=True)
    if len(names) < 2:
        have = f"one, {names[0]!r}" if len(names) else "none"
        raise ValueError(f"A split by {by} needs two or more of them; there is {have}.")
    n_splits = min(n_splits, len(names))
    label = _one_label(metadata, unit) if by != "label" else None
    if label is None:
        order = rng.permutation(len(names))
        return [np.isin(unit, part) for part in np.array_split(order, n_splits)]
    turn = rng.permutation(label.max() + 1)[label]
    order = np.lexsort((rng.random(len(names)), turn))  # label after label, at random within each
    fold = np.empty(len(names), int)
    fold[order] = np.arange(len(names)) % n_splits
    return [fold[unit] == k for k in range(n_splits)]


def _one_label(metadata: pd.DataFrame, unit: np.ndarray) -> np.ndarray | None:
    """The label of each unit as a number, or None where a unit has several or a trial has none."""
    if "label" not in metadata or metadata["label"].isna().any():
        return None
    label = pd.factorize(metadata["label"].astype(str), sort=True)[0]
    first = np.unique(unit, return_index=True)[1]
    return label[first] if np.array_equal(label[first][unit], label) else None


def _stretches(metadata: pd.DataFrame, n_splits: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One stretch of every recording for each fold, (n,) bool."""
    recording, onset = pd.factorize(recording_names(metadata))[0], _onsets(metadata)
    if len(onset) < 2:
        raise ValueError(f"A split by trial needs two or more of them; there is {len(onset)}.")
    fold = np.empty(len(onset), int)
    for name in np.unique(recording):
        inside = np.flatnonzero(recording == name)
        parts = np.array_split(inside[np.argsort(onset[inside], kind="stable")], n_splits)
        for k, part in zip(rng.permutation(n_splits), parts, strict=True):
            fold[part] = k
    return [fold == k for k in range(n_splits) if (fold == k).any()]


def _outside_embargo(
    recording: np.ndarray, onset: np.ndarray, train: np.ndarray, test: np.ndarray, embargo: float
) -> np.ndarray:
    """The training trials farther than `embargo` s from every test trial of their recording."""
    near = np.zeros(len(onset), bool)
    recording = pd.factorize(recording)[0]
    for name in np.unique(recording[test]):
        times = np.sort(onset[test[recording[test] == name]])
        inside = train[recording[train] == name]
        after = np.searchsorted(times, onset[inside])
        gap_before = onset[inside] - times[np.maximum(after - 1, 0)]
        gap_after = times[np.minimum(after, len(times) - 1)] - onset[inside]
        near[inside] = np.minimum(abs(gap_before), abs(gap_after)) <= embargo + 1e-9
    return train[~near[train]]


def _check_settings(by: str, n_splits: int, embargo: float | None, apart: Sequence[str] = ()) -> None:
    unknown = [unit for unit in [by, *apart] if unit not in UNITS]
    if unknown:
        raise ValueError(f"Trials can be split by {', '.join(UNITS)}; not by {unknown[0]!r}.")
    if n_splits < 2:
        raise ValueError(f"n_splits is 2 or more; got {n_splits}.")
    if embargo is not None and not 0 < embargo < np.inf:
        raise ValueError(f"An embargo is a time above 0 s; got {embargo}.")
    if by == "trial" and embargo is None:
        raise ValueError(
            "A split by trial needs an embargo in seconds, for a randomised design; got embargo=None. Neighbouring "
            "trials share drifts."
        )


def _check_labels(metadata: pd.DataFrame, train: np.ndarray, column: str) -> None:
    missing = sorted(set(metadata[column].astype(str)) - set(metadata[column].iloc[train].astype(str)))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"A fold has no trial of {column} {missing[0]!r}{more} to train on; split by something "
            "else or in more folds."
        )


def _check_apart(names: np.ndarray, train: np.ndarray, test: np.ndarray, text: str) -> None:
    crossing = np.intersect1d(names[train], names[test])
    if len(crossing):
        more = f" ({len(crossing) - 1} more cross too)" if len(crossing) > 1 else ""
        raise LeakageError(text.format(crossing.tolist()[0]) + more)


def _check_content(metadata: pd.DataFrame, train: np.ndarray, test: np.ndarray) -> None:
    sides = [metadata.iloc[side].dropna(subset=["picture_sha256"]) for side in (train, test)]
    crossing = sorted(set(sides[0]["picture_sha256"]) & set(sides[1]["picture_sha256"]))
    if crossing:
        name = "stimulus" if "stimulus" in metadata else "picture_sha256"
        rows = [side.loc[side["picture_sha256"] == crossing[0], name].iloc[0] for side in sides]
        raise LeakageError(
            f"Training has {rows[0]!r} and test {rows[1]!r}, which are one picture (sha256 {crossing[0][:12]}); give "
            "both one stimulus name before the split."
        )


def _indices(side: Sequence[int] | np.ndarray, n: int, name: str) -> np.ndarray:
    side = np.asarray(side)
    if side.dtype == bool and side.shape == (n,):
        side = np.flatnonzero(side)
    if side.ndim != 1 or len(side) == 0:
        raise ValueError(f"The {name} side needs one or more trials; got shape {side.shape}.")
    if side.dtype.kind not in "iu" or side.min() < 0 or side.max() >= n:
        raise ValueError(
            f"The {name} side names trials 0 to {n - 1}; got {side.min()} to {side.max()} ({side.dtype})."
        )
    return side


def _onsets(metadata: pd.DataFrame) -> np.ndarray:
    if "onset" not in metadata:
        raise ValueError(
            f"An embargo needs 'onset' (s) for every trial; the metadata have {_have(metadata)}."
        )
    onset = pd.to_numeric(metadata["onset"], errors="coerce").to_numpy(float)
    if not np.isfinite(onset).all():
        odd = metadata["onset"].iloc[int(np.flatnonzero(~np.isfinite(onset))[0])]
        raise ValueError(
            f"An embargo needs 'onset' (s) for every trial; {(~np.isfinite(onset)).sum()} are like {odd!r}."
        )
    return onset


def _joined(metadata: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    rows = zip(*(metadata[column].astype(str) for column in columns), strict=True)
    return np.array(["/".join(row) for row in rows], dtype=object)


def _column(by: str) -> str:
    return "subject" if by == "person" else by


def _have(metadata: pd.DataFrame) -> str:
    return ", ".join(map(str, metadata.columns)) or "no columns"
