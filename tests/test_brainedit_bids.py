"""A BIDS folder written here: each trial finds its own run's picture, bad channels and design, or a clear error."""

import logging

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainedit.datasets.bids import load_bids

PICTURES = ["faces/a.png", "faces/b.png", "houses/c.png"]
NAMES = ["Fz", "Cz", "Pz", "Oz", "VEOG"]
MORE = {"block": ["1", "1", "2"], "confidence": [3, 1, 2]}  # columns of sub-01's events
PLAIN = {"l_freq": None, "h_freq": None, "reference": "keep", "resample": None, "tmin": 0.0, "baseline": None}


def write_vhdr(path, data, *, names=NAMES, sfreq=100):
    """A BrainVision recording of µV (n_channels, n_times)."""
    (data.T * 10).round().astype("<i2").tofile(path.with_suffix(".eeg"))
    path.with_suffix(".vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\n[Marker Infos]\n"
        "Mk1=New Segment,,1,1,0\n"
    )
    channels = "\n".join(f"Ch{k}={name},,0.1,µV" for k, name in enumerate(names, start=1))
    path.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={path.stem}.eeg\nMarkerFile={path.stem}.vmrk\nDataFormat=BINARY\n"
        f"DataOrientation=MULTIPLEXED\nNumberOfChannels={len(names)}\nSamplingInterval={1_000_000 // sfreq}\n"
        f"[Binary Infos]\nBinaryFormat=INT_16\n[Channel Infos]\n{channels}\n",
        encoding="utf-8",
    )


def write_recording(root, entities, shown, *, names=NAMES, sfreq=100, bad=(), seed=0, more=None):
    """Half a second after each onset Oz holds 10 µV x (1 + the picture's number); the rest is noise of 1 µV."""
    folder = root.joinpath(*[part for part in entities.split("_") if part[:3] in ("sub", "ses")], "eeg")
    folder.mkdir(parents=True, exist_ok=True)
    onset = 0.5 + 1.2 * np.arange(len(shown))
    data = np.random.default_rng(seed).normal(size=(len(names), int((onset[-1] + 2) * sfreq)))
    for start, picture in zip(onset, shown, strict=True):
        begin = round(start * sfreq)
        data[names.index("Oz"), begin : begin + sfreq] += 10 * (1 + picture)
    write_vhdr(folder / f"{entities}_eeg.vhdr", data, names=names, sfreq=sfreq)
    events = pd.DataFrame({"onset": onset, "duration": 0.5, "stim_file": [PICTURES[k] for k in shown]})
    events["trial_type"] = events["stim_file"].str.split("/").str[0]
    events = events.assign(**(more or {}))
    extra = pd.DataFrame({"onset": [0.1], "duration": 0, "stim_file": "n/a", "trial_type": "start"})
    pd.concat([extra, events]).to_csv(folder / f"{entities}_events.tsv", sep="\t", index=False, na_rep="n/a")
    status = ["bad" if name in bad else "good" for name in names]
    kinds = ["VEOG" if name == "VEOG" else "EEG" for name in names]
    channels = pd.DataFrame({"name": names, "type": kinds, "units": "µV", "status": status})
    channels.to_csv(folder / f"{entities}_channels.tsv", sep="\t", index=False)
    return folder / f"{entities}_eeg.vhdr"


@pytest.fixture
def bids(tmp_path):
    """Two sessions of two runs of sub-01; sub-02 has one recording."""
    for name in PICTURES:
        (tmp_path / "stimuli" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "stimuli" / name)
    for k, (ses, run) in enumerate([("1", "01"), ("1", "02"), ("2", "01"), ("2", "10")]):
        entities = f"sub-01_ses-{ses}_task-faces_run-{run}"
        write_recording(tmp_path, entities, np.roll([0, 1, 2], k), seed=k, more=MORE)
    write_recording(tmp_path, "sub-02_task-faces", [2, 0, 1], seed=9)
    return tmp_path


def test_each_trial_has_its_own_response_picture_and_place(bids):
    dataset = load_bids(bids, subject=1, tmax=0.4, **PLAIN)
    metadata = dataset.metadata
    assert len(dataset) == 12
    mean = dataset.epochs.get_data(picks="Oz").mean(axis=(1, 2)) * 1e6
    assert np.allclose(mean, [10 * (1 + PICTURES.index(key)) for key in dataset.keys], atol=1)
    assert metadata["label"].tolist() == [key.split("/")[0] for key in dataset.keys]
    assert dataset.pictures["houses/c.png"] == bids / "stimuli" / "houses" / "c.png"
    assert metadata["subject"].unique().tolist() == ["01"]
    places = metadata[["session", "run"]].drop_duplicates().to_numpy().tolist()
    assert places == [["1", "01"], ["1", "02"], ["2", "01"], ["2", "10"]]
    assert metadata["task"].unique().tolist() == ["faces"]
    assert metadata["block"].tolist() == ["1", "1", "2"] * 4
    assert np.allclose(metadata["onset"], np.tile([0.5, 1.7, 2.9], 4))
    assert metadata["confidence"].tolist() == [3, 1, 2] * 4
    assert metadata["design_source"].unique().tolist() == ["recorded"]
    assert dataset.epochs.get_channel_types() == ["eeg"] * 4 + ["eog"]


