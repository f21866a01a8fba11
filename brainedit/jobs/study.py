"""A published protocol on a published data set: people and seeds, one model each, one report."""

import hashlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainedit import figures
from brainedit._check import pick
from brainedit.audit import DesignAudit, audit_design
from brainedit.datasets.load import load_dataset
from brainedit.datasets.paired import PairedDataset
from brainedit.evaluation import Score, mean_over_people, retrieval_score
from brainedit.jobs.audit import design_section, stamp_for
from brainedit.joint import JointModel, load_joint
from brainedit.joint_training import calibrate, train_joint
from brainedit.parallel import run_all
from brainedit.report import Result, Section, is_simulated, result_folder
from brainedit.retrieval import repeat_curve, transductive_retrieval
from brainedit.splits import check_split

SUMMARY = "intra: each person's own training trials. inter: those of all other people."


def study(
    out: str | Path,
    *,
    data: dict,
    joint: dict,
    kind: str = "intra",
    subjects: list[int] | None = None,
    seeds: list[int] | None = None,
    calibration_pictures: int = 0,
    n_jobs: int = 1,
    allow_confounded: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train a joint model for each person and seed and score it on the published test part -> OUT/report.html.

    data : of `load_dataset`; the set must have a training and a test part
    joint : of `train_joint`
    kind : "intra" trains on the person's own training part; "inter" on that of all other people, with the person's test
        part to score
    calibration_pictures : inter: so many pictures of the person's training part adapt the model, which is scored again
    n_jobs : runs at the same time

    A study that was killed goes on from OUT.running: finished runs are not repeated, others continue.
    """
    train_of = pick("kind", kind, {"intra": _own_training, "inter": _others_training})
    subjects, seeds = subjects or [1], seeds or [0]
    if kind == "inter" and len(subjects) < 2:
        raise ValueError(f"The protocol 'inter' needs two or more people; subjects are {subjects}.")
    if calibration_pictures and kind == "intra":
        raise ValueError(
            "calibration_pictures are for kind='inter'; within a person there is nothing to adapt."
        )
    running = Path(f"{out}.running") / _digest(data, joint, kind, subjects, calibration_pictures)
    shared = {"data": data, "joint": joint, "subjects": subjects, "folder": running, "train_of": train_of}
    shared["calibration_pictures"] = calibration_pictures
    jobs = [{"subject": s, "seed": k} | shared for s in subjects for k in seeds]
    with result_folder(out, overwrite=overwrite) as folder:
        design, simulated = _design(data, subjects[0])
        stamp = stamp_for(design, allow_confounded=allow_confounded)
        running.mkdir(parents=True, exist_ok=True)
        runs = run_all(_run, jobs, n_jobs=n_jobs, description="people and seeds")
        result = Result(
            job="train joint",
            title=f"Joint embedding: {data['name']}, {kind}",
            settings={
                "data": data,
                "joint": joint,
                "protocol": {"kind": kind, "subjects": subjects, "seeds": seeds},
            },
            figures={"runs": runs},
            simulated=simulated,
            stamp=stamp,
        )
        result.sections += [*_sections(runs, kind), design_section(design)]
        for run in runs:
            shutil.copytree(
                running / _name(run["subject"], run["seed"]),
                folder / "models" / _name(run["subject"], run["seed"]),
            )
        result.write(folder)
    shutil.rmtree(Path(f"{out}.running"), ignore_errors=True)
    return Path(out)


def _digest(*settings: object) -> str:
    return hashlib.sha256(json.dumps(settings, default=str, sort_keys=True).encode()).hexdigest()[:12]


def _name(subject: int, seed: int) -> str:
    return f"sub-{subject:02d}_seed-{seed}"


def _own_training(data: dict, subject: int, subjects: list[int]) -> PairedDataset:
    return load_dataset(**data, subject=subject, split="train")


def _others_training(data: dict, subject: int, subjects: list[int]) -> PairedDataset:
    """All other people's training part; nobody's test pictures are in it."""
    return PairedDataset.concatenate(
        [load_dataset(**data, subject=other, split="train") for other in subjects if other != subject]
    )


def _design(data: dict, subject: int) -> tuple[DesignAudit, bool]:
    """What the design of one person's two parts can support, and whether it is a simulation."""
    parts = [load_dataset(**data, subject=subject, split=part).metadata for part in ("train", "test")]
    both = pd.concat(parts, ignore_index=True)
    n = len(parts[0])
    split = [(np.arange(n), np.arange(n, len(both)))]
    return audit_design(both, claim="picture", split=split), is_simulated(both)


def _check_apart(train: PairedDataset, test: PairedDataset) -> None:
    """Raises LeakageError when a test picture, or its concept, is in training."""
    both = pd.concat([train.metadata, test.metadata], ignore_index=True)
    sides = np.arange(len(train)), np.arange(len(train), len(both))
    for by in ("stimulus", "concept"):
        if by in both and both[by].notna().all():
            check_split(both, *sides, by=by)


def _run(
    *,
    subject: int,
    seed: int,
    data: dict,
    joint: dict,
    subjects: list[int],
    folder: Path,
    train_of: Any,
    calibration_pictures: int,
) -> dict:
    """One person and seed: train, score on the test part; what was finished before is read."""
    own = folder / _name(subject, seed)
    if (own / "scores.json").is_file():
        return json.loads((own / "scores.json").read_text())
    train, start = train_of(data, subject, subjects), time.monotonic()
    test = load_dataset(**data, subject=subject, split="test")
    _check_apart(train, test)
    if (own / "model.json").is_file():
        model = load_joint(own)
    else:
        settings = joint | {"seed": seed, "checkpoint": folder / f"{own.name}.safetensors", "progress": False}
        model = train_joint(train, **settings)
        model.save(own)
    record = {"subject": subject, "seed": seed, "n_training_trials": len(train)} | _scores(model, test)
    if calibration_pictures:
        adapted = _calibrated(model, data, subject, calibration_pictures, seed)
        record["calibrated"] = _scores(adapted, test, person=f"sub-{subject:02d}")
    record["seconds"] = round(time.monotonic() - start, 1)
    partial = own / "scores.json.partial"
    partial.write_text(json.dumps(record))
    partial.replace(own / "scores.json")
    return record


def _calibrated(model: JointModel, data: dict, subject: int, n_pictures: int, seed: int) -> JointModel:
    """The model adapted to a new person by some pictures of the training part."""
    trials = load_dataset(**data, subject=subject, split="train")
    names = np.random.default_rng(seed).permutation(sorted(trials.pictures))[:n_pictures]
    some = trials.subset(np.isin(trials.keys, names))
    adapt = "person" if model.towers.people is not None else "all"
    return calibrate(model, some, subject=f"sub-{subject:02d}", adapt=adapt, seed=seed, progress=False)


def _scores(model: JointModel, test: PairedDataset, *, person: str | None = None) -> dict:
    """Retrieval by number of repeats, with shuffled EEG and a transductive score beside it."""
    person = person if person in model.card["subjects"] else None
    gallery = list(test.pictures)
    theta = model.embed_pictures(test.pictures)

    def compatibility(groups: list[np.ndarray]) -> np.ndarray:
        phi = model.embed_epochs(test.average(groups).epochs, subject=person)
        return (phi @ theta.T).cpu().numpy()

    curve = repeat_curve(compatibility, test.keys, gallery, n_permutations=1000)
    most = max(curve)
    column = {name: i for i, name in enumerate(gallery)}
    groups = [np.flatnonzero(test.keys == name)[:most] for name in gallery]
    f, own = compatibility(groups), np.array([column[name] for name in gallery])
    other = np.roll(own, 1 + len(own) // 3)
    shuffled = [
        replace(
            retrieval_score(f, other, k=k), name=f"control: EEG of other pictures, top-{k} of {len(gallery)}"
        )
        for k in (1, 5)
        if k < len(gallery)
    ]
    return {
        "curve": {str(k): [score.as_dict() for score in scores] for k, scores in curve.items()},
        "control": [score.as_dict() for score in shuffled],
        "transductive": [score.as_dict() for score in transductive_retrieval(f, own, method="csls")],
    }


def _sections(runs: list[dict], kind: str) -> list[Section]:
    sections = _retrieval_sections(runs, f"Does F find the picture that was seen? ({kind})")
    if "calibrated" in runs[0]:
        calibrated = [run | run["calibrated"] for run in runs]
        sections += _retrieval_sections(calibrated, "After a short calibration for the person")
    return sections


def _retrieval_sections(runs: list[dict], title: str) -> list[Section]:
    repeats = sorted(map(int, runs[0]["curve"]))
    most = str(repeats[-1])
    n_top = len(runs[0]["curve"][most])
    headline = [_summary(runs, lambda run, i=i: run["curve"][most][i]) for i in range(n_top)]
    control = [_summary(runs, lambda run, i=i: run["control"][i]) for i in range(len(runs[0]["control"]))]
    tricks = [
        _summary(runs, lambda run, i=i: run["transductive"][i]) for i in range(len(runs[0]["transductive"]))
    ]
    curve = {
        f"top-{k}": [_summary(runs, lambda run, r=r, i=i: run["curve"][str(r)][i]) for r in repeats]
        for i, k in enumerate((1, 5)[:n_top])
    }
    lead = (
        f"{len({run['subject'] for run in runs})} people, {len({run['seed'] for run in runs})} seeds each; the score "
        "of a person is the mean over seeds. Every test picture is ranked in the plain gallery of all test pictures, "
        "each response by itself. The last epoch is the model. " + SUMMARY
    )
    return [
        Section(
            title,
            [lead],
            [*headline, *control],
            [
                (
                    figures.repeats_figure(curve, repeats),
                    "Accuracy against the number of repeats averaged; dotted: chance.",
                )
            ],
            table=_people_table(runs, most),
        ),
        Section(
            "With knowledge about the test set (transductive)",
            ["These use all test responses together, and that each picture occurs once: do not compare."],
            tricks,
        ),
    ]


def _summary(runs: list[dict], pick_score: Any) -> Score:
    """The mean over people of each one's mean over seeds; one person's score as it is."""
    people: dict[str, list[Score]] = {}
    for run in runs:
        people.setdefault(str(run["subject"]), []).append(Score(**pick_score(run)))
    of_each = {
        who: replace(scores[0], value=float(np.mean([s.value for s in scores])))
        for who, scores in people.items()
    }
    return mean_over_people(of_each) if len(of_each) > 1 else next(iter(of_each.values()))


def _people_table(runs: list[dict], most: str) -> tuple[list[str], list[list[str]]]:
    names = [score["name"] for score in runs[0]["curve"][most]]
    rows: dict[int, list[dict]] = {}
    for run in runs:
        rows.setdefault(run["subject"], []).append(run)
    table = []
    for subject, own in rows.items():
        values = [[run["curve"][most][i]["value"] for run in own] for i in range(len(names))]
        table.append(
            [f"sub-{subject:02d}", *(_mean_sd(v) for v in values), f"{own[0]['n_training_trials']:,}"]
        )
    return ["", *names, "training trials"], table


def _mean_sd(values: list[float]) -> str:
    spread = f" (SD {np.std(values, ddof=1):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"
