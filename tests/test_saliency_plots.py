"""Overlays against closed forms; figures by what they contain."""

import mne
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from saliency.plots import band_figure, evoked, neural_figure, overlay, saliency_figure, time_strip


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
    band_figure(torch.randn(6, 1), recording_info(), ["alpha"])
    time_strip(picture(), torch.eye(24, 30)[None], [(0.0, 0.1)])
    assert plt.get_fignums() == before


@pytest.mark.filterwarnings("error")
def test_mne_draws_the_evoked_map_in_units_of_the_score():
    import matplotlib.pyplot as plt

    heat = np.zeros((6, 40))
    heat[4, 25] = 3.0
    result = evoked(heat, recording_info(), -0.1)
    heads_alone = result.plot_topomap(times=[0.0, 0.15], scalings=1, units="score", show=False)
    titles = {axes.get_title() for axes in heads_alone.axes}
    assert {"0.000 s", "0.150 s", "score"} <= titles
    joint = result.plot_joint(
        times=[0.15],
        ts_args={"scalings": {"eeg": 1}, "units": {"eeg": "score"}},
        topomap_args={"scalings": 1},
        show=False,
    )
    lines = next(axes for axes in joint.axes if axes.get_ylabel() == "score")
    drawn = np.array([line.get_ydata() for line in lines.lines if len(line.get_ydata()) == 40])
    assert drawn.max() == pytest.approx(3.0)
    plt.close("all")


def grid(figure: Figure) -> list:
    return [axes for axes in figure.axes if axes.images]


WINDOWS = [(0.02, 0.24), (0.13, 0.35)]


def test_a_strip_shares_one_limit_over_windows_and_control(tmp_path):
    maps, control = torch.zeros(2, 24, 30), torch.zeros(2, 24, 30)
    maps[0, 4:9, 4:9], maps[1, 10:12], control[1, 3] = 0.5, -1.0, 4.0
    figure = time_strip(picture(), maps, WINDOWS, control=control, unit="F")
    panels = [axes.images[0].get_array() for axes in grid(figure)]
    assert len(panels) == 5
    assert np.array_equal(panels[0], as_bytes(picture()))
    for panel, heat in zip(panels[1:], [*maps, *control], strict=True):
        assert np.array_equal(panel, overlay(picture(), heat, limit=4.0))
    figure.savefig(tmp_path / "figure.png")
    words = {text.get_text() for text in figure.findobj(lambda thing: hasattr(thing, "get_text"))}
    assert {"Picture", "20–240 ms", "130–350 ms", "EEG", "Shuffled EEG", "F", "+4", "−4"} <= words


def test_a_strip_without_control_is_one_row(tmp_path):
    figure = time_strip(picture(), torch.zeros(2, 24, 30).numpy(), WINDOWS)
    assert len(grid(figure)) == 3
    figure.savefig(tmp_path / "figure.png")
    words = {text.get_text() for text in figure.findobj(lambda thing: hasattr(thing, "get_text"))}
    assert "Shuffled EEG" not in words


@pytest.mark.parametrize(
    ("maps", "settings", "message"),
    [
        (torch.zeros(24, 30), {}, r"each of 2 windows, got shape \(24, 30\)"),
        (torch.zeros(3, 24, 30), {}, r"each of 2 windows, got shape \(3, 24, 30\)"),
        (torch.full((2, 24, 30), torch.nan), {}, "NaN"),
        (torch.zeros(2, 24, 30), {"control": torch.zeros(1, 24, 30)}, r"\(1, 24, 30\)"),
        (torch.zeros(2, 24, 30), {"windows": [(0.1, 0.2), (0.4, 0.3)]}, r"got \(0.4, 0.3\)"),
        (torch.zeros(2, 24, 30), {"titles": ()}, "each of 1 rows, got 0"),
    ],
)
def test_a_strip_that_does_not_fit_is_refused(maps, settings, message):
    with pytest.raises(ValueError, match=message):
        time_strip(picture(), maps, **{"windows": WINDOWS, **settings})


def test_a_head_for_each_band_with_one_scale(tmp_path):
    values = torch.zeros(6, 2)
    values[4, 1] = -2.0
    figure = band_figure(values, recording_info(), {"theta": (4, 8), "alpha": (8, 13)}, unit="F")
    assert [axes.get_title() for axes in grid(figure)] == ["theta, 4–8 Hz", "alpha, 8–13 Hz"]
    limits = {axes.images[0].get_clim() for axes in grid(figure)}
    assert limits == {(-2.0, 2.0)}
    assert np.abs(grid(figure)[0].images[0].get_array()).max() == 0
    assert grid(figure)[1].images[0].get_array().min() < -1
    figure.savefig(tmp_path / "figure.png")


def test_bands_without_positions_are_an_image(tmp_path):
    values = torch.randn(6, 2)
    mask = values > 0.5
    figure = band_figure(values, recording_info(None), ["theta", "alpha"], mask=mask)
    image = grid(figure)[0].images[0]
    assert np.allclose(image.get_array(), values)
    assert [label.get_text() for label in grid(figure)[0].get_xticklabels()] == ["theta", "alpha"]
    figure.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (torch.zeros(5, 2), {}, r"6 channels, n_bands.*\(5, 2\)"),
        (torch.zeros(6), {}, r"\(6,\)"),
        (torch.full((6, 2), torch.inf), {}, "infinity"),
        (torch.zeros(6, 3), {}, "each of 3 bands, got 2"),
        (torch.zeros(6, 2), {"mask": torch.zeros(6, 3) > 0}, r"\(6, 2\), got bool \(6, 3\)"),
        (torch.zeros(6, 2), {"mask": torch.zeros(6, 2)}, "got float32"),
    ],
)
def test_bands_that_do_not_fit_are_refused(values, settings, message):
    with pytest.raises(ValueError, match=message):
        band_figure(values, recording_info(), ["theta", "alpha"], **settings)


def outline(figure: Figure) -> set:
    axes = next(axes for axes in figure.axes if axes.get_xlabel() == "time (ms)")
    lines = [line for collection in axes.collections for line in collection.get_segments()]
    return {tuple(sorted((round(x), y) for x, y in line)) for line in lines}


def test_a_mask_is_outlined_cell_by_cell_and_marks_its_electrodes(tmp_path):
    mask = np.zeros((6, 50), bool)
    mask[2, 30:32] = mask[3, 30] = True
    figure = neural_figure(torch.randn(6, 50), recording_info(), 0.0, times=(0.3, 0.1), mask=mask)
    square = {((295, 1.5), (305, 1.5)), ((305, 1.5), (315, 1.5)), ((295, 1.5), (295, 2.5))}
    square |= {((315, 1.5), (315, 2.5)), ((305, 2.5), (315, 2.5)), ((305, 2.5), (305, 3.5))}
    square |= {((295, 3.5), (305, 3.5)), ((295, 2.5), (295, 3.5))}
    assert outline(figure) == square
    marked = [line for axes in grid(figure) for line in axes.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in marked] == [2]
    assert all(line.get_linewidth() == 0 for line in marked)
    figure.savefig(tmp_path / "figure.png")
    assert outline(neural_figure(torch.randn(6, 50), recording_info(), 0.0)) == set()
    with pytest.raises(ValueError, match=r"\(6, 50\), got bool \(6, 49\)"):
        neural_figure(torch.randn(6, 50), recording_info(), 0.0, mask=mask[:, 1:])
