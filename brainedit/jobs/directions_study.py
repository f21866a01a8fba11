"""Brain-Supervised Image Editing (CVPR 2022) as one command: relevance, directions, four arms at equal dose."""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from tqdm import tqdm

from brainedit.datasets.facecat import TASK_PAIRS, load_facecat
from brainedit.datasets.feature_sets import LatentDataset
from brainedit.directions import brain_direction
from brainedit.generators.base import Generator
from brainedit.generators.load import load_generator
from brainedit.jobs.directions_study_arms import Crowds, Looks, pair_scores, run_task
from brainedit.jobs.directions_study_found import Study
from brainedit.jobs.directions_study_report import sections
from brainedit.parallel import run_all
from brainedit.relevance import score_trials
from brainedit.report import Result, check_out, result_folder
from brainedit.simulate.facecat import PAINTED, high_tasks, simulate_facecat

PHOTOGRAPHS = {"male": "gender", "smiles": "smile", "old": "age", "darkhaired": "hair_darkness"}
DEGREES = (12.0, 25.0, 41.0)  # the last is the original's longest step, 20 from latents of length 22.6
CROWDS = (4, 12, 30)
_LEAST_SHUFFLES = 100
_N_REFERENCE = 3000  # new faces that give each judge's own direction


@dataclass(frozen=True)
class _Data:
    """Trials and faces in the published layout, and where they are from."""

    trials: LatentDataset
    simulated: bool
    files: dict[str, Path]


