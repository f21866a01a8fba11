"""Channel and time maps against closed forms, completeness and planted dependence."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from saliency.neural import neural_map, neural_maps

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
