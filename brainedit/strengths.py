"""How far an edit may go: a scan over strengths, and the strength at which a face becomes another one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from brainedit.directions import Direction
from brainedit.editing import Ruler, edit_latents
from brainedit.encoders.perceptual import make_distance
from brainedit.generators.base import Generator
from brainedit.generators.pggan import PGGAN
from brainedit.generators.prior import LatentPrior

LIMIT = 0.5  # of what two different samples are apart, or of the share that takes a face for itself
_PAIRS = 12  # of different samples

# distance of two z of the Progressive GAN of CelebA-HQ, and the share of looks of 500 ms at which the second face
# was taken for the first (53 raters, 140 to 190 looks each): Grizou et al., NeurIPS 2025, published analysis
_LOOKS_DISTANCE = (0, 1.6, 3.6, 6.8, 10.9, 16.3, 21.7, 29.4, 36.7, 46.2)
_LOOKS_SHARE = (0.493, 0.503, 0.377, 0.289, 0.129, 0.037, 0.032, 0.006, 0.000, 0.007)


class EmbeddingDistance(nn.Module):
    """1 - cosine of embeddings of pictures, 0 to 2, for a face recogniser or any other encoder.

    embed : pictures (n, 3, height, width), 0 to 1 -> embeddings (n, n_dims)

    Its interface is that of `FeatureDistance`.
    """

    def __init__(self, embed: Callable[[Tensor], Tensor], *, name: str = "embedding"):
        super().__init__()
        self.embed, self.name = embed, name

    def prepare(self, images: Tensor) -> Tensor:
        """Embeddings of length 1 (n, n_dims)."""
        return F.normalize(self.embed(images), dim=1)

    def forward(self, images: Tensor, prepared: Tensor) -> Tensor:
        """Distances (n,) of pictures to those that were prepared."""
        return 1 - (self.prepare(images) * prepared).sum(1)


class IdentityLoss:
    """How far pictures are from what they were: 0 for the same, 1 for what two different samples are apart.

    distance : a name for `make_distance`, or a module with its interface, such as `EmbeddingDistance`
    strangers : median distance over 12 pairs of different samples, which are 1

    Raises ValueError when all samples look the same to the distance.
    """

    def __init__(
        self, generator: Generator, distance: str | nn.Module = "efficientnet_lite0", *, seed: int = 0
    ):
        made = make_distance(distance) if isinstance(distance, str) else distance
        self.distance = made.to(generator.device)
        space = "z" if generator.spaces == ("z",) else "w"
        labels = _first_class(generator)
        latents = generator.sample(2 * _PAIRS, space=space, labels=labels, seed=seed + 3)
        shown = labels if space == "z" else None
        images = torch.cat(list(generator.synthesize_batches(latents, space=space, labels=shown)))
        self.strangers = 1.0
        self.strangers = float(np.median(self(images[_PAIRS:], self.prepare(images[:_PAIRS]))))
        if not self.strangers > 0:
            raise ValueError(
                f"All samples of {generator.name} are {self.strangers:g} apart in this distance."
            )

    @torch.no_grad()
    def prepare(self, images: Tensor) -> list:
        """What the loss needs of the pictures as they were, (n, 3, height, width); once for all edits of them."""
        return [self.distance.prepare(part) for part in images.split(32)]

    @torch.no_grad()
    def __call__(self, images: Tensor, prepared: list) -> np.ndarray:
        """Losses (n,) of pictures against those prepared."""
        parts = zip(images.split(32), prepared, strict=True)
        found = torch.cat([self.distance(part, was) for part, was in parts])
        return found.double().cpu().numpy() / self.strangers


@dataclass(frozen=True)
class Scan:
    """What each strength does to the same pictures.

    table : one row a strength: mahalanobis (from before to after, in standard deviations of the prior), degrees (median
        turn about the prior's mean), distance and identity_loss (medians; 1 is what two samples are apart),
        off_prior (median distance of the moved latents from the prior's mean), outside (share of them that 99.9 %
        of the samples do not reach), and taken_for_same where the perceptual table holds
    losses : identity losses (n, k)
    breaks : the strengths below and above 0 at which identity breaks; None where the scan does not reach it
    rule : what breaking means, in words
    """

    table: pd.DataFrame
    losses: np.ndarray
    breaks: tuple[float | None, float | None]
    rule: str


def scan(
    generator: Generator,
    latents: Tensor,
    direction: Direction,
    strengths: Sequence[float],
    *,
    space: str,
    layers: Iterable[int] | None = None,
    locks: Sequence[Direction] = (),
    path: str = "line",
    identity: str | nn.Module = "efficientnet_lite0",
    limit: float = LIMIT,
    labels: Tensor | int | None = None,
    progress: bool = True,
) -> Scan:
    """What edits of rising strength do to latents, and where the pictures stop being the same face.

    Identity breaks where the median identity loss reaches `limit`. For z of a Progressive GAN of 512 dimensions
    people have judged it: there it breaks where the share of looks at which the moved face is taken for the
    first falls to `limit` of what it is for the first face itself. Between strengths both are interpolated.

    strengths : any numbers; 0 is added
    identity : as in `IdentityLoss`; the other settings as in `edit`

    Raises ValueError as `edit` does, or for a limit outside 0 to 1.
    Source: Grizou et al., NeurIPS 2025 (the looks; see `taken_for_same`).
    """
    if not 0 < limit < 1:
        raise ValueError(f"The limit lies between 0 and 1; got {limit}.")
    values = np.unique(np.append(np.asarray(strengths, np.float64), 0.0))
    latents = generator.check_latents(latents, space=space)
    layers = None if layers is None else list(layers)
    moved = edit_latents(
        generator, latents, [(direction, values)], space=space, layers=layers, locks=locks, path=path
    )
    loss, ruler, prior = IdentityLoss(generator, identity), Ruler(generator, space), _prior(generator, space)
    with torch.no_grad():
        was = loss.prepare(generator.synthesize(latents, space=space, labels=labels))
        columns = [
            loss(generator.synthesize(part, space=space, labels=labels), was)
            for part in tqdm(moved.unbind(1), desc="scanning strengths", disable=not progress, delay=2)
        ]
    losses = np.stack(columns, axis=1)  # (n, k)
    rows = [_row(part, latents, ruler, prior) for part in moved.unbind(1)]
    table = pd.DataFrame(rows).assign(identity_loss=np.median(losses, axis=0))
    table["distance"] = table["identity_loss"] * loss.strangers
    table.insert(0, "strength", values)
    if _judged_by_people(generator, space):
        chord = (F.normalize(moved, dim=2) - F.normalize(latents, dim=1)[:, None]).norm(dim=2)
        shares = taken_for_same(chord.double().cpu().numpy() * np.sqrt(latents.shape[1]))
        table["taken_for_same"] = np.median(shares, axis=0)
        fallen, wanted = -table["taken_for_same"], -limit * taken_for_same(0.0)
        rule = f"the moved face is taken for the first in {limit:.0%} of the looks at which the first face is"
    else:
        fallen, wanted = table["identity_loss"], limit
        rule = f"the median picture is {limit:.0%} as far from what it was as two different samples are apart"
    breaks = _crossings(values, np.asarray(fallen, np.float64), float(wanted))
    return Scan(table, losses, breaks, rule)


def taken_for_same(distance: np.ndarray | float) -> np.ndarray | float:
    """Share of looks at which a face is taken for another one, `distance` away in z of the Progressive GAN.

    distance : Euclidean, between z of length sqrt(512); 0 gives .50, not 1: raters saw each face for 500 ms

    Raises ValueError for a distance below 0.
    Source: Grizou et al., NeurIPS 2025, published analysis (10 distances). Differs: made monotone (pooled adjacent
    violators), linear between the distances; beyond the largest the last share is kept.
    """
    from sklearn.isotonic import isotonic_regression

    if not np.min(distance) >= 0:
        raise ValueError(f"A distance is 0 or more; got {np.min(distance):g}.")
    return np.interp(distance, _LOOKS_DISTANCE, isotonic_regression(_LOOKS_SHARE, increasing=False))


def _judged_by_people(generator: Generator, space: str) -> bool:
    return isinstance(generator, PGGAN) and space == "z" and generator.z_dim == 512


def _row(moved: Tensor, latents: Tensor, ruler: Ruler, prior: LatentPrior | None) -> dict[str, float]:
    shift = (moved.double() - latents.double()).cpu().numpy()
    row = {
        "mahalanobis": float(np.median(ruler.length(shift))),
        "degrees": float(np.median(ruler.degrees(latents, moved))),
    }
    if prior is not None:
        away = prior.distance(moved)
        low, high = prior.range
        outside = float(np.mean((away < low) | (away > high)))
        row |= {"off_prior": float(np.median(away)), "outside": outside}
    return row


def _prior(generator: Generator, space: str) -> LatentPrior | None:
    """None for styles, whose covariance is singular."""
    return None if space == "s" else LatentPrior(generator, space, labels=_first_class(generator))


def _first_class(generator: Generator) -> Tensor | None:
    return torch.eye(generator.c_dim)[:1].to(generator.device) if generator.c_dim else None


def _crossings(strengths: np.ndarray, loss: np.ndarray, wanted: float) -> tuple[float | None, float | None]:
    """The strengths nearest to 0 on either side at which a loss first reaches what is wanted."""
    found = []
    for side in (-1, 1):
        order = np.argsort(side * strengths)
        order = order[side * strengths[order] >= 0]
        x, y = strengths[order], loss[order]
        over = np.flatnonzero(y >= wanted)
        if not len(over) or over[0] == 0:
            found.append(None)
            continue
        i = over[0]
        part = (wanted - y[i - 1]) / (y[i] - y[i - 1])
        found.append(float(x[i - 1] + part * (x[i] - x[i - 1])))
    return found[0], found[1]
