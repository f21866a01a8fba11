"""What a report says of a direction: relevance, reliability, looks needed, identity, arms at equal steps, strips."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mne
import numpy as np
from matplotlib.figure import Figure

from brainedit import figures
from brainedit.comparison_tables import Comparison
from brainedit.directions import Direction, DirectionReliability
from brainedit.editing import edit
from brainedit.generators.base import Generator
from brainedit.jobs.direction_arms import MULTIPLES
from brainedit.jobs.direction_inputs import of_task, recordings_of
from brainedit.relevance import metadata_of, target_mask
from brainedit.report import Section, p_text
from brainedit.strengths import Scan, scan

if TYPE_CHECKING:
    from brainedit.jobs.directions import FoundDirection

STRENGTHS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
SCANNED, N_SCANNED = (-6.0, -4.0, -2.0, 2.0, 4.0, 6.0), 6
LOOKS = (0.5, 0.7, 0.9)  # cosines to the truth
SURE = 0.05
TASK_PAIR = "task_pair"


def direction_sections(
    found: "FoundDirection",
    epochs: mne.BaseEpochs | Sequence[mne.BaseEpochs],
    generator: Generator,
    *,
    target: str,
    n_faces: int = 3,
) -> list[Section]:
    """Relevance, reliability, looks needed, identity, the arms where they were compared, and strips of new pictures."""
    return [
        relevance_section(found, epochs, target=target),
        reliability_section(found.direction),
        looks_section(found.direction),
        *([comparison_section(found.comparison)] if found.comparison is not None else []),
        identity_section(identity_scan(found.direction, generator)),
        Section(
            "New pictures, edited",
            [
                "Pictures that took no part. Strengths are standard deviations of the latents along the direction."
            ],
            pictures=[
                (strips(generator, found, n_faces=n_faces), "The direction, and one from shuffled EEG.")
            ],
        ),
    ]


# relevance


def relevance_section(
    found: "FoundDirection", epochs: mne.BaseEpochs | Sequence[mne.BaseEpochs], *, target: str
) -> Section:
    """Can single trials of targets be told, what do the eyes give, and may the scores carry the attribute itself?"""
    recordings = of_task(recordings_of(epochs), found.direction.provenance.get("task"))
    responses, n_shown = mean_responses(recordings, target)
    caption = "Targets and others; topographies of their difference."
    if n_shown < len(recordings):
        caption += (
            f" Mean of {n_shown} of {len(recordings)} recordings, which have the same channels and times."
        )
    text = ["Each trial is scored by a classifier that has not seen its fold.", *_folds_told(found)]
    text += [labels_sentence(found.direction), eyes_sentence(found)]
    scores = [found.auc, found.scores["within folds"], *([] if isinstance(found.eyes, str) else [found.eyes])]
    pictures = [(figures.response_figure(responses), caption)]
    return Section("Is the response to targets different?", text, scores, pictures)


def mean_responses(recordings: Sequence[mne.BaseEpochs], target: str) -> tuple[dict[str, mne.Evoked], int]:
    """Mean response to targets and to others, and of how many recordings: those with the first one's channels."""
    pairs = []
    for recording in recordings:
        is_target = target_mask(metadata_of(recording), target)
        pairs.append([recording[own].average(picks="eeg") for own in (is_target, ~is_target)])
    alike = [pair for pair in pairs if _alike(pair[0], pairs[0][0])]
    targets, others = (
        mne.combine_evoked([pair[i] for pair in alike], "nave") if len(alike) > 1 else alike[0][i]
        for i in (0, 1)
    )
    return {"targets": targets, "others": others}, len(alike)


