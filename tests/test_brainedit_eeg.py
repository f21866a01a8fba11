"""Reading, cleaning and cutting EEG: real small files, planted signals, damaged bytes."""

import logging
import pickle

import mne
import numpy as np
import pandas as pd
import pytest
import scipy.io

from brainedit.eeg import (
    EEGFileError,
    check_signal,
    events_from_annotations,
    make_epochs,
    preprocess,
    read_epochs,
    read_events,
    read_raw,
    standard_names,
)

NAMES = ["Fp1", "Fz", "Cz", "Pz", "O1", "O2"]


def make_raw(names=NAMES, *, sfreq=200.0, seconds=40.0, types="eeg", seed=0):
    rng = np.random.default_rng(seed)
    data = rng.normal(0, 1e-5, (len(names), int(sfreq * seconds)))
    return mne.io.RawArray(data, mne.create_info(list(names), sfreq, types), verbose="error")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eeg")
    raw = make_raw(seconds=5)
    raw.save(folder / "a_raw.fif", verbose="error")
    raw.save(folder / "z_raw.fif.gz", verbose="error")
    raw.export(folder / "a.edf", verbose="error")
    raw.export(folder / "a.bdf", verbose="error")
    epochs = mne.make_fixed_length_epochs(raw, 1.0, preload=True, verbose="error")
    epochs.metadata = pd.DataFrame({"stimulus": [f"faces/{k}.png" for k in range(5)], "run": 1})
    epochs.save(folder / "a-epo.fif", verbose="error")
    epochs.average().save(folder / "a-ave.fif", verbose="error")
    return folder


@pytest.mark.parametrize("name", ["a_raw.fif", "z_raw.fif.gz", "a.edf", "a.bdf"])
def test_read_raw_gives_back_what_was_written(files, name):
    raw = read_raw(files / name)
    assert raw.ch_names == NAMES
    assert raw.info["sfreq"] == 200
    assert np.allclose(raw.get_data(), make_raw(seconds=5).get_data()[:, : raw.n_times], atol=1e-8)


def test_read_epochs_keeps_metadata(files):
    epochs = read_epochs(files / "a-epo.fif", self_contained=True)
    assert epochs.metadata["stimulus"].tolist() == [f"faces/{k}.png" for k in range(5)]


def test_brainvision_and_its_outside_file(tmp_path):
    data = (np.arange(2 * 100).reshape(100, 2) % 50).astype("<i2")  # multiplexed
    (tmp_path / "inside").mkdir()
    data.tofile(tmp_path / "outside.eeg")
    (tmp_path / "inside" / "a.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        "[Marker Infos]\nMk1=Stimulus,S  1,11,1,0\nMk2=Stimulus,S  2,51,1,0\n"
    )
    header = tmp_path / "inside" / "a.vhdr"
    header.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        "DataFile=../outside.eeg\nMarkerFile=a.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        "NumberOfChannels=2\nSamplingInterval=10000\n[Binary Infos]\nBinaryFormat=INT_16\n"
        "[Channel Infos]\nCh1=Fz,,0.1,µV\nCh2=Cz,,0.1,µV\n",
        encoding="utf-8",
    )
    raw = read_raw(header)
    assert np.allclose(raw.get_data(), data.T * 1e-7)
    (tmp_path / "codes.csv").write_text("code,stim_file\nS 1,a.png\n2,b.png\n")
    events = events_from_annotations(raw, tmp_path / "codes.csv")
    assert events["stim_file"].tolist() == ["a.png", "b.png"]
    assert np.allclose(events["onset"], [0.1, 0.5])
    with pytest.raises(EEGFileError, match=r"a\.vhdr is BrainVision, which may open other files"):
        read_raw(header, self_contained=True)


def write_set(path, data, n_trials):
    n_channels, n_times = data.shape[0], data.shape[1]
    labels = np.zeros(n_channels, dtype=[("labels", "O")])
    labels["labels"] = NAMES[:n_channels]
    eeg = {
        "data": data, "nbchan": n_channels, "pnts": n_times, "trials": n_trials, "srate": 100.0, "xmin": 0.0,
        "xmax": (n_times - 1) / 100, "chanlocs": labels, "setname": "a", "icawinv": [], "icaweights": [],
        "icasphere": [], "event": [], "epoch": [], "etc": [], "chaninfo": {"nosedir": "+X"},
    }  # fmt: skip
    scipy.io.savemat(path, {"EEG": eeg}, appendmat=False)


