"""Directions that need no brain: a score's boundary, the axes of the first weights, the axes of the latents."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from brainedit.directions import Direction, prior_scale
from brainedit.generators.base import Generator
from brainedit.relevance_inputs import joined

_MIN_EXTREMES = 10  # a side
_N_AXES = 10  # directions when none are asked for
_N_PRIOR = 10_000  # samples that give the scale, as in `prior_scale`
_NO_BRAIN = "no brain took part"


def interfacegan_direction(
    latents: pd.DataFrame,
    labels: pd.Series,
    *,
    space: str,
    name: str = "",
    share: float = 0.02,
    generator: Generator | None = None,
    seed: int = 0,
) -> Direction:
    """The normal of the plane between pictures of high labels and pictures of low ones, joined by stimulus.

    latents : one row a stimulus, n_dims columns
    labels : one number a stimulus: scores, such as those of `scored_samples`, or two values, such as 0 and 1
    space : of the latents, "z" or "w" (a direction in w serves w+)
    share : of the stimuli that each extreme takes; where labels have two values, all stimuli of a value are one
    generator : gives the scale (10,000 prior samples) and the sha256, and brings z to the sphere where only its
        direction matters; without it the scale is that of `latents`, and z is taken as it is

    The reliability dict holds how well the plane tells pictures that did not fit it: accuracy_validation (three
    tenths of the extremes), and accuracy_rest, of the ambiguous ones between them, told above from below their
    middle score. Both are balanced, chance is .5; accuracy_rest is None where nothing is left or all score alike.
    The boundary takes no account of other attributes that go with the labels: see `Direction.orthogonal_to`.

    Raises ValueError when stimuli do not match, a label is no number, an extreme has fewer than 10 stimuli, or the
    scores do not tell the extremes.
    Source: Shen et al., CVPR 2020 (10,000 of 500,000 samples a side, linear SVM). Differs: latents come in units
    of their own standard deviation, so that the SVM's C = 1 means the same in w; both extremes weigh alike where
    one is larger; accuracies are balanced; the rest is halved at its median, not at the middle of the range.
    """
    x, scores = _labelled(latents, labels, space, generator)
    low, rest, high = _extremes(scores, share)
    raw = x
    if space == "z" and generator is not None and generator.normalises_z:
        x = x * np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    x = (x - x.mean(0)) / x.std(0).mean()
    normal, found = _boundary(x, scores, (low, rest, high), np.random.default_rng(seed))
    provenance = {
        "method": "interfacegan",
        "supervision": f"labels of pictures; {_NO_BRAIN}",
        "n": len(scores),
        "n_extremes": len(low) + len(high),
        "seed": seed,
        "generator_sha256": generator.sha256 if generator is not None else None,
        "scale_from": "prior" if generator is not None else "latents",
    }
    scale = float((raw @ normal).std()) if generator is None else prior_scale(generator, normal, space)
    return Direction(normal, space, scale, name, provenance, found)


def scored_samples(
    generator: Generator,
    score: Callable[[Tensor], Tensor],
    *,
    space: str,
    n: int = 10_000,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.Series]:
    """n latents of the prior (n, n_dims) and the scores (n,) of their pictures, for `interfacegan_direction`.

    score : pictures (n, 3, height, width), 0 to 1 -> (n,), such as `Judge.score`

    Raises ValueError for a space that the generator lacks, or scores that are not one finite number a picture.
    """
    latents = generator.sample(n, space=space, seed=seed)
    scores = _scores(generator, score, latents, space)
    table = pd.DataFrame(latents.double().flatten(1).cpu().numpy())
    return table, pd.Series(scores, index=table.index)


def sefa_directions(
    generator: Generator, *, n: int | None = None, layers: Sequence[int] | None = None
) -> list[Direction]:
    """The n orthogonal directions that move the first features after the latent most, the strongest first.

    n : 10 when None, or all where there are fewer
    layers : the w+ layers whose weights count and that move, e.g. range(4, 8); None takes all layers, in w. A
        generator without w has one matrix, from z to its first map, and takes None

    They belong to the weights alone: what each does has to be looked at. Rows of all features count alike, those
    of RGB layers too. The sign is arbitrary; the entry of largest size is made positive. Each provenance holds
    `strength`, the direction's share of the features' power.

    Raises ValueError for layers or a number of directions that the generator does not have.
    Source: Shen and Zhou, CVPR 2021 (section 3; rows of the weights at unit length as in their code). Differs: the
    eigenvectors of the symmetric matrix come sorted.
    """
    weights = [weight.double().cpu().numpy() for weight in generator.style_weights()]
    chosen = _checked_layers(generator, layers)
    rows = np.concatenate(weights if chosen is None else [weights[i] for i in chosen])
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows[lengths[:, 0] > 0] / lengths[lengths[:, 0] > 0]
    values, vectors = _top_axes(rows.T @ rows, n, f"Weights of {generator.name}")
    space = "z" if not generator.w_dim else "w"
    return _directions(generator, vectors, values, space, chosen, "SeFa", {"method": "sefa"})


def ganspace_directions(
    generator: Generator,
    *,
    space: str = "w",
    n: int | None = None,
    n_samples: int = 10_000,
    layers: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Direction]:
    """The first n principal components of w, the one of largest variance first.

    n : 10 when None, or all where there are fewer
    layers : the w+ layers that move, e.g. range(4, 8); None moves all, in w

    They belong to the prior alone: what each does has to be looked at. The sign is arbitrary; the entry of largest
    size is made positive. Each provenance holds `strength`, the component's share of the variance.

    Raises ValueError for another space than "w" (z has no axes of its own: it is drawn from N(0, I)), for no more
    samples than dimensions, or for more components than w varies along.
    Source: Härkönen et al., NeurIPS 2020. Differs: the whole covariance of 10,000 samples, not an incremental
    fit to a million; no components of activations (of a linear first layer `sefa_directions` gives them, up to
    the lengths of its rows).
    """
    if space == "z":
        raise ValueError(
            f"z of {generator.name} is drawn from N(0, I), so no axis of it has more variance than another; take "
            "space 'w' where there is one, or sefa_directions."
        )
    if space != "w":
        raise ValueError(f"Components are those of 'w'; got {space!r}. For some layers of 'w+' give layers.")
    if n_samples <= generator.latent_shape("w")[0]:
        raise ValueError(f"Need more samples than the {generator.w_dim} dimensions of w; got {n_samples}.")
    chosen = _checked_layers(generator, layers)
    w = generator.sample(n_samples, space="w", seed=seed).double().cpu().numpy()
    values, vectors = _top_axes(np.cov(w.T), n, f"w of {generator.name}")
    origin = {"method": "ganspace", "n": n_samples, "seed": seed}
    return _directions(generator, vectors, values, "w", chosen, "GANSpace", origin)


def _labelled(
    latents: pd.DataFrame, labels: pd.Series, space: str, generator: Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Latents (n, n_dims) and labels (n,), row for row the same stimulus."""
    if space not in ("z", "w"):
        raise ValueError(
            f"Look for the boundary in 'z' or in 'w', which serves 'w+' by broadcast over the layers; got {space!r}."
        )
    if not isinstance(latents, pd.DataFrame) or not isinstance(labels, pd.Series):
        raise ValueError(
            "Need latents as a DataFrame and labels as a Series, one row a stimulus; got "
            f"{type(latents).__name__} and {type(labels).__name__}."
        )
    if not pd.api.types.is_numeric_dtype(labels):
        raise ValueError(
            f"Labels are numbers, higher for what the direction points to; got {labels.iloc[0]!r}."
        )
    if generator is not None and (latents.shape[1],) != generator.latent_shape(space):
        raise ValueError(
            f"{generator.name} has latents {generator.latent_shape(space)} in {space!r}; these have "
            f"{latents.shape[1]} numbers."
        )
    joined(latents, labels)  # its checks; the latents are needed uncentred
    x = latents.to_numpy(dtype=np.float64)
    if not np.ptp(x, axis=0).any():
        raise ValueError(f"All {len(x)} latents are the same; a boundary needs them to differ.")
    return x, labels.loc[latents.index].to_numpy(dtype=np.float64)


