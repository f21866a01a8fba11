"""Tests of sanity checks, of randomised networks and of the sentences that call a map a brain map or not."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from saliency.baselines import centre_map, edge_map
from saliency.dependence import eeg_dependence
from saliency.plots import overlay, sanity_figure
from saliency.sanity import SanityCheck, map_verdict, randomised, sanity_checks

IMAGE = torch.rand(3, 9, 12, generator=torch.Generator().manual_seed(0))


def heat(seed, *shape):
    return np.random.default_rng(seed).normal(size=(*shape, 9, 12)).astype(np.float32)


def by_name(checks):
    return {check.name: check for check in checks}


def check(name, r, r_abs, ran=True):
    return SanityCheck(name, "something else is done", r, r_abs, ran)


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    layers[1].running_mean.copy_(torch.arange(8.0))
    layers[1].running_var.copy_(torch.arange(1.0, 9.0))
    layers.scale = nn.Parameter(torch.tensor(3.0))
    layers.register_buffer("fitted", torch.arange(5.0))
    return layers.eval()


def test_correlations_are_spearmans():
    own, other = heat(0), heat(1) + heat(0)
    found = by_name(sanity_checks(own, {"other_eeg": other}, IMAGE))["other_eeg"]
    assert found.ran
    assert found.r == pytest.approx(spearmanr(own.ravel(), other.ravel())[0])
    assert found.r_abs == pytest.approx(spearmanr(abs(own).ravel(), abs(other).ravel())[0])
    assert found.what_it_shows == "responses to other pictures stand in for this picture's"


def test_correlations_with_several_maps_are_means():
    own, others = torch.from_numpy(heat(0)), heat(1, 3)
    found = sanity_checks(own, {"mine": others}, IMAGE)[0]
    assert found.r == pytest.approx(np.mean([spearmanr(heat(0).ravel(), m.ravel())[0] for m in others]))
    assert found.what_it_shows == "mine"


def test_centre_and_edges_always_come():
    found = sanity_checks(edge_map(IMAGE), {}, IMAGE)
    assert [check.name for check in found] == ["centre", "edges"]
    assert found[1].r == pytest.approx(1)
    assert by_name(sanity_checks(centre_map((9, 12)), {}, IMAGE))["centre"].r == pytest.approx(1)


def test_what_was_not_run_says_why():
    found = sanity_checks(heat(0), {"permuted_training": "No such model was given."}, IMAGE)[0]
    assert not found.ran
    assert found.why_not == "No such model was given."
    assert math.isnan(found.r)
    assert math.isnan(found.r_abs)


def test_constant_maps_are_not_a_passed_check(recwarn):
    dead = np.full((9, 12), 0.3, np.float32) + np.float32(3e-8) * (heat(1) > 0)
    found = by_name(sanity_checks(heat(0), {"random_model": dead, "other_eeg": heat(1, 2) * 0}, IMAGE))
    for name in ("random_model", "other_eeg"):
        assert (found[name].ran, found[name].why_not) == (False, "The map to compare with is constant.")
    own = sanity_checks(np.zeros((9, 12)), {"other_eeg": heat(1)}, IMAGE)
    assert {(check.ran, check.why_not) for check in own} == {(False, "The map itself is constant.")}
    assert not recwarn.list


def test_one_constant_map_of_several_counts_as_unlike():
    others = np.stack([heat(0), np.zeros((9, 12))])
    assert sanity_checks(heat(0), {"other_eeg": others}, IMAGE)[0].r == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("own", "others", "message"),
    [
        (heat(0)[:5], {}, r"size \(9, 12\), got \(5, 12\)"),
        (heat(0, 1), {}, r"got \(1, 9, 12\)"),
        (heat(0), {"mine": heat(0)[:, :4]}, r"'mine' at the size \(9, 12\) .* got \(1, 9, 4\)"),
        (heat(0), {"mine": heat(0) * np.nan}, "the map 'mine' of finite values"),
        (heat(0) * np.inf, {}, "a map of finite values"),
    ],
)
def test_maps_that_do_not_fit_are_told(own, others, message):
    with pytest.raises(ValueError, match=message):
        sanity_checks(own, others, IMAGE)


def test_randomised_forgets_the_weights_but_keeps_their_scale(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    copied = randomised(network)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    for name in ("0.weight", "3.weight"):
        old, new = before[name], copied.get_parameter(name)
        assert abs(np.corrcoef(old.flatten(), new.detach().flatten())[0, 1]) < 0.25
        assert new.std().item() == pytest.approx(old.std().item(), rel=0.2)
    assert torch.equal(copied[1].running_mean, torch.full((8,), 3.5))
    assert torch.equal(copied[1].running_var, torch.full((8,), 4.5))
    assert copied.scale == 3
    assert torch.equal(copied.fitted, before["fitted"])
    assert not copied.training


def test_randomised_follows_its_seed(network):
    one, two, other = (randomised(network, seed=seed)[0].weight for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_randomised_leaves_the_global_generator_alone(network):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    randomised(network)
    assert torch.equal(torch.rand(1), expected)


def test_randomised_parts_only(network):
    copied = randomised(network, parts=["3", "1.running_mean"])
    assert torch.equal(copied[0].weight, network[0].weight)
    assert not torch.equal(copied[3].weight, network[3].weight)
    assert torch.equal(copied[1].running_mean, torch.full((8,), 3.5))
    assert torch.equal(copied[1].running_var, network[1].running_var)


def test_a_deep_randomised_network_still_answers_to_its_input():
    torch.manual_seed(0)
    layers = [part for _ in range(30) for part in (nn.Linear(64, 64), nn.ReLU())]
    deep = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        for part in deep[::2]:
            part.weight.normal_(0, math.sqrt(2 / 64))  # trained networks keep the size of their signals
            part.bias.zero_()
    pictures = torch.randn(50, 64, dtype=torch.float64)
    spread = [net(pictures).std(0).mean().item() for net in (deep, randomised(deep))]
    assert spread[1] > 0.03 * spread[0]


def test_randomised_says_what_does_not_fit(network):
    with pytest.raises(ValueError, match="no parameters under 'theta'"):
        randomised(network, parts=["theta"])
    with pytest.raises(ValueError, match=r"no parameters under '3\.wei'"):
        randomised(network, parts=["3.wei"])
    with pytest.raises(TypeError, match="single string '3'"):
        randomised(network, parts="3")
    with pytest.raises(TypeError, match="torch module, got function"):
        randomised(by_name)


def test_verdict_of_one_map():
    assert map_verdict(0.2) == (
        "The map cannot be told from those that other responses give (p = 0.2). Read it as a picture map, "
        "not as a brain map."
    )
    assert map_verdict(0.01).endswith("(p = 0.01). It was compared with no map that should differ.")
    unlike = [check("centre", 0.1, 0.3), check("edges", -0.9, 0.2), check("x", math.nan, math.nan, False)]
    assert map_verdict(0.01, unlike).endswith(
        "Of 2 maps that should differ, none is alike (largest r = 0.30)."
    )


def test_verdict_names_the_map_that_is_alike():
    checks = [
        check("other_eeg", 0.2, 0.1),
        replace(check("edges", 0.8, 0.1), what_it_shows="edges are drawn"),
    ]
    assert map_verdict(0.01, checks).endswith(
        "Most of it is there too when edges are drawn (r = 0.80): the EEG changes what is mainly a picture map."
    )
    assert map_verdict(0.5, checks).endswith("edges are drawn (r = 0.80): read it as a picture map.")
    assert "mainly a picture map" in map_verdict(0.01, [check("mean_eeg", -0.5, 0.72)])


def test_verdict_of_a_set_of_maps_begins_with_theirs():
    result = eeg_dependence(heat(0, 5, 5), heat(1, 5, 5))
    assert map_verdict(result).startswith(result.verdict)
    assert map_verdict(result).endswith("not as a brain map.")


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_verdict_asks_for_a_p(p):
    with pytest.raises(ValueError, match=f"got {p}"):
        map_verdict(p)


def test_figure_shows_the_picture_the_map_and_every_alternative_that_was_made():
    alternatives = {
        "other_eeg": heat(1, 3),
        "permuted_training": "No such model was given.",
        "edges": edge_map(IMAGE),
        "mean_eeg": heat(2),
        "centre": centre_map((9, 12)),
    }
    figure = sanity_figure(IMAGE, heat(0), alternatives)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["picture", "map", "other EEG", "edges", "mean EEG", "centre"]
    shown = [axes.images[0].get_array() for axes in figure.axes]
    np.testing.assert_array_equal(shown[2], overlay(IMAGE, heat(1, 3)[0]))
    np.testing.assert_array_equal(shown[5], overlay(IMAGE, centre_map((9, 12))))
    with pytest.raises(ValueError, match=r"got shape \(3, 9, 12\)"):
        sanity_figure(IMAGE, heat(0, 3), {})
