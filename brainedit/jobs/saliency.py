"""Which part of a picture, which electrode, when: maps, and whether they come from the EEG."""

from dataclasses import dataclass
from pathlib import Path

import mne
import numpy as np

from brainedit._check import pick
from brainedit.eeg import read_epochs
from brainedit.jobs.brain_maps import BrainMaps, brain_maps
from brainedit.jobs.joint import stamp_of
from brainedit.jobs.map_dependence import (
    N_PICTURES,
    N_SLOW,
    MapDependence,
    Sources,
    dependence_sources,
    find_pictures,
    picture_dependence,
)
from brainedit.jobs.map_trials import ends_with, memorised, stimuli_of
from brainedit.jobs.picture_maps import (
    GREY,
    METHODS,
    PictureMaps,
    Twin,
    find_twin,
    map_maker,
    picture_maps,
)
from brainedit.jobs.saliency_sections import PICTURE, map_sections, verdict_of
from brainedit.joint import JointModel, load_joint
from brainedit.relevance import metadata_of, target_mask
from brainedit.report import Result, check_out, is_simulated, result_folder
from saliency.faithfulness import Faithfulness, deletion_insertion
from saliency.sanity import SanityCheck

MADE_ON_SIMULATED = "The model was trained on simulated EEG."
PERMUTED = "This model was trained on pictures and responses paired at random; its maps are controls."


@dataclass(frozen=True)
class Explained:
    """All that is known of one picture's map: its dependence on the EEG, the brain's side, its faithfulness."""

    maps: PictureMaps
    dependence: MapDependence
    brain: BrainMaps
    faithfulness: Faithfulness


