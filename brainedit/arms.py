"""Directions to compare a brain's with: shuffled relevance, random ones, and a judge's."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from brainedit.directions import Direction, brain_direction, prior_scale
from brainedit.generators.base import Generator

_LEAST_SHUFFLES = 100


def shuffled_directions(
    latents: pd.DataFrame,
    relevance: pd.Series,
    *,
    space: str,
    n: int = 100,
    method: str = "ridge",
    generator: Generator | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[Direction]:
    """n directions found as `brain_direction` finds one, each from relevance shuffled over the stimuli.

    Raises ValueError for n below 100, since one draw or ten say nothing about a spread; else as `brain_direction`.
    """
    if n < _LEAST_SHUFFLES:
        raise ValueError(f"The shuffled arm needs {_LEAST_SHUFFLES} draws or more; got {n}.")
    rng = np.random.default_rng(seed)
    found = []
    for i in tqdm(range(n), desc="shuffled directions", disable=not progress, delay=2):
        shuffled = pd.Series(rng.permutation(relevance.to_numpy()), index=relevance.index)
        # the generator only gives a scale, at a price: below all scales come from one sample
        maker = generator if space == "w+" else None
        found.append(
            brain_direction(
                latents, shuffled, space=space, method=method, name=f"shuffled {i}", generator=maker
            )
        )
    return found if generator is None or space == "w+" else _scaled(generator, found)


def random_directions(generator: Generator, *, space: str, n: int = 100, seed: int = 0) -> list[Direction]:
    """n directions from one sample of the generator to another: isotropic in z, in w along what samples vary in.

    In "w+" all layers move alike.
    """
    if n < 1:
        raise ValueError(f"Need 1 or more random directions; got {n}.")
    samples = generator.sample(2 * n, space=space, seed=seed).double().cpu().numpy()
    vectors = samples[:n] - samples[n:]
    vectors /= np.sqrt((vectors**2).sum(tuple(range(1, vectors.ndim)), keepdims=True))
    made = [
        Direction(vector, space, 1.0, f"random {i}", {"method": "random"}) for i, vector in enumerate(vectors)
    ]
    return _scaled(generator, made)


def judge_direction(
    generator: Generator,
    score: Callable[[Tensor], Tensor],
    *,
    space: str,
    name: str,
    n: int = 2000,
    method: str = "ridge",
    seed: int = 0,
) -> Direction:
    """The direction of a judge's scores of n samples ("w" or "z"): what labels without brains and noise give.

    score : pictures (n, 3, height, width), 0 to 1 -> (n,), such as `Judge.score`. The same judge flatters its
        own direction when it measures the edit

    Raises ValueError as `brain_direction` does.
    """
    latents = generator.sample(n, space=space, seed=seed)
    batches = tqdm(
        generator.synthesize_batches(latents, space=space), desc=f"judging {name}", total=-(-n // 32), delay=2
    )
    with torch.no_grad():
        scores = torch.cat([torch.as_tensor(score(images)).flatten().cpu() for images in batches])
    table = pd.DataFrame(latents.flatten(1).cpu().numpy())
    relevance = pd.Series(scores.double().numpy())
    return brain_direction(table, relevance, space=space, method=method, name=name, generator=generator)


def _scaled(generator: Generator, directions: list[Direction]) -> list[Direction]:
    """The same directions with the prior's standard deviation along each, from one sample."""
    space = directions[0].space
    record = {"generator_sha256": generator.sha256, "scale_from": "prior"}
    if space == "w+":  # the prior of w+ is one w in all layers
        vectors = np.stack([direction.vector.sum(0) for direction in directions])
        samples = generator.sample(10_000, space="w")
    elif space == "s":
        return [
            replace(d, scale=prior_scale(generator, d.vector, "s"), provenance=d.provenance | record)
            for d in directions
        ]
    else:
        vectors = np.stack([direction.vector for direction in directions])
        samples = generator.sample(10_000, space=space)
    scales = (samples.double().cpu().numpy() @ vectors.T).std(0)
    pairs = zip(directions, scales, strict=True)
    return [replace(d, scale=float(s), provenance=d.provenance | record) for d, s in pairs]
