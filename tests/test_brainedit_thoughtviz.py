"""ThoughtViz' data.pkl: windows and classes as published, no person or picture that the file does not tell."""

import pickle
import struct
from typing import ClassVar

import numpy as np
import pytest
from mne.io.constants import FIFF

from brainedit.datasets.thoughtviz import CLASSES, load_thoughtviz
from brainedit.splits import unit_names

N_TRAIN, N_TEST = 30, 20


def _arrays():
    """Window k holds 1000 k + 50 channel + sample; its class is k modulo 10, after a shuffle."""
    out = {}
    for part, n, start in (("train", N_TRAIN, 0), ("test", N_TEST, 100)):
        code = 1000 * (start + np.arange(n))
        x = code[:, None, None] + 50 * np.arange(14)[:, None] + np.arange(32)
        out[f"x_{part}"] = x[..., None].astype(float)
        out[f"y_{part}"] = np.eye(10)[(np.arange(n) * 3) % 10]
    return out


class _Python2Pickler(pickle._Pickler):
    """Protocol 2 as Python 2 and its numpy wrote it: bytes as text, and numpy's old module."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _text(self, obj):
        raw = obj if isinstance(obj, bytes) else obj.encode("latin1")
        short = len(raw) < 256
        self.write(b"U" + bytes([len(raw)]) + raw if short else b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(obj)

    def save_global(self, obj, name=None):
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{name or obj.__name__}\n".encode())
        self.memoize(obj)

    dispatch[str] = dispatch[bytes] = _text
    dispatch[type] = dispatch[type(lambda: 0)] = save_global


def _write(root, arrays, *, kind="image", how="python2"):
    folder = root / "data" / "eeg" / kind
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "data.pkl", "wb") as file:
        if how == "python2":
            _Python2Pickler(file, 2).dump(arrays)
        elif how == "bytes":  # read with encoding="bytes" and written again
            pickle.dump({key.encode(): value for key, value in arrays.items()}, file, protocol=2)
        else:
            pickle.dump(arrays, file)
    return root


def _pictures(names=CLASSES["image"]):
    return {name: [np.full((2, 2, 3), i, np.uint8)] * 2 for i, name in enumerate(names)}


@pytest.fixture
def root(tmp_path):
    return _write(tmp_path, _arrays())


@pytest.mark.parametrize("how", ["python2", "bytes", "python3"])
def test_windows_and_classes_come_as_published(tmp_path, how):
    data = load_thoughtviz(_write(tmp_path, _arrays(), how=how), images=_pictures())
    eeg = data.epochs.get_data(copy=False)
    assert eeg.shape == (N_TRAIN, 14, 32)
    assert np.array_equal(eeg, _arrays()["x_train"][..., 0])
    assert data.metadata["label"].tolist() == [CLASSES["image"][k * 3 % 10] for k in range(N_TRAIN)]


def test_a_pickle_of_python_2_is_what_the_test_writes(root):
    raw = (root / "data" / "eeg" / "image" / "data.pkl").read_bytes()
    assert raw.startswith(b"\x80\x02}")
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in raw
    assert b"U\x07x_train" in raw


def test_the_parts(root):
    test = load_thoughtviz(root, split="test", images=_pictures())
    assert np.array_equal(test.epochs.get_data(copy=False), _arrays()["x_test"][..., 0])
    both = load_thoughtviz(root, split="all", images=_pictures())
    assert both.epochs.get_data(copy=False)[:, 0, 0].tolist() == [
        *(1000.0 * np.arange(N_TRAIN)),
        *(1000.0 * (100 + np.arange(N_TEST))),
    ]
    with pytest.raises(ValueError, match="Unknown split 'val'"):
        load_thoughtviz(root, split="val")


def test_channels_rate_and_what_is_not_known(root):
    epochs = load_thoughtviz(root, images=_pictures()).epochs
    assert " ".join(epochs.ch_names) == "AF3 F7 F3 FC5 T7 P7 O1 O2 P8 T8 FC6 F4 F8 AF4"
    assert epochs.info["sfreq"] == 128
    assert epochs.tmin == 0
    assert {channel["unit"] for channel in epochs.info["chs"]} == {FIFF.FIFF_UNIT_NONE}
    assert "no picture was seen" in epochs.info["description"]
    assert epochs.get_montage() is None


def test_metadata_tell_no_more_than_file_and_publication(root):
    metadata = load_thoughtviz(root, images=_pictures()).metadata
    assert set(metadata) == {"label", "block", "design_source"}
    assert set(metadata["design_source"]) == {"documented"}
    blocks = metadata.groupby("label")["block"].unique()
    assert [len(block) for block in blocks] == [1] * 10
    assert len(np.unique(unit_names(metadata, "block"))) == 10


@pytest.mark.parametrize(("kind", "first"), [("digit", "0"), ("char", "A")])
def test_the_other_kinds(tmp_path, kind, first):
    data = load_thoughtviz(_write(tmp_path, _arrays(), kind=kind), kind=kind, images=_pictures(CLASSES[kind]))
    assert data.metadata["label"].iloc[0] == first
    assert set(data.metadata["label"]) == set(CLASSES[kind])


def test_any_picture_of_the_class_may_stand_for_a_trial(root):
    folder = root / "training" / "images" / "ImageNet-Filtered"
    for name in CLASSES["image"]:
        (folder / name).mkdir(parents=True)
        for i in range(2):
            (folder / name / f"{i}.jpg").write_bytes(b"")
    data = load_thoughtviz(root)
    assert data.pair_by == "label"
    assert data.candidates("Tiger") == ["Tiger/0.jpg", "Tiger/1.jpg"]


def test_missing_files_and_pictures_are_told(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data/eeg/char/data.pkl in .*ptirupat/ThoughtViz"):
        load_thoughtviz(root, kind="char")
    with pytest.raises(FileNotFoundError, match=r"no folder .*ImageNet-Filtered; the pictures"):
        load_thoughtviz(root)
    with pytest.raises(FileNotFoundError, match=r"no pictures of kind 'digit'; give `images`"):
        load_thoughtviz(_write(tmp_path, _arrays(), kind="digit"), kind="digit")
    pictures = {name: files for name, files in _pictures().items() if name != "Rose"}
    with pytest.raises(ValueError, match="'Rose' has no folder of pictures in the dict"):
        load_thoughtviz(root, images=pictures)
    assert load_thoughtviz(root / "data", images=_pictures()).epochs.info["sfreq"] == 128


def _with(key, change):
    arrays = _arrays()
    arrays[key] = change(arrays[key])
    return arrays


def _set(array, place, value):
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (_with("x_train", lambda x: x[:-1]), r"y_train needs to be \(29, 10\).*it is \(30, 10\)"),
        (
            _with("x_train", lambda x: x[..., 0]),
            r"x_train needs to be \(n, 14, 32, 1\); it is \(30, 14, 32\)",
        ),
        (_with("x_train", lambda x: x.swapaxes(1, 2)), r"it is \(30, 32, 14, 1\)"),
        (_with("x_train", lambda x: x[:0]), r"it is \(0, 14, 32, 1\)"),
        (_with("x_train", lambda x: _set(x, (3, 2, 1), np.nan)), "x_train has values that are NaN"),
        (_with("y_train", lambda y: y[:, :9]), r"it is \(30, 9\)"),
        (_with("y_train", lambda y: y.argmax(1)), r"it is \(30,\)"),
        (_with("y_train", lambda y: _set(y, (4, 0), 1.0)), r"row 4 of y_train needs a single 1; it is \[1.0"),
        (_with("y_train", lambda y: _set(y, 7, 0.0)), "row 7 of y_train needs a single 1"),
        (
            _with("y_train", lambda y: _set(y, (0, 0), 10.0)),
            r"row 0 of y_train needs a single 1; it is \[10.0",
        ),
        (_with("y_train", lambda y: _set(y, y.argmax(1) == 6, np.eye(10)[5])), "no window of class 6"),
        ({"x_test": _arrays()["x_test"]}, "needs the arrays x_train and y_train; it has x_test"),
        ([_arrays()["x_train"]], "dict with x_train and y_train; it holds list"),
    ],
)
def test_files_that_do_not_fit_are_told(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        load_thoughtviz(_write(tmp_path, arrays), images=_pictures())


def test_truncated_files_and_code_are_told(root):
    class Hostile:
        def __reduce__(self):
            return (open, (str(root / "ran"), "w"))

    path = root / "data" / "eeg" / "image" / "data.pkl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"data.pkl: is .*damaged"):
        load_thoughtviz(root)
    path.write_bytes(pickle.dumps(_arrays() | {"x_train": Hostile()}))
    with pytest.raises(ValueError, match="needs the arrays x_train and y_train"):
        load_thoughtviz(root)
    assert not (root / "ran").exists()
