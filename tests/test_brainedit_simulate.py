"""Simulated EEG: is what was planted there, and nothing else?"""

import numpy as np
import pandas as pd
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, cross_val_predict

from brainedit.simulate.pictures import KINDS, draw_scene
from brainedit.simulate.viewing import (
    CHANNELS,
    _shrunk_covariance,
    amplitude_for_auc,
    simulate_oddball,
    simulate_passive,
)


def make_trials(n, *, share=0.5, seed=0, **columns):
    target = np.random.default_rng(seed).permutation(n) < round(share * n)
    return pd.DataFrame({"stimulus": [f"{k}.png" for k in range(n)], "target": target, **columns})


def window_means(epochs, width=0.1):
    data = epochs.get_data(picks="eeg")[..., epochs.times >= 0] * 1e6
    n = round(width * epochs.info["sfreq"])
    n_windows = data.shape[-1] // n
    windows = data[..., : n * n_windows].reshape(*data.shape[:2], n_windows, n)
    return windows.mean(axis=-1).reshape(len(data), -1)


def lda():
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


@pytest.mark.parametrize("auc", [0.60, 0.79, 0.90])
def test_auc_is_the_one_asked_for(auc):
    amplitude = amplitude_for_auc(auc)
    reached = []
    for seed in (101, 102, 103, 104):
        eeg = simulate_oddball(make_trials(600, seed=seed), amplitude_uv=amplitude, seed=seed, eog=False)
        features, target = window_means(eeg.epochs), eeg.truth["target"]
        scores = cross_val_predict(lda(), features, target, cv=KFold(10), method="decision_function")
        reached.append(roc_auc_score(target, scores))
    assert np.mean(reached) == pytest.approx(auc, abs=0.03)


def test_no_response_no_auc():
    eeg = simulate_oddball(make_trials(600), amplitude_uv=0.0, seed=5)
    features, target = window_means(eeg.epochs), eeg.truth["target"]
    scores = cross_val_predict(lda(), features, target, cv=KFold(10), method="decision_function")
    assert roc_auc_score(target, scores) == pytest.approx(0.5, abs=0.06)


def test_shrinkage_is_ledoit_and_wolf():
    x = np.random.default_rng(0).normal(size=(40, 30)) @ np.random.default_rng(1).normal(size=(30, 30))
    assert np.allclose(_shrunk_covariance(x), ledoit_wolf(x, assume_centered=True)[0])


def test_the_planted_response_is_the_difference():
    trials, settings = make_trials(60, share=0.4), {"seed": 3, "jitter": 0.0}
    with_it = simulate_oddball(trials, amplitude_uv=8.0, **settings)
    without = simulate_oddball(trials, amplitude_uv=0.0, **settings)
    difference = (with_it.epochs.get_data() - without.epochs.get_data()) * 1e6
    target = trials["target"].to_numpy()
    assert np.abs(difference[~target]).max() < 1e-4
    pz = CHANNELS.index("Pz")
    assert with_it.truth["electrodes"][0] == "Pz"
    assert np.allclose(difference[target].max(axis=(1, 2)), 8.0, rtol=0.01)
    peak = with_it.epochs.times[difference[target][:, pz].mean(axis=0).argmax()]
    assert peak == pytest.approx(with_it.truth["peak_latency"], abs=0.005)
    at_peak = difference[target][0, :32, with_it.epochs.times == 0.4]
    assert np.allclose(at_peak, with_it.truth["topography"], atol=0.05)


