"""EEG of an oddball -> a direction in latent space, with its reliability and its controls."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mne
import pandas as pd

from brainedit.comparison_tables import Comparison
from brainedit.directions import (
    Direction,
    DirectionReliability,
    brain_direction,
    compatibility_direction,
    reliability,
)
from brainedit.eeg import read_epochs
from brainedit.embedding_direction import embedding_direction
from brainedit.evaluation import Score
from brainedit.generators.base import Generator
from brainedit.generators.load import load_generator
from brainedit.jobs.direction_arms import (
    compare_arms,
    control_of,
    explicit_direction,
    measures_of,
    shuffled_arm,
)
from brainedit.jobs.direction_inputs import (
    Classifier,
    check_latents,
    classifier_name,
    eyes_alone,
    of_task,
    picture_groups,
    read_latents_in,
    read_locks,
    recordings_of,
    scored_trials,
    shared_scheme,
    together,
    trials_metadata,
)
from brainedit.jobs.direction_sections import (
    LOOKS,
    compatibility_section,
    direction_sections,
    embedding_section,
    labels_sentence,
    shared_loss,
    strips,
    trust_sentence,
)
from brainedit.jobs.joint import stamp_of
from brainedit.joint import JointModel, load_joint
from brainedit.judges import Judge
from brainedit.relevance import metadata_of, pool_relevance, task_pair_column
from brainedit.relevance_inputs import HIERARCHICAL
from brainedit.relevance_study import relevance_scores
from brainedit.report import Result, check_out, is_simulated, result_folder, sha256_of

__all__ = [
    "FoundDirection",
    "compatibility_section",
    "direction_from_eeg",
    "direction_sections",
    "find_direction",
    "strips",
]

CLOSED_FORM = ("ridge", "ridge_fixed", "mean_difference", HIERARCHICAL)
N_PERMUTATIONS, N_REFITTED = 1000, 99  # where each permutation is a matrix product, and where it is a fit


@dataclass(frozen=True)
class FoundDirection:
    """A direction, the relevance it came from, and what it is compared with.

    control : the first of the shuffled directions, with the prior's scale
    auc : of the trials, all folds together; `scores` has it as "pooled", with "within folds" and each fold
    eyes : the AUC that channels at the eyes alone give, or the sentence that says why there is none
    shuffled : 100 directions from relevance shuffled over the pictures (or their groups)
    explicit : the direction of the logged targets, None where all pictures were targets as often
    comparison : all arms at equal steps, None without a judge
    """

    direction: Direction
    control: Direction
    trials: pd.DataFrame
    relevance: pd.Series
    auc: Score
    scores: dict[str, Score]
    eyes: Score | str
    shuffled: list[Direction]
    explicit: Direction | None = None
    comparison: Comparison | None = None


def find_direction(
    epochs: mne.BaseEpochs | Sequence[mne.BaseEpochs],
    latents: pd.DataFrame,
    generator: Generator,
    *,
    target: str,
    space: str = "z",
    method: str = "ridge",
    classifier: Classifier = "lda",
    preset: str | None = None,
    scheme: str = "auto",
    task: str | None = None,
    weights: pd.Series | str | None = None,
    groups: str | None = None,
    locks: Sequence[Direction | str | Path] = (),
    judge: Judge | str | None = None,
    name: str = "",
    n_permutations: int | None = None,
    seed: int = 0,
) -> FoundDirection:
    """EEG of an oddball -> relevance out of fold -> direction, with its reliability and its controls.

    epochs : one recording, or one a person; each person is scored by a classifier of that person's other trials
        (scheme "subject": of the other people's), and relevance is pooled over people
    latents : one row a stimulus; rows of pictures that were not shown are left out
    method : as in `brain_direction`; "hierarchical" pools people by how much each tells
    classifier, preset, scheme : as in `score_trials`, where the classifier is called `method`
    task : whose trials give the relevance, needed where there are several; all tasks may train the classifier
    weights : as in `pool_relevance`: None, "reliability", or one a person
    groups : column of the metadata that says which pictures are nearly the same; such a group counts as one
    locks : directions (or files) to stay at right angles to. The reliability is that of the direction before that
    judge : a judge or its name; then all arms are compared at equal steps on new faces (`compare_arms`)
    n_permutations : 1,000 when None, or 99 for methods that fit each anew (svr, logistic)

    Raises ValueError when trials, latents, locks and generator do not fit, or the query does not split the trials;
    else as `score_trials`, `pool_relevance`, `brain_direction` and `compare_arms` do.
    """
    recordings = recordings_of(epochs)
    metadata = trials_metadata(recordings, task)
    check_latents(latents, metadata, generator, space)
    held = read_locks(locks, generator, space)
    grouped = None if groups is None else picture_groups(metadata, groups)
    if judge is not None:
        measures_of(judge)
    scheme = shared_scheme(recordings, scheme)
    scoring = {"target": target, "method": classifier, "preset": preset, "scheme": scheme, "seed": seed}
    trials = scored_trials(recordings, task=task, **scoring)
    relevance = pool_relevance(trials, weights=weights, seed=seed)
    told = _people(trials, weights) if method == HIERARCHICAL else relevance
    shown = latents.loc[relevance.index]
    arm = {"generator": generator, "space": space, "method": method}
    found = brain_direction(shown, told, name=name or target, **arm)
    n = n_permutations or (N_PERMUTATIONS if method in CLOSED_FORM else N_REFITTED)
    trust = reliability(shown, told, method=method, groups=grouped, n_permutations=n, seed=seed)
    shuffled = shuffled_arm(shown, relevance, groups=grouped, seed=seed, **arm)
    origin = _origin(recordings, trials, scoring, task)
    moves = found, control_of(shuffled, generator, **origin)
    found, control = (move.orthogonal_to(*held, generator=generator) for move in moves)
    found = replace(found, provenance=found.provenance | origin, reliability=asdict(trust))
    explicit, compared = explicit_direction(shown, trials, **arm), None
    if judge is not None:
        compared = compare_arms(found, shuffled, generator, judge, explicit=explicit, locks=held, seed=seed)
    scores = relevance_scores(trials, seed=seed)
    eyes = eyes_alone(recordings, task=task, **scoring)
    return FoundDirection(
        found, control, trials, relevance, scores["pooled"], scores, eyes, shuffled, explicit, compared
    )


def direction_from_eeg(
    epochs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    target: str,
    generator: str,
    latents: str | Path,
    model: str | Path | None = None,
    space: str = "z",
    method: str = "ridge",
    classifier: Classifier = "lda",
    preset: str | None = None,
    scheme: str = "auto",
    task: str | None = None,
    weights: str | None = None,
    groups: str | None = None,
    locks: Sequence[str | Path] = (),
    judge: str | None = None,
    name: str = "",
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """A direction in a generator's latent space from EEG -> OUT/direction.safetensors and a report.

    epochs : one file, or one a person
    target : query on the metadata that is true for target trials
    latents : CSV or safetensors, one row a stimulus
    model : a joint model; then F and the EEG embeddings find the direction too, and the trials must not have
        trained it
    classifier : as in `find_direction`, or "joint": the compatibility of the model, which is needed then

    The other settings are those of `find_direction`.
    """
    check_out(out, overwrite=overwrite)
    files = _files(epochs)
    recordings, maker = [read_epochs(file) for file in files], load_generator(generator)
    joint = None if model is None else load_joint(model)
    settings = {"target": target, "space": space, "method": method, "scheme": scheme, "seed": seed}
    settings |= {"preset": preset, "task": task, "weights": weights, "groups": groups, "judge": judge}
    told = settings | {"classifier": classifier_name(classifier)}
    table = read_latents_in(latents, space)
    found = find_direction(
        recordings,
        table,
        maker,
        classifier=_by_model(joint) if classifier == "joint" else classifier,
        locks=locks,
        name=name,
        **settings,
    )
    result = _result(found, recordings, maker, told)
    result.inputs = _inputs(files, latents, locks)
    directions = {"direction": found.direction, "shuffled_direction": found.control}
    if found.explicit is not None:
        directions["logged_targets_direction"] = found.explicit
    if joint is not None:
        directions |= _of_model(result, found, joint, recordings, table, maker, told)
        if classifier == "joint" and result.stamp:
            directions = {key: _stamped(move, result.stamp) for key, move in directions.items()}
    with result_folder(out, overwrite=overwrite) as folder:
        for key, move in directions.items():
            move.save(folder / f"{key}.safetensors")
        found.trials.to_csv(folder / "trial_scores.csv", index=False)
        found.relevance.to_csv(folder / "relevance.csv")
        if found.comparison is not None:
            found.comparison.curves().to_csv(folder / "comparison.csv", index=False)
        result.write(folder)
    return Path(out)


def _people(trials: pd.DataFrame, weights: object) -> pd.DataFrame:
    """Relevance of each person, people x pictures, NaN where one did not see a picture."""
    if weights is not None:
        raise ValueError('The method "hierarchical" weighs people itself; leave the weights out.')
    person = trials["subject"].astype(str)
    return pd.DataFrame({name: pool_relevance(own) for name, own in trials.groupby(person)}).T


def _origin(
    recordings: Sequence[mne.BaseEpochs], trials: pd.DataFrame, scoring: dict, task: str | None
) -> dict[str, Any]:
    """What a direction's file says of where it comes from."""
    record = {
        "simulated": any(is_simulated(recording.metadata) for recording in recordings),
        "target": scoring["target"],
        "classifier": classifier_name(scoring["method"]),
        "scheme": scoring["scheme"],
        "n_people": int(trials["subject"].nunique(dropna=False)),
        "n_trials": len(trials),
    }
    if scoring["scheme"] == "task_pair":
        record["pairs"] = task_pair_column(metadata_of(recordings[0]))
    return record if task is None else record | {"task": task}


def _files(epochs: str | Path | Sequence[str | Path]) -> list[Path]:
    files = [Path(epochs)] if isinstance(epochs, str | Path) else [Path(file) for file in epochs]
    seen: dict[str, Path] = {}
    for file in files if len(files) > 1 else []:
        twin = seen.setdefault(sha256_of(file), file) if file.is_file() else file
        if twin is not file:
            raise ValueError(f"{file} holds the same as {twin}; give each recording once.")
    return files


def _by_model(joint: JointModel | None) -> Classifier:
    """The joint model's compatibility as a classifier of trials."""
    if joint is None:
        raise ValueError("The classifier 'joint' is a joint model's compatibility; give the model too.")
    from brainedit.joint_relevance import joint_scorer

    return joint_scorer(joint)


def _inputs(files: Sequence[Path], latents: str | Path, locks: Sequence[str | Path]) -> dict[str, str | Path]:
    names = ["epochs"] if len(files) == 1 else [f"epochs {i + 1}" for i in range(len(files))]
    held = {f"lock {i + 1}": lock for i, lock in enumerate(locks)}
    return dict(zip(names, files, strict=True)) | {"latents": latents} | held


def _result(
    found: FoundDirection, recordings: Sequence[mne.BaseEpochs], maker: Generator, settings: dict[str, Any]
) -> Result:
    direction = found.direction
    n_people = direction.provenance["n_people"]
    people = f" of {n_people} people" if n_people > 1 else ""
    trust = DirectionReliability(**direction.reliability)
    figures = {
        "reliability": direction.reliability,
        "provenance": direction.provenance,
        "looks_needed": {str(wanted): asdict(trust.looks_needed(wanted)) for wanted in LOOKS},
        "relevance": {name: score.value for name, score in found.scores.items()},
    }
    if found.comparison is not None:
        level = float(found.comparison.steps[-1])
        table = found.comparison.matched("step", level)
        figures["comparison"] = {"step": level, "arms": table.to_dict("index")}
        cost = shared_loss(found.comparison)
        equal = found.comparison.matched("identity_loss", cost)
        figures["comparison"] |= {"identity_loss": cost, "arms_at_identity_loss": equal.to_dict("index")}
    result = Result(
        job="directions",
        title=f"A direction from EEG: {direction.name}",
        lead=f"{len(found.trials)} trials{people}, {len(found.relevance)} pictures made by {maker.name}. "
        f"{trust_sentence(direction)}",
        settings=settings,
        figures=figures,
        simulated=bool(direction.provenance["simulated"]),
    )
    if settings["task"] is not None and direction.provenance["scheme"] not in ("task_pair", "subject"):
        result.warnings.append(labels_sentence(direction))
    result.sections += direction_sections(found, recordings, maker, target=settings["target"])
    return result


def _of_model(
    result: Result,
    found: FoundDirection,
    joint: JointModel,
    recordings: Sequence[mne.BaseEpochs],
    latents: pd.DataFrame,
    maker: Generator,
    settings: dict[str, Any],
) -> dict[str, Direction]:
    """What F and the EEG embeddings say of the same trials, with their sections and figures in the result."""
    result.stamp = stamp_of(joint)
    epochs = together(of_task(recordings, settings["task"]), "A joint model")
    name = found.direction.name
    asked = {key: settings[key] for key in ("target", "space", "seed")}

    def marked(direction: Direction) -> Direction:
        record = {"simulated": result.simulated} | ({"stamp": result.stamp} if result.stamp else {})
        return replace(direction, provenance=direction.provenance | record)

    by_f = marked(compatibility_direction(joint, maker, epochs, name=f"{name} by F", **asked))
    result.sections.append(compatibility_section(by_f, found.direction, maker))
    result.figures["compatibility"] = by_f.reliability
    made = {"compatibility_direction": by_f}
    try:
        by_eeg = marked(
            embedding_direction(joint, maker, epochs, latents, name=f"{name} by embeddings", **asked)
        )
    except ValueError as error:  # pictures that are targets at times, or too few: it is not to be had
        result.sections.append(embedding_section(str(error), found.direction))
        return made
    result.sections.append(embedding_section(by_eeg, found.direction))
    result.figures["embedding"] = by_eeg.reliability
    return made | {"embedding_direction": by_eeg}


def _stamped(direction: Direction, stamp: str) -> Direction:
    return replace(direction, provenance=direction.provenance | {"stamp": stamp})
