"""Band and window maps against closed forms, planted dependence and what is put into the EEG."""

import logging

import pytest
import torch
from torch import nn

import saliency.neural
from saliency.bands import BANDS, band_map, band_maps, window_map, window_maps

METHODS = ["phase_randomisation", "band_stop"]
SFREQ, N_TIMES = 200.0, 200  # Fourier frequencies 1 Hz apart
SECONDS = torch.arange(N_TIMES, dtype=torch.float64) / SFREQ


def recording(n: int = 2, n_channels: int = 3, n_times: int = N_TIMES, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, n_channels, n_times, generator=generator, dtype=torch.float64)


def wave(frequency: float) -> torch.Tensor:
    return torch.cos(2 * torch.pi * frequency * SECONDS)


def small_net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv1d(3, 4, 9), nn.ELU(), nn.Flatten(), nn.Linear(768, 1), nn.Flatten(0)).eval()


def seen_by_the_score(eeg: torch.Tensor, **settings) -> torch.Tensor:
    """Every input after the clean ones, (n_replaced, n_channels, n_times)."""
    batches = []

    def score(batch):
        batches.append(batch.clone())
        return batch.sum((1, 2))

    band_maps(score, eeg, **settings)
    return torch.cat(batches)[len(eeg) :]


def test_the_bands_follow_each_other():
    edges = list(BANDS.values())
    assert [low for low, _ in edges[1:]] == [high for _, high in edges[:-1]]
    assert saliency.neural.BANDS is BANDS
    assert saliency.neural.band_map is band_map


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("frequency", "band"), [(2.0, 0), (6.0, 1), (8.0, 2), (12.0, 2), (20.0, 3), (30.0, 4), (60.0, 4)]
)
def test_only_the_planted_channel_and_band_light_up(method, frequency, band):
    eeg = 3 * wave(frequency) + recording()

    def score(x):
        return x[:, 1] @ wave(frequency) / N_TIMES

    heat = band_map(score, eeg, sfreq=SFREQ, method=method, n_draws=64)
    lit = torch.zeros(3, 5, dtype=torch.bool)
    lit[1, band] = True
    assert heat[~lit].abs().max() < 1e-12
    expected = score(eeg).mean()  # the mean of random phases is no wave at all
    spread = 0 if method == "band_stop" else 4 * 1.6 / (2 * 64) ** 0.5  # amplitude / sqrt(2) is one draw's
    assert abs(heat[1, band] - expected) <= spread + 1e-12
    assert heat[1, band] > 0.5


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_score_falls_by_its_part_in_the_band(method):
    eeg, weight = recording(4), recording(1, seed=1)[0]
    maps = band_maps(lambda x: (x * weight).sum((1, 2)), eeg, sfreq=SFREQ, method=method, n_draws=300)
    spectra = torch.fft.rfft(eeg)
    spans = [(1, 4), (4, 8), (8, 13), (13, 30), (30, 80)]
    for column, (low, high) in enumerate(spans):
        inside = torch.zeros_like(spectra)
        inside[..., low:high] = spectra[..., low:high]
        part = torch.fft.irfft(inside, n=N_TIMES)
        spread = (weight**2).mean(1) * (part**2).sum(2)  # variance of one draw, about
        error = (maps[..., column] - (part * weight).sum(2)).abs()
        tolerance = 1e-10 if method == "band_stop" else 5 * (spread / 300).sqrt()
        assert bool((error < tolerance).all())


def test_band_stop_takes_the_energy_that_parseval_says():
    eeg = recording()
    heat = band_maps(lambda x: x.square().sum((1, 2)), eeg, sfreq=SFREQ, method="band_stop")
    power = 2 * torch.fft.rfft(eeg).abs().square() / N_TIMES
    torch.testing.assert_close(heat[..., 2], power[..., 8:13].sum(2))
    together = band_maps(
        lambda x: x.square().sum((1, 2)), eeg, sfreq=SFREQ, method="band_stop", by_channel=False
    )
    assert together.shape == (2, 5)
    torch.testing.assert_close(together, heat.sum(1))


