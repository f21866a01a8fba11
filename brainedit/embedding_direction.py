"""A direction from EEG embeddings alone: what they tell of the latents of pictures that were left out."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from brainedit.directions import Direction, prior_scale
from brainedit.evaluation import permutation_p
from brainedit.generators.base import Generator
from brainedit.relevance import metadata_of, target_mask
from brainedit.slopes import Ridge, band, contrast, cosine, permuted_within, spearman_brown, unit
from brainedit.splits import recording_names

if TYPE_CHECKING:
    import mne

_MIN_PICTURES = 6  # of each kind
_MIN_DRAWS = 10


def embedding_direction(
    model: Any,
    generator: Generator,
    epochs: "mne.BaseEpochs",
    latents: pd.DataFrame,
    *,
    target: str,
    space: str,
    subject: str | None = None,
    n_folds: int = 5,
    n_permutations: int = 200,
    n_splits: int = 50,
    seed: int = 0,
    name: str = "",
) -> Direction:
    """From the latents that the EEG predicts of other pictures to those that it predicts of target pictures.

    A ridge regression takes a picture's mean EEG embedding phi to its latent. It predicts pictures that were
    left out of its fit; the direction is the mean prediction of targets minus that of the others. In the fit
    itself targets are not used, but where phi tells what is seen as well as what is relevant, the direction
    holds both. phi is centred within each run of a person, so that a drift between runs does not decide.

    model : a JointModel that was trained on none of these trials and pictures
    latents : one row a stimulus, n_dims columns ("w+": n_layers x n_dims, layer by layer); rows of pictures that
        were not shown are left out
    target : query on epochs.metadata that is true for target trials; true for all trials of a picture or for none
    subject : whose input layer of the model is used, where it has one a person

    The reliability dict holds: strength (length of the direction before it was brought to 1, in units of the
    latents), its mean under targets permuted over pictures (within `run` where each picture was shown in one),
    p, null_band (cosines of permuted directions with this one), explained (share of the latents' variance that is
    predicted of pictures left out; not above 0 where phi tells nothing), split_half and split_half_full (over
    pictures, everything fitted anew in each half).

    Raises ValueError when trials or pictures trained the model, a picture has no latent or is both target and
    not, or there are fewer than 6 pictures of a kind.
    """
    model.check_unseen(epochs)
    shape = generator.latent_shape(space)
    if n_permutations < _MIN_DRAWS or n_splits < 1 or n_folds < 2:
        raise ValueError(
            f"Need 10 or more permutations, 1 or more splits and 2 or more folds; got {n_permutations}, "
            f"{n_splits} and {n_folds}."
        )
    responses, z, wanted, block = _shown(model, epochs, latents, target, shape, subject)
    rng = np.random.default_rng(seed)
    predicted = _predicted(responses, z, wanted, n_folds, rng)
    difference = predicted.T @ contrast(wanted[:, None])[:, 0]
    found = _controls(z, predicted, wanted, block, n_permutations, rng)
    found |= _halves(responses, z, wanted, n_folds, n_splits, rng)
    vector = unit(difference, "embedding").reshape(shape)
    provenance = {
        "method": "embedding",
        "n": len(wanted),
        "n_trials": len(epochs),
        "n_targets": int(wanted.sum()),
        "target": target,
        "seed": seed,
        "generator_sha256": generator.sha256,
        "scale_from": "prior",
    }
    return Direction(vector, space, prior_scale(generator, vector, space), name or target, provenance, found)


def _shown(
    model: Any,
    epochs: "mne.BaseEpochs",
    latents: pd.DataFrame,
    target: str,
    shape: tuple[int, ...],
    subject: str | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each picture: mean phi, centred latent, whether it is a target, and among which ones that is permuted."""
    metadata = metadata_of(epochs)
    names, picture, wanted = _pictures(metadata, target_mask(metadata, target))
    z = _latents_of(latents, names, shape)
    phi = model.embed_epochs(epochs, subject=subject).double().cpu().numpy()
    if not np.isfinite(phi).all():
        raise ValueError("The model gives NaN or infinity for some EEG embeddings; it cannot be used.")
    run = pd.factorize(recording_names(metadata))[0]
    responses = _means(phi - _means(phi, run, run.max() + 1)[run], picture, len(names))
    return responses, z, wanted, _blocks(picture, run)


def _predicted(
    responses: np.ndarray, latents: np.ndarray, wanted: np.ndarray, n_folds: int, rng: np.random.Generator
) -> np.ndarray:
    """Latents (n_pictures, n_latent_dims) as other pictures' responses predict them, less those pictures' mean.

    Less the mean, because the more targets are left out the farther it is from theirs: even noise would then give
    the opposite of what the labels say.
    """
    fold = _folds(wanted, n_folds, rng)
    found = np.zeros_like(latents)
    for k in range(fold.max() + 1):
        out = fold == k
        x, z = responses[~out], latents[~out]
        slopes = _Ridge(x - x.mean(0)).coefficients(z - z.mean(0))
        found[out] = (responses[out] - x.mean(0)) @ slopes
    return found


