"""Which part of a picture, which electrode, when: maps with their shuffled-EEG controls."""

import os
from dataclasses import dataclass
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import torch

from brainedit.datasets.paired import Picture
from brainedit.eeg import read_epochs
from brainedit.jobs.joint import stamp_of
from brainedit.joint import JointModel, load_joint
from brainedit.montage import read_montage
from brainedit.relevance import target_mask
from brainedit.report import Result, Section, check_out, is_simulated, result_folder
from saliency.image import multiscale_map, occlusion_map
from saliency.neural import neural_map
from saliency.plots import neural_figure, saliency_figure

N_CONTROLS = 100  # maps of other EEG beside each map; they cost next to nothing


@dataclass(frozen=True)
class PictureMaps:
    """A picture's map for its own EEG, the same for other EEG, and how the two compare.

    image : (3, h, w), 0 to 1, as the model saw it
    own : (h, w); controls : (k, h, w), each from as many trials of other pictures
    p : share of control maps whose largest |z| reaches the own map's, z by the other controls
    neural : (n_channels, n_times) integrated gradients of F
    """

    image: torch.Tensor
    own: np.ndarray
    controls: np.ndarray
    z: np.ndarray
    p: float
    neural: np.ndarray
    n_trials: int


def picture_maps(
    model: JointModel,
    epochs: mne.BaseEpochs,
    picture: Picture,
    own: np.ndarray,
    *,
    method: str = "occlusion",
    window: int = 48,
    stride: int = 16,
    n_controls: int = N_CONTROLS,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> PictureMaps:
    """Maps of one picture for the mean response to it, and for mean responses to other pictures.

    own : (n,) bool, the trials of this picture; the others serve as controls
    method : "occlusion" (one window) or "multiscale" (windows 17, 33, 65)
    """
    if not own.any():
        raise ValueError("No trial was chosen for this picture; choose at least one.")
    if (~own).sum() < own.sum():
        raise ValueError(
            f"The control needs as many other trials as own ones; there are {own.sum()} own and {(~own).sum()} others."
        )
    eeg = model.prepare_eeg(epochs)
    own = np.array(own, bool)  # a copy: pandas gives arrays that cannot be written to, which torch warns of
    responses = torch.stack([eeg[own].mean(0), *_control_means(eeg, epochs, own, n_controls, seed)])
    image = model.prepare_image(picture)
    score = model.score_images(responses)
    if method == "multiscale":
        maps = multiscale_map(score, image, batch_size=batch_size, progress=progress)
    else:
        maps = occlusion_map(
            score, image, window=window, stride=stride, batch_size=batch_size, progress=progress
        )
    maps = maps.cpu().numpy()
    z, p = _max_z(maps[0], maps[1:])
    neural = neural_map(model.score_eeg(image), responses[0], baseline=eeg[~own].mean(0))
    return PictureMaps(
        image=image.cpu(),
        own=maps[0],
        controls=maps[1:],
        z=z,
        p=p,
        neural=neural.cpu().numpy(),
        n_trials=int(own.sum()),
    )


def _control_means(
    eeg: torch.Tensor, epochs: mne.BaseEpochs, own: np.ndarray, n_controls: int, seed: int
) -> list[torch.Tensor]:
    """Mean responses to other pictures: one picture each where they have enough repeats, else any trials."""
    rng = np.random.default_rng(seed)
    n, others = int(own.sum()), np.flatnonzero(~own)
    pools = [others]
    if "stimulus" in epochs.metadata:
        names = epochs.metadata["stimulus"].to_numpy()
        groups = [others[names[others] == name] for name in pd.unique(names[others])]
        pools = [group for group in groups if len(group) >= n] or pools
    drawn = [pools[i % len(pools)] for i in rng.permutation(max(n_controls, len(pools)))[:n_controls]]
    return [eeg[rng.choice(pool, n, replace=False)].mean(0) for pool in drawn]


def _max_z(own: np.ndarray, controls: np.ndarray) -> tuple[np.ndarray, float]:
    """Per-pixel z of the own map by the controls, and the p of its largest |z| by the controls' own."""
    mean, std = controls.mean(0), controls.std(0, ddof=1) + 1e-12
    z = (own - mean) / std
    n = len(controls)
    left_out_mean = (n * mean - controls) / (n - 1)
    variance = (((n - 1) * std**2) - (controls - mean) ** 2 * n / (n - 1)) / (n - 2)
    null = np.abs((controls - left_out_mean) / np.sqrt(np.maximum(variance, 1e-24))).max((1, 2))
    return z, float((1 + (null >= np.abs(z).max()).sum()) / (1 + n))


def map_picture(
    model: str | Path,
    epochs: str | Path,
    image: str | Path,
    out: str | Path,
    *,
    trials: str | None = None,
    method: str = "occlusion",
    window: int = 48,
    stride: int = 16,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Which part of a picture the response answers to -> OUT with maps, controls, report.

    trials : query on the metadata that chooses the responses to this picture; by default those whose
        `stimulus` is the picture's name
    method, window, stride : see `picture_maps`; pixels at the model's input size
    """
    check_out(out, overwrite=overwrite)
    joint, recording = load_joint(model), read_epochs(epochs)
    own = target_mask(recording.metadata, trials) if trials else trials_of(recording, image)
    maps = picture_maps(joint, recording, image, own, method=method, window=window, stride=stride, seed=seed)
    result = Result(
        job="saliency",
        title="What the response answers to",
        lead=f"{Path(image).name}, from the mean of {maps.n_trials} trials.",
        settings={"trials": trials, "method": method, "window": window, "stride": stride, "seed": seed},
        inputs={"model": model, "epochs": epochs, "image": image},
        figures={"p_max": maps.p, "n_trials": maps.n_trials, "n_controls": len(maps.controls)},
        simulated=is_simulated(recording.metadata),
        stamp=stamp_of(joint),
    )
    if set(recording.metadata.get("stimulus", [])) & set(joint.card["training"]["stimuli"]):
        result.warnings.append(
            "Some of these pictures trained the model; a map of one may show what it memorised."
        )
    result.sections += saliency_sections(joint, maps)
    with result_folder(out, overwrite=overwrite) as folder:
        np.save(folder / "map.npy", maps.own)
        np.save(folder / "control_maps.npy", maps.controls.astype(np.float16))
        np.save(folder / "neural_map.npy", maps.neural)
        result.sections[0].pictures[0][0].savefig(folder / "saliency.png", dpi=150)
        result.write(folder)
    return Path(out)


def trials_of(epochs: mne.BaseEpochs, image: str | Path) -> np.ndarray:
    """Which trials showed this picture: their `stimulus` is its name, or the end of its path."""
    if epochs.metadata is None or "stimulus" not in epochs.metadata:
        raise ValueError(
            "The epochs do not name their pictures; choose trials by a query, e.g. \"label == 'face'\"."
        )
    names = epochs.metadata["stimulus"].astype(str)
    path = Path(os.path.abspath(image)).as_posix()  # links are kept: DataLad's lead to other names
    own = names.map(lambda name: path == name or path.endswith("/" + name)).to_numpy()
    if not own.any():
        raise ValueError(
            f"No trial has the stimulus {Path(image).name!r} (the first is {names.iloc[0]!r}); choose trials by a "
            "query on the metadata."
        )
    return own


def saliency_sections(model: JointModel, maps: PictureMaps, *, box: tuple | None = None) -> list[Section]:
    """Picture, map, shuffled-EEG map; then electrodes and times."""
    figure = saliency_figure(maps.image, maps.own, maps.controls[0], box=box, unit="F")
    brain = neural_figure(maps.neural, model_info(model), model.eeg_input.settings["tmin"], unit="F")
    caption = (
        "F of the clean picture less F with a square covered. Warm: covering it lowers the fit to the response. "
        "Right: the same for responses to another picture, on the same scale."
    )
    return [
        Section(
            "Which part of the picture",
            [
                f"{map_verdict(maps)} Largest |z| against {len(maps.controls)} maps of other EEG: p = {maps.p:.3f}."
            ],
            pictures=[(figure, caption)],
        ),
        Section(
            "Which electrode, when",
            pictures=[
                (brain, "Integrated gradients of F with this picture, from the mean of the other trials.")
            ],
        ),
    ]


def map_verdict(maps: PictureMaps) -> str:
    """One sentence: is this map unlike those that other responses give for the same picture?"""
    if maps.p < 0.05:
        return "The map differs from those that other responses give for this picture."
    return "By itself this map cannot be told from those that other responses give for this picture."


def model_info(model: JointModel) -> mne.Info:
    """The model's channels with standard positions where their names have one."""
    info = mne.create_info(
        model.eeg_input.channels, model.eeg_input.settings["sfreq"], "eeg", verbose="error"
    )
    info.set_montage(read_montage(), match_case=False, on_missing="ignore", verbose="error")
    return info
