"""EEG-CVPR40: trials, pictures and splits are joined by the file's own numbers; the design is told, not made up."""

import pickle

import numpy as np
import pytest
import torch
from mne.io.constants import FIFF

from brainedit.datasets.arrays import ArrayEpochs
from brainedit.datasets.cvpr40 import load_cvpr40
from brainedit.splits import unit_names

LABELS = ["n02389026", "n03888257", "n03584829"]
N_PICTURES = 10  # of each class
PEOPLE = (1, 2)
LENGTHS = (500, 491, 512, 600, 460)
_RNG = np.random.default_rng(0)
NAMES = [f"{LABELS[i % 3]}_{100 + i}" for i in _RNG.permutation(3 * N_PICTURES)]
ORDER = _RNG.permutation(len(PEOPLE) * len(NAMES))  # trials lie in no order, as in the published files


def _eeg(code, length):
    """Sample t of channel c of the trial with this code: what no other has."""
    return (code + torch.arange(128)[:, None] / 128 + torch.arange(length) / 2**17).float()


def _contents():
    items = []
    for place, k in enumerate(ORDER.tolist()):
        person, image = PEOPLE[k // len(NAMES)], k % len(NAMES)
        label = LABELS.index(NAMES[image].split("_")[0])
        eeg = _eeg(k, LENGTHS[place % 5])
        items.append({"eeg": eeg, "image": image, "label": label, "subject": person})
    return {"dataset": items, "labels": list(LABELS), "images": list(NAMES)}


def _by_picture(n_test=2):
    """Splits of the published kind: all trials of a picture are in one part."""
    parts = {"train": [], "val": [], "test": []}
    for place, k in enumerate(ORDER.tolist()):
        image = k % len(NAMES)
        rank = [i for i, name in enumerate(NAMES) if name.split("_")[0] == NAMES[image].split("_")[0]].index(
            image
        )
        name = "test" if rank < n_test else "val" if rank == n_test else "train"
        parts[name].append(place)
    return {"splits": [parts, {"train": parts["val"], "val": parts["test"], "test": parts["train"]}]}


def _write(
    root, contents=None, splits=None, *, name="block_splits_by_image_all.pth", zipped=True, band="5_95"
):
    data = _contents() if contents is None else contents
    torch.save(data, root / f"eeg_{band}_std.pth", _use_new_zipfile_serialization=zipped)
    splits = _by_picture() if splits is None else splits
    torch.save(splits, root / name, _use_new_zipfile_serialization=zipped)
    for picture in NAMES:
        (root / "images" / picture.split("_")[0]).mkdir(parents=True, exist_ok=True)
        (root / "images" / picture.split("_")[0] / f"{picture}.JPEG").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("cvpr40"))


