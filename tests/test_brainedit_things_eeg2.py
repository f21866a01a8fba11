"""THINGS-EEG2 from small files of the published layout: names, order, units, and files that are not what they say."""

import json
import logging
import os
import pickle

import mne
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from brainedit.datasets.arrays import ArrayEpochs
from brainedit.datasets.latents import write_latents
from brainedit.datasets.things_eeg2 import load_things_eeg2, mvnn
from brainedit.eeg_input import EEGInput
from brainedit.montage import read_montage

NAMES = ["P7", "Pz", "PO8", "Oz", "O2"]
CONCEPTS = {"training": ["00002_zebra", "00001_aardvark", "00003_map"], "test": ["00001_boat", "00002_aisle"]}
N_PER_CONCEPT = {"training": 2, "test": 1}
N_REPEATS = {"training": 4, "test": 6}
NONE, VOLT = mne.io.constants.FIFF.FIFF_UNIT_NONE, mne.io.constants.FIFF.FIFF_UNIT_V


def pictures_of(part):
    """Concepts and files, in an order that is neither that of the alphabet nor of the disk."""
    concepts = [concept for concept in CONCEPTS[part] for _ in range(N_PER_CONCEPT[part])]
    files = [f"{concept[6:]}_{9 - k:02d}b.jpg" for k, concept in enumerate(concepts)]
    return concepts, files


def stimuli_of(part):
    return [f"{part}_images/{concept}/{file}" for concept, file in zip(*pictures_of(part), strict=True)]


def write_metadata(root, kind=list):
    table = {}
    for part, short in (("training", "train"), ("test", "test")):
        concepts, files = pictures_of(part)
        table |= {f"{short}_img_concepts": kind(concepts), f"{short}_img_files": kind(files)}
        table |= {f"{short}_img_concepts_THINGS": kind([f"9{c}" for c in concepts])}
    np.save(root / "image_metadata.npy", table)


def write_pictures(root):
    for part in CONCEPTS:
        for number, name in enumerate(stimuli_of(part)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (number, 0, 0)).save(root / name, quality=100)


def planted(part, n_times=60):
    """(n_pictures, n_repeats, n_channels, n_times): every trial has its own numbers, exact in half precision."""
    shape = (len(stimuli_of(part)), N_REPEATS[part], len(NAMES), n_times)
    return (np.random.default_rng(1).integers(-300, 300, shape) / 128).astype(np.float64)


def write_eeg(root, part, *, as_pickle=True, dtype="f8", person="sub-01", **change):
    table = {"preprocessed_eeg_data": planted(part).astype(dtype), "ch_names": NAMES}
    table |= {"times": np.arange(60) / 100 - 0.2} | change
    table = {key: value for key, value in table.items() if value is not None}
    path = root / person / f"preprocessed_eeg_{part}.npy"
    path.parent.mkdir(exist_ok=True)
    if as_pickle:
        path.write_bytes(pickle.dumps(table, protocol=4))
    else:
        np.save(path, table)
    return path


@pytest.fixture
def root(tmp_path):
    write_metadata(tmp_path)
    write_pictures(tmp_path)
    for part in CONCEPTS:
        write_eeg(tmp_path, part)
    return tmp_path


@pytest.mark.parametrize("as_pickle", [True, False], ids=["pickle", "npy"])
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ">f8"])
@pytest.mark.parametrize("kind", [list, np.array, lambda x: np.array(x, object)])
@pytest.mark.parametrize("part", ["training", "test"])
def test_every_trial_comes_back_with_its_picture(tmp_path, as_pickle, dtype, kind, part):
    write_metadata(tmp_path, kind)
    write_pictures(tmp_path)
    write_eeg(tmp_path, part, as_pickle=as_pickle, dtype=dtype, ch_names=kind(NAMES))
    data = load_things_eeg2(tmp_path, split="train" if part == "training" else part)
    want, stimuli = planted(part), stimuli_of(part)
    assert len(data) == len(stimuli) * N_REPEATS[part]
    assert data.epochs.ch_names == NAMES
    for i in np.random.default_rng(0).permutation(len(data))[:10]:
        row = data.metadata.iloc[i]
        eeg, picture = data[i]
        np.testing.assert_array_equal(eeg, want[stimuli.index(row["stimulus"]), row["repeat"]])
        assert picture == tmp_path / row["stimulus"]
        assert row["concept"] == row["stimulus"].split("/")[1]
        assert Image.open(picture).getpixel((0, 0))[0] == pytest.approx(stimuli.index(row["stimulus"]), abs=3)
    pairs = data.metadata[["stimulus", "repeat"]]
    assert not pairs.duplicated().any()


