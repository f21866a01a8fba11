"""What the clock alone tells about a label: a classifier that sees when a trial was, and no EEG."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from brainedit.evaluation import permutation_p
from brainedit.splits import recording_names, unit_names

N_NEIGHBOURS = 7
N_PERMUTATIONS = 1200  # the smallest p is 1/1201
N_EXCEEDING = 20  # permutations stop once so many reach the value, after ...
MIN_PERMUTATIONS = 100  # ... these, which chance is the mean of
MAX_TESTED = 5_000
MIN_SHARE = 0.1  # a view that speaks of fewer of the tested trials is not scored

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class ClockScore:
    """How well one view of the clock tells the label of the test trials.

    view : "time", "position", "order", "block", "run" or "session", see `clock_scores`
    measure : "AUC" for two labels, else "accuracy"; chance is the mean over permutations
    permuted : "trials" or "streaks", what the permutations move inside a person or a recording
    """

    view: str
    measure: str
    value: float
    chance: float
    p: float
    n: int
    n_permutations: int
    permuted: str

    @property
    def gain(self) -> float:
        """0 at chance, 1 where the clock tells every label."""
        return (self.value - self.chance) / (1 - self.chance) if self.chance < 1 else 0.0

    def as_dict(self) -> dict:
        return asdict(self) | {"gain": self.gain}


@dataclass(frozen=True)
class _Timeline:
    """Where each trial lies; all (n,). Without onsets `onset` and `ordinal` are None."""

    label: np.ndarray
    person: np.ndarray
    recording: np.ndarray
    onset: np.ndarray | None
    ordinal: np.ndarray | None


def clock_scores(
    metadata: pd.DataFrame, label: np.ndarray, folds: Folds, *, timed: bool, seed: int = 0
) -> list[ClockScore]:
    """Scores of a nearest-neighbour classifier on each view of the clock that the metadata and the split allow.

    label : (n,) what is decoded
    timed : whether the column `onset` may be believed
    Views, each with the seven training trials that are nearest in it:
    "time" : in the same session, runs one after another in the order of the table
    "position", "order" : in the person's other recordings (other people's, where people are apart), by seconds
        since the recording's first trial and by the trial's number in it
    "block", "run", "session" : any seven training trials of the same block, run or session

    p is from permutations of the labels inside a person. Where training and test are in different recordings, streaks
    of one label are moved as a whole, inside their recording ("time": inside the person): what was put in order there
    is a block, not a trial.
    At most 5,000 test trials, drawn at random, are scored.
    Source: Li et al., TPAMI 43:316, 2021. Differs: they decode EEG with wrong labels; this reads the schedule.
    """
    rng = np.random.default_rng(seed)
    line = _timeline(metadata, label, timed)
    scores = []
    for view, neighbours in _views(metadata, line, folds, rng).items():
        score = _view_score(view, neighbours, line, folds, rng)
        if score is not None:
            scores.append(score)
    return scores


def unit_score(
    metadata: pd.DataFrame, label: np.ndarray, unit: np.ndarray, folds: Folds, *, view: str, seed: int = 0
) -> ClockScore | None:
    """The score of a classifier that knows of a trial its unit alone, e.g. the picture; None where units are apart."""
    rng = np.random.default_rng(seed)
    line = _timeline(metadata, label, timed=False)
    return _view_score(view, _same(pd.factorize(unit)[0], rng), line, folds, rng)


@dataclass(frozen=True)
class OrderScore:
    """Whether labels come in the same order in different recordings.

    correlation : mean rank correlation of the labels' mean places, over pairs of recordings of a person, or over
        pairs of people where people are apart
    spread : 0 to 1, the share of the variance of place in a recording that lies between labels
    """

    correlation: float
    p: float
    spread: float
    n_recordings: int
    n_labels: int

    def as_dict(self) -> dict:
        return asdict(self)


def order_score(
    metadata: pd.DataFrame, label: np.ndarray, folds: Folds, *, seed: int = 0
) -> OrderScore | None:
    """How far the order of labels repeats, with a p from new orders in each recording; None where none can.

    Source: Li et al., TPAMI 43:316, 2021 (correlated block order across runs leaks). Differs: a label's place is the
    mean over its trials, which is where it comes first in a block design and means more in others.
    """
    line = _timeline(metadata, label, timed=True)
    apart = people_apart(metadata, folds)
    row = line.person if apart else line.recording
    last = pd.Series(line.ordinal).groupby(line.recording).transform("max").to_numpy()
    place = pd.Series((line.ordinal - 0.5) / last)
    table = place.groupby([row, line.label]).mean().unstack()
    group = np.zeros(len(table)) if apart else pd.Series(line.person).groupby(row).first().to_numpy()
    sizes = np.unique(group, return_counts=True)[1]
    if table.shape[1] < 2 or not (sizes > 1).any():
        return None
    ranks = table.rank(axis=1)
    ranks = ranks.sub(ranks.mean(axis=1), axis=0).fillna(0.0).to_numpy()  # an absent label is in the middle
    ranks = ranks / np.maximum(np.linalg.norm(ranks, axis=1, keepdims=True), 1e-12)
    member = (group[None] == np.unique(group)[:, None]).astype(float)
    n_pairs = (sizes * (sizes - 1)).sum()

    def correlation(rows: np.ndarray) -> float:
        return float((((member @ rows) ** 2).sum() - (rows**2).sum()) / n_pairs)

    rng = np.random.default_rng(seed)
    value = correlation(ranks)
    null = _null(value, (correlation(rng.permuted(ranks, axis=1)) for _ in itertools.count()))
    centred = place - place.groupby(line.recording).transform("mean")
    between = centred.groupby([line.recording, line.label]).transform("mean")
    spread = float((between**2).sum() / max((centred**2).sum(), 1e-12))
    return OrderScore(value, permutation_p(value, null), spread, len(table), table.shape[1])


def association(metadata: pd.DataFrame, label: np.ndarray, *, timed: bool) -> dict[str, dict[str, float]]:
    """Normalised mutual information of the label with block, run and time, inside people, their trial-weighted mean.

    "time" is tenths of each recording. "adjusted" is 0 for labels at random and 1 for labels that the unit tells:
    in many small blocks the plain figure is far above 0 by chance.
    Source: Vinh, Epps, Bailey, JMLR 11:2837, 2010 (both normalised by the mean entropy).
    """
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    line = _timeline(metadata, label, timed)
    units = {u: unit_names(metadata, u) for u in ("block", "run") if _filled(metadata, u)}
    if line.ordinal is not None:
        last = pd.Series(line.ordinal).groupby(line.recording).transform("max").to_numpy()
        tenth = np.ceil(10 * line.ordinal / last).astype(int)
        units["time"] = line.recording * 11 + tenth
    found = {}
    for name, unit in units.items():
        unit = pd.factorize(unit)[0]
        parts = []
        for person in np.unique(line.person):
            mine = line.person == person
            pair = line.label[mine], unit[mine]
            if min(len(np.unique(values)) for values in pair) > 1:
                parts.append(
                    (mine.sum(), normalized_mutual_info_score(*pair), adjusted_mutual_info_score(*pair))
                )
        if parts:
            n, plain, adjusted = np.array(parts).T
            found[name] = {
                "plain": float(np.average(plain, weights=n)),
                "adjusted": float(np.average(adjusted, weights=n)),
            }
    return found


def recordings_apart(metadata: pd.DataFrame, folds: Folds) -> bool:
    """Whether no recording is in training and in test."""
    return _apart(recording_names(metadata), folds)


def people_apart(metadata: pd.DataFrame, folds: Folds) -> bool:
    """Whether no person is in training and in test; one person alone is on both sides."""
    return "subject" in metadata and _apart(metadata["subject"].astype(str).to_numpy(), folds)


def _apart(names: np.ndarray, folds: Folds) -> bool:
    codes = pd.factorize(names)[0]
    return all(not np.intersect1d(codes[train], codes[test]).size for train, test in folds)


def _timeline(metadata: pd.DataFrame, label: np.ndarray, timed: bool) -> _Timeline:
    person = metadata["subject"].astype(str) if "subject" in metadata else np.zeros(len(metadata), int)
    recording = pd.factorize(recording_names(metadata))[0]
    onset = ordinal = None
    if timed:
        onset = metadata["onset"].astype(float)
        onset = (onset - onset.groupby(recording).transform("min")).to_numpy()
        ordinal = pd.Series(onset).groupby(recording).rank(method="first").to_numpy()
    return _Timeline(
        label=pd.factorize(label)[0],
        person=pd.factorize(person)[0],
        recording=recording,
        onset=onset,
        ordinal=ordinal,
    )


def _views(
    metadata: pd.DataFrame, line: _Timeline, folds: Folds, rng: np.random.Generator
) -> dict[str, Callable]:
    """View -> a function from (train, test) to the neighbours' indices (n_test, k) and their weights."""
    views = {}
    if line.onset is not None:
        columns = [c for c in ("subject", "session") if c in metadata]
        session = metadata.groupby(columns).ngroup().to_numpy() if columns else np.zeros(len(metadata), int)
        span = 10 * (line.onset.max() + 1)  # a neighbour in another run is farther than any in the same one
        group = np.zeros(len(metadata), int) if people_apart(metadata, folds) else line.person
        views["time"] = _nearest(session, line.onset + span * line.recording)
        views["position"] = _nearest(group, line.onset, avoid=line.recording)
        views["order"] = _nearest(group, line.ordinal, avoid=line.recording)
    for unit in ("block", "run", "session"):
        if _filled(metadata, unit):
            views[unit] = _same(pd.factorize(unit_names(metadata, unit))[0], rng)
    return views