def test_eeglab(tmp_path):
    data = np.random.default_rng(0).normal(0, 10, (3, 200)).astype("float32")  # µV
    write_set(tmp_path / "a.set", data, 1)
    raw = read_raw(tmp_path / "a.set")
    assert raw.ch_names == NAMES[:3]
    assert np.allclose(raw.get_data() * 1e6, data, atol=1e-4)
    with pytest.raises(EEGFileError, match=r"a\.set is EEGLAB, which may open other files"):
        read_raw(tmp_path / "a.set", self_contained=True)
    with pytest.raises(EEGFileError, match=r"a\.set holds no epochs"):
        read_epochs(tmp_path / "a.set")


@pytest.mark.parametrize("name", ["a_raw.fif", "a-ave.fif", "a.edf"])
def test_no_epochs_inside(files, name):
    with pytest.raises(EEGFileError, match=f"{name} holds no epochs; read a continuous"):
        read_epochs(files / name)


@pytest.mark.parametrize("name", ["a-epo.fif", "a-ave.fif"])
def test_no_recording_inside(files, name):
    with pytest.raises(EEGFileError, match=f"{name} holds no continuous recording"):
        read_raw(files / name)


@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}), b"onset\tduration\n", b"", b"\x1f\x8bnot gzip"])
@pytest.mark.parametrize("name", ["x.edf", "x_raw.fif", "x.set", "x.fif.gz"])
def test_a_file_that_is_no_eeg(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    for read in (read_raw, read_epochs):
        with pytest.raises(EEGFileError, match=f"{name} is no EEG file"):
            read(tmp_path / name)


def test_missing_file_wrong_suffix_and_compressed_upload(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No EEG file .*nothing\.fif"):
        read_raw(tmp_path / "nothing.fif")
    (tmp_path / "a.dat").write_bytes((files / "a.edf").read_bytes())
    with pytest.raises(EEGFileError, match=r"a\.dat holds EDF data but its name does not end in \.edf"):
        read_raw(tmp_path / "a.dat")
    with pytest.raises(EEGFileError, match=r"z_raw\.fif\.gz is compressed"):
        read_raw(files / "z_raw.fif.gz", self_contained=True)


def test_split_fif_is_refused_in_uploads(tmp_path):
    make_raw(NAMES * 1, sfreq=1000.0, seconds=150).save(
        tmp_path / "s_raw.fif", split_size="2MB", buffer_size_sec=1, verbose="error"
    )
    assert (tmp_path / "s_raw-1.fif").exists()
    assert read_raw(tmp_path / "s_raw.fif").n_times == 150_000
    with pytest.raises(EEGFileError, match=r"s_raw\.fif is split and refers to another file"):
        read_raw(tmp_path / "s_raw.fif", self_contained=True)


@pytest.mark.parametrize("name", ["a_raw.fif", "a.edf", "a.bdf", "a-epo.fif"])
def test_damaged_files_raise_nothing_but_eeg_file_error(files, tmp_path, name):
    rng = np.random.default_rng(0)
    original = np.frombuffer((files / name).read_bytes(), np.uint8)
    read = read_epochs if "epo" in name else read_raw
    messages = []
    for trial in range(40):
        damaged = original.copy()
        stop = len(damaged) if trial % 2 else 2500  # the header, or anywhere
        damaged[rng.integers(16, stop, 30)] = rng.integers(0, 256, 30)
        damaged = damaged[: rng.integers(16, len(damaged))] if trial % 4 == 0 else damaged
        (tmp_path / name).write_bytes(damaged.tobytes())
        try:
            read(tmp_path / name, self_contained=True)
        except EEGFileError as error:
            messages.append(str(error))
    assert len(messages) > 5
    assert all(name in message and "\n" not in message for message in messages)


def test_standard_names():
    odd = ["T3", "t4", "T5..", "T6", "FP1", "fp2.", "EEG Fp1-REF", "EEG FP2-LE", "Fc5.", "EEG T3-REF", "CPZ"]
    want = ["T7", "T8", "P7", "P8", "Fp1", "Fp2", "Fp1", "Fp2", "FC5", "T7", "CPz"]
    assert [standard_names([name])[0] for name in odd] == want
    assert standard_names(["HEOG", "Status", "Fp1-F7", "C3-A2"]) == ["HEOG", "Status", "Fp1-F7", "C3-A2"]
    assert standard_names(["T3", "T7", "O1."]) == ["T3", "T7", "O1"]  # never two of one name


def test_check_signal():
    data = np.random.default_rng(0).normal(size=(5, 3, 50))
    check_signal(data, ["a", "b", "c"])
    check_signal(data[0] + 1e3, ["a", "b", "c"])
    data[:, 1] = np.arange(5)[:, None]  # constant within each epoch
    with pytest.raises(ValueError, match="Flat channels: b;"):
        check_signal(data, ["a", "b", "c"])
    data[3, 2, 7] = np.nan
    data[0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite values in channels a, c;"):
        check_signal(data, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"got shape \(5, 3, 50\)"):
        check_signal(data, ["a"])


def test_preprocess_removes_drift_and_mains_and_keeps_alpha():
    raw = make_raw()
    t = raw.times
    raw._data[:] = 0
    drift, alpha, mains = (np.sin(2 * np.pi * f * t) for f in (0.01, 10, 50))
    weights = np.linspace(-1, 1, len(NAMES))[:, None] * 1e-5  # sums to zero: reference unchanged
    raw._data += weights * (5 * drift + alpha + 3 * mains)
    before = raw.get_data()
    out = preprocess(raw, l_freq=1.0, h_freq=None, notch=50.0, resample=None)
    middle = slice(1000, -1000)
    assert np.allclose(out.get_data()[:, middle], (weights * alpha)[:, middle], atol=2e-7)
    assert np.array_equal(raw.get_data(), before)


def test_preprocess_reference_rate_names_positions(caplog):
    names = ["FP1.", "T3", "CZ", "Oddball1", "VEOG"]
    raw = make_raw(names, sfreq=500.0)
    with caplog.at_level(logging.WARNING):
        out = preprocess(raw)
    assert out.ch_names == ["Fp1", "T7", "Cz", "Oddball1", "VEOG"]
    assert out.info["sfreq"] == 250
    assert out.get_channel_types()[-1] == "eog"
    assert np.allclose(out.get_data(picks="eeg").mean(axis=0), 0, atol=1e-12)
    assert "No position in standard_1005 for channels Oddball1" in caplog.text
    assert "no EEG channels: VEOG" in caplog.text
    template = preprocess(make_raw(), montage="standard_1005").get_montage().get_positions()["ch_pos"]
    assert np.allclose(out.get_montage().get_positions()["ch_pos"]["Fp1"], template["Fp1"])
    linked = preprocess(raw, reference=["Cz"], resample=None, montage=None)
    assert np.allclose(linked.get_data(picks="Cz"), 0)
    with caplog.at_level(logging.WARNING):
        assert preprocess(make_raw(sfreq=100.0)).info["sfreq"] == 100
    assert "Recorded at 100 Hz: not resampled to 250 Hz" in caplog.text


def test_measured_positions_survive():
    raw = make_raw()
    measured = mne.channels.make_dig_montage({"Cz": [0, 0, 0.12]}, coord_frame="head")
    raw.set_montage(measured, on_missing="ignore")
    out = preprocess(raw)
    assert np.allclose(out.info["chs"][2]["loc"][:3], [0, 0, 0.12])
    assert np.linalg.norm(out.info["chs"][1]["loc"][:3]) > 0.05


def test_bad_channels():
    raw = preprocess(make_raw(), h_freq=None, l_freq=None, resample=None)
    x = np.array([ch["loc"][2] for ch in raw.info["chs"]])[:, None]  # a field that is linear in height
    raw._data[:] = x * np.sin(raw.times * 20) * 1e-4
    truth = raw.get_data()
    raw._data[2] = np.random.default_rng(0).normal(size=raw.n_times)
    raw.info["bads"] = ["Cz"]
    settings = {"l_freq": None, "h_freq": None, "resample": None, "reference": "keep"}
    fixed = preprocess(raw, bads="interpolate", **settings)
    assert fixed.info["bads"] == []
    assert np.corrcoef(fixed.get_data()[2], truth[2])[0, 1] > 0.99
    assert preprocess(raw, bads="keep", **settings).info["bads"] == ["Cz"]
    assert "Cz" not in preprocess(raw, bads="drop", **settings).ch_names
    odd = make_raw(["Fz", "Cz", "X1", "X2"])
    odd.info["bads"] = ["Cz"]
    with pytest.raises(ValueError, match=r"bads='interpolate' needs a position .* X1, X2 have none"):
        preprocess(odd, bads="interpolate")


@pytest.mark.parametrize("method", ["regress", "ica"])
def test_eye_artefacts_are_removed(method):
    raw = make_raw([*NAMES, "VEOG"], types=["eeg"] * 6 + ["eog"])
    raw._data[:] = np.random.default_rng(0).laplace(size=raw._data.shape) * 1e-5
    raw._data[6] *= 0.1
    clean = raw.get_data()[:6]
    blinks = np.zeros(raw.n_times)
    for start in range(300, raw.n_times - 300, 500):
        blinks[start : start + 60] += np.hanning(60) * 2e-4
    raw._data += np.array([0.8, 0.4, 0.2, 0.1, 0.05, 0.05, 1.0])[:, None] * blinks
    out = preprocess(raw, eog=method, reference="keep", l_freq=None, h_freq=None, resample=None)
    left = np.abs(out.get_data()[0] - clean[0])[blinks > 1e-4].mean()
    assert left < 0.1 * 0.8 * 2e-4
    with pytest.raises(ValueError, match=f"eog='{method}' needs EOG channels"):
        preprocess(make_raw(), eog=method)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"h_freq": 100.0}, r"h_freq=100.0 Hz needs a sampling rate above 200 Hz.* has 200 Hz"),
        ({"notch": 120.0}, "notch=120.0 Hz needs a sampling rate above 240"),
        ({"l_freq": 50.0}, "l_freq must be below h_freq, got 50.0 and 40.0"),
        ({"l_freq": 0}, "l_freq must be above 0 Hz or None, got 0"),
        ({"reference": ["M1", "Cz"]}, "got M1; its channels are Fp1"),
        ({"reference": "avreage"}, "got avreage"),
        ({"bads": "interpolat"}, "bad channels 'interpolat'. Did you mean 'interpolate'"),
        ({"eog": "csa"}, "Unknown treatment of eye artefacts 'csa'"),
        ({"montage": "standard_105"}, "Unknown montage 'standard_105'. Did you mean 'standard_1005'"),
    ],
)  # fmt: skip
def test_preprocess_says_what_cannot_be(settings, match):
    with pytest.raises(ValueError, match=match):
        preprocess(make_raw(), **settings)


