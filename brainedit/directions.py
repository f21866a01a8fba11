"""Directions in a generator's latent space, and the ways to find one from the brain."""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import linalg

from brainedit.crowds import person_slopes
from brainedit.direction_reliability import DirectionReliability, LooksNeeded, reliability
from brainedit.generators.base import SPACES, Generator
from brainedit.relevance import metadata_of, target_mask
from brainedit.relevance_inputs import HIERARCHICAL, joined_people, prepared
from brainedit.slopes import Ridge, contrast, cosine, trial_controls, unit

if TYPE_CHECKING:
    import mne

__all__ = [
    "Direction",
    "DirectionReliability",
    "LooksNeeded",
    "brain_direction",
    "compatibility_direction",
    "person_directions",
    "prior_scale",
    "reliability",
]

_HEADER = "brainedit.direction"

_MIN_DRAWS = 10
_MIN_TRIALS = 4  # of each kind


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector in a latent space that points to more of something.

    vector : (n_dims,), or (n_layers, n_dims) in "w+"; float64, length 1
    scale : standard deviation of latent . vector; edits are told in multiples of it
    provenance : where it comes from: generator_sha256, method, n, ...
    reliability : figures that say how far to trust it, or None

    Raises ValueError when the vector is not of length 1 or the scale is not positive.
    """

    vector: np.ndarray
    space: str
    scale: float
    name: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    reliability: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        vector = np.array(self.vector, dtype=np.float64)
        if self.space not in SPACES:
            raise ValueError(f"A direction lives in one of {', '.join(SPACES)}; got space {self.space!r}.")
        if vector.ndim not in ((1, 2) if self.space == "w+" else (1,)):
            raise ValueError(f"A direction in {self.space!r} cannot have the shape {vector.shape}.")
        length = np.linalg.norm(vector)
        if not abs(length - 1) < 1e-6:
            raise ValueError(f"A direction's vector must have length 1; this one has {length:.6g}.")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"A direction's scale must be a positive number; got {self.scale}.")
        vector.flags.writeable = False
        object.__setattr__(self, "vector", vector)
        object.__setattr__(self, "scale", float(self.scale))

    def save(self, path: str | os.PathLike) -> Path:
        """Write one safetensors file: the vector, and all else as JSON in its header."""
        from safetensors.numpy import save_file

        record = {key: value for key, value in asdict(self).items() if key != "vector"}
        partial = Path(f"{path}.partial")
        save_file({"vector": np.array(self.vector)}, partial, metadata={_HEADER: json.dumps(record)})
        os.replace(partial, path)
        return Path(path)

    @staticmethod
    def load(path: str | os.PathLike) -> "Direction":
        """Read what `save` wrote.

        Raises ValueError for a file that is damaged or no direction. Nothing is unpickled.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no direction at {path}.")
        try:
            with safe_open(path, "numpy") as file:
                record = (file.metadata() or {}).get(_HEADER)
                vector = file.get_tensor("vector")
            return Direction(vector=vector, **json.loads(record))
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged or no direction written by brainedit: {error}") from error

    def orthogonal_to(self, *others: "Direction", generator: Generator | None = None) -> "Direction":
        """What is left of this direction when the others are projected out, so that edits leave them alone.

        others : directions of the same space; they may be collinear
        generator : gives the new scale; without it the old one is kept, and provenance says so

        Raises ValueError for another space or shape, or when nothing is left.
        Source: Shen et al., TPAMI 2020 (conditional manipulation); pivoted QR takes any number of conditions.
        """
        for other in others:
            if not isinstance(other, Direction):
                raise ValueError(
                    f"A direction is put at right angles to one Direction after another; got {type(other).__name__}."
                )
            makers = [d.provenance.get("generator_sha256") for d in (self, other)]
            if None not in makers and makers[0] != makers[1]:
                raise ValueError(
                    f"{other.name!r} was found in another generator (sha256 {makers[1][:12]}) than {self.name!r} "
                    f"({makers[0][:12]})."
                )
            if (other.space, other.vector.shape) != (self.space, self.vector.shape):
                raise ValueError(
                    f"{other.name!r} lives in {other.space!r} {other.vector.shape}, "
                    f"{self.name!r} in {self.space!r} {self.vector.shape}; they cannot be compared."
                )
        if not others:
            return self
        columns = np.stack([other.vector.ravel() for other in others], axis=1)  # (n_dims, n_others)
        basis, triangle, _ = linalg.qr(columns, mode="economic", pivoting=True)
        basis = basis[:, np.abs(np.diag(triangle)) > 1e-8]
        rest = self.vector.ravel() - basis @ (basis.T @ self.vector.ravel())
        rest -= basis @ (basis.T @ rest)  # once more, for accuracy
        length = np.linalg.norm(rest)
        if length < 1e-6:
            names = ", ".join(repr(other.name) for other in others)
            raise ValueError(f"Nothing of direction {self.name!r} is left when {names} are projected out.")
        vector = (rest / length).reshape(self.vector.shape)
        scale, origin = (
            (self.scale, "kept")
            if generator is None
            else (prior_scale(generator, vector, self.space), "prior")
        )
        provenance = {
            **self.provenance,
            "orthogonal_to": [other.name for other in others],
            "length_left": float(length),
            "scale_from": origin,
        }
        return replace(self, vector=vector, scale=scale, provenance=provenance, reliability=None)


