"""What a model does to EEG first: white noise, any order and rate, everything missing in one sentence."""

import re

import mne
import numpy as np
import pytest
import torch

from brainedit.eeg_input import EEGInput

NAMES = ["Fz", "Cz", "T7", "T8", "P7", "O1"]


def smooth(names, times, *, n=10, seed=0):
    """Signals below 5 Hz that are known at any time: the same trial whatever the rate, (n, n_channels, n_times)."""
    frequency, phase, size = np.random.default_rng(seed).random((3, n, len(NAMES), 4))
    waves = (1 + size[..., None]) * np.sin(2 * np.pi * (5 * frequency[..., None] * times + phase[..., None]))
    return 1e-5 * waves.sum(2)[:, [NAMES.index(name) for name in names]]


def recording(array_epochs, *, order=NAMES, called=None, sfreq=250.0, tmin=-0.1, tmax=0.8, **settings):
    times = tmin + np.arange(round((tmax - tmin) * sfreq)) / sfreq
    return array_epochs(smooth(order, times), names=called or order, sfreq=sfreq, tmin=tmin, **settings)


@pytest.fixture(scope="module")
def fitted(array_epochs):
    epochs = recording(array_epochs)
    return EEGInput.fit(epochs, np.arange(10) % 2), epochs


def coloured_noise(n, *, seed=0):
    """Four channels, ten times: correlated in space and time, of very different sizes."""
    rng = np.random.default_rng(seed)
    mixing = np.array([[1, 0.5, 0, 0], [0, 2, 1, 0], [0, 0, 4, 2], [2, 0, 0, 8.0]])
    white = rng.normal(size=(n, 4, 11))
    return 1e-6 * np.einsum("ij,njt->nit", mixing, white[..., 1:] + 0.4 * white[..., :-1])


@pytest.mark.parametrize("whiten", ["channels_times", "channels"])
def test_noise_around_each_key_becomes_white(array_epochs, whiten):
    key = np.arange(3000) % 5
    means = 1e-4 * np.random.default_rng(2).normal(size=(5, 4, 10))
    fit = EEGInput.fit(array_epochs(coloured_noise(3000) + means[key]), key, whiten=whiten)
    new = array_epochs(coloured_noise(2000, seed=7) + means[np.arange(2000) % 5])  # trials it has not seen
    white = fit(fit.prepare(new)).numpy()
    residual = white - np.stack([white[k::5].mean(0) for k in range(5)])[np.arange(2000) % 5]
    samples = (
        residual.reshape(2000, -1)
        if whiten == "channels_times"
        else residual.transpose(0, 2, 1).reshape(-1, 4)
    )
    values = np.linalg.eigvalsh(np.cov(samples.T))
    assert 0.5 < values.min() <= values.max() < 1.6
    assert values.mean() == pytest.approx(1, abs=0.1)
    raw = np.linalg.eigvalsh(np.cov(coloured_noise(2000).reshape(2000, -1).T))
    assert raw.max() > 100 * raw.min()
    assert fit.settings["whiten"] == whiten


def test_two_repeats_of_many_pictures_do_not_hide_half_of_the_noise(array_epochs):
    """The mean of two takes half of the variance away; whitening has to give it back."""
    key = np.arange(2000) // 2
    means = 1e-5 * np.random.default_rng(2).normal(size=(1000, 4, 10))
    fit = EEGInput.fit(array_epochs(coloured_noise(2000) + means[key]), key)
    white = fit(fit.prepare(array_epochs(coloured_noise(2000, seed=7))))
    assert white.var(0).mean().item() == pytest.approx(1, abs=0.1)


def test_differences_between_keys_survive_whitening(array_epochs):
    """The covariance is of the noise: with keys apart, the distance is that of the means in units of noise."""
    key = np.arange(2000) % 2
    signal = np.zeros((4, 10))
    signal[2, 5] = 1e-5
    fit = EEGInput.fit(array_epochs(coloured_noise(2000) + key[:, None, None] * signal), key)
    white = fit(fit.prepare(array_epochs(coloured_noise(2000, seed=3) + key[:, None, None] * signal))).numpy()
    distance = np.linalg.norm(white[key == 1].mean(0) - white[key == 0].mean(0))
    noise = np.cov(coloured_noise(5000, seed=4).reshape(5000, -1).T)
    expected = np.sqrt(signal.ravel() @ np.linalg.solve(noise, signal.ravel()))
    assert distance == pytest.approx(expected, rel=0.15)


def test_without_whitening_channels_have_unit_variance(array_epochs):
    epochs = array_epochs(coloured_noise(300))
    fit = EEGInput.fit(epochs, np.arange(300), whiten="none")
    x = fit(fit.prepare(epochs))
    assert torch.allclose(x.mean(0), torch.zeros(4, 10), atol=1e-4)
    assert x.std((0, 2)).numpy() == pytest.approx(np.ones(4), rel=0.1)