def _filled(metadata: pd.DataFrame, column: str) -> bool:
    return column in metadata and not metadata[column].isna().any()


def _nearest(stratum: np.ndarray, at: np.ndarray, *, avoid: np.ndarray | None = None) -> Callable:
    """The training trials of the same stratum that are nearest, none of a test trial's own unit of `avoid`."""
    k, reach = N_NEIGHBOURS, N_NEIGHBOURS * (1 if avoid is None else 4)
    span = 4 * (at.max() - at.min() + 1)
    place = at + span * stratum  # strata lie apart on one line

    def neighbours(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        train = train[np.argsort(place[train], kind="stable")]
        start = np.searchsorted(place[train], place[test])[:, None] + np.arange(-reach, reach)
        candidate = train[np.clip(start, 0, len(train) - 1)]  # (n_test, 2 reach)
        distance = np.abs(place[candidate] - place[test][:, None])
        wrong = (start < 0) | (start >= len(train)) | (stratum[candidate] != stratum[test][:, None])
        if avoid is not None:
            wrong |= avoid[candidate] == avoid[test][:, None]
        distance = np.where(wrong, np.inf, distance)
        nearest = np.argsort(distance, axis=1, kind="stable")[:, :k]
        weight = np.isfinite(np.take_along_axis(distance, nearest, 1)) / np.arange(1.0, k + 1)
        return np.take_along_axis(candidate, nearest, 1), weight

    return neighbours


def _same(unit: np.ndarray, rng: np.random.Generator) -> Callable:
    """Training trials of the same unit, drawn with replacement; weight 0 where there is none."""

    def neighbours(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        train = train[np.argsort(unit[train], kind="stable")]
        first = np.searchsorted(unit[train], unit[test])
        size = np.searchsorted(unit[train], unit[test], side="right") - first
        drawn = first[:, None] + rng.integers(0, np.maximum(size, 1)[:, None], (len(test), N_NEIGHBOURS))
        weight = np.repeat((size > 0)[:, None] * 1.0, N_NEIGHBOURS, axis=1)
        return train[np.minimum(drawn, len(train) - 1)], weight

    return neighbours


def _view_score(
    view: str, neighbours: Callable, line: _Timeline, folds: Folds, rng: np.random.Generator
) -> ClockScore | None:
    parts = [(test, *neighbours(train, test)) for train, test in folds]
    tested, nearest, weight = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    found = np.flatnonzero(weight.any(1))
    if len(found) < max(2, MIN_SHARE * len(tested)):
        return None
    if len(found) > MAX_TESTED:
        found = rng.choice(found, MAX_TESTED, replace=False)
    nearest, weight = (np.ascontiguousarray(array[found].T) for array in (nearest, weight))  # (k, n)
    return _score(view, line, tested[found], nearest, weight, rng)


def _score(
    view: str,
    line: _Timeline,
    tested: np.ndarray,
    nearest: np.ndarray,
    weight: np.ndarray,
    rng: np.random.Generator,
) -> ClockScore | None:
    binary = len(np.unique(line.label)) == 2
    measure = _neighbour_auc if binary else _neighbour_accuracy
    own_recording = (line.recording[nearest] == line.recording[tested])[weight > 0].mean()
    by_streak = line.onset is not None and view in ("time", "position", "order") and own_recording < 0.5
    inside = line.person if view == "time" else line.recording
    within = _within(line.label, line.person, tested, nearest, rng)
    shuffled = _streaks(line, inside, rng) if by_streak else within
    value = measure(line.label, tested, nearest, weight)
    if np.isnan(value):
        return None
    null = _null(value, (measure(label, tested, nearest, weight) for label in shuffled))
    return ClockScore(
        view=view,
        measure="AUC" if binary else "accuracy",
        value=value,
        chance=float(np.mean(null)),
        p=permutation_p(value, null),
        n=len(tested),
        n_permutations=len(null),
        permuted="streaks" if by_streak else "trials",
    )


def _null(value: float, draws: Iterator[float]) -> np.ndarray:
    """What permutations give; they stop early once it is plain that many reach the value."""
    null, n_reached = [], 0
    for draw in draws:
        null.append(draw)
        n_reached += draw >= value - 1e-12
        if len(null) == N_PERMUTATIONS or (n_reached >= N_EXCEEDING and len(null) >= MIN_PERMUTATIONS):
            break
    return np.array(null)


def _neighbour_accuracy(
    label: np.ndarray, tested: np.ndarray, nearest: np.ndarray, weight: np.ndarray
) -> float:
    """Share of trials whose label has the largest weight among the neighbours'; the nearest decides a tie."""
    votes = label[nearest]
    support = weight.copy()
    for i, j in itertools.combinations(range(len(votes)), 2):
        same = votes[i] == votes[j]
        support[i] += weight[j] * same
        support[j] += weight[i] * same
    support[weight == 0] = -1.0
    chosen = np.take_along_axis(votes, support.argmax(0)[None], 0)[0]
    return float((chosen == label[tested]).mean())


def _neighbour_auc(label: np.ndarray, tested: np.ndarray, nearest: np.ndarray, weight: np.ndarray) -> float:
    """AUC of the weighted share of neighbours with the second label; NaN where the trials have one label."""
    from scipy.stats import rankdata

    share = (label[nearest] * weight).sum(0) / weight.sum(0)
    own = label[tested] == 1
    n, m = own.sum(), (~own).sum()
    if not n or not m:
        return float("nan")
    return float((rankdata(share.round(9))[own].sum() - n * (n + 1) / 2) / (n * m))


def _within(
    label: np.ndarray, person: np.ndarray, tested: np.ndarray, nearest: np.ndarray, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Labels of the trials in question, permuted inside each person."""
    used = np.unique(np.concatenate([tested, nearest.ravel()]))
    parts = [used[person[used] == who] for who in np.unique(person[used])]
    while True:
        shuffled = label.copy()
        for part in parts:
            shuffled[part] = rng.permutation(label[part])
        yield shuffled


def _streaks(line: _Timeline, inside: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Labels whose streaks are put in a new order inside each recording or person."""
    order = np.lexsort((line.onset, line.recording, inside))
    label, recording, inside = line.label[order], line.recording[order], inside[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(label) != 0) | (np.diff(recording) != 0)])
    lengths = np.diff(np.r_[starts, len(label)])
    while True:
        drawn = np.lexsort((rng.random(len(starts)), inside[starts]))
        shuffled = np.empty_like(line.label)
        shuffled[order] = np.repeat(label[starts][drawn], lengths[drawn])
        yield shuffled