class _Ridge(Ridge):
    """Ridge of many targets that share one penalty, so that no axis of the latents is preferred."""

    def __init__(self, x: np.ndarray):
        super().__init__(x, strengths=np.logspace(-2, 3, 41))

    def pick(self, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Index (k,) of the penalty with the least generalised cross-validation over all targets, k times."""
        best = super().pick(np.linalg.norm(scores, axis=1)[:, None], y.reshape(-1, 1))
        return np.repeat(best, y.shape[1])


def _pictures(metadata: pd.DataFrame, targets: np.ndarray) -> tuple[pd.Index, np.ndarray, np.ndarray]:
    """Names of the pictures, each trial's code (n_trials,), and which pictures are targets (n_pictures,)."""
    if "stimulus" not in metadata or metadata["stimulus"].isna().any():
        raise ValueError(
            f"Need the 'stimulus' of every trial; the metadata have {', '.join(map(str, metadata.columns))}."
        )
    picture, names = pd.factorize(metadata["stimulus"])
    share = _means(targets[:, None].astype(float), picture, len(names))[:, 0]
    both = (share > 0) & (share < 1)
    if both.any():
        raise ValueError(
            f"{names[both][0]!r} and {both.sum() - 1} more pictures are targets in some trials and not in others; "
            "take the trials of one task."
        )
    wanted = share > 0.5
    if min(wanted.sum(), (~wanted).sum()) < _MIN_PICTURES:
        raise ValueError(
            f"Need {_MIN_PICTURES} or more pictures of each kind; {wanted.sum()} of {len(names)} are targets."
        )
    return pd.Index(names), picture, wanted


def _latents_of(latents: pd.DataFrame, names: pd.Index, shape: tuple[int, ...]) -> np.ndarray:
    """Centred latents (n_pictures, n_latent_dims) in the order of the names."""
    if latents.index.has_duplicates:
        twice = latents.index[latents.index.duplicated()][0]
        raise ValueError(f"Need one row a stimulus; {twice!r} comes more than once in the latents.")
    missing = names[~names.isin(latents.index)]
    if len(missing):
        raise ValueError(
            f"{missing[0]!r} and {len(missing) - 1} more pictures that were shown have no latent."
        )
    if latents.shape[1] != np.prod(shape):
        raise ValueError(f"Latents of shape {shape} are needed; these have {latents.shape[1]} numbers.")
    z = latents.loc[names].to_numpy(dtype=np.float64)
    bad = ~np.isfinite(z).all(1)
    if bad.any():
        raise ValueError(
            f"The latents must be finite; {names[bad][0]!r} and {bad.sum() - 1} more hold NaN or infinity."
        )
    return z - z.mean(0)


def _means(values: np.ndarray, codes: np.ndarray, n: int) -> np.ndarray:
    """Mean of the rows of each code, (n, n_dims); 0 for a code without rows."""
    sums = np.zeros((n, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums / np.maximum(np.bincount(codes, minlength=n), 1)[:, None]


def _folds(wanted: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each picture (n_pictures,); both kinds are spread evenly."""
    n_folds = min(n_folds, wanted.sum(), (~wanted).sum())
    order = np.lexsort((rng.random(len(wanted)), wanted))
    fold = np.empty(len(wanted), int)
    fold[order] = np.arange(len(wanted)) % n_folds
    return fold


def _blocks(picture: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Among which pictures targets are permuted, (n_pictures,): those of a run, where each was shown in one."""
    shown = np.unique(np.column_stack([picture, run]), axis=0)
    n_pictures = picture.max() + 1
    return shown[:, 1] if len(shown) == n_pictures else np.zeros(n_pictures, int)


def _controls(
    latents: np.ndarray,
    predicted: np.ndarray,
    wanted: np.ndarray,
    block: np.ndarray,
    n_permutations: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Length of the difference against targets permuted over pictures, and how much is predicted at all."""
    labels = np.column_stack([wanted, permuted_within(rng, wanted, block, n_permutations)])
    found = predicted.T @ contrast(labels)  # (n_latent_dims, 1 + n_permutations), the observed one first
    strength = np.linalg.norm(found, axis=0)
    return {
        "strength": float(strength[0]),
        "null_strength": float(strength[1:].mean()),
        "p": permutation_p(strength[0], strength[1:]),
        "null_band": band(cosine(found[:, 1:], found[:, 0])),
        "explained": float(1 - ((latents - predicted) ** 2).sum() / (latents**2).sum()),
        "n_permutations": n_permutations,
        "permuted_within": "run" if block.any() else "all pictures",
    }


def _halves(
    responses: np.ndarray,
    latents: np.ndarray,
    wanted: np.ndarray,
    n_folds: int,
    n_splits: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Mean cosine between the directions of random halves of the pictures, each with half of the targets."""
    from tqdm import tqdm

    cosines = []
    for _ in tqdm(range(n_splits), desc="directions of halves of the pictures", delay=2):
        first = _folds(wanted, 2, rng) == 0
        a, b = (
            _predicted(responses[half], latents[half], wanted[half], n_folds, rng).T
            @ contrast(wanted[half, None])[:, 0]
            for half in (first, ~first)
        )
        cosines.append(cosine(a, b))
    half = float(np.mean(cosines))
    return {"split_half": half, "split_half_full": spearman_brown(half), "n_splits": n_splits}
