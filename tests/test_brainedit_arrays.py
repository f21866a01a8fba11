"""ArrayEpochs against MNE's own epochs, on disk and in memory, and what damaged files come to."""

import json
import subprocess
import sys
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from brainedit.datasets.arrays import ArrayEpochs, concatenate_epochs

NAMES = ["Fp1", "Cz", "HEOG", "Oz"]
TYPES = ["eeg", "eeg", "eog", "eeg"]


def make_info(names=NAMES, types=TYPES, sfreq=250.0):
    return mne.create_info(list(names), sfreq, list(types))


def make_table(n):
    return pd.DataFrame(
        {"stimulus": [f"{i:03d}" for i in range(n)], "repeat": range(n), "onset": np.arange(n) / 3}
    )


@pytest.fixture
def both():
    """The same trials as ArrayEpochs (float64 microvolts behind) and as MNE's epochs."""
    data = np.random.default_rng(0).normal(size=(12, 4, 30)) * 10
    ours = ArrayEpochs(data, make_info(), tmin=-0.02, metadata=make_table(12), scale=1e-6)
    theirs = mne.EpochsArray(data * 1e-6, make_info(), tmin=-0.02, metadata=make_table(12), verbose="error")
    return ours, theirs


def test_the_attributes_are_those_of_mne(both):
    ours, theirs = both
    assert ours.ch_names == theirs.ch_names
    assert (ours.tmin, ours.tmax) == (theirs.tmin, theirs.tmax)
    np.testing.assert_array_equal(ours.times, theirs.times)
    assert ours.get_channel_types() == theirs.get_channel_types()
    assert len(ours) == len(theirs) == 12
    assert repr(ours) == "<ArrayEpochs: 12 trials, 4 channels, -0.020 to 0.096 s>"


@pytest.mark.parametrize(
    "trials",
    [
        3,
        -1,
        np.int64(2),
        slice(2, 7),
        slice(None, None, -2),
        [5, 1, 1],
        np.array([0, 11]),
        np.arange(12) % 3 == 0,
    ],
)
def test_indexing_takes_the_trials_and_their_metadata(both, trials):
    ours, theirs = (epochs[trials] for epochs in both)
    np.testing.assert_allclose(ours.get_data(), theirs.get_data(copy=True), rtol=1e-6)
    assert ours.metadata["stimulus"].tolist() == theirs.metadata["stimulus"].tolist()
    assert len(ours) == len(ours.metadata)
    again = ours[::-1][:1]
    np.testing.assert_allclose(again.get_data(), theirs.get_data(copy=True)[-1:], rtol=1e-6)
    assert again.metadata["repeat"].tolist() == theirs.metadata["repeat"].tolist()[-1:]


def test_no_trials_are_no_error(both):
    none = both[0][[]]
    assert none.get_data().shape == (0, 4, 30)
    assert len(none.metadata) == 0
    with pytest.raises(ValueError, match="no trials to average"):
        none.average()


@pytest.mark.parametrize("trials", [12, [3, 12], np.ones(11, bool)])
def test_trials_that_do_not_exist_are_refused(both, trials):
    with pytest.raises(IndexError, match="12"):
        both[0][trials]


@pytest.mark.parametrize("trials", ["stimulus == '001'", ["a"]])
def test_text_selects_no_trials(both, trials):
    with pytest.raises(TypeError, match=r"stimulus == '001'|'a'"):
        both[0][trials]


@pytest.mark.parametrize(
    "picks",
    [None, "eeg", "eog", ["eeg", "eog"], "Oz", ["Oz", "Cz"], [3, 1], [-1], slice(1, 3), "all", np.array([0])],
)
def test_channels_are_picked_as_in_mne(both, picks):
    ours, theirs = both
    want = theirs.get_data(picks=picks, copy=True)
    np.testing.assert_allclose(ours.get_data(picks), want, rtol=1e-6)
    np.testing.assert_allclose(ours[[4, 2]].get_data(picks), want[[4, 2]], rtol=1e-6)
    if not isinstance(picks, slice):
        np.testing.assert_allclose(ours.average(picks).data, want.mean(0), rtol=1e-5, atol=1e-12)


def test_a_picked_set_names_its_channels(both):
    ours, theirs = both
    picked = ours.pick(["Oz", "Cz"])
    assert picked.ch_names == ["Oz", "Cz"]
    np.testing.assert_allclose(picked.pick("Cz").get_data(), theirs.get_data("Cz", copy=True), rtol=1e-6)
    assert ours.ch_names == NAMES
    with pytest.raises(ValueError, match="Unknown channel or type 'Pz'"):
        ours.pick(["Oz", "Pz"])
    with pytest.raises(ValueError, match="not both; got Oz, eeg"):
        ours.get_data(["Oz", "eeg"])


def test_the_average_is_that_of_mne(both):
    ours, theirs = both
    got, want = ours[1:8].average(), theirs[1:8].average(picks="all")
    np.testing.assert_allclose(got.data, want.data, rtol=1e-5, atol=1e-12)
    np.testing.assert_array_equal(got.times, want.times)
    assert (got.nave, got.ch_names) == (7, want.ch_names)


