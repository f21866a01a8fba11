"""The joint model: two encoders and the compatibility F(e, v) = phi(e)^T theta(v)."""

import hashlib
import json
import logging
import math
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path

import mne
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from brainedit._check import pick
from brainedit.datasets.paired import Picture
from brainedit.eeg_input import CHUNK, EEGInput
from brainedit.encoders.eeg import PersonInput, make_eeg_encoder
from brainedit.encoders.features import image_features
from brainedit.encoders.image import ImageEncoder, ReadyFeatures, make_image_encoder, picture_tensor, resize

logger = logging.getLogger(__name__)


FORMAT = "brainedit joint model 2"
NORMALIZE = ("both", "image", "none", "distance")


class Towers(nn.Module):
    """All that is trained: people's input layers, the EEG encoder, the projector of image features, the scale.

    people : one linear map over channels a person, or None
    normalize : which embeddings have unit length, see `train_joint`; "distance" gives them a dimension more, 1
        beside phi and -|theta|^2 / 2 beside theta, so that F orders pictures by their distance from phi
    layer_sizes : lengths of the parts of the features that come from different layers of the image network
    scale : fixes what F is multiplied by; None learns it (normalize "both" starts at e^2, else at 1)
    """

    def __init__(
        self,
        eeg: nn.Module,
        layer_sizes: list[int],
        n_dims: int,
        *,
        normalize: str,
        people: PersonInput | None = None,
        feature_dropout: float = 0.0,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.normalize = pick("normalize", normalize, {name: name for name in NORMALIZE})
        self.people = people
        self.eeg = eeg
        self.layer_sizes = layer_sizes
        self.drop = nn.Dropout(feature_dropout)
        self.image = nn.Linear(sum(layer_sizes), n_dims)
        start = (2.0 if normalize == "both" else 0.0) if scale is None else math.log(scale)
        self.log_scale = nn.Parameter(torch.tensor(start), requires_grad=scale is None)
        self.register_buffer("feature_mean", torch.zeros(sum(layer_sizes)))
        self.register_buffer("feature_scale", torch.ones(sum(layer_sizes)))

    def set_feature_statistics(self, features: Tensor) -> None:
        """Centre features on the training pictures' and give those of one layer one common scale.

        Not one scale each: a feature that hardly varies over the training pictures would then decide what
        F says of an occluded or a new one.
        """
        self.feature_mean.copy_(features.mean(0))
        spread = features.std(0, correction=0).split(self.layer_sizes)
        self.feature_scale.copy_(torch.cat([s.mean().clamp(min=1e-6).expand(len(s)) for s in spread]))

    def embed_eeg(self, eeg: Tensor, person: Tensor | None = None) -> Tensor:
        """phi of whitened EEG; person : (n,) rows of `people`, None for the mean of their maps."""
        phi = self.eeg(eeg if self.people is None else self.people(eeg, person))
        if self.normalize == "distance":
            return torch.cat([phi, phi.new_ones(len(phi), 1)], 1)
        return nn.functional.normalize(phi, dim=1) if self.normalize == "both" else phi

    def embed_features(self, features: Tensor) -> Tensor:
        standard = (features - self.feature_mean) / self.feature_scale
        theta = self.image(self.drop(standard))
        if self.normalize in ("both", "image"):
            theta = nn.functional.normalize(theta, dim=1)
        elif self.normalize == "distance":
            theta = torch.cat([theta, -0.5 * theta.square().sum(1, keepdim=True)], 1)
        return theta * self.log_scale.exp()

    def forward(self, eeg: Tensor, features: Tensor, person: Tensor | None = None) -> Tensor:
        """F for every pair, (n, m)."""
        return self.embed_eeg(eeg, person) @ self.embed_features(features).T


class JointModel(nn.Module):
    """phi and theta with everything that must travel with them: channels, whitening, picture size.

    F(e, v) is `compatibility`; larger means that the response fits the picture better. Differences of F
    mean something, its zero does not.
    """

    def __init__(
        self, eeg_input: EEGInput, towers: Towers, image_encoder: ImageEncoder | ReadyFeatures, card: dict
    ) -> None:
        super().__init__()
        self.eeg_input = eeg_input
        self.towers = towers
        self.image_encoder = image_encoder
        self.card = card
        self.register_buffer("sketches", torch.zeros(0, 8))
        self.eval()

    def prepare_eeg(self, epochs: mne.BaseEpochs) -> Tensor:
        """Epochs -> (n, n_channels, n_times) volts, in the model's channel order, rate and window.

        Raises ValueError that lists what the recording lacks.
        """
        return self.eeg_input.prepare(epochs).to(self.device)

    def prepare_image(self, picture: Picture) -> Tensor:
        """A file or array -> (3, size, size) in 0 to 1; the whole picture is resized, nothing is cropped.

        A model of ready-made features takes those, (n_features,), as they are.
        """
        if isinstance(self.image_encoder, ReadyFeatures):
            return image_features(self.image_encoder, {"this picture": np.asarray(picture)})[0].to(
                self.device
            )
        return picture_tensor(picture, size=self.image_encoder.size).to(self.device)

    def resize_image(self, images: Tensor) -> Tensor:
        """Images (n, 3, h, w) in 0 to 1 of any size -> the model's size; differentiable."""
        return resize(images, size=self.image_encoder.size)

    @property
    def device(self) -> torch.device:
        return self.sketches.device

    def embed_eeg(self, eeg: Tensor, *, subject: str | None = None) -> Tensor:
        """phi: prepared EEG (n, n_channels, n_times) in volts -> (n, n_dims).

        subject : whose input layer is used, where the model has one a person; None takes the mean of them
        """
        person = None
        if subject is not None and self.towers.people is None:
            raise ValueError("This model has no people's layers; leave subject out.")
        if subject is not None:
            rows = {name: row for row, name in enumerate(self.card["subjects"])}
            person = torch.full((len(eeg),), pick("subject", subject, rows), device=eeg.device)
        return self.towers.embed_eeg(self.eeg_input(eeg), person)

    def embed_epochs(self, epochs: mne.BaseEpochs, *, subject: str | None = None) -> Tensor:
        """phi of epochs, (n, n_dims), read and embedded a few thousand at a time; no gradients."""
        with torch.inference_mode():
            parts = (self.prepare_eeg(epochs[s : s + CHUNK]) for s in range(0, len(epochs), CHUNK))
            return torch.cat([self.embed_eeg(part, subject=subject) for part in parts])

    def embed_image(self, image: Tensor) -> Tensor:
        """theta: images (m, 3, size, size) in 0 to 1 -> (m, n_dims)."""
        return self.towers.embed_features(self.image_encoder(image))

    def embed_pictures(self, pictures: Mapping[str, Picture], *, progress: bool = False) -> Tensor:
        """theta of named pictures in their order, (m, n_dims), through the cache of features."""
        features = image_features(self.image_encoder, pictures, progress=progress)
        with torch.inference_mode():
            return self.towers.embed_features(features.to(self.device))

    def compatibility(self, eeg: Tensor, image: Tensor) -> Tensor:
        """F for every pair: prepared EEG (n, ...) and images (m, 3, size, size) -> (n, m)."""
        return self.embed_eeg(eeg) @ self.embed_image(image).T

    def score_images(self, eeg: Tensor) -> nn.Module:
        """A score of pictures for saliency: images (n, 3, size, size) -> (n, k), one column an epoch."""
        with torch.no_grad():
            return self.score_embeddings(self.embed_eeg(eeg))

    def score_embeddings(self, phi: Tensor) -> nn.Module:
        """A score of pictures against vectors in place of phi: images (n, 3, size, size) -> (n, k).

        phi : (k, n_dims), as `embed_eeg` gives them or anything that stands in for a response
        """
        n_dims = self.towers.image.out_features + (self.towers.normalize == "distance")
        if phi.ndim != 2 or phi.shape[1] != n_dims or len(phi) == 0:
            raise ValueError(f"Need vectors (k, {n_dims}) in place of phi, got shape {tuple(phi.shape)}.")
        return _ImageScore(self, phi.detach().to(self.device))

    def score_eeg(self, image: Tensor) -> nn.Module:
        """A score of responses for saliency: prepared EEG (n, ...) -> (n,), against one image (3, ...)."""
        with torch.no_grad():
            return _EEGScore(self, self.embed_image(image[None])[0])

    def check_unseen(self, epochs: mne.BaseEpochs) -> None:
        """Raises ValueError when any of these trials, or their pictures, trained the model.

        A direction fitted on the trials that trained F points along their noise.
        """
        names = set()
        if epochs.metadata is not None and "stimulus" in epochs.metadata:
            names = set(epochs.metadata["stimulus"].astype(str)) & set(self.card["training"]["stimuli"])
        if names:
            raise ValueError(
                f"{min(names)!r} and {len(names) - 1} more of these pictures trained the model; take trials of "
                "other pictures, or train a model without them."
            )
        self.check_unseen_trials(epochs)

    def check_unseen_trials(self, epochs: mne.BaseEpochs) -> None:
        """Raises ValueError when any of these trials trained the model; their pictures may have."""
        n_seen = int(self._seen(self.prepare_eeg(epochs)).sum())
        if n_seen:
            raise ValueError(
                f"{n_seen} of these {len(epochs)} trials trained the model; use trials that were held out."
            )

    def _seen(self, eeg: Tensor) -> np.ndarray:
        from scipy.spatial import cKDTree

        if len(self.sketches) == 0:
            return np.zeros(len(eeg), bool)
        distance, _ = cKDTree(self.sketches.cpu().numpy()).query(self.eeg_input.sketch(eeg))
        return distance < 0.02  # 16 bit files round by .01; two trials are a hundred times as far apart

    def save(self, path: str | Path) -> None:
        """Write a folder: model.safetensors and model.json; a frozen network's weights are not repeated.

        Weights of an image encoder that do not come with the installation are saved too.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        state = {k: v.contiguous().cpu() for k, v in self.state_dict().items() if self._is_saved(k)}
        save_file(state, path / "model.safetensors.partial")
        digest = hashlib.sha256((path / "model.safetensors.partial").read_bytes()).hexdigest()
        (path / "model.json.partial").write_text(json.dumps(self.card | {"sha256": digest}, indent=1))
        for name in ("model.safetensors", "model.json"):
            os.replace(path / f"{name}.partial", path / name)

    def _is_saved(self, key: str) -> bool:
        bundled = self.card["image_encoder"]["name"].startswith("efficientnet_lite0")
        bundled = bundled and self.card["image_encoder"]["weights"] == "pretrained"
        bundled = bundled or isinstance(self.image_encoder, ReadyFeatures)
        return not (bundled and key.startswith("image_encoder."))


def load_joint(path: str | Path, *, device: str = "cpu") -> JointModel:
    """The JointModel that was saved in a folder.

    Raises FileNotFoundError when there is none, ValueError when its files are damaged.
    """
    path = Path(path)
    if not (path / "model.json").is_file():
        raise FileNotFoundError(f"There is no model in {path}; a model is a folder with model.json.")
    try:
        card = json.loads((path / "model.json").read_text())
        if card.get("format") != FORMAT:
            raise ValueError(f"its format is {card.get('format')!r}, this version reads {FORMAT!r}")
        weights = (path / "model.safetensors").read_bytes()
        if hashlib.sha256(weights).hexdigest() != card["sha256"]:
            raise ValueError("its weights are not those that model.json describes")
        state = load_file(path / "model.safetensors")
        bundled = not any(key.startswith("image_encoder.") for key in state)
        encoder = _image_encoder(card, weights=card["image_encoder"]["weights"] if bundled else "random")
        model = assemble(card, EEGInput(card["eeg_input"]), encoder)
        model.sketches = torch.zeros_like(state["sketches"])
        missing = model.load_state_dict(state, strict=False)
        lost = [k for k in missing.missing_keys if model._is_saved(k)] + missing.unexpected_keys
        if lost:
            raise ValueError(f"{lost[0]} is missing or unknown")
        if bundled and encoder.sha256 != card["image_encoder"]["sha256"]:
            raise ValueError("its image encoder has other weights than when it was trained")
        encoder.sha256 = card["image_encoder"]["sha256"]
    except Exception as error:  # damaged JSON, safetensors and states fail in many ways
        reason = textwrap.shorten(str(error), 200)
        raise ValueError(f"The model in {path} cannot be read ({reason}); train or copy it again.") from error
    return model.to(device).eval()


def _image_encoder(card: dict, *, weights: str) -> ImageEncoder | ReadyFeatures:
    if card["image_encoder"]["name"] == "features":
        return ReadyFeatures(sum(card["layer_sizes"]))
    return make_image_encoder(card["image_encoder"]["name"], weights=weights)


def assemble(card: dict, eeg_input: EEGInput, image_encoder: ImageEncoder | ReadyFeatures) -> JointModel:
    """An untrained JointModel as its card describes it."""
    n_channels = len(eeg_input.channels)
    encoder = make_eeg_encoder(
        card["eeg_encoder"],
        n_channels=n_channels,
        n_times=eeg_input.n_times,
        n_dims=card["n_dims"],
        sfreq=eeg_input.settings["sfreq"],
        **card["encoder_options"],
    )
    towers = Towers(
        encoder,
        card["layer_sizes"],
        card["n_dims"],
        normalize=card["normalize"],
        people=PersonInput(n_channels, card["subjects"]) if card["subjects"] else None,
        feature_dropout=card["feature_dropout"],
        scale=card["scale"],
    )
    return JointModel(eeg_input, towers, image_encoder, card)


class _ImageScore(nn.Module):
    """Images (n, 3, size, size) -> F with each of k EEG embeddings, (n, k)."""

    def __init__(self, model: JointModel, embedding: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("embedding", embedding)  # (k, n_dims)

    def forward(self, image: Tensor) -> Tensor:
        return self.model.embed_image(image) @ self.embedding.T


class _EEGScore(nn.Module):
    """Prepared EEG (n, n_channels, n_times) -> F with one image's embedding, (n,)."""

    def __init__(self, model: JointModel, embedding: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("embedding", embedding)  # (n_dims,)

    def forward(self, eeg: Tensor) -> Tensor:
        return self.model.embed_eeg(eeg) @ self.embedding