def map_picture(
    model: str | Path,
    epochs: str | Path,
    image: str | Path,
    out: str | Path,
    *,
    trials: str | None = None,
    images: str | Path | None = None,
    method: str = "occlusion",
    window: int = 48,
    stride: int = 16,
    n_masks: int = 2000,
    n_pictures: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Which part of a picture the response answers to, and whether that comes from the EEG -> OUT.

    trials : query on the metadata that chooses the responses to this picture; by default those whose
        `stimulus` is the picture's name
    images : folder of the recording's other pictures, for the EEG-dependence D; by default the one in which this
        picture's path ends with its stimulus
    method, window, stride, n_masks : see `picture_maps`; pixels at the model's input size
    n_pictures : D is measured on at most so many, drawn by seed; None: 24, or 8 for methods that take minutes a
        picture; below 4 there is no D
    """
    check_out(out, overwrite=overwrite)
    pick("method", method, METHODS)
    if n_pictures is not None and n_pictures < 0:
        raise ValueError(f"Need 0 or more pictures for D, got {n_pictures}; 0 leaves it out.")
    joint, recording = load_joint(model), read_epochs(epochs)
    own = target_mask(metadata_of(recording), trials) if trials else trials_of(recording, image)
    pictures = find_pictures(recording, image, images=images)
    n_most = N_PICTURES.get(method, N_SLOW) if n_pictures is None else n_pictures
    sources = dependence_sources(joint, recording, pictures, own, image, n_most=n_most, seed=seed)
    settings = {"method": method, "window": window, "stride": stride, "n_masks": n_masks, "seed": seed}
    twin = find_twin(model, joint)
    found = explain_picture(joint, recording, image, own, sources, twin=twin, **settings)
    result = _result(joint, recording, found, name=Path(image).name)
    result.warnings += memorised(joint, recording, own, image)
    result.settings = {"trials": trials, "fill": GREY, "n_pictures": len(sources), **settings}
    result.inputs = {"model": model, "epochs": epochs, "image": image}
    with result_folder(out, overwrite=overwrite) as folder:
        _save_arrays(folder, found)
        _figure_of(result, PICTURE).savefig(folder / "saliency.png", dpi=150)
        result.write(folder)
    return Path(out)


def explain_picture(
    model: JointModel,
    epochs: mne.BaseEpochs,
    image: str | Path | np.ndarray,
    own: np.ndarray,
    sources: Sources,
    *,
    twin: Twin = "No twin was given.",
    method: str = "occlusion",
    window: int = 48,
    stride: int = 16,
    n_masks: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> Explained:
    """Maps of a picture, D over the sources' pictures, neural and band maps, deletion and insertion.

    own : (n,) bool, the trials of this picture; sources : of `dependence_sources`
    twin : the model trained on permuted pairs, see `find_twin`
    method, window, stride, n_masks : see `picture_maps`
    """
    settings = {
        "method": method,
        "window": window,
        "stride": stride,
        "n_masks": n_masks,
        "seed": seed,
    }
    maps = picture_maps(model, epochs, image, own, **settings, twin=twin, progress=progress)
    maker = map_maker(**settings)
    dependence = picture_dependence(model, epochs, sources, maker, twin=twin, seed=seed, progress=progress)
    brain = brain_maps(model, epochs, maps.image, own, sources, seed=seed)
    faithfulness = _faithfulness(model, epochs, maps, own, seed=seed, progress=progress)
    return Explained(maps, dependence, brain, faithfulness)


def trials_of(epochs: mne.BaseEpochs, image: str | Path) -> np.ndarray:
    """Which trials showed this picture: their `stimulus` is its name, or the end of its path."""
    names = stimuli_of(epochs)
    if names is None:
        raise ValueError(
            "The epochs do not name their pictures; choose trials by a query, e.g. \"label == 'face'\"."
        )
    own = np.array([name != "" and ends_with(image, name) for name in names], bool)
    if not own.any():
        first = names[names != ""][0]
        raise ValueError(
            f"No trial has the stimulus {Path(image).name!r} (the first is {first!r}); choose trials by a "
            "query on the metadata."
        )
    return own


def map_figures(found: Explained) -> dict:
    """What of all this goes into result.json."""
    maps, clusters = found.maps, found.brain.clusters
    return {
        "verdict": verdict_of(maps, found.dependence),
        "dependence": _dependence_figures(found.dependence),
        "p_max": maps.p,
        "n_trials": maps.n_trials,
        "n_controls": len(maps.controls),
        "controls": "sets of all trials" if maps.permuted else "one other picture each",
        "sanity": {check.name: _check_figures(check) for check in maps.checks},
        "sanity_of_pictures": {check.name: _check_figures(check) for check in found.dependence.checks},
        "clusters": {"tested": found.brain.tested}
        | ({} if clusters is None else {"p": clusters.p[clusters.p <= clusters.alpha]}),
        "faithfulness": found.faithfulness.table().to_dict("index"),
    }


def _dependence_figures(dependence: MapDependence) -> dict:
    result = dependence.result
    if result is None:
        return {"why_not": dependence.why_not, "unread": dependence.unread}
    named = ("ci", "p", "null_interval", "n_pictures", "match", "match_p", "r_own", "r_other")
    by_picture = dict(zip(dependence.names, result.by_picture.tolist(), strict=True))
    about = {"of_this_picture": dependence.mapped, "where": dependence.where, "unread": dependence.unread}
    return (
        {"D": result.value}
        | about
        | {name: getattr(result, name) for name in named}
        | {"by_picture": by_picture}
    )


def _check_figures(check: SanityCheck) -> dict:
    return {"r": check.r, "r_abs": check.r_abs} if check.ran else {"why_not": check.why_not}


def _result(joint: JointModel, recording: mne.BaseEpochs, found: Explained, *, name: str) -> Result:
    maps = found.maps
    result = Result(
        job="saliency",
        title="What the response answers to",
        lead=verdict_of(maps, found.dependence),
        figures=map_figures(found),
        simulated=recording.metadata is not None and is_simulated(recording.metadata),
        stamp=stamp_of(joint),
    )
    trained = joint.card["training"]
    if trained["simulated"] and not result.simulated:
        result.warnings.append(MADE_ON_SIMULATED)
    if trained.get("permuted_pairs"):
        result.warnings.append(PERMUTED)
    result.sections += map_sections(joint, found, name=name)
    return result


def _faithfulness(
    model: JointModel,
    epochs: mne.BaseEpochs,
    maps: PictureMaps,
    own: np.ndarray,
    *,
    seed: int,
    progress: bool,
) -> Faithfulness:
    """Few steps and orders: each is a whole pass through the image network."""
    score = model.score_images(model.prepare_eeg(epochs)[np.array(own, bool)].mean(0, keepdim=True))
    settings = {"n_steps": 15, "n_random": 5, "seed": seed, "progress": progress}
    image = maps.image.to(model.device)
    return deletion_insertion(lambda batch: score(batch)[:, 0], image, maps.own, **settings)


def _save_arrays(folder: Path, found: Explained) -> None:
    np.save(folder / "map.npy", found.maps.own)
    np.save(folder / "z.npy", found.maps.z)
    np.save(folder / "control_maps.npy", found.maps.controls.astype(np.float16))
    np.save(folder / "neural_map.npy", found.brain.neural)
    if found.dependence.result is not None:
        np.save(folder / "half_correlations.npy", found.dependence.correlations)


def _figure_of(result: Result, title: str):
    return next(section.pictures[0][0] for section in result.sections if section.title == title)
