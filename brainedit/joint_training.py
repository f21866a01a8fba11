"""Training of the joint model: whole, or a short calibration for a person it has not met."""

import copy
import hashlib
import json
import logging
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from brainedit._check import pick
from brainedit.datasets.paired import PairedDataset
from brainedit.distributed import gather, shard, synchronised, world
from brainedit.eeg_input import EEGInput
from brainedit.encoders.features import n_ready_features
from brainedit.encoders.image import ReadyFeatures, make_image_encoder
from brainedit.encoding import low_rank_weights
from brainedit.joint import FORMAT, JointModel, Towers, assemble
from brainedit.joint_batches import PairBatches, alike
from brainedit.losses import LOSSES
from brainedit.splits import split_trials
from brainedit.training import fit

logger = logging.getLogger(__name__)


def train_joint(
    dataset: PairedDataset,
    *,
    eeg_encoder: str = "eegproject",
    encoder_options: dict[str, float] | None = None,
    image_encoder: str = "efficientnet_lite0",
    image_weights: str = "pretrained",
    distort: list[str] | None = None,
    n_dims: int = 256,
    loss: str = "infonce",
    normalize: str = "both",
    scale: float | None = None,
    channels: list[str] | str | None = None,
    tmin: float = 0.0,
    tmax: float = 0.8,
    sfreq: float = 50.0,
    whiten: str = "channels",
    person_layer: bool = False,
    average_repeats: bool = False,
    start: str = "random",
    feature_dropout: float = 0.8,
    n_epochs: int = 40,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    validate_by: str | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> JointModel:
    """Train phi and the projector of theta on paired trials; the image network stays frozen.

    The last epoch is the model, unless `validate_by` lets a part of the training data choose it.

    eeg_encoder, encoder_options : see `make_eeg_encoder`
    image_encoder : see `make_image_encoder`; its features are computed once and cached. A middle layer tells pictures
        apart better, the last one meanings; "efficientnet_lite0/block11+last" takes both. "features" where the
        data set's pictures come as ready-made features
    distort : train towards the mean features of a picture and of its distorted versions, see `image_features`
    loss : "infonce", "triplet" (Palazzo et al. 2021, Eq. 2), "structured_hinge" (Reed et al. 2016)
    normalize : which embeddings have unit length: "both", "image", "none". "distance": none, and F is
        phi^T theta - |theta|^2 / 2 (one dimension more each): the log-likelihood of the response, but for what does not
        depend on the picture, where theta is the response that phi would be without noise
    scale : what F is multiplied by; learned when None (EEGClip fixes 1.65)
    channels, tmin, tmax, sfreq, whiten : see `EEGInput.fit`
    person_layer : a linear map over channels for each `subject`, so that one network serves many people
    average_repeats : train on averages of a random number of repeats of a picture, so that one model
        serves single trials and averages; has no effect where trials are paired by label
    start : "random", or "encoding": a linear phi and theta begin as the low-rank regression of whitened responses on
        features (fitted on the training trials), which few noisy trials determine better than a contrast does
    feature_dropout : share of image features silenced at random in training. Where the pictures are far fewer than
        the features, the projector learns them by heart without it
    validate_by : "concept", "stimulus" or another unit of `split_trials`: a tenth of its units is kept from training
        and the epoch with the lowest loss on it is the model

    Under torchrun each process embeds its share of every batch on a device of its own, in place of `device`; loss
    and batch norms are those of the whole batch, and all processes return the same model.
    Raises ValueError for fewer than two stimuli or labels, NaN or flat channels, a loss that diverges.
    """
    _check_dataset(dataset, person_layer)
    device = world().device or device
    compare = pick("loss", loss, LOSSES)
    if image_encoder == "features":
        encoder = ReadyFeatures(n_ready_features(dataset.pictures)).to(device)
    else:
        encoder = make_image_encoder(image_encoder, weights=image_weights).to(device)
    fitted, held = _validation_split(dataset, validate_by, seed)
    eeg_input = EEGInput.fit(
        fitted.epochs,
        alike(fitted),
        channels=channels,
        tmin=tmin,
        tmax=tmax,
        sfreq=sfreq,
        whiten=whiten,
    )
    card = {
        "format": FORMAT,
        "version": version("brainedit"),
        "eeg_encoder": eeg_encoder,
        "encoder_options": encoder_options or {},
        "image_encoder": {"name": image_encoder, "weights": image_weights, "sha256": encoder.sha256},
        "layer_sizes": encoder.layer_sizes,
        "n_dims": n_dims,
        "normalize": normalize,
        "scale": scale,
        "feature_dropout": feature_dropout,
        "subjects": sorted(set(fitted.metadata["subject"].astype(str))) if person_layer else [],
        "eeg_input": eeg_input.settings,
        "training": _training_card(dataset, loss=loss, n_epochs=n_epochs, seed=seed, validate_by=validate_by),
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = assemble(card, eeg_input, encoder).to(device)
    model.towers = synchronised(model.towers)
    shape = {"batch_size": batch_size, "average": average_repeats, "distort": distort or []}
    batches = PairBatches(model, fitted, **shape, progress=progress)
    batches.set_statistics(model)
    pick("start", start, {"random": _leave, "encoding": _start_from_encoding})(model, batches)
    validation = PairBatches(model, held, **shape | {"average": False}, progress=progress) if held else None
    parts = [batches] if validation is None else [batches, validation]
    history = fit(
        model.towers,
        _objective(model.towers, compare),
        batches,
        n_epochs=n_epochs,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        validate=None if validation is None else lambda: _mean_loss(model.towers, compare, validation),
        keep="best" if validation else "last",
        seed=seed,
        identity=_identity(model, dataset, parts, loss, shape),
        checkpoint=checkpoint,
        description=f"joint embedding ({eeg_encoder})",
        progress=progress,
    )
    model.card["training"]["loss_history"] = list(history)
    if validation:
        model.sketches = torch.cat([model.sketches, validation.sketches])
        model.card["training"]["validation_history"] = list(history.validation)
    return model.eval()


def calibrate(
    model: JointModel,
    dataset: PairedDataset,
    *,
    subject: str,
    adapt: str = "person",
    loss: str | None = None,
    n_epochs: int = 20,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    average_repeats: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> JointModel:
    """A copy of the model, fitted to a new person by a short recording of theirs.

    dataset : calibration trials of that person, whose pictures are not those that the result is scored on
    adapt : "person" learns an input layer for the person and leaves the rest; "all" trains every layer
    loss : that of the model's training when None

    Raises ValueError where the model has no people's layers (train it with person_layer=True, or take adapt="all").
    Source: ENIGMA (a quarter of an hour of a new person's data is worth more than the architecture).
    """
    pick("adapt", adapt, {"person": 1, "all": 1})
    new, subject = copy.deepcopy(model), str(subject)
    new.towers = towers = synchronised(new.towers)
    _check_new_person(new, dataset, subject, adapt)
    row = None
    if towers.people is not None:
        row = towers.people.add_person(subject)
        new.card["subjects"] = [*new.card["subjects"], subject]
    fixed = () if new.card["scale"] is None else ("log_scale",)
    for name, parameter in towers.named_parameters():
        parameter.requires_grad_(name.startswith("people.") or (adapt == "all" and name not in fixed))
    batches = PairBatches(
        new, dataset, batch_size=batch_size, average=average_repeats, distort=[], progress=progress
    )
    if row is not None:
        batches.person = torch.full((len(dataset),), row, device=new.device)
    compare = _objective(towers, pick("loss", loss or new.card["training"]["loss"], LOSSES))
    history = fit(
        towers,
        compare if adapt == "all" else _with_fixed_norms(towers, compare),
        batches,
        n_epochs=n_epochs,
        learning_rate=learning_rate,
        weight_decay=0.0,
        seed=seed,
        description=f"calibration for {subject}",
        progress=progress,
    )
    new.sketches = torch.cat([new.sketches, batches.sketches])
    trained = new.card["training"]
    trained["stimuli"] = list(dict.fromkeys([*trained["stimuli"], *dataset.pictures]))
    trained["keys"] = sorted({*trained["keys"], *dataset.keys})
    trained["n_trials"] += len(dataset)
    metadata = dataset.metadata
    trained["simulated"] |= bool("simulated" in metadata and metadata["simulated"].any())
    trained["calibration"] = {
        "subject": subject,
        "adapt": adapt,
        "n_trials": len(dataset),
        "loss": list(history),
    }
    return new.eval()


def _check_new_person(model: JointModel, dataset: PairedDataset, subject: str, adapt: str) -> None:
    if model.towers.people is None and adapt == "person":
        raise ValueError(
            "This model has no people's layers; train it with person_layer=True, or take adapt='all'."
        )
    if subject in model.card["subjects"]:
        raise ValueError(f"The model has a layer for {subject!r} already; calibration is for a new person.")
    if "subject" in dataset.metadata:
        others = sorted(set(dataset.metadata["subject"].astype(str)) - {subject})
        if others:
            raise ValueError(
                f"A calibration for {subject!r} needs this person's trials alone; some are of {others[0]!r}."
            )


def _with_fixed_norms(towers: Towers, objective):
    """The objective with batch norms as they are: what is frozen must not drift by its running statistics."""

    def fixed(*batch):
        for module in towers.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
        return objective(*batch)

    return fixed


def _check_dataset(dataset: PairedDataset, person_layer: bool) -> None:
    keys = sorted(set(dataset.keys))
    if len(keys) < 2:
        things = {"stimulus": "stimuli", "label": "labels"}[dataset.pair_by]
        raise ValueError(f"Training needs two or more {things} to tell apart; all are {keys[0]!r}.")
    if person_layer and ("subject" not in dataset.metadata or dataset.metadata["subject"].isna().any()):
        raise ValueError("person_layer=True needs `subject` in the metadata of every trial.")


def _validation_split(
    dataset: PairedDataset, by: str | None, seed: int
) -> tuple[PairedDataset, PairedDataset | None]:
    """What trains, and the tenth that chooses the epoch."""
    if by is None:
        return dataset, None
    train, held = next(split_trials(dataset.metadata, by=by, n_splits=10, seed=seed))
    if len(set(dataset.keys[held])) < 2:
        raise ValueError(
            f"validate_by={by!r} holds out one {dataset.pair_by} of {len(set(dataset.keys))}; a loss needs two or more."
        )
    return dataset.subset(train), dataset.subset(held)


def _leave(model: JointModel, batches: PairBatches) -> None:
    """Weights stay as they were drawn."""


def _start_from_encoding(model: JointModel, batches: PairBatches) -> None:
    """Give linear towers the weights of an encoding model: theta predicts phi's part of the response.

    Raises ValueError where the towers are not linear or the EEG's noise is not white over channels and times.
    """
    towers, card = model.towers, model.card
    if card["eeg_encoder"] != "linear" or card["eeg_input"]["whiten"] != "channels_times" or towers.people:
        raise ValueError(
            "start='encoding' needs eeg_encoder='linear', whiten='channels_times' and no person_layer; got "
            f"{card['eeg_encoder']!r} and {card['eeg_input']['whiten']!r}."
        )
    design = (batches.features - towers.feature_mean) / towers.feature_scale
    gram, cross = batches.moments(design.double())
    left, right = low_rank_weights(gram, cross, n_most=card["n_dims"])
    rank = left.shape[1]
    with torch.no_grad():
        for layer, weights in ((towers.image, left.T), (towers.eeg.project, right)):
            layer.weight.zero_()
            layer.bias.zero_()
            layer.weight[:rank] = torch.from_numpy(weights).float()
    logger.info("The encoding model that training starts from has rank %d.", rank)
    card["training"]["start_rank"] = rank


def _training_card(dataset: PairedDataset, **settings: object) -> dict:
    metadata = dataset.metadata
    return settings | {
        "pair_by": dataset.pair_by,
        "n_trials": len(dataset),
        "stimuli": list(dataset.pictures),
        "keys": sorted(set(dataset.keys)),
        "simulated": bool("simulated" in metadata and metadata["simulated"].any()),
    }


def _identity(model: JointModel, dataset: PairedDataset, parts: list[PairBatches], *settings: object) -> str:
    """A digest of the trials, their pictures and pairing and the model's card: a run on others is another run.

    Without it a checkpoint left by a run on another split would bring its trials into this one.
    """
    digest = hashlib.sha256(json.dumps([model.card, *settings, list(dataset.keys)]).encode())
    for part in parts:
        for values in (part.sketches, part.features):
            digest.update(values.cpu().numpy().round(4).tobytes())
        if part.person is not None:
            digest.update(part.person.cpu().numpy().tobytes())
    return digest.hexdigest()


def _objective(towers: Towers, compare):
    """The loss of a whole batch, of which each process embeds its share."""

    def objective(eeg: Tensor, features: Tensor, same: Tensor, person: Tensor | None) -> Tensor:
        mine = shard(len(eeg))
        phi = gather(towers.embed_eeg(eeg[mine], None if person is None else person[mine]))
        theta = gather(towers.embed_features(features[mine]))
        return compare(phi @ theta.T, same)

    return objective


def _mean_loss(towers: Towers, compare, batches: PairBatches) -> float:
    """The loss on validation trials, in the same batches each time."""
    towers.eval()
    with torch.inference_mode():
        values = [
            float(compare(towers(eeg, features, person), same))
            for eeg, features, same, person in batches(torch.Generator().manual_seed(0))
        ]
    return sum(values) / len(values)