def test_preprocess_names_flat_and_nan_channels():
    raw = make_raw()
    raw._data[1] = 3e-6
    with pytest.raises(ValueError, match="Flat channels: Fz"):
        preprocess(raw)
    raw.info["bads"] = ["Fz"]
    preprocess(raw, bads="drop")
    raw._data[3, 5] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite values in channels Pz"):
        preprocess(raw)
    with pytest.raises(ValueError, match="No EEG channels; the channel types are misc"):
        preprocess(make_raw(types="misc"))


def test_read_events(tmp_path):
    path = tmp_path / "events.tsv"
    path.write_text(
        "onset\tduration\ttrial_type\tstim_file\tsubject\n"
        "1.5\t0.5\tNA\tstimuli\\faces\\a b.png\t01\n2\tn/a\tface\tn/a\t01\n"
    )
    events = read_events(path)
    assert events["onset"].tolist() == [1.5, 2.0]
    assert events["trial_type"].tolist() == ["NA", "face"]
    assert events["subject"].tolist() == ["01", "01"]
    assert events["stim_file"].isna().tolist() == [False, True]
    path.write_text("sample\ttrial_type\n100\tx\n")
    assert read_events(path, sfreq=50.0)["onset"].tolist() == [2.0]
    with pytest.raises(ValueError, match=r"needs a column 'onset' .* it has sample, trial_type"):
        read_events(path)
    path.write_text("onset\ttrial_type\n1\tx\nlater\tx\n")
    with pytest.raises(ValueError, match="onset in row 3 must be seconds, got 'later'"):
        read_events(path)
    path.write_bytes(b"\x80\x81\xff\x00" * 20)
    with pytest.raises(ValueError, match=r"events\.tsv"):
        read_events(path)
    with pytest.raises(FileNotFoundError, match=r"none\.tsv"):
        read_events(tmp_path / "none.tsv")


