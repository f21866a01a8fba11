"""Trials and pictures are joined by name; what has no picture, or one outside the folder, is told."""

import numpy as np
import pytest
from PIL import Image

from brainedit.datasets.paired import PairedDataset


def trials_of(array_epochs, column, values, **more):
    """One trial for each value; its EEG is its number, so that it can be followed."""
    data = np.arange(len(values))[:, None, None] * 1e-6 * np.ones((1, 2, 5))
    return array_epochs(data, {column: values} | more)


@pytest.fixture
def folder(tmp_path):
    """Pictures whose colour is their number, written in an order that is not the names'."""
    root = tmp_path / "images"
    for number, name in [(3, "houses/b.jpg"), (1, "faces/b.png"), (2, "houses/a.png"), (0, "faces/a.png")]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(root / name, quality=100)
    (root / "faces" / "notes.txt").write_text("no picture")
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    return root


def test_trials_find_their_picture_by_name(array_epochs, folder):
    names = ["houses/a.png", "faces/b.png", "faces/a.png", "houses/a.png"]
    dataset = PairedDataset(trials_of(array_epochs, "stimulus", names), folder)
    assert dataset.keys.tolist() == names
    assert list(dataset.pictures) == names[:3]  # houses/b.jpg is nobody's
    assert [dataset.pictures[k] for k in dataset.keys] == [folder / n for n in names]
    assert dataset.candidates("faces/b.png") == ["faces/b.png"]
    eeg, picture = dataset[1]
    assert eeg == pytest.approx(1e-6)
    assert (eeg.shape, eeg.dtype) == ((2, 5), np.float32)
    assert np.asarray(Image.open(picture))[0, 0, 0] == 1


def test_the_order_of_a_dict_does_not_matter(array_epochs):
    pictures = {name: np.full((4, 4, 3), i, np.uint8) for i, name in enumerate("abc")}
    epochs = trials_of(array_epochs, "stimulus", ["c", "a", "b", "c"])
    datasets = [PairedDataset(epochs, images) for images in (pictures, dict(reversed(pictures.items())))]
    for dataset in datasets:
        assert [dataset[i][1][0, 0, 0] for i in range(4)] == [2, 0, 1, 2]
        assert list(dataset.pictures) == ["c", "a", "b"]
    assert len(list(zip(range(9), datasets[0], strict=False))) == 4  # iteration ends


def test_dropped_trials_take_their_names_along(array_epochs, pictures):
    names = list(pictures)
    epochs = trials_of(array_epochs, "stimulus", names)
    epochs.drop([0, 3], verbose="error")
    dataset = PairedDataset(epochs, pictures)
    for i, number in enumerate([1, 2, 4, 5]):
        eeg, picture = dataset[i]
        assert eeg == pytest.approx(number * 1e-6)
        assert picture is pictures[names[number]]


def test_pairing_by_label(array_epochs, folder):
    epochs = trials_of(array_epochs, "label", ["houses", "faces", "houses"])
    dataset = PairedDataset(epochs, folder, pair_by="label")
    assert dataset.candidates("faces") == ["faces/a.png", "faces/b.png"]
    assert dataset.candidates("houses") == ["houses/a.png", "houses/b.jpg"]
    assert dataset.pictures["houses/b.jpg"] == folder / "houses" / "b.jpg"
    given = PairedDataset(
        epochs, {"faces": [np.zeros((4, 4))], "houses": ["x.png", "y.png"]}, pair_by="label"
    )
    assert given.candidates("houses") == ["houses/0", "houses/1"]
    assert given.pictures["houses/1"] == "y.png"
    assert dataset.subset([1]).pictures.keys() == {"faces/a.png", "faces/b.png"}


