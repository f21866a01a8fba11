"""Can this design, under this split, support the claim? A judgement from the trials' table alone."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from brainedit._check import pick
from brainedit.audit.checks import (
    Design,
    check_blocks,
    check_clock,
    check_left_out,
    check_order,
    check_recordings,
    check_shared_pictures,
    check_source,
    check_timing,
    random_folds,
)
from brainedit.audit.clock import MAX_TESTED, Folds
from brainedit.splits import TrialSplit, split_trials

# claim -> columns that may hold what is claimed; the first that there is counts
CLAIMS = {
    "picture": ("stimulus",),
    "category": ("label",),
    "label": ("label",),
    "relevance": ("target", "label"),
    "direction": ("target", "label"),
    "map": ("label", "stimulus"),
}
VERDICTS = ("supported", "unverifiable", "confounded")
MAX_FOLDS = 20  # more folds than this are not all looked at


@dataclass(frozen=True)
class DesignAudit:
    """A verdict on a design under a split, and what it rests on.

    verdict : "supported", "unverifiable" or "confounded"
    reasons, remedy : sentences, those that decide first; a supported claim's reasons say what was looked at
    figures : every number computed, by name
    """

    verdict: str
    claim: str
    split: str
    reasons: list[str] = field(default_factory=list)
    remedy: list[str] = field(default_factory=list)
    figures: dict = field(default_factory=dict)

    def as_dict(self) -> dict:
        """Plain values that json can write."""
        return json.loads(json.dumps(asdict(self)))

    def __str__(self) -> str:
        lines = [f"{self.verdict}: the claim {self.claim!r} under {self.split}"]
        lines += [f"- {reason}" for reason in self.reasons]
        return "\n".join(lines + [f"What to do: {step}" for step in self.remedy])


def audit_design(
    metadata: pd.DataFrame,
    *,
    claim: str = "label",
    target: str | None = None,
    split: str | TrialSplit | Iterable | None = None,
    images: str | Path | Mapping | None = None,
    seed: int = 0,
) -> DesignAudit:
    """Whether trials laid out like this, split like this, can support a claim; no EEG is looked at.

    claim : "picture" (new pictures are told apart), "category" or "label", "relevance", "direction", "map"
    target : the column that holds what is claimed; else `stimulus` for pictures, `label` for categories, `target` or
        else `label` for relevance and directions, `label` or else `stimulus` for maps
    split : a unit of `split_trials`, a TrialSplit or pairs of indices (train, test). "trial" here is random folds
        over trials, as they are often used, without an embargo. None is "stimulus", or "trial" without pictures
    images : folder or dict with the pictures, for copies under another name, mirrored and near-duplicate ones

    A design is confounded where the clock alone tells the label (p < .001 and at least .05 of the way from chance to
    certainty), the order of labels repeats over recordings, or pictures of the test part are in training; it is
    unverifiable where the order is not known, or known from the publication alone.
    At most 20 folds and 5,000 test trials are looked at, drawn at random; `figures` says where there were more.

    Raises ValueError when the column is missing or has one value, a trial has none, or the split cannot be made.
    Source: Li et al., TPAMI 43:316, 2021 (block designs); Kilgallen et al., arXiv 2406.16902 (repeated pictures).
    Differs: they show the leak in decoded EEG; this finds it in the schedule, before anything is decoded.
    """
    metadata = metadata.reset_index(drop=True)
    columns = pick("claim", claim, CLAIMS)
    column = target or next((c for c in columns if c in metadata), columns[-1])
    value = _values(metadata, column, claim)
    folds, name, figures = _folds(metadata, split, value, seed)
    timed, finding = check_timing(metadata)
    picture, copies = _pictures(metadata, images)
    figures |= {"n_trials": len(metadata), "n_values": len(np.unique(value)), "n_folds": len(folds)}
    design = Design(metadata, claim, column, value, folds, timed, picture, copies, seed, figures)
    findings = [finding, *check_source(design), *check_shared_pictures(design), *check_left_out(design)]
    findings += [*check_recordings(design), *check_clock(design), *check_blocks(design), *check_order(design)]
    findings.sort(key=lambda f: -VERDICTS.index(f.verdict))
    return DesignAudit(
        verdict=findings[0].verdict,
        claim=claim,
        split=name,
        reasons=[f.reason for f in findings],
        remedy=list(dict.fromkeys(f.remedy for f in findings if f.remedy)),
        figures=figures,
    )


def _values(metadata: pd.DataFrame, column: str, claim: str) -> np.ndarray:
    if column not in metadata:
        have = ", ".join(map(str, metadata.columns)) or "none"
        raise ValueError(f"The claim {claim!r} needs the column {column!r}; the metadata have {have}.")
    if metadata[column].isna().any():
        n_empty = int(metadata[column].isna().sum())
        raise ValueError(f"{n_empty} of {len(metadata)} trials have no {column!r}; drop them first.")
    value = metadata[column].astype(str).to_numpy(object)
    if len(set(value)) < 2:
        raise ValueError(f"A claim needs two or more values of {column!r}; there is {sorted(set(value))}.")
    return value


def _folds(
    metadata: pd.DataFrame, split: str | TrialSplit | Iterable | None, value: np.ndarray, seed: int
) -> tuple[Folds, str, dict]:
    """Pairs of indices, what they are called, and how many there were."""
    rng = np.random.default_rng(seed)
    if split is None:
        pictures = "stimulus" in metadata and metadata["stimulus"].nunique() > 1
        split = "stimulus" if pictures and not metadata["stimulus"].isna().any() else "trial"
    if isinstance(split, TrialSplit):
        folds, name = list(split.split(groups=metadata)), str(split)
    elif split == "trial":
        folds, name = random_folds(value, rng), "a split of random trials"
    elif isinstance(split, str):
        folds, name = list(split_trials(metadata, by=split, seed=seed)), f"a split by {split}"
    else:
        folds, name = [_pair(pair, len(metadata)) for pair in split], "the given split"
    if not folds:
        raise ValueError("The split has no folds; at least one is needed.")
    n_folds = len(folds)
    if n_folds > MAX_FOLDS:
        folds = [folds[i] for i in np.sort(rng.choice(n_folds, MAX_FOLDS, replace=False))]
    n_tested = sum(len(test) for _, test in folds)
    return (
        folds,
        name,
        {"n_folds_given": n_folds, "n_tested": n_tested, "n_scored": min(n_tested, MAX_TESTED)},
    )


def _pair(pair: Iterable, n: int) -> tuple[np.ndarray, np.ndarray]:
    sides = [np.asarray(side) for side in pair]
    if len(sides) != 2:
        raise ValueError(f"A fold is a pair (train, test) of trial indices; one has {len(sides)} parts.")
    sides = [np.flatnonzero(s) if s.dtype == bool and s.shape == (n,) else s for s in sides]
    for side in sides:
        if (
            side.ndim != 1
            or not len(side)
            or side.dtype.kind not in "iu"
            or side.min() < 0
            or side.max() >= n
        ):
            raise ValueError(
                f"A fold is a pair (train, test) of indices 0 to {n - 1}; one side is {side!r:.60}."
            )
    if len(np.intersect1d(*sides)):
        raise ValueError(f"Trial {np.intersect1d(*sides)[0]} is in training and in test of one fold.")
    return sides[0], sides[1]


def _pictures(
    metadata: pd.DataFrame, images: str | Path | Mapping | None
) -> tuple[np.ndarray | None, dict[str, int]]:
    """A code for each trial's picture, the same for copies of one, and how many copies of which kind there are."""
    if "stimulus" not in metadata or metadata["stimulus"].isna().any():
        if images is not None:
            raise ValueError(
                "Pictures can be compared where each trial has its `stimulus`; give no `images` here."
            )
        return None, {}
    code, names = pd.factorize(metadata["stimulus"].astype(str))
    pairs: list[tuple[int, int]] = []
    copies: dict[str, int] = {}
    if "picture_sha256" in metadata:
        known = pd.DataFrame({"code": code, "sha": metadata["picture_sha256"]}).dropna().drop_duplicates()
        first = known.groupby("sha")["code"].transform("first")
        pairs += list(zip(first, known["code"], strict=True))
        copies["identical"] = int((first != known["code"]).sum())
    if images is not None:
        from brainedit.audit.duplicates import find_duplicates

        mapped = isinstance(images, Mapping)
        if mapped and (missing := [name for name in names if name not in images]):
            raise ValueError(f"{missing[0]!r} and {len(missing) - 1} more pictures are not in `images`.")
        found = find_duplicates({n: images[n] if mapped else Path(images) / n for n in names})
        place = {name: i for i, name in enumerate(names)}
        pairs += [(place[pair.first], place[pair.second]) for pair in found]
        copies = {how: sum(p.how == how for p in found) for how in ("identical", "mirrored", "near")}
    return (_merged(len(names), pairs)[code] if pairs else code), copies


def _merged(n: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = np.array(pairs).T
    return connected_components(coo_array((np.ones(len(pairs)), (first, second)), shape=(n, n)))[1]