def test_events_from_trigger_channel(tmp_path):
    raw = make_raw([*NAMES, "STI"], types=["eeg"] * 6 + ["stim"])
    raw._data[-1] = 0
    for sample, code in ((100, 7), (300, 9), (500, 8)):
        raw._data[-1, sample : sample + 3] = code
    codes = tmp_path / "codes.csv"
    codes.write_text("code,stim_file,target\n7,a.png,True\n8,b.png,False\n")
    events = events_from_annotations(raw, codes)
    assert events["onset"].tolist() == [0.5, 2.5]
    assert events["stim_file"].tolist() == ["a.png", "b.png"]
    assert events["target"].tolist() == [True, False]
    late = events_from_annotations(raw.copy().crop(0.25), codes)  # first_samp is not 0
    assert np.allclose(late["onset"], [0.25, 2.25])
    codes.write_text("code,stim_file\n55,a.png\n")
    with pytest.raises(ValueError, match="the recording has 7, 9, 8, the table 55"):
        events_from_annotations(raw, codes)
    codes.write_text("code,picture\n55,a.png\n")
    with pytest.raises(ValueError, match="needs columns 'code' and 'stim_file'; it has code, picture"):
        events_from_annotations(raw, codes)
    codes.write_text("code,stim_file\n7,a.png\n7,b.png\n")
    with pytest.raises(ValueError, match="each code must occur once; '7' occurs twice"):
        events_from_annotations(raw, codes)


