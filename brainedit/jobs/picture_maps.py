"""Maps of one picture: for its own EEG, for other EEG, and for what should not give the same map."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import mne
import numpy as np
import torch
from torch import Tensor, nn

from brainedit._check import pick
from brainedit.datasets.paired import Picture
from brainedit.encoders.image import ReadyFeatures
from brainedit.jobs.map_trials import N_CONTROLS, mean_responses
from brainedit.joint import JointModel, load_joint
from saliency.gradients import gradient_map
from saliency.image import multiscale_map, occlusion_map
from saliency.neural import kept_windows
from saliency.rise import rise_map
from saliency.sanity import SanityCheck, map_z, randomised, sanity_checks

N_RANDOM = 10  # random vectors in place of phi
N_ENCODERS = 3  # EEG encoders with random weights
GREY = 0.5  # what covers a part of the picture, and what integrated gradients start from

Maker = Callable[[nn.Module, Tensor], Tensor]
Twin = JointModel | str  # a model trained on permuted pairs, or why there is none


@dataclass(frozen=True)
class PictureMaps:
    """A picture's map for its own EEG, the same for other EEG, and how it compares.

    image : (3, h, w), 0 to 1, as the model saw it
    own : (h, w); controls : (k, h, w), each from as many trials, see `mean_responses`
    shuffled : (h, w), from as many trials of other pictures alone
    z, p : of `saliency.sanity.map_z`
    checks : what the map was compared with, and what could not be
    windows : (start, stop) in s of the response; window_maps, window_controls : (n_windows, h, w), where all
        else of the response to this picture (to another one) is replaced by the mean of the other trials
    permuted : whether the controls are sets of all trials, own ones included; else of one other picture each
    """

    image: Tensor
    own: np.ndarray
    controls: np.ndarray
    shuffled: np.ndarray
    z: np.ndarray
    p: float
    checks: list[SanityCheck]
    windows: tuple[tuple[float, float], ...]
    window_maps: np.ndarray
    window_controls: np.ndarray
    n_trials: int
    permuted: bool


def picture_maps(
    model: JointModel,
    epochs: mne.BaseEpochs,
    picture: Picture,
    own: np.ndarray,
    *,
    method: str = "occlusion",
    window: int = 48,
    stride: int = 16,
    n_masks: int = 2000,
    n_controls: int = N_CONTROLS,
    twin: Twin = "No twin was given.",
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> PictureMaps:
    """Maps of one picture for the mean response to it, for mean responses to other pictures, and for stand-ins.

    own : (n,) bool, the trials of this picture
    method : "occlusion" (one window), "multiscale" (windows 17, 33, 65), "rise", "gradient" (integrated gradients)
        or "gradcam" (signed); all vectors that one image network is compared with share one pass
    window, stride : of "occlusion", pixels at the model's input size; n_masks : of "rise"
    twin : the model trained on permuted pairs, see `find_twin`

    Raises ValueError for trials, a picture or settings that do not fit.
    """
    drawn = map_maker(
        method,
        window=window,
        stride=stride,
        n_masks=n_masks,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    image, eeg = prepare_picture(model, picture), model.prepare_eeg(epochs)
    responses = mean_responses(eeg, epochs, own, n_controls=n_controls, seed=seed)
    windows = successive_windows(model)
    with torch.no_grad():
        vectors = {
            "own": model.embed_eeg(responses.own[None]),
            "controls": model.embed_eeg(responses.controls),
            "others": model.embed_eeg(responses.others),
            "windows": model.embed_eeg(_windows(model, responses.own, responses.rest, windows)),
            "windows_control": model.embed_eeg(_windows(model, responses.others[0], responses.rest, windows)),
            **stand_ins(model, responses.own[None], responses.rest[None], seed=seed),
        }
        twins = twin_vectors(twin, epochs, [np.flatnonzero(own)])
        maps = NamedScore(model, vectors, twins).maps(drawn, image)
        random_image = _random_image_encoder(drawn, model, vectors, image, seed=seed)
    alternatives = {name: maps[name] for name in (*STAND_INS, "permuted_training") if name in maps}
    alternatives |= {"other_eeg": maps["others"]} | random_image
    alternatives |= {"permuted_training": twin} if isinstance(twin, str) else {}
    z, p = map_z(maps["own"][0], maps["controls"])
    return PictureMaps(
        image=image.cpu(),
        own=maps["own"][0],
        controls=maps["controls"],
        shuffled=maps["others"][0],
        z=z,
        p=p,
        checks=sanity_checks(maps["own"][0], alternatives, image.cpu()),
        windows=windows,
        window_maps=maps["windows"],
        window_controls=maps["windows_control"],
        n_trials=int(np.sum(own)),
        permuted=responses.permuted,
    )


def map_maker(
    method: str,
    *,
    window: int = 48,
    stride: int = 16,
    n_masks: int = 2000,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> Maker:
    """What draws maps (k, h, w) of a score (n, k) and a picture (3, h, w) by a method of `picture_maps`."""
    way = pick("method", method, METHODS)
    settings = {"window": window, "stride": stride, "n_masks": n_masks, "seed": seed}
    return lambda score, image: way(score, image, **settings, batch_size=batch_size, progress=progress)


def prepare_picture(model: JointModel, picture: Picture) -> Tensor:
    """The picture as the model sees it, (3, h, w); raises ValueError for a model that sees features only."""
    if isinstance(model.image_encoder, ReadyFeatures):
        raise ValueError(
            "This model was trained on ready-made features and sees no pictures; train one with an image encoder."
        )
    return model.prepare_image(picture)


def successive_windows(model: JointModel) -> tuple[tuple[float, float], ...]:
    """Windows (start, stop), s, side by side from the picture's onset to the end of the model's trials."""
    settings = model.eeg_input.settings
    start = max(0.0, settings["tmin"])
    stop = settings["tmin"] + settings["n_times"] / settings["sfreq"]
    n = int(np.clip((stop - start) / 0.1 + 1e-6, 1, 8))
    edges = np.linspace(start, stop, n + 1)
    return tuple((float(a), float(b)) for a, b in pairwise(edges))


def find_twin(folder: str | Path, model: JointModel) -> Twin:
    """The model beside (or in) a model's folder that was trained on permuted pairs, or a sentence why there is none."""
    if model.card["training"].get("permuted_pairs"):
        return "This model itself was trained on permuted pairs."
    folder = Path(folder)
    places = [folder.absolute().parent / "model_permuted", folder / "model_permuted"]
    found = [place for place in places if (place / "model.json").is_file()]
    if not found:
        return "No model_permuted lies beside the model; `brainedit train joint` trains one."
    twin = load_joint(found[0])
    if not twin.card["training"].get("permuted_pairs"):
        return "The model in model_permuted was not trained on permuted pairs."
    same = ("eeg_input", "image_encoder")
    stimuli = [set(card["training"]["stimuli"]) for card in (twin.card, model.card)]
    if stimuli[0] != stimuli[1] or any(twin.card[part] != model.card[part] for part in same):
        return "The model in model_permuted was trained on other data than this one."
    return twin