def davis_study(
    out: str | Path,
    *,
    root: str | Path | None = None,
    generator: str = "faces",
    judges: dict[str, str] | None = None,
    people: list[int] | None = None,
    crowds: list[int] | None = None,
    n_shuffled: int = 120,
    degrees: list[float] | None = None,
    identity_loss: float = 0.3,
    n_jobs: int = 1,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """The protocol of Davis et al. on files in their layout, or on a simulated population -> OUT/report.html.

    Each trial is scored by shrinkage LDA trained on the same person's other pairs of tasks. In each task a direction
    is found from each person's scores, and from those of crowds; it moves two faces of each person, one of the kind
    and one not, whose relevance took no part in finding it. Beside it, at the same steps: the logged targets of
    the same faces (explicit), and, for two faces a draw, the scores shuffled and random directions.

    root : folder of facecat.xz and the faces' latents; None simulates 30 people who looked at the bundled faces
    generator : that made the faces
    judges : of each pair of tasks the one whose faces a judge scores high -> judge; None takes the painted ones for the
        generator "faces", those of photographs for others
    people : numbers in the file; all when None
    crowds : sizes; 4, 12 and 30 people when None. Where people do not divide, some are in two crowds of a size
    n_shuffled : draws for each size of crowd, over all tasks together; as many random directions
    degrees : that faces turn about the prior's mean, rising; 12, 25 and 41 when None
    identity_loss : at which arms are compared at equal cost, 0 for the same face and 1 for another one
    n_jobs : tasks at the same time

    OUT also has the trials' scores, all figures as CSV, and the direction of the largest crowd for each task.
    Raises ValueError for settings out of range, faces of another generator, or a task whose faces are of one kind.
    Source: Davis, de la Torre-Ortiz & Ruotsalo, CVPR 2022, and its repository. Differs: the report names each point.
    """
    check_out(out, overwrite=overwrite)
    settings = {
        "generator": generator,
        "judges": high_tasks(judges or (PAINTED if generator == "faces" else PHOTOGRAPHS)),
        "people": people,
        "crowds": list(CROWDS if crowds is None else crowds),
        "n_shuffled": n_shuffled,
        "degrees": list(DEGREES if degrees is None else degrees),
        "identity_loss": identity_loss,
        "seed": seed,
    }
    _check_settings(settings)
    pair_scores(settings["judges"], next(iter(settings["judges"])))  # refuses a judge that is not there
    maker = load_generator(generator)
    if not maker.normalises_z:
        raise ValueError(
            f"The study turns latents on a sphere, and {maker.name} does not normalise its z; take the generator that "
            "made the faces, a Progressive GAN."
        )
    data = _data(root, maker, settings)
    study = _measured(data, maker, settings, n_jobs)
    made, figures = sections(study, maker, settings["judges"])
    result = Result(
        job="directions study",
        title="Brain-supervised image editing, the study of CVPR 2022",
        lead=f"{len(study.order)} people, 8 tasks, {len(study.trials):,} trials of "
        f"{study.trials['stimulus'].nunique():,} faces of the generator {maker.name!r}, of {maker.z_dim} numbers "
        "each. Four arms at the same steps.",
        settings=settings,
        inputs=data.files,
        figures=figures,
        sections=made,
        simulated=data.simulated,
    )
    with result_folder(out, overwrite=overwrite) as folder:
        _write(folder, study, maker, simulated=data.simulated)
        result.write(folder)
    return Path(out)


def _measured(data: _Data, generator: Generator, settings: dict, n_jobs: int) -> Study:
    """Relevance of all trials, and all that the eight tasks give."""
    seed, trials = settings["seed"], score_people(data.trials, seed=settings["seed"])
    order, crowds = draw_crowds(list(dict.fromkeys(trials["subject"])), settings["crowds"], seed)
    seeds = draw_seeds(trials, order, seed)
    shared = {key: settings[key] for key in ("generator", "judges", "degrees", "seed")}
    shared |= {"latents": data.trials.latents, "crowds": crowds}
    shared["n_shuffled"] = math.ceil(settings["n_shuffled"] / len(TASK_PAIRS))
    jobs = [
        {"task": task, "trials": trials[trials["task"] == task], "seeds": seeds[seeds["task"] == task]}
        | shared
        for task in TASK_PAIRS
    ]
    return Study(
        trials=trials,
        latents=data.trials.latents,
        seeds=seeds,
        order=order,
        crowds=crowds,
        results=run_all(run_task, jobs, n_jobs=n_jobs, description="tasks"),
        references=reference_directions(generator, settings["judges"], seed=seed),
        degrees=settings["degrees"],
        identity_loss=settings["identity_loss"],
    )


def score_people(data: LatentDataset, *, seed: int = 0) -> pd.DataFrame:
    """Every trial's relevance from LDA that was trained on the same person's other pairs of tasks.

    data : features (n, 5, 32), window means of 0 to .5 s, as `load_facecat` gives them

    Returns a row a trial: stimulus, subject, task, fold (the pair of tasks), probability, target.
    """
    tables = []
    for person in tqdm(dict.fromkeys(data.metadata["subject"]), desc="scoring people", delay=2):
        own = data.subset((data.metadata["subject"] == person).to_numpy())
        tables.append(
            score_trials(
                window_epochs(own), target="target", scheme="task_pair", preset="davis2022_public", seed=seed
            )
        )
    return pd.concat(tables, ignore_index=True)


def window_epochs(data: LatentDataset) -> mne.EpochsArray:
    """Window means (n, 5, 32) as epochs of 5 samples at 10 Hz, so that a window of 100 ms is one sample."""
    n, n_windows, n_channels = data.features.shape
    info = mne.create_info([f"EEG {i + 1:02d}" for i in range(n_channels)], 10.0, "eeg", verbose="error")
    samples = np.arange(n) * (n_windows + 1)
    events = np.column_stack([samples, np.zeros_like(samples), np.ones_like(samples)])
    volts = data.features.transpose(0, 2, 1).astype(np.float64)
    return mne.EpochsArray(volts, info, events, tmin=0.0, metadata=data.metadata, verbose="error")


def draw_crowds(people: Sequence[str], sizes: Sequence[int], seed: int) -> tuple[list[str], Crowds]:
    """The people in random order, and for each size (1 first) the crowd of each of them, in that order.

    There are as many crowds as hold everyone, dealt like cards: the first people of the order are in as many crowds
    as possible. A crowd that lacks people is filled up from the start of the order.
    Raises ValueError for fewer than two people or a crowd of more people than there are.
    """
    n = len(people)
    if n < 2 or any(not 2 <= size <= n for size in sizes):
        raise ValueError(
            f"Need two or more people, and crowds of 2 to {n} of them; got {n} and crowds {list(sizes)}."
        )
    order = [str(person) for person in np.random.default_rng([seed, 3]).permutation(list(people))]
    found = {1: [(person,) for person in order]}
    for size in sizes:
        n_crowds = math.ceil(n / size)
        dealt = [order[i::n_crowds] for i in range(n_crowds)]
        filled = [tuple(own + [p for p in order if p not in own][: size - len(own)]) for own in dealt]
        found[size] = [filled[i % n_crowds] for i in range(n)]
    return order, found


def draw_seeds(trials: pd.DataFrame, order: Sequence[str], seed: int) -> pd.DataFrame:
    """One face of the kind and one other for each person and task, in the order of people.

    Returns subject, task, target, stimulus. Raises ValueError where a person saw one kind alone.
    """
    rng = np.random.default_rng([seed, 4])
    groups = dict(list(trials.groupby(["task", "subject"], sort=False)))
    rows = []
    for task in TASK_PAIRS:
        for person in order:
            own = groups.get((task, person))
            kinds = {} if own is None else dict(list(own.groupby("target")["stimulus"]))
            if len(kinds) < 2:
                raise ValueError(
                    f"Person {person} saw faces of one kind alone, or none, in the task {task!r}."
                )
            for kind in (True, False):
                face = rng.choice(sorted(set(kinds[kind])))
                rows.append({"subject": person, "task": task, "target": kind, "stimulus": str(face)})
    return pd.DataFrame(rows)


def reference_directions(
    generator: Generator, judges: Mapping[str, str], *, n: int = _N_REFERENCE, seed: int = 0
) -> dict[str, np.ndarray]:
    """For each task the direction (n_dims,) from new faces below the median of its judge to those above it."""
    latents = generator.sample(n, space="z", seed=seed + 7)
    read = pair_scores(judges, next(iter(judges)))
    batches = generator.synthesize_batches(latents, space="z")
    parts = [read(x) for x in tqdm(batches, desc="judging new faces", total=-(-n // 32), delay=2)]
    table, scores = pd.DataFrame(latents.double().cpu().numpy()), pd.concat(parts, ignore_index=True)
    above = (scores > scores.median()).astype(float)
    found = {pair: brain_direction(table, above[pair], space="z").vector for pair in above}
    return {task: found[pair] * (1 if task in judges else -1) for task, pair in TASK_PAIRS.items()}


def _check_settings(settings: dict) -> None:
    if settings["n_shuffled"] < _LEAST_SHUFFLES:
        raise ValueError(
            f"The shuffled arm needs {_LEAST_SHUFFLES} draws or more; got n_shuffled={settings['n_shuffled']}."
        )
    if not settings["degrees"] or not (np.diff([0.0, *settings["degrees"], 90.0]) > 0).all():
        raise ValueError(f"degrees rise from above 0 to below 90; got {settings['degrees']}.")
    if not 0 < settings["identity_loss"] < 1:
        raise ValueError(f"identity_loss lies between 0 and 1; got {settings['identity_loss']}.")
    crowds = settings["crowds"]
    if not crowds or len(set(crowds)) < len(crowds) or min(crowds) < 2:
        raise ValueError(f"crowds are one or more different sizes of 2 or more people; got {crowds}.")


def _data(root: str | Path | None, generator: Generator, settings: dict) -> _Data:
    """The files in root, or a simulation; the people that were asked for."""
    if root is not None:
        return _of_people(_read(Path(root), generator), settings["people"])
    with tempfile.TemporaryDirectory(prefix="brainedit-") as folder:
        same = {key: settings[key] for key in ("generator", "judges", "seed")}
        found = _read(simulate_facecat(Path(folder) / "facecat", **same), generator)
    return _of_people(replace(found, files={}), settings["people"])


def _read(root: Path, generator: Generator) -> _Data:
    """Trials and latents; ValueError where the faces are not the generator's."""
    found = load_facecat(root)
    width, (z_dim,) = found.latents.shape[1], generator.latent_shape("z")
    if width != z_dim:
        raise ValueError(
            f"The faces' latents have {width} numbers; {generator.name} takes {z_dim} in 'z'. Choose the generator "
            "that made the faces."
        )
    path = root / "truth.json"
    truth = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    maker = truth.get("generator_sha256", generator.sha256)
    if maker != generator.sha256:
        raise ValueError(
            f"The faces in {root} were made by another generator (sha256 {maker[:12]}); {generator.name} has "
            f"{generator.sha256[:12]}."
        )
    simulated = "simulated" in set(found.metadata["design_source"])
    return _Data(found, simulated, _files(root))


def _files(root: Path) -> dict[str, Path]:
    names = {
        "facecat": ("facecat.xz", "facecat.pkl"),
        "latents": ("latents.pkl", "latents.csv", "latents.safetensors"),
    }
    return {
        key: next(p for f in (root, root / "data") for n in own if (p := f / n).is_file())
        for key, own in names.items()
    }


def _of_people(data: _Data, people: Sequence[int] | None) -> _Data:
    if people is None:
        return data
    subject = data.trials.metadata["subject"]
    there, wanted = sorted(set(subject), key=int), [str(person) for person in people]
    if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(there):
        raise ValueError(f"people are different numbers out of {', '.join(there)}; got {list(people)}.")
    return replace(data, trials=data.trials.subset(subject.isin(wanted).to_numpy()))


def _write(folder: Path, study: Study, generator: Generator, *, simulated: bool) -> None:
    """Scores and figures as tables, and the direction of the largest crowd for each task."""
    study.trials.to_csv(folder / "trial_scores.csv", index=False)
    study.seeds.to_csv(folder / "faces_moved.csv", index=False)
    study.curves().to_csv(folder / "curves.csv", index=False)
    study.cosines().to_csv(folder / "cosines.csv", index=False)
    (folder / "directions").mkdir()
    crowd = study.crowds[max(study.crowds)][0]
    for task in TASK_PAIRS:
        own, seeds = (table[table["task"] == task] for table in (study.trials, study.seeds))
        looks = Looks.of(task, crowd, own, study.latents, seeds)
        name = f"{task}, {len(crowd)} people"
        found = brain_direction(looks.latents, looks.brain, space="z", name=name, generator=generator)
        origin = {"simulated": simulated, "n_people": len(crowd), "study": "davis2022"}
        trust = asdict(looks.reliability())
        replace(found, provenance=found.provenance | origin, reliability=trust).save(
            folder / "directions" / f"{task}.safetensors"
        )