def test_the_metadata_say_what_the_file_tells_and_no_more(root):
    metadata = load_things_eeg2(root).metadata
    assert set(metadata) == {"stimulus", "concept", "repeat", "design_source", "subject"}
    assert set(metadata["design_source"]) == {"documented"}
    assert set(metadata["subject"]) == {"01"}
    assert metadata["repeat"].max() == 3


def test_simulated_data_say_so(root):
    (root / "truth.json").write_text(json.dumps({"simulated": True}))
    data = load_things_eeg2(root)
    assert data.metadata["simulated"].all()
    assert data.epochs.info["description"].startswith("simulated THINGS-EEG2 sub-01 training")
    (root / "truth.json").write_text("{")
    with pytest.raises(ValueError, match=r"truth\.json is damaged"):
        load_things_eeg2(root)


def test_whitened_eeg_has_no_unit_and_eeg_in_volts_has(root):
    epochs = load_things_eeg2(root).epochs
    assert {channel["unit"] for channel in epochs.info["chs"]} == {NONE}
    assert "standard deviations of the noise" in epochs.info["description"]
    assert {channel["unit"] for channel in epochs.pick(["Oz"]).to_mne().info["chs"]} == {NONE}
    write_eeg(root, "training", preprocessed_eeg_data=planted("training") * 1e-5)
    epochs = load_things_eeg2(root).epochs
    assert {channel["unit"] for channel in epochs.info["chs"]} == {VOLT}
    assert "volts" in epochs.info["description"]


def test_the_unit_survives_saving(root, tmp_path):
    epochs = load_things_eeg2(root).epochs
    again = ArrayEpochs.open(epochs[:3].save(tmp_path / "saved"))
    assert {channel["unit"] for channel in again.info["chs"]} == {NONE}
    assert again.info["description"] == epochs.info["description"]
    assert again.metadata["stimulus"].tolist() == epochs.metadata["stimulus"].tolist()[:3]


def test_times_and_positions(root):
    epochs = load_things_eeg2(root).epochs
    np.testing.assert_allclose(epochs.times, np.arange(60) / 100 - 0.2, atol=1e-12)
    assert epochs.info["sfreq"] == 100
    want = mne.create_info(["Oz"], 100.0, "eeg").set_montage(read_montage())
    np.testing.assert_allclose(epochs.info["chs"][NAMES.index("Oz")]["loc"], want["chs"][0]["loc"])


def test_times_may_have_the_baseline_that_the_data_lack(root):
    write_eeg(root, "training", times=np.arange(80) / 100 - 0.2)
    epochs = load_things_eeg2(root).epochs
    np.testing.assert_allclose(epochs.times, np.arange(60) / 100, atol=1e-12)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.arange(59) / 100, "60 samples and 59 times"),
        (np.arange(75) / 100 - 0.2, r"60 samples and 75 times, from -0\.2 s"),
        (np.r_[np.arange(59) / 100, 0.9], "unequal steps"),
        (-np.arange(60) / 100, "unequal steps"),
        (["a"] * 60, "needs times .s., two or more; got <U1"),
        (np.array(0.1), r"of shape \(\)"),
    ],
)
def test_times_that_do_not_fit_are_refused(root, times, message):
    write_eeg(root, "training", times=times)
    with pytest.raises(ValueError, match=message):
        load_things_eeg2(root)