def labels_sentence(direction: Direction) -> str:
    """Whether the labels of what is looked for trained the classifier, by the scheme that the direction names."""
    if direction.provenance.get("scheme") == TASK_PAIR and direction.provenance.get("pairs") == "task":
        return (
            "The classifier was trained on the person's other tasks. The metadata do not name pairs of tasks "
            "(`task_pair`): where one of the others looked for the opposite, the scores carry the attribute with the "
            "wrong sign."
        )
    if direction.provenance.get("scheme") == TASK_PAIR:
        return "The classifier was trained on the person's other tasks, so it cannot know what was looked for here."
    return (
        "The classifier was trained on labels of this very task: its scores may carry what targets look like, not only "
        "that they were relevant. Where people did several tasks, prefer the scheme task_pair, which trains on the "
        "others."
    )


def eyes_sentence(found: "FoundDirection") -> str:
    """What the control by channels at the eyes means."""
    eyes = found.eyes
    if isinstance(eyes, str):
        return f"What eye movements and blinks would give was not measured. {eyes}"
    if eyes.p is not None and eyes.p < SURE and eyes.value > eyes.chance:
        return (
            f"Channels at the eyes alone reach {eyes.value:.2f}: eye movements, blinks, or brain activity that is seen "
            "at the forehead too. This is a warning, not a proof: compare targets and others in the EOG."
        )
    return f"Channels at the eyes alone were not shown to tell targets (AUC {eyes.value:.2f}, {_p(eyes.p)})."


def _folds_told(found: "FoundDirection") -> list[str]:
    folds = [score.value for name, score in found.scores.items() if name not in ("pooled", "within folds")]
    if len(folds) < 2:
        return []
    return [f"AUC by fold: {min(folds):.2f} to {max(folds):.2f} in {len(folds)} folds."]


def _alike(one: mne.Evoked, other: mne.Evoked) -> bool:
    return one.ch_names == other.ch_names and np.array_equal(one.times, other.times)


# reliability


def trust_sentence(direction: Direction) -> str:
    """How far to trust a direction, in one sentence; for one found from relevance or by a joint model."""
    r = direction.reliability
    if not r:
        return f"How reliable {direction.name!r} is was not measured."
    if "p" not in r:
        return f"{direction.name!r} was found without a brain ({direction.provenance.get('method', 'unknown method')})."
    what = "labels" if "supervision" in direction.provenance else "relevance"  # of no brain, or of one
    if r["p"] >= SURE:
        return f"Do not use {direction.name!r}: it predicts no better than permuted {what} ({_p(r['p'])})."
    said = f"{direction.name!r} predicts better than permuted {what} ({_p(r['p'])})"
    if "predicted_cosine" not in r:
        return f"{said}; directions from two halves of the data agree with cosine {r['split_half']:.2f}."
    low, high = r["predicted_interval"]
    told = (
        f"{said}; its cosine to the direction that infinitely many such pictures would give is about "
        f"{r['predicted_cosine']:.2f} ({low:.2f} to {high:.2f})."
    )
    return f"{told} {locks_sentence(direction)}" if "orthogonal_to" in direction.provenance else told


def reliability_section(direction: Direction) -> Section:
    """Permutations, halves, and the predicted cosine to the truth."""
    r = direction.reliability
    sure = r["p"] < SURE
    verdict = (
        f"The direction predicts the relevance of pictures it has not seen (permutation {_p(r['p'])})."
        if sure
        else f"The direction does not predict the relevance of new pictures ({_p(r['p'])}): do not use it."
    )
    units = (
        f"{r['n']} groups of {r['n_images']} pictures" if r["n"] != r["n_images"] else f"{r['n']} pictures"
    )
    text = [verdict, f"{units}; relevance permuted over them {r['n_permutations']} times."]
    if "orthogonal_to" in direction.provenance:
        text.append(locks_sentence(direction))
    low, high = r["predicted_interval"]
    rows = [
        ("cosine to the direction of infinitely many such pictures", f"{r['predicted_cosine']:.3f}", ""),
        ("its 95 % interval", f"{low:.3f} to {high:.3f}", ""),
        (
            "strength (predicted against found, pictures left out)",
            f"{r['strength']:.3f}",
            f"{r['null_strength']:.3f}",
        ),
        ("AUC of pictures above the median relevance, left out", f"{r['auc']:.3f}", "0.500"),
        ("split-half cosine, by picture", f"{r['split_half']:.3f}", ""),
        ("the same at all pictures (Spearman-Brown)", f"{r['split_half_full']:.3f}", ""),
        ("cosine of permuted directions with it, 95 %", "", _band(r["null_band"])),
    ]
    return Section("How far to trust the direction", text, table=(("", "found", "permuted"), rows))


