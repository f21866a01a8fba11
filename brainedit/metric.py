"""An embedding of EEG alone in which trials of one label lie together: metric learning without pictures."""

import hashlib
import json
import os
import textwrap
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import mne
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from brainedit._check import pick
from brainedit.datasets.paired import PairedDataset
from brainedit.distributed import gather, shard
from brainedit.eeg_input import CHUNK, EEGInput
from brainedit.encoders.eeg import make_eeg_encoder
from brainedit.losses import METRIC_LOSSES, MINERS, PAIR_MINERS
from brainedit.training import fit

FORMAT = "brainedit EEG embedding 1"
PUBLISHED = {
    "lstm": {"n_layers": 4, "bias": False}
}  # options of EEGStyleGAN-ADA's encoders that are not ours


class EEGEmbedding(nn.Module):
    """A trained encoder with everything that must travel with it: channels, rate, window, whitening."""

    def __init__(self, eeg_input: EEGInput, encoder: nn.Module, card: dict) -> None:
        super().__init__()
        self.eeg_input = eeg_input
        self.encoder = encoder
        self.card = card
        self.eval()

    def prepare_eeg(self, epochs: mne.BaseEpochs) -> Tensor:
        """Epochs -> (n, n_channels, n_times) volts, in the model's channel order, rate and window.

        Raises ValueError that lists what the recording lacks.
        """
        return self.eeg_input.prepare(epochs).to(self.eeg_input.mean.device)

    def embed_eeg(self, eeg: Tensor) -> Tensor:
        """Prepared EEG (n, n_channels, n_times) in volts -> (n, n_dims) of unit length."""
        return nn.functional.normalize(self.encoder(self.eeg_input(eeg)), dim=1)

    def embed_epochs(self, epochs: mne.BaseEpochs) -> np.ndarray:
        """Epochs -> (n, n_dims) of unit length, without gradients."""
        with torch.inference_mode():
            parts = [self.embed_eeg(part) for part in self.prepare_eeg(epochs).split(CHUNK)]
        return torch.cat(parts).cpu().numpy()

    def save(self, path: str | Path) -> None:
        """Write a folder: model.safetensors and model.json."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        state = {key: value.contiguous().cpu() for key, value in self.state_dict().items()}
        save_file(state, path / "model.safetensors.partial")
        digest = hashlib.sha256((path / "model.safetensors.partial").read_bytes()).hexdigest()
        (path / "model.json.partial").write_text(json.dumps(self.card | {"sha256": digest}, indent=1))
        for name in ("model.safetensors", "model.json"):
            os.replace(path / f"{name}.partial", path / name)


def load_metric(path: str | Path, *, device: str = "cpu") -> EEGEmbedding:
    """The EEGEmbedding that was saved in a folder.

    Raises FileNotFoundError when there is none, ValueError when its files are damaged or of another model.
    """
    path = Path(path)
    if not (path / "model.json").is_file():
        raise FileNotFoundError(f"There is no model in {path}; a model is a folder with model.json.")
    try:
        card = json.loads((path / "model.json").read_text())
        if card["format"] != FORMAT:
            raise ValueError(f"it is a {str(card['format'])!r}, not a {FORMAT!r}")
        weights = (path / "model.safetensors").read_bytes()
        if hashlib.sha256(weights).hexdigest() != card["sha256"]:
            raise ValueError("its weights are not those that model.json describes")
        model = _assemble(card, EEGInput(card["eeg_input"]))
        model.load_state_dict(load_file(path / "model.safetensors"))
    except Exception as error:  # damaged JSON, safetensors and states fail in many ways
        reason = textwrap.shorten(str(error), 200)
        raise ValueError(f"The model in {path} cannot be read ({reason}); train or copy it again.") from error
    return model.to(device).eval()


def train_metric(
    dataset: PairedDataset | mne.BaseEpochs,
    *,
    labels: str = "label",
    eeg_encoder: str = "lstm",
    encoder_options: dict | None = None,
    n_dims: int = 128,
    loss: str = "triplet",
    miner: str = "multi_similarity",
    channels: list[str] | str | None = None,
    tmin: float = 0.0,
    tmax: float = 0.8,
    sfreq: float = 100.0,
    whiten: str = "channels",
    n_epochs: int = 200,
    batch_size: int = 256,
    n_per_label: int = 8,
    learning_rate: float = 3e-4,
    weight_decay: float = 0.0,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> EEGEmbedding:
    """Train an encoder so that trials of one label are nearer to each other than to those of others.

    The last epoch is the model: nothing is selected on any score. Pictures of the data set are not looked at.

    labels : the column of the metadata that says which trials belong together
    eeg_encoder, encoder_options : see `make_eeg_encoder`; "lstm" is the published one of four layers, "cnn" the
        other published one
    loss, miner : "triplet" with "multi_similarity", "semi_hard" or "all"; "multi_similarity" with the first or last
    channels, tmin, tmax, sfreq, whiten : see `EEGInput.fit`
    batch_size, n_per_label : trials in a batch, and how many of one label come together

    Raises ValueError for fewer than two labels, a label of one trial, NaN or flat channels, unknown settings.
    Source: EEGStyleGAN-ADA (Singh et al., WACV 2024): 128 dimensions, triplets of margin 0.05 with the
    multi-similarity miner, Adam at 3e-4, batches of 256. Differs: theirs scales each trial by half its largest
    value where `EEGInput` whitens, draws batches without regard to labels, trains for 2048 to 8192 epochs, and
    keeps the epoch that is best on validation (for two of three sets the test) data.
    """
    epochs = getattr(dataset, "epochs", dataset)
    names, label = _labels(epochs, labels)
    compare = pick("metric loss", loss, METRIC_LOSSES)
    pick("miner", miner, PAIR_MINERS if loss == "multi_similarity" else MINERS)
    eeg_input = EEGInput.fit(
        epochs, label, channels=channels, tmin=tmin, tmax=tmax, sfreq=sfreq, whiten=whiten
    )
    card = {
        "format": FORMAT,
        "version": version("brainedit"),
        "eeg_encoder": eeg_encoder,
        "encoder_options": PUBLISHED.get(eeg_encoder, {}) | (encoder_options or {}),
        "n_dims": n_dims,
        "eeg_input": eeg_input.settings,
        "training": {"column": labels, "labels": names, "n_trials": len(label), "n_epochs": n_epochs}
        | {"loss": loss, "miner": miner, "seed": seed, "simulated": _is_simulated(epochs)},
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _assemble(card, eeg_input).to(device)
    eeg = model.prepare_eeg(epochs)
    settings = [batch_size, n_per_label, label.tolist(), eeg_input.sketch(eeg).round(4).tolist()]
    batches = _Batches(model.eeg_input.whitened(eeg), label, batch_size=batch_size, n_per_label=n_per_label)

    def objective(eeg: Tensor, label: Tensor) -> Tensor:
        return compare(gather(model.encoder(eeg[shard(len(eeg))])), label, miner=miner)

    history = fit(
        model.encoder,
        objective,
        batches,
        n_epochs=n_epochs,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        seed=seed,
        identity=hashlib.sha256(json.dumps([card, *settings]).encode()).hexdigest(),
        checkpoint=checkpoint,
        description=f"EEG embedding ({eeg_encoder})",
        progress=progress,
    )
    model.card["training"]["loss_history"] = list(history)
    return model.eval()


def _assemble(card: dict, eeg_input: EEGInput) -> EEGEmbedding:
    encoder = make_eeg_encoder(
        card["eeg_encoder"],
        n_channels=len(eeg_input.channels),
        n_times=eeg_input.n_times,
        n_dims=card["n_dims"],
        sfreq=eeg_input.settings["sfreq"],
        **card["encoder_options"],
    )
    return EEGEmbedding(eeg_input, encoder, card)


def _labels(epochs: mne.BaseEpochs, column: str) -> tuple[list[str], np.ndarray]:
    """The labels' names, and the number of each trial's, (n,)."""
    metadata = epochs.metadata
    if metadata is None or column not in metadata or metadata[column].isna().any():
        have = "no metadata" if metadata is None else ", ".join(map(str, metadata.columns))
        raise ValueError(f"Metric learning needs {column!r} for every trial; the epochs have {have}.")
    names, label, counts = np.unique(metadata[column].astype(str), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"Metric learning needs two or more labels; all trials are {str(names[0])!r}.")
    if counts.min() < 2:
        raise ValueError(
            f"Metric learning needs two or more trials of each label; {str(names[counts.argmin()])!r} has one."
        )
    return names.tolist(), label


def _is_simulated(epochs: mne.BaseEpochs) -> bool:
    return bool("simulated" in epochs.metadata and epochs.metadata["simulated"].any())


class _Batches:
    """Called with an epoch's generator: batches (whitened EEG, labels) in which each label comes several times."""

    def __init__(self, eeg: Tensor, label: np.ndarray, *, batch_size: int, n_per_label: int) -> None:
        if not 2 <= n_per_label < batch_size:
            raise ValueError(
                f"A batch needs two or more trials of a label and two or more labels; got {n_per_label} of a label "
                f"in a batch of {batch_size}."
            )
        self.numbers = label
        self.eeg, self.label = eeg, torch.from_numpy(label).to(eeg.device)
        self.n_per_label, self.n_groups = n_per_label, max(2, batch_size // n_per_label)

    def __call__(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        groups = []
        for label in np.unique(self.numbers):
            trials = rng.permutation(np.flatnonzero(self.numbers == label))
            groups += np.array_split(trials, max(1, round(len(trials) / self.n_per_label)))
        order = rng.permutation(len(groups))
        for part in np.array_split(order, -(-len(order) // self.n_groups)):
            batch = [groups[i] for i in part]
            labels = {self.numbers[group[0]] for group in batch}
            if len(labels) == 1:  # a frequent label without another to be told from: one of these comes again
                others = [group for group in groups if self.numbers[group[0]] not in labels]
                batch.append(others[rng.integers(len(others))])
            trials = torch.from_numpy(np.concatenate(batch))
            yield self.eeg[trials], self.label[trials]