def test_auto_whitening_looks_at_the_size(array_epochs):
    rng = np.random.default_rng(0)
    names = [f"E{i}" for i in range(64)]
    large = array_epochs(1e-5 * rng.normal(size=(8, 64, 40)), names=names)
    assert EEGInput.fit(large, np.arange(8)).settings["whiten"] == "channels"
    small = array_epochs(1e-5 * rng.normal(size=(8, 32, 40)), names=names[:32])
    assert EEGInput.fit(small, np.arange(8)).settings["whiten"] == "channels_times"


def test_bins_are_means_of_the_samples_they_cover(array_epochs):
    data = 1e-5 * np.arange(40.0).reshape(1, 1, 40).repeat(3, 0) * np.array([1, 2, 3])[:, None, None]
    fit = EEGInput.fit(array_epochs(data, names=["Cz"], sfreq=200, tmin=-0.05), np.arange(3), sfreq=50.0)
    assert (fit.n_times, fit.settings["tmin"]) == (7, 0)  # 0 to .15 s hold seven bins of four samples
    prepared = fit.prepare(array_epochs(data, names=["Cz"], sfreq=200, tmin=-0.05))
    assert prepared[1, 0].numpy() == pytest.approx(2e-5 * (11.5 + 4 * np.arange(7)))
    assert prepared.dtype == torch.float32


@pytest.mark.parametrize(
    "other",
    [
        {"order": NAMES[::-1]},
        {"called": ["FZ", "cz", "T3", "T4", "T5", "o1."]},
        {"order": ["O1", "T7", "P7", "Cz", "T8", "Fz"], "called": ["O1", "T3", "T5", "Cz", "T4", "Fz"]},
        {"sfreq": 500.0},
        {"sfreq": 1000.0, "tmin": -0.5, "tmax": 1.5, "order": NAMES[::-1]},
        {"sfreq": 200.0},
        {"tmin": 0.0},
        {"tmin": -0.3, "tmax": 2.0},
    ],
)
def test_another_recording_of_the_same_trials_is_prepared_alike(array_epochs, fitted, other):
    fit, epochs = fitted
    expected, prepared = fit.prepare(epochs), fit.prepare(recording(array_epochs, **other))
    assert prepared.shape == (10, 6, 40)
    # a sample stands for the time until the next, so that 5 Hz moves by half the difference of the steps
    assert (prepared - expected).abs().max() < 0.1 * expected.std()


def test_a_rate_that_does_not_divide_is_prepared_alike(array_epochs, fitted):
    fit, epochs = fitted
    expected, prepared = fit.prepare(epochs), fit.prepare(recording(array_epochs, sfreq=128.0))
    assert (prepared - expected).abs().max() < 0.25 * expected.std()  # up to half a sample of 8 ms


@pytest.mark.parametrize("shift", np.linspace(-0.45, 0.45, 7))
@pytest.mark.parametrize("sfreq", [50.0, 62.5, 100.0])
def test_no_interval_is_empty_where_samples_lie_between_the_model_s(array_epochs, fitted, sfreq, shift):
    fit, _ = fitted
    epochs = recording(array_epochs, sfreq=sfreq, tmin=shift / sfreq, tmax=0.8 + shift / sfreq)
    assert torch.isfinite(fit.prepare(epochs)).all()


def test_extra_channels_and_other_types_are_ignored(array_epochs, fitted):
    fit, epochs = fitted
    more = epochs.copy().add_channels([recording(array_epochs, called=[f"X{i}" for i in range(6)])])
    more.set_channel_types({"X0": "eog", "X1": "misc"})
    more._data[:, 7] = np.nan
    assert torch.equal(fit.prepare(more), fit.prepare(epochs))


def test_a_model_learns_from_good_eeg_channels_alone(array_epochs):
    epochs = recording(array_epochs)
    epochs._data[:, 1] = 0
    with pytest.raises(ValueError, match="Flat channels: Cz; drop them or mark them as bad"):
        EEGInput.fit(epochs, np.arange(10))
    epochs.info["bads"] = ["Cz"]
    assert EEGInput.fit(epochs, np.arange(10)).channels == ["Fz", "T7", "T8", "P7", "O1"]
    chosen = EEGInput.fit(epochs, np.arange(10), channels=["T3", "o1"])
    assert chosen.channels == ["T7", "O1"]


def test_all_that_is_missing_stands_in_one_sentence(array_epochs, fitted):
    fit, _ = fitted
    epochs = recording(array_epochs, order=["Fz", "Cz", "T7", "T8"], sfreq=40.0, tmin=0.1, tmax=0.5)
    epochs.set_eeg_reference("average", verbose="error")
    epochs.info["bads"] = ["Cz"]
    with epochs.info._unlock():
        epochs.info["lowpass"], epochs.info["highpass"] = 4.0, 1.0
    with pytest.raises(ValueError, match=r"^These epochs do not fit the model") as told:
        fit.prepare(epochs)
    for part in (
        "channels P7, O1 are missing",
        "channels Cz are marked bad",
        "they span 0.100 to 0.475 s where 0.000 to 0.800 s is needed",
        "their rate is 40 Hz where at least 50 Hz is needed",
        "trained on EEG as it was recorded, these epochs are re-referenced",
        "low-passed at 4 Hz, the model's at 20 Hz",
        "high-passed at 1 Hz, the model's at 0.1 Hz",
    ):
        assert part in str(told.value)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"tmax": 0.7}, "span -0.100 to 0.696 s where"),
        ({"tmin": 0.05}, "span 0.048 to 0.800 s where"),
        ({"sfreq": 49.0}, "rate is 49 Hz"),
        ({"lowpass": 3.0}, "low-passed at 3 Hz"),
        ({"highpass": 2.0}, "high-passed at 2 Hz"),
        ({"order": NAMES[1:]}, "channels Fz are missing"),
    ],
)
def test_each_lack_alone_is_told(array_epochs, fitted, other, message):
    with pytest.raises(ValueError, match=message):
        fitted[0].prepare(recording(array_epochs, **other))


