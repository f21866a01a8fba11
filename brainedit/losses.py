"""Losses of the joint embedding: F between a batch's EEG and pictures, and which pairs belong together."""

from torch import Tensor


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
    """max{0, F(e1, v2) - F(e1, v1)} over all v2 of another picture in the batch; no margin.

    Source: Palazzo et al., TPAMI 2021, Eq. 2. Differs: all negatives of the batch instead of one drawn.
    phi = 0 minimises it, so train it with normalised embeddings.
    """
    own = compatibility.diagonal()[:, None]
    excess = (compatibility - own).relu()[~same]
    return excess.mean()


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