def test_a_part_of_the_trials_may_be_chosen(root):
    names = [stimuli_of("training")[4], stimuli_of("training")[1]]
    data = load_things_eeg2(root, stimuli=names, n_repeats=3, channels=["Oz", "P7"])
    assert len(data) == 6
    assert set(data.pictures) == set(names)
    assert data.epochs.ch_names == ["Oz", "P7"]
    want = planted("training")[[1, 1, 1, 4, 4, 4], [0, 1, 2, 0, 1, 2]][:, [3, 0]]
    np.testing.assert_array_equal(data.epochs.get_data(), want)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stimuli": ["x.jpg"]}, "no stimulus 'x.jpg'"),
        ({"stimuli": []}, "No trial is chosen"),
        ({"n_repeats": 5}, "1 to 4 here, got 5"),
        ({"n_repeats": 0}, "1 to 4 here, got 0"),
        ({"channels": ["Cz"]}, "Unknown channel or type 'Cz'"),
        ({"split": "training"}, "Unknown split 'training'"),
        ({"features": "last"}, "last"),
        ({"subject": 2}, "no folder sub-02 in .*; there is sub-01"),
        ({"subject": "sub-x"}, "no folder sub-x"),
        ({"raw": True}, "no ses-01/raw_eeg_training.npy"),
    ],
)
def test_settings_that_do_not_fit_are_refused(root, settings, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_things_eeg2(root, **settings)


def test_people_have_names_or_numbers(root):
    write_eeg(root, "training", person="sub-10", preprocessed_eeg_data=planted("training") + 1)
    for subject in (10, "10", "sub-10"):
        data = load_things_eeg2(root, subject=subject)
        assert set(data.metadata["subject"]) == {"10"}
        np.testing.assert_array_equal(data[0][0], planted("training")[0, 0] + 1)


def test_an_array_in_fortran_order_comes_back_right(root, caplog):
    write_eeg(root, "training", preprocessed_eeg_data=np.asfortranarray(planted("training")))
    with caplog.at_level(logging.WARNING):
        data = load_things_eeg2(root)
    np.testing.assert_array_equal(data.epochs.get_data(), planted("training").reshape(-1, 5, 60))
    assert "copied into memory" in caplog.text


def test_the_eeg_stays_on_disk(root):
    write_eeg(root, "training", preprocessed_eeg_data=planted("training", 120), times=np.arange(120) / 100)
    epochs = load_things_eeg2(root).epochs
    assert isinstance(epochs, ArrayEpochs)
    assert not epochs._data.flags.owndata
    assert not epochs._data.flags.writeable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocessed_eeg_data": None}, "no 'preprocessed_eeg_data'; it has ch_names, times"),
        ({"ch_names": None}, "no 'ch_names'"),
        ({"preprocessed_eeg_data": planted("training")[:5]}, "5 pictures and image_metadata.npy names 6"),
        ({"preprocessed_eeg_data": planted("training")[0]}, "needs preprocessed_eeg_data .n_pictures"),
        ({"preprocessed_eeg_data": planted("training").astype(int)}, "needs preprocessed_eeg_data"),
        ({"ch_names": NAMES[:4]}, "5 channels and names 4"),
        ({"ch_names": [1, 2, 3, 4, 5]}, "needs ch_names, a list of names"),
    ],
)
def test_files_of_another_kind_are_refused(root, change, message):
    write_eeg(root, "training", **change)
    with pytest.raises(ValueError, match=message):
        load_things_eeg2(root)


@pytest.mark.parametrize("as_pickle", [True, False])
def test_a_truncated_file_is_refused(root, as_pickle):
    path = write_eeg(root, "training", as_pickle=as_pickle)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"preprocessed_eeg_training\.npy"):
        load_things_eeg2(root)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*preprocessed_eeg_training\.npy"):
        load_things_eeg2(root)


