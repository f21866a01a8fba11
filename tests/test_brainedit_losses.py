"""Losses against torch's own cross-entropy, closed forms and the definitions written out as loops."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from brainedit.losses import LOSSES, infonce, structured_hinge, triplet


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
    # keys 0, 1, 0: row 0 against column 1: 2; row 1 against columns 0 and 2: 0, .5; row 2 against column 1: 8
    assert triplet(f, same_keys([0, 1, 0])).item() == pytest.approx((2 + 0 + 0.5 + 8) / 4)


def test_triplet_is_zero_without_a_margin_when_all_are_in_order():
    assert triplet(torch.eye(5) * 1e-3, same_keys(range(5))).item() == 0


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
