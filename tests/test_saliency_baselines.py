"""Tests of the centre and edge baselines against closed forms and scipy's Sobel filter."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from saliency.baselines import centre_map, edge_map


def test_centre_is_a_gaussian_of_the_pictures_proportions():
    heat = centre_map((41, 81), sigma=0.25)
    assert heat.shape == (41, 81)
    assert heat.dtype == torch.float32
    assert heat[20, 40] == 1
    row, column = np.array([3, 70])
    distance = ((row - 20) / (0.25 * 41)) ** 2 + ((column - 40) / (0.25 * 81)) ** 2
    assert heat[row, column].item() == pytest.approx(np.exp(-distance / 2), rel=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (7, 10), (1, 5)])
def test_centre_is_symmetric(shape):
    heat = centre_map(shape)
    assert torch.allclose(heat, heat.flip(0))
    assert torch.allclose(heat, heat.flip(1))


@pytest.mark.parametrize(
    ("shape", "sigma", "message"),
    [
        ((0, 5), 0.25, "the height .* got 0"),
        ((5, 2.5), 0.25, r"the width .* got 2\.5"),
        ((5,), 0.25, r"height and a width in pixels, got \(5,\)"),
        ((5, 5), 0, "sigma .* got 0"),
        ((5, 5), float("inf"), "sigma .* got inf"),
        ((5, 5), float("nan"), "sigma .* got nan"),
    ],
)
def test_centre_says_what_does_not_fit(shape, sigma, message):
    with pytest.raises(ValueError, match=message):
        centre_map(shape, sigma=sigma)


def test_edges_agree_with_scipy():
    image = torch.rand(3, 17, 23, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grey = np.tensordot([0.299, 0.587, 0.114], image.numpy(), 1)
    expected = np.hypot(*(ndimage.sobel(grey, axis, mode="nearest") / 8 for axis in (0, 1)))
    np.testing.assert_allclose(edge_map(image).numpy(), expected, atol=1e-12)


def test_edges_of_a_ramp_are_its_slope_and_a_uniform_picture_has_none():
    ramp = torch.linspace(0, 1, 11).expand(3, 6, 11)
    torch.testing.assert_close(edge_map(ramp)[:, 1:-1], torch.full((6, 9), 0.1))
    assert torch.equal(edge_map(torch.full((3, 6, 11), 0.3)), torch.zeros(6, 11))


def test_edges_of_a_half_precision_picture_are_float32():
    assert edge_map(torch.rand(3, 5, 5).half()).dtype == torch.float32


def test_edges_ask_for_a_picture():
    with pytest.raises(ValueError, match=r"got shape \(5, 5\)"):
        edge_map(torch.rand(5, 5))
