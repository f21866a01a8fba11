"""The one fit loop: seeded, a progress bar, checkpoints from which it resumes to the same weights."""

import json
import logging
import math
import os
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

logger = logging.getLogger(__name__)


def fit(
    model: nn.Module,
    loss: Callable[..., Tensor],
    batches: Callable[[torch.Generator], Iterable[tuple]],
    *,
    n_epochs: int,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    seed: int = 0,
    identity: str = "",
    checkpoint: str | Path | None = None,
    description: str = "training",
    progress: bool = True,
) -> list[float]:
    """Train all of `model` with AdamW and a cosine schedule; frozen networks stay outside of it.

    loss : one batch's items -> scalar
    batches : a generator, seeded for the epoch -> the epoch's batches (tuples)
    identity : what else the run depends on (data, loss, batches), as a digest; a checkpoint of another is refused
    checkpoint : a safetensors file, rewritten after each epoch and read when it exists. An epoch's random
        numbers depend on the seed and the epoch alone, so a run that was killed ends with the same weights.

    Returns the mean loss of each epoch. Raises ValueError when the loss is not finite, or the checkpoint is
    damaged or of a run with other settings.
    """
    settings = {
        "n_epochs": n_epochs,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "seed": seed,
        "identity": identity,
    }
    trained = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate, weight_decay=weight_decay)
    history = _resume(checkpoint, model, optimizer, trained, settings)
    bar = tqdm(range(len(history), n_epochs), desc=description, disable=not progress, unit="epoch")
    devices = [p.device for p in trained.values() if p.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices=devices):
        for epoch in bar:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / n_epochs))
            history.append(_epoch(model, loss, batches, optimizer, seed=seed * 1_000_003 + epoch))
            bar.set_postfix(loss=f"{history[-1]:.3f}")
            if checkpoint is not None:
                _save(Path(checkpoint), model, optimizer, trained, {"history": history, "settings": settings})
    model.eval()
    return history


def _epoch(
    model: nn.Module, loss: Callable, batches: Callable, optimizer: torch.optim.Optimizer, *, seed: int
) -> float:
    torch.manual_seed(seed)
    model.train()
    losses = []
    for batch in batches(torch.Generator().manual_seed(seed)):
        value = loss(*batch)
        if not torch.isfinite(value):
            raise ValueError(
                f"The loss became {value.item()}; check the EEG's scale or lower the learning rate."
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    if not losses:
        raise ValueError("An epoch without a single batch: there are too few trials to train on.")
    return sum(losses) / len(losses)


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, trained: dict, notes: dict) -> None:
    """Model buffers and parameters, the optimiser's moments, losses and settings, in one atomic file."""
    tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
    for name, parameter in trained.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata={key: json.dumps(value) for key, value in notes.items()})
    os.replace(partial, path)


def _resume(
    path: str | Path | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    trained: dict,
    settings: dict,
) -> list[float]:
    if path is None or not Path(path).exists():
        return []
    try:
        with safe_open(path, "pt") as file:
            history = json.loads(file.metadata()["history"])
            written = json.loads(file.metadata()["settings"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        other = [key for key, value in settings.items() if written.get(key) != value]
        if other:
            raise ValueError(f"its {other[0]} is {written.get(other[0])}, now it is {settings[other[0]]}")
        state = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        model.load_state_dict(state)
        for name, parameter in trained.items():
            keys = [k for k in tensors if k.startswith("optimizer.") and k.split(".", 2)[2] == name]
            moments = {k.split(".")[1]: tensors[k] for k in keys}
            optimizer.state[parameter] = {
                k: v if k == "step" else v.to(parameter.device) for k, v in moments.items()
            }
    except Exception as error:  # a truncated or foreign file fails in many ways
        reason = textwrap.shorten(str(error), 200)
        raise ValueError(
            f"The checkpoint {path} cannot be continued ({reason}); delete it to start anew."
        ) from error
    logger.info("continuing %s at epoch %d", path, len(history))
    return history