def locks_sentence(direction: Direction) -> str:
    """What the locks took away."""
    names = ", ".join(repr(name) for name in direction.provenance["orthogonal_to"])
    left = direction.provenance["length_left"]
    return (
        f"These figures are of the direction before it was put at right angles to {names}, which left {left:.0%} of "
        "its length."
    )


def looks_section(direction: Direction) -> Section:
    """The learning curve, and how many pictures wanted cosines need."""
    trust = DirectionReliability(**direction.reliability)
    rows = []
    for wanted in LOOKS:
        looks = trust.looks_needed(wanted)
        more = "none" if looks.more == 0 else _count(looks.more)
        rows.append((f"{wanted:.1f}", _count(looks.n), f"{_count(looks.low)} to {_count(looks.high)}", more))
    what = "groups of pictures" if trust.n != trust.n_images else "pictures"
    text = [
        f"How near the direction would come to the true one with other numbers of {what}, each looked at as often as "
        f"these {trust.n} were, by as many people. More looks at the same ones help less."
    ]
    if trust.p >= SURE:
        text.append("No direction was shown, so these numbers are guesses.")
    if "orthogonal_to" in direction.provenance:
        text.append(locks_sentence(direction))
    figure = figures.learning_curve_figure(
        trust.learning_curve,
        n=trust.n,
        cosine=trust.predicted_cosine,
        interval=tuple(trust.predicted_interval),
        null=trust.null_band[1],
        label=what,
    )
    caption = (
        "Cosine to the true direction to be expected: median and 95 % interval. Dot: the direction found, which these "
        "pictures may have made better or worse than most. Dotted: what permuted relevance reaches in 2.5 % of cases."
    )
    return Section(
        "How many looks a better direction needs",
        text,
        table=(("wanted cosine", f"{what}, in all", "95 % interval", "more than now"), rows),
        pictures=[(figure, caption)],
    )


def _count(n: float) -> str:
    """A number of pictures, to two digits above a hundred."""
    if not np.isfinite(n):
        return "out of reach"
    digits = max(0, int(np.floor(np.log10(max(n, 1)))) - 1)
    return f"{int(np.ceil(n / 10**digits)) * 10**digits:,}"


# identity


def identity_scan(direction: Direction, generator: Generator, *, seed: int = 1000) -> Scan:
    """A few new pictures moved up to 6 standard deviations both ways."""
    latents = generator.sample(N_SCANNED, space=direction.space, seed=seed)
    return scan(generator, latents, direction, SCANNED, space=direction.space, path="auto")


def identity_section(found: Scan) -> Section:
    """Where an edit makes another face of a face."""
    columns = {
        "mahalanobis": "Mahalanobis length",
        "degrees": "degrees",
        "identity_loss": "identity loss",
        "off_prior": "off prior",
        "outside": "outside the samples",
        "taken_for_same": "taken for the same",
    }
    shown = {key: name for key, name in columns.items() if key in found.table}
    rows = [
        (f"{row['strength']:+g} SD", *(f"{row[key]:.2f}" for key in shown))
        for row in found.table.to_dict("records")
        if row["strength"]
    ]
    text = [
        breaks_sentence(found),
        "Identity loss: 0 is the same picture, 1 as far as two different samples are apart. Off prior: distance of the "
        "moved latents from the prior's mean; outside: share of them that 99.9 % of the samples do not reach.",
    ]
    caption = "Median over the pictures; dotted: where identity breaks."
    pictures = [(figures.identity_figure(found.table, found.breaks), caption)]
    return Section(
        "Until when it is the same face", text, pictures=pictures, table=(("", *shown.values()), rows)
    )


