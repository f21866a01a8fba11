"""Epochs of several files become one by the names of channels and events; what does not go together is told."""

import logging

import mne
import numpy as np
import pytest
from PIL import Image

from brainedit.datasets.folder import join_epochs, load_folder

CHANNELS = ["Fz", "Cz", "Pz", "Oz"]


def make(array_epochs, stimuli, *, offset=0, names=CHANNELS, n_times=5, events=None, more=None, **settings):
    """Trial k's channel c holds offset + 10 k + (place of c in CHANNELS), in µV, whatever the channels' order."""
    places = np.array([CHANNELS.index(c) if c in CHANNELS else 9 for c in names])
    data = offset + 10.0 * np.arange(len(stimuli))[:, None, None] + places[None, :, None] * np.ones(n_times)
    epochs = array_epochs(data * 1e-6, {"stimulus": stimuli} | (more or {}), names=names, **settings)
    if events is not None:
        epochs.events[:, 2] = [code for _, code in events]
        epochs.event_id = dict(events)
    return epochs


@pytest.fixture
def root(tmp_path, array_epochs):
    """Two people's files of the same name; in the second the channels are in another order."""
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / name)
    for k, (person, order) in enumerate([("p1", CHANNELS), ("p2", ["Oz", "Pz", "Fz", "Cz"])]):
        (tmp_path / person).mkdir()
        epochs = make(array_epochs, ["c.png", "a.png"], offset=100 * k, names=order)
        epochs.save(tmp_path / person / "viewing-epo.fif", verbose="error")
    return tmp_path


def test_files_become_one_by_names(root):
    dataset = load_folder(root)
    assert dataset.keys.tolist() == ["c.png", "a.png"] * 2
    assert dataset.epochs.ch_names == CHANNELS
    expected = np.array([0, 10, 100, 110])[:, None] + np.arange(4)
    assert np.allclose(dataset.epochs.get_data()[..., 0] * 1e6, expected)
    assert dataset.metadata["run"].tolist() == ["p1/viewing"] * 2 + ["p2/viewing"] * 2
    assert dataset.metadata.index.tolist() == [0, 1, 2, 3]
    assert dataset.metadata["design_source"].unique().tolist() == ["recorded"]
    assert not {"subject", "session"} & set(dataset.metadata)
    assert dataset.pictures["a.png"] == root / "pictures" / "a.png"


def test_the_files_own_columns_are_kept(root, array_epochs):
    more = {"run": ["3", "4"], "subject": "x", "design_source": "documented"}
    for k, person in enumerate(("p1", "p2")):
        epochs = make(array_epochs, ["b.png", "a.png"], offset=100 * k, more=more | {"subject": person})
        epochs.save(root / person / "viewing-epo.fif", overwrite=True, verbose="error")
    metadata = load_folder(root).metadata
    assert metadata["run"].tolist() == ["3", "4"] * 2
    assert metadata["subject"].tolist() == ["p1", "p1", "p2", "p2"]
    assert set(metadata["design_source"]) == {"documented"}


def test_a_single_file_beside_its_pictures(tmp_path, array_epochs):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    make(array_epochs, ["a.png", "a.png"]).save(tmp_path / "x_epo.fif", verbose="error")
    dataset = load_folder(tmp_path)
    assert dataset.metadata["run"].tolist() == ["x", "x"]
    assert dataset.pictures == {"a.png": tmp_path / "a.png"}


def test_by_label(root, array_epochs):
    for name in ("faces", "houses"):
        (root / "pictures" / name).mkdir()
        Image.new("RGB", (4, 4)).save(root / "pictures" / name / "1.png")
    for k, person in enumerate(("p1", "p2")):
        epochs = make(array_epochs, ["-", "-"], offset=100 * k, more={"label": ["faces", "houses"]})
        epochs.save(root / person / "viewing-epo.fif", overwrite=True, verbose="error")
    assert load_folder(root, pair_by="label").keys.tolist() == ["faces", "houses"] * 2


def test_events_keep_their_names_when_files_number_them_otherwise(array_epochs):
    parts = {
        "one": make(array_epochs, ["a", "b"], events=[("face", 1), ("house", 2)]),
        "two": make(array_epochs, ["a", "b"], offset=100, events=[("house", 1), ("car", 2)]),
    }
    joined = join_epochs(parts)
    names = {code: name for name, code in joined.event_id.items()}
    assert [names[code] for code in joined.events[:, 2]] == ["face", "house", "house", "car"]
    assert parts["two"].event_id == {"house": 1, "car": 2}  # what was given stays as it was


