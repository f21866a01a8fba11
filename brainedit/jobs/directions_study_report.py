"""The report of the directions study."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainedit.datasets.facecat import TASK_PAIRS
from brainedit.generators.base import Generator
from brainedit.jobs.directions_study_figures import (
    auc_figure,
    cosine_figure,
    curves_figure,
    strips_sheet,
    who,
)
from brainedit.jobs.directions_study_found import Study, auc_summary, brain_ratio, cosine_means, numbers
from brainedit.report import Section

PUBLISHED_AUC = {"mean": 0.789, "SD": 0.081, "lowest": 0.550, "highest": 0.954}  # 240 of Davis et al., 2022
SHOWN = ("smiles", "old")  # tasks whose faces are shown

ORIGINAL = (  # what is looked at, in the original, here
    (
        "First frame",
        "Edits set a face's place along the direction, starting from the boundary: the first edited "
        "frame has already jumped there.",
        "Edits are steps from the face itself; a step of 0 is the face.",
    ),
    (
        "Dose",
        "A face is moved until a predicted score passes a threshold made of the brain's scores, in the three arms with "
        "a regression; the random one takes fixed steps. Arms end at different lengths, and a longer edit may look "
        "like a better direction.",
        "All arms take the same steps, and are compared at equal step, at equal loss of identity and as "
        "curves.",
    ),
    (
        "Thresholds",
        "The lower threshold takes its spread from the other class, and both take in the face that is "
        "left out.",
        "There are no thresholds. The relevance of the faces that a direction moves took no part in finding it.",
    ),
    (
        "Few faces for many dimensions",
        "A support vector regression of 190 faces in 512 dimensions follows each of them.",
        "Ridge, its penalty by generalised cross-validation; the predicted cosine says how near it "
        "comes, and crowds show what more looks give. The original's regression stands beside it.",
    ),
    (
        "Length of a latent",
        "The generator divides a latent by its length, so a straight step turns it ever less.",
        "Steps are turns on a great circle, in degrees.",
    ),
    (
        "Shuffled arm",
        "One shuffle for each face that is moved, and no spread.",
        "At least 100 shuffles for each size of crowd, with their spread.",
    ),
    (
        "What any long step does",
        "Faces are moved forwards alone.",
        "Faces are moved both ways; a change is half the difference, so that what both have in common "
        "cancels.",
    ),
)


def sections(
    study: Study, generator: Generator, judges: Mapping[str, str]
) -> tuple[list[Section], dict[str, Any]]:
    """The report's sections, and its figures as numbers."""
    made = [_relevance_section(study), *_comparison_sections(study)]
    made += [_tasks_section(study), _cosine_section(study), _people_section(study)]
    made += [_strips_section(study, generator), _method_section(judges)]
    return made, numbers(study)


def _relevance_section(study: Study) -> Section:
    aucs = study.aucs()
    found = auc_summary(aucs["auc"])
    rows = [(name, f"{PUBLISHED_AUC[name]:.3f}", f"{found[name]:.3f}") for name in PUBLISHED_AUC]
    return Section(
        "Can the EEG tell which faces were looked for?",
        [
            "Shrinkage LDA on five window means, with equal priors, trained on the same person's other three pairs of "
            "tasks: it never saw a trial of the pair that it scores, so its scores carry relevance and not the "
            f"attribute. {len(aucs)} pairs of a person and a task, about {aucs['n_trials'].mean():.0f} trials and "
            f"{aucs['n_faces'].mean():.0f} different faces each."
        ],
        pictures=[(auc_figure(aucs["auc"]), "AUC of each person and task; line: mean, dotted: chance.")],
        table=(("AUC", "published", "here"), rows),
    )


