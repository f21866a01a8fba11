"""Can a design and its EEG support a claim: the design, the score, the controls that could refute it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import torch
from sklearn.model_selection import KFold

from brainedit._check import pick
from brainedit.audit.controls import CLAIMS, ControlResult, Controls, run_controls
from brainedit.audit.design import DesignAudit, audit_design
from brainedit.datasets.load import load_dataset
from brainedit.datasets.paired import PairedDataset
from brainedit.eeg import read_epochs
from brainedit.evaluation import Score
from brainedit.joint import JointModel
from brainedit.joint_training import train_joint
from brainedit.relevance import target_mask
from brainedit.report import Result, Section, is_simulated, p_text, result_folder
from brainedit.splits import TrialSplit

CONFOUNDED = "CONFOUNDED"
PIPELINES = ("lda", "joint")


def audit_file(
    epochs: str | Path,
    out: str | Path,
    *,
    data: str | None = None,
    subject: int | str | None = None,
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

    data, subject : a data set of `load_dataset` by name, and its person; `epochs` is then the folder of its files
    claim : of `brainedit.audit.controls.CLAIMS`; target : query on the metadata, for relevance and direction
    split : a unit of `split_trials`; by default stimulus where pictures are known, else run
    images : folder of pictures, by stimulus where those are known, else one folder a label
    pipeline : "lda", or "joint" (F of a model trained anew in each fold; the one that can score new pictures)
    design_only : look at the schedule, decode nothing

    Raises ValueError where the metadata lack what is claimed, or the pipeline cannot score it.
    """
    pick("claim", claim, CLAIMS)
    dataset = None if data is None else _published(data, epochs, subject)
    recording = _with_target(read_epochs(epochs) if dataset is None else dataset, target, epochs)
    column = None if target is None else "target"
    known = "stimulus" in recording.metadata and recording.metadata["stimulus"].notna().all()
    by = split or ("stimulus" if known else "run")
    if not design_only:
        _check_pipeline(pipeline, claim, by, images if dataset is None else data)
    chosen = _split(len(recording.metadata), by, embargo, seed)
    with result_folder(out, overwrite=overwrite) as folder:
        design = audit_design(
            recording.metadata,
            claim=claim,
            target=column,
            split=chosen,
            images=_looked_at(dataset, images) if known else None,
            seed=seed,
        )
        design = replace(design, split=f"a split by {by}" + (f", {embargo:g} s apart" if embargo else ""))
        result = Result(
            job="audit",
            title=f"Can it be claimed? {CLAIMS[claim]}",
            lead=f"{design.verdict.capitalize()} by its design; the EEG was not looked at.",
            settings={"claim": claim, "target": target, "split": by, "embargo": embargo, "seed": seed}
            | ({} if data is None else {"data": data, "subject": subject, "root": epochs}),
            inputs={"epochs": epochs} if data is None else {},
            figures={"design": design.as_dict()},
            sections=[design_section(design)],
            simulated=is_simulated(recording.metadata),
            stamp=CONFOUNDED if design.verdict == "confounded" else "",
        )
        if not design_only:
            controls = run_controls(
                recording if dataset else _paired(recording, images, "stimulus" if known else "label"),
                joint_pipeline(seed=seed) if pipeline == "joint" else pipeline,
                claim=claim,
                split=chosen,
                column=column,
                n_permutations=n_permutations,
                refit=pipeline == "lda",
                seed=seed,
            )
            controls = replace(controls, design=design.verdict, design_reasons=tuple(design.reasons))
            _add_controls(result, controls, pipeline)
        result.write(folder)
    return Path(out)


def _published(data: str, root: str | Path, subject: int | str | None) -> PairedDataset:
    chosen = {} if subject is None else {"subject": subject}
    dataset = load_dataset(name=data, root=root, **chosen)
    if not isinstance(dataset, PairedDataset):
        raise ValueError(
            f"{data!r} has features and latents, but no EEG; the audit takes data sets with EEG."
        )
    return dataset


