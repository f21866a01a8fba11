"""The demo: a simulated world with a known truth, through every step of the product, on one page."""

import json
import logging
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from brainedit.audit.design import audit_design
from brainedit.datasets.latents import write_latents
from brainedit.datasets.paired import PairedDataset
from brainedit.directions import Direction, compatibility_direction
from brainedit.encoders.features import cache_folder
from brainedit.evaluation import Score, proportion_score
from brainedit.generators.base import Generator
from brainedit.generators.load import load_generator
from brainedit.jobs.audit import design_section
from brainedit.jobs.direction_arms import compare_arms
from brainedit.jobs.directions import compatibility_section, direction_sections, find_direction
from brainedit.jobs.joint import evaluation_sections, permuted_pairs
from brainedit.jobs.map_dependence import dependence_sources
from brainedit.jobs.saliency import explain_picture, map_figures
from brainedit.jobs.saliency_sections import PICTURE, map_sections, verdict_of
from brainedit.joint import JointModel
from brainedit.joint_training import train_joint
from brainedit.judges import Judge, judge
from brainedit.report import Result, Section, result_folder
from brainedit.simulate.viewing import SimulatedViewing, simulate_oddball, simulate_passive
from brainedit.splits import split_trials
from saliency.image import occlusion_map, region_hit

logger = logging.getLogger(__name__)

GENERATOR, ATTRIBUTE, SPACE = "faces", "smile", "w"
TARGET = "label == 'smile'"
N_PICTURES, N_REPEATS, SNR = 480, 4, 0.2
N_FACES, N_PEOPLE, AUC = 400, 4, 0.79
WINDOW, STRIDE, N_MAPPED = 56, 28, 16
JUDGE = f"painted/{ATTRIBUTE}"
SAME_JUDGE = "The judge who labelled also measures, so this is a check of the machinery, not of smiles."


def ensure_demo(path: str | Path | None = None) -> Path:
    """The folder of a finished demo; runs it (minutes) where there is none.

    path : where it lies or shall lie; the user's cache folder when None
    """
    folder = Path(path) if path is not None else cache_folder() / f"demo-{version('brainedit')}"
    if not (folder / "demo.json").is_file():
        logger.warning("preparing the examples in %s; this takes a few minutes, once", folder)
        run_demo(folder, overwrite=True)
    return folder


def run_demo(out: str | Path, *, seed: int = 0, overwrite: bool = False) -> Path:
    """Simulated EEG -> joint embedding -> maps -> direction -> edited faces -> OUT/report.html.

    The folder also holds what the web page opens with: a model, epochs, pictures, latents, directions.
    """
    generator, measure = load_generator(GENERATOR), judge(JUDGE)
    result = Result(
        job="demo",
        title="What a brain response says about a picture",
        lead="EEG recorded while somebody looks at pictures; a joint embedding of both; the part of a picture "
        "that the response answers to; a direction in a generator's latent space that the responses point "
        "to; faces edited along it.",
        settings={"seed": seed, "snr": SNR, "auc": AUC, "generator": GENERATOR, "attribute": ATTRIBUTE},
        simulated=True,
    )
    with result_folder(out, overwrite=overwrite) as folder:
        _viewing(folder, result, seed)
        _faces(folder, result, generator, measure, seed)
        described = {"generator": GENERATOR, "target": TARGET, "space": SPACE, "attribute": ATTRIBUTE}
        (folder / "demo.json").write_text(json.dumps(described, indent=1) + "\n")
        result.write(folder)
    return Path(out)


# passive viewing: joint embedding and saliency


def _viewing(folder: Path, result: Result, seed: int) -> None:
    viewing = simulate_passive(n_pictures=N_PICTURES, n_repeats=N_REPEATS, snr=SNR, seed=seed)
    dataset = PairedDataset(viewing.epochs, viewing.images)
    train, test = next(split_trials(dataset.metadata, by="stimulus", seed=seed))
    model = train_joint(dataset.subset(train), seed=seed)
    twin = train_joint(permuted_pairs(dataset.subset(train), seed=seed), seed=seed)
    twin.card["training"]["permuted_pairs"] = True
    held_out = dataset.subset(test)
    result.sections.append(_viewing_section(viewing))
    result.sections += evaluation_sections(model, held_out, hold_out="stimulus")
    design = audit_design(dataset.metadata, claim="picture", split=[(train, test)], images=viewing.images)
    result.sections.append(design_section(design))
    result.sections += _saliency(model, twin, held_out, viewing, result)
    model.save(folder / "model")
    twin.save(folder / "model_permuted")
    _save_viewing(folder / "viewing", held_out)


