"""Controls that refute a claim about EEG and pictures: what else could have given the score, tried under its split.

Which control refutes which claim stands in one table, `CONTROLS`; `controls_table` gives it in Markdown for the
documentation. How a verdict comes about:

1. The score is the claim's statistic on held-out trials: for a picture or a map, each picture's own column against the
   rest of the gallery; for a category, relevance or a direction, the AUC of each class against the rest within a fold.
   Its interval draws anew what the score generalises over: pictures, people, blocks, or trials.
2. Its p permutes the answers in the unit that was randomised. Answers that are constant within people, sessions, runs
   or blocks (or come in streaks) are permuted among those, within the recording; categories of repeated pictures
   among pictures; others among trials within the run. The pipeline is trained anew for each permutation.
3. Each control reruns the pipeline under the same split and is tested against chance, with Holm's correction over the
   controls that can veto. One that is above chance fires. It vetoes when the score does not clearly exceed it, that is,
   when the bootstrap interval of their difference holds 0; below that it is a warning: a part of the score.
4. A claim is supported when the audit does not call the design confounded, p is below alpha, and nothing vetoes.

A control that cannot run is reported with the reason and never counted as passed. What no control can show: that the
answer was decoded from the brain's response to what the label means, and not from something that goes with it in these
pictures.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from tqdm import tqdm

from brainedit._check import pick
from brainedit.audit.control_data import CannotRun
from brainedit.audit.control_experiment import Experiment, Finding, make_experiment
from brainedit.audit.control_runs import RUNS
from brainedit.datasets.paired import PairedDataset
from brainedit.evaluation import Score
from brainedit.splits import TrialSplit

logger = logging.getLogger(__name__)

VETO, WARNING = "veto", "warning"
CLAIMS = {
    "picture": "EEG tells which picture was seen",
    "category": "EEG tells the category of what was seen",
    "relevance": "EEG tells whether the picture was a target",
    "direction": "EEG gives a direction in which pictures differ",
    "map": "EEG of a picture explains its own regions better than another's does",
}
NOT_EVIDENCE = "Not evidence of stimulus decoding"


@dataclass(frozen=True)
class Control:
    """A line of the table: what it would show, and for which claims it can veto or warn (no entry: says nothing)."""

    shows: str
    roles: dict[str, str]


ALL = dict.fromkeys(CLAIMS, VETO)
LABELS = ("category", "relevance", "direction")
CONTROLS = {
    "shuffled_pairs": Control(
        "the score does not come from the pairing of EEG and answers in training, but leaks in elsewhere", ALL
    ),
    "shuffled_within_class": Control(
        "the response to another picture of the same class does as well: the class was told, not the picture",
        dict.fromkeys(("picture", "map"), VETO),
    ),
    "prestimulus": Control(
        "EEG before the picture does as well: drift, the order of trials or expectation, not the response",
        ALL,
    ),
    "eye_channels": Control(
        "channels at the eyes do as well: eye movements or blinks may carry it (or the brain below these channels)",
        ALL,
    ),
    "low_level": Control(
        "luminance, contrast, colour, size and spatial frequency tell the answer, so the score may ride on them",
        dict.fromkeys(LABELS, WARNING),
    ),
    "block_permutation": Control(
        "wrong answers, permuted among blocks, are decoded as well: what is told is the block, that is, time",
        dict.fromkeys(LABELS, VETO),
    ),
    "phantom": Control(
        "noise with drift on the same schedule does as well: the design and the split give it", ALL
    ),
    "random_codebook": Control(
        "random vectors in place of pictures do as well: the joint space holds names, not visual content",
        {"picture": VETO, "category": WARNING, "map": VETO},
    ),
    "pseudo_blocks": Control(
        "random labels of stretches of time are decoded under this split: drift is there for whatever follows time",
        dict.fromkeys(CLAIMS, WARNING),
    ),
}


def controls_table() -> str:
    """The table claim x control in Markdown: where a control can veto, where it warns, and what it would show."""
    head = ["control", *CLAIMS, "if it reaches the score"]
    rows = [
        [f"`{name}`", *(control.roles.get(claim, "–") for claim in CLAIMS), control.shows]
        for name, control in CONTROLS.items()
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


@dataclass(frozen=True)
class ControlResult:
    """One control: its score, or why it was not run.

    p_holm : corrected over the controls that can veto; the plain p of one that cannot
    fires : above chance; vetoes : fires, can veto, and the score does not clearly exceed it
    below : score less control with its interval (value, low, high)
    """

    name: str
    shows: str
    can_veto: bool
    score: Score | None = None
    not_run: str = ""
    p_holm: float | None = None
    fires: bool = False
    vetoes: bool = False
    below: tuple[float, float, float] | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.score is None:
            return f"{self.name}: not run: {self.not_run}"
        kind = "VETO" if self.vetoes else "warning" if self.fires else "at chance"
        p = f"{'Holm ' if self.can_veto else ''}p {self.p_holm:.3f}"
        notes = "".join(f"; {note}" for note in self.notes)
        shows = f" ({self.shows})" if self.fires else ""
        return f"{self.name}: {kind}, {self.score}, {p}{shows}{notes}"


@dataclass(frozen=True)
class Controls:
    """A score, what was done to refute it, and what is left of the claim.

    scores : the statistic of the claim first, then others; design : the verdict of `audit_design` and its reasons
    """

    claim: str
    scores: tuple[Score, ...]
    results: tuple[ControlResult, ...]
    design: str
    design_reasons: tuple[str, ...]
    alpha: float
    n_arrangements: float = np.inf

    @property
    def score(self) -> Score:
        return self.scores[0]

    @property
    def supported(self) -> bool:
        """The design supports it, the score is above chance, and of the controls that can veto one ran, none did."""
        above = self.score.p < self.alpha
        tried = any(r.can_veto and r.score is not None for r in self.results)
        return above and self.design == "supported" and tried and not any(r.vetoes for r in self.results)

    @property
    def verdict(self) -> str:
        """One sentence (two where a warning follows)."""
        vetoes = [r.name for r in self.results if r.vetoes]
        if vetoes:
            return (
                f"{NOT_EVIDENCE}: {_listed(vetoes)} reach{'es' * (len(vetoes) == 1)} the score, {self.score}."
            )
        if self.design == "confounded":
            return f"{NOT_EVIDENCE}: the design is confounded. {' '.join(self.design_reasons)}".strip()
        if self.score.p >= self.alpha:
            few = self.n_arrangements * self.alpha <= 1
            why = (
                f" Only {self.n_arrangements:.0f} arrangements of the answers exist, too few for any."
                if few
                else ""
            )
            return f"Not supported: the score is not above chance, {self.score}.{why}"
        if self.design != "supported":
            why = self.design_reasons[0] if self.design_reasons else ""
            return f"Above chance, not refuted, but {self.design}: {self.score}. {why} {self._what_ran()}"
        if not self.supported:
            return f"Above chance, but nothing that could refute it was run: {self.score}."
        return f"Supported: {self.score}. {self._what_ran()}"

    def as_dict(self) -> dict:
        """All of it for a JSON file."""
        return {
            "claim": self.claim,
            "verdict": self.verdict,
            "supported": self.supported,
            "alpha": self.alpha,
            "design": self.design,
            "design_reasons": list(self.design_reasons),
            "scores": [score.as_dict() for score in self.scores],
            "controls": [asdict(result) for result in self.results],
        }

    def __str__(self) -> str:
        lines = [self.verdict, f"claim: {CLAIMS[self.claim]}", f"design: {self.design}"]
        lines += [f"score: {score}" for score in self.scores]
        lines += [f"p of the score: {self.score.permuted}", *(str(result) for result in self.results)]
        return "\n".join(lines)

    def _what_ran(self) -> str:
        able = [r for r in self.results if r.can_veto]
        ran = [r for r in able if r.score is not None]
        parts = [f"{len(ran)} of {len(able)} controls that could refute it ran and none did"]
        if len(ran) < len(able):
            parts.append(f"not run: {_listed([r.name for r in able if r.score is None])}")
        if fired := [r.name for r in self.results if r.fires]:
            parts.append(f"above chance, as a warning: {_listed(fired)}")
        return "; ".join(parts) + "."


def run_controls(
    dataset: PairedDataset,
    pipeline: object = "lda",
    *,
    claim: str,
    split: str | TrialSplit | Sequence,
    column: str | None = None,
    controls: Sequence[str] | None = None,
    n_permutations: int = 200,
    refit: bool = True,
    alpha: float = 0.05,
    seed: int = 0,
    progress: bool = True,
) -> Controls:
    """The score of a claim under a split, and what its controls make of it.

    pipeline : "lda" (see `LinearDecoder`), a scikit-learn classifier of X (n, n_channels, n_times) in volts from 0 s
        on, or a function (train, test) of two PairedDataset -> (n_test, m), larger fits better; its columns are
        `sorted(set(test.keys))`, the gallery, for "picture" and "map", else `sorted(set(train.keys))`. Test trials
        come without their answers: `test.keys` are in random order. A function that looks at no picture says so by an
        attribute `uses_pictures = False`
    claim : "picture", "category", "relevance", "direction" or "map"
    split : a unit of `split_trials`, a TrialSplit, or pairs of indices (train, test)
    column : metadata column that holds the answers, see `answers_of`
    controls : names from `CONTROLS`; None takes all that say something about the claim
    n_permutations : of the answers in the unit that was randomised; with `refit` the pipeline is trained anew for
        each (a permutation test), else they are permuted on the held-out evidence, and the score says so: then, where
        trials train and test in turn, the null is widened by the square root of 2, which is exact for pipelines that
        are linear in the labels. Controls are always tested on their held-out evidence
    All people in the data set train together.

    Raises ValueError when the claim, the answers or the split do not fit the data; LeakageError when the split has
    a unit on both sides.
    Source: Li et al., TPAMI 43:316, 2021 (block-level labels, random codebook); Holm, Scand. J. Stat. 1979.
    """
    pick("claim", claim, CLAIMS)
    names = _chosen(controls, claim)
    if not 0 < alpha < 1 or n_permutations + 1 <= 1 / alpha:
        raise ValueError(
            f"Need alpha in 0 to 1 and n_permutations of 1 / alpha or more; got {alpha} and {n_permutations}."
        )
    n_able = sum(CONTROLS[name].roles.get(claim) == VETO for name in names)
    experiment = make_experiment(
        dataset,
        pipeline,
        claim=claim,
        split=split,
        column=column,
        n_permutations=n_permutations,
        smallest_p=alpha / (2 * max(n_able, 1)),
        seed=seed,
    )
    design = _design(experiment, claim, column)
    main = experiment.main_findings(refit=refit, progress=progress)
    scores = tuple(experiment.score(finding) for finding in main)
    outcomes = {
        name: _run(name, claim, experiment) for name in tqdm(names, desc="controls", disable=not progress)
    }
    results = _judged(outcomes, claim, experiment, main[0], alpha)
    return Controls(claim, scores, results, *design, alpha, main[0].n_arrangements)


def _chosen(controls: Sequence[str] | None, claim: str) -> list[str]:
    if isinstance(controls, str):
        raise ValueError(f"controls is a list of names; got {controls!r}.")
    if controls is None:
        return [name for name, control in CONTROLS.items() if claim in control.roles]
    for name in controls:
        pick("control", name, CONTROLS)
    return list(dict.fromkeys(controls))


def _run(name: str, claim: str, experiment: Experiment) -> Finding | str:
    """The control's finding, or why there is none."""
    if claim not in CONTROLS[name].roles:
        return f"it says nothing about a claim of {claim}"
    try:
        return RUNS[name](experiment)
    except CannotRun as reason:
        return str(reason)
    except (ValueError, RuntimeError) as error:
        logger.warning("The control %s failed: %s", name, error)
        return f"the pipeline cannot run on it ({error})"


