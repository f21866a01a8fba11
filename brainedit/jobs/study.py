"""A published protocol on a published data set: people and seeds, one model each, one report."""

import hashlib
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from brainedit import figures
from brainedit._check import pick
from brainedit.audit.design import DesignAudit, audit_design
from brainedit.datasets.load import load_dataset
from brainedit.datasets.paired import PairedDataset
from brainedit.evaluation import Score, mean_over_people, retrieval_score
from brainedit.jobs.audit import design_section, stamp_for
from brainedit.joint import JointModel, load_joint
from brainedit.joint_training import calibrate, train_joint
from brainedit.parallel import run_all
from brainedit.report import Result, Section, is_simulated, p_text, result_folder
from brainedit.retrieval import repeat_curve, transductive_retrieval
from brainedit.splits import check_split

KINDS = {
    "intra": "A model is trained on the person's own training part.",
    "inter": "A model is trained on the training parts of all other people.",
}


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

    data : of `load_dataset`; the set must have a training and a test part, and know each trial's picture
    joint : of `train_joint`
    kind : "intra" trains on the person's own training part; "inter" on that of all other people, with the person's test
        part to score
    subjects, seeds : each once; person 1 and seed 0 when None
    calibration_pictures : inter: so many pictures of the person's training part adapt the model, which is scored again
    n_jobs : runs at the same time

    A study that was killed goes on from OUT.running: finished runs are not repeated, others continue.
    Raises ValueError for settings that do not fit, a confounded design that was not allowed, or a run that failed: a
    LeakageError, where a test picture or its concept is in training.
    """
    subjects, seeds = subjects or [1], seeds or [0]
    _check_protocol(data, joint, kind, subjects, seeds, calibration_pictures)
    running = Path(f"{out}.running") / _digest(data, joint, kind, subjects, calibration_pictures)
    with result_folder(out, overwrite=overwrite) as folder:
        design, simulated = _design(data, subjects[0])
        stamp = stamp_for(design, allow_confounded=allow_confounded)
        running.mkdir(parents=True, exist_ok=True)
        shared = {"data": data, "joint": joint, "kind": kind, "subjects": subjects, "folder": running}
        shared |= {"calibration_pictures": calibration_pictures, "design": design.verdict}
        jobs = [{"subject": s, "seed": k} | shared for s in subjects for k in seeds]
        runs = run_all(_run, jobs, n_jobs=n_jobs, description="people and seeds")
        protocol = {"kind": kind, "subjects": subjects, "seeds": seeds}
        protocol["calibration_pictures"] = calibration_pictures
        result = Result(
            job="train joint",
            title=f"Joint embedding: {data['name']}, {kind}",
            lead=KINDS[kind],
            settings={"data": data, "joint": joint, "protocol": protocol},
            figures={"runs": runs},
            sections=[*_sections(runs), design_section(design)],
            simulated=simulated,
            stamp=stamp,
        )
        for run in runs:
            name = _name(run["subject"], run["seed"])
            shutil.copytree(running / name, folder / "models" / name)
        result.write(folder)
    shutil.rmtree(Path(f"{out}.running"), ignore_errors=True)
    return Path(out)


def _check_protocol(
    data: dict, joint: dict, kind: str, subjects: list[int], seeds: list[int], calibration_pictures: int
) -> None:
    pick("kind", kind, KINDS)
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise ValueError(
            f"A study is not for torchrun (WORLD_SIZE={os.environ['WORLD_SIZE']}): its processes would each run all of "
            "it. Start it without torchrun; --jobs runs people and seeds side by side."
        )
    for what, section, own in (
        ("data", data, ("subject", "split")),
        ("joint", joint, ("seed", "checkpoint", "progress")),
    ):
        if given := [name for name in own if name in section]:
            raise ValueError(
                f"The protocol sets {given[0]!r} for each run; take it out of the section {what!r}."
            )
    for what, values in (("subjects", subjects), ("seeds", seeds)):
        if len(set(values)) < len(values):
            raise ValueError(f"Each of {what} is run once; got {values}.")
    if kind == "inter" and len(subjects) < 2:
        raise ValueError(f"The protocol 'inter' needs two or more people; subjects are {subjects}.")
    if calibration_pictures < 0 or (calibration_pictures and kind == "intra"):
        raise ValueError(
            "calibration_pictures are 0 or more, and for kind='inter' alone (within a person there is nothing to "
            f"adapt); got {calibration_pictures} for {kind!r}."
        )


def _digest(*settings: object) -> str:
    return hashlib.sha256(json.dumps(settings, default=str, sort_keys=True).encode()).hexdigest()[:12]


def _name(subject: int, seed: int) -> str:
    return f"sub-{subject:02d}_seed-{seed}"


def _part(data: dict, subject: int, split: str) -> PairedDataset:
    """One person's training or test part.

    Raises ValueError where the picture of each trial is not known.
    """
    found = load_dataset(**data, subject=subject, split=split)
    if not isinstance(found, PairedDataset) or found.pair_by != "stimulus":
        raise ValueError(
            f"A study needs the picture of each trial, which {data['name']!r} does not give; train on epochs of it."
        )
    return found


def _training(data: dict, subject: int, subjects: list[int], kind: str) -> PairedDataset:
    """The person's own training part, or that of all others; nobody's test pictures are in it."""
    if kind == "intra":
        return _part(data, subject, "train")
    return PairedDataset.concatenate([_part(data, other, "train") for other in subjects if other != subject])


def _design(data: dict, subject: int) -> tuple[DesignAudit, bool]:
    """What the design of one person's two parts can support, and whether it is a simulation."""
    parts = [_part(data, subject, split).metadata for split in ("train", "test")]
    both = pd.concat(parts, ignore_index=True)
    n = len(parts[0])
    split = [(np.arange(n), np.arange(n, len(both)))]
    design = audit_design(both, claim="picture", split=split)
    return replace(design, split="the published split into training and test"), is_simulated(both)


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
    kind: str,
    subjects: list[int],
    folder: Path,
    calibration_pictures: int,
    design: str,
) -> dict:
    """One person and seed: train, score on the test part; what was finished before is read."""
    own, start = folder / _name(subject, seed), time.monotonic()
    if (own / "scores.json").is_file():
        return json.loads((own / "scores.json").read_text())
    train, test = _training(data, subject, subjects, kind), _part(data, subject, "test")
    _check_apart(train, test)
    if (own / "model.json").is_file():
        model = load_joint(own)
    else:
        settings = joint | {"seed": seed, "checkpoint": folder / f"{own.name}.safetensors", "progress": False}
        model = train_joint(train, **settings)
        model.card["training"]["design"] = design
        model.save(own)
    record = {"subject": subject, "seed": seed, "n_training_trials": len(train)} | _scores(model, test)
    if calibration_pictures:
        some = _some_pictures(_part(data, subject, "train"), calibration_pictures, seed)
        _check_apart(some, test)
        record["calibrated"] = {"n_trials": len(some)} | _scores(_calibrated(model, some, seed), test)
    record["seconds"] = round(time.monotonic() - start, 1)
    partial = own / "scores.json.partial"
    partial.write_text(json.dumps(record))
    partial.replace(own / "scores.json")
    return record


