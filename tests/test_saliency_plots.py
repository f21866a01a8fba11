"""Overlays against closed forms; figures by what they contain."""

import mne
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from saliency.plots import evoked, neural_figure, overlay, saliency_figure


def picture(height: int = 24, width: int = 30) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def recording_info(montage: str | None = "biosemi64") -> mne.Info:
    info = mne.create_info(["Fz", "Cz", "Pz", "O1", "O2", "T7"], 100.0, "eeg")
    if montage:
        info.set_montage(montage)
    return info


def heads(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title().endswith(" ms")]


def as_bytes(image: torch.Tensor) -> np.ndarray:
    return (image * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)


@settings(max_examples=10, deadline=None)
@given(alpha=st.floats(0, 1), limit=st.one_of(st.none(), st.floats(0.01, 100)))
def test_a_zero_map_gives_the_picture(alpha, limit):
    drawn = overlay(picture(), torch.zeros(24, 30), alpha=alpha, limit=limit)
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn, as_bytes(picture()))


def test_warm_supports_cold_opposes_and_more_is_stronger():
    grey, heat = torch.full((3, 4, 5), 0.5), torch.zeros(4, 5)
    heat[0], heat[1], heat[2] = 1.0, -1.0, 0.3
    drawn = overlay(grey, heat).astype(int)
    red, blue = drawn[..., 0], drawn[..., 2]
    assert (red[0] > blue[0] + 40).all()
    assert (blue[1] > red[1] + 40).all()
    assert (drawn[3] == 128).all()
    change = np.abs(drawn - 128).sum(2)[:, 0]
    assert change[0] > change[2] > 0


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(1e-6, 1e6))
def test_the_limit_sets_the_unit(scale):
    heat = torch.linspace(-1, 1, 720).reshape(24, 30).double()
    drawn = overlay(picture(), heat, limit=1.0).astype(int)
    assert np.abs(overlay(picture(), heat * scale, limit=scale).astype(int) - drawn).max() <= 1
    assert np.abs(overlay(picture(), heat * scale).astype(int) - drawn).max() <= 1
    wider = overlay(picture(), heat, limit=4.0).astype(int)
    still = as_bytes(picture()).astype(int)
    assert np.abs(wider - still).sum() < np.abs(drawn - still).sum()


def test_values_beyond_the_limit_saturate():
    image, heat = picture(), torch.ones(24, 30)
    assert np.array_equal(overlay(image, 9 * heat, limit=1.0), overlay(image, heat, limit=1.0))


def test_a_smaller_map_is_stretched_bilinearly():
    small = torch.tensor([[0.0, 1.0]])
    large = torch.tensor([0.0, 0.25, 0.75, 1.0]).repeat(2, 1)
    image = picture(2, 4)
    assert np.array_equal(overlay(image, small, limit=1.0), overlay(image, large, limit=1.0))


@pytest.mark.parametrize(
    ("heat", "settings", "message"),
    [
        (torch.zeros(2, 24, 30), {}, r"\(2, 24, 30\)"),
        (torch.full((24, 30), float("nan")), {}, "NaN"),
        (torch.zeros(24, 30), {"alpha": 1.5}, "got 1.5"),
        (torch.zeros(24, 30), {"limit": 0.0}, "got 0.0"),
        (torch.zeros(24, 30), {"limit": float("nan")}, "got nan"),
    ],
)
def test_an_overlay_that_does_not_fit_is_refused(heat, settings, message):
    with pytest.raises(ValueError, match=message):
        overlay(picture(), heat, **settings)
    with pytest.raises(ValueError, match="255"):
        overlay(picture() * 255 / picture().max(), torch.zeros(24, 30))


