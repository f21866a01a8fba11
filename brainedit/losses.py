"""Losses of the joint embedding (F, and which pairs belong together) and of embeddings of EEG alone."""

import torch
from torch import Tensor

from brainedit._check import pick

EPSILON = 1e-4  # of F's spread: below it the guarded triplet loss takes F for collapsed


def infonce(compatibility: Tensor, same: Tensor) -> Tensor:
    """Symmetric cross-entropy over the batch, with every repeat of a picture a positive.

    compatibility : F (n, n), rows EEG, columns the pictures of the same trials
    same : (n, n) bool, True where row and column have one picture (or label); such pairs are no negatives

    Source: van den Oord et al. 2018; CLIP (Radford et al. 2021) in both directions. Differs: several
    positives share the numerator.
    """
    positives = compatibility.masked_fill(~same, -float("inf"))
    forward = compatibility.logsumexp(1) - positives.logsumexp(1)
    backward = compatibility.logsumexp(0) - positives.logsumexp(0)
    return 0.5 * (forward.mean() + backward.mean())


def triplet(compatibility: Tensor, same: Tensor) -> Tensor:
    """max{0, F(e1, v2) - F(e1, v1)} over all v2 of another picture in the batch, per unit of F's spread.

    The spread of a response's F is the mean of |F(e1, v) - F(e1, w)| over the pictures v, w of the batch. A
    response that says nothing of the pictures then scores 1/2 exactly, however F ranks them.

    Source: Palazzo et al., TPAMI 2021, Eq. 2, without a margin. Differs: all negatives of the batch instead
    of one drawn; and the spread in the denominator, since phi = 0, a scale that shrinks or one theta for all
    pictures give Eq. 2 its minimum of 0. A standard deviation would not do: it is lowest for the theta that
    sets one picture far below all others. Here the collapse has the value 1/2 and the gradient leads away.
    """
    compatibility = compatibility.to(torch.promote_types(compatibility.dtype, torch.float32))  # from autocast
    other = ~same
    n_pairs = other.sum()
    difference = compatibility - compatibility.diagonal()[:, None]
    excess = (0.5 * (difference + difference.abs()) * other).sum(1) / n_pairs  # relu, of slope 1/2 at zero
    share = other.sum(1) / n_pairs
    spread = _pair_differences(compatibility, same) / n_pairs
    return ((excess + 0.5 * share * EPSILON) / (spread + EPSILON)).sum()


def structured_hinge(compatibility: Tensor, same: Tensor) -> Tensor:
    """The worst class's margin violation, from EEG to pictures and from pictures to EEG.

    l_V = max_y max(0, D(y_n, y) + mean over v of class y [F(e_n, v) - F(e_n, v_n)]), D = 0 for the own class
    and 1 otherwise; the classes are the keys in the batch.
    Source: Reed et al., CVPR 2016, as used by Palazzo et al. (FG 2020). Differs: class means are taken
    over the batch.
    """
    weights = same.float() / same.sum(0, keepdim=True)  # column j averages over the class of trial j
    own = compatibility.diagonal()
    other = (~same).float()
    forward = (other + compatibility @ weights - own[:, None]).relu().amax(1)
    backward = (other + compatibility.T @ weights - own[:, None]).relu().amax(1)
    return (forward + backward).mean()


LOSSES = {"infonce": infonce, "triplet": triplet, "structured_hinge": structured_hinge}


def triplet_margin(
    embedding: Tensor, labels: Tensor, *, margin: float = 0.05, miner: str = "multi_similarity"
) -> Tensor:
    """max{0, |a - p| - |a - n| + margin}, averaged over the mined triplets that violate the margin.

    embedding : (n, n_dims), scaled to unit length here; labels : (n,) integers
    miner : "multi_similarity" (hard pairs, see `multi_similarity`), "semi_hard" (all negatives that are
        farther than the positive by less than the margin), "all"

    0 where no triplet is left. Raises ValueError for an unknown miner and labels that do not match.
    Source: EEGStyleGAN-ADA (Singh et al., WACV 2024), its code: margin 0.05 and the multi-similarity miner,
    where its paper says semi-hard (FaceNet: Schroff et al., CVPR 2015). Differs: distances, not FaceNet's
    squared ones.
    """
    similarity, same, other = _similarity(embedding, labels)
    distance = (2 - 2 * similarity).clamp(min=1e-8).sqrt()
    keep_same, keep_other = pick("miner", miner, MINERS)(similarity.detach(), same, other)
    anchor, positive = keep_same.nonzero(as_tuple=True)
    negative = keep_other[anchor]  # (pairs, n)
    if miner == "semi_hard":
        negative = negative & (distance[anchor] > distance[anchor, positive][:, None])
    violation = distance[anchor, positive][:, None] - distance[anchor] + margin
    counted = negative & (violation > 0)
    return (violation * counted).sum() / counted.sum().clamp(min=1)