def breaks_sentence(found: Scan) -> str:
    """Up to which strength a face stays itself."""
    low, high = found.breaks
    ends = found.table["strength"].min(), found.table["strength"].max()
    told = [
        f"{side} it breaks at {at:+.1f} SD" if at is not None else f"{side} it does not break by {end:+g} SD"
        for side, at, end in (("backwards", low, ends[0]), ("forwards", high, ends[1]))
        if end
    ]
    return f"Identity breaks where {found.rule}: {', '.join(told)}."


# arms at equal steps


def comparison_section(compared: Comparison) -> Section:
    """All arms at the largest step: change, its interval, the ratio to the logged targets, identity, selectivity."""
    level = float(compared.steps[-1])
    table = compared.matched("step", level)
    rows = [_arm_row(compared, str(name), row, level) for name, row in table.iterrows()]
    head = ("", f"change of {compared.wanted}", "95 % interval", "of logged targets", "identity loss")
    head += (f"change at identity loss {shared_loss(compared):.2f}",)
    head += ("selectivity",) if "selectivity" in table else ()
    figure = figures.comparison_figure(
        compared.curves(), draw_means(compared), label=f"change of {compared.wanted}, population SD"
    )
    caption = "Mean over new faces with its 95 % interval; the band holds 95 % of the shuffled directions."
    text = [
        f"All arms move the same new faces by the same step, {MULTIPLES[-1]:g} standard deviations of the latents "
        "along the brain's direction; each shuffled and each random direction moves two of them. A change is half the "
        "difference between forwards and backwards.",
        shuffled_sentence(compared),
        "A judge flatters the direction that was found with it. Selectivity: change of the wanted score over the mean "
        "change of the others.",
    ]
    title = f"How far edits move {compared.wanted}, at equal steps"
    return Section(title, text, table=(head, rows), pictures=[(figure, caption)])


def shared_loss(compared: Comparison) -> float:
    """The identity loss at which arms are compared at equal cost: the least that a single direction reaches."""
    table = compared.matched("step", float(compared.steps[-1]))
    single = [name for name in table.index if name not in ("shuffled", "random")]
    return float(table.loc[single, "identity_loss"].min())


def shuffled_sentence(compared: Comparison) -> str:
    """How many of the shuffled directions move the score as far as the brain's."""
    draws = draw_means(compared)["shuffled"][:, -1]
    brain = float(compared.matched("step", float(compared.steps[-1])).loc["brain", "change"])
    n = int((np.sign(brain) * draws >= abs(brain)).sum())
    moves = "moves" if n == 1 else "move"
    return (
        f"{n or 'None'} of {len(draws)} directions from shuffled EEG {moves} {compared.wanted} as far as the brain's, "
        "the same way."
    )


def draw_means(compared: Comparison) -> dict[str, np.ndarray]:
    """Mean change (n_draws, k) of the wanted score along each direction of the arms that have many."""
    column = compared.attributes.index(compared.wanted)
    found = {}
    for name in ("shuffled", "random"):
        arm = compared.arms[name]
        means = [arm.changes[arm.units == unit][..., column].mean(0) for unit in np.unique(arm.units)]
        found[name] = np.stack(means)
    return found


def _arm_row(compared: Comparison, name: str, row: dict, level: float) -> tuple[str, ...]:
    ratio = ""
    if "logged targets" in compared.arms and name != "logged targets":
        value, low, high = compared.ratio(name, "logged targets", "step", level)
        ratio = f"{value:.2f} ({low:.2f} to {high:.2f})"
    values = [f"{row['change']:+.2f}", f"{row['low']:+.2f} to {row['high']:+.2f}", ratio]
    values.append(f"{row['identity_loss']:.3f}")
    many = len(np.unique(compared.arms[name].units)) < len(
        compared.arms[name].units
    )  # a ratio of two zeros says nothing
    cost = shared_loss(compared)
    equal = compared.matched("identity_loss", cost).loc[name, "change"]
    values.append(f"{equal:+.2f}" if np.isfinite(equal) else "–")
    return (name, *values, *(["" if many else f"{row['selectivity']:.1f}"] if "selectivity" in row else []))


