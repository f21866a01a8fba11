"""What covers a part of a picture, against closed forms, scipy and properties of harmonic surfaces."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from saliency.fills import FILLS, check_fill, fill_patches, fill_picture


def picture(height: int = 40, width: int = 30, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def cut(image: torch.Tensor, corners: list, window: int) -> torch.Tensor:
    return torch.stack([image[:, top : top + window, left : left + window] for top, left in corners])


def corners_of_every_kind(height: int, width: int, window: int) -> list[tuple[int, int]]:
    """Squares inside, on each border and in each corner of the picture."""
    return [(top, left) for top in (0, 3, height - window) for left in (0, 2, width - window)]


@pytest.mark.parametrize("fill", [0.25, 1, 0, np.float32(0.5), torch.tensor(0.75)])
def test_a_number_is_that_grey(fill):
    patches = fill_patches(picture(), [(0, 0), (5, 6)], 8, fill=fill)
    assert patches.shape == (2, 3, 8, 8)
    assert (patches == float(fill)).all()


@pytest.mark.parametrize(
    "fill", [(0.1, 0.5, 1), [0.1, 0.5, 1.0], np.array([0.1, 0.5, 1]), torch.tensor([0.1, 0.5, 1])]
)
def test_three_numbers_are_that_colour(fill):
    patches = fill_patches(picture(), [(2, 1)], 7, fill=fill)
    for channel, value in enumerate((0.1, 0.5, 1)):
        assert (patches[:, channel] == torch.tensor(value)).all()


def test_a_picture_shows_through_where_the_square_is():
    image, other = picture(), picture(seed=1)
    corners = corners_of_every_kind(40, 30, 9)
    assert torch.equal(fill_patches(image, corners, 9, fill=other), cut(other, corners, 9))
    assert torch.equal(fill_picture(image, fill=other, sigma=3), other)


def test_a_picture_of_three_by_three_is_not_taken_for_a_colour():
    image, other = picture(3, 3), picture(3, 3, seed=1)
    assert torch.equal(fill_patches(image, [(1, 0)], 2, fill=other), cut(other, [(1, 0)], 2))


def test_the_mean_is_taken_per_channel():
    image = picture() * torch.tensor([0.2, 0.6, 1.0])[:, None, None]
    patches = fill_patches(image, [(0, 0)], 5, fill="mean")
    expected = torch.tensor([float(channel.double().mean()) for channel in image])
    torch.testing.assert_close(patches[0, :, 2, 3], expected)
    assert (patches == patches[:, :, :1, :1]).all()


def test_the_blur_is_scipys_gaussian_over_the_pixels_that_exist():
    image, window = picture(), 12
    options = {"sigma": window / 2, "mode": "constant", "truncate": 20}
    weight = gaussian_filter(np.ones((40, 30)), **options)
    blurred = np.stack([gaussian_filter(channel.double().numpy(), **options) / weight for channel in image])
    corners = corners_of_every_kind(40, 30, window)
    expected = cut(torch.from_numpy(blurred).float(), corners, window)
    torch.testing.assert_close(fill_patches(image, corners, window, fill="blur"), expected, atol=1e-5, rtol=0)


def test_blurs_by_the_deviation_that_is_asked_for():
    image = torch.zeros(3, 61, 61)
    image[:, 30, 30] = 1
    spread = fill_picture(image, fill="blur", sigma=4.0)[0].double()
    places = torch.arange(61.0).double() - 30
    assert float((spread * places[:, None] ** 2).sum()) == pytest.approx(16, rel=1e-3)


def test_noise_has_the_pictures_mean_and_deviation():
    image = 0.5 + 0.1 * (picture(200, 200) - 0.5) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    patches = fill_patches(image, [(0, 0), (10, 10)], 150, fill="noise").double()
    for channel in range(3):
        wanted, drawn = image[channel].double(), patches[:, channel]
        error = wanted.std() / drawn.numel() ** 0.5
        assert abs(drawn.mean() - wanted.mean()) < 4 * error
        assert abs(drawn.std() / wanted.std() - 1) < 0.02
    kurtosis = (((patches[:, 0] - patches[:, 0].mean()) / patches[:, 0].std()) ** 4).mean()
    assert kurtosis == pytest.approx(3, abs=0.15)  # normal; the uniform picture has 1.8


def test_noise_stays_from_zero_to_one():
    patches = fill_patches((picture() > 0.5).float(), [(0, 0)], 30, fill="noise")
    assert float(patches.min()) == 0
    assert float(patches.max()) == 1


def test_a_squares_noise_does_not_depend_on_the_other_squares():
    image, corners = picture(), [(0, 0), (3, 4), (20, 10)]
    together = fill_patches(image, corners, 9, fill="noise", seed=3)
    singly = [fill_patches(image, [corner], 9, fill="noise", seed=3) for corner in reversed(corners)]
    assert torch.equal(together, torch.cat(singly[::-1]))


@pytest.mark.parametrize(
    ("corner", "window", "seed"), [((3, 4), 9, 1), ((4, 3), 9, 0), ((3, 4), 8, 0), ((3, 5), 9, 0)]
)
def test_noise_differs_between_seeds_corners_and_windows(corner, window, seed):
    image = picture()
    first = fill_patches(image, [(3, 4)], 9, fill="noise", seed=0)[0, :, :8, :8]
    other = fill_patches(image, [corner], window, fill="noise", seed=seed)[0, :, :8, :8]
    shared = torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]
    assert abs(shared) < 0.3


def test_noise_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    fill_patches(picture(), [(0, 0)], 5, fill="noise")
    assert torch.equal(before, torch.get_rng_state())


def ramp(height: int = 40, width: int = 30) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([rows, columns, 0.3 * rows + 0.6 * (1 - columns)])


@pytest.mark.parametrize("window", [1, 2, 7, 16])
def test_inpainting_carries_a_ramp_through_the_square(window):
    corners = [(1, 1), (5, 7), (39 - window, 29 - window)]
    patches = fill_patches(ramp(), corners, window, fill="inpaint")
    torch.testing.assert_close(patches, cut(ramp(), corners, window), atol=1e-6, rtol=0)


@pytest.mark.parametrize("window", [1, 6, 30])
def test_inpainting_keeps_a_constant_also_at_borders_and_corners(window):
    image = torch.tensor([0.0, 0.3, 1.0])[:, None, None].expand(3, 40, 30).clone()
    corners = [(top, left) for top in (0, 3, 40 - window) for left in (0, (30 - window) // 2, 30 - window)]
    patches = fill_patches(image, corners, window, fill="inpaint")
    torch.testing.assert_close(patches, cut(image, corners, window), atol=1e-6, rtol=0)


def test_no_flux_passes_the_pictures_border():
    """A ramp along a border goes on through a square on that border; across it, the near value fills it."""
    along = fill_patches(ramp(), [(0, 5)], 8, fill="inpaint")[0, 1]
    torch.testing.assert_close(along, ramp()[1, 0:8, 5:13], atol=1e-6, rtol=0)
    strip = fill_patches(ramp(40, 10), [(0, 0)], 10, fill="inpaint")[0, 0]  # only its lower side has pixels
    torch.testing.assert_close(strip, ramp(40, 10)[0, 10, 0].expand(10, 10), atol=1e-6, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 14), st.integers(1, 12), st.integers(0, 99), st.data())
def test_each_inpainted_pixel_is_the_mean_of_its_neighbours(height, width, window, seed, data):
    window = min(window, height, width)
    if window == height == width:
        window -= 1
    top = data.draw(st.integers(0, height - window))
    left = data.draw(st.integers(0, width - window))
    image = picture(height, width, seed).double()
    filled = image.clone()
    filled[:, top : top + window, left : left + window] = fill_patches(
        image, [(top, left)], window, fill="inpaint"
    )[0]
    for row in range(top, top + window):
        for column in range(left, left + window):
            sides = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
            near = [filled[:, y, x] for y, x in sides if 0 <= y < height and 0 <= x < width]
            torch.testing.assert_close(filled[:, row, column], torch.stack(near).mean(0), atol=1e-9, rtol=0)


@pytest.mark.parametrize("fill", ["inpaint", "blur", "mean", "noise"])
def test_what_is_covered_and_how_squares_are_batched(fill):
    image, corners = picture(), corners_of_every_kind(40, 30, 9)
    untouched = image.clone()
    patches = fill_patches(image, corners, 9, fill=fill)
    singly = [fill_patches(image, [corner], 9, fill=fill) for corner in corners]
    assert torch.equal(image, untouched)
    torch.testing.assert_close(patches, torch.cat(singly), atol=1e-7, rtol=0)
    assert 0 <= float(patches.min()) <= float(patches.max()) <= 1


def test_inpainting_does_not_see_what_the_square_hides():
    image, other = picture(), picture()
    other[:, 10:20, 8:18] = 0
    first, second = (fill_patches(each, [(10, 8)], 10, fill="inpaint") for each in (image, other))
    assert torch.equal(first, second)


@pytest.mark.parametrize("fill", [0.5, (0.1, 0.2, 0.3), *FILLS])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_keeps_the_pictures_dtype(fill, dtype):
    patches = fill_patches(picture().to(dtype), [(0, 0)], 5, fill=fill)
    assert patches.dtype == dtype
    assert 0 <= float(patches.min()) <= float(patches.max()) <= 1


def test_needs_no_gradient_and_gives_none():
    image = picture().requires_grad_(True)
    assert not any(fill_patches(image, [(0, 0)], 5, fill=fill).requires_grad for fill in FILLS)


@pytest.mark.parametrize(
    ("fill", "error", "match"),
    [
        ("inpant", ValueError, "Unknown fill 'inpant'. Did you mean 'inpaint'"),
        ("Blur", ValueError, "Unknown fill 'Blur'. Did you mean 'blur'"),
        ("grey", ValueError, "Unknown fill 'grey'.*Known: blur, inpaint, mean, noise"),
        (1.5, ValueError, "got 1.5 to 1.5"),
        (128, ValueError, "got 128 to 128"),
        (float("nan"), ValueError, "from 0 to 1, like the picture, got nan"),
        ((0.1, -0.2, 0.3), ValueError, "got -0.2 to 0.3"),
        ((0.1, 0.2), ValueError, r"got shape \(2,\)"),
        (torch.zeros(40, 30, 3), ValueError, r"shape \(3, 40, 30\), got shape \(40, 30, 3\)"),
        (torch.zeros(3, 40, 31), ValueError, r"got shape \(3, 40, 31\)"),
        (torch.full((3, 40, 30), 255, dtype=torch.uint8), ValueError, "got 255 to 255"),
        (True, TypeError, "got torch.bool"),
        (None, TypeError, "got None"),
        ({"mean": 1}, TypeError, "got {'mean': 1}"),
    ],
)
def test_says_what_is_wrong_with_a_fill(fill, error, match):
    with pytest.raises(error, match=match):
        check_fill(fill, picture())
    with pytest.raises(error, match=match):
        fill_patches(picture(), [(0, 0)], 5, fill=fill)


@pytest.mark.parametrize("corner", [(-1, 0), (0, -1), (36, 0), (0, 26)])
def test_refuses_squares_that_leave_the_picture(corner):
    with pytest.raises(ValueError, match=rf"\(40 x 30\), got one of side 5 at \({corner[0]}, {corner[1]}\)"):
        fill_patches(picture(), [(0, 0), corner], 5, fill=0.5)


def test_refuses_what_cannot_be_filled():
    with pytest.raises(ValueError, match="at least one square, got none"):
        fill_patches(picture(), [], 5, fill=0.5)
    with pytest.raises(ValueError, match="window to be a whole number of at least 1, got 0"):
        fill_patches(picture(), [(0, 0)], 0, fill=0.5)
    with pytest.raises(ValueError, match="to inpaint it, 20 is the whole picture"):
        fill_patches(picture(20, 20), [(0, 0)], 20, fill="inpaint")
    with pytest.raises(ValueError, match="does not depend on the covered square, got 'inpaint'"):
        fill_picture(picture(), fill="inpaint", sigma=3)
    with pytest.raises(ValueError, match="positive sigma in pixels, got 0"):
        fill_picture(picture(), fill="blur", sigma=0)
    with pytest.raises(ValueError, match="seed of at least 0, got -1"):
        fill_patches(picture(), [(0, 0)], 5, fill="noise", seed=-1)
    with pytest.raises(ValueError, match="got 0 to 255; normalise inside"):
        fill_patches(picture().round() * 255, [(0, 0)], 5, fill=0.5)
