"""RISE against the masks' closed-form covariance, numpy's estimators on recorded masks, and planted regions."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from saliency.fills import fill_picture
from saliency.image import peak
from saliency.rise import rise_map

HEIGHT, WIDTH, CELLS = 20, 15, 4


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def linear(weights: torch.Tensor, constant: float = 0.0):
    """The score sum(weights * picture) + constant for weights (3, h, w)."""
    return lambda images: (images.double() * weights).sum((1, 2, 3)) + constant


def spread(size: int, cells: int) -> np.ndarray:
    """Covariance (size, size) of the mask along one axis, in units of a cell's variance, over all shifts."""
    side = math.ceil(size / cells)
    scale = cells / ((cells + 1) * side)  # cells per pixel of the enlarged grid
    total = np.zeros((size, size))
    for shift in range(side):
        places = np.clip((np.arange(size) + shift + 0.5) * scale - 0.5, 0, cells - 1)
        hats = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells)))  # (size, cells)
        total += hats @ hats.T / side
    return total


def expected_slopes(weights: np.ndarray, cells: int = CELLS) -> np.ndarray:
    """cov(score, mask) / var(mask) of the score sum(weights * mask), without chance error."""
    rows, columns = spread(weights.shape[0], cells), spread(weights.shape[1], cells)
    return rows @ weights @ columns.T / np.outer(rows.diagonal(), columns.diagonal())