def brain_direction(
    latents: pd.DataFrame,
    relevance: pd.Series | pd.DataFrame,
    *,
    space: str,
    method: str = "ridge",
    name: str = "",
    generator: Generator | None = None,
) -> Direction:
    """The direction along which pictures grow more relevant, joined by stimulus.

    latents : one row a stimulus, n_dims columns ("w+": n_layers x n_dims, layer by layer, and a generator)
    relevance : one number a stimulus, higher is more relevant; for "hierarchical" a table of people x stimuli,
        NaN where a person did not see one
    method : "ridge" (penalty by generalised cross-validation), "ridge_fixed" (penalty n_dims x the mean
        variance of a dimension), "svr" (as in Davis 2022), "mean_difference", "logistic", or "hierarchical"
        (people pooled by how much each tells, then ridge with images weighted by how well they are known)
    generator : gives the scale (10,000 prior samples) and the sha256; else the scale is that of `latents`

    Raises ValueError when stimuli do not match, fewer than 10 come, relevance is constant, or a value is NaN.
    Source: Davis et al., CVPR 2022. Differs: ridge by default, no worse than their SVR and fast at any n.
    """
    fit, y = prepared(latents, relevance, method)
    vector = unit(fit.coefficients(y), method)
    origin = {"method": method, "n": len(y)}
    if method == HIERARCHICAL:
        origin["n_people"] = len(relevance)
    return _direction(latents, vector, space, name, generator, origin)


def person_directions(
    latents: pd.DataFrame, relevance: pd.DataFrame, *, space: str, generator: Generator | None = None
) -> dict[Any, Direction]:
    """The direction of each person, drawn to the crowd's as far as people agree (empirical Bayes).

    latents, relevance, generator : as in `brain_direction` with "hierarchical"

    How much people differ is found from all of them; where it is nothing, each gets the crowd's direction.
    Raises ValueError as `brain_direction` does.
    """
    fit, y = prepared(latents, relevance, HIERARCHICAL)
    x, people = joined_people(latents, relevance)
    slopes = person_slopes(x, people, unit(fit.coefficients(y), HIERARCHICAL))
    return {
        person: _direction(
            latents,
            unit(slope, HIERARCHICAL),
            space,
            str(person),
            generator,
            {"method": HIERARCHICAL, "n": int(np.isfinite(values).sum()), "person": str(person)},
        )
        for person, slope, values in zip(relevance.index, slopes, people, strict=True)
    }


def compatibility_direction(
    model: Any,
    generator: Generator,
    epochs: "mne.BaseEpochs",
    *,
    target: str,
    space: str,
    n_latents: int = 5000,
    n_permutations: int = 200,
    n_gradients: int = 256,
    batch_size: int = 8,
    seed: int = 0,
    name: str = "",
) -> Direction:
    """The direction along which pictures fit the EEG of target trials better than that of the others.

    Over prior samples w, dF(w) = mean over target trials of F(e, G(w)) minus the mean over other trials; its
    ridge direction in w is returned. In an oddball the trials differ by relevance, not by content: dF then
    says where pictures look more like what F learnt from relevant trials, not what was seen.

    model : a JointModel that was trained on none of these trials and pictures
    target : query on epochs.metadata that is true for target trials, e.g. "label == 'smile'"
    space : "z" or "w" (a direction in w serves w+)
    n_gradients : prior samples whose gradient of dF through G is averaged, as a check; 0 leaves it out

    The reliability dict holds: strength (SD over the prior samples of the linear part of dF), its mean under
    permuted target labels (within `run` where the metadata have it), p, null_band (cosines of permuted
    directions with this one), split_half and split_half_full (over trials), gradient_cosine (Stein: for
    Gaussian latents the mean gradient is the regression slope; w is not Gaussian, so there only roughly).

    Raises ValueError when trials or pictures trained the model, or the query does not split the trials.
    """
    model.check_unseen(epochs)
    if space == "w+":
        raise ValueError("Look for the direction in 'w': it serves 'w+' by broadcast over the layers.")
    generator.latent_shape(space)
    if min(n_latents, n_permutations) < _MIN_DRAWS:
        raise ValueError(f"Need 10 or more latents and permutations; got {n_latents} and {n_permutations}.")
    targets = _target_trials(epochs, target)
    eeg = _embed_epochs(model, epochs, batch_size)  # (n_trials, n_dims)
    latents = generator.sample(n_latents, space=space, seed=seed)
    theta = _embed_latents(model, generator, latents, space, batch_size)  # (n_latents, n_dims)
    x = latents.double().cpu().numpy()
    x = x - x.mean(0)
    slopes = Ridge(x).coefficients(theta - theta.mean(0))  # (n_latent_dims, n_dims): from embedding to latent

    delta = (eeg.T @ contrast(targets[:, None]))[:, 0]
    vector = unit(slopes @ delta, "compatibility")
    gradient = _mean_gradient(model, generator, latents[:n_gradients], delta, space, batch_size)
    found = trial_controls(epochs.metadata, targets, eeg, slopes, x, n_permutations, seed)
    found["gradient_cosine"] = None if gradient is None else float(cosine(gradient, vector))
    provenance = {
        "method": "compatibility",
        "n": len(targets),
        "n_targets": int(targets.sum()),
        "n_latents": n_latents,
        "target": target,
        "seed": seed,
        "generator_sha256": generator.sha256,
        "scale_from": "prior",
    }
    return Direction(vector, space, prior_scale(generator, vector, space), name or target, provenance, found)


