"""The report's drawings: each shows the values it was given, saves, and leaves pyplot alone."""

import io

import mne
import numpy as np
import pandas as pd
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


CURVE = {"n": np.geomspace(10, 1e5, 33), "cosine": np.linspace(0.1, 0.98, 33)}
CURVE |= {"low": CURVE["cosine"] - 0.05, "high": CURVE["cosine"] + 0.01}
ARMS = pd.DataFrame({"arm": ["brain"] * 2 + ["shuffled"] * 2, "step": [0.0, 2.0] * 2})
ARMS = ARMS.assign(change=[0, 1.5, 0, 0.1], low=[0, 1.2, 0, -0.1], high=[0, 1.7, 0, 0.3])
DRAWS = {"shuffled": np.column_stack([np.zeros(101), np.linspace(-1, 1, 101)])}
SCANNED = pd.DataFrame({"strength": [-2.0, 0.0, 2.0], "identity_loss": [0.6, 0.0, 0.3]})


DRAWN = {
    "one response": lambda: figures.response_figure({"all": evoked()}),
    "two responses": lambda: figures.response_figure({"targets": evoked(2), "others": evoked()}),
    "no positions": lambda: figures.response_figure({"all": evoked(positions=False)}),
    "null": lambda: figures.null_figure(0.7, np.linspace(0.4, 0.6, 50), label="AUC", chance=0.5),
    "loss": lambda: figures.loss_figure([3.0, 2.0, 1.5]),
    "strips": lambda: figures.strips_figure([("a", faces()[0]), ("b", faces()[0])], STRENGTHS),
    "effect": lambda: figures.effect_figure({"brain": np.ones((9, 3)), "null": np.zeros(3)}, STRENGTHS, label="x"),
    "learning curve": lambda: figures.learning_curve_figure(CURVE, n=100, cosine=0.3, interval=(0.2, 0.4), null=0.1),
    "comparison": lambda: figures.comparison_figure(ARMS, DRAWS, label="smile"),
    "identity": lambda: figures.identity_figure(SCANNED, (-1.5, None)),
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


def test_the_learning_curve_marks_these_data_and_ends_where_it_is_sure():
    axes = DRAWN["learning curve"]().axes[0]
    middle, interval, dot, null = axes.lines
    sure = int(np.flatnonzero(CURVE["low"] >= 0.9)[0])
    assert middle.get_xdata() == pytest.approx(CURVE["n"][: sure + 1])
    assert (dot.get_xdata().tolist(), dot.get_ydata().tolist()) == ([100], [0.3])
    assert list(interval.get_ydata()) == [0.2, 0.4]
    assert set(null.get_ydata()) == {0.1}


def test_arms_have_their_interval_and_shuffled_ones_a_band():
    axes = DRAWN["comparison"]().axes[0]
    (band,) = [
        part for part in axes.collections if part.get_label() != "brain" and len(part.get_paths()) == 1
    ]
    top = band.get_paths()[0].vertices
    assert (top[:, 1].min(), top[:, 1].max()) == pytest.approx((-0.95, 0.95))
    (brain,) = axes.containers
    assert brain.lines[0].get_ydata().tolist() == [0, 1.5]
    assert [tuple(segment[:, 1]) for segment in brain.lines[2][0].get_segments()] == [
        (0, 0),
        pytest.approx((1.2, 1.7)),
    ]
    assert brain.get_label() == "brain"


def test_identity_marks_where_it_breaks():
    axes = DRAWN["identity"]().axes[0]
    loss, limit, *marks = axes.lines
    assert set(limit.get_ydata()) == {0.5}
    assert loss.get_ydata().tolist() == [0.6, 0.0, 0.3]
    assert [set(mark.get_xdata()) for mark in marks] == [{-1.5}]
    people = SCANNED.assign(taken_for_same=[0.1, 0.5, 0.2])
    assert figures.identity_figure(people, (None, None)).axes[0].lines[0].get_ydata().tolist() == [
        0.1,
        0.5,
        0.2,
    ]
