"""Losses against torch's own cross-entropy, closed forms and the definitions written out as loops."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from brainedit.losses import (
    LOSSES,
    METRIC_LOSSES,
    MINERS,
    infonce,
    multi_similarity,
    structured_hinge,
    triplet,
    triplet_margin,
)


def same_keys(keys):
    keys = torch.tensor(keys)
    return keys[:, None] == keys[None]


def random_f(n, seed=0):
    return torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_infonce_is_symmetric_cross_entropy_when_no_picture_repeats():
    f, index = random_f(9), torch.arange(9)
    expected = 0.5 * (cross_entropy(f, index) + cross_entropy(f.T, index))
    assert infonce(f, same_keys(range(9))).item() == pytest.approx(expected.item(), abs=1e-12)


def test_infonce_repeats_are_not_negatives():
    """A second copy of the own picture that fits better and better must not raise the loss."""
    f, same = random_f(4), same_keys([0, 0, 1, 2])
    f.requires_grad_()
    gradient = torch.autograd.grad(infonce(f, same), f)[0]
    assert (gradient[same] <= 0).all()
    assert (gradient[~same] > 0).all()


def test_infonce_of_a_doubled_batch_is_the_same():
    """Each trial twice: positives and all doubled, the ratio is unchanged."""
    f = random_f(5)
    doubled = f.repeat(2, 2)
    assert infonce(doubled, same_keys([*range(5)] * 2)).item() == pytest.approx(
        infonce(f, same_keys(range(5))).item()
    )


def test_infonce_limits():
    same = same_keys(range(8))
    assert infonce(torch.zeros(8, 8), same).item() == pytest.approx(torch.log(torch.tensor(8.0)).item())
    assert infonce(50 * torch.eye(8), same).item() == pytest.approx(0, abs=1e-6)
    assert infonce(1e4 * (1 - torch.eye(8)), same).item() == pytest.approx(1e4, rel=1e-3)


def test_triplet_by_hand():
    f = torch.tensor([[1.0, 3.0, 0.0], [0.0, 2.0, 2.5], [9.0, 9.0, 1.0]])
    # keys 0, 1, 0: four pairs of two pictures. Row 0 against column 1: 2; row 1 against columns 0 and 2: 0, .5;
    # row 2 against column 1: 8. Spreads over columns 0-1 and 2-1 and back: 2 (2 + 3), 2 (2 + .5), 2 (0 + 8)
    expected = 2 / 10 + 0.5 / 5 + 8 / 16
    assert triplet(f, same_keys([0, 1, 0])).item() == pytest.approx(expected, rel=1e-3)


def test_triplet_is_zero_without_a_margin_when_all_are_in_order():
    assert triplet(torch.eye(5), same_keys(range(5))).item() == pytest.approx(0, abs=1e-3)


def eq2(f, same):
    """Palazzo et al. 2021, Eq. 2, as it stands."""
    return (f - f.diagonal()[:, None]).relu()[~same].mean()


@pytest.mark.parametrize("keys", [range(12), [0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4, 5]])
@pytest.mark.parametrize("seed", range(3))
def test_triplet_of_a_response_that_says_nothing_is_one_half(keys, seed):
    """F ranks pictures the same for each response: no ranking, however skewed, may pay."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(12, generator=generator, dtype=torch.float64).exp() ** 3  # heavy tails
    theta[0] = -1e4  # one picture far below all others
    strength = torch.rand(12, 1, generator=generator, dtype=torch.float64) + 0.1  # phi of any length
    assert triplet(strength * theta, same_keys(keys)).item() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_triplet_does_not_know_the_length_of_phi(factor):
    f, same = random_f(8), same_keys([0, 0, 1, 2, 3, 4, 5, 6])
    assert triplet(factor * f, same).item() == pytest.approx(triplet(f, same).item(), abs=1e-3)
    one = f.clone()
    one[3] *= 1e6  # an artefact of one trial does not decide the batch
    assert triplet(one, same).item() == pytest.approx(triplet(f, same).item(), abs=1e-3)


