"""Channel and time maps against closed forms, completeness and planted dependence."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from saliency.neural import (
    PALAZZO_WINDOWS,
    channel_importance,
    feature_association,
    kept_windows,
    neural_map,
    neural_maps,
)

METHODS = ["integrated_gradients", "occlusion"]


def recording(n: int = 3, n_channels: int = 4, n_times: int = 20, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, n_channels, n_times, generator=torch.Generator().manual_seed(seed))


def small_net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv1d(4, 8, 5), nn.ELU(), nn.Flatten(), nn.Linear(128, 1), nn.Flatten(0)).eval()


def planted(eeg: torch.Tensor) -> torch.Tensor:
    return eeg[:, 2, 8:12].square().sum(1)


def test_linear_score_has_a_closed_form():
    eeg, weight, baseline = recording(), recording(1, seed=1)[0], recording(1, seed=2)[0]
    maps = neural_maps(lambda x: (x * weight).sum((1, 2)), eeg, baseline=baseline, n_steps=5)
    torch.testing.assert_close(maps, (eeg - baseline) * weight, atol=1e-5, rtol=1e-5)
    zero = neural_maps(lambda x: (x * weight).sum((1, 2)), eeg, n_steps=5)
    torch.testing.assert_close(zero, eeg * weight, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [7, 64, 120])
def test_integrated_gradients_are_complete(batch_size):
    net, eeg = small_net(), recording()
    maps = neural_maps(net, eeg, batch_size=batch_size)
    change = net(eeg) - net(torch.zeros_like(eeg))
    torch.testing.assert_close(maps.sum((1, 2)), change, rtol=0.01, atol=1e-4)
    torch.testing.assert_close(maps, neural_maps(net, eeg, batch_size=51), atol=1e-5, rtol=1e-4)


def test_too_few_steps_are_reported(caplog):
    def steep(eeg):
        return torch.sigmoid(200 * (eeg.sum((1, 2)) - 3))

    with caplog.at_level(logging.WARNING, "saliency.neural"):
        neural_map(steep, torch.ones(4, 20), n_steps=2)
    assert "raise n_steps" in caplog.text


@pytest.mark.parametrize("method", METHODS)
def test_only_the_planted_channel_and_window_light_up(method):
    settings = {"window": 4} if method == "occlusion" else {}
    heat = neural_map(planted, 3 * torch.ones(5, 4, 20), method=method, **settings)
    lit = torch.zeros(4, 20, dtype=torch.bool)
    lit[2, 8:12] = True
    assert bool((heat[~lit] == 0).all())
    if method == "integrated_gradients":
        torch.testing.assert_close(heat[lit], torch.full((4,), 9.0), rtol=1e-4, atol=0)


def test_occlusion_expects_noise_of_the_channels_own_mean_and_deviation():
    eeg = (
        recording(40, 3, 50) * torch.tensor([1.0, 2.0, 5.0])[:, None]
        + torch.tensor([0.0, 3.0, -1.0])[:, None]
    )
    heat = neural_maps(lambda x: x.square().mean((1, 2)), eeg, method="occlusion", n_draws=200)
    power = eeg.square().mean(2)  # (n, n_channels)
    expected = (
        power - power.mean(0)
    ) / 3  # noise of equal mean and deviation has the mean power of the trials
    assert torch.equal(heat, heat[:, :, :1].expand_as(heat))
    error = (heat[:, :, 0] - expected) / power.mean(0)
    assert error.abs().max() < 0.03
    assert error.mean(0).abs().max() < 0.002


def test_occlusion_windows_cover_the_end_and_partition_a_linear_score():
    weight = recording(1, 4, 22, seed=5)[0]
    eeg = recording(6, 4, 22) + 4
    maps = neural_maps(lambda x: (x * weight).sum((1, 2)), eeg, method="occlusion", window=5, n_draws=400)
    centred = (eeg - eeg.mean((0, 2))[:, None]) * weight
    patches = torch.stack([centred[..., s : s + 5].sum(2) for s in (0, 5, 10, 15, 17)], 2)
    expected = patches[..., [0] * 5 + [1] * 5 + [2] * 5 + [3] * 2 + [3] * 3 + [4] * 2].clone()
    expected[..., 17:20] = (patches[..., 3:4] + patches[..., 4:5]) / 2
    assert (maps - expected).abs().max() < 0.6  # four standard errors of 400 draws of five samples
    assert (maps - expected).abs().mean() < 0.12


def test_the_low_pass_keeps_only_what_lies_below_100_hz():
    eeg = recording(8, 2, 400)

    def power_above(low):
        def score(x):
            return torch.fft.rfft(x)[..., low:].abs().square().sum((1, 2)) / 400

        return score

    settings = {"method": "occlusion", "n_draws": 8}
    high = power_above(41)  # at 1000 Hz and 400 samples a bin is 2.5 Hz: 41 is 102.5 Hz
    filtered = neural_maps(high, eeg, sfreq=1000.0, **settings)[:, :, 0]
    whole = torch.fft.rfft(eeg)[..., 41:].abs().square().sum(2) / 400
    torch.testing.assert_close(filtered, whole, rtol=1e-4, atol=1e-3)
    unfiltered = neural_maps(high, eeg, **settings)
    torch.testing.assert_close(
        unfiltered, neural_maps(high, eeg, sfreq=200.0, **settings), rtol=1e-4, atol=1e-3
    )
    assert unfiltered[:, :, 0].mean() < 0.1 * filtered.mean()


@pytest.mark.parametrize("method", METHODS)
def test_one_trial_a_batch_and_the_maps_agree(method):
    net, eeg = small_net(), recording()
    maps = neural_maps(net, eeg, method=method)
    assert maps.shape == eeg.shape
    torch.testing.assert_close(neural_map(net, eeg, method=method), maps.mean(0))
    alone = neural_map(net, eeg[0], method=method)
    assert alone.shape == (4, 20)
    if method == "integrated_gradients":
        torch.testing.assert_close(alone, maps[0], atol=1e-5, rtol=1e-4)


def test_occlusion_depends_on_the_seed_alone():
    net, eeg = small_net(), recording()
    state = torch.get_rng_state()
    first = neural_maps(net, eeg, method="occlusion", batch_size=5)
    torch.testing.assert_close(neural_maps(net, eeg, method="occlusion", batch_size=64), first)
    assert not torch.allclose(neural_maps(net, eeg, method="occlusion", seed=1), first)
    assert torch.equal(torch.get_rng_state(), state)


@settings(max_examples=10, deadline=None)
@given(
    scale=st.floats(-50, 50), offset=st.floats(-5, 5), method=st.sampled_from(METHODS), seed=st.integers(0, 9)
)
def test_scaling_the_score_scales_the_map(scale, offset, method, seed):
    net, eeg = small_net().double(), recording(2, seed=seed).double()
    plain = neural_maps(net, eeg, method=method, n_draws=2, n_steps=8)
    scaled = neural_maps(lambda x: scale * net(x) + offset, eeg, method=method, n_draws=2, n_steps=8)
    torch.testing.assert_close(scaled, scale * plain, atol=1e-5, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(value=st.floats(-100, 100), method=st.sampled_from(METHODS))
def test_a_constant_score_gives_a_zero_map(value, method):
    heat = neural_map(lambda x: 0 * x.sum((1, 2)) + value, recording(2), method=method, n_draws=2, n_steps=4)
    assert bool((heat == 0).all())


def test_volts_are_small_enough_to_need_care():
    weight, eeg = 1e6 * recording(1, seed=1)[0], 1e-5 * recording()
    maps = neural_maps(lambda x: (x * weight).sum((1, 2)), eeg, n_steps=5)
    torch.testing.assert_close(maps, eeg * weight, atol=1e-4, rtol=1e-4)


def test_a_recurrent_score_serves():
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 6, batch_first=True).eval()
    eeg = recording()
    heat = neural_maps(lambda x: lstm(x.mT)[0][:, -1].sum(1), eeg)
    change = lstm(eeg.mT)[0][:, -1].sum(1) - lstm(torch.zeros_like(eeg).mT)[0][:, -1].sum(1)
    torch.testing.assert_close(heat.sum((1, 2)), change, rtol=0.01, atol=1e-4)


@pytest.mark.parametrize(
    ("eeg", "message"),
    [
        (torch.randn(20), r"\(20,\)"),
        (torch.randn(0, 4, 20), r"\(0, 4, 20\)"),
        (torch.ones(2, 4, 20, dtype=torch.int16), "torch.int16"),
        (torch.full((2, 4, 20), float("inf")), "NaN or infinity"),
    ],
)
def test_eeg_that_does_not_fit_is_refused(eeg, message):
    with pytest.raises(ValueError, match=message):
        neural_map(planted, eeg)


def test_eeg_that_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="ndarray"):
        neural_map(planted, recording().numpy())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "ocllusion"}, "'ocllusion'. Did you mean 'occlusion'"),
        ({"n_steps": 0}, "n_steps .* got 0"),
        ({"n_draws": 0, "method": "occlusion"}, "n_draws .* got 0"),
        ({"batch_size": -1}, "batch_size .* got -1"),
        ({"window": 21, "method": "occlusion"}, "20 samples.*got 21"),
        ({"window": 0, "method": "occlusion"}, "window .* got 0"),
        ({"window": 5}, "take no window, got 5"),
        ({"sfreq": 0.0, "method": "occlusion"}, "got 0.0"),
        ({"baseline": torch.zeros(5)}, r"\(5,\) for EEG \(3, 4, 20\)"),
        ({"baseline": torch.full((4, 20), float("nan"))}, "baseline .* NaN"),
        ({"baseline": torch.zeros(4, 20), "method": "occlusion"}, "takes no baseline"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        neural_map(planted, recording(), **settings)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda x: x.mean((1, 2))[:, None], r"one score per trial.*\(1, 1\)|one score per trial.*\(\d+, 1\)"),
        (lambda x: x.mean(), r"shape \(\)"),
        (lambda x: planted(x) * float("nan"), "NaN"),
    ],
)
def test_a_score_that_does_not_fit_is_refused(score, message, method):
    with pytest.raises(ValueError, match=message):
        neural_map(score, recording(), method=method)


def test_a_score_without_gradient_is_sent_to_occlusion():
    with pytest.raises(ValueError, match="method='occlusion'"):
        neural_map(lambda x: planted(x.detach()), recording())
    neural_map(lambda x: planted(x.detach()), recording(), method="occlusion")


def test_a_network_in_training_mode_is_refused():
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(80, 1), nn.Flatten(0))
    with pytest.raises(ValueError, match="BatchNorm1d '0' is in training mode"):
        neural_map(net, recording())


def test_channel_importance_is_the_mean_of_whole_row_occlusion():
    net, eeg = small_net(), recording()
    rows = neural_maps(net, eeg, method="occlusion", sfreq=300.0, seed=2)[..., 0]
    torch.testing.assert_close(channel_importance(net, eeg, sfreq=300.0, seed=2), rows.mean(0))
    torch.testing.assert_close(
        channel_importance(net, eeg[0], batch_size=7), channel_importance(net, eeg[:1]), atol=1e-6, rtol=1e-4
    )


def test_k_scores_at_once_are_k_scores_one_by_one():
    net, eeg = small_net(), recording()
    both = channel_importance(lambda x: torch.stack([net(x), planted(x), net(x) ** 2], 1), eeg)
    assert both.shape == (4, 3)
    for column, score in enumerate([net, planted, lambda x: net(x) ** 2]):
        torch.testing.assert_close(both[:, column], channel_importance(score, eeg), atol=1e-6, rtol=1e-4)
    assert channel_importance(lambda x: net(x)[:, None], eeg).shape == (4, 1)


def test_only_the_planted_channel_is_important():
    heat = channel_importance(planted, 3 + recording(20))
    assert heat[2] != 0
    assert bool((heat[[0, 1, 3]] == 0).all())


def test_channel_importance_of_a_linear_score_has_a_closed_form():
    eeg, weight = 2 + recording(30), recording(1, seed=1)[0]
    rise = torch.linspace(-1, 1, 20)
    eeg = eeg + rise  # a response, else the fall of a linear score averages to nothing
    heat = channel_importance(lambda x: (x * weight).sum((1, 2)), eeg, n_draws=200)
    expected = ((eeg - eeg.mean((0, 2))[:, None]) * weight).sum(2).mean(0)
    spread = eeg.std((0, 2)) * weight.square().sum(1).sqrt() / (30 * 200) ** 0.5
    assert bool(((heat - expected).abs() < 5 * spread).all())
    assert bool((expected.abs() > 5 * spread).any())


def test_association_is_the_importance_without_the_feature_less_that_with_it():
    eeg = recording(30) + torch.linspace(-1, 1, 20)
    weights = recording(3, seed=1)  # the picture, and the picture without each of two features
    weights[2] = weights[0]  # the second feature does not matter
    weights[1, :3] = weights[0, :3]  # the first one matters to the last channel alone

    def score(x):
        return torch.einsum("nct,kct->nk", x, weights)

    heat = feature_association(score, eeg, n_draws=100)
    assert heat.shape == (4, 2)
    lost = weights[1, 3] - weights[0, 3]
    expected = ((eeg[:, 3] - eeg[:, 3].mean()) * lost).sum(1).mean()
    spread = eeg[:, 3].std() * lost.square().sum().sqrt() / (30 * 100) ** 0.5
    assert abs(heat[3, 0] - expected) < 5 * spread < abs(expected)
    heat[3, 0] = 0
    assert heat.abs().max() < 1e-4


@pytest.mark.parametrize(
    ("score", "message"), [(planted, r"got \(n,\)"), (lambda x: planted(x)[:, None], r"got \(n, 1\)")]
)
def test_association_needs_a_score_for_each_feature(score, message):
    with pytest.raises(ValueError, match=message):
        feature_association(score, recording())


@pytest.mark.parametrize("explain", [channel_importance, feature_association])
def test_importance_refuses_what_does_not_fit(explain):
    with pytest.raises(ValueError, match=r"n_draws .* got 0"):
        explain(planted, recording(), n_draws=0)
    with pytest.raises(ValueError, match="sampling rate in Hz, got -1"):
        explain(planted, recording(), sfreq=-1)
    with pytest.raises(ValueError, match=r"\(20,\)"):
        explain(planted, recording()[0, 0])
    with pytest.raises(ValueError, match=r"returned shape \(3, 2, 2\)"):
        explain(lambda x: x[:, :2, :2], recording())


def test_a_kept_window_holds_the_response_inside_and_the_baseline_outside():
    eeg, baseline = recording(1, 4, 200)[0], recording(1, 4, 200, seed=1)[0]
    copies = kept_windows(eeg, [(0.1, 0.3), (0.5, 0.8)], sfreq=200.0, tmin=-0.1, baseline=baseline)
    times = -0.1 + torch.arange(200) / 200
    assert copies.shape == (2, 4, 200)
    for copy, (start, stop) in zip(copies, [(0.1, 0.3), (0.5, 0.8)], strict=True):
        inside = (times > start + 0.011) & (times < stop - 0.011)
        outside = (times < start - 0.011) | (times > stop + 0.011)
        torch.testing.assert_close(copy[:, inside], eeg[:, inside])
        assert torch.equal(copy[:, outside], baseline[:, outside])
        border = (times - start).abs() < 1e-6
        torch.testing.assert_close(copy[:, border], (eeg + baseline)[:, border] / 2)


@pytest.mark.parametrize("taper", [0.0, 0.005, 0.02, 0.1])
def test_windows_that_tile_the_trial_add_up_to_the_response(taper):
    eeg, baseline = recording(1, 4, 150)[0], recording(1, 4, 1, seed=1)[0]
    tiles = [(-0.2, 0.0), (0.0, 0.25), (0.25, 0.4), (0.4, 0.55)]
    copies = kept_windows(eeg, tiles, sfreq=200.0, tmin=-0.2, baseline=baseline, taper=taper)
    torch.testing.assert_close((copies - baseline).sum(0), eeg - baseline, atol=1e-5, rtol=1e-5)
    whole = kept_windows(eeg, [(-0.2, 0.55)], sfreq=200.0, tmin=-0.2, baseline=baseline, taper=taper)
    torch.testing.assert_close(whole[0], eeg)


def test_without_a_taper_a_window_is_its_samples():
    copies = kept_windows(
        torch.ones(1, 20), [(0.05, 0.1)], sfreq=100.0, tmin=0.0, baseline=torch.zeros(1), taper=0
    )
    assert copies[0, 0].nonzero().flatten().tolist() == [5, 6, 7, 8, 9]


def test_the_papers_windows_fit_the_papers_trials():
    eeg = torch.ones(2, 440)
    copies = kept_windows(eeg, sfreq=1000.0, tmin=0.02, baseline=torch.zeros(2, 1))
    assert copies.shape == (len(PALAZZO_WINDOWS), 2, 440)
    assert copies[0, 0, 0] == 1
    assert copies[2, 0, -1] == 1
    lengths = copies[:, 0].sum(1) / 1000  # half of each taper counts
    torch.testing.assert_close(lengths, torch.tensor([0.22, 0.22, 0.22]), atol=0.001, rtol=0)


@pytest.mark.parametrize(
    ("eeg", "settings", "message"),
    [
        (torch.ones(1, 2, 100), {}, r"one response .*\(1, 2, 100\)"),
        (torch.full((2, 100), torch.nan), {}, "NaN"),
        (torch.ones(2, 100), {"windows": []}, "got none"),
        (torch.ones(2, 100), {"windows": [(0.5, 1.2)]}, r"within 0 to 1 s, got \(0.5, 1.2\)"),
        (torch.ones(2, 100), {"windows": [(-0.1, 0.2)]}, r"within 0 to 1 s, got \(-0.1, 0.2\)"),
        (torch.ones(2, 100), {"windows": [(0.3, 0.2)]}, r"got \(0.3, 0.2\)"),
        (torch.ones(2, 100), {"windows": [(0.3, 0.31)]}, r"the taper \(0.02 s\), got \(0.3, 0.31\)"),
        (torch.ones(2, 100), {"windows": [(0.3, 0.305)], "taper": 0}, r"a sample \(0.01 s\).*\(0.3, 0.305\)"),
        (torch.ones(2, 100), {"taper": -1.0}, "got -1.0"),
        (torch.ones(2, 100), {"sfreq": 0.0}, "got 0.0"),
        (torch.ones(2, 100), {"baseline": torch.zeros(3, 1)}, r"\(3, 1\) for EEG \(2, 100\)"),
        (torch.ones(2, 100), {"baseline": torch.full((2, 1), torch.nan)}, "baseline .* NaN"),
    ],
)
def test_windows_that_do_not_fit_are_refused(eeg, settings, message):
    plain = {"windows": [(0.2, 0.4)], "sfreq": 100.0, "tmin": 0.0, "baseline": torch.zeros(2, 1)}
    with pytest.raises(ValueError, match=message):
        kept_windows(eeg, **{**plain, **settings})