def test_both_maps_share_the_larger_limit(tmp_path):
    heat, control = torch.zeros(24, 30), torch.zeros(24, 30)
    heat[4:9, 4:9], control[10:12] = 0.5, -2.0
    figure = saliency_figure(picture(), heat, control, box=(4, 4, 9, 9), titles=("a", "b", "c"), unit="F")
    panels = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert np.array_equal(panels[0], as_bytes(picture()))
    assert np.array_equal(panels[1], overlay(picture(), heat, limit=2.0))
    assert np.array_equal(panels[2], overlay(picture(), control, limit=2.0))
    boxes = [patch for axes in figure.axes for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [patch.get_bbox().extents.tolist() for patch in boxes] == [[3.5, 3.5, 8.5, 8.5]] * 3
    figure.savefig(tmp_path / "figure.png")
    words = " ".join(text.get_text() for text in figure.findobj(lambda thing: hasattr(thing, "get_text")))
    assert all(word in words.split() for word in ("a", "b", "c", "F", "+2", "−2"))


def test_two_zero_maps_are_drawn(tmp_path):
    zero = torch.zeros(24, 30)
    saliency_figure(picture(), zero, zero).savefig(tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"box": (4, 4, 25, 9)}, r"\(4, 4, 25, 9\)"), ({"titles": ("a", "b")}, "got 2")],
)
def test_a_figure_that_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        saliency_figure(picture(), torch.eye(24, 30), torch.eye(24, 30), **settings)


def test_evoked_holds_the_map_its_times_and_its_unit():
    heat = torch.randn(6, 40)
    result = evoked(heat, recording_info(), -0.1)
    assert np.allclose(result.data, heat.numpy())
    assert np.allclose(result.times, -0.1 + np.arange(40) / 100)
    assert result.ch_names == recording_info().ch_names
    assert "not volts" in result.comment


@pytest.mark.parametrize("draw", [evoked, neural_figure])
def test_a_neural_map_that_does_not_fit_is_refused(draw):
    with pytest.raises(ValueError, match=r"6 channels.*\(5, 40\)"):
        draw(torch.zeros(5, 40), recording_info(), 0.0)
    with pytest.raises(ValueError, match="NaN"):
        draw(torch.full((6, 40), float("nan")), recording_info(), 0.0)


def test_topographies_stand_at_the_peaks_or_where_asked(tmp_path):
    heat = 0.01 * np.random.default_rng(0).standard_normal((6, 100))
    heat[2, 30], heat[4, 70] = 1.0, -0.8
    assert heads(neural_figure(heat, recording_info(), -0.1)) == ["200 ms", "600 ms"]
    figure = neural_figure(heat, recording_info(), -0.1, times=(0.0, 0.304))
    assert heads(figure) == ["0 ms", "300 ms"]
    figure.savefig(tmp_path / "figure.png")
    with pytest.raises(ValueError, match=r"-0.1 to 0.89 s, got 0.9"):
        neural_figure(heat, recording_info(), -0.1, times=(0.9,))


def test_the_image_shows_the_map_at_its_times():
    heat = torch.randn(6, 50)
    figure = neural_figure(heat, recording_info(), -0.2)
    image = next(axes.images[0] for axes in figure.axes if axes.get_xlabel() == "time (ms)")
    assert np.allclose(image.get_array(), heat.numpy())
    assert np.allclose(image.get_extent(), (-205, 295, 5.5, -0.5))
    assert image.norm.vmax == -image.norm.vmin == pytest.approx(heat.abs().max().item())


def test_without_positions_the_image_stands_alone(tmp_path):
    figure = neural_figure(torch.randn(6, 50), recording_info(None), -0.2)
    assert heads(figure) == []
    figure.savefig(tmp_path / "figure.png")
    misc = mne.create_info(["a", "b"], 100.0, "misc")
    neural_figure(torch.zeros(2, 1), misc, 0.0, times=(0.0,)).savefig(tmp_path / "figure.png")


def test_a_map_constant_in_time_has_one_topography(tmp_path):
    heat = torch.arange(6.0)[:, None].expand(6, 50)
    figure = neural_figure(heat, recording_info(), 0.0)
    assert len(heads(figure)) == 1
    figure.savefig(tmp_path / "figure.png")


def test_channels_at_one_place_are_drawn_once(tmp_path):
    info = recording_info()
    info["chs"][5]["loc"][:3] = info["chs"][4]["loc"][:3]
    neural_figure(torch.randn(6, 50), info, 0.0).savefig(tmp_path / "figure.png")


def test_no_figure_enters_pyplot():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    saliency_figure(picture(), torch.eye(24, 30), torch.eye(24, 30))
    neural_figure(torch.randn(6, 50), recording_info(), 0.0)
    assert plt.get_fignums() == before