class Call:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("name", ["image_metadata.npy", "sub-01/preprocessed_eeg_training.npy"])
@pytest.mark.parametrize("inside", [True, False])
def test_code_in_place_of_a_file_is_refused_and_not_run(root, name, inside):
    value = Call(root / "canary")
    if inside:
        table = np.load(root / name, allow_pickle=True)
        value = (table if isinstance(table, dict) else table.item()) | {"extra": value}
    (root / name).write_bytes(pickle.dumps(value, protocol=4))
    with pytest.raises(ValueError, match=r"wants to run posix\.system"):
        load_things_eeg2(root)
    np.save(root / name, value)
    with pytest.raises(ValueError, match=r"wants to run posix\.system|promises an array"):
        load_things_eeg2(root)
    assert not (root / "canary").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_img_files": None}, "needs train_img_files"),
        ({"train_img_files": ["a.jpg"]}, "names 6 concepts and 1 files"),
        ({"train_img_files": ["../x.jpg"] * 6}, "names '../x.jpg' where"),
        ({"train_img_concepts": [".."] * 6}, "names '..' where"),
        ({"train_img_concepts": [""] * 6}, "names '' where"),
        (
            {"train_img_concepts": ["a"] * 6, "train_img_files": ["b"] * 6},
            "names the picture 'training_images/a/b' twice",
        ),
        ({"train_img_concepts": [], "train_img_files": []}, "names 0 concepts"),
    ],
)
def test_odd_names_of_pictures_are_refused(root, change, message):
    table = np.load(root / "image_metadata.npy", allow_pickle=True).item() | change
    np.save(root / "image_metadata.npy", table)
    with pytest.raises(ValueError, match=message):
        load_things_eeg2(root)


def test_pictures_may_lie_in_image_set_and_must_be_there(root):
    (root / "image_set").mkdir()
    (root / "training_images").rename(root / "image_set" / "training_images")
    (root / "image_metadata.npy").rename(root / "image_set" / "image_metadata.npy")
    data = load_things_eeg2(root)
    first = stimuli_of("training")[0]
    assert data.pictures[first] == root / "image_set" / first
    (root / "image_set" / first).unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 6 pictures are missing; one is .*{first}"):
        load_things_eeg2(root)
    (root / "image_set" / "training_images").rename(root / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match=r"no folder training_images in .*; put the pictures at .*zebra_09b\.jpg"
    ):
        load_things_eeg2(root)
    (root / "image_set" / "image_metadata.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image_metadata\.npy in"):
        load_things_eeg2(root)


def test_features_stand_for_pictures_by_name(root):
    for folder in ("training_images", "test_images"):
        (root / folder).rename(root / f"no_{folder}")
    names = stimuli_of("training")[::-1]
    table = pd.DataFrame(np.arange(18.0).reshape(6, 3), index=names)
    (root / "features" / "middle").mkdir(parents=True)
    write_latents(table, root / "features" / "middle" / "training.safetensors", space="features")
    data = load_things_eeg2(root, features="middle")
    for i in (0, 7, 23):
        picture = data[i][1]
        assert picture.dtype == np.float32
        assert picture.tolist() == table.loc[data.keys[i]].tolist()
    with pytest.raises(ValueError, match=r"Unknown features 'midle'.*Did you mean 'middle'"):
        load_things_eeg2(root, features="midle")
    with pytest.raises(FileNotFoundError, match=r"test\.safetensors"):
        load_things_eeg2(root, split="test", features="middle")
    write_latents(table[1:], root / "features" / "middle" / "training.safetensors", space="features")
    with pytest.raises(ValueError, match=f"no features of '{names[0]}' and 0 more of 6"):
        load_things_eeg2(root, features="middle")


def test_a_model_takes_the_trials_and_notices_another_unit(root):
    train, test = load_things_eeg2(root), load_things_eeg2(root, split="test")
    model = EEGInput.fit(train.epochs, train.keys, tmax=0.4, whiten="none")
    want = planted("test").reshape(-1, 5, 60)[..., 20:60].reshape(12, 5, 20, 2).mean(-1)
    np.testing.assert_allclose(model.prepare(test.epochs).numpy(), want, atol=1e-6)
    write_eeg(root, "test", preprocessed_eeg_data=planted("test") * 1e-5)
    with pytest.raises(ValueError, match="is their unit volts"):
        model.prepare(load_things_eeg2(root, split="test").epochs)


def continuous(part, session, *, rate=1000, n_samples=14_000):
    """Volts (n_channels + 1, n_samples) and a stim channel with pictures, targets and one trial at each end."""
    rng = np.random.default_rng([session, part == "test"])
    mixing = np.eye(5) + 0.3 * rng.normal(size=(5, 5))
    data = np.zeros((6, n_samples))
    data[:5] = 1e-5 * mixing @ rng.normal(size=(5, n_samples)).cumsum(1) / 10
    n_pictures = len(stimuli_of(part))
    onsets = np.arange(400, n_samples - 1500, 200)
    codes = rng.permutation(np.resize(np.arange(1, n_pictures + 1), len(onsets)))
    codes[::7] = 99999
    data[5, onsets] = codes
    data[5, [100, n_samples - 900]] = 1
    return data