def _comparison_sections(study: Study) -> list[Section]:
    last = study.degrees[-1]
    n_draws = len(np.unique(study.pooled.arms["random"].units))
    text = [
        "Change of the attribute that was looked for, in standard deviations of the generator's faces: as a judge "
        "measures it, half the difference between forwards and backwards, mean over tasks. The faces that are moved, "
        f"two of each person in each task ({len(study.seeds)}), were left out of the relevance that the direction was "
        "found with; the classifier may have met them in other tasks. Explicit: the logged targets of the same faces. "
        f"Shuffled: the same scores dealt out to other faces. Shuffled and random: {n_draws} draws, two faces each. "
        "Others: mean size of the change of what the other three judges measure. Loss: of identity, as below.",
        "Intervals of 95 % are over people, for these eight tasks; of shuffled and random directions, over draws. A "
        "crowd's direction is the same for all whose faces it moves, so its interval says nothing of other crowds, nor "
        "any of other attributes. A crowd has seen more faces, not only the same ones more often.",
        _verdict(study),
    ]
    curves = (curves_figure(study), "Bands: the same intervals.")
    step = Section(
        f"The same step: {last:g} degrees", text, pictures=[curves], table=_arms_table(study, "step")
    )
    loss = Section(
        f"The same loss of identity: {study.identity_loss:g}",
        [
            "0 is the same face, 1 as far as two faces of the generator are apart, in features of a network that knows "
            "no faces. A gap: the arm does not get that far."
        ],
        table=_arms_table(study, "identity_loss"),
    )
    return [step, loss]


def _verdict(study: Study) -> str:
    parts = []
    for size in (1, max(study.crowds)):
        value, low, high = study.ratios["step"][size]
        whose = "One person's brain" if size == 1 else f"that of a crowd of {size}"
        parts.append(
            f"{whose} moves it {value:.0%} ({low:.0%} to {high:.0%}) as far as the logged targets do"
        )
    table = study.matched["step"]
    shuffled = table.loc[[f"shuffled, {size}" for size in study.crowds]]
    n = int(((shuffled["low"] <= 0) & (shuffled["high"] >= 0)).sum())
    return (
        f"{'; '.join(parts)}. The interval of the shuffled arm covers zero in {n} of {len(shuffled)} sizes."
    )


def _arms_table(study: Study, by: str) -> tuple[Sequence[str], list[list[str]]]:
    table = study.matched[by]
    cost = "identity_loss" if by == "step" else "degrees"
    head = ("", "brain", "explicit", "brain / explicit", "shuffled", "others, brain")
    head += ("loss, brain" if by == "step" else "degrees, brain",)
    rows = []
    for size in study.crowds:
        brain = table.loc[f"brain, {size}"]
        rows.append(
            [
                who(size),
                *(_spread(table.loc[f"{kind}, {size}"]) for kind in ("brain", "explicit")),
                _interval(*study.ratios[by][size]),
                _spread(table.loc[f"shuffled, {size}"]),
                _plain(brain["dependency_mean"]),
                _plain(brain[cost] if by == "step" else _degrees(brain["step"], study)),
            ]
        )
    random = table.loc["random"]
    cost = random[cost] if by == "step" else _degrees(random["step"], study)
    rows.append(
        ["random directions", _spread(random), "", "", "", _plain(random["dependency_mean"]), _plain(cost)]
    )
    return head, rows


def _degrees(step: float, study: Study) -> float:
    """What a step between those measured turns a typical face by."""
    return step * study.degrees[-1] / float(study.pooled.steps[-1])


def _tasks_section(study: Study) -> Section:
    largest = max(study.crowds)
    rows = []
    for result in study.results:
        found = result.comparison
        table = found.curves().groupby("arm").last()  # the longest step
        row = [result.task]
        for size in (1, largest):
            row += [f"{table.loc[f'{kind}, {size}', 'change']:.2f}" for kind in ("brain", "explicit")]
            row.append(_interval(*brain_ratio(found, size, "step", found.steps[-1])))
        row.append(_spread(table.loc["shuffled, 1"]))
        rows.append(row)
    crowd = f"crowd of {largest}"
    head = ("looked for", "brain, one person", "explicit", "ratio", f"brain, {crowd}", "explicit", "ratio")
    head += ("shuffled, one person",)
    return Section(
        "Task by task",
        [
            f"The same at {study.degrees[-1]:g} degrees. Intervals are over the people whose faces were moved, those "
            "of the shuffled arm over its draws."
        ],
        table=(head, rows),
    )