def test_noise_looks_like_eeg():
    eeg = simulate_oddball(make_trials(200), amplitude_uv=0.0, alpha_uv=10.0, blink_rate=0.2, seed=1)
    epochs, blink = eeg.epochs, eeg.truth["blink"]
    data = epochs.get_data() * 1e6
    quiet = data[~blink][:, :32]
    assert 7 < quiet.std() < 16
    assert np.allclose(data[:, :32].mean(axis=1), 0, atol=1e-3)  # average reference
    assert 20 <= blink.sum() <= 60
    span = np.ptp(data[blink], axis=-1).mean(axis=0)
    names = epochs.ch_names
    assert 60 < span[names.index("Fp1")] < 180
    assert span[names.index("VEOG")] > span[names.index("Fp1")] > 2 * span[names.index("Cz")]
    spectrum = epochs[~blink].compute_psd(fmin=1, fmax=40, picks="eeg", verbose="error")
    power = spectrum.get_data().mean(axis=0)
    near = [np.argmin(np.abs(spectrum.freqs - f)) for f in (4, 10, 30)]
    oz, fz = power[names.index("Oz"), near], power[names.index("Fz"), near]
    assert oz[1] > 1.2 * oz[0]  # alpha stands out behind: 1/f alone gives 0.4
    assert fz[1] < 0.7 * fz[0]
    assert 3 < fz[0] / fz[2] < 20  # 1/f: 7.5
    together = np.corrcoef(quiet.transpose(1, 0, 2).reshape(32, -1))
    assert together[names.index("F3"), names.index("FC1")] > 0.3  # neighbours share their noise


def test_oddball_metadata_runs_and_reproducibility():
    trials = make_trials(50, subject=np.repeat(["a", "b"], 25), task="smile")
    one, again = (simulate_oddball(trials, amplitude_uv=5.0, seed=2) for _ in range(2))
    metadata = one.epochs.metadata
    assert metadata["task"].unique().tolist() == ["smile"]
    assert metadata["simulated"].all()
    assert "simulated" in one.epochs.info["description"]
    for _, own in metadata.groupby("subject"):
        assert own["run"].is_monotonic_increasing
        assert own["run"].nunique() == 4
        for _, run in own.groupby("run"):
            assert (np.diff(run["onset"]) > 1.0).all()
    assert np.array_equal(one.epochs.get_data(), again.epochs.get_data())
    other = simulate_oddball(trials, amplitude_uv=5.0, seed=3)
    first, second = (eeg.epochs.get_data()[:, 0].ravel() for eeg in (one, other))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2
    assert one.epochs["target"].metadata["target"].all()


def features_and_kinds(viewing, *, average):
    features = window_means(viewing.epochs, 0.05)
    stimulus = viewing.epochs.metadata["stimulus"].to_numpy()
    if not average:
        return features, viewing.truth.loc[stimulus, "kind"].to_numpy()
    means = pd.DataFrame(features).groupby(stimulus).mean().loc[viewing.truth.index]
    return means.to_numpy(), viewing.truth["kind"].to_numpy()


@pytest.fixture(scope="module")
def viewings():
    return [simulate_passive(n_pictures=n, picture_size=64, seed=seed) for n, seed in ((150, 0), (60, 1))]


def test_another_viewing_by_the_same_brain_is_decoded(viewings):
    (train, kinds), (test, held_out) = (features_and_kinds(v, average=True) for v in viewings)
    model = lda().fit(train, kinds)
    assert model.score(test, held_out) > 0.95
    single, single_kinds = features_and_kinds(viewings[1], average=False)
    assert model.score(single, single_kinds) > 0.4  # chance 1/12
    shuffled = np.random.default_rng(0).permutation(train)
    assert lda().fit(shuffled, kinds).score(test, held_out) < 0.25
    stranger = simulate_passive(n_pictures=60, picture_size=64, seed=2, brain_seed=1)
    assert model.score(*features_and_kinds(stranger, average=True)) < 0.35


def test_before_the_picture_there_is_nothing(viewings):
    def before(viewing):
        data = viewing.epochs.get_data()[..., viewing.epochs.times < 0.07] * 1e6
        return data[..., ::4].reshape(len(data), -1)

    kinds = [v.truth.loc[v.epochs.metadata["stimulus"], "kind"].to_numpy() for v in viewings]
    assert lda().fit(before(viewings[0]), kinds[0]).score(before(viewings[1]), kinds[1]) < 0.14