def _with_target(
    recording: mne.BaseEpochs | PairedDataset, target: str | None, name: str | Path
) -> mne.BaseEpochs | PairedDataset:
    """The trials with metadata, and with the column `target` where a query gives it."""
    if recording.metadata is None:
        raise ValueError(f"The epochs in {name} have no metadata; an audit is of the trials' table.")
    if target is None:
        return recording
    metadata = recording.metadata.assign(target=target_mask(recording.metadata, target))
    if isinstance(recording, PairedDataset):
        return recording.with_metadata(metadata)
    recording.metadata = metadata
    return recording


def _looked_at(dataset: PairedDataset | None, images: str | Path | None) -> str | Path | dict | None:
    """Pictures in which copies are looked for: the user's, or those of a published set where they are files."""
    if dataset is None or images is not None:
        return images
    files = {name: picture for name, picture in dataset.pictures.items() if isinstance(picture, str | Path)}
    return files if len(files) == len(dataset.pictures) else None


def _split(n_trials: int, by: str, embargo: float | None, seed: int) -> TrialSplit | list:
    """The split to judge; "trial" without an embargo is what many papers do: random folds over trials."""
    if by == "trial" and embargo is None:
        return list(KFold(5, shuffle=True, random_state=seed).split(np.arange(n_trials)))
    return TrialSplit(by=by, embargo=embargo, seed=seed)


def _check_pipeline(pipeline: str, claim: str, by: str, images: str | Path | None) -> None:
    """Raises ValueError where the pipeline cannot score what is claimed, before any time is spent."""
    pick("pipeline", pipeline, dict.fromkeys(PIPELINES))
    if pipeline == "joint" and images is None:
        raise ValueError("The pipeline 'joint' reads pictures; give images (--images).")
    if pipeline == "lda" and claim in ("picture", "map") and by in ("stimulus", "concept"):
        raise ValueError(
            f"A classifier cannot score pictures that it was not trained on, and a split by {by} has no others; "
            "take pipeline 'joint' with images (--pipeline joint --images DIR), or look at the design alone."
        )


def _add_controls(result: Result, controls: Controls, pipeline: str) -> None:
    """What the EEG says, before what the design says."""
    result.lead = controls.verdict
    result.settings["pipeline"] = pipeline
    result.figures["controls"] = controls.as_dict()
    result.sections = [*control_sections(controls), *result.sections]


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


def _label_means(model: JointModel, train: PairedDataset) -> torch.Tensor:
    """The mean embedding of each label's pictures, in the order of the labels."""
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
            f"The design is confounded: {' '.join(design.reasons[:1])} {' '.join(design.remedy[:1])} Nothing was "
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
    not_run = [f"{r.name} was not run: {r.not_run}." for r in controls.results if r.score is None]
    notes = [f"{r.name}: {note}." for r in controls.results for note in r.notes]
    return [
        Section("The score", [f"Its p: {controls.score.permuted}."], list(controls.scores)),
        Section(
            "What could have refuted it",
            [
                "Each control runs the whole pipeline under the same split. p is corrected (Holm) over the controls "
                "that can veto. A control vetoes where it is above chance and the score does not clearly exceed it.",
                *shows,
                *not_run,
                *notes,
            ],
            table=(head, rows),
        ),
    ]


def _cells(score: Score | None) -> tuple[str, str, str]:
    if score is None:
        return "", "", ""
    return f"{score.value:.3f}", f"{score.low:.3f} to {score.high:.3f}", f"{score.chance:.3f}"


def _verdict(result: ControlResult) -> str:
    if result.score is None:
        return "not run"
    kind = "veto" if result.vetoes else "warning" if result.fires else "at chance"
    return kind if result.can_veto or kind != "at chance" else "at chance (can only warn)"


def _paired(recording: mne.BaseEpochs, images: str | Path | None, pair_by: str) -> PairedDataset:
    """The recording with its pictures; without pictures each key stands for itself (one-hot)."""
    if images is not None:
        return PairedDataset(recording, images, pair_by=pair_by)
    if pair_by not in recording.metadata:
        have = ", ".join(map(str, recording.metadata.columns))
        raise ValueError(f"The metadata need `stimulus` or `label` for every trial; they have {have}.")
    keys = sorted(set(recording.metadata[pair_by].astype(str)))
    codes = dict(zip(keys, np.eye(len(keys), dtype=np.float32), strict=True))
    return PairedDataset(
        recording, codes if pair_by == "stimulus" else {k: [v] for k, v in codes.items()}, pair_by=pair_by
    )
