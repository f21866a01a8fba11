"""The simulated THINGS-EEG2 has the published layout, and the truth that it states."""

import json
import pickle
import pickletools

import numpy as np
import pandas as pd
import pytest

from brainedit.datasets.latents import read_latents
from brainedit.encoding import EncodingModel
from brainedit.simulate.features import Pictures, draw_weights
from brainedit.simulate.noise import background_noise
from brainedit.simulate.things import (
    ALL,
    CHANNELS,
    LATENCIES,
    read_truth,
    simulate_things_eeg2,
    write_pickled_eeg,
)

SIZE = {"n_concepts": 50, "n_per_concept": 4, "n_train_repeats": 4, "n_test": 60, "n_test_repeats": 40}
SMALL = {"n_concepts": 5, "n_per_concept": 2, "n_train_repeats": 2, "n_test": 6, "n_test_repeats": 3}
PARTS = {"training": "train", "test": "test"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("things") / "data"
    return simulate_things_eeg2(out, **SIZE, n_features=16, n_codes=4, seed=3, progress=False)


def eeg_of(folder, part, subject=1):
    return np.load(folder / f"sub-{subject:02d}" / f"preprocessed_eeg_{part}.npy", allow_pickle=True)


def stimuli_of(folder, part):
    table = np.load(folder / "image_metadata.npy", allow_pickle=True).item()
    pairs = zip(table[f"{PARTS[part]}_img_concepts"], table[f"{PARTS[part]}_img_files"], strict=True)
    return [f"{part}_images/{concept}/{file}" for concept, file in pairs]


def features_of(folder, part):
    names = stimuli_of(folder, part)
    tables = [read_latents(folder / f"features/{layer}/{part}.safetensors") for layer in ("middle", "last")]
    return np.hstack([table.loc[names].to_numpy() for table in tables])


def hits(model, folder, subject=1):
    """Which test pictures are found in the gallery from the average of all their repeats."""
    average = eeg_of(folder, "test", subject)["preprocessed_eeg_data"].mean(axis=1)
    scores = model.log_likelihood(average, features_of(folder, "test"), n_averaged=SIZE["n_test_repeats"])
    return scores.argmax(axis=1) == np.arange(len(scores))


def within_binomial_error(found, expected):
    return abs(found.mean() - expected) < 3 * np.sqrt(expected * (1 - expected) / len(found))


def test_layout_is_the_published_one(folder):
    for part, shape in (("training", (200, 4, 17, 100)), ("test", (60, 40, 17, 100))):
        path = folder / "sub-02" / f"preprocessed_eeg_{part}.npy"
        with open(path, "rb") as file:
            eeg = pickle.load(file)
        assert list(eeg) == ["preprocessed_eeg_data", "ch_names", "times"]
        data = eeg["preprocessed_eeg_data"]
        assert data.shape == shape
        assert data.dtype == np.float32
        assert data.flags.c_contiguous
        assert " ".join(eeg["ch_names"]) == "P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2"
        np.testing.assert_allclose(eeg["times"], np.arange(-20, 80) / 100, atol=1e-12)
    assert len(ALL) == len(set(ALL)) == 63
    assert set(CHANNELS["posterior"]) < set(ALL)


def test_picture_names_are_the_published_ones(folder):
    table = np.load(folder / "image_metadata.npy", allow_pickle=True).item()
    assert sorted(table) == ["test_img_concepts", "test_img_files", "train_img_concepts", "train_img_files"]
    assert table["train_img_concepts"][:5] == ["00001_sim0001"] * 4 + ["00002_sim0002"]
    assert table["train_img_files"][3] == "sim0001_04b.jpg"
    assert table["test_img_concepts"][0] == "00001_sim0051"
    assert len(set(stimuli_of(folder, "training"))) == 200
    nouns = [{name.split("_")[1] for name in table[f"{part}_img_concepts"]} for part in ("train", "test")]
    assert not nouns[0] & nouns[1]


def test_no_place_calls_the_data_real(folder):
    assert json.loads((folder / "truth.json").read_text())["simulated"] is True
    assert (folder / "README.txt").read_text().startswith("SIMULATED")
    assert not (folder.parent / "data.partial").exists()


def test_features_belong_to_stimuli_by_name_and_not_by_order(folder):
    table = read_latents(folder / "features/middle/test.safetensors")
    names = stimuli_of(folder, "test")
    assert list(table.index) != names
    assert sorted(table.index) == sorted(names)
    brain = read_truth(folder)
    average = eeg_of(folder, "test")["preprocessed_eeg_data"].mean(axis=1) - brain.evoked
    by_order = np.hstack(
        [
            read_latents(folder / f"features/{layer}/test.safetensors").to_numpy()
            for layer in ("middle", "last")
        ]
    )
    found = brain.log_likelihood(average + brain.evoked, by_order, n_averaged=40).argmax(axis=1)
    assert np.mean(found == np.arange(60)) < 0.2


@pytest.mark.parametrize("subject", [1, 2])
def test_oracle_is_as_good_as_asked_on_the_data_that_were_written(folder, subject):
    brain = read_truth(folder, subject=subject)
    assert within_binomial_error(hits(brain, folder, subject), 0.6)
    stated = json.loads((folder / "truth.json").read_text())["people"][f"sub-{subject:02d}"]["oracle"]
    assert stated["40"]["top1"] == pytest.approx(0.6, abs=0.02)
    assert stated["1"]["top1"] < stated["10"]["top1"] < stated["40"]["top1"]


@pytest.mark.parametrize("n_averaged", [1, 40])
def test_oracle_is_the_likelihood_of_the_normal_distribution(folder, n_averaged):
    brain, gallery = read_truth(folder), features_of(folder, "test")[:5]
    eeg = eeg_of(folder, "test")["preprocessed_eeg_data"][:4, 0].astype(float)
    patterns = brain.patterns.reshape(4, -1)
    covariance = brain.noise.covariance() / n_averaged + brain.unexplained * patterns.T @ patterns
    left = (eeg[:, None] - brain.response(gallery)).reshape(4, 5, -1)
    expected = -0.5 * np.sum(
        left * np.linalg.solve(covariance, left.reshape(20, -1).T).T.reshape(left.shape), axis=-1
    )
    got = brain.log_likelihood(eeg, gallery, n_averaged=n_averaged)
    np.testing.assert_allclose(got - got[:, :1], expected - expected[:, :1], rtol=1e-3, atol=1e-3)


def test_inverse_covariance_is_that_of_the_whole_matrix():
    noise = background_noise(["O1", "Oz", "O2", "Pz"], "Fz", np.arange(12) / 100, noise_uv=10, alpha_uv=5)
    eeg = np.random.default_rng(0).normal(size=(3, 4, 12))
    expected = np.linalg.solve(noise.covariance(), eeg.reshape(3, -1).T).T.reshape(eeg.shape)
    np.testing.assert_allclose(noise.solve(eeg), expected, rtol=1e-6, atol=1e-9)


def test_noise_has_the_stated_covariance():
    noise = background_noise(["O1", "Oz", "O2", "Pz"], "Fz", np.arange(12) / 100, noise_uv=10, alpha_uv=5)
    noise = noise.mixed(noise.whitening())
    drawn = noise.draw(40_000, np.random.default_rng(0)).reshape(40_000, -1)
    expected = noise.covariance()
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=0.03)
    over_channels = np.einsum("atbt->ab", expected.reshape(4, 12, 4, 12)) / 12
    np.testing.assert_allclose(over_channels, np.eye(4), atol=1e-9)