def write_raw(root, part, *, sessions=(1, 2), **change):
    for session in sessions:
        table = {"raw_eeg_data": continuous(part, session), "ch_names": [*NAMES, "stim"]}
        table |= {
            "ch_types": ["eeg"] * 5 + ["stim"],
            "sfreq": 1000,
            "highpass": 0.01,
            "lowpass": 100,
        } | change
        path = root / "sub-01" / f"ses-{session:02d}" / f"raw_eeg_{part}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, table)


def mne_epochs(part, session):
    info = mne.create_info([*NAMES, "stim"], 1000, ["eeg"] * 5 + ["stim"])
    raw = mne.io.RawArray(continuous(part, session), info, verbose="error")
    events = mne.find_events(raw, "stim", shortest_event=1, verbose="error")
    events = events[events[:, 2] != 99999]
    return mne.Epochs(
        raw, events, tmin=-0.2, tmax=1.0, baseline=(None, 0), picks="eeg", preload=True, verbose="error"
    )


@pytest.mark.parametrize("sfreq", [1000.0, 250.0, 100.0])
def test_raw_files_are_cut_as_mne_cuts_them(root, sfreq):
    write_raw(root, "training")
    data = load_things_eeg2(root, raw=True, whiten=False, sfreq=sfreq)
    theirs = [mne_epochs("training", session) for session in (1, 2)]
    resampled = [epochs.copy().resample(sfreq, verbose="error") for epochs in theirs]
    want = np.concatenate([epochs.get_data(copy=False) for epochs in resampled])
    np.testing.assert_allclose(data.epochs.get_data(), want, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(data.epochs.times, resampled[0].times, atol=1e-9)
    codes = np.concatenate([epochs.events[:, 2] for epochs in theirs])
    assert data.metadata["stimulus"].tolist() == [stimuli_of("training")[code - 1] for code in codes]
    onsets = np.concatenate([epochs.events[:, 0] for epochs in theirs]) / 1000
    np.testing.assert_allclose(data.metadata["onset"], onsets)
    assert data.metadata["session"].tolist() == ["01"] * len(theirs[0]) + ["02"] * len(theirs[1])
    assert {channel["unit"] for channel in data.epochs.info["chs"]} == {VOLT}
    assert (data.epochs.info["highpass"], data.epochs.info["lowpass"]) == (0.01, min(100, sfreq / 2))


def test_raw_metadata_tell_the_order(root):
    write_raw(root, "training")
    metadata = load_things_eeg2(root, raw=True, whiten=False).metadata
    assert set(metadata["design_source"]) == {"recorded"}
    assert set(metadata["run"]) == {"training"}
    assert not metadata[["stimulus", "repeat"]].duplicated().any()
    for _, session in metadata.groupby("session"):
        assert session["onset"].is_monotonic_increasing
    first = metadata[metadata["repeat"] == 0]
    assert len(first) == metadata["stimulus"].nunique()


def test_rows_of_raw_files_are_read_in_any_order(root):
    write_raw(root, "training")
    epochs = load_things_eeg2(root, raw=True).epochs
    every = epochs.get_data()
    chosen = np.array([len(epochs) - 1, 0, 5, 5])
    np.testing.assert_allclose(epochs[chosen].get_data("Oz"), every[chosen][:, [3]], rtol=1e-6)


def test_raw_sessions_are_whitened_by_their_own_training_noise(root):
    for part in CONCEPTS:
        write_raw(root, part)
    data = {split: load_things_eeg2(root, raw=True, split=split).epochs for split in ("train", "test")}
    assert {channel["unit"] for channel in data["test"].info["chs"]} == {NONE}
    for number, session in enumerate((1, 2)):
        parts = [mne_epochs(part, session).resample(250, verbose="error") for part in ("training", "test")]
        whitener = mvnn(parts[0].get_data(copy=False)[..., 50:])
        for split, part in zip(("train", "test"), parts, strict=True):
            ours = data[split][(data[split].metadata["session"] == f"{number + 1:02d}").to_numpy()]
            np.testing.assert_allclose(
                ours.get_data(), whitener @ part.get_data(copy=False), rtol=1e-3, atol=1e-3
            )
    (root / "sub-01" / "ses-02" / "raw_eeg_training.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*ses-02/raw_eeg_training\.npy, whose noise"):
        load_things_eeg2(root, raw=True, split="test")


def test_raw_channels_are_chosen_before_the_whitening(root):
    write_raw(root, "training", sessions=[1])
    epochs = load_things_eeg2(root, raw=True, channels=["Oz", "P7"]).epochs
    part = mne_epochs("training", 1).resample(250, verbose="error").get_data(["Oz", "P7"], copy=False)
    assert epochs.ch_names == ["Oz", "P7"]
    np.testing.assert_allclose(epochs.get_data(), mvnn(part[..., 50:]) @ part, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"ch_types": ["eeg"] * 6}, {}, "6 names and 6 types, 0 of them stim"),
        ({"ch_names": NAMES}, {}, "5 names and 6 types"),
        ({"raw_eeg_data": np.zeros(6)}, {}, "needs raw_eeg_data"),
        ({"raw_eeg_data": np.zeros((6, 3000))}, {}, "no picture with -0.2 to 1.0 s"),
        ({"raw_eeg_data": continuous("training", 1) + 0.5}, {}, "other than whole numbers"),
        ({"raw_eeg_data": continuous("training", 1) * 10}, {}, "has code .* names 6 pictures"),
        ({"sfreq": "fast"}, {}, "needs sfreq in Hz; it has 'fast'"),
        ({"lowpass": -1}, {}, "needs lowpass in Hz; it has '-1'"),
        ({}, {"sfreq": 2000.0}, "at most the 1000 Hz of .*, got 2000"),
        ({}, {"channels": ["stim"]}, "no EEG channel 'stim'"),
    ],
)
def test_raw_files_of_another_kind_are_refused(root, change, settings, message):
    write_raw(root, "training", **change)
    with pytest.raises(ValueError, match=message):
        load_things_eeg2(root, raw=True, whiten=False, **settings)


