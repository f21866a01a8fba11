"""Occlusion maps against captum, closed forms, planted regions and properties."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from saliency.image import multiscale_map, occlusion_map, peak, region_hit


def small_net(n_scores: int = 3) -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 5, 2, 2), nn.GELU(), nn.Conv2d(6, 8, 3, 1, 1), nn.Tanh()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, n_scores)).eval()


def picture(height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def brightness(images: torch.Tensor) -> torch.Tensor:
    return images.mean((1, 2, 3))


@pytest.mark.parametrize(
    ("height", "width", "window", "stride", "fill"),
    [
        (32, 32, 8, 4, 0.5),
        (40, 28, 10, 6, 0.0),
        (24, 33, 9, 3, 1.0),
        (20, 20, 20, 7, 0.5),
        (21, 30, 5, 5, 0.3),
    ],
)
def test_equals_captum_where_the_windows_tile(height, width, window, stride, fill):
    if (height - window) % stride or (width - window) % stride:
        height, width = (size - (size - window) % stride for size in (height, width))
    net, image = small_net(), picture(height, width)
    ours = occlusion_map(net, image, window=window, stride=stride, fill=fill, batch_size=5)
    assert ours.shape == (3, height, width)
    for k in range(3):
        theirs = Occlusion(net).attribute(
            image[None],
            sliding_window_shapes=(3, window, window),
            strides=(3, stride, stride),
            baselines=fill,
            target=k,
            perturbations_per_eval=16,
        )
        torch.testing.assert_close(ours[k], theirs[0, 0], atol=1e-5, rtol=0)
    assert ours.abs().max() > 1e-3


@pytest.mark.parametrize("size", [17, 23, 31])
def test_inward_window_against_a_plain_loop(size):
    image, window, stride = picture(size, size + 3), 7, 4
    net = small_net(1)
    total, cover = torch.zeros(size, size + 3), torch.zeros(size, size + 3)
    tops = sorted({min(top, size - window) for top in range(0, size, stride)})
    lefts = sorted({min(left, size + 3 - window) for left in range(0, size + 3, stride)})
    with torch.no_grad():
        for top in tops:
            for left in lefts:
                covered = image.clone()
                covered[:, top : top + window, left : left + window] = 0.5
                total[top : top + window, left : left + window] += (
                    net(image[None]) - net(covered[None])
                ).item()
                cover[top : top + window, left : left + window] += 1
    ours = occlusion_map(net, image, window=window, stride=stride)
    assert ours.shape == (1, size, size + 3)
    torch.testing.assert_close(ours[0], total / cover, atol=1e-5, rtol=0)


def test_linear_score_has_a_closed_form():
    weight = torch.randn(3, 12, 18, generator=torch.Generator().manual_seed(2)).double()
    image = picture(12, 18).double()
    ours = occlusion_map(lambda x: (x * weight).sum((1, 2, 3)), image, window=6, stride=6, fill=0.25)
    blocks = ((image - 0.25) * weight).sum(0).reshape(2, 6, 3, 6).sum((1, 3))
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, blocks.repeat_interleave(6, 0).repeat_interleave(6, 1))


def test_a_flat_score_gives_one_map_and_k_scores_give_k():
    image = picture(16, 20)
    one = occlusion_map(brightness, image, window=8, stride=4)
    column = occlusion_map(lambda x: brightness(x)[:, None], image, window=8, stride=4)
    assert one.shape == (16, 20)
    assert column.shape == (1, 16, 20)
    torch.testing.assert_close(one, column[0])


def test_batch_size_bounds_the_copies_and_leaves_the_map():
    seen = []

    def score(images):
        seen.append(len(images))
        return images.square().mean((1, 2, 3))

    whole = occlusion_map(score, picture(), window=8, stride=4, batch_size=1000)
    seen.clear()
    torch.testing.assert_close(occlusion_map(score, picture(), window=8, stride=4, batch_size=3), whole)
    assert max(seen) == 3
    assert sum(seen) == 1 + 49


def test_a_hundred_scores_see_no_more_pictures_than_one():
    image, mixing, seen = picture(64, 64), torch.randn(12, 100), []

    def features(images):
        seen.append(len(images))
        return nn.functional.avg_pool2d(images, 32).flatten(1)

    one = occlusion_map(lambda x: (features(x) @ mixing)[:, 0], image)
    n_one = sum(seen)
    hundred = occlusion_map(lambda x: features(x) @ mixing, image)
    assert sum(seen) == 2 * n_one
    torch.testing.assert_close(hundred[0], one)


def test_gradients_are_not_kept_and_the_map_serves_in_autograd():
    heat = occlusion_map(small_net(), picture(), window=8, stride=8)
    assert not heat.requires_grad
    scale = torch.ones(1, requires_grad=True)
    (heat * scale).sum().backward()
    assert scale.grad is not None


@settings(max_examples=15, deadline=None)
@given(value=st.floats(-1e3, 1e3), window=st.integers(1, 12), seed=st.integers(0, 9))
def test_a_constant_score_gives_a_zero_map(value, window, seed):
    heat = occlusion_map(
        lambda x: torch.full((len(x), 2), value), picture(12, 15, seed), window=window, stride=window
    )
    assert bool((heat == 0).all())


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(-100, 100), offset=st.floats(-10, 10), seed=st.integers(0, 9))
def test_scaling_the_score_scales_the_map(scale, offset, seed):
    net = small_net(1).double()
    image = picture(16, 16, seed).double()
    plain = occlusion_map(net, image, window=5, stride=3)
    scaled = occlusion_map(lambda x: scale * net(x) + offset, image, window=5, stride=3)
    torch.testing.assert_close(scaled, scale * plain, atol=1e-9, rtol=1e-9)


@settings(max_examples=15, deadline=None)
@given(down=st.integers(0, 4), right=st.integers(0, 4), stride=st.integers(2, 4))
def test_moving_a_patch_moves_the_map(down, right, stride):
    window = 2 * stride
    size = 14 * stride

    def heat(top, left):
        image = torch.full((3, size, size), 0.2)
        image[:, top : top + 3, left : left + 3] = 0.9
        return occlusion_map(lambda x: (x - 0.6).relu().sum((1, 2, 3)), image, window=window, stride=stride)

    start = 4 * stride
    moved = heat(start + down * stride, start + right * stride)
    torch.testing.assert_close(moved, heat(start, start).roll((down * stride, right * stride), (0, 1)))


def test_the_map_peaks_where_the_score_looks():
    box = (20, 36, 28, 44)

    def score(images):
        return images[:, :, box[0] : box[2], box[1] : box[3]].mean((1, 2, 3))

    image = picture(64, 64) * 0.3
    heat = -occlusion_map(score, image, window=9, stride=3)  # grey raises the score of a dark region
    assert region_hit(heat, box)
    assert not region_hit(heat, (0, 0, 16, 16))
    assert bool((heat[:, :20] == 0).all())


def test_multiscale_is_the_sum_of_its_windows():
    net, image = small_net(2), picture(40, 48)
    parts = [occlusion_map(net, image, window=w, stride=s) for w, s in ((7, 2), (12, 4), (20, 7))]
    torch.testing.assert_close(multiscale_map(net, image, windows=(7, 12, 20)), sum(parts))
    parts = [occlusion_map(net, image, window=w, stride=5) for w in (7, 12)]
    torch.testing.assert_close(multiscale_map(net, image, windows=(7, 12), stride=5), sum(parts))


def test_peak_is_the_centre_of_the_largest_highest_plateau():
    heat = torch.zeros(12, 16)
    heat[0, 0] = 2.0
    heat[4:9, 6:13] = 2.0
    assert peak(heat) == (6, 9)
    assert peak(-heat.numpy() + np.eye(12, 16) * 9) == (3, 3)  # pixels that touch at a corner are one plateau


def test_region_hit_counts_the_box_as_slices_and_a_flat_map_as_a_miss():
    heat = np.zeros((8, 8))
    heat[3, 4] = 1
    assert region_hit(heat, (3, 4, 4, 5))
    assert not region_hit(heat, (0, 0, 3, 8))
    assert not region_hit(heat, (0, 5, 8, 8))
    assert not region_hit(np.zeros((8, 8)), (0, 0, 8, 8))


@pytest.mark.parametrize(
    ("heat", "message"),
    [
        (torch.zeros(2, 4, 4), r"got shape \(2, 4, 4\)"),
        (torch.full((4, 4), 0.25), "0.25 everywhere"),
        (torch.tensor([[0.0, float("nan")]]), "NaN"),
    ],
)
def test_a_map_without_a_peak_is_refused(heat, message):
    with pytest.raises(ValueError, match=message):
        peak(heat)
    with pytest.raises(ValueError, match=r"\(4, 0, 4, 9\)"):
        region_hit(torch.eye(4), (4, 0, 4, 9))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 3, 8, 8), r"\(1, 3, 8, 8\)"),
        (torch.rand(8, 8, 3), r"\(8, 8, 3\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "torch.uint8"),
        (torch.rand(3, 0, 8), "0 x 8"),
        (torch.rand(3, 1, 1), "1 x 1"),
        (torch.full((3, 8, 8), float("nan")), "NaN"),
        (torch.full((3, 8, 8), 255.0), "255"),
        (-torch.rand(3, 8, 8), "0 to 1, got -"),
    ],
)
def test_a_picture_that_does_not_fit_is_refused(image, message):
    for method in (
        lambda: occlusion_map(brightness, image, window=4, stride=2),
        lambda: multiscale_map(brightness, image),
    ):
        with pytest.raises(ValueError, match=message):
            method()


def test_a_picture_that_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="ndarray"):
        occlusion_map(brightness, np.zeros((3, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 9}, r"8 x 20.*got 9"),
        ({"window": 0}, "window .* got 0"),
        ({"window": 4, "stride": 0}, "stride .* got 0"),
        ({"window": 4, "stride": 2.5}, "stride .* got 2.5"),
        ({"window": 4, "stride": 5}, r"window \(4\).*got 5"),
        ({"window": 4, "stride": 2, "fill": 128}, "fill .* got 128"),
        ({"window": 4, "stride": 2, "fill": float("nan")}, "fill .* got nan"),
        ({"window": 4, "stride": 2, "batch_size": 0}, "batch_size .* got 0"),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        occlusion_map(brightness, torch.rand(3, 8, 20), **settings)


def test_all_windows_are_checked_before_the_first_is_scored():
    def score(images):
        pytest.fail("scored before the checks")

    with pytest.raises(ValueError, match="got 99"):
        multiscale_map(score, picture(), windows=(9, 99))
    with pytest.raises(ValueError, match="got 0"):
        multiscale_map(score, picture(), windows=(9, 0))
    with pytest.raises(ValueError, match="got none"):
        multiscale_map(score, picture(), windows=())


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda x: x.mean(), r"shape \(\)"),
        (lambda x: x.mean((2, 3))[..., None], r"shape \(1, 3, 1\)"),
        (lambda x: x[:, :0, 0, 0], r"shape \(1, 0\)"),
        (lambda x: x.mean((0, 2, 3)), r"each of 1 inputs.*\(3,\)"),
        (lambda x: x.flatten(1).argmax(1), "torch.int64"),
        (lambda x: brightness(x).tolist(), "list"),
        (lambda x: brightness(x) * float("nan"), "1 of 1 are NaN"),
        (lambda x: brightness(x) / (x[:, 0, 0, 0] != 0.5), "1 of 25 are NaN"),
        (lambda x: brightness(x)[:, None].repeat(1, len(x)), r"shape \(4, 1\), as for the first"),
        (lambda x: brightness(x)[:1], r"each of 4 inputs.*\(1,\)"),
    ],
)
def test_a_score_that_does_not_fit_is_refused(score, message):
    with pytest.raises(ValueError, match=message):
        occlusion_map(score, picture(12, 12) * 0.4, window=4, stride=2)


def test_a_network_in_training_mode_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 1))
    with pytest.raises(ValueError, match=r"Dropout '1' is in training mode"):
        occlusion_map(net, picture(8, 8), window=4, stride=2)
    occlusion_map(net.eval(), picture(8, 8), window=4, stride=2)


def test_importing_the_package_loads_nothing_and_names_resolve():
    code = (
        "import sys, saliency; assert not {'torch', 'mne', 'matplotlib', 'captum'} & set(sys.modules); "
        "assert all(callable(getattr(saliency, n)) for n in saliency.__all__); "
        "assert saliency.plots.evoked is saliency.evoked; assert set(saliency.__all__) <= set(dir(saliency))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import saliency

    with pytest.raises(AttributeError, match="'heatmap'"):
        saliency.heatmap  # noqa: B018
