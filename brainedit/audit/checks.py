"""The checks of a design audit: each looks for one way in which a score may not be what it is called."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainedit.audit.clock import (
    ClockScore,
    Folds,
    association,
    clock_scores,
    order_score,
    people_apart,
    recordings_apart,
    unit_score,
)
from brainedit.splits import recording_names, unit_names

MAX_P = 0.001  # a reason to call a design confounded needs a p below this ...
MIN_GAIN = 0.05  # ... and this much of the way from chance to certainty
MIN_CORRELATION = 0.3  # of the order of labels between recordings
MIN_SHARE = 0.01  # of test trials whose picture is in training

SEEN_AS = {
    "time": "the trials nearest in time",
    "position": "the time since the recording began",
    "order": "the trial's number in its recording",
    "block": "the block",
    "run": "the run",
    "session": "the session",
}


@dataclass(frozen=True)
class Finding:
    """What one check found: the best verdict that it allows, why, and what would help."""

    verdict: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Design:
    """What the checks look at. `value` (n,) is what is claimed, `picture` (n,) one code for each picture, or None."""

    metadata: pd.DataFrame
    claim: str
    column: str
    value: np.ndarray
    folds: Folds
    timed: bool
    picture: np.ndarray | None
    copies: dict[str, int]
    seed: int
    figures: dict


def random_folds(value: np.ndarray, rng: np.random.Generator, n_splits: int = 5) -> list:
    """Random trials of each value in each fold, as stratified cross-validation deals them."""
    order = rng.permutation(len(value))
    order = order[np.argsort(pd.factorize(value)[0][order], kind="stable")]
    fold = np.empty(len(value), int)
    fold[order] = np.arange(len(value)) % n_splits
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(min(n_splits, len(value)))]


def check_timing(metadata: pd.DataFrame) -> tuple[bool, Finding]:
    """Whether the onsets can be believed, and what to say of it."""
    add = "Add `onset` (s), and `run` or `block`, as the recording has them."
    if "onset" not in metadata:
        known = [column for column in ("block", "run") if column in metadata]
        if not known:
            text = "There is no timing: neither onset nor block nor run is known."
            return False, Finding("unverifiable", text, add)
        text = f"There is no onset, so the order of trials inside a {known[0]} is not known."
        return False, Finding("unverifiable", text, add)
    onset = pd.to_numeric(metadata["onset"], errors="coerce")
    n_empty = int((~np.isfinite(onset.to_numpy(float))).sum())
    if n_empty:
        text = f"There is no timing to use: {n_empty} of {len(onset)} trials have no onset in seconds."
        return False, Finding("unverifiable", text, add)
    n_distinct = int(onset.groupby(recording_names(metadata)).nunique().sum())
    if n_distinct < 0.5 * len(onset):
        text = (
            f"The onsets tell no order: {len(onset)} trials have {n_distinct} different ones in their recordings; a "
            "recording is a subject, session and run."
        )
        return False, Finding("unverifiable", text, add)
    n_recordings = len(np.unique(recording_names(metadata)))
    text = f"Onsets are known for {len(onset)} trials in {n_recordings} recordings."
    return True, Finding("supported", text)


def check_source(design: Design) -> list[Finding]:
    """A design that is known from the publication alone."""
    if "design_source" not in design.metadata:
        return []
    n = int((design.metadata["design_source"].astype(str) == "documented").sum())
    if not n:
        return []
    text = (
        f"For {n} of {len(design.value)} trials the design is documented, not recorded: randomised or blocked "
        "according to the publication, not checked."
    )
    return [Finding("unverifiable", text, "Take the onsets from the recording or its log files.")]


def check_shared_pictures(design: Design) -> list[Finding]:
    """The same picture on both sides of the split."""
    if design.picture is None:
        return []
    shared, tested = [], []
    for train, test in design.folds:
        shared.append(np.isin(design.picture[test], design.picture[train]))
        tested.append(design.picture[test])
    both, share = np.unique(np.concatenate(tested)[np.concatenate(shared)]), np.concatenate(shared).mean()
    design.figures["pictures"] = {
        "n": len(np.unique(design.picture)),
        "n_on_both_sides": len(both),
        "share_of_test_trials": float(share),
        "copies": design.copies,
    }
    if share == 0:
        kinds = " (mirrored and near-duplicate copies included)" if "near" in design.copies else ""
        return [Finding("supported", f"No picture of a test part is in its training part{kinds}.")]
    verdict = _picture_verdict(design, float(share))
    copied = [f"{n} {how}" for how, n in design.copies.items() if n]
    kinds = f"; copies under another name: {', '.join(copied)}" if copied else ""
    what = (
        "so a score may be recognition of a known picture's response"
        if design.column == "stimulus"
        else f"so a score for {design.column!r} may be that of known pictures (repeated-stimulus confound)"
    )
    text = f"{len(both)} pictures are in training and in test, {share:.1%} of test trials, {what}{kinds}."
    remedy = 'Split with by="stimulus", or with apart=["stimulus"] beside another unit; give copies one name.'
    return [Finding(verdict, text, remedy if verdict == "confounded" or copied else "")]


def _picture_verdict(design: Design, share: float) -> str:
    if share < MIN_SHARE:
        return "supported"
    table = pd.DataFrame({"picture": design.picture, "value": design.value}).drop_duplicates()
    if design.column == "stimulus" or not table["picture"].duplicated().any():
        return "confounded"
    score = unit_score(
        design.metadata, design.value, design.picture, design.folds, view="picture", seed=design.seed
    )
    if score is None:
        return "unverifiable"
    design.figures["picture_alone"] = score.as_dict()
    return "confounded" if _leaks(score) else "supported"


def check_left_out(design: Design) -> list[Finding]:
    """Values of the test part that no training trial has."""
    if design.column == "stimulus":
        return []
    missing = {v for train, test in design.folds for v in set(design.value[test]) - set(design.value[train])}
    design.figures["n_values_without_training"] = len(missing)
    if not missing:
        return []
    text = (
        f"{len(missing)} of {design.figures['n_values']} values of {design.column!r} are tested where no training "
        f"trial has them, {min(missing)!r} among them: a classifier cannot name them."
    )
    return [Finding("unverifiable", text, "Split by another unit, or record each label in several of them.")]


def check_recordings(design: Design) -> list[Finding]:
    """One recording for each value, or one person."""
    person = design.metadata.get("subject", pd.Series("", index=design.metadata.index)).astype(str)
    table = pd.DataFrame(
        {"person": person, "value": design.value, "recording": recording_names(design.metadata)}
    )
    n_values = table.groupby("person")["value"].nunique()
    apart = people_apart(design.metadata, design.folds)
    if (n_values == 1).all() and not apart:
        text = f"Each of {len(n_values)} people has one {design.column} alone: the person tells it."
        return [Finding("confounded", text, 'Split with by="subject".')]
    nested = _nested_in_people(design, table) if not apart else []
    if nested:
        return nested
    pairs = table.drop_duplicates().loc[lambda t: t["person"].map(n_values) > 1]
    once = len(pairs) and not pairs["recording"].duplicated().any()
    once = once and not pairs.duplicated(["person", "value"]).any()
    design.figures["one_recording_per_value"] = bool(once)
    if not once or apart:
        return []
    text = f"Each {design.column} is one recording per person ({len(pairs)} in all): "
    verdict, rest = (
        "unverifiable",
        "within a person it cannot be told from what else differs between recordings.",
    )
    if not recordings_apart(design.metadata, design.folds):
        verdict, rest = (
            "confounded",
            "trials of one recording are in training and in test, and the recording tells it.",
        )
    return [Finding(verdict, text + rest, 'Split with by="subject"; nothing can be claimed within a person.')]


def _nested_in_people(design: Design, table: pd.DataFrame) -> list[Finding]:
    """Labels that some people have far more often than others: who it is then tells the label."""
    from sklearn.metrics import adjusted_mutual_info_score

    if design.column == "stimulus" or table["person"].nunique() < 2:
        return []
    shared = float(adjusted_mutual_info_score(table["person"], table["value"]))
    design.figures["person_and_value"] = shared
    if shared < MIN_GAIN:
        return []
    text = f"Some people have other {design.column}s than others (adjusted mutual information {shared:.2f}): "
    return [Finding("confounded", text + "the person tells it.", 'Split with by="subject".')]


def check_blocks(design: Design) -> list[Finding]:
    """Labels that are uneven over blocks without being constant in them: no unit is known that was randomised."""
    column, _ = _clock_column(design)
    shared = design.figures.get("association", {}).get("block", {}).get("adjusted", 0.0)
    if column == "stimulus" or shared < MIN_GAIN or "block" not in design.metadata:
        return []
    values = pd.Series(_of(design, column)).groupby(unit_names(design.metadata, "block")).nunique()
    if (values == 1).all():
        return []
    text = (
        f"The {column}s are uneven over blocks (adjusted mutual information {shared:.2f}) but vary in them: trials "
        "were not randomised one by one, and permuting them is too kind."
    )
    return [
        Finding("unverifiable", text, "Draw the labels in random order in each block, or keep one a block.")
    ]


def check_clock(design: Design) -> list[Finding]:
    """What the clock alone tells under the split."""
    column, seen = _clock_column(design)
    value = _of(design, column)
    folds = design.folds if seen else random_folds(value, np.random.default_rng(design.seed))
    if len(np.unique(value)) <= len(value) // 3:
        design.figures["association"] = association(design.metadata, value, timed=design.timed)
    design.figures.update(_blocks(design.metadata, value))
    scores = clock_scores(design.metadata, value, folds, timed=design.timed, seed=design.seed)
    clock = {score.view: score.as_dict() for score in scores}
    design.figures["clock"] = {"column": column, "seen_in_training": seen, "views": clock}
    if seen:
        return _clock_of_seen(design, column, scores)
    repeated = np.mean([np.isin(value[test], value[train]).mean() for train, test in folds]) > 0.5
    return _clock_of_new(column, scores, bool(repeated))


def _clock_of_new(column: str, scores: list[ClockScore], repeated: bool) -> list[Finding]:
    """Where training has none of the tested values: do their trials lie together in time?"""
    leaks = [score for score in scores if _leaks(score)]
    start = f"The test part has another {column} in each trial than the training part, so the clock cannot name it"
    if repeated and scores and not leaks:
        return [Finding("supported", f"{start}; trials that share a {column} lie at times like random ones.")]
    if leaks and column != "stimulus":
        text = (
            f"{start}, but each has a time of its own ({_told(leaks[0])}): what sets them apart may be time."
        )
        return [Finding("confounded", text, "Show the labels in random order.")]
    text = f"{start}; whether those shown close in time are alike is not known."
    return [
        Finding("unverifiable", text, "Add `label` or `concept` with several trials of each, and `onset`.")
    ]


def _clock_column(design: Design) -> tuple[str, bool]:
    """The column the clock is asked for, and whether training has the values that are tested."""
    coarser = ["label", "concept"] if design.column == "stimulus" else []
    columns = [c for c in coarser if c in design.metadata and not design.metadata[c].isna().any()]
    columns = [c for c in columns if design.metadata[c].nunique() > 1] + [design.column]
    for column in columns:
        value = pd.factorize(_of(design, column))[0]
        seen = [np.isin(value[test], value[train]).mean() for train, test in design.folds]
        if np.mean(seen) > 0.5:
            return column, True
    return columns[0], False


def _clock_of_seen(design: Design, column: str, scores: list[ClockScore]) -> list[Finding]:
    if not scores:
        why = "no unit of time is on both sides" if design.timed else "it is not known when the trials were"
        return [Finding("supported", f"A clock classifier could not run: {why}.")]
    ranked = sorted(scores, key=lambda score: -score.gain)
    leaks = [score for score in ranked if _leaks(score)]
    if leaks:
        texts = ", ".join(_told(score) for score in leaks)
        mutual = design.figures.get("association", {})
        tied = [f"{unit} {m['adjusted']:.2f}" for unit, m in mutual.items() if m["adjusted"] > MIN_GAIN]
        tied = f" Adjusted mutual information of {column} with {', '.join(tied)}." if tied else ""
        across = all(score.permuted == "streaks" for score in leaks)
        remedy = (
            "Put the labels in a new random order in each recording."
            if across
            else "Split so that whole recordings, or whole people, are left out, or record the labels in random order."
        )
        return [Finding("confounded", f"The clock alone tells the {column}: {texts}.{tied}", remedy)]
    doubtful = [score for score in ranked if score.gain >= 0.5]
    if doubtful:
        text = f"The clock alone tells the {column} ({_told(doubtful[0])}); there are too few blocks to exclude chance."
        return [Finding("unverifiable", text, "Record more runs, each with a new order of labels.")]
    best = ranked[0]
    faint = (
        " A little of it is no accident: report the clock's score beside the EEG's." if best.p < MAX_P else ""
    )
    return [
        Finding("supported", f"The clock alone does not tell the {column}: at most {_told(best)}.{faint}")
    ]


def check_order(design: Design) -> list[Finding]:
    """The order of labels repeated in other recordings."""
    column, _ = _clock_column(design)
    if not design.timed or column == "stimulus":
        return []
    value = _of(design, column)
    order = order_score(design.metadata, value, design.folds, seed=design.seed)
    if order is None:
        return []
    design.figures["order"] = order.as_dict()
    spread = order.spread - (order.n_labels - 1) * order.n_recordings / len(
        value
    )  # what chance gives is taken off
    if order.p >= MAX_P or order.correlation < MIN_CORRELATION or spread < MIN_GAIN:
        return []
    text = (
        f"The {column}s come in much the same order in {order.n_recordings} recordings (mean rank correlation "
        f"{order.correlation:.2f}, {_p(order.p)}): the time in one tells the {column} in another."
    )
    return [Finding("confounded", text, "Put the labels in a new random order in each recording.")]


def _of(design: Design, column: str) -> np.ndarray:
    return design.metadata[column].astype(str).to_numpy(object)


def _blocks(metadata: pd.DataFrame, value: np.ndarray) -> dict:
    """In how many blocks of a person each value comes."""
    if "block" not in metadata or metadata["block"].isna().any():
        return {}
    person = metadata.get("subject", pd.Series("", index=metadata.index)).astype(str)
    counts = pd.Series(unit_names(metadata, "block")).groupby([person.to_numpy(), value]).nunique()
    return {"blocks_per_value": {"smallest": int(counts.min()), "median": float(counts.median())}}


def _leaks(score: ClockScore) -> bool:
    return score.p < MAX_P and score.gain >= MIN_GAIN


def _told(score: ClockScore) -> str:
    return f"{score.measure} {score.value:.3f} from {SEEN_AS[score.view]} (chance {score.chance:.3f}, {_p(score.p)})"


def _p(p: float) -> str:
    return "p < .001" if p < MAX_P else f"p = {p:.3f}"