def test_what_the_files_do_not_tell_is_no_column(bids):
    metadata = load_bids(bids, subject="02", tmax=0.4, **PLAIN).metadata
    assert not {"session", "run", "block"} & set(metadata)


@pytest.mark.parametrize(
    ("chosen", "n"),
    [({"session": 2}, 6), ({"run": 1}, 6), ({"session": "ses-2", "run": "10"}, 3), ({"task": "faces"}, 12)],
)
def test_a_choice_of_recordings(bids, chosen, n):
    dataset = load_bids(bids, subject="sub-01", tmax=0.4, **chosen, **PLAIN)
    assert len(dataset) == n
    if "session" in chosen:
        assert set(dataset.metadata["session"]) == {"2"}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"subject": 3}, r"Unknown subject '3'.*Known: 01, 02"),
        ({"subject": 1, "session": 3}, r"Unknown session '3'.*Known: 1, 2"),
        ({"subject": 1, "session": 1, "run": 10}, r"Unknown run '10'.*Known: 01, 02"),
        ({"subject": 1, "task": "houses"}, r"Unknown task 'houses'.*Known: faces"),
        ({"subject": 2, "run": 1}, r"Unknown run '1'"),
        ({"subject": 1, "notsh": 50}, r"Unknown setting of preprocess 'notsh'. Did you mean 'notch'"),
    ],
)
def test_unknown_names(bids, chosen, message):
    with pytest.raises(ValueError, match=message):
        load_bids(bids, **chosen)


def test_a_bad_channel_is_bad_in_all_runs(bids):
    entities = "sub-01_ses-2_task-faces_run-10"
    write_recording(bids, entities, [0, 0, 1], bad=["Cz"], seed=7, more=MORE)
    marked = load_bids(bids, subject=1, tmax=0.4, **PLAIN).epochs
    assert marked.info["bads"] == ["Cz"]
    dropped = load_bids(bids, subject=1, tmax=0.4, bads="drop", **PLAIN).epochs
    assert dropped.ch_names == ["Fz", "Pz", "Oz", "VEOG"]
    assert len(dropped) == 12
    mended = load_bids(bids, subject=1, tmax=0.4, bads="interpolate", **PLAIN).epochs
    assert mended.info["bads"] == []
    assert np.array_equal(mended.get_data()[:9], marked.get_data()[:9])
    assert not np.allclose(mended.get_data(picks="Cz")[9:], marked.get_data(picks="Cz")[9:])


def test_other_order_of_channels(bids):
    order = ["Oz", "VEOG", "Fz", "Cz", "Pz"]
    write_recording(bids, "sub-01_ses-1_task-faces_run-02", [1, 1, 1], names=order, seed=7, more=MORE)
    dataset = load_bids(bids, subject=1, session=1, tmax=0.4, **PLAIN)
    assert dataset.epochs.ch_names == NAMES
    mean = dataset.epochs.get_data(picks="Oz").mean(axis=(1, 2)) * 1e6
    assert np.allclose(mean, [10, 20, 30, 20, 20, 20], atol=1)


def test_mixed_sampling_rates(bids):
    write_recording(bids, "sub-01_ses-1_task-faces_run-02", [1, 0, 2], sfreq=200, seed=7, more=MORE)
    with pytest.raises(ValueError, match=r"run-02_eeg\.vhdr does not go with .*run-01.*rates 100 and 200 Hz"):
        load_bids(bids, subject=1, tmax=0.4, **PLAIN)
    same = load_bids(bids, subject=1, tmax=0.4, **(PLAIN | {"resample": 100.0}))
    assert same.epochs.info["sfreq"] == 100


def test_other_channels(bids):
    write_recording(
        bids, "sub-01_ses-1_task-faces_run-02", [1, 0, 2], names=["Fz", "Oz", "P3"], seed=7, more=MORE
    )
    with pytest.raises(ValueError, match="it lacks channels Cz, Pz, VEOG; it alone has channels P3"):
        load_bids(bids, subject=1, tmax=0.4, **PLAIN)


