"""Directions that need no brain: a score's boundary, the axes of the first weights, the axes of the latents."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from brainedit.directions import Direction, prior_scale
from brainedit.generators.base import Generator

_MIN_EXTREMES = 10  # a side
_N_PRIOR = 10_000  # samples that give the scale, as in `prior_scale`
_NO_BRAIN = "no brain took part"


def interfacegan_direction(
    generator: Generator,
    score: Callable[[Tensor], Tensor],
    *,
    space: str,
    name: str,
    n: int = 10_000,
    share: float = 0.02,
    seed: int = 0,
) -> Direction:
    """The normal of the plane between the samples that score highest and those that score lowest.

    score : pictures (n, 3, height, width), 0 to 1 -> (n,), such as `Judge.score`
    space : "z" or "w" (a direction in w serves w+); z is brought to the sphere where only its direction matters
    share : of the n samples that each extreme takes

    The reliability dict holds how well the plane tells pictures that did not fit it: accuracy_validation (three
    tenths of the extremes), and accuracy_rest, of the ambiguous samples between them, told above from below their
    middle score. Both are balanced, chance is .5; accuracy_rest is None where nothing is left or all score alike.
    The boundary takes no account of other attributes that go with the score: see `Direction.orthogonal_to`.

    Raises ValueError for fewer than 10 samples an extreme, NaN scores, or scores that do not tell the extremes.
    Source: Shen et al., CVPR 2020 (10,000 of 500,000 samples a side, linear SVM). Differs: latents come in units
    of their own standard deviation, so that the SVM's C = 1 means the same in w; accuracies are balanced; the
    rest is halved at its median, not at the middle of the range.
    """
    if space == "w+":
        raise ValueError("Look for the boundary in 'w': it serves 'w+' by broadcast over the layers.")
    n_side = _extreme_size(n, share)
    latents = generator.sample(n, space=space, seed=seed)
    scores = _scores(generator, score, latents, space, name)
    x = latents.double().cpu().numpy()
    if space == "z" and generator.normalises_z:
        x *= np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    x = (x - x.mean(0)) / x.std(0).mean()
    normal, found = _boundary(x, scores, n_side, np.random.default_rng(seed))
    provenance = {
        "method": "interfacegan",
        "supervision": f"scores of generated pictures; {_NO_BRAIN}",
        "n": n,
        "n_extremes": 2 * n_side,
        "seed": seed,
        "generator_sha256": generator.sha256,
        "scale_from": "prior",
    }
    return Direction(normal, space, prior_scale(generator, normal, space), name, provenance, found)


def sefa_directions(
    generator: Generator, *, n: int = 5, layers: Sequence[int] | None = None
) -> list[Direction]:
    """The n orthogonal directions that move the first features after the latent most, the strongest first.

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
    n: int = 10,
    n_samples: int = 10_000,
    layers: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Direction]:
    """The first n principal components of w, the one of largest variance first.

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
    generator: Generator, score: Callable[[Tensor], Tensor], latents: Tensor, space: str, name: str
) -> np.ndarray:
    """Scores (n,) of the pictures that latents make."""
    batches = generator.synthesize_batches(latents, space=space)
    bar = tqdm(batches, desc=f"judging {name}", total=-(-len(latents) // 32), delay=2)
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
    x: np.ndarray, scores: np.ndarray, n_side: int, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, float | int | None]]:
    """Unit normal (n_dims,) towards higher scores, and how well the plane tells what did not fit it."""
    from sklearn.svm import SVC

    order = np.argsort(scores, kind="stable")
    low, rest, high = np.split(order, [n_side, len(order) - n_side])
    if not scores[low[-1]] < scores[high[0]]:
        raise ValueError(
            f"The scores do not tell the extremes apart: the lowest {n_side} of {len(scores)} reach up to "
            f"{scores[low[-1]]:g}, the highest begin at {scores[high[0]]:g}."
        )
    n_fit = n_side - max(1, round(0.3 * n_side))
    fit, held = zip(*(np.split(rng.permutation(side), [n_fit]) for side in (low, high)), strict=True)
    model = SVC(kernel="linear").fit(x[np.concatenate(fit)], np.repeat([False, True], n_fit))
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


def _top_axes(matrix: np.ndarray, n: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The n largest eigenvalues as shares of their sum (n,), and their unit eigenvectors (n, n_dims), signed."""
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1], vectors.T[::-1]
    rank = int((values > 1e-10 * max(values[0], 0)).sum())
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