def _codes(data):
    """Which trials of the simulated recording came."""
    return np.floor(data.epochs.get_data()[:, 0, 0]).astype(int)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_trial_keeps_its_samples_picture_class_and_person(tmp_path, root, zipped):
    root = root if zipped else _write(tmp_path, zipped=False)
    data = load_cvpr40(root, subject=None, split="all")
    assert isinstance(data.epochs, ArrayEpochs)
    assert data.epochs.get_data().shape == (60, 128, 440)
    codes = _codes(data)
    assert codes.tolist() == ORDER.tolist()
    for k in (0, 7, 59):
        assert np.array_equal(data.epochs.get_data()[k], _eeg(int(codes[k]), 500)[:, 20:460].numpy())
    names = [NAMES[code % len(NAMES)] for code in codes]
    assert data.metadata["stimulus"].tolist() == [f"{name.split('_')[0]}/{name}.JPEG" for name in names]
    assert data.metadata["label"].tolist() == [name.split("_")[0] for name in names]
    assert data.metadata["subject"].tolist() == [str(PEOPLE[code // len(NAMES)]) for code in codes]
    assert data.pictures[data.keys[3]] == root / "images" / data.keys[3]


def test_one_person(root):
    data = load_cvpr40(root, subject=2, split="all")
    assert sorted(_codes(data)) == list(range(30, 60))
    assert set(data.metadata["subject"]) == {"2"}
    with pytest.raises(ValueError, match="no subject 7; it has 1, 2"):
        load_cvpr40(root, subject=7)
    with pytest.raises(ValueError, match="no subject '1'"):
        load_cvpr40(root, subject="1")


def test_published_indices_count_the_whole_file_also_for_one_person(root):
    """The publishers' code filters the person first, so that the indices of all people name other trials."""
    for split in ("train", "val", "test"):
        wanted = {int(ORDER[i]) for i in _by_picture()["splits"][0][split]}
        both = set(_codes(load_cvpr40(root, subject=None, split=split)))
        assert both == wanted
        assert set(_codes(load_cvpr40(root, subject=2, split=split))) == {k for k in wanted if k >= 30}


def test_indices_of_a_single_person_count_that_persons_trials(tmp_path):
    splits = {"splits": [{"train": list(range(24)), "val": [24, 25, 26], "test": [29, 28, 27]}]}
    name = "block_splits_by_image_single.pth"
    _write(tmp_path, splits=splits, name=name)
    data = load_cvpr40(tmp_path, subject=2, split="train", splits=name)
    assert _codes(data).tolist() == [k for k in ORDER.tolist() if k >= 30][:24]
    with pytest.raises(ValueError, match=r"single.pth counts the trials of one person; give a subject"):
        load_cvpr40(tmp_path, subject=None, splits=name)
    splits["splits"][0]["test"].append(30)
    torch.save(splits, tmp_path / name)
    with pytest.raises(ValueError, match="test names trial 30; there are trials 0 to 29"):
        load_cvpr40(tmp_path, subject=2, splits=name)


def test_folds(root):
    assert set(_codes(load_cvpr40(root, subject=1, split="val", fold=1))) == set(
        _codes(load_cvpr40(root, subject=1, split="test"))
    )
    for fold in (2, -1, True, 0.0):
        with pytest.raises(ValueError, match=f"has 2 folds; there is no fold {fold}"):
            load_cvpr40(root, fold=fold)


def test_trials_too_short_or_long_are_left_out(tmp_path, caplog):
    contents = _contents()
    for place, length in enumerate((459, 601, 1527, 460, 600)):
        contents["dataset"][place]["eeg"] = _eeg(int(ORDER[place]), length)
    with caplog.at_level("INFO"):
        data = load_cvpr40(_write(tmp_path, contents), subject=None, split="all")
    assert _codes(data).tolist() == ORDER[3:].tolist()
    assert "3 trials are shorter than 460 or longer than 600" in caplog.text


def test_the_design_is_what_the_publication_tells(root):
    metadata = load_cvpr40(root, subject=None, split="all").metadata
    assert set(metadata) == {"stimulus", "label", "subject", "block", "design_source"}
    assert set(metadata["design_source"]) == {"documented"}
    assert metadata.groupby(["subject", "label"])["block"].nunique().tolist() == [1] * 6
    assert len(np.unique(unit_names(metadata, "block"))) == 6


@pytest.mark.parametrize(("band", "limits"), [("5_95", (5, 95)), ("14_70", (14, 70)), ("55_95", (55, 95))])
def test_channels_times_band_and_what_is_not_known(tmp_path, band, limits):
    epochs = load_cvpr40(_write(tmp_path, band=band), split="all", band=band).epochs
    assert epochs.ch_names[:2] == ["EEG001", "EEG002"]
    assert len(epochs.ch_names) == 128
    assert epochs.info.get_montage() is None
    assert (epochs.info["sfreq"], epochs.tmin, epochs.times[-1]) == (1000, 0.02, 0.459)
    assert (epochs.info["highpass"], epochs.info["lowpass"]) == limits
    assert {channel["unit"] for channel in epochs.info["chs"]} == {FIFF.FIFF_UNIT_NONE}
    assert "z-scored" in epochs.info["description"]
    with pytest.raises(ValueError, match="Unknown band '5-95'"):
        load_cvpr40(tmp_path, band="5-95")


def test_by_label_only_pictures_that_were_shown_stand_for_a_class(root, tmp_path):
    data = load_cvpr40(root, split="test", pair_by="label")
    assert {key: len(data.candidates(key)) for key in LABELS} == dict.fromkeys(LABELS, 2)
    shown = set(load_cvpr40(root, split="test").keys)
    assert {str(path.relative_to(root / "images")) for path in data.pictures.values()} == shown


def test_pictures_elsewhere_or_in_memory_or_below_root(root, tmp_path):
    (root / "images").rename(tmp_path / "ImageNet")
    try:
        data = load_cvpr40(root, images=tmp_path / "ImageNet")
        assert data.pictures[data.keys[0]].parent.parent == tmp_path / "ImageNet"
        arrays = {
            key: np.zeros((2, 2, 3), np.uint8) for key in load_cvpr40(root, images=tmp_path / "ImageNet").keys
        }
        assert load_cvpr40(root, images=arrays).pictures[data.keys[0]].shape == (2, 2, 3)
        with pytest.raises(FileNotFoundError, match=r"21 of 21 pictures are not in .*n0.*ImageNet's"):
            load_cvpr40(root)
        for label in LABELS:
            (root / label).symlink_to(tmp_path / "ImageNet" / label)
        assert load_cvpr40(root).pictures[data.keys[0]] == root / data.keys[0]
    finally:
        (tmp_path / "ImageNet").rename(root / "images")


def test_missing_files_are_told(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no eeg_5_95_std.pth in .*perceivelab/eeg_visual_classification"
    ):
        load_cvpr40(tmp_path)
    _write(tmp_path)
    (tmp_path / "block_splits_by_image_all.pth").unlink()
    assert len(load_cvpr40(tmp_path, split="all")) == 30
    with pytest.raises(FileNotFoundError, match=r"no block_splits_by_image_all.pth"):
        load_cvpr40(tmp_path)
    (tmp_path / "images" / f"{NAMES[0].replace('_', '/' + NAMES[0].split('_')[0] + '_', 1)}.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 of 30 pictures are not in .*images, .*{NAMES[0]}.JPEG"):
        load_cvpr40(tmp_path, split="all")


def _changed(change):
    contents = _contents()
    change(contents, contents["dataset"][4])
    return contents


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, item: item.update(label=3), "trial 4 has label 3; it needs to be 0 to 2"),
        (lambda c, item: item.update(label=-1), "trial 4 has label -1"),
        (lambda c, item: item.update(label=(item["label"] + 1) % 3), "trial 4 .* which is of another class"),
        (lambda c, item: item.update(image=30), "trial 4 has image 30; it needs to be 0 to 29"),
        (
            lambda c, item: item.update(subject=1.5),
            "subject of trial 4 needs to be a whole number; it is 1.5",
        ),
        (
            lambda c, item: item.update(eeg=item["eeg"].T),
            r"trial 4 needs to be \(128, samples\); it is \(460, 128\)",
        ),
        (lambda c, item: item.update(eeg=item["eeg"][:127]), r"\(128, samples\); it is \(127, 460\)"),
        (lambda c, item: item.update(eeg=None), "it is NoneType"),
        (lambda c, item: item["eeg"].fill_(np.nan), "eeg of trial 4 is NaN"),
        (lambda c, item: item.pop("image"), "trial 4 lacks one of eeg, image, label, subject"),
        (
            lambda c, item: c["images"].__setitem__(1, NAMES[0]),
            f"images need to be texts, each once; .*{NAMES[0]}",
        ),
        (lambda c, item: c["labels"].__setitem__(1, 7), "labels need to be texts"),
        (
            lambda c, item: c.pop("labels"),
            "needs the lists dataset, labels and images; it has dataset, images",
        ),
        (lambda c, item: c["dataset"].clear(), "needs the lists dataset"),
    ],
)
def test_trials_that_do_not_fit_are_told(tmp_path, change, message):
    _write(tmp_path, _changed(change))
    with pytest.raises(ValueError, match=message):
        load_cvpr40(tmp_path, subject=None, split="all")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": [0, 60], "val": [], "test": []}, "train names trial 60; there are trials 0 to 59"),
        ({"train": [0], "val": [], "test": [-1]}, "test names trial -1"),
        ({"train": [0, 1], "val": [2], "test": [1]}, "trial 1 is twice in fold 0"),
        ({"train": [0, 1, 1], "val": [], "test": []}, "trial 1 is twice"),
        ({"train": [0.0], "val": [], "test": []}, "train needs to be a list of whole numbers; it is list"),
        ({"train": [0], "val": [1]}, "test needs to be a list of whole numbers; it is NoneType"),
    ],
)
def test_splits_that_do_not_fit_are_told(tmp_path, splits, message):
    _write(tmp_path, splits={"splits": [splits]})
    with pytest.raises(ValueError, match=message):
        load_cvpr40(tmp_path, subject=None)