def test_background_is_as_large_as_asked():
    noise = background_noise(ALL, "Fz", np.arange(10) / 100, noise_uv=7.0, alpha_uv=0.0)
    assert np.sqrt(np.diag(noise.covariance()).mean()) == pytest.approx(7.0)


def test_trials_on_disk_have_the_noise_of_the_truth_and_repeats_are_independent(folder):
    for part, n_repeats in (("training", 4), ("test", 40)):
        data = eeg_of(folder, part)["preprocessed_eeg_data"]
        noise = data - data.mean(axis=1, keepdims=True)
        channels = np.einsum("irct,irdt->cd", noise, noise) / (noise.size / 17) * n_repeats / (n_repeats - 1)
        np.testing.assert_allclose(channels, np.eye(17), atol=0.12)
        brain = read_truth(folder)
        left = data - brain.response(features_of(folder, part))[:, None]
        once, again = left[:, 0].ravel(), left[:, 1].ravel()
        assert abs(np.corrcoef(once, again)[0, 1]) < 0.02


def test_pictures_add_what_no_feature_tells_to_all_their_repeats(folder):
    brain = read_truth(folder)
    left = (
        eeg_of(folder, "test")["preprocessed_eeg_data"] - brain.response(features_of(folder, "test"))[:, None]
    )
    solved = brain.noise.solve(brain.patterns)
    each = np.tensordot(brain.patterns, solved, axes=([1, 2], [1, 2]))
    halves = [
        np.tensordot(left[:, half::2].mean(axis=1), solved, axes=([1, 2], [1, 2])) @ np.linalg.inv(each)
        for half in (0, 1)
    ]
    common = np.mean(halves[0] * halves[1])  # noise is independent between the halves
    assert common == pytest.approx(brain.unexplained, rel=0.4)
    np.testing.assert_allclose(
        brain.unexplained * np.diag(each), 0.1, rtol=1e-6
    )  # in units of one trial's noise