def test_a_bad_channel_is_bad_in_all(array_epochs, caplog):
    parts = {"one": make(array_epochs, ["a"]), "two": make(array_epochs, ["a"], offset=100)}
    parts["two"].info["bads"] = ["Pz"]
    with caplog.at_level(logging.WARNING):
        assert join_epochs(parts).info["bads"] == ["Pz"]
    assert "bad in all: Pz" in caplog.text
    assert parts["one"].info["bads"] == []


def test_other_filters_are_told(array_epochs, caplog):
    parts = {"one": make(array_epochs, ["a"]), "two": make(array_epochs, ["a"], offset=9, highpass=1.0)}
    with caplog.at_level(logging.WARNING):
        join_epochs(parts)
    assert "two was filtered otherwise: highpass 1, not 0.1 Hz" in caplog.text


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"names": ["Fz", "Cz", "O1", "Oz"]},
            "two does not go with one: it lacks channels Pz; it alone has channels O1",
        ),
        ({"sfreq": 100.0}, "sampling rates 50 and 100 Hz"),
        ({"tmin": -0.1}, r"windows 0 to 0\.08 s \(5 samples\) and -0\.1 to -0\.02 s"),
        ({"n_times": 6}, r"windows .* 0 to 0\.1 s \(6 samples\)"),
        ({"more": {"run": ["1"]}}, "The metadata of two have 'run', those of one have not"),
        ({"names": ["Fz", "Cz", "Pz"], "sfreq": 100.0}, "it lacks channels Oz; sampling rates 50 and 100 Hz"),
    ],
)
def test_what_does_not_go_together(array_epochs, other, message):
    parts = {"one": make(array_epochs, ["a"]), "two": make(array_epochs, ["a"], **({"offset": 100} | other))}
    with pytest.raises(ValueError, match=message):
        join_epochs(parts)


def test_reference_baseline_types_and_kinds_of_columns(array_epochs):
    def parts(change=lambda epochs: None, one="1", two="2"):
        made = [make(array_epochs, ["a"], offset=k, more={"run": [r]}) for k, r in ((0, one), (100, two))]
        change(made[1])
        return dict(zip(("one", "two"), made, strict=True))

    assert len(join_epochs(parts())) == 2
    with pytest.raises(ValueError, match="only one of them was referenced anew"):
        join_epochs(parts(lambda e: e.set_eeg_reference("average", verbose="error")))
    with pytest.raises(ValueError, match=r"baselines None and \(0\.0, 0\.04\)"):
        join_epochs(parts(lambda e: e.apply_baseline((0, 0.04), verbose="error")))
    with pytest.raises(ValueError, match="channels of other types: Cz"):
        join_epochs(parts(lambda e: e.set_channel_types({"Cz": "eog"}, verbose="error")))
    with pytest.raises(ValueError, match="'run' is a number in two and text in one"):
        join_epochs(parts(two=2))


def test_a_trial_that_is_there_twice(root, array_epochs):
    epochs = mne.read_epochs(root / "p2" / "viewing-epo.fif", verbose="error")
    epochs[[1]].save(root / "selection-epo.fif", verbose="error")
    with pytest.raises(ValueError, match="Trial 0 of selection is trial 1 of p2/viewing"):
        load_folder(root)
    (root / "selection-epo.fif").unlink()
    epochs.save(root / "p2" / "viewing_epo.fif", verbose="error")
    with pytest.raises(ValueError, match="two files of epochs called 'p2/viewing'"):
        load_folder(root)


def test_missing_things(root, tmp_path, array_epochs):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere"):
        load_folder(root / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"pictures has no file that ends in -epo\.fif"):
        load_folder(root / "pictures")
    (root / "images").mkdir()
    with pytest.raises(ValueError, match="has pictures, images; say which one with images="):
        load_folder(root)
    assert len(load_folder(root, images=root / "pictures")) == 4
    (root / "images").rmdir()
    (root / "pictures" / "c.png").unlink()
    with pytest.raises(ValueError, match=r"'c\.png' has no picture"):
        load_folder(root)


def test_a_file_that_cannot_be_used(root, array_epochs):
    bare = array_epochs(np.ones((1, 4, 5)) * 1e-6, {"word": ["a"]}, names=CHANNELS)
    bare.save(root / "bare-epo.fif", verbose="error")
    with pytest.raises(ValueError, match=r"bare-epo\.fif has no metadata with 'stimulus' or 'label'"):
        load_folder(root)
    (root / "bare-epo.fif").write_bytes((root / "p1" / "viewing-epo.fif").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"bare-epo\.fif cannot be read as FIF"):
        load_folder(root)
