"""The report's drawings: each shows the values it was given, saves, and leaves pyplot alone."""

import io

import mne
import numpy as np
import pytest
from matplotlib.figure import Figure

from brainedit import figures
from brainedit.montage import read_montage
from brainedit.simulate.viewing import CHANNELS

STRENGTHS = (-2.0, 0.0, 2.0)


def evoked(scale=1.0, *, positions=True):
    """A response that is largest at Pz and .3 s."""
    info = mne.create_info(list(CHANNELS), 100.0, "eeg")
    if positions:
        info.set_montage(read_montage())
    times = np.arange(-20, 81) / 100
    field = np.where(np.array(CHANNELS) == "Pz", 2.0, 0.5)
    return mne.EvokedArray(scale * 1e-6 * field[:, None] * np.exp(-(((times - 0.3) / 0.05) ** 2)), info, -0.2)


def faces(n=1):
    return np.random.default_rng(0).random((n, 3, 3, 16, 16))


DRAWN = {
    "one response": lambda: figures.response_figure({"all": evoked()}),
    "two responses": lambda: figures.response_figure({"targets": evoked(2), "others": evoked()}),
    "no positions": lambda: figures.response_figure({"all": evoked(positions=False)}),
    "null": lambda: figures.null_figure(0.7, np.linspace(0.4, 0.6, 50), label="AUC", chance=0.5),
    "loss": lambda: figures.loss_figure([3.0, 2.0, 1.5]),
    "strips": lambda: figures.strips_figure([("a", faces()[0]), ("b", faces()[0])], STRENGTHS),
    "effect": lambda: figures.effect_figure({"brain": np.ones((9, 3)), "null": np.zeros(3)}, STRENGTHS, label="x"),
    "gallery": lambda: figures.gallery_figure([(faces()[0, 0].transpose(1, 2, 0), [np.zeros((9, 9, 3))] * 4, 2)]),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_saves_and_leaves_pyplot_alone(name):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    figure = DRAWN[name]()
    assert isinstance(figure, Figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")
    assert pyplot.get_fignums() == before


def test_the_response_is_drawn_where_it_is_largest():
    figure = figures.response_figure({"targets": evoked(2), "others": evoked()})
    axes, *heads = figure.axes
    assert axes.get_ylabel() == "Pz, µV"
    targets, others = (line.get_ydata() for line in axes.lines[:2])
    assert targets.max() == pytest.approx(4.0)
    assert others.max() == pytest.approx(2.0)
    assert [head.get_title() for head in heads] == ["300 ms\n±2.0 µV"]  # of the difference
    assert len(figures.response_figure({"all": evoked(positions=False)}).axes) == 1
    at = figures.response_figure({"all": evoked()}, times=[0.1, 0.2]).axes[1:]
    assert [head.get_title().split(" ")[0] for head in at] == ["100", "200"]


def test_strips_and_galleries_frame_the_right_picture():
    strips = figures.strips_figure([("a", faces()[0])], STRENGTHS)
    assert [axes.get_title() for axes in strips.axes] == ["-2 SD", "as it was", "+2 SD"]
    assert [axes.spines["top"].get_visible() for axes in strips.axes] == [False, True, False]
    gallery = DRAWN["gallery"]()
    assert [axes.spines["top"].get_visible() for axes in gallery.axes] == [False, False, False, True, False]


def test_effects_and_losses_show_their_values():
    effect = DRAWN["effect"]().axes[0]
    assert effect.lines[0].get_ydata().tolist() == [1, 1, 1]
    assert effect.lines[1].get_ydata().tolist() == [0, 0, 0]
    loss = DRAWN["loss"]().axes[0].lines[0]
    assert (loss.get_xdata().tolist(), loss.get_ydata().tolist()) == ([1, 2, 3], [3.0, 2.0, 1.5])