# pictures


def strips(generator: Generator, found: "FoundDirection", *, n_faces: int = 3, seed: int = 1000) -> Figure:
    """Each new picture edited along the direction and, below it, along the control."""
    space = found.direction.space
    latents = generator.sample(n_faces, space=space, seed=seed)
    arms = [
        (move, edit(generator, latents, [(move, STRENGTHS)], space=space, path="auto").detach().numpy())
        for move in (found.direction, found.control)
    ]
    rows = [(move.name, images[i]) for i in range(n_faces) for move, images in arms]
    return figures.strips_figure(rows, STRENGTHS)


def compatibility_section(by_model: Direction, brain: Direction, generator: Generator) -> Section:
    """The direction along which F's difference between targets and others grows."""
    r = by_model.reliability
    cosine = cosine_of(by_model, brain)
    latents = generator.sample(2, space=by_model.space, seed=1000)
    moves = [(by_model, STRENGTHS)]
    images = edit(generator, latents, moves, space=by_model.space, path="auto").detach().numpy()
    rows = [
        ("strength of F's difference", f"{r['strength']:.4f}", f"{r['null_strength']:.4f}"),
        ("split-half cosine, by trial", f"{r['split_half']:.3f}", ""),
        ("cosine to the mean gradient through the generator", f"{r['gradient_cosine']:.3f}", ""),
        ("cosine to the direction from relevance", f"{cosine:.3f}", ""),
        ("cosine of its permuted directions with it, 95 %", "", _band(r["null_band"])),
    ]
    return Section(
        "The same question asked of F",
        [
            f"F of target trials less F of the others, over new pictures (permutation {_p(r['p'])}, EEG "
            "shuffled over trials). In an oddball this difference carries relevance, not content.",
        ],
        table=(("", "found", "shuffled EEG"), rows),
        pictures=[
            (figures.strips_figure([(by_model.name, i) for i in images], STRENGTHS), "Edited along it.")
        ],
    )


def embedding_section(by_embedding: Direction | str, brain: Direction) -> Section:
    """The direction between the latents that EEG embeddings predict of targets and of the others.

    by_embedding : or the sentence that says why there is none
    """
    title = "The latents that the EEG predicts"
    if isinstance(by_embedding, str):
        return Section(title, [f"Not found: {by_embedding}"])
    r = by_embedding.reliability
    rows = [
        ("length, in units of the latents", f"{r['strength']:.4f}", f"{r['null_strength']:.4f}"),
        ("share of the latents' variance predicted of pictures left out", f"{r['explained']:.3f}", ""),
        ("split-half cosine, by picture", f"{r['split_half']:.3f}", ""),
        ("cosine to the direction from relevance", f"{cosine_of(by_embedding, brain):.3f}", ""),
        ("cosine of its permuted directions with it, 95 %", "", _band(r["null_band"])),
    ]
    return Section(
        title,
        [
            "A regression of the pictures' latents on the model's EEG embeddings, asked about pictures that were left "
            f"out: targets less the others (permutation {_p(r['p'])}, targets shuffled over pictures)."
        ],
        table=(("", "found", "permuted"), rows),
    )


def cosine_of(one: Direction, other: Direction) -> float:
    """Cosine of two directions of one space."""
    return float(one.vector.ravel() @ other.vector.ravel())


def _p(p: float) -> str:
    text = p_text(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _band(band: tuple[float, float]) -> str:
    return f"{band[0]:.3f} to {band[1]:.3f}"