@pytest.mark.parametrize("n_times", [N_TIMES, N_TIMES - 1])
@pytest.mark.parametrize("by_channel", [True, False])
@pytest.mark.parametrize("band", [(8.0, 13.0), (50.0, 300.0), (0.0, 5.0)])
def test_new_phases_keep_every_amplitude_and_all_other_frequencies(n_times, by_channel, band):
    eeg = recording(1, n_times=n_times) + 2
    settings = {"bands": {"b": band}, "n_draws": 5, "by_channel": by_channel}
    changed = torch.fft.rfft(seen_by_the_score(eeg, sfreq=SFREQ, **settings))
    clean = torch.fft.rfft(eeg[0])
    torch.testing.assert_close(changed.abs(), clean.abs().expand_as(changed))
    frequencies = torch.arange(clean.shape[1]) * SFREQ / n_times
    inside = (frequencies >= band[0]) & (frequencies < band[1]) & (frequencies > 0)
    torch.testing.assert_close(changed[..., ~inside], clean[:, ~inside].expand_as(changed[..., ~inside]))
    moved = (changed - clean).abs().sum(2) > 1e-6
    expected = torch.eye(3, dtype=torch.bool).repeat_interleave(5, 0) if by_channel else torch.ones(5, 3) > 0
    assert torch.equal(moved, expected)


def test_new_phases_are_uniform_and_differ_from_channel_to_channel():
    settings = {"bands": {"b": (40.0, 60.0)}, "n_draws": 200, "by_channel": False}
    eeg = recording(1)
    changed = torch.fft.rfft(seen_by_the_score(eeg, sfreq=SFREQ, **settings))[..., 40:60]
    turns = changed / torch.fft.rfft(eeg)[..., 40:60]
    assert turns.mean(0).abs().max() < 5 / 200**0.5
    assert (turns[:, 0] * turns[:, 1].conj()).mean(0).abs().max() < 5 / 200**0.5
    assert turns.square().mean().abs() < 0.05


def test_a_score_of_power_falls_with_the_band_but_not_with_its_phases():
    eeg = recording() + wave(10.0)

    def score(x):
        return torch.fft.rfft(x)[:, 0, 8:13].abs().square().sum(1)

    assert band_map(score, eeg, sfreq=SFREQ).abs().max() < 1e-6
    stopped = band_map(score, eeg, sfreq=SFREQ, method="band_stop")
    torch.testing.assert_close(stopped[0, 2], score(eeg).mean())


def test_a_band_beyond_half_the_sampling_rate_ends_there_and_says_so(caplog):
    net, eeg = small_net().double(), recording()
    with caplog.at_level(logging.WARNING, "saliency.bands"):
        cut = band_map(net, eeg, sfreq=100.0, bands={"gamma": (30.0, 80.0)})
    assert "'gamma' (30 to 80 Hz) ends at 50 Hz" in caplog.text
    torch.testing.assert_close(band_map(net, eeg, sfreq=100.0, bands={"x": (30.0, 50.0)}), cut)


@pytest.mark.parametrize("method", METHODS)
def test_one_trial_a_batch_and_any_batch_size_agree(method):
    net, eeg = small_net(), recording().float()
    state = torch.get_rng_state()
    maps = band_maps(net, eeg, sfreq=SFREQ, method=method, n_draws=3)
    assert maps.shape == (2, 3, 5)
    assert maps.dtype == torch.float32
    settings = {"sfreq": SFREQ, "method": method, "n_draws": 3}
    torch.testing.assert_close(band_maps(net, eeg, batch_size=7, **settings), maps, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(band_map(net, eeg, **settings), maps.mean(0))
    torch.testing.assert_close(band_map(net, eeg[0], **settings), maps[0], atol=1e-6, rtol=1e-4)
    other = band_maps(net, eeg, seed=1, **settings)
    assert torch.allclose(other, maps, atol=1e-6) == (method == "band_stop")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bands": {}}, "got none"),
        ({"bands": {"x": (8.0, 4.0)}}, r"'x': \(8, 4\)"),
        ({"bands": {"x": (float("nan"), 4.0)}}, r"'x': \(nan, 4\)"),
        ({"bands": {"hfo": (100.0, 300.0)}}, "'hfo' starts at 100 Hz, EEG sampled at 200 Hz ends at 100"),
        ({"bands": {"x": (4.2, 4.8)}}, r"'x' \(4.2 to 4.8 Hz\) holds no frequency of trials of 1 s"),
        ({"bands": {"dc": (0.0, 1.0)}}, r"'dc' \(0 to 1 Hz\) holds no frequency"),
        ({"method": "phase_randomization"}, "'phase_randomization'. Did you mean 'phase_randomisation'"),
        ({"sfreq": 0.0}, "got 0.0"),
        ({"n_draws": 0}, "n_draws .* got 0"),
        ({"batch_size": 0}, "batch_size .* got 0"),
    ],
)
def test_band_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        band_map(small_net().double(), recording(), **{"sfreq": SFREQ, **settings})


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda x: x.mean((1, 2))[:, None], r"one score per trial.*\(2, 1\)"),
        (lambda x: x.mean(), r"shape \(\)"),
        (lambda x: x.mean((1, 2)) * float("nan"), "NaN"),
        (nn.Sequential(nn.BatchNorm1d(3)), "'0' is in training mode"),
    ],
)
def test_a_score_that_does_not_fit_is_refused(score, message):
    with pytest.raises(ValueError, match=message):
        band_map(score, recording(), sfreq=SFREQ)
    with pytest.raises(ValueError, match=message):
        window_map(score, recording(), sfreq=SFREQ, tmin=0.0)