def test_snr_is_what_its_definition_says():
    settings = {"n_pictures": 24, "n_repeats": 2, "picture_size": 64, "seed": 4}
    with_it, without = (simulate_passive(snr=snr, **settings) for snr in (0.3, 0.0))
    times = with_it.epochs.times
    window = (times >= 0.08) & (times <= 0.45)
    signal = (with_it.epochs.get_data() - without.epochs.get_data())[..., window]
    noise = without.epochs.get_data()
    noise = noise[..., window] - noise.mean(axis=0)[..., window]  # without what every picture evokes
    kinds = with_it.truth.loc[with_it.epochs.metadata["stimulus"], "kind"].to_numpy()
    by_kind = np.stack([signal[kinds == kind][0] for kind in np.unique(kinds)])
    assert np.allclose(signal, by_kind[np.unique(kinds, return_inverse=True)[1]], atol=1e-10)
    assert np.sqrt(np.mean(by_kind**2)) / noise.std() == pytest.approx(0.3, rel=0.2)


BELOW = ("P8", "PO8", "P6", "PO4", "O2")
POSTERIOR = (
    "P7",
    "P5",
    "P3",
    "P1",
    "Pz",
    "P2",
    "P4",
    "P6",
    "P8",
    "PO7",
    "PO3",
    "POz",
    "PO4",
    "PO8",
    "O1",
    "Oz",
    "O2",
)


def planted_and_not(**settings):
    """A viewing with a code below five electrodes, and what it adds to the one without, µV."""
    settings = {
        "n_pictures": 40,
        "n_repeats": 2,
        "n_kinds": 6,
        "picture_size": 64,
        "electrodes": BELOW,
    } | settings
    with_it, without = (simulate_passive(snr=snr, **settings) for snr in (0.3, 0.0))
    return with_it, without, (with_it.epochs.get_data() - without.epochs.get_data()) * 1e6


@pytest.mark.parametrize("channels", [(*CHANNELS, "PO8", "P6", "PO4"), POSTERIOR])
def test_code_lies_below_the_electrodes_and_peaks_once(channels):
    viewing, without, signal = planted_and_not(channels=channels, latency=0.235)
    kinds = viewing.truth.loc[viewing.epochs.metadata["stimulus"], "kind"].to_numpy()
    by_kind = np.stack([signal[kinds == kind][0] for kind in np.unique(kinds)])
    assert len(by_kind) == 6
    assert np.allclose(signal, by_kind[np.unique(kinds, return_inverse=True)[1]], atol=1e-4)
    times = viewing.epochs.times
    course = np.sqrt(np.mean(by_kind**2, axis=(0, 1)))
    assert times[course.argmax()] == pytest.approx(0.235, abs=1e-6)
    assert viewing.planted["peak_latency"] == pytest.approx(0.235, abs=1e-6)
    expected = np.exp(-0.5 * ((times - 0.235) / 0.03) ** 2)  # one Gaussian bump, before the baseline
    assert np.allclose(course / course.max(), expected, atol=0.01)
    coded = (times >= 0.08) & (times <= 0.45)
    spread = np.sqrt(np.mean(by_kind[..., coded] ** 2, axis=(0, 2)))
    order = np.argsort(-spread)
    assert {channels[k] for k in order[:5]} == set(BELOW)
    assert viewing.planted["electrodes"][:5] == [channels[k] for k in order[:5]]
    assert np.allclose(viewing.planted["topography"].to_numpy(), spread, rtol=0.01)
    assert without.planted["electrodes"] == viewing.planted["electrodes"]
    assert (without.planted["topography"] == 0).all()


def test_code_below_electrodes_has_the_snr_that_was_asked_for_and_tells_kinds_apart():
    settings = {"picture_size": 64, "electrodes": BELOW, "snr": 0.4}
    train, test = (simulate_passive(n_pictures=n, seed=seed, **settings) for n, seed in ((150, 0), (60, 1)))
    model = lda().fit(*features_and_kinds(train, average=True))
    assert model.score(*features_and_kinds(test, average=True)) > 0.95
    _, without, signal = planted_and_not()
    window = (without.epochs.times >= 0.08) & (without.epochs.times <= 0.45)
    noise = without.epochs.get_data()[..., window] * 1e6
    noise = noise - noise.mean(axis=0)
    assert np.sqrt(np.mean(signal[..., window] ** 2)) / noise.std() == pytest.approx(0.3, rel=0.2)


def test_the_same_place_and_brain_for_any_channels():
    few, many = (planted_and_not(channels=channels)[2] for channels in (POSTERIOR, CHANNELS))
    shared = [name for name in POSTERIOR if name in CHANNELS]
    first, second = (
        signal[:, [names.index(name) for name in shared]]
        for signal, names in ((few, POSTERIOR), (many, CHANNELS))
    )
    first, second = (s - s.mean(axis=1, keepdims=True) for s in (first, second))  # one reference
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.9999


