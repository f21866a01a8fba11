"""What a score is, and the checks that every kind of map makes of it, its input and its settings."""

import difflib
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")

Score = Callable[[torch.Tensor], torch.Tensor]

_VARYING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def check_picture(image: torch.Tensor) -> None:
    """Raise ValueError or TypeError unless the picture is (3, h, w), float, finite, 0 to 1."""
    if not isinstance(image, torch.Tensor):
        raise TypeError(f"Need the picture as a tensor (3, h, w), got {type(image).__name__}.")
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"Need one RGB picture (3, h, w), got shape {tuple(image.shape)}.")
    if not image.is_floating_point():
        raise ValueError(f"Need a float picture from 0 to 1, got {image.dtype}; divide 8-bit values by 255.")
    if min(image.shape[1:]) < 2:
        raise ValueError(f"Need a picture of at least 2 x 2 pixels, got {image.shape[1]} x {image.shape[2]}.")
    if not bool(torch.isfinite(image).all()):
        raise ValueError("Need a picture of finite values, this one has NaN or infinity.")
    low, high = image.min().item(), image.max().item()
    if low < 0 or high > 1:
        raise ValueError(f"Need values from 0 to 1, got {low:g} to {high:g}; normalise inside the score.")


def check_mode(score: Score) -> None:
    """Raise ValueError if a network's dropout or batch norm would make its scores vary from call to call."""
    if isinstance(score, nn.Module):
        for name, part in score.named_modules():
            if part.training and isinstance(part, _VARYING):
                kind = type(part).__name__
                raise ValueError(
                    f"The score's {kind} {name!r} is in training mode; call .eval() on it first."
                )


def check_steady(score: Score, batch: torch.Tensor, values: torch.Tensor) -> None:
    """Raise ValueError if a network in training mode gives other values for the same batch a second time."""
    if not isinstance(score, nn.Module) or not any(part.training for part in score.modules()):
        return
    again = evaluate(score, batch, like=values)
    if not torch.allclose(again, values, rtol=1e-4, atol=1e-6 * values.abs().max().item()):
        raise ValueError("The score changes from call to call for the same input; call .eval() on it first.")


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless the setting is a whole number of at least 1."""
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"Need {name} to be a whole number of at least 1, got {value!r}.")


def check_seed(seed: int) -> None:
    """Raise ValueError unless the seed is a whole number of at least 0."""
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"Need seed to be a whole number of at least 0, got {seed!r}.")


def evaluate(score: Score, batch: torch.Tensor, *, like: torch.Tensor | None = None) -> torch.Tensor:
    """The score of a batch, (n,) or (n, k), checked for kind and shape.

    like : the scores of an earlier batch, whose trailing shape must come again; None: the first call, whose
        values are also checked to be finite
    """
    values = score(batch.clone())  # a score may work in place, but not on the caller's input
    if not isinstance(values, torch.Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, torch.Tensor) else type(values).__name__
        raise ValueError(f"Need the score to return a float tensor (n,) or (n, k), it returned {kind}.")
    shape = tuple(values.shape)
    if len(shape) not in (1, 2) or 0 in shape:
        raise ValueError(f"Need the score to return (n,) or (n, k) for n inputs, it returned shape {shape}.")
    if len(values) != len(batch):
        raise ValueError(f"Need one score for each of {len(batch)} inputs, the score returned shape {shape}.")
    if like is not None and shape[1:] != tuple(like.shape[1:]):
        before = (len(batch), *like.shape[1:])
        raise ValueError(f"Need scores of shape {before}, as for the first input, it returned {shape}.")
    return finite(values) if like is None else values


def finite(values: torch.Tensor) -> torch.Tensor:
    """The scores themselves; raises ValueError if some are NaN or infinite."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ValueError(f"Need finite scores, {bad} of {values.numel()} are NaN or infinite.")
    return values


def pick(kind: str, name: str, known: Mapping[str, T]) -> T:
    """The entry of `known` called `name`; raises ValueError that lists the names and guesses the right one."""
    if name in known:
        return known[name]
    near = difflib.get_close_matches(str(name).lower(), known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"Unknown {kind} {name!r}. {hint}Known: {', '.join(sorted(known))}.")