def _viewing_section(viewing: SimulatedViewing) -> Section:
    from PIL import Image

    sheet = np.concatenate([viewing.images[name] for name in list(viewing.images)[:5]], axis=1)
    return Section(
        "The simulated world",
        [
            f"{len(viewing.images)} pictures, each seen {N_REPEATS} times. A picture holds four objects; the "
            "simulated brain responds to the kind of one of them, drawn at random. Nothing in the picture "
            "says which, so a map that finds it has read the response: guessing is right in one of four.",
            f"Signal to noise of a single trial: {SNR} (RMS of what tells the kinds apart by RMS of all noise).",
        ],
        pictures=[(Image.fromarray(sheet), "Five of the pictures.")],
    )


def _saliency(
    model: JointModel, twin: JointModel, held_out: PairedDataset, viewing: SimulatedViewing, result: Result
) -> list[Section]:
    averages = held_out.by_stimulus()
    boxes = {name: _box(viewing.truth, name) for name in averages.keys}
    hits, shuffled = _peak_hits(model, averages, boxes)
    name = averages.keys[0]
    picture, own = held_out.pictures[name], held_out.keys == name
    sources = dependence_sources(model, held_out.epochs, held_out.pictures, own, picture)
    settings = {"twin": twin, "window": WINDOW, "stride": STRIDE // 2}
    found = explain_picture(model, held_out.epochs, picture, own, sources, **settings)
    verdict = verdict_of(found.maps, found.dependence)
    result.lead = f"{result.lead} {verdict}"
    result.figures["peak_hits"] = {"own": hits.value, "shuffled": shuffled.value}
    result.figures["maps"] = map_figures(found)
    sections = map_sections(model, found, name=name, box=boxes[name])
    truth = viewing.truth.loc[name]
    sections[0].text = [verdict, *sections[0].text]
    where = next(section for section in sections if section.title == PICTURE)
    where.text = [
        *where.text,
        f"The box is the region that was coded ({truth['kind']}). The peak of the map falls into it for "
        f"{hits.value:.0%} of {hits.n} held-out pictures, with the EEG of other pictures for "
        f"{shuffled.value:.0%}; chance is 25 %.",
    ]
    where.scores = [hits, shuffled]
    return sections


def _peak_hits(model: JointModel, averages: PairedDataset, boxes: dict[str, tuple]) -> tuple[Score, Score]:
    """How often the map's peak lies in the coded region: own EEG, and EEG of another picture."""
    score = model.score_images(model.prepare_eeg(averages.epochs))
    own, other = [], []
    for i, name in enumerate(tqdm(averages.keys[:N_MAPPED], desc="occlusion maps", unit="picture")):
        image = model.prepare_image(averages.pictures[name])
        maps = occlusion_map(score, image, window=WINDOW, stride=STRIDE)
        own.append(region_hit(maps[i], boxes[name]))
        other.append(region_hit(maps[(i + len(averages) // 2) % len(averages)], boxes[name]))
    chance = {"chance": 0.25, "unit": "picture"}
    return (
        proportion_score(np.array(own), name="peak in the coded region", **chance),
        proportion_score(np.array(other), name="control: shuffled EEG", **chance),
    )


def _box(truth: pd.DataFrame, name: str) -> tuple[int, int, int, int]:
    row = truth.loc[name]
    return int(row["top"]), int(row["left"]), int(row["bottom"]), int(row["right"])


def _save_viewing(folder: Path, held_out: PairedDataset) -> None:
    from PIL import Image

    for name, picture in held_out.pictures.items():
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    held_out.epochs.save(folder / "epochs-epo.fif", verbose="error")


# the oddball: relevance, directions, editing


@dataclass(frozen=True)
class _Oddball:
    """Faces, what the judge says of them, and the simulated EEG of people who looked for one kind."""

    epochs: mne.BaseEpochs
    latents: pd.DataFrame
    images: dict[str, np.ndarray]
    judged: pd.Series


def _faces(folder: Path, result: Result, generator: Generator, measure: Judge, seed: int) -> None:
    oddball = _simulate_oddball(generator, measure, seed)
    shown_to_f, shown_later = _halves(oddball)
    settings = {"target": TARGET, "space": SPACE, "name": ATTRIBUTE, "seed": seed}
    found = find_direction(oddball.epochs, oddball.latents, generator, **settings)
    by_f = _direction_by_f(oddball, shown_to_f, shown_later, generator, seed)
    arms = {"explicit": found.explicit, "others": {"by F": by_f}, "seed": seed}
    compared = compare_arms(found.direction, found.shuffled, generator, JUDGE, **arms)
    found = replace(found, comparison=compared)
    result.sections.append(_faces_section(oddball, generator, measure))
    sections = direction_sections(found, oddball.epochs, generator, target=TARGET)
    arms_told = next(
        section for section in sections if section.table and section.table[0][-1] == "selectivity"
    )
    arms_told.text = [*arms_told.text, SAME_JUDGE]
    sections.append(compatibility_section(by_f, found.direction, generator))
    result.sections += sections
    change = compared.matched("step", float(compared.steps[-1]))["change"]
    result.figures["relevance_auc"] = found.auc.value
    result.figures["change_at_3_sd"] = change.to_dict()
    result.figures["cosine_to_labels"] = {
        "relevance": float(found.direction.vector @ found.explicit.vector),
        "compatibility": float(by_f.vector @ found.explicit.vector),
    }
    _save_faces(folder, oddball, [found.direction, found.control, by_f, found.explicit])


def _simulate_oddball(generator: Generator, measure: Judge, seed: int) -> _Oddball:
    z = generator.sample(N_FACES, space=SPACE, seed=seed)
    faces = torch.cat(list(generator.synthesize_batches(z, space=SPACE)))
    names = [f"faces/{i:04d}.png" for i in range(N_FACES)]
    judged = pd.Series(measure.score(faces).numpy().astype(float), index=names)
    target = judged > judged.median()
    rng = np.random.default_rng(seed)
    people = []
    for person in range(N_PEOPLE):
        order = rng.permutation(names)
        trials = pd.DataFrame(
            {
                "stimulus": order,
                "target": target[order].to_numpy(),
                "label": np.where(target[order], ATTRIBUTE, "other"),
                "subject": f"P{person + 1}",
                "run": np.arange(N_FACES) * 4 // N_FACES,
            }
        )
        people.append(simulate_oddball(trials, auc=AUC, sfreq=125.0, seed=seed + 100 + person).epochs)
    pixels = (faces.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    return _Oddball(
        epochs=mne.concatenate_epochs(people, verbose="error"),
        latents=pd.DataFrame(z.numpy(), index=names),
        images=dict(zip(names, pixels, strict=True)),
        judged=judged,
    )


def _halves(oddball: _Oddball) -> tuple[np.ndarray, np.ndarray]:
    """Trials of one half of the faces, which train F, and of the other, from which the direction comes."""
    first = set(list(oddball.images)[: N_FACES // 2])
    mask = oddball.epochs.metadata["stimulus"].isin(first).to_numpy()
    return np.flatnonzero(mask), np.flatnonzero(~mask)


def _direction_by_f(
    oddball: _Oddball, train: np.ndarray, later: np.ndarray, generator: Generator, seed: int
) -> Direction:
    dataset = PairedDataset(oddball.epochs, oddball.images).subset(train)
    model = train_joint(dataset, n_epochs=20, seed=seed)
    return compatibility_direction(
        model,
        generator,
        oddball.epochs[later],
        target=TARGET,
        space=SPACE,
        n_latents=800,
        n_gradients=64,
        seed=seed + 1,
        name=f"{ATTRIBUTE}, by F",
    )


def _faces_section(oddball: _Oddball, generator: Generator, measure: Judge) -> Section:
    from PIL import Image

    order = oddball.judged.sort_values().index
    rows = [
        np.concatenate([oddball.images[name] for name in part], axis=1) for part in (order[-10:], order[:10])
    ]
    sheet = Image.fromarray(np.concatenate(rows)).resize((960, 192), Image.Resampling.LANCZOS)
    return Section(
        "Faces, and people who look for one kind",
        [
            f"{N_PEOPLE} simulated people see the same {N_FACES} generated faces and look for a {ATTRIBUTE}. "
            f"Targets evoke a P300 of such an amplitude that a single trial is told apart with AUC {AUC}.",
            f"The faces come from the bundled generator. {generator.licence}",
            f"Which face is a target is said by a judge, {measure.source} {measure.limits}",
        ],
        pictures=[(sheet, f"Above: the ten that the judge calls most '{ATTRIBUTE}'; below: the ten least.")],
    )


def _save_faces(folder: Path, oddball: _Oddball, found: list[Direction]) -> None:
    (folder / "faces").mkdir()
    (folder / "directions").mkdir()
    oddball.epochs.save(folder / "faces" / "epochs-epo.fif", verbose="error")
    write_latents(oddball.latents, folder / "faces" / "latents.safetensors", space=SPACE)
    for direction in found:
        name = "".join(c if c.isalnum() else "_" for c in direction.name)
        direction.save(folder / "directions" / f"{name}.safetensors")