def test_codes_answer_in_the_latencies_of_their_layer(folder):
    brain = read_truth(folder)
    codes = json.loads((folder / "truth.json").read_text())["codes"]
    assert [code["layer"] for code in codes] == ["middle", "middle", "last", "last"]
    times = np.arange(-20, 80) / 100
    for code, pattern, weights in zip(codes, brain.patterns, brain.weights, strict=True):
        peak = times[np.abs(pattern).max(axis=0).argmax()]
        assert peak == pytest.approx(code["latency"], abs=0.01)
        low, high = LATENCIES[code["layer"]]
        assert low - 0.01 <= peak <= high + 0.01
        own = weights[:16] if code["layer"] == "middle" else weights[16:]
        assert np.linalg.norm(own) == pytest.approx(np.linalg.norm(weights))


def test_last_layer_tells_concepts_and_middle_layer_pictures(folder):
    features = features_of(folder, "training").reshape(50, 4, 32)
    between = features.mean(axis=1).var(axis=0) / features.var(axis=(0, 1))
    assert between[:16].mean() < 0.5 < between[16:].mean()


def test_codes_have_variance_one_and_are_uncorrelated_in_a_layer(folder):
    codes = read_truth(folder).codes(features_of(folder, "training"))
    moments = codes.T @ codes / len(codes)
    np.testing.assert_allclose(moments[:2, :2], np.eye(2), atol=1e-3)
    np.testing.assert_allclose(moments[2:, 2:], np.eye(2), atol=1e-3)


def test_every_second_dimension_of_a_layer_is_not_coded():
    pictures = Pictures.draw(3000, 2, 2, 8, seed=4)
    codes = pd.DataFrame({"layer": ["middle"] * 3 + ["last"] * 3})
    weights = draw_weights(pictures, codes, seed=4)
    for rows, columns in ((slice(3), slice(8)), (slice(3, 6), slice(8, 16))):
        variances, axes = np.linalg.eigh(np.cov(pictures.features["training"][:, columns].T))
        np.testing.assert_allclose(variances[::-1], 1 / np.arange(1, 9), rtol=0.1)
        share = np.sum((weights[rows, columns] @ axes[:, ::-1]) ** 2, axis=0)
        assert share[[1, 3, 5, 7]].sum() < 0.05 * share.sum()
        assert (share[[0, 2, 4, 6]] > 0.02 * share.sum()).all()


def test_encoding_model_stays_below_the_oracle_and_learns_with_trials(folder):
    features, eeg = features_of(folder, "training"), eeg_of(folder, "training")["preprocessed_eeg_data"]
    window = slice(20, 80, 2)
    brain = read_truth(folder)
    draw = brain.noise.sampler()
    gallery, rng = features_of(folder, "test"), np.random.default_rng(1)
    hidden = rng.normal(0, np.sqrt(brain.unexplained), (600, len(brain.patterns)))
    averages = np.tile(brain.response(gallery), (10, 1, 1)) + draw(600, rng) / np.sqrt(40)
    averages += np.tensordot(hidden, brain.patterns, axes=1)
    true = np.tile(np.arange(60), 10)

    def rate(n_pictures):
        model = EncodingModel().fit(features[:n_pictures], eeg[:n_pictures, ..., window])
        scores = model.log_likelihood(averages[..., window], gallery, n_averaged=40)
        return np.mean(scores.argmax(axis=1) == true)

    assert 1 / 60 < rate(200) < 0.6
    assert rate(200) > rate(40) + 0.01


def test_people_differ_and_share_as_asked(tmp_path):
    out = simulate_things_eeg2(tmp_path / "a", **SMALL, n_features=8, shared=1.0, oracle=0.5, progress=False)
    one, two = read_truth(out, subject=1), read_truth(out, subject=2)
    np.testing.assert_allclose(one.patterns, two.patterns, rtol=1e-6)
    first, second = (eeg_of(out, "test", subject)["preprocessed_eeg_data"] for subject in (1, 2))
    assert abs(np.corrcoef((first - one.evoked).ravel(), (second - two.evoked).ravel())[0, 1]) < 0.2
    other = simulate_things_eeg2(
        tmp_path / "b", **SMALL, n_features=8, shared=0.0, oracle=0.5, progress=False
    )
    patterns = [read_truth(other, subject=k).patterns for k in (1, 2)]
    assert np.abs(np.corrcoef(patterns[0].ravel(), patterns[1].ravel())[0, 1]) < 0.9