# what stands in for the response's embedding


STAND_INS = ("mean_eeg", "constant_vector", "random_vector", "random_eeg_encoder")


def stand_ins(model: JointModel, own: Tensor, rest: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Vectors (k, n_dims) that lack what should matter, at the length of phi.

    own, rest : (n, n_channels, n_times), mean responses to n pictures, and means of all other trials

    "mean_eeg" has n; "constant_vector" 1; "random_vector" 10; "random_eeg_encoder" n of each encoder in turn.
    """
    phi = model.embed_eeg(own)
    encoders = [_without_eeg_encoder(model, seed + i) for i in range(N_ENCODERS)]
    return {
        "mean_eeg": model.embed_eeg(rest),
        "constant_vector": _like(phi, torch.ones(1, phi.shape[1]), model),
        "random_vector": _like(phi, _normal(N_RANDOM, phi.shape[1], seed), model),
        "random_eeg_encoder": torch.cat([encoder.embed_eeg(own) for encoder in encoders]),
    }


def twin_vectors(
    twin: Twin, epochs: mne.BaseEpochs, trials: Sequence[np.ndarray]
) -> tuple[JointModel, Tensor] | None:
    """The twin and its vectors (n, n_dims) for the mean responses over n sets of trials; None without a twin."""
    if isinstance(twin, str):
        return None
    eeg = twin.prepare_eeg(epochs)
    return twin, twin.embed_eeg(torch.stack([eeg[some].mean(0) for some in trials]))


class NamedScore(nn.Module):
    """A score of pictures against named vectors, and those of a twin with the same image network: one pass for all.

    vectors : name to (k, n_dims)
    twin : a model whose projector alone differs, and its vectors, or None; they are called "permuted_training"
    """

    def __init__(
        self, model: JointModel, vectors: Mapping[str, Tensor], twin: tuple[JointModel, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.sizes = {name: len(some) for name, some in vectors.items()}
        self.encoder = model.image_encoder
        self.score = model.score_embeddings(torch.cat(list(vectors.values())))
        self.twin = None if twin is None else twin[0].score_embeddings(twin[1])
        if twin is not None:
            self.sizes["permuted_training"] = len(twin[1])

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, k)"""
        features = self.encoder(image)
        parts = [part for part in (self.score, self.twin) if part is not None]
        return torch.cat([part.model.towers.embed_features(features) @ part.embedding.T for part in parts], 1)

    def maps(self, drawn: Maker, image: Tensor) -> dict[str, np.ndarray]:
        """The picture's maps (k, h, w) for each name's vectors."""
        parts = drawn(self.eval(), image).cpu().split(list(self.sizes.values()))
        return {name: part.numpy() for name, part in zip(self.sizes, parts, strict=True)}


def _windows(model: JointModel, response: Tensor, rest: Tensor, windows: Sequence[tuple]) -> Tensor:
    settings = model.eeg_input.settings
    timing = {"sfreq": settings["sfreq"], "tmin": settings["tmin"]}
    return kept_windows(response, windows, **timing, baseline=rest, taper=min(0.02, 1 / settings["sfreq"]))


def _like(phi: Tensor, vectors: Tensor, model: JointModel) -> Tensor:
    """Vectors at phi's mean length; where F is by distance the last number of phi stays."""
    n = phi.shape[1] - (model.towers.normalize == "distance")
    free = vectors.to(phi)[:, :n]
    scaled = free * (phi[:, :n].norm(dim=1).mean() / free.norm(dim=1, keepdim=True))
    return torch.cat([scaled, phi[:1, n:].expand(len(scaled), -1)], 1)


def _normal(k: int, n: int, seed: int) -> Tensor:
    return torch.randn(k, n, generator=torch.Generator().manual_seed(seed))


def _without_eeg_encoder(model: JointModel, seed: int) -> JointModel:
    parts = ["towers.eeg"] + ["towers.people"] * (model.towers.people is not None)
    return randomised(model, parts=parts, seed=seed)


def _random_image_encoder(
    drawn: Maker, model: JointModel, vectors: Mapping[str, Tensor], image: Tensor, *, seed: int
) -> dict[str, np.ndarray | str]:
    """Maps by an image encoder with random weights: for the response itself, and with a random EEG encoder."""
    forgot = randomised(model, parts=["image_encoder", "towers.image"], seed=seed)
    compared = {"random_image_encoder": vectors["own"], "random_model": vectors["random_eeg_encoder"]}
    if not bool(torch.isfinite(forgot.embed_image(image[None])).all()):
        return dict.fromkeys(compared, "The image encoder with random weights gave no finite embedding.")
    return NamedScore(forgot, compared).maps(drawn, image)


# methods by name


def _occlusion(
    score: nn.Module, image: Tensor, *, window: int, stride: int, batch_size: int, progress: bool, **_: object
) -> Tensor:
    settings = {"batch_size": batch_size, "progress": progress}
    return occlusion_map(score, image, window=window, stride=stride, fill=GREY, **settings)


def _multiscale(score: nn.Module, image: Tensor, *, batch_size: int, progress: bool, **_: object) -> Tensor:
    return multiscale_map(score, image, fill=GREY, batch_size=batch_size, progress=progress)


def _rise(
    score: nn.Module,
    image: Tensor,
    *,
    n_masks: int,
    batch_size: int,
    seed: int,
    progress: bool,
    **_: object,
) -> Tensor:
    settings = {"batch_size": batch_size, "seed": seed, "progress": progress}
    return rise_map(score, image, n_masks=n_masks, fill=GREY, **settings)


def _gradient(score: nn.Module, image: Tensor, *, batch_size: int, progress: bool, **_: object) -> Tensor:
    settings = {"n_steps": 30, "batch_size": min(batch_size, 8), "progress": progress}
    return gradient_map(score, image, baseline=GREY, **settings)


def _gradcam(score: nn.Module, image: Tensor, *, batch_size: int, **_: object) -> Tensor:
    return gradient_map(score, image, method="gradcam", relu=False, batch_size=batch_size)


METHODS = {
    "occlusion": _occlusion,
    "multiscale": _multiscale,
    "rise": _rise,
    "gradient": _gradient,
    "gradcam": _gradcam,
}
