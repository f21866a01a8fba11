"""Can a design and its EEG support a claim: the design, the score, the controls that could refute it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from brainedit._check import pick
from brainedit.audit import DesignAudit, audit_design
from brainedit.controls import CLAIMS, Controls, run_controls
from brainedit.datasets.paired import PairedDataset
from brainedit.eeg import read_epochs
from brainedit.evaluation import Score
from brainedit.joint import JointModel
from brainedit.joint_training import train_joint
from brainedit.relevance import target_mask
from brainedit.report import Result, Section, is_simulated, p_text, result_folder
from brainedit.splits import TrialSplit

CONFOUNDED = "CONFOUNDED"


def audit_file(
    epochs: str | Path,
    out: str | Path,
    *,
    claim: str = "category",
    split: str | None = None,
    target: str | None = None,
    images: str | Path | None = None,
    pipeline: str = "lda",
    embargo: float | None = None,
    n_permutations: int = 200,
    design_only: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Audit a recording for a claim -> OUT/report.html.

    claim : of `brainedit.controls.CLAIMS`; target : query on the metadata, for relevance and direction
    split : a unit of `split_trials`; by default stimulus where pictures are known, else run
    pipeline : "lda", or "joint" (F of a model trained anew in each fold; for a picture claim the only one)
    design_only : look at the schedule, decode nothing
    """
    pick("claim", claim, CLAIMS)
    recording = read_epochs(epochs)
    if target is not None:
        recording.metadata = recording.metadata.assign(target=target_mask(recording.metadata, target))
    pair_by = "stimulus" if claim in ("picture", "map") or "label" not in recording.metadata else "label"
    known = "stimulus" in recording.metadata and recording.metadata["stimulus"].notna().all()
    by = split or ("stimulus" if known else "run")
    chosen = TrialSplit(by=by, embargo=embargo, seed=seed)
    column = "target" if target is not None else None
    with result_folder(out, overwrite=overwrite) as folder:
        design = audit_design(
            recording.metadata,
            claim=claim,
            target=column,
            split=chosen,
            images=images if known else None,
            seed=seed,
        )
        result = Result(
            job="audit",
            title=f"Can it be claimed? {CLAIMS[claim]}",
            lead=f"{design.verdict.capitalize()} by its design"
            + ("." if design_only else "; what the EEG says is below."),
            settings={"claim": claim, "split": by, "embargo": embargo, "pipeline": pipeline, "seed": seed},
            inputs={"epochs": epochs},
            figures={"design": design.as_dict()},
            sections=[design_section(design)],
            simulated=is_simulated(recording.metadata),
            stamp=CONFOUNDED if design.verdict == "confounded" else "",
        )
        if not design_only:
            dataset = _paired(recording, images, pair_by)
            decode = pick("pipeline", pipeline, {"lda": "lda", "joint": joint_pipeline(seed=seed)})
            controls = run_controls(
                dataset, decode, claim=claim, split=chosen, column=column, n_permutations=n_permutations,
                refit=pipeline == "lda", seed=seed,
            )  # fmt: skip
            result.lead = controls.verdict
            result.figures["controls"] = controls.as_dict()
            result.sections = [*control_sections(controls), *result.sections]
        result.write(folder)
    return Path(out)


def joint_pipeline(**settings) -> Callable[[PairedDataset, PairedDataset], np.ndarray]:
    """A pipeline for `run_controls`: F of a joint model trained on the training part.

    settings : of `train_joint`
    Its columns are the test pictures, or where trials are paired by label the labels' mean pictures.
    """

    def decode(train: PairedDataset, test: PairedDataset) -> np.ndarray:
        model = train_joint(train, **{"progress": False} | settings | _features_of(train))
        if train.pair_by == "stimulus":
            names = sorted(set(test.keys))
            theta = model.embed_pictures({name: test.pictures[name] for name in names})
        else:
            theta = _label_means(model, train)
        return (model.embed_epochs(test.epochs) @ theta.T).cpu().numpy()

    return decode


def _label_means(model: JointModel, train: PairedDataset):
    import torch

    labels = sorted(set(train.keys))
    parts = [{name: train.pictures[name] for name in train.candidates(label)} for label in labels]
    return torch.stack([model.embed_pictures(part).mean(0) for part in parts])


def _features_of(dataset: PairedDataset) -> dict:
    """Pictures that come as ready-made features (a random codebook does) need no image encoder."""
    first = next(iter(dataset.pictures.values()))
    ready = isinstance(first, np.ndarray) and first.ndim == 1
    return {"image_encoder": "features"} if ready else {}


def stamp_for(design: DesignAudit, *, allow_confounded: bool) -> str:
    """What every file of a result must bear; raises ValueError where a confounded design was not allowed."""
    if design.verdict != "confounded":
        return ""
    if not allow_confounded:
        raise ValueError(
            f"The design is confounded: {' '.join(design.reasons[:2])} {' '.join(design.remedy[:1])} Nothing was "
            "trained. With --allow-confounded it is, and every figure, picture and file says CONFOUNDED."
        )
    return CONFOUNDED


def design_section(design: DesignAudit) -> Section:
    """The verdict on the design with its reasons, as a section of a report."""
    steps = [f"What to do: {step}" for step in design.remedy]
    return Section(
        "What the design can support",
        [
            f"{design.verdict.capitalize()}: the claim “{design.claim}” under {design.split}.",
            *design.reasons,
            *steps,
        ],
    )


def control_sections(controls: Controls) -> list[Section]:
    """The score, and each control with what it would show."""
    head = ("control", "score", "95 % interval", "chance", "p", "verdict")
    rows = [(r.name, *_cells(r.score), p_text(r.p_holm), _verdict(r)) for r in controls.results]
    shows = [f"{r.name}: {r.shows}." for r in controls.results if r.fires]
    not_run = [f"{r.name} was not run: {r.not_run}" for r in controls.results if r.score is None]
    return [
        Section(
            "The score",
            [controls.verdict, f"Its p: {controls.score.permuted}."],
            list(controls.scores),
        ),
        Section(
            "What could have refuted it",
            [
                "Each control runs the whole pipeline under the same split. p is corrected (Holm) over the controls "
                "that can veto. A control vetoes where it is above chance and the score does not clearly exceed it.",
                *shows,
                *not_run,
            ],
            table=(head, rows),
        ),
    ]


def _cells(score: Score | None) -> tuple[str, str, str]:
    if score is None:
        return "", "", ""
    return f"{score.value:.3f}", f"{score.low:.3f} to {score.high:.3f}", f"{score.chance:.3f}"


def _verdict(result) -> str:
    if result.score is None:
        return "not run"
    kind = "veto" if result.vetoes else "warning" if result.fires else "at chance"
    return kind if result.can_veto or kind != "at chance" else "at chance (can only warn)"


def _paired(recording, images: str | Path | None, pair_by: str) -> PairedDataset:
    """The recording with its pictures; without pictures each key stands for itself (one-hot)."""
    if images is not None:
        return PairedDataset(recording, images, pair_by=pair_by)
    keys = sorted(set(recording.metadata[pair_by].astype(str)))
    codes = dict(zip(keys, np.eye(len(keys), dtype=np.float32), strict=True))
    return PairedDataset(
        recording, codes if pair_by == "stimulus" else {k: [v] for k, v in codes.items()}, pair_by=pair_by
    )