def test_coded_region_is_random_and_says_where(viewings):
    truth, images = viewings[0].truth, viewings[0].images
    assert list(images) == list(truth.index)
    assert not set(truth.index) & set(viewings[1].truth.index)
    picture = next(iter(images.values()))
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    counts = np.bincount(truth["region"], minlength=4)
    assert (np.abs(counts - 150 / 4) < 4 * np.sqrt(150 * 0.25 * 0.75)).all()
    for row in truth.itertuples():
        assert row.kinds[row.region] == row.kind
        assert len(set(row.kinds)) == 4
        assert (row.top, row.left) == (32 * (row.region // 2), 32 * (row.region % 2))
        assert (row.bottom - row.top, row.right - row.left) == (32, 32)
    metadata = viewings[0].epochs.metadata
    assert (metadata.groupby("run")["stimulus"].nunique() == 150).all()
    assert metadata["run"].nunique() == 8
    assert (metadata.groupby("block").size() == 50).all()
    orders = [tuple(run["stimulus"]) for _, run in metadata.groupby("run")]
    assert len(set(orders)) == 8


def test_an_object_stays_in_its_box_and_does_not_move_its_neighbours():
    boxes = [(0, 0, 64, 64), (0, 64, 64, 128), (64, 0, 128, 64), (64, 64, 128, 128)]
    names = list(KINDS)
    for k, kind in enumerate(names):
        others = [name for name in names if name != kind][:4]
        first = draw_scene([others[0], *others[1:]], boxes, size=128, seed=(7, k)).astype(int)
        second = draw_scene([kind, *others[1:]], boxes, size=128, seed=(7, k)).astype(int)
        changed = np.abs(first - second).max(axis=-1) > 0
        assert changed[:64, :64].mean() > 0.1
        changed[:64, :64] = False
        assert not changed.any()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"n_regions": 13}, "Need 2 <= n_regions <= n_kinds <= 12, got n_regions=13"),
        ({"n_kinds": 40}, "n_kinds=40"),
        ({"snr": -1.0}, "snr >= 0, got 200, 8 and -1.0"),
        ({"picture_size": 20}, "each region 32 pixels, got 20 for 4 regions"),
        ({"tmin": 0.0}, "tmin must be before 0 s .* got 0.0 and 0.7"),
        ({"sfreq": 50.0}, "sfreq must be at least 100 Hz .* got 50.0"),
        ({"electrodes": ["P8", "Qz"]}, "[Uu]nknown electrode 'Qz'"),
        ({"electrodes": "P8"}, "electrodes must be a list of one or more names, got 'P8'"),
        ({"electrodes": []}, r"electrodes must be a list of one or more names, got \[\]"),
        ({"electrodes": ["P8"], "latency": 0.05}, "latency must lie from 0.12 to 0.41 s, got 0.05"),
        ({"latency": 0.3}, "latency=0.3 needs electrodes"),
    ],
)
def test_passive_says_what_is_wrong(settings, match):
    with pytest.raises(ValueError, match=match):
        simulate_passive(**settings)


def test_oddball_says_what_is_wrong():
    trials = make_trials(20)
    with pytest.raises(ValueError, match="trials need rows with 'stimulus' and 'target', got 20 of"):
        simulate_oddball(trials.drop(columns="target"))
    with pytest.raises(ValueError, match="no column 'onset'"):
        simulate_oddball(trials.assign(onset=1.0))
    with pytest.raises(ValueError, match=r"target must be true or false, got \['yes'\]"):
        simulate_oddball(trials.assign(target="yes"))
    with pytest.raises(ValueError, match=r"10-05 template, got \['Qz'\]"):
        simulate_oddball(trials, amplitude_uv=1.0, channels=["Pz", "Cz", "Oz", "Fp1", "Qz"])
    for auc in (0.5, 0.97):
        with pytest.raises(ValueError, match=f"auc must lie above .5 and up to .95, got {auc}"):
            simulate_oddball(trials, auc=auc)
