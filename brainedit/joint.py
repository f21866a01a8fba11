"""The joint embedding: two encoders and the compatibility F(e, v) = phi(e)^T theta(v)."""

import hashlib
import json
import logging
import os
import textwrap
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import mne
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from brainedit._check import pick
from brainedit.datasets.paired import PairedDataset, Picture
from brainedit.eeg_input import EEGInput
from brainedit.encoders.eeg import make_eeg_encoder
from brainedit.encoders.image import (
    ImageEncoder,
    image_features,
    make_image_encoder,
    picture_tensor,
    resize,
)
from brainedit.losses import LOSSES
from brainedit.training import fit

logger = logging.getLogger(__name__)


class Towers(nn.Module):
    """All that is trained: the EEG encoder, the projector of image features, the learned scale."""

    def __init__(
        self, eeg: nn.Module, n_features: int, n_dims: int, *, normalize: str, feature_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.normalize = pick("normalize", normalize, {name: name for name in ("both", "image", "none")})
        self.eeg = eeg
        self.drop = nn.Dropout(feature_dropout)
        self.image = nn.Linear(n_features, n_dims)
        self.log_scale = nn.Parameter(torch.tensor(2.0 if normalize == "both" else 0.0))
        self.register_buffer("feature_mean", torch.zeros(n_features))
        self.register_buffer("feature_scale", torch.ones(()))

    def set_feature_statistics(self, features: Tensor) -> None:
        """Centre features on the training pictures' and give them one common scale.

        Not one scale each: a feature that hardly varies over the training pictures would then decide what
        F says of an occluded or a new one.
        """
        self.feature_mean.copy_(features.mean(0))
        self.feature_scale.copy_(features.std(0, correction=0).mean().clamp(min=1e-6))

    def embed_eeg(self, eeg: Tensor) -> Tensor:
        phi = self.eeg(eeg)
        return nn.functional.normalize(phi, dim=1) if self.normalize == "both" else phi

    def embed_features(self, features: Tensor) -> Tensor:
        standard = (features - self.feature_mean) / self.feature_scale
        theta = self.image(self.drop(standard))
        theta = theta if self.normalize == "none" else nn.functional.normalize(theta, dim=1)
        return theta * self.log_scale.exp()

    def forward(self, eeg: Tensor, features: Tensor) -> Tensor:
        """F for every pair, (n, m)."""
        return self.embed_eeg(eeg) @ self.embed_features(features).T


class JointModel(nn.Module):
    """phi and theta with everything that must travel with them: channels, whitening, picture size.

    F(e, v) is `compatibility`; larger means that the response fits the picture better. Differences of F
    mean something, its zero does not.
    """

    def __init__(self, eeg_input: EEGInput, towers: Towers, image_encoder: ImageEncoder, card: dict) -> None:
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
        """A file or array -> (3, size, size) in 0 to 1; the whole picture is resized, nothing is cropped."""
        return picture_tensor(picture, size=self.image_encoder.size).to(self.device)

    def resize_image(self, images: Tensor) -> Tensor:
        """Images (n, 3, h, w) in 0 to 1 of any size -> the model's size; differentiable."""
        return resize(images, size=self.image_encoder.size)

    @property
    def device(self) -> torch.device:
        return self.sketches.device

    def embed_eeg(self, eeg: Tensor) -> Tensor:
        """phi: prepared EEG (n, n_channels, n_times) in volts -> (n, n_dims)."""
        return self.towers.embed_eeg(self.eeg_input(eeg))

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
            return _ImageScore(self, self.embed_eeg(eeg))

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
        weights = (path / "model.safetensors").read_bytes()
        if hashlib.sha256(weights).hexdigest() != card["sha256"]:
            raise ValueError("its weights are not those that model.json describes")
        state = load_file(path / "model.safetensors")
        bundled = not any(key.startswith("image_encoder.") for key in state)
        encoder = make_image_encoder(
            card["image_encoder"]["name"], weights=card["image_encoder"]["weights"] if bundled else "random"
        )
        model = _assemble(card, EEGInput(card["eeg_input"]), encoder)
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


def train_joint(
    dataset: PairedDataset,
    *,
    eeg_encoder: str = "eegproject",
    image_encoder: str = "efficientnet_lite0",
    image_weights: str = "pretrained",
    n_dims: int = 256,
    loss: str = "infonce",
    normalize: str = "both",
    channels: list[str] | None = None,
    tmin: float = 0.0,
    tmax: float = 0.8,
    sfreq: float = 50.0,
    whiten: str = "channels",
    average_repeats: bool = False,
    feature_dropout: float = 0.8,
    n_epochs: int = 40,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> JointModel:
    """Train phi and the projector of theta on paired trials; the image network stays frozen.

    The last epoch is the model: nothing is selected on any score.

    image_encoder : see `make_image_encoder`; its features are computed once and cached
    loss : "infonce", "triplet" (Palazzo et al. 2021, Eq. 2), "structured_hinge" (Reed et al. 2016)
    normalize : which embeddings have unit length: "both", "image", "none"
    tmin, tmax, sfreq, whiten, channels : see `EEGInput.fit`
    average_repeats : train on averages of a random number of repeats of a picture, so that one model
        serves single trials and averages; has no effect where trials are paired by label
    feature_dropout : share of image features silenced at random in training. The pictures are far fewer than
        the features, and without it the projector learns them by heart

    Raises ValueError for fewer than two stimuli or labels, NaN or flat channels, a loss that diverges.
    """
    keys = sorted(set(dataset.keys))
    if len(keys) < 2:
        things = {"stimulus": "stimuli", "label": "labels"}[dataset.pair_by]
        raise ValueError(f"Training needs two or more {things} to tell apart; all are {keys[0]!r}.")
    compare = pick("loss", loss, LOSSES)
    encoder = make_image_encoder(image_encoder, weights=image_weights).to(device)
    eeg_input = EEGInput.fit(
        dataset.epochs, dataset.keys, channels=channels, tmin=tmin, tmax=tmax, sfreq=sfreq, whiten=whiten
    )
    card = {
        "format": "brainedit joint model 1",
        "version": version("brainedit"),
        "eeg_encoder": eeg_encoder,
        "image_encoder": {"name": image_encoder, "weights": image_weights, "sha256": encoder.sha256},
        "n_features": encoder.n_features,
        "n_dims": n_dims,
        "normalize": normalize,
        "feature_dropout": feature_dropout,
        "eeg_input": eeg_input.settings,
        "training": _training_card(dataset, loss=loss, n_epochs=n_epochs, seed=seed),
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _assemble(card, eeg_input, encoder).to(device)
    batches = _Batches(model, dataset, batch_size=batch_size, average=average_repeats, progress=progress)
    history = fit(
        model.towers,
        lambda eeg, features, same: compare(model.towers(eeg, features), same),
        batches,
        n_epochs=n_epochs,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        seed=seed,
        identity=_identity(model, dataset, loss, batch_size, average_repeats),
        checkpoint=checkpoint,
        description=f"joint embedding ({eeg_encoder})",
        progress=progress,
    )
    model.card["training"]["loss_history"] = history
    return model.eval()


def _assemble(card: dict, eeg_input: EEGInput, image_encoder: ImageEncoder) -> JointModel:
    encoder = make_eeg_encoder(
        card["eeg_encoder"],
        n_channels=len(eeg_input.channels),
        n_times=eeg_input.n_times,
        n_dims=card["n_dims"],
    )
    towers = Towers(
        encoder,
        card["n_features"],
        card["n_dims"],
        normalize=card["normalize"],
        feature_dropout=card["feature_dropout"],
    )
    return JointModel(eeg_input, towers, image_encoder, card)


def _training_card(dataset: PairedDataset, *, loss: str, n_epochs: int, seed: int) -> dict:
    metadata = dataset.metadata
    return {
        "loss": loss,
        "n_epochs": n_epochs,
        "seed": seed,
        "pair_by": dataset.pair_by,
        "n_trials": len(dataset),
        "stimuli": list(dataset.pictures),
        "keys": sorted(set(dataset.keys)),
        "simulated": bool("simulated" in metadata and metadata["simulated"].any()),
    }


def _identity(model: JointModel, dataset: PairedDataset, *settings: object) -> str:
    """A digest of the trials, their pairing and the model's card: a run on others is another run.

    Without it a checkpoint left by a run on another split would bring its trials into this one.
    """
    digest = hashlib.sha256(json.dumps([model.card, *settings, list(dataset.keys)]).encode())
    digest.update(model.sketches.cpu().numpy().round(4).tobytes())
    return digest.hexdigest()


class _Batches:
    """Called with an epoch's generator: the epoch's batches (whitened EEG, features, which pairs are same).

    It also gives the model what it keeps of its training data: feature statistics and trial fingerprints.
    """

    def __init__(
        self, model: JointModel, dataset: PairedDataset, *, batch_size: int, average: bool, progress: bool
    ) -> None:
        eeg = model.prepare_eeg(dataset.epochs)
        model.sketches = torch.from_numpy(model.eeg_input.sketch(eeg)).to(model.device)
        with torch.no_grad():
            self.eeg = model.eeg_input(eeg)
        self.features = image_features(model.image_encoder, dataset.pictures, progress=progress).to(
            model.device
        )
        model.towers.set_feature_statistics(self.features)
        position = {name: i for i, name in enumerate(dataset.pictures)}
        keys, self.key = np.unique(dataset.keys, return_inverse=True)
        self.candidates = [np.array([position[name] for name in dataset.candidates(key)]) for key in keys]
        self.trials = [np.flatnonzero(self.key == i) for i in range(len(keys))]
        self.batch_size = batch_size
        self.average = average and dataset.pair_by == "stimulus"

    def __call__(self, generator: torch.Generator):
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        groups = self._groups(rng)
        order = rng.permutation(len(groups))
        for start in range(0, len(order), self.batch_size):
            batch = [groups[i] for i in order[start : start + self.batch_size]]
            key = np.array([self.key[trials[0]] for trials in batch])
            if len(set(key)) > 1:
                eeg = torch.stack([self.eeg[trials].mean(0) for trials in batch])
                pictures = [rng.choice(self.candidates[k]) for k in key]
                same = torch.from_numpy(key[:, None] == key[None]).to(eeg.device)
                yield eeg, self.features[pictures], same

    def _groups(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Single trials, or each key's trials dealt into averages of a size drawn anew each epoch."""
        if not self.average:
            return [np.array([i]) for i in range(len(self.key))]
        groups = []
        for trials in self.trials:
            size = rng.integers(1, len(trials) + 1)
            dealt = rng.permutation(trials)
            groups += [dealt[i : i + size] for i in range(0, len(dealt), size)]
        return groups


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