def test_a_file_that_is_no_splits_is_told(tmp_path):
    _write(tmp_path, splits={"splits": []})
    with pytest.raises(ValueError, match="needs a list `splits`; it has a dict of splits"):
        load_cvpr40(tmp_path)
    _write(tmp_path, splits=[1, 2])
    with pytest.raises(ValueError, match="needs a list `splits`; it has list"):
        load_cvpr40(tmp_path)


def test_a_split_that_leaves_a_class_empty_is_told(tmp_path, caplog):
    parts = _by_picture()["splits"][0]
    gone = [i for i in parts["train"] if NAMES[ORDER[i] % 30].startswith(LABELS[1])]
    without = {"train": [i for i in parts["train"] if i not in gone], "val": parts["val"], "test": gone}
    _write(tmp_path, splits={"splits": [without]})
    with pytest.raises(ValueError, match=rf"split 'train' has no trial of 1 classes \({LABELS[1]} is one\)"):
        load_cvpr40(tmp_path)
    assert set(load_cvpr40(tmp_path, split="test").metadata["label"]) == {LABELS[1]}
    assert f"split 'test' has no trial of {LABELS[0]}, {LABELS[2]}" in caplog.text
    _write(tmp_path, splits={"splits": [{"train": list(range(60)), "val": [], "test": []}]})
    with pytest.raises(ValueError, match="split 'val' has no trial of 3 classes"):
        load_cvpr40(tmp_path, split="val")


def test_truncated_files_and_code_are_told(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = _write(tmp_path) / "eeg_5_95_std.pth"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"eeg_5_95_std.pth: is a damaged zip"):
        load_cvpr40(tmp_path)
    path.write_bytes(pickle.dumps(_contents() | {"dataset": Hostile()}))
    with pytest.raises(ValueError, match="needs the lists dataset"):
        load_cvpr40(tmp_path)
    path.write_bytes(whole)
    (tmp_path / "block_splits_by_image_all.pth").write_bytes(pickle.dumps({"splits": Hostile()}))
    with pytest.raises(ValueError, match="needs a list `splits`"):
        load_cvpr40(tmp_path)
    assert not (tmp_path / "ran").exists()