def _some_pictures(trials: PairedDataset, n_pictures: int, seed: int) -> PairedDataset:
    """The trials of some pictures, drawn at random."""
    if n_pictures > len(trials.pictures):
        raise ValueError(
            f"A calibration with {n_pictures} pictures needs as many; there are {len(trials.pictures)}."
        )
    names = np.random.default_rng(seed).permutation(sorted(trials.pictures))[:n_pictures]
    return trials.subset(np.isin(trials.keys, names))


def _calibrated(model: JointModel, trials: PairedDataset, seed: int) -> JointModel:
    """The model adapted to the new person of these trials."""
    adapt = "person" if model.towers.people is not None else "all"
    return calibrate(model, trials, subject=_person(trials), adapt=adapt, seed=seed, progress=False)


def _person(dataset: PairedDataset) -> str:
    return str(dataset.metadata["subject"].iloc[0])


def _scores(model: JointModel, test: PairedDataset) -> dict:
    """Retrieval by number of repeats, with shuffled EEG and a transductive score beside it."""
    person = _person(test) if model.card["subjects"] else None
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


def _check_repeats(runs: list[dict]) -> None:
    most = {max(map(int, run["curve"])) for run in runs}
    if len(most) > 1:
        raise ValueError(
            f"People's test pictures have {min(most)} to {max(most)} repeats; ask for an equal number (n_repeats)."
        )