def test_triplet_of_half_precision_is_that_of_its_values():
    f, same = random_f(200).bfloat16(), same_keys([i // 2 for i in range(200)])
    assert triplet(f, same).item() == pytest.approx(triplet(f.double(), same).item(), abs=1e-5)


@pytest.mark.parametrize("collapsed", [torch.zeros(6, 6), torch.arange(6.0)[:, None].expand(6, 6)])
def test_triplet_of_a_collapse_is_chance_and_its_gradient_leads_away(collapsed):
    f, same = collapsed.clone().requires_grad_(), same_keys([0, 0, 1, 2, 3, 4])
    loss = triplet(f, same)
    assert loss.item() == pytest.approx(0.5)
    gradient = torch.autograd.grad(loss, f)[0]
    assert gradient.isfinite().all()
    assert triplet(f - 1e-3 * gradient / gradient.norm(), same) < loss
    assert eq2(f, same).item() == 0  # where Eq. 2 is content


def descend(loss, *, planted, start=0.5):
    """Free embeddings of 16 responses and 16 pictures under gradient descent.

    planted : each response has its picture; otherwise the pairing is drawn anew in each step
    """
    generator = torch.Generator().manual_seed(0)
    phi, theta = ((start * torch.randn(16, 8, generator=generator)).requires_grad_() for _ in range(2))
    optimizer, same = torch.optim.Adam([phi, theta], lr=0.02), same_keys(range(16))
    for _ in range(400):
        own = torch.arange(16) if planted else torch.randperm(16, generator=generator)
        optimizer.zero_grad()
        loss(phi @ theta[own].T, same).backward()
        optimizer.step()
    return phi.detach(), (phi @ theta.T).detach()


def test_without_structure_eq2_collapses_and_the_guarded_triplet_does_not():
    phi, f = descend(eq2, planted=False)
    assert phi.norm(dim=1).mean() < 0.4  # from 1.4
    assert f.std() < 0.05  # from .7
    phi, f = descend(triplet, planted=False)
    assert phi.norm(dim=1).mean() > 1
    assert f.std() > 0.5


@pytest.mark.parametrize("start", [0.5, 1e-6])
def test_the_guarded_triplet_learns_what_is_planted(start):
    """From afar and from the point of collapse."""
    _, f = descend(triplet, planted=True, start=start)
    assert (f.argmax(1) == torch.arange(16)).float().mean() > 0.9
    assert f.std() > 0.05  # 1e-12 at the collapse


def structured_hinge_by_loops(f, keys):
    total = 0.0
    for n in range(len(keys)):
        worst = [0.0, 0.0]
        for y in set(keys):
            members = [m for m in range(len(keys)) if keys[m] == y]
            margin = float(y != keys[n])
            to_pictures = margin + sum(f[n, m] - f[n, n] for m in members) / len(members)
            to_eeg = margin + sum(f[m, n] - f[n, n] for m in members) / len(members)
            worst = [max(worst[0], to_pictures.item()), max(worst[1], to_eeg.item())]
        total += sum(worst)
    return total / len(keys)


@pytest.mark.parametrize("keys", [[0, 1, 2, 3], [0, 0, 1, 1, 1, 2], [4, 4, 7]])
def test_structured_hinge_is_its_definition(keys):
    for seed in range(3):
        f = random_f(len(keys), seed)
        value = structured_hinge(f.float(), same_keys(keys)).item()
        assert value == pytest.approx(structured_hinge_by_loops(f, keys), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_against_the_gradient_brings_pairs_together(name):
    f, same = random_f(6, seed=2).float().requires_grad_(), same_keys([0, 0, 1, 1, 2, 3])
    before = LOSSES[name](f, same)
    before.backward()
    assert LOSSES[name](f - 0.01 * f.grad, same) < before


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_the_batch_does_not_matter(name):
    f, same = random_f(6).float(), same_keys([0, 0, 1, 1, 2, 3])
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    moved = LOSSES[name](f[order][:, order], same[order][:, order])
    assert moved.item() == pytest.approx(LOSSES[name](f, same).item(), rel=1e-5)


# embeddings of one kind


def unit_rows(n, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return 1 + spread * x  # around a common direction: cosines of all sizes


LABELS = [0, 0, 0, 1, 1, 2, 2, 2, 3]  # the last has no positive


def hard_pairs(s, labels, a):
    """Positives and negatives of anchor a that the multi-similarity miner keeps, by its definition."""
    n = range(len(labels))
    positives = [j for j in n if labels[j] == labels[a] and j != a]
    negatives = [j for j in n if labels[j] != labels[a]]
    if not positives:
        return [], []
    hardest = max(s[a][j] for j in negatives), min(s[a][j] for j in positives)
    return [j for j in positives if s[a][j] - 0.1 < hardest[0]], [
        j for j in negatives if s[a][j] + 0.1 > hardest[1]
    ]


def triplets_by_loops(x, labels, margin, miner):
    x = torch.nn.functional.normalize(x, dim=1)
    s, losses, n = (x @ x.T).tolist(), [], range(len(labels))
    for a in n:
        positives = [j for j in n if labels[j] == labels[a] and j != a]
        negatives = [j for j in n if labels[j] != labels[a]]
        if miner == "multi_similarity":
            positives, negatives = hard_pairs(s, labels, a)
        for p in positives:
            for q in negatives:
                near, far = (x[a] - x[p]).norm().item(), (x[a] - x[q]).norm().item()
                if miner != "semi_hard" or near < far < near + margin:
                    losses.append(max(0.0, near - far + margin))
    losses = [value for value in losses if value > 0]
    return sum(losses) / max(len(losses), 1)


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("margin", [0.05, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_triplet_margin_is_its_definition(miner, margin, seed):
    x = unit_rows(9, seed)
    value = triplet_margin(x, torch.tensor(LABELS), margin=margin, miner=miner).item()
    assert value == pytest.approx(triplets_by_loops(x, LABELS, margin, miner), abs=1e-9)
    assert value > 0 or margin < 0.1


@pytest.mark.parametrize("miner", ["multi_similarity", "all"])
@pytest.mark.parametrize("seed", range(3))
def test_multi_similarity_is_its_definition(miner, seed):
    x = unit_rows(9, seed)
    unit = torch.nn.functional.normalize(x, dim=1)
    s, total = (unit @ unit.T).tolist(), 0.0
    for a in range(9):
        positives = [j for j in range(9) if LABELS[j] == LABELS[a] and j != a]
        negatives = [j for j in range(9) if LABELS[j] != LABELS[a]]
        if miner == "multi_similarity":
            positives, negatives = hard_pairs(s, LABELS, a)
        total += math.log(1 + sum(math.exp(-2 * (s[a][j] - 0.5)) for j in positives)) / 2
        total += math.log(1 + sum(math.exp(50 * (s[a][j] - 0.5)) for j in negatives)) / 50
    assert multi_similarity(x, torch.tensor(LABELS), miner=miner).item() == pytest.approx(total / 9)


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_a_metric_loss_brings_labels_together(name):
    x, labels = unit_rows(12).float().requires_grad_(), torch.arange(4).repeat(3)
    optimizer = torch.optim.Adam([x], lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        METRIC_LOSSES[name](x, labels).backward()
        optimizer.step()
    unit = torch.nn.functional.normalize(x.detach(), dim=1)
    s, same = unit @ unit.T, labels[:, None] == labels[None]
    assert s[same].min() > s[~same].max()


@pytest.mark.parametrize("name", METRIC_LOSSES)
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5, 5, 5, 5]])
def test_a_batch_without_positives_or_negatives_stays_finite(name, labels):
    x = unit_rows(4).requires_grad_()
    loss = METRIC_LOSSES[name](x, torch.tensor(labels))
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()
    if name == "triplet":
        assert loss.item() == 0


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_equal_embeddings_have_finite_gradients(name):
    x = torch.ones(6, 5, requires_grad=True)
    loss = METRIC_LOSSES[name](x, torch.tensor([0, 0, 1, 1, 2, 2]))
    loss.backward()
    assert loss > 0
    assert x.grad.isfinite().all()


def test_the_length_of_an_embedding_is_nothing():
    x, labels = unit_rows(9), torch.tensor(LABELS)
    for loss in METRIC_LOSSES.values():
        assert loss(3 * x, labels).item() == pytest.approx(loss(x, labels).item())


def test_wrong_labels_and_miners_are_told():
    with pytest.raises(ValueError, match=r"got \(9, 5\) and \(9, 1\)"):
        triplet_margin(unit_rows(9), torch.zeros(9, 1))
    with pytest.raises(ValueError, match=r"Unknown miner 'semihard'\. Did you mean 'semi_hard'"):
        triplet_margin(unit_rows(9), torch.tensor(LABELS), miner="semihard")
    with pytest.raises(ValueError, match="Unknown miner of pairs 'semi_hard'"):
        multi_similarity(unit_rows(9), torch.tensor(LABELS), miner="semi_hard")
