"""Train a generator on pictures: the loop, its checkpoints, and what it shows as it goes."""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from brainedit._check import pick
from brainedit.adversarial.ada import StyleGAN2ADA
from brainedit.adversarial.checkpoint import load_checkpoint, save_checkpoint
from brainedit.adversarial.monitor import Monitor
from brainedit.adversarial.pictures import MIN_PICTURES, Pictures
from brainedit.adversarial.projected import Projected
from brainedit.generators.load import load_generator
from brainedit.generators.stylegan2 import StyleGAN2

logger = logging.getLogger(__name__)

METHODS: dict[str, Callable] = {"projected": Projected, "stylegan2-ada": StyleGAN2ADA}
LOG_EVERY = 500  # pictures
N_EXAMPLES = 2048  # on which a method measures its scales
LIGHT = {
    "z_dim": 64,
    "w_dim": 128,
    "mapping_kwargs": {"num_layers": 2, "lr_multiplier": 0.1},
    "synthesis_kwargs": {"channel_base": 2048, "channel_max": 128, "use_noise": False},
}


def train_generator(
    pictures: Pictures,
    *,
    method: str = "projected",
    n_pictures: int = 200_000,
    batch_size: int = 16,
    mirror: bool = False,
    held_out: float = 0.05,
    average_over: float = 10_000,
    network: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    start_from: str | None = None,
    name: str = "own-pictures",
    licence: str = "Licence unknown: ask whoever trained these weights.",
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 5_000,
    progress_folder: str | Path | None = None,
    evaluate_every: int = 10_000,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> StyleGAN2:
    """Train a generator on pictures; the running average of its weights is the result, none is picked.

    method : "projected" against a frozen network, hours on a processor; "stylegan2-ada", days on an accelerator
    n_pictures : real pictures shown in all; the one setting that may differ when a checkpoint is continued
    mirror : also show each picture left to right, where that is still a picture of the same kind
    held_out : share that is never trained on, for the distance between samples and real pictures
    average_over : half-life of the running average in pictures shown; shorter early on
    network : arguments of `StyleGAN2` beside the size and c_dim, which come from the pictures
    options : the method's own settings, see `Projected` and `StyleGAN2ADA`
    start_from : a saved generator whose weights are the start
    checkpoint : file that is rewritten every `checkpoint_every` pictures, and continued from when it exists.
        Random numbers depend on the seed and the step alone, so a run that was killed ends with the same weights
    progress_folder : where sample grids, log.csv and kid.csv go, every `evaluate_every` pictures

    Raises ValueError for settings that do not fit, too few pictures, a loss that is not finite, or a checkpoint
    of other settings or pictures.
    """
    _check(pictures, method, n_pictures, batch_size, checkpoint_every, evaluate_every)
    train, rest = pictures.split(held_out)
    if batch_size > len(train):
        raise ValueError(
            f"batch_size {batch_size} is more than the {len(train)} pictures that are not held out."
        )
    generator = _generator(pictures, network or LIGHT, start_from, name, licence, seed).to(device)
    real = _examples(pictures, train[_order(len(train), 0, min(len(train), N_EXAMPLES), seed)]).to(device)
    trainer = _trainer(
        method, generator, real, {"seed": seed, "fresh": start_from is None} | dict(options or {})
    )
    run = _Run(
        trainer,
        pictures,
        train,
        Monitor(progress_folder, pictures, rest, device=device, seed=seed),
        batch_size=batch_size,
        mirror=mirror,
        average_over=average_over,
        seed=seed,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        identity={
            "method": method,
            "batch_size": batch_size,
            "mirror": mirror,
            "held_out": held_out,
            "average_over": average_over,
            "network": generator.kwargs,
            "options": dict(options or {}),
            "start_from": start_from and generator.sha256,
            "seed": seed,
            "pictures": pictures.sha256,
        },
    )
    run.resume()
    run.until(n_pictures, checkpoint_every=checkpoint_every, evaluate_every=evaluate_every, progress=progress)
    result = copy.deepcopy(trainer.averages["generator"])
    return result.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)