def _extremes(scores: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the low extreme, of the rest between, and of the high extreme; two values leave no rest."""
    order = np.argsort(scores, kind="stable")
    values = np.unique(scores)
    if len(values) == 2:
        n_low, n_high = (int((scores == value).sum()) for value in values)
        if min(n_low, n_high) < _MIN_EXTREMES:
            raise ValueError(
                f"Need {_MIN_EXTREMES} or more samples of each label; {n_low} are {values[0]:g} and {n_high} are "
                f"{values[1]:g}."
            )
    else:
        n_low = n_high = _extreme_size(len(scores), share)
    low, rest, high = np.split(order, [n_low, len(order) - n_high])
    if not scores[low[-1]] < scores[high[0]]:
        raise ValueError(
            f"The scores do not tell the extremes apart: the lowest {n_low} of {len(scores)} reach up to "
            f"{scores[low[-1]]:g}, the highest begin at {scores[high[0]]:g}."
        )
    return low, rest, high


def _extreme_size(n: int, share: float) -> int:
    """How many samples each extreme takes."""
    if not 0 < share <= 0.5:
        raise ValueError(f"The share of an extreme lies above 0 and up to .5; got {share:g}.")
    n_side = int(n * share + 1e-9)
    if n_side < _MIN_EXTREMES:
        raise ValueError(
            f"Need {_MIN_EXTREMES} or more samples an extreme; a share of {share:g} of {n} samples is {n_side}."
        )
    return n_side


def _scores(
    generator: Generator, score: Callable[[Tensor], Tensor], latents: Tensor, space: str
) -> np.ndarray:
    """Scores (n,) of the pictures that latents make."""
    batches = generator.synthesize_batches(latents, space=space)
    bar = tqdm(batches, desc="judging samples", total=-(-len(latents) // 32), delay=2)
    with torch.no_grad():
        parts = [torch.as_tensor(score(images)).double().cpu() for images in bar]
    wrong = next((tuple(part.shape) for part in parts if part.ndim != 1), None)
    scores = torch.cat([part.flatten() for part in parts]).numpy()
    if wrong is not None or len(scores) != len(latents):
        raise ValueError(f"The score must give one number a picture; got shape {wrong or scores.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"The scores must be finite; {(~np.isfinite(scores)).sum()} of {len(scores)} are not."
        )
    return scores


def _boundary(
    x: np.ndarray,
    scores: np.ndarray,
    extremes: tuple[np.ndarray, np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, dict[str, float | int | None]]:
    """Unit normal (n_dims,) towards higher scores, and how well the plane tells what did not fit it."""
    from sklearn.svm import SVC

    low, rest, high = extremes
    n_fit = [len(side) - max(1, round(0.3 * len(side))) for side in (low, high)]
    sides = zip((low, high), n_fit, strict=True)
    fit, held = zip(*(np.split(rng.permutation(side), [n]) for side, n in sides), strict=True)
    model = SVC(kernel="linear", class_weight="balanced")
    model.fit(x[np.concatenate(fit)], np.repeat([False, True], n_fit))
    held = np.concatenate(held)
    found = {
        "accuracy_validation": _accuracy(model.predict(x[held]), scores[held] > scores[low[-1]]),
        "accuracy_rest": None,
        "n_validation": len(held),
        "n_rest": len(rest),
    }
    if len(rest) and np.ptp(scores[rest]) > 0:
        middle = np.median(scores[rest])
        above = scores[rest] > middle
        above = above if above.any() else scores[rest] >= middle
        found["accuracy_rest"] = _accuracy(model.predict(x[rest]), above)
    return model.coef_[0] / np.linalg.norm(model.coef_[0]), found


def _accuracy(told: np.ndarray, true: np.ndarray) -> float:
    """Mean of the shares told right among the true and among the others."""
    return float((told[true].mean() + (~told[~true]).mean()) / 2)


def _checked_layers(generator: Generator, layers: Sequence[int] | None) -> list[int] | None:
    if layers is None:
        return None
    chosen = list(layers)
    if not generator.w_dim:
        raise ValueError(f"{generator.name} has no layers of w+; leave layers out instead of {chosen}.")
    known = range(generator.n_layers)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
        raise ValueError(
            f"{generator.name} has layers 0 to {known[-1]}; name some of them once each, not {chosen}."
        )
    return chosen


def _top_axes(matrix: np.ndarray, n: int | None, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The n largest eigenvalues as shares of their sum (n,), and their unit eigenvectors (n, n_dims), signed."""
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1], vectors.T[::-1]
    rank = int((values > 1e-10 * max(values[0], 0)).sum())
    n = max(1, min(_N_AXES, rank)) if n is None else n
    if not 1 <= n <= rank:
        raise ValueError(f"{what}: {rank} axes along which anything varies; {n} were asked for.")
    vectors = vectors[:n]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], axis=1)
    return values[:n] / values.sum(), vectors * np.sign(largest)


def _directions(
    generator: Generator,
    vectors: np.ndarray,
    strengths: np.ndarray,
    space: str,
    layers: list[int] | None,
    title: str,
    origin: dict[str, object],
) -> list[Direction]:
    """Unit vectors (k, n_dims) as Directions; with layers in w+, where those alone move, all alike."""
    samples = generator.sample(_N_PRIOR, space=space).double().cpu().numpy()
    scales = (samples @ vectors.T).std(0)
    origin = origin | {
        "supervision": f"none; {_NO_BRAIN}",
        "sign": "arbitrary: its largest entry is positive",
    }
    origin |= {"generator_sha256": generator.sha256, "scale_from": "prior"}
    if layers is not None:
        space, origin["layers"] = "w+", layers
        spread = np.zeros((len(vectors), *generator.latent_shape("w+")))
        spread[:, layers] = vectors[:, None] / np.sqrt(len(layers))
        vectors, scales = spread, scales * np.sqrt(len(layers))
    rows = zip(vectors, scales, strengths, strict=True)
    return [
        Direction(vector, space, scale, f"{title} {i}", origin | {"rank": i, "strength": float(strength)})
        for i, (vector, scale, strength) in enumerate(rows, start=1)
    ]