def prior_scale(generator: Generator, vector: np.ndarray, space: str) -> float:
    """Standard deviation of latent . vector over 10,000 prior samples of the generator (seed 0)."""
    if space == "w+":  # the prior of w+ is one w in all layers
        space, vector = "w", vector.sum(0)
    latents = generator.sample(10_000, space=space).double().cpu().numpy()
    return float((latents @ vector).std())


def _direction(
    latents: pd.DataFrame,
    vector: np.ndarray,
    space: str,
    name: str,
    generator: Generator | None,
    origin: dict[str, Any],
) -> Direction:
    """A slope of unit length (n_dims,) as a Direction with its scale and provenance."""
    if generator is not None:
        shape = generator.latent_shape(space)
        if vector.size != np.prod(shape):
            raise ValueError(
                f"{generator.name} has latents {shape} in {space!r}; these have {vector.size} numbers."
            )
        vector = vector.reshape(shape)
        scale = prior_scale(generator, vector, space)
    elif space == "w+":
        raise ValueError("A direction in 'w+' needs its generator, which knows the layers; pass generator=.")
    else:
        scale = float((latents.to_numpy(dtype=np.float64) @ vector).std())
    provenance = {
        **origin,
        "generator_sha256": generator.sha256 if generator is not None else None,
        "scale_from": "prior" if generator is not None else "latents",
    }
    return Direction(vector, space, scale, name, provenance)


def _target_trials(epochs: "mne.BaseEpochs", target: str) -> np.ndarray:
    """True for target trials (n,); ValueError for too few of either kind."""
    targets = target_mask(metadata_of(epochs), target)
    if min(targets.sum(), (~targets).sum()) < _MIN_TRIALS:
        raise ValueError(
            f"Need {_MIN_TRIALS} or more target and other trials; {target!r} is true for {targets.sum()} of "
            f"{len(targets)}."
        )
    return targets


@torch.no_grad()
def _embed_epochs(model: Any, epochs: "mne.BaseEpochs", batch_size: int) -> np.ndarray:
    """EEG embeddings (n_trials, n_dims)."""
    eeg = model.prepare_eeg(epochs)
    return _finite(torch.cat([model.embed_eeg(part) for part in eeg.split(batch_size)]), "EEG")


@torch.no_grad()
def _embed_latents(
    model: Any, generator: Generator, latents: torch.Tensor, space: str, batch_size: int
) -> np.ndarray:
    """Embeddings (n_latents, n_dims) of the pictures that the generator makes of latents."""
    from tqdm import tqdm

    batches = generator.synthesize_batches(latents, space=space, batch_size=batch_size)
    bar = tqdm(batches, total=-(-len(latents) // batch_size), desc="embedding generated pictures")
    return _finite(torch.cat([model.embed_image(model.resize_image(images)) for images in bar]), "picture")


def _finite(embedding: torch.Tensor, what: str) -> np.ndarray:
    if not torch.isfinite(embedding).all():
        raise ValueError(f"The model gives NaN or infinity for some {what} embeddings; it cannot be used.")
    return embedding.double().cpu().numpy()


def _mean_gradient(
    model: Any, generator: Generator, latents: torch.Tensor, delta: np.ndarray, space: str, batch_size: int
) -> np.ndarray | None:
    """Mean gradient (n_dims,) of dF over latents, through generator and image encoder."""
    from tqdm import tqdm

    total = None
    for part in tqdm(
        latents.split(batch_size) if len(latents) else (), desc="gradient through the generator"
    ):
        part = part.detach().requires_grad_()
        theta = model.embed_image(model.resize_image(generator.synthesize(part, space=space)))
        score = theta @ torch.as_tensor(delta, dtype=theta.dtype, device=theta.device)
        gradient = torch.autograd.grad(score.sum(), part)[0].sum(0).double().cpu().numpy()
        total = gradient if total is None else total + gradient
    return None if total is None else total / len(latents)