@dataclass
class _Run:
    """A method's state, the pictures it sees, and where both are kept."""

    trainer: Any
    pictures: Pictures
    train: np.ndarray
    monitor: Monitor
    batch_size: int
    mirror: bool
    average_over: float
    seed: int
    checkpoint: Path | None
    identity: dict[str, Any]
    log: list[dict[str, float]] = field(default_factory=list)
    unlogged: list[dict[str, float]] = field(default_factory=list)

    def resume(self) -> None:
        """Go on where the checkpoint is, if there is one."""
        if self.checkpoint is not None and self.checkpoint.exists():
            trainer = self.trainer
            state = load_checkpoint(
                self.checkpoint, trainer.modules(), trainer.optimizers, identity=self.identity
            )
            trainer.load_state(state["trainer"])
            self.log = state["log"]
            logger.info("continuing %s at %d pictures", self.checkpoint, trainer.seen)

    def until(self, n_pictures: int, *, checkpoint_every: int, evaluate_every: int, progress: bool) -> None:
        """Train until so many pictures were seen."""
        trainer = self.trainer
        cuda = [trainer.generator.device] if trainer.generator.device.type == "cuda" else []
        bar = tqdm(total=n_pictures, initial=trainer.seen, desc="training", unit="pic", disable=not progress)
        with torch.random.fork_rng(devices=cuda), bar:
            while trainer.seen < n_pictures:
                before = trainer.seen
                self.unlogged.append(self._step())
                _average(trainer, self.average_over, self.batch_size)
                bar.update(self.batch_size)
                if _passed(before, trainer.seen, LOG_EVERY):
                    self._note()
                    bar.set_postfix(loss=f"{self.log[-1]['loss']:.3f}")
                if _passed(before, trainer.seen, evaluate_every):
                    self.monitor.show(trainer.averages["generator"], trainer.seen, trainer.reconstruct)
                if _passed(before, trainer.seen, checkpoint_every):
                    self._keep()
        self._keep()

    def _step(self) -> dict[str, float]:
        """One step; all that is random in it follows from the seed and the number of pictures seen."""
        seen, device = self.trainer.seen, self.trainer.generator.device
        torch.manual_seed(self.seed * 1_000_003 + seen)
        order = _order(len(self.train), seen, self.batch_size, self.seed)
        images, condition = self.pictures.batch(self.train[order])
        real = _scaled(images.to(device))
        if self.mirror:
            real = torch.where(torch.rand(len(real), 1, 1, 1, device=device) < 0.5, real.flip(3), real)
        numbers = self.trainer.step(real, None if condition is None else condition.to(device))
        if not np.isfinite(list(numbers.values())).all():
            raise ValueError(
                f"Training diverged at {seen} pictures: its loss is {numbers['loss']}. Lower the learning "
                "rates, and continue from an earlier checkpoint or anew."
            )
        return numbers

    def _note(self) -> None:
        if self.unlogged:
            self.log.append({"pictures": self.trainer.seen} | _means(self.unlogged))
            self.unlogged.clear()

    def _keep(self) -> None:
        self._note()
        self.monitor.write_log(self.log)
        if self.checkpoint is not None:
            save_checkpoint(
                self.checkpoint,
                self.trainer.modules(),
                self.trainer.optimizers,
                identity=self.identity,
                state={"trainer": self.trainer.state(), "log": self.log},
            )


def _check(
    pictures: Pictures,
    method: str,
    n_pictures: int,
    batch_size: int,
    checkpoint_every: int,
    evaluate_every: int,
) -> None:
    pick("method", method, METHODS)
    if len(pictures) < MIN_PICTURES:
        raise ValueError(f"Training needs at least {MIN_PICTURES} pictures; {len(pictures)} came.")
    if not 2 <= batch_size <= len(pictures) // 2:
        raise ValueError(f"batch_size must be 2 to half of the {len(pictures)} pictures; got {batch_size}.")
    for name, value in {
        "n_pictures": n_pictures,
        "checkpoint_every": checkpoint_every,
        "evaluate_every": evaluate_every,
    }.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more; got {value}.")


def _generator(
    pictures: Pictures,
    network: Mapping[str, Any],
    start_from: str | None,
    name: str,
    licence: str,
    seed: int,
) -> StyleGAN2:
    if start_from is None:
        own = {"img_resolution": pictures.size, "c_dim": pictures.c_dim}
        try:
            return StyleGAN2(**dict(network), **own, name=name, licence=licence, seed=seed)
        except TypeError as error:
            raise ValueError(f"The settings of `network` do not make a generator: {error}.") from error
    generator = load_generator(start_from)
    if not isinstance(generator, StyleGAN2):
        raise ValueError(
            f"Training starts from a StyleGAN2; {start_from} holds a {type(generator).__name__}."
        )
    came = (generator.image_size, generator.c_dim)
    if came != (pictures.size, pictures.c_dim):
        raise ValueError(
            f"{start_from} makes pictures of {came[0]} pixels with a condition of {came[1]}; the pictures have "
            f"{pictures.size} pixels and a condition of {pictures.c_dim}."
        )
    generator.name, generator.licence = name, licence
    return generator.requires_grad_(True)


def _trainer(method: str, generator: StyleGAN2, real: Tensor, options: Mapping[str, Any]):
    try:
        return METHODS[method](generator, real, **options)
    except TypeError as error:
        raise ValueError(f"The options do not fit method {method!r}: {error}.") from error


def _examples(pictures: Pictures, indices: np.ndarray) -> Tensor:
    """Training pictures on which a method measures its scales, -1 to 1, of at most 128 pixels."""
    size = min(pictures.size, 128)
    parts = []
    for start in range(0, len(indices), 64):
        part = _scaled(pictures.batch(indices[start : start + 64])[0])
        if pictures.size > size:
            part = torch.nn.functional.interpolate(part, (size, size), mode="bilinear", antialias=True)
        parts.append(part)
    return torch.cat(parts)


def _order(n: int, seen: int, n_wanted: int, seed: int) -> np.ndarray:
    """The next indices after `seen` pictures: pass after pass, each in its own random order."""
    position = np.arange(seen, seen + n_wanted)
    return np.array([_pass(n, p // n, seed)[p % n] for p in position.tolist()])


@lru_cache(maxsize=4)
def _pass(n: int, number: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, number)).permutation(n)


def _scaled(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


@torch.no_grad()
def _average(trainer, half_life: float, batch_size: int) -> None:
    """Running averages of weights; buffers are copied. The half-life grows with what was seen, at first."""
    decay = 0.5 ** (batch_size / min(half_life, 0.1 * trainer.seen))
    live = trainer.modules()
    for name, average in trainer.averages.items():
        for old, new in zip(average.parameters(), live[name].parameters(), strict=True):
            old.lerp_(new, 1 - decay)
        for old, new in zip(average.buffers(), live[name].buffers(), strict=True):
            old.copy_(new)


def _passed(before: int, after: int, every: int) -> bool:
    return before // every != after // every


def _means(numbers: list[dict[str, float]]) -> dict[str, float]:
    keys = numbers[-1]
    return {key: float(np.mean([row[key] for row in numbers if key in row])) for key in keys}
