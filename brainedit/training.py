"""The one fit loop: seeded, a progress bar, checkpoints from which it resumes to the same weights."""

import json
import logging
import math
import os
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn
from tqdm import tqdm

from brainedit import distributed
from brainedit._check import pick

logger = logging.getLogger(__name__)

SCHEDULES: dict[str, Callable[[float], float]] = {  # part of the training done (0 to 1) -> part of the rate
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "constant": lambda done: 1.0,
}


class History(list):
    """The mean loss of each epoch; `validation` holds the value after each, where it was measured."""

    def __init__(self, losses: Iterable[float] = (), validation: Iterable[float] = ()) -> None:
        super().__init__(losses)
        self.validation = list(validation)

    @property
    def best(self) -> int | None:
        """The epoch, from 0, with the lowest validation value (the first of equals); None without values."""
        return self.validation.index(min(self.validation)) if self.validation else None


def fit(
    model: nn.Module,
    loss: Callable[..., Tensor],
    batches: Callable[[torch.Generator], Iterable[tuple]],
    *,
    n_epochs: int,
    learning_rate: float = 1e-3,
    schedule: str = "cosine",
    warmup: int = 0,
    weight_decay: float = 1e-2,
    decay_vectors: bool = True,
    clip: float | None = None,
    precision: str = "float32",
    validate: Callable[[], float] | None = None,
    keep: str = "last",
    seed: int = 0,
    identity: str = "",
    checkpoint: str | Path | None = None,
    description: str = "training",
    progress: bool = True,
) -> History:
    """Train all of `model` with AdamW; frozen networks stay outside of it.

    loss : one batch's items -> scalar
    batches : a generator, seeded for the epoch -> the epoch's batches (tuples)
    schedule : of the learning rate over the epochs: "cosine" (falls to zero), "constant"
    warmup : epochs over which the rate rises in equal steps before that
    decay_vectors : False keeps biases, norms and scales (fewer than two dimensions) out of the weight decay
    clip : largest length of the whole gradient
    precision : "bfloat16" computes the loss in autocast; weights stay float32
    validate : called after each epoch without gradients and with the model in evaluation mode; lower is
        better. Its data choose the epoch when keep="best", so they are validation data, apart from training
        and never the test set: a score on data that chose is not a test
    keep : which weights the model has at the end: those of the "last" epoch, or of the "best" by `validate`
    identity : what else the run depends on (data, also those of `validate`, loss, batches), as a digest; a
        checkpoint of another is refused
    checkpoint : a safetensors file, rewritten after each epoch and read when it exists. An epoch's random
        numbers depend on the seed and the epoch alone, so a run that was killed ends with the same weights.

    Under `torchrun` every process makes the same batches (from the generator given, nothing else) and a loss of
    the whole batch, see `brainedit.distributed`; gradients are averaged, the first process shows and saves.

    Returns the mean loss of each epoch. Raises ValueError when the loss or the validation value is not finite,
    the settings contradict each other, the checkpoint is damaged or of a run with other settings, or processes
    differ.
    """
    settings = {
        "n_epochs": n_epochs,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "warmup": warmup,
        "weight_decay": weight_decay,
        "decay_vectors": decay_vectors,
        "clip": clip,
        "precision": precision,
        "validated": validate is not None,
        "keep": keep,
        "seed": seed,
        "identity": identity,
    }
    _check_settings(settings)
    trained = dict(model.named_parameters())
    optimizer = _optimizer(trained, learning_rate, weight_decay, decay_vectors=decay_vectors)
    history, best = _start(checkpoint, model, optimizer, trained, settings)
    shown = progress and distributed.is_main()
    bar = tqdm(range(len(history), n_epochs), desc=description, disable=not shown, unit="epoch")
    devices = [p.device for p in trained.values() if p.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices=devices):
        for epoch in bar:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _rate(epoch, n_epochs, schedule=schedule, warmup=warmup)
            history.append(_epoch(model, loss, batches, optimizer, settings, epoch))
            if validate is not None:
                history.validation.append(_validated(model, validate))
            if keep == "best" and history.best == epoch:
                best = {key: value.detach().clone() for key, value in model.state_dict().items()}
            bar.set_postfix(_latest(history))
            if checkpoint is not None:
                if distributed.is_main():
                    _save(Path(checkpoint), model, optimizer, trained, best, _notes(history, settings))
                distributed.barrier()
    if best:
        model.load_state_dict(best)
    model.eval()
    return history


def _check_settings(settings: dict) -> None:
    pick("schedule", settings["schedule"], SCHEDULES)
    pick("keep", settings["keep"], dict.fromkeys(("last", "best")))
    pick("precision", settings["precision"], dict.fromkeys(("float32", "bfloat16")))
    if settings["keep"] == "best" and not settings["validated"]:
        raise ValueError("keep='best' needs `validate`, a value on validation data to choose the epoch by.")
    if not 0 <= settings["warmup"] < max(settings["n_epochs"], 1):
        raise ValueError(
            f"warmup is 0 or more and less than n_epochs, got {settings['warmup']} of {settings['n_epochs']} epochs."
        )
    if settings["clip"] is not None and not settings["clip"] > 0:
        raise ValueError(f"clip is a length above 0, or None for none, got {settings['clip']}.")