def table(onsets, **columns):
    return pd.DataFrame({"onset": onsets, "duration": 0.1, **columns})


def test_make_epochs_cuts_at_the_onset_and_keeps_the_table():
    raw = make_raw([*NAMES, "VEOG", "X"], types=["eeg"] * 6 + ["eog", "misc"])
    raw._data[:6] = np.arange(raw.n_times) * 1e-6 * np.array([1, 2, 3, 4, 5, 6])[:, None]
    raw = raw.crop(1.0)  # onsets count from the first sample, wherever the recording began
    events = table(
        [10.0, 5.0, 7.0, 20.0], stim_file=["stimuli/b.png", "stimuli\\a.png", None, "c.png"],
        trial_type=["face", "house", "face", "face"], run=[2, 1, 1, 2],
    )  # fmt: skip
    epochs = make_epochs(raw, events, baseline=None)
    assert epochs.ch_names == [*NAMES, "VEOG"]
    assert epochs.metadata["stimulus"].tolist() == ["stimuli/a.png", "stimuli/b.png", "c.png"]
    assert epochs.metadata["label"].tolist() == ["house", "face", "face"]
    assert epochs.metadata["onset"].tolist() == [5.0, 10.0, 20.0]
    assert epochs.metadata["run"].tolist() == [1, 2, 2]
    assert "duration" not in epochs.metadata
    zero = np.flatnonzero(epochs.times == 0)[0]
    assert np.allclose(epochs.get_data()[:, 0, zero] * 1e6, (np.array([5, 10, 20]) + 1) * 200)
    corrected = make_epochs(raw, events)
    before = corrected.get_data()[:, :6, corrected.times <= 0]
    assert np.allclose(before.mean(axis=-1), 0, atol=1e-12)


def test_make_epochs_drops_and_says_so(caplog):
    raw = make_raw()
    raw._data[1, 2000:2010] += 1e-3
    events = table([5.0, 5.001, 10.0, 20.0, 39.9], trial_type="face")
    with caplog.at_level(logging.INFO):
        epochs = make_epochs(raw, events, reject_uv=500.0)
    assert epochs.metadata["onset"].tolist() == [5.0, 20.0]
    assert list(epochs.metadata.columns) == ["onset", "label"]
    assert "1 events fall on another one's sample" in caplog.text
    assert "2 of 4 trials dropped" in caplog.text
    assert len(make_epochs(raw, events.assign(stim_file=np.nan))) == 3  # no picture at all: by label


@pytest.mark.parametrize(
    ("events", "settings", "match"),
    [
        (table([5.0], x=1), {}, "events need 'onset' and 'stim_file'.*they have onset, duration, x"),
        (table([5.0, 6.0], stim_file=[None, None]), {}, "No events left: none of 2 has a stim_file"),
        (table([5.0, 6000.0], stim_file="a"), {}, "1 of 2 events lie outside .* first at 6000;"),
        (table([-1.0], stim_file="a"), {}, "1 of 1 events lie outside .* first at -1;"),
        (table([5.0], stim_file="a"), {"reject_uv": 1.0}, r"All 1 trials were rejected \(Cz, .*reject_uv"),
        (table([5.0], stim_file="a"), {"baseline": (-0.5, 0)}, r"within -0.2 to 0.8 s, got \(-0.5, 0\)"),
        (table([5.0], stim_file="a"), {"tmin": 1.0, "tmax": 0.5}, "tmin must be below tmax, got 1.0 and 0.5"),
    ],
)  # fmt: skip
def test_make_epochs_says_what_is_wrong(events, settings, match):
    with pytest.raises(ValueError, match=match):
        make_epochs(make_raw(), events, **settings)