def test_files_of_one_name_in_two_folders_are_two_pictures(array_epochs, tmp_path):
    files = [tmp_path / "left" / "a.png", tmp_path / "right" / "a.png", tmp_path / "b.png"]
    dataset = PairedDataset(trials_of(array_epochs, "label", ["faces"]), {"faces": files}, pair_by="label")
    assert dataset.candidates("faces") == ["faces/0_a.png", "faces/1_a.png", "faces/b.png"]
    assert list(dataset.pictures.values()) == files
    tricky = [*files[:2], tmp_path / "0_a.png", np.zeros((4, 4))]  # a file that is called like a number's
    dataset = PairedDataset(trials_of(array_epochs, "label", ["faces"]), {"faces": tricky}, pair_by="label")
    assert len(dataset.pictures) == 4
    assert [dataset.pictures[name] for name in dataset.candidates("faces")[:3]] == tricky[:3]


@pytest.mark.parametrize("path", ["link.png", "sets/link.png", "./sets/../link.png", "sets/..link.png"])
def test_links_are_followed_as_datalad_lays_them(array_epochs, folder, path):
    for name in ("link.png", "sets/link.png", "sets/..link.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(folder.parent / "outside.png")
    dataset = PairedDataset(trials_of(array_epochs, "stimulus", [path]), folder)
    assert dataset.pictures[path].samefile(folder.parent / "outside.png")


@pytest.mark.parametrize("one", ["a.png", np.zeros((4, 4, 3))])
def test_one_picture_for_a_label_is_no_list(array_epochs, one):
    with pytest.raises(ValueError, match="label 'faces' has one picture; by label give a list"):
        PairedDataset(trials_of(array_epochs, "label", ["faces"]), {"faces": one}, pair_by="label")


def test_missing_pictures_are_counted(array_epochs, folder):
    epochs = trials_of(array_epochs, "stimulus", ["faces/a.png", "faces/x.png", "y.png", "faces/x.png"])
    with pytest.raises(
        ValueError, match=r"'faces/x\.png' and 1 more have no picture in .*images; 3 are needed"
    ):
        PairedDataset(epochs, folder)
    with pytest.raises(ValueError, match=r"'faces/a\.png' and 1 more have no picture in the dict"):
        PairedDataset(epochs, {"faces/x.png": "z"})
    with pytest.raises(ValueError, match="'cars' has no folder of pictures"):
        PairedDataset(trials_of(array_epochs, "label", ["cars", "faces"]), folder, pair_by="label")
    with pytest.raises(FileNotFoundError, match=r"no folder of pictures .*nowhere"):
        PairedDataset(epochs, folder / "nowhere")


@pytest.mark.parametrize("path", ["../outside.png", "faces/../../outside.png", "ABSOLUTE"])
def test_a_name_that_leads_out_of_the_folder_is_refused(array_epochs, folder, path):
    outside = folder.parent / "outside.png"
    name = path.replace("ABSOLUTE", str(outside))
    with pytest.raises(ValueError, match=r"outside\.png' has no picture"):
        PairedDataset(trials_of(array_epochs, "stimulus", [name]), folder)
    with pytest.raises(ValueError, match="has no folder of pictures"):
        PairedDataset(trials_of(array_epochs, "label", [".."]), folder, pair_by="label")


def test_epochs_that_name_nothing_are_told(array_epochs):
    plain = array_epochs(np.ones((2, 2, 5)))
    with pytest.raises(ValueError, match="need a column 'stimulus' or 'label'; they have no metadata"):
        PairedDataset(plain, {})
    with pytest.raises(ValueError, match="they have only run"):
        PairedDataset(trials_of(array_epochs, "run", [1, 2]), {})
    with pytest.raises(ValueError, match="no 'stimulus' but 'label'; use pair_by='label'"):
        PairedDataset(trials_of(array_epochs, "label", ["a", "b"]), {})
    with pytest.raises(ValueError, match="1 of 3 epochs have no 'stimulus'; drop them"):
        PairedDataset(trials_of(array_epochs, "stimulus", ["a", None, "b"]), {"a": 1, "b": 2})
    with pytest.raises(ValueError, match=r"Unknown pair_by 'stimuli'\. Did you mean 'stimulus'"):
        PairedDataset(trials_of(array_epochs, "stimulus", ["a"]), {"a": 1}, pair_by="stimuli")
    with pytest.raises(ValueError, match="There are no epochs"):
        PairedDataset(trials_of(array_epochs, "stimulus", ["a"])[[]], {"a": 1})


def test_a_subset_by_index_mask_or_repeat(array_epochs, pictures):
    names = [list(pictures)[i] for i in (0, 1, 2, 0)]
    dataset = PairedDataset(trials_of(array_epochs, "stimulus", names), pictures)
    assert dataset.subset([3, 1]).keys.tolist() == [names[0], names[1]]
    assert dataset.subset([3, 1])[0][0] == pytest.approx(3e-6)
    assert list(dataset.subset(np.array([True, False, False, True])).pictures) == [names[0]]
    assert len(dataset) == 4
    for empty in ([], np.zeros(4, bool)):
        with pytest.raises(ValueError, match="selection of trials is empty"):
            dataset.subset(empty)


def test_averages_are_of_one_picture_each(array_epochs, pictures):
    own = np.random.default_rng(0).permutation(np.repeat(np.arange(3), 5))
    names = [list(pictures)[i] for i in own]
    dataset = PairedDataset(trials_of(array_epochs, "stimulus", names, run=1, trial=range(15)), pictures)
    data = dataset.epochs.get_data()
    whole = dataset.by_stimulus()
    assert len(whole) == 3
    for i, key in enumerate(whole.keys):
        assert whole[i][0] == pytest.approx(data[dataset.keys == key].mean(0))
        assert whole[i][1] is pictures[key]
    pairs = dataset.by_stimulus(2)
    assert (len(pairs), set(pairs.metadata["n_averaged"])) == (6, {2})
    assert list(pairs.metadata) == ["stimulus", "run", "n_averaged"]  # trials differ within an average
    numbers = [data[:, 0, 0][dataset.keys == k] for k in pairs.keys]
    for i, n in enumerate(numbers):
        sums = {round(1e6 * (a + b) / 2, 3) for j, a in enumerate(n) for b in n[j + 1 :]}
        assert round(1e6 * float(pairs[i][0][0, 0]), 3) in sums
    single = dataset.by_stimulus(1)
    assert len(single) == 15
    assert sorted(single.metadata["trial"]) == list(range(15))


def test_an_average_of_k_has_a_kth_of_the_noise(array_epochs, pictures):
    data = 1e-5 * np.random.default_rng(0).normal(size=(240, 2, 5))
    names = [list(pictures)[i % 3] for i in range(240)]
    dataset = PairedDataset(array_epochs(data, {"stimulus": names}), pictures)
    assert dataset.by_stimulus(8).epochs.get_data().std() == pytest.approx(1e-5 / np.sqrt(8), rel=0.1)
    same, other = dataset.by_stimulus(8, seed=0), dataset.by_stimulus(8, seed=1)
    assert np.array_equal(same.epochs.get_data(), dataset.by_stimulus(8).epochs.get_data())
    assert not np.array_equal(same.epochs.get_data(), other.epochs.get_data())


def test_averages_keep_what_the_recording_is(array_epochs, pictures):
    epochs = array_epochs(
        1e-5 * np.random.default_rng(0).normal(size=(4, 3, 20)),
        {"stimulus": list(pictures)[:2] * 2},
        tmin=-0.1,
    )
    epochs.set_eeg_reference("average", verbose="error")
    mean = PairedDataset(epochs, pictures).by_stimulus(2).epochs
    assert mean.times == pytest.approx(epochs.times)
    for key in ("highpass", "lowpass", "custom_ref_applied", "sfreq", "ch_names"):
        assert mean.info[key] == epochs.info[key]


def test_more_repeats_than_there_are_is_told(array_epochs, pictures):
    names = [list(pictures)[i] for i in (0, 0, 0, 1)]
    dataset = PairedDataset(trials_of(array_epochs, "stimulus", names), pictures)
    assert dataset.by_stimulus(3).keys.tolist() == [names[0]]
    with pytest.raises(ValueError, match="No stimulus has 4 repeats; the most is 3"):
        dataset.by_stimulus(4)