def _optimizer(
    trained: dict[str, nn.Parameter], learning_rate: float, weight_decay: float, *, decay_vectors: bool
) -> torch.optim.Optimizer:
    vectors = [] if decay_vectors else [p for p in trained.values() if p.ndim < 2]
    rest = [p for p in trained.values() if decay_vectors or p.ndim >= 2]
    groups = [{"params": rest}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=learning_rate, weight_decay=weight_decay
    )


def _rate(epoch: int, n_epochs: int, *, schedule: str, warmup: int) -> float:
    """The part of the learning rate in an epoch."""
    if epoch < warmup:
        return (epoch + 1) / (warmup + 1)
    return SCHEDULES[schedule]((epoch - warmup) / (n_epochs - warmup))


def _epoch(
    model: nn.Module,
    loss: Callable,
    batches: Callable,
    optimizer: torch.optim.Optimizer,
    settings: dict,
    epoch: int,
) -> float:
    seed = settings["seed"] * 1_000_003 + epoch
    # another dropout on each process; on the CPU only a seed's lower 32 bits count
    torch.manual_seed(seed + 500_000_003 * distributed.world().rank)
    model.train()
    device = next(model.parameters()).device.type
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for batch in batches(generator):
        with torch.autocast(device, torch.bfloat16, enabled=settings["precision"] == "bfloat16"):
            value = loss(*batch)
        losses.append(distributed.average(value).item())
        if not math.isfinite(losses[-1]):
            raise ValueError(
                f"The loss became {losses[-1]}; check the EEG's scale or lower the learning rate."
            )
        _step(model, value, optimizer, clip=settings["clip"])
    if not losses:
        raise ValueError("An epoch without a single batch: there are too few trials to train on.")
    distributed.check_same("order of the batches", generator.get_state().numpy().tobytes())
    distributed.broadcast(model.buffers())
    return sum(losses) / len(losses)


def _step(model: nn.Module, value: Tensor, optimizer: torch.optim.Optimizer, *, clip: float | None) -> None:
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    distributed.average_gradients(model.parameters())
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()


def _validated(model: nn.Module, validate: Callable[[], float]) -> float:
    model.eval()
    with torch.no_grad():
        value = distributed.average(torch.tensor(float(validate()), dtype=torch.float64)).item()
    if not math.isfinite(value):
        raise ValueError(
            f"The validation value became {value}; every epoch needs a number to be compared by."
        )
    return value


def _latest(history: History) -> dict[str, str]:
    shown = {"loss": f"{history[-1]:.3f}"}
    return shown | ({"validation": f"{history.validation[-1]:.3f}"} if history.validation else {})


def _notes(history: History, settings: dict) -> dict[str, object]:
    return {"history": history, "validation": history.validation, "settings": settings}


def _start(
    path: str | Path | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    trained: dict,
    settings: dict,
) -> tuple[History, dict[str, Tensor]]:
    """Where the main process's checkpoint stands, on every process: the epochs so far, the best weights."""
    shapes = [(name, list(value.shape)) for name, value in model.state_dict().items()]
    distributed.check_same("settings and network", repr([settings, shapes]).encode())
    content = None
    if path is not None and distributed.is_main() and Path(path).exists():
        content = Path(path).read_bytes()
    content = distributed.broadcast_bytes(content)
    if content is not None:
        return _resume(path, content, model, optimizer, trained, settings)
    distributed.broadcast(model.state_dict().values())
    return History(), {}


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    trained: dict,
    best: dict[str, Tensor],
    notes: dict,
) -> None:
    """Model buffers and parameters, the optimiser's moments, the best weights and notes, in one atomic file."""
    tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v.contiguous() for k, v in best.items()}
    for name, parameter in trained.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata={key: json.dumps(value) for key, value in notes.items()})
    os.replace(partial, path)


def _resume(
    path: str | Path | None,
    content: bytes,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    trained: dict,
    settings: dict,
) -> tuple[History, dict[str, Tensor]]:
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        notes = {key: json.loads(value) for key, value in header["__metadata__"].items()}
        other = [key for key, value in settings.items() if notes["settings"].get(key) != value]
        if other:
            before = notes["settings"].get(other[0])
            raise ValueError(f"its {other[0]} is {before}, now it is {settings[other[0]]}")
        history = History(notes["history"], notes["validation"])
        model.load_state_dict(_under("model.", tensors))
        _load_moments(optimizer, trained, tensors)
    except Exception as error:  # a truncated or foreign file fails in many ways
        reason = textwrap.shorten(str(error), 200)
        raise ValueError(
            f"The checkpoint {path} cannot be continued ({reason}); delete it to start anew."
        ) from error
    logger.info("continuing %s at epoch %d", path, len(history))
    return history, _under("best.", tensors)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _load_moments(optimizer: torch.optim.Optimizer, trained: dict, tensors: dict[str, Tensor]) -> None:
    for name, parameter in trained.items():
        keys = [k for k in tensors if k.startswith("optimizer.") and k.split(".", 2)[2] == name]
        moments = {k.split(".")[1]: tensors[k] for k in keys}
        optimizer.state[parameter] = {
            k: v if k == "step" else v.to(parameter.device) for k, v in moments.items()
        }