def test_to_mne_gives_the_same_epochs(both):
    ours, theirs = (both[0][[5, 3]].to_mne(), both[1][[5, 3]])
    np.testing.assert_allclose(ours.get_data(copy=True), theirs.get_data(copy=True), rtol=1e-6)
    np.testing.assert_array_equal(ours.times, theirs.times)
    assert ours.metadata["stimulus"].tolist() == ["005", "003"]


def test_chunks_are_the_trials_in_order(both):
    ours = both[0][::-1]
    chunks = list(ours.iter_chunks(5))
    assert [len(chunk) for chunk in chunks] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate(chunks), ours.get_data())
    np.testing.assert_array_equal(np.stack(list(ours)), ours.get_data())


def test_half_precision_and_a_small_scale_do_not_make_zero():
    data = np.full((2, 1, 3), 12.0, np.float16)
    got = ArrayEpochs(data, make_info(["Cz"], ["eeg"]), scale=1e-6).get_data()
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, 1.2e-5, rtol=1e-6)


@pytest.mark.parametrize("code", ["<f8", ">f4", "<f2", "<i2"])
def test_every_kind_of_number_is_read(code):
    data = np.arange(24).reshape(3, 4, 2).astype(code)
    got = ArrayEpochs(data, make_info()).get_data()
    assert got.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(got, np.arange(24).reshape(3, 4, 2))


def test_an_index_names_rows_of_the_data(both):
    data = np.arange(24.0).reshape(3, 4, 2)
    ours = ArrayEpochs(data, make_info(), metadata=make_table(4), index=np.array([2, 0, 0, 1]))
    np.testing.assert_array_equal(ours.get_data(), data[[2, 0, 0, 1]])
    np.testing.assert_array_equal(ours[2:].get_data(), data[[0, 1]])
    assert ours[2:].metadata["stimulus"].tolist() == ["002", "003"]


def test_a_copy_is_ones_own():
    data = np.ones((3, 4, 2), np.float32)
    ours = ArrayEpochs(data, make_info())
    assert np.shares_memory(ours[1:].get_data(copy=False), data)
    ours.get_data()[:] = 5
    assert (data == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((3, 5, 2))}, "5 channels and info names 4"),
        ({"data": np.zeros((3, 4))}, r"got shape \(3, 4\)"),
        ({"data": np.zeros((3, 4, 0))}, "no samples"),
        ({"data": np.zeros((3, 4, 2), complex)}, "real numbers, got complex128"),
        ({"data": np.zeros((3, 4, 2), object)}, "real numbers, got object"),
        ({"metadata": make_table(4)}, "3 trials need as many rows of metadata, got 4"),
        ({"index": np.array([0, 3, 1])}, "rows 0 to 2, got 0 to 3; are the data truncated"),
        ({"index": np.array([-1])}, "got -1 to -1"),
        ({"index": np.array([0.0])}, "got float64"),
        ({"index": np.zeros((2, 2), int)}, r"of shape \(2, 2\)"),
        ({"scale": 0.0}, r"got 0\.0"),
        ({"scale": np.nan}, "got nan"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    settings = {"data": np.zeros((3, 4, 2)), "info": make_info(), "metadata": None} | change
    with pytest.raises(ValueError, match=message):
        ArrayEpochs(settings.pop("data"), settings.pop("info"), **settings)


def test_saved_epochs_come_back_and_stay_on_disk(both, tmp_path):
    ours = both[0][[7, 2, 2, 9]].pick(["Oz", "Cz"])
    ours.info["description"] = "made by a test"
    folder = ours.save(tmp_path / "new" / "epochs")
    assert sorted(path.name for path in folder.iterdir()) == ["data.npy", "info.fif", "metadata.json"]
    again = ArrayEpochs.open(folder)
    assert isinstance(again.get_data(copy=False), np.memmap) or not again.get_data(copy=False).flags.owndata
    np.testing.assert_array_equal(again.get_data(), ours.get_data())
    np.testing.assert_array_equal(again.times, ours.times)
    assert again.ch_names == ["Oz", "Cz"]
    assert again.info["description"] == "made by a test"
    pd.testing.assert_frame_equal(again.metadata, ours.metadata.reset_index(drop=True))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["epochs"]
    with pytest.raises(FileExistsError, match="epochs is there already"):
        ours.save(folder)


def test_metadata_keep_their_types_and_what_is_missing(tmp_path):
    table = pd.DataFrame(
        {
            "text": ["01", None, "n/a"],
            "empty": ["", "NaN", "x"],
            "number": [0.1, np.nan, 1e-300],
            "whole": [2**60, 0, -1],
            "flag": [True, False, True],
            "mixed": ["a", 1, None],
        }
    )
    epochs = ArrayEpochs(np.zeros((3, 4, 2)), make_info(), metadata=table)
    again = ArrayEpochs.open(epochs.save(tmp_path / "a")).metadata
    pd.testing.assert_frame_equal(again, table)
    assert (
        ArrayEpochs.open(ArrayEpochs(np.zeros((3, 4, 2)), make_info()).save(tmp_path / "b")).metadata is None
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1], [2]], "'x' has list"),
        (pd.to_datetime(["2020-01-01"] * 2), "'x' has Timestamp"),
        ([1.0, np.inf], "float"),
    ],
)
def test_metadata_that_cannot_be_saved_leave_nothing_behind(tmp_path, column, message):
    epochs = ArrayEpochs(np.zeros((2, 4, 2)), make_info(), metadata=pd.DataFrame({"x": column}))
    with pytest.raises(ValueError, match=message):
        epochs.save(tmp_path / "epochs")
    assert list(tmp_path.iterdir()) == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def other_channels(path):
    mne.io.write_info(path, make_info(["Cz"], ["eeg"]), overwrite=True, verbose="error")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("data.npy", cut, "mmap length"),
        (
            "data.npy",
            lambda p: np.save(p, np.zeros((5, 4, 2))),
            "5 trials need as many rows of metadata, got 3",
        ),
        ("data.npy", lambda p: np.save(p, {"a": 1}), "Python objects"),
        ("data.npy", lambda p: p.write_bytes(b""), "no epochs that can be read"),
        ("info.fif", other_channels, "4 channels and info names 1"),
        ("info.fif", lambda p: p.write_bytes(b"x" * 100), "no epochs that can be read"),
        ("metadata.json", lambda p: p.write_text("{}"), "no epochs that can be read .'format'"),
        ("metadata.json", lambda p: p.write_text(json.dumps({"format": 9})), "format 9 is not known"),
        ("metadata.json", lambda p: p.write_text("[1]"), "no epochs that can be read"),
    ],
)
def test_damaged_folders_get_one_sentence(tmp_path, name, change, message):
    folder = ArrayEpochs(np.zeros((3, 4, 2)), make_info(), metadata=make_table(3)).save(tmp_path / "epochs")
    change(folder / name)
    with pytest.raises(ValueError, match=message) as raised:
        ArrayEpochs.open(folder)
    assert str(folder) in str(raised.value)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"epochs has no {name}"):
        ArrayEpochs.open(folder)