class Recorder:
    """A score of pictures of ones, hidden by black, keeps the masks themselves."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.weights, self.masks, self.scores = weights, [], []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        assert (images == images[:, :1]).all()
        scores = torch.tanh((images[:, 0].double() * self.weights).sum((1, 2)))
        self.masks.append(images[:, 0].double().numpy())
        self.scores.append(scores.numpy())
        return scores

    def drawn(self) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate(self.masks[1:]), np.concatenate(
            self.scores[1:]
        )  # the first is the clean picture


def recorded(height: int = HEIGHT, width: int = WIDTH, **settings) -> tuple[Recorder, torch.Tensor]:
    recorder = Recorder(0.1 * (picture(height, width)[0].double() - 0.4))
    ones = torch.ones(3, height, width, dtype=torch.float64)
    return recorder, rise_map(recorder, ones, cells=CELLS, **settings)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_covariance_recovers_the_smoothed_weights_of_a_linear_score(share):
    weights = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.float64)
    weights[:, 4:8, 9:12] = 0.02
    weights[0, 15:18, 2:5] = -0.05
    image, n_masks = picture().double(), 8000
    effect = (weights * image).sum(0).numpy()  # what showing each pixel adds, black is hidden
    settings = {"n_masks": n_masks, "cells": CELLS, "share": share, "batch_size": 500}
    heat = rise_map(linear(weights), image, **settings).numpy()
    expected = expected_slopes(effect)
    rows, columns = spread(HEIGHT, CELLS), spread(WIDTH, CELLS)
    deviation = (effect * (rows @ effect @ columns.T)).sum() ** 0.5  # of the score, in cells' deviations
    error = deviation / np.sqrt(n_masks * np.outer(rows.diagonal(), columns.diagonal()))
    z = (heat - expected) / error
    assert np.abs(z).max() < 4.5
    assert (z**2).mean() < 2
    assert np.abs(expected / error).max() > 30  # the chance error is small beside what is looked for


def test_only_covariance_is_unmoved_by_a_constant():
    weights = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.float64)
    weights[:, :4, :3] = 0.02
    image = picture().double()
    expected = expected_slopes((weights * image).sum(0).numpy()).ravel()
    maps = {}
    for name in ("covariance", "plain"):
        for constant in (0.0, 100.0):
            settings = {"n_masks": 2000, "cells": CELLS, "batch_size": 500, "estimator": name}
            maps[name, constant] = rise_map(linear(weights, constant), image, **settings)
    match = {key: np.corrcoef(heat.flatten(), expected)[0, 1] for key, heat in maps.items()}
    torch.testing.assert_close(maps["covariance", 0.0], maps["covariance", 100.0], atol=1e-10, rtol=0)
    assert match["covariance", 100.0] > 0.98
    far = expected.reshape(HEIGHT, WIDTH) == 0
    assert far.sum() > 50
    assert abs(maps["covariance", 100.0].numpy()[far].mean()) < 0.02 * expected.max()
    assert match["plain", 0.0] > 0.95
    assert match["plain", 100.0] < 0.7  # the constant's chance error hides what the score depends on
    assert maps["plain", 100.0].numpy()[far].mean() == pytest.approx(100, rel=0.05)


def test_covariance_is_numpys_over_the_masks_drawn():
    recorder, heat = recorded(n_masks=203, batch_size=16)
    masks, scores = recorder.drawn()
    assert masks.shape == (203, HEIGHT, WIDTH)
    both = np.cov(np.column_stack([scores, masks.reshape(203, -1)]).T)
    expected = both[0, 1:] / both.diagonal()[1:]
    np.testing.assert_allclose(heat.flatten(), expected, atol=1e-10)


def test_plain_is_the_published_sum():
    recorder, heat = recorded(n_masks=203, batch_size=16, share=0.3, estimator="plain")
    masks, scores = recorder.drawn()
    np.testing.assert_allclose(heat, np.tensordot(scores, masks, 1) / (203 * 0.3), atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(20, 15), (17, 23), (4, 30)])
def test_masks_have_the_same_mean_everywhere_and_the_variance_of_interpolated_cells(height, width):
    recorder, _ = recorded(height, width, n_masks=4000, share=0.3, batch_size=500)
    masks, _ = recorder.drawn()
    variance = 0.3 * 0.7 * np.outer(spread(height, CELLS).diagonal(), spread(width, CELLS).diagonal())
    assert np.abs((masks.mean(0) - 0.3) / np.sqrt(variance / 4000)).max() < 4.5
    np.testing.assert_allclose(masks.var(0), variance, rtol=0.15)
    assert 0 <= masks.min() <= masks.max() <= 1
    assert len(np.unique(masks[:, 0, 0])) > 2


def small_net(n_scores: int = 3) -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 5, 2, 2), nn.GELU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(54, n_scores)).eval()


@pytest.mark.parametrize("estimator", ["covariance", "plain"])
def test_scores_are_mapped_together_as_singly(estimator):
    net, image = small_net(), picture()
    settings = {"n_masks": 100, "cells": CELLS, "estimator": estimator}
    maps = rise_map(net, image, **settings)
    assert maps.shape == (3, HEIGHT, WIDTH)
    assert maps.dtype == torch.float32
    for k in range(3):
        alone = rise_map(lambda images, k=k: net(images)[:, k], image, **settings)
        torch.testing.assert_close(maps[k], alone, atol=1e-6, rtol=0)
    assert rise_map(lambda images: net(images)[:, :1], image, **settings).shape == (1, HEIGHT, WIDTH)
    assert maps.std() > 1e-4


def test_the_batch_size_changes_nothing_and_the_seed_does():
    net, image = small_net(1), picture()
    maps = [rise_map(net, image, n_masks=50, cells=CELLS, batch_size=size) for size in (1, 7, 50)]
    torch.testing.assert_close(maps[0], maps[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(maps[0], maps[2], atol=1e-6, rtol=0)
    other = rise_map(net, image, n_masks=50, cells=CELLS, seed=1)
    assert (maps[0] - other).abs().max() > 1e-3


def test_no_more_pictures_are_held_than_asked_for_and_they_are_as_many_as_masks():
    sizes = []

    def count(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images.mean((1, 2, 3))

    rise_map(count, picture(), n_masks=30, cells=CELLS, batch_size=8)
    assert sizes == [1, 8, 8, 8, 6]


def test_max_memory_makes_batches_smaller():
    sizes = []

    def count(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images.flatten(1)[:, 0]  # needs no memory beside the picture

    settings, needed = {"n_masks": 8, "cells": CELLS, "batch_size": 8}, 3 * HEIGHT * WIDTH * 4
    bounded = rise_map(count, picture(), max_memory=3 * needed, **settings)
    assert sizes[-3:] == [3, 3, 2]
    assert max(sizes) == 3
    torch.testing.assert_close(bounded, rise_map(count, picture(), **settings), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="max_memory is 0 MiB; raise it"):
        rise_map(count, picture(), max_memory=needed - 1, **settings)


@pytest.mark.parametrize("fill", [0.5, (0.1, 0.5, 0.9), "mean", "blur", "noise", picture(seed=4)])
def test_masks_blend_the_picture_into_the_fill(fill):
    """Covering a linear score's pixels takes away their weight times their distance from the fill."""
    image, weights = picture(), torch.randn(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
    side = max(math.ceil(HEIGHT / CELLS), math.ceil(WIDTH / CELLS))
    hidden = fill_picture(image, fill=fill, sigma=side / 2)
    settings = {"n_masks": 60, "cells": CELLS}
    heat = rise_map(linear(weights.double()), image, fill=fill, **settings)
    change = (weights * (image - hidden)).double()
    change_alone = change.sum(0, keepdim=True) * torch.tensor([1.0, 0.0, 0.0]).double()[:, None, None]
    of_masks = rise_map(linear(change_alone), torch.ones(3, HEIGHT, WIDTH), fill=0.0, **settings)
    torch.testing.assert_close(heat, of_masks, atol=1e-4, rtol=0)


def test_a_planted_region_is_where_the_map_peaks():
    image = picture(48, 64)
    for top, left in ((6, 40), (30, 8)):
        box = (slice(None), slice(None), slice(top, top + 10), slice(left, left + 10))
        heat = rise_map(
            lambda images, box=box: images[box].mean((1, 2, 3)), image, n_masks=1500, batch_size=100
        )
        row, column = peak(heat)
        assert top <= row < top + 10
        assert left <= column < left + 10


@pytest.mark.parametrize("value", [0.1, 1e6])
def test_a_constant_score_has_a_map_of_zeros(value):
    heat = rise_map(lambda images: torch.full((len(images),), value), picture(), n_masks=30, cells=CELLS)
    assert (heat == 0).all()


def test_leaves_the_picture_and_the_global_generator_alone():
    image, net = picture(), small_net(1)
    untouched, before = image.clone(), torch.get_rng_state()
    rise_map(net, image, n_masks=10, cells=CELLS)
    assert torch.equal(image, untouched)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"n_masks": 0}, "n_masks to be a whole number of at least 1, got 0"),
        ({"n_masks": 1}, "300 of 300 were the same in all 1 masks"),
        ({"share": 0.001, "n_masks": 5}, "were the same in all 5 masks; raise n_masks"),
        ({"cells": 1}, r"from 2 cells to one per pixel \(20 x 15\), got 1"),
        ({"cells": 16}, r"one per pixel \(20 x 15\), got 16"),
        ({"cells": 2.5}, "cells to be a whole number of at least 1, got 2.5"),
        ({"batch_size": 0}, "batch_size to be a whole number of at least 1, got 0"),
        ({"share": 1.0}, "between 0 and 1, got 1.0"),
        ({"share": 0}, "between 0 and 1, got 0"),
        ({"share": float("nan")}, "between 0 and 1, got nan"),
        ({"estimator": "covarience"}, "Unknown estimator 'covarience'. Did you mean 'covariance'"),
        ({"estimator": None}, "Unknown estimator None. Known: covariance, plain"),
        ({"fill": "inpaint"}, "does not depend on the covered square, got 'inpaint'"),
        ({"fill": 2.0}, "got 2 to 2"),
        ({"seed": 1.5}, r"seed to be a whole number of at least 0, got 1\.5"),
        ({"seed": -1}, "seed to be a whole number of at least 0, got -1"),
    ],
)
def test_says_which_setting_does_not_fit(settings, match):
    with pytest.raises(ValueError, match=match):
        rise_map(lambda images: images.mean((1, 2, 3)), picture(), **{"cells": CELLS, **settings})


def test_says_what_is_wrong_with_a_score():
    def blind(images: torch.Tensor) -> torch.Tensor:
        scores = images.mean((1, 2, 3))
        return scores if len(scores) == 1 else scores * float("nan")

    def changing(images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3)) if len(images) == 1 else images.mean((2, 3))[:, :2]

    with pytest.raises(ValueError, match="8 of 8 are NaN"):
        rise_map(blind, picture(), cells=CELLS)
    with pytest.raises(ValueError, match=r"shape \(8,\), as for the first input, it returned \(8, 2\)"):
        rise_map(changing, picture(), cells=CELLS)
    with pytest.raises(ValueError, match="Dropout '0' is in training mode"):
        rise_map(nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(900, 1)), picture(), cells=CELLS)
    with pytest.raises(ValueError, match="to 100; normalise inside"):
        rise_map(small_net(), torch.full((3, 20, 15), 100.0), cells=CELLS)