def test_events_of_another_run_are_not_taken(bids):
    folder = bids / "sub-01" / "ses-1" / "eeg"
    (folder / "sub-01_ses-1_task-faces_run-02_events.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"run-02_eeg\.vhdr has no events\.tsv, so what was shown"):
        load_bids(bids, subject=1, tmax=0.4, **PLAIN)


def test_events_of_a_run_are_not_those_of_a_recording_without_runs(bids):
    (bids / "sub-02" / "eeg" / "sub-02_task-faces_events.tsv").unlink()
    write_recording(bids, "sub-02_task-faces_run-1", [0, 1, 2], seed=7)
    with pytest.raises(FileNotFoundError, match=r"sub-02_task-faces_eeg\.vhdr has no events\.tsv"):
        load_bids(bids, subject=2, tmax=0.4, **PLAIN)


def test_inherited_and_missing_channels(bids, caplog):
    folder = bids / "sub-02" / "eeg"
    (folder / "sub-02_task-faces_channels.tsv").rename(bids / "task-faces_channels.tsv")
    assert "eog" in load_bids(bids, subject=2, tmax=0.4, **PLAIN).epochs.get_channel_types()
    (bids / "task-faces_channels.tsv").unlink()
    with caplog.at_level(logging.WARNING):
        load_bids(bids, subject=2, tmax=0.4, **PLAIN)
    assert "sub-02_task-faces_eeg.vhdr has no channels.tsv" in caplog.text


def test_channels_that_the_recording_lacks(bids):
    table = bids / "sub-02" / "eeg" / "sub-02_task-faces_channels.tsv"
    table.write_text(table.read_text().replace("Pz", "PZ"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"sub-02_task-faces_eeg.vhdr: channels.tsv names PZ, which the rec"):
        load_bids(bids, subject=2, tmax=0.4, **PLAIN)
    table.write_text("name\ttype\nFz\tEEG\nFz\tEEG\n")
    with pytest.raises(
        ValueError, match=r"channels\.tsv must have a column 'name' that has each channel once"
    ):
        load_bids(bids, subject=2, tmax=0.4, **PLAIN)


def test_a_recording_that_is_there_twice(bids):
    folder = bids / "sub-02" / "eeg"
    write_recording(bids, "sub-02_task-faces_acq-clean", [2, 0, 1], seed=9)
    with pytest.raises(ValueError, match=r"acq-clean_eeg.vhdr.*same session, task and run"):
        load_bids(bids, subject=2, tmax=0.4, **PLAIN)
    for file in list(folder.glob("*acq-clean*")):
        file.unlink()
    for k in (1, 2):
        write_recording(bids, f"sub-03_task-faces_run-{k}", [2, 0, 1], seed=9)
    with pytest.raises(
        ValueError, match=r"Trial 0 of sub-03_task-faces_run-2_eeg.vhdr is trial 0 of .*run-1"
    ):
        load_bids(bids, subject=3, tmax=0.4, **PLAIN)


def test_missing_pictures_files_and_folders(bids, tmp_path):
    (bids / "stimuli" / "houses" / "c.png").unlink()
    with pytest.raises(ValueError, match=r"'houses/c\.png' has no picture"):
        load_bids(bids, subject=2, tmax=0.4, **PLAIN)
    with pytest.raises(FileNotFoundError, match="is no BIDS folder: there is no folder sub-"):
        load_bids(bids / "stimuli", subject=2)
    (bids / "sub-04" / "eeg").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"sub-04 has no eeg/\*_eeg with \.bdf, \.edf"):
        load_bids(bids, subject=4)


def test_an_error_says_in_which_recording(bids):
    file = bids / "sub-01" / "ses-2" / "eeg" / "sub-01_ses-2_task-faces_run-01_events.tsv"
    file.write_text("onset\tduration\tstim_file\n1000\t0\tfaces/a.png\n")
    with pytest.raises(ValueError, match=r"run-01_eeg\.vhdr: 1 of 1 events lie outside.*1000"):
        load_bids(bids, subject=1, tmax=0.4, **PLAIN)


def test_labels_where_no_picture_is_named(bids):
    file = bids / "sub-02" / "eeg" / "sub-02_task-faces_events.tsv"
    file.write_text("onset\tduration\ttrial_type\n0.5\t0\thouses\n1.7\t0\tfaces\n")
    with pytest.raises(ValueError, match="use pair_by='label'"):
        load_bids(bids, subject=2, tmax=0.4, **PLAIN)
    dataset = load_bids(bids, subject=2, tmax=0.4, pair_by="label", **PLAIN)
    assert dataset.candidates("faces") == ["faces/a.png", "faces/b.png"]