def test_without_signal_the_oracle_is_blind_and_pictures_leave_no_trace(tmp_path):
    out = simulate_things_eeg2(
        tmp_path / "none", **SIZE, subjects=[1], n_features=8, oracle=0, progress=False
    )
    brain = read_truth(out)
    assert (brain.patterns == 0).all()
    data = eeg_of(out, "test")["preprocessed_eeg_data"]
    halves = (data[:, ::2].mean(axis=1) - brain.evoked), (data[:, 1::2].mean(axis=1) - brain.evoked)
    likeness = np.tensordot(halves[0], halves[1], axes=([1, 2], [1, 2]))
    found = likeness.argmax(axis=1) == np.arange(60)
    assert found.sum() <= 5  # 60 guesses at 1/60: more than 5 in one of 1700


def test_a_seed_is_one_data_set(tmp_path):
    settings = SMALL | {"subjects": [3], "n_features": 8, "oracle": 0.5, "progress": False}
    files = [
        simulate_things_eeg2(tmp_path / name, **settings, seed=k)
        for name, k in zip("abc", (0, 0, 1), strict=True)
    ]
    same, again, other = (eeg_of(folder, "training", 3)["preprocessed_eeg_data"] for folder in files)
    np.testing.assert_array_equal(same, again)
    assert not np.allclose(same, other)


def test_large_layout_is_that_of_the_files_at_250_hz(tmp_path):
    out = simulate_things_eeg2(
        tmp_path / "all",
        **SMALL,
        channels="all",
        sfreq=250,
        tmin=0.0,
        n_features=8,
        oracle=0.5,
        progress=False,
    )
    eeg = eeg_of(out, "training")
    assert eeg["preprocessed_eeg_data"].shape == (10, 2, 63, 250)
    assert eeg["times"][[0, -1]].tolist() == pytest.approx([0, 0.996])
    assert eeg["ch_names"] == list(ALL)


def test_pickle_is_what_pickle_writes_but_for_the_width_of_a_length(tmp_path):
    data = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
    times = np.arange(5) / 100
    chunks = iter([data[:1], data[1:]])
    write_pickled_eeg(tmp_path / "eeg.npy", chunks, data.shape, ["A", "B", "C", "D"], times)
    whole = pickle.dumps({"preprocessed_eeg_data": data, "ch_names": ["A", "B", "C", "D"], "times": times}, 4)

    def operations(dump):
        skip = ("FRAME", "BINBYTES8", "SHORT_BINBYTES", "BINBYTES")
        return [
            (op.name, str(arg).replace("_core", "core"))
            for op, arg, _ in pickletools.genops(dump)
            if op.name not in skip
        ]

    written = (tmp_path / "eeg.npy").read_bytes()
    assert operations(written) == operations(whole)
    assert b"\x8e" + data.nbytes.to_bytes(8, "little") + data.tobytes() in written
    np.testing.assert_array_equal(pickle.loads(written)["preprocessed_eeg_data"], data)


def test_chunks_that_do_not_fill_the_array_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(3, 1, 1, 2\) has 24 bytes; 16 came"):
        write_pickled_eeg(tmp_path / "x", iter([np.zeros((2, 1, 1, 2))]), (3, 1, 1, 2), ["A"], np.arange(2))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"channels": "frontal"}, "frontal"),
        ({"subjects": [1, 1]}, r"\[1, 1\]"),
        ({"subjects": []}, r"\[\]"),
        ({"shared": 1.5}, "1.5"),
        ({"unexplained": -0.1}, "got -0.1"),
        ({"oracle": 0.2}, "0.333333 .twice chance. to .99, got 0.2"),
        ({"oracle": 1.0}, "got 1.0"),
        ({"n_test_repeats": 0}, "n_test_repeats=0"),
        ({"n_codes": 1}, "n_codes=1"),
        ({"n_codes": 10, "n_features": 8}, "n_codes=10"),
        ({"sfreq": 20}, "got 20"),
        ({"tmin": 0.3}, "got 0.3"),
    ],
)
def test_settings_out_of_range_are_refused_and_nothing_is_written(tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        simulate_things_eeg2(tmp_path / "x", **(SMALL | {"oracle": 0.5, "progress": False} | setting))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(tmp_path):
    with pytest.raises(ValueError, match="exists"):
        simulate_things_eeg2(tmp_path, **SMALL, progress=False)


def test_truth_of_somebody_else_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="sub-01, sub-02; not sub-07"):
        read_truth(folder, subject=7)
    with pytest.raises(FileNotFoundError, match="no truth"):
        read_truth(tmp_path)