def _cosine_section(study: Study) -> Section:
    rows = []
    for row in cosine_means(study).sort_values(["size", "kind"]).to_dict("records"):
        has = np.isfinite(row["predicted_cosine"])
        rows.append(
            [
                f"{row['kind']}, {who(row['size'])}",
                f"{row['to_reference']:.3f}",
                f"{row['to_explicit']:.3f}",
                f"{row['predicted_cosine']:.3f}" if has else "",
                f"{row['covered']:.0%}" if has else "",
                f"{row['n']:.0f}" if has else "",
            ]
        )
    head = (
        "direction",
        "cosine to the judge's",
        "to explicit",
        "predicted",
        "interval covers the judge's",
        "faces",
    )
    return Section(
        "How near is each direction, and does it know?",
        [
            "The judge's direction is that from new faces below the median of its score to those above it. Predicted: "
            "cosine to the direction that infinitely many such looks would give, from the relevance of the faces. "
            "svr: the regression of the original. Means over people or crowds, and tasks.",
            _dimensions(study),
        ],
        pictures=[(cosine_figure(study), "Each person and task; a dot on the line is predicted exactly.")],
        table=(head, rows),
    )


def _dimensions(study: Study) -> str:
    n_dims, n_faces = study.latents.shape[1], study.aucs()["n_faces"].mean()
    told = f"One person saw {n_faces:.0f} faces in a task, and a face has {n_dims} numbers"
    if n_faces > n_dims:
        return (
            f"{told}: here there are more faces than numbers. In the original there were 190 for 512, where one "
            "person's direction comes to a cosine of about .24 at these AUCs: this run does not test that."
        )
    return f"{told}: fewer faces than numbers, as in the original."


def _people_section(study: Study) -> Section:
    rows = [
        [
            f"person {name}",
            f"{row['auc']:.3f}",
            f"{row['predicted_cosine']:.2f}",
            f"{row['to_reference']:.2f}",
            f"{row['to_explicit']:.2f}",
            f"{row['change_brain']:.2f}",
            f"{row['change_explicit']:.2f}",
        ]
        for name, row in study.people().iterrows()
    ]
    head = (
        "",
        "AUC",
        "predicted cosine",
        "to the judge's",
        "to explicit",
        "change, brain",
        "change, explicit",
    )
    text = [f"Means over the eight tasks; changes at {study.degrees[-1]:g} degrees."]
    return Section("Person by person", text, table=(head, rows))


def _strips_section(study: Study, generator: Generator) -> Section:
    largest = max(study.crowds)
    pictures = []
    for task in SHOWN:
        result = next(result for result in study.results if result.task == task)
        own = study.seeds[(study.seeds["task"] == task) & ~study.seeds["target"]].iloc[0]
        arms = {
            "brain, 1 person": result.vectors["brain, 1"][(own["subject"],)],
            f"brain, {largest}": result.vectors[f"brain, {largest}"][study.crowds[largest][0]],
            f"explicit, {largest}": result.vectors[f"explicit, {largest}"][study.crowds[largest][0]],
            "shuffled": next(iter(result.vectors["shuffled, 1"].values())),
        }
        sheet = strips_sheet(study, generator, study.latents.loc[own["stimulus"]], arms)
        pictures.append((sheet, f"Looked for: {task}. Face {own['stimulus']}, left out."))
    return Section("Faces, moved", ["One face a task, each row along another direction."], pictures=pictures)


def _method_section(judges: Mapping[str, str]) -> Section:
    named = ", ".join(f"{name} for {TASK_PAIRS[task]}" for task, name in judges.items())
    return Section(
        "What the original did and what is done here",
        [
            f"The original's faces were rated by people; here judges measure them ({named}). Where a judge also said "
            "of which kind a simulated face is, it knows exactly what was looked for.",
            *(f"{what}. The original: {then} Here: {now}" for what, then, now in ORIGINAL),
        ],
    )


def _spread(row: pd.Series) -> str:
    return _interval(row["change"], row["low"], row["high"])


def _plain(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "–"


def _interval(value: float, low: float, high: float) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{value:.2f}" + (f" [{low:.2f}, {high:.2f}]" if np.isfinite([low, high]).all() else "")