def test_sessions_with_other_channels_are_refused(root):
    write_raw(root, "training")
    write_raw(root, "training", sessions=[2], ch_names=[*NAMES[::-1], "stim"])
    with pytest.raises(ValueError, match=r"ses-02.* has other channels or another rate"):
        load_things_eeg2(root, raw=True, whiten=False)


def coloured(n_trials, n_times, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(4, 4)) * 1e-5
    return mixing @ rng.normal(size=(n_trials, 4, n_times)), mixing @ mixing.T


def test_the_noise_is_the_mean_of_shrunk_covariances():
    trials, _ = coloured(2, 40)
    samples, trial = trials.transpose(0, 2, 1).reshape(-1, 4), np.repeat([0, 1], 40)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(samples * 1e5, trial)
    whitener = mvnn(trials * 1e5)
    np.testing.assert_allclose(whitener @ lda.covariance_ @ whitener.T, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(whitener, whitener.T, atol=1e-12)
    np.testing.assert_allclose(mvnn([trials[:1] * 1e5, trials[1:] * 1e5]), whitener, rtol=1e-12)


def test_whitened_noise_is_white():
    trials, covariance = coloured(200, 500)
    whitener = mvnn(trials)
    np.testing.assert_allclose(whitener @ covariance @ whitener.T, np.eye(4), atol=0.1)


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        (np.zeros((0, 4, 10)), "0 trials"),
        ([], "0 trials"),
        (coloured(3, 10)[0] * np.array([1, 1, 0, 1])[:, None], "Trial 0 is flat or not finite in channel 2"),
        (
            np.where(np.arange(3)[:, None, None] == 2, np.nan, coloured(3, 10)[0]),
            "Trial 2 is flat or not finite",
        ),
    ],
)
def test_noise_that_cannot_be_learned_is_refused(trials, message):
    with pytest.raises(ValueError, match=message):
        mvnn(trials)