def test_a_score_that_breaks_on_replaced_eeg_alone_is_refused():
    eeg = recording()

    def brittle(x):
        return torch.where(torch.isin(x[:, 0, 0], eeg[:, 0, 0]), 1.0, float("nan"))

    with pytest.raises(ValueError, match="NaN"):
        window_map(brittle, eeg, sfreq=SFREQ, tmin=0.0)


@pytest.mark.parametrize("shape", [(N_TIMES,), (0, 3, N_TIMES)])
def test_eeg_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match=rf"\({shape[0]}, ?"):
        band_map(lambda x: x.sum((1, 2)), torch.zeros(shape), sfreq=SFREQ)
    with pytest.raises(ValueError, match="NaN"):
        window_map(lambda x: x.sum((1, 2)), torch.full((3, N_TIMES), torch.nan), sfreq=SFREQ, tmin=0.0)


def test_only_windows_that_reach_the_planted_samples_light_up():
    eeg = 5 + recording(3, 4, 62).float()

    def score(x):
        return x[:, 2, 30:40].square().sum(1)

    heat, centres = window_map(score, eeg, sfreq=100.0, tmin=-0.1)
    starts = torch.tensor([*range(0, 55, 5), 52])
    torch.testing.assert_close(centres, -0.1 + (starts + 4.5).double() / 100)
    reached = (starts + 10 > 30) & (starts < 40)
    assert bool((heat[~reached] == 0).all())
    assert heat.shape == (12,)


def test_a_linear_score_falls_by_the_windows_part_above_the_mean():
    eeg, weight = 4 + recording(3, 2, 40), recording(1, 2, 40, seed=1)[0]
    settings = {"sfreq": 100.0, "tmin": 0.0, "length": 0.1, "step": 0.1}
    maps, centres = window_maps(lambda x: (x * weight).sum((1, 2)), eeg, n_draws=500, **settings)
    centred = (eeg - eeg.mean((0, 2))[:, None]) * weight
    expected = centred.unflatten(2, (4, 10)).sum((1, 3))
    spread = weight.square().unflatten(1, (4, 10)).sum((0, 2)).sqrt() / 500**0.5
    assert bool(((maps - expected).abs() < 5 * 1.1 * spread).all())
    assert maps.shape == (3, 4)
    torch.testing.assert_close(centres, torch.tensor([0.045, 0.145, 0.245, 0.345]).double())


def test_windows_do_not_depend_on_the_batch_size():
    net, eeg = small_net(), recording().float()
    settings = {"sfreq": SFREQ, "tmin": 0.0, "n_draws": 3}
    whole, _ = window_map(net, eeg, **settings)
    small, _ = window_map(net, eeg, batch_size=5, **settings)
    torch.testing.assert_close(whole, small, atol=1e-6, rtol=1e-4)
    one, centres = window_map(net, eeg, length=1.0, step=1.0, **settings)
    assert one.shape == centres.shape == (1,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 1.1}, r"within the trial \(1 s\), got length 1.1 s"),
        ({"length": 0.0}, "length of at least one sample .* got 0 s"),
        ({"step": 0.001}, "step of at least one sample .* got 0.001 s"),
        ({"step": float("nan")}, "got nan s"),
        ({"step": 0.2}, r"within the window \(0.1 s\).*got 0.2 s"),
        ({"sfreq": -1.0}, "got -1.0"),
        ({"n_draws": 1.5}, "got 1.5"),
    ],
)
def test_window_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        window_map(small_net().double(), recording(), **{"sfreq": SFREQ, "tmin": 0.0, **settings})