def test_a_model_of_average_referenced_eeg_wants_the_same(array_epochs):
    epochs = recording(array_epochs)
    averaged = epochs.copy().set_eeg_reference("average", verbose="error")
    fit = EEGInput.fit(averaged, np.arange(10))
    fit.prepare(averaged)
    with pytest.raises(ValueError, match="trained on re-referenced EEG, these epochs are not"):
        fit.prepare(epochs)


def test_nan_and_microvolts_are_told(array_epochs, fitted):
    fit, epochs = fitted
    broken = epochs.copy()
    broken._data[2, 3, 50] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite values in channels T8"):
        fit.prepare(broken)
    microvolts = epochs.copy()
    microvolts._data *= 1e6
    with pytest.raises(ValueError, match=r"vary 1e\+06 times as much .* volts\?"):
        fit.prepare(microvolts)


def test_a_fit_without_eeg_or_window_is_told(array_epochs):
    epochs = recording(array_epochs)
    with pytest.raises(ValueError, match=r"window 0\.9 to 1\.2 s holds no two samples .* 0\.796 s"):
        EEGInput.fit(epochs, np.arange(10), tmin=0.9, tmax=1.2)
    with pytest.raises(ValueError, match="Unknown whitening 'full'"):
        EEGInput.fit(epochs, np.arange(10), whiten="full")
    with pytest.raises(ValueError, match="channels Iz are missing"):
        EEGInput.fit(epochs, np.arange(10), channels=["Iz", "Cz"])
    epochs.info["bads"] = list(NAMES)
    with pytest.raises(ValueError, match="no EEG channel that is not marked bad; their types are eeg"):
        EEGInput.fit(epochs, np.arange(10))


def test_a_slow_recording_keeps_its_rate(array_epochs):
    fit = EEGInput.fit(recording(array_epochs, sfreq=40.0), np.arange(10), sfreq=50.0)
    assert (fit.settings["sfreq"], fit.n_times) == (40, 32)


def test_state_and_settings_carry_the_whole_fit(fitted):
    fit, epochs = fitted
    again = EEGInput(fit.settings)
    again.load_state_dict(fit.state_dict())
    eeg = fit.prepare(epochs)
    assert torch.equal(again.prepare(epochs), eeg)
    assert torch.equal(again(eeg), fit(eeg))


def test_a_sketch_knows_a_trial_after_saving_and_no_other(array_epochs, tmp_path):
    rng = np.random.default_rng(0)
    erp = 3e-5 * np.sin(np.arange(40) / 5)  # what all trials share does not make them alike
    data = erp + 1e-5 * rng.normal(size=(300, 4, 40))
    epochs = array_epochs(data, {"stimulus": ["a", "b"] * 150})
    fit = EEGInput.fit(epochs, epochs.metadata["stimulus"])
    sketch = fit.sketch(fit.prepare(epochs))
    assert sketch.shape == (300, 8)
    epochs.save(tmp_path / "x-epo.fif", verbose="error")
    saved = mne.read_epochs(tmp_path / "x-epo.fif", verbose="error").reorder_channels(
        ["Oz", "Fz", "Pz", "Cz"]
    )
    distance = np.linalg.norm(fit.sketch(fit.prepare(saved))[:, None] - sketch[None], axis=-1)
    assert distance.diagonal().max() < 1e-3
    assert distance[~np.eye(300, dtype=bool)].min() > 0.05
    other = array_epochs(erp + 1e-5 * rng.normal(size=(300, 4, 40)))
    assert np.linalg.norm(fit.sketch(fit.prepare(other))[:, None] - sketch[None], axis=-1).min() > 0.05


@pytest.mark.parametrize("shape", [(2, 1, 40), (2, 4, 1), (4, 40), (2, 4, 39), (2, 3, 40)])
def test_eeg_of_another_shape_is_told_and_not_broadcast(shape):
    settings = {"channels": ["Fz", "Cz", "Pz", "Oz"], "n_times": 40, "whiten": "none"}
    fit = EEGInput(settings)
    assert fit(torch.zeros(2, 4, 40)).shape == (2, 4, 40)
    for call in (fit, fit.sketch):
        with pytest.raises(
            ValueError, match=re.escape(f"Need EEG (n, 4, 40) as prepare_eeg gives it, got {shape}.")
        ):
            call(torch.zeros(shape))