def _sections(runs: list[dict]) -> list[Section]:
    _check_repeats(runs)
    sections = _retrieval_sections(runs, "Does F find the picture that was seen?")
    if "calibrated" in runs[0]:
        calibrated = [run | run["calibrated"] for run in runs]
        title = f"After a calibration with {runs[0]['calibrated']['n_trials']:,} trials of the person"
        sections += _retrieval_sections(calibrated, title)
    return sections


def _retrieval_sections(runs: list[dict], title: str) -> list[Section]:
    repeats = sorted(set.intersection(*(set(map(int, run["curve"])) for run in runs)))  # that all people have
    most = str(repeats[-1])
    n_top = len(runs[0]["curve"][most])
    curve = {
        f"top-{k}": [_summary([run["curve"][str(r)][i] for run in runs], runs) for r in repeats]
        for i, k in enumerate((1, 5)[:n_top])
    }
    headline = [scores[-1] for scores in curve.values()]
    control, tricks = _summaries(runs, "control"), _summaries(runs, "transductive")
    drawn = figures.repeats_figure(curve, repeats)
    return [
        Section(
            title,
            [_explained(runs)],
            [*headline, *control],
            [(drawn, "Accuracy against the number of repeats averaged; dotted: chance.")],
            table=_people_table(runs, most),
        ),
        Section(
            "With knowledge about the test set (transductive)",
            [
                "These use all test responses together, and that each picture occurs once: not comparable with the "
                "scores above."
            ],
            tricks,
        ),
    ]


def _explained(runs: list[dict]) -> str:
    people, seeds = ({run[key] for run in runs} for key in ("subject", "seed"))
    who = "Scores of one person" if len(people) == 1 else f"Means over {len(people)} people"
    text = (
        f"{who}. Every test picture is ranked in the plain gallery of all test pictures, each response by "
        "itself. The last epoch is the model, unless settings let a part of the training data choose it."
    )
    if 1 < len(people) < 6:
        text += " With so few people their interval and p say little; the table has each one's own, over pictures."
    if len(seeds) == 1:
        return text
    text += f" The score of a person is the mean over {len(seeds)} seeds"
    return text + (", with the widest interval and the largest p of them." if len(people) == 1 else ".")


def _summaries(runs: list[dict], what: str) -> list[Score]:
    return [_summary([run[what][i] for run in runs], runs) for i in range(len(runs[0][what]))]


def _summary(scores: list[dict], runs: list[dict]) -> Score:
    """The mean over people of each one's mean over seeds.

    Of one person the mean over seeds, with the widest interval and the largest p: seeds share the test trials, so
    they make no score surer.
    """
    people: dict[str, list[Score]] = {}
    for run, score in zip(runs, scores, strict=True):
        people.setdefault(str(run["subject"]), []).append(Score(**score))
    of_each = {
        who: replace(
            own[0],
            value=float(np.mean([s.value for s in own])),
            low=min(s.low for s in own),
            high=max(s.high for s in own),
            p=max(s.p for s in own),
        )
        for who, own in people.items()
    }
    if len(of_each) == 1:
        return next(iter(of_each.values()))
    name = next(iter(of_each.values())).name
    return replace(mean_over_people(of_each), name=name)


def _people_table(runs: list[dict], most: str) -> tuple[list[str], list[list[str]]]:
    names = [score["name"] for score in runs[0]["curve"][most]]
    rows: dict[int, list[dict]] = {}
    for run in runs:
        rows.setdefault(run["subject"], []).append(run)
    table = []
    for subject, own in rows.items():
        scores = [[Score(**run["curve"][most][i]) for run in own] for i in range(len(names))]
        table.append([f"sub-{subject:02d}", *map(_person_cell, scores), f"{own[0]['n_training_trials']:,}"])
    return ["", *names, "training trials"], table


def _person_cell(scores: list[Score]) -> str:
    """Mean over seeds, its SD over them, and the first seed's interval over pictures."""
    values = [score.value for score in scores]
    spread = f" (SD {np.std(values, ddof=1):.3f})" if len(values) > 1 else ""
    return (
        f"{np.mean(values):.3f}{spread} [{scores[0].low:.3f}, {scores[0].high:.3f}], p {p_text(scores[0].p)}"
    )