def test_epochs_are_joined_in_order(both):
    ours, theirs = both
    joined = concatenate_epochs([ours[8:], theirs[:3], ours[[1]]])
    want = np.concatenate([theirs.get_data(copy=True)[i] for i in (slice(8, 12), slice(0, 3), slice(1, 2))])
    np.testing.assert_allclose(joined.get_data(), want, rtol=1e-6)
    np.testing.assert_allclose(joined[[7, 0, 4, 5]].get_data("Oz"), want[[7, 0, 4, 5]][:, [3]], rtol=1e-6)
    assert joined.metadata["repeat"].tolist() == [8, 9, 10, 11, 0, 1, 2, 1]
    assert isinstance(concatenate_epochs([theirs, theirs]), mne.BaseEpochs)


def dimensionless(info):
    for channel in info["chs"]:
        channel["unit"] = mne.io.constants.FIFF.FIFF_UNIT_NONE
    return info


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"info": make_info(NAMES[::-1], TYPES[::-1])}, "same channels"),
        ({"info": make_info(sfreq=200.0)}, r"same rate .Hz.; the first have 250\.0, number 2 200\.0"),
        ({"tmin": 0.1}, "same window"),
        ({"data": np.zeros((3, 4, 5))}, "same window"),
        ({"info": dimensionless(make_info())}, "same units"),
        ({"metadata": None}, "some have none"),
    ],
)
def test_epochs_that_differ_are_not_joined(other, message):
    settings = {"data": np.zeros((3, 4, 2)), "info": make_info(), "tmin": 0.0, "metadata": make_table(3)}
    first, second = (
        ArrayEpochs(s["data"], s["info"], tmin=s["tmin"], metadata=s["metadata"])
        for s in (settings, settings | other)
    )
    with pytest.raises(ValueError, match=message):
        concatenate_epochs([first, second])
    with pytest.raises(ValueError, match="no epochs to join"):
        concatenate_epochs([])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is counted by Linux")
def test_large_epochs_are_saved_and_averaged_in_little_memory(tmp_path):
    code = f"""
import re, pathlib, mne, numpy as np
from brainedit.datasets.arrays import ArrayEpochs
def peak():
    return int(re.search("VmHWM:\\\\s*(\\\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
data = np.broadcast_to(np.float32(3), (2500, 64, 500))  # 320 MB
epochs = ArrayEpochs(data, mne.create_info(64, 250.0, "eeg"))
epochs[:10].average()
before = peak()
epochs.save({str(tmp_path / "epochs")!r})
assert (epochs.average().data == 3).all()
print(peak() - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 160  # MB; a chunk of averaging and its temporary
    assert ArrayEpochs.open(tmp_path / "epochs")[7].get_data()[0, 3, 2] == 3