def multi_similarity(
    embedding: Tensor,
    labels: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    miner: str = "multi_similarity",
) -> Tensor:
    """Pulls positives below the base similarity together and pushes negatives above it apart, soft and weighted.

    log(1 + sum over positives of e^(-alpha (S - base))) / alpha, and log(1 + sum over negatives of
    e^(beta (S - base))) / beta, averaged over the anchors.
    embedding : (n, n_dims), scaled to unit length here, S its cosines; labels : (n,) integers
    miner : "multi_similarity" keeps positives less similar than the hardest negative plus .1 and negatives
        more similar than the hardest positive less .1; "all" keeps every pair

    Source: Wang et al., CVPR 2019 (loss, mining and alpha, beta, base of their experiments).
    """
    similarity, same, other = _similarity(embedding, labels)
    keep = pick("miner of pairs", miner, PAIR_MINERS)(similarity.detach(), same, other)
    positive = _log_one_plus_sum(-alpha * (similarity - base), keep[0]) / alpha
    negative = _log_one_plus_sum(beta * (similarity - base), keep[1]) / beta
    return (positive + negative).mean()


def _pair_differences(compatibility: Tensor, same: Tensor) -> Tensor:
    """Sum over all ordered pairs of different pictures of the difference of a row's F, (n,)."""
    total = _differences(compatibility)
    keys = same.unique(dim=0)
    for members in keys[keys.sum(1) > 1]:
        total = total - _differences(compatibility[:, members])
    return total.clamp(min=0)  # what rounding leaves of nothing may lie below


def _differences(rows: Tensor) -> Tensor:
    """Sum of |x - y| over all ordered pairs in each row: sorted values times how many lie below less above."""
    n = rows.shape[1]
    weights = 2 * torch.arange(n, device=rows.device, dtype=rows.dtype) - (n - 1)
    return 2 * (rows.sort(1).values * weights).sum(1)


def _similarity(embedding: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines (n, n), which pairs are two trials of one label, and which of two labels."""
    if embedding.ndim != 2 or labels.shape != embedding.shape[:1]:
        raise ValueError(
            f"A metric loss needs embeddings (n, n_dims) and labels (n,); got {tuple(embedding.shape)} and "
            f"{tuple(labels.shape)}."
        )
    unit = torch.nn.functional.normalize(embedding, dim=1)
    equal = labels[:, None] == labels[None]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return unit @ unit.T, equal & ~itself, ~equal


def _multi_similarity_pairs(
    similarity: Tensor, same: Tensor, other: Tensor, *, epsilon: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Positives and negatives that lie within epsilon of the wrong order for their anchor."""
    nearest_other = similarity.masked_fill(~other, -float("inf")).amax(1, keepdim=True)
    farthest_same = similarity.masked_fill(~same, float("inf")).amin(1, keepdim=True)
    return same & (similarity - epsilon < nearest_other), other & (similarity + epsilon > farthest_same)


def _all_pairs(similarity: Tensor, same: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    return same, other


def _log_one_plus_sum(exponent: Tensor, keep: Tensor) -> Tensor:
    exponent = exponent.masked_fill(~keep, -float("inf"))
    return torch.cat([exponent, torch.zeros_like(exponent[:, :1])], 1).logsumexp(1)


PAIR_MINERS = {"multi_similarity": _multi_similarity_pairs, "all": _all_pairs}
MINERS = PAIR_MINERS | {
    "semi_hard": _all_pairs
}  # which negatives depends on the positive: see triplet_margin
METRIC_LOSSES = {"triplet": triplet_margin, "multi_similarity": multi_similarity}