def _judged(
    outcomes: dict[str, Finding | str], claim: str, experiment: Experiment, main: Finding, alpha: float
) -> tuple[ControlResult, ...]:
    """Results in the order asked for, with Holm's correction over those that can veto."""
    able = {name for name in outcomes if CONTROLS[name].roles.get(claim) == VETO}
    outcomes = {
        name: _if_it_can_fire(found, alpha / len(able)) if name in able else found
        for name, found in outcomes.items()
    }
    scores = {n: experiment.score(found) for n, found in outcomes.items() if isinstance(found, Finding)}
    p = {name: score.p for name, score in scores.items()}
    p |= dict(holm({name: p[name] for name in scores if name in able}))
    results = []
    for name, found in outcomes.items():
        shows, can_veto = CONTROLS[name].shows, name in able
        if isinstance(found, str):
            results.append(ControlResult(name, shows, can_veto, not_run=found))
            continue
        result = ControlResult(
            name, shows, can_veto, scores[name], "", p[name], p[name] < alpha, notes=found.notes
        )
        if can_veto:
            difference = main.measured.less(found.measured)
            below = (difference.value, *experiment.interval(difference))
            result = replace(result, below=below, vetoes=result.fires and below[1] <= 0)
        results.append(result)
    return tuple(results)


def _if_it_can_fire(found: Finding | str, alpha: float) -> Finding | str:
    """The finding, or why its p could not have been small enough whatever the score."""
    if isinstance(found, str) or 1 / found.n_arrangements < alpha:
        return found
    return f"its answers can be arranged in {found.n_arrangements:.0f} ways, too few to tell it from chance"


def holm(p: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Each name with its p corrected for all of them, smallest first."""
    largest = 0.0
    for i, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p) - i) * value))
        yield name, largest


def _design(experiment: Experiment, claim: str, column: str | None) -> tuple[str, tuple[str, ...]]:
    """The verdict of the audit and its reasons."""
    from brainedit.audit.design import audit_design

    audit = audit_design(experiment.dataset.metadata, claim=claim, target=column, split=experiment.split)
    return audit.verdict, tuple(audit.reasons)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
