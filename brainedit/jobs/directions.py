"""EEG of an oddball -> a direction in latent space, with its reliability and its control."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from brainedit import figures
from brainedit.datasets.latents import read_latents
from brainedit.directions import Direction, brain_direction, compatibility_direction, reliability
from brainedit.editing import edit
from brainedit.eeg import read_epochs
from brainedit.evaluation import Score
from brainedit.generators.base import Generator
from brainedit.generators.load import load_generator
from brainedit.jobs.edit import STRENGTHS
from brainedit.jobs.joint import stamp_of
from brainedit.joint import load_joint
from brainedit.relevance import pool_relevance, relevance_score, score_trials, target_mask
from brainedit.report import Result, Section, check_out, is_simulated, result_folder


@dataclass(frozen=True)
class FoundDirection:
    """A direction, the relevance it came from, and the control from shuffled EEG."""

    direction: Direction
    control: Direction
    trials: pd.DataFrame
    relevance: pd.Series
    auc: Score


def find_direction(
    epochs: mne.BaseEpochs,
    latents: pd.DataFrame,
    generator: Generator,
    *,
    target: str,
    space: str = "z",
    method: str = "ridge",
    classifier: str = "lda",
    scheme: str = "run",
    name: str = "",
    n_permutations: int = 1000,
    seed: int = 0,
) -> FoundDirection:
    """EEG of an oddball -> relevance out of fold -> direction, with its reliability and a shuffled control.

    latents : one row a stimulus; rows of pictures that were not shown are left out
    """
    trials = score_trials(epochs, target=target, method=classifier, scheme=scheme, seed=seed)
    relevance = pool_relevance(trials)
    missing = sorted(set(relevance.index) - set(latents.index))
    if missing:
        raise ValueError(
            f"{missing[0]!r} and {len(missing) - 1} more pictures that were shown have no latent."
        )
    shown = latents.loc[relevance.index]
    direction = brain_direction(
        shown, relevance, space=space, method=method, name=name or target, generator=generator
    )
    found = asdict(reliability(shown, relevance, method=method, n_permutations=n_permutations, seed=seed))
    shuffled = pd.Series(np.random.default_rng(seed).permutation(relevance), index=relevance.index)
    control = brain_direction(
        shown, shuffled, space=space, method=method, name="shuffled EEG", generator=generator
    )
    origin = {"simulated": is_simulated(epochs.metadata)}
    direction = replace(direction, provenance=direction.provenance | origin, reliability=found)
    control = replace(control, provenance=control.provenance | origin)
    return FoundDirection(direction, control, trials, relevance, relevance_score(trials, seed=seed))


def direction_from_eeg(
    epochs: str | Path,
    out: str | Path,
    *,
    target: str,
    generator: str,
    latents: str | Path,
    model: str | Path | None = None,
    space: str = "z",
    method: str = "ridge",
    classifier: str = "lda",
    scheme: str = "run",
    name: str = "",
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """A direction in a generator's latent space from EEG -> OUT/direction.safetensors and a report.

    target : query on the metadata that is true for target trials
    latents : CSV or safetensors, one row a stimulus
    model : a joint model; then F finds the direction too, and the trials must not have trained it
    """
    check_out(out, overwrite=overwrite)
    recording, maker = read_epochs(epochs), load_generator(generator)
    found = find_direction(
        recording,
        read_latents(latents),
        maker,
        target=target,
        space=space,
        method=method,
        classifier=classifier,
        scheme=scheme,
        name=name,
        seed=seed,
    )
    result = Result(
        job="directions",
        title=f"A direction from EEG: {found.direction.name}",
        lead=f"{len(found.trials)} trials, {len(found.relevance)} pictures made by {maker.name}.",
        settings={"target": target, "space": space, "method": method, "scheme": scheme, "seed": seed},
        inputs={"epochs": epochs, "latents": latents},
        figures={"reliability": found.direction.reliability, "provenance": found.direction.provenance},
        simulated=is_simulated(recording.metadata),
    )
    result.sections += direction_sections(found, recording, maker, target=target)
    by_model = None
    if model is not None:
        joint = load_joint(model)
        result.stamp = stamp_of(joint)
        by_model = compatibility_direction(
            joint,
            maker,
            recording,
            target=target,
            space=space,
            seed=seed,
            name=f"{name or target} by F",
        )
        origin = {"simulated": result.simulated} | ({"stamp": result.stamp} if result.stamp else {})
        by_model = replace(by_model, provenance=by_model.provenance | origin)
        result.sections.append(compatibility_section(by_model, found.direction, maker))
        result.figures["compatibility"] = by_model.reliability
    with result_folder(out, overwrite=overwrite) as folder:
        found.direction.save(folder / "direction.safetensors")
        found.control.save(folder / "shuffled_direction.safetensors")
        if by_model is not None:
            by_model.save(folder / "compatibility_direction.safetensors")
        found.trials.to_csv(folder / "trial_scores.csv", index=False)
        found.relevance.to_csv(folder / "relevance.csv")
        result.write(folder)
    return Path(out)


def direction_sections(
    found: FoundDirection, epochs: mne.BaseEpochs, generator: Generator, *, target: str, n_faces: int = 3
) -> list[Section]:
    """Relevance, reliability, and strips of new pictures beside the shuffled control."""
    is_target = target_mask(epochs.metadata, target)
    conditions = {
        "targets": epochs[is_target].average(picks="eeg"),
        "others": epochs[~is_target].average(picks="eeg"),
    }
    r = found.direction.reliability
    rows = [
        (
            "strength (predicted against found, pictures left out)",
            f"{r['strength']:.3f}",
            f"{r['null_strength']:.3f}",
        ),
        ("split-half cosine, by picture", f"{r['split_half']:.3f}", ""),
        ("the same at all pictures (Spearman-Brown)", f"{r['split_half_full']:.3f}", ""),
        ("cosine of permuted directions with it, 95 %", "", _band(r["null_band"])),
    ]
    sure = r["p"] < 0.05
    verdict = (
        f"The direction predicts the relevance of pictures it has not seen (permutation p = {r['p']:.3f})."
        if sure
        else f"The direction does not predict the relevance of new pictures (p = {r['p']:.3f}): do not use it."
    )
    return [
        Section(
            "Is the response to targets different?",
            ["Each trial is scored by a classifier that has not seen its fold."],
            [found.auc],
            [(figures.response_figure(conditions), "Targets and others; topographies of their difference.")],
        ),
        Section(
            "How far to trust the direction",
            [verdict, f"{r['n']} pictures; relevance permuted over pictures {r['n_permutations']} times."],
            table=(("", "found", "permuted"), rows),
        ),
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


def strips(generator: Generator, found: FoundDirection, *, n_faces: int = 3, seed: int = 1000) -> Figure:
    """Each new picture edited along the direction and, below it, along the control."""
    space = found.direction.space
    latents = generator.sample(n_faces, space=space, seed=seed)
    arms = [
        (move, edit(generator, latents, [(move, STRENGTHS)], space=space).detach().numpy())
        for move in (found.direction, found.control)
    ]
    rows = [(move.name, images[i]) for i in range(n_faces) for move, images in arms]
    return figures.strips_figure(rows, STRENGTHS)


def compatibility_section(by_model: Direction, brain: Direction, generator: Generator) -> Section:
    """The direction along which F's difference between targets and others grows."""
    r = by_model.reliability
    cosine = float(by_model.vector.ravel() @ brain.vector.ravel())
    latents = generator.sample(2, space=by_model.space, seed=1000)
    images = edit(generator, latents, [(by_model, STRENGTHS)], space=by_model.space).detach().numpy()
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
            f"F of target trials less F of the others, over new pictures (permutation p = {r['p']:.3f}, EEG "
            "shuffled over trials). In an oddball this difference carries relevance, not content.",
        ],
        table=(("", "found", "shuffled EEG"), rows),
        pictures=[
            (figures.strips_figure([(by_model.name, i) for i in images], STRENGTHS), "Edited along it.")
        ],
    )


def _band(band: tuple[float, float]) -> str:
    return f"{band[0]:.3f} to {band[1]:.3f}"
