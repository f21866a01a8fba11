"""Data sets by name: settings that a loader lacks are refused, downloads are checked, help says where files are."""

import functools
import hashlib
import http.server
import inspect
import threading
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from brainedit.datasets import load
from brainedit.datasets.download import fetch
from brainedit.datasets.load import DATASETS, DatasetEntry, load_dataset
from brainedit.simulate.kaneshiro import simulate_kaneshiro

# what the entries of the tests' own data sets load; they give back what they were given


def load_plain(root, *, factor: float = 1.0):
    return sorted(path.name for path in root.iterdir()), factor


def load_people(root, *, subject: int | str | None, split: str = "all"):
    return subject, split


def load_open(root, **more):
    return more


def load_missing(root):
    raise FileNotFoundError("There is no trials.npy.")


@pytest.fixture
def names(monkeypatch):
    """Data sets "plain", "people", "open" and "missing", made of the functions above."""
    for name in ("plain", "people", "open", "missing"):
        entry = DatasetEntry(f"{__name__}:load_{name}", f"{name} is on osf.io/none.", "root must hold x.npy.")
        monkeypatch.setitem(load.DATASETS, name, entry)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder that a server on this machine hands out, and its link."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def sha256(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_entry_names_a_loader_and_says_where_and_how(name):
    entry = DATASETS[name]
    module, function = entry.loader.split(":")
    parameters = list(inspect.signature(getattr(import_module(module), function)).parameters.values())
    assert parameters[0].name == "root"
    assert {p.kind for p in parameters[1:]} <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
    assert entry.layout.startswith("root must hold ")
    for link, known_hash in entry.files.values():
        assert link.startswith(("https://", "doi:"))
        assert known_hash.split(":")[0] in ("md5", "sha256")


def test_the_published_sets_are_there():
    assert set(DATASETS) == {
        "bids", "cvpr40", "facecat", "folder", "kaneshiro2015", "self_calibrating", "things_eeg2", "thoughtviz",
    }  # fmt: skip


def test_a_set_by_name(tmp_path):
    simulate_kaneshiro(tmp_path, subject=4, n_repeats=1)
    dataset = load_dataset(name="kaneshiro2015", root=tmp_path, subject=4)
    assert set(dataset.metadata["subject"]) == {"S4"}
    assert len(dataset) == 72


def test_a_plain_folder_by_name(tmp_path, array_epochs):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    epochs = array_epochs(np.random.default_rng(0).normal(size=(2, 4, 5)), {"stimulus": ["a.png"] * 2})
    epochs.save(tmp_path / "a-epo.fif", verbose="error")
    assert len(load_dataset(name="folder", root=str(tmp_path), pair_by="stimulus")) == 2


def test_settings_reach_the_loader(names, tmp_path):
    assert load_dataset(name="plain", root=tmp_path, factor=2.0) == ([], 2.0)
    assert load_dataset(name="open", root=tmp_path, notch=50) == {"notch": 50}
    assert load_dataset(name="people", root=tmp_path, subject=1) == (1, "all")
    assert load_dataset(name="people", root=tmp_path, subject=None) == (None, "all")
    assert load_dataset(name="people", root=tmp_path, subject="02", split="test") == ("02", "test")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "plane"}, "Unknown data set 'plane'. Did you mean 'plain'?"),
        ({"name": "plain", "factr": 2}, "Unknown setting of 'plain' 'factr'. Did you mean 'factor'"),
        ({"name": "plain", "subject": 2}, "'plain' has no subject to choose, got subject=2"),
        ({"name": "plain", "subject": None}, "'plain' has no subject to choose, got subject=None"),
        ({"name": "people", "split": "test"}, "'people' needs subject=; there is no default"),
        ({"name": "bids"}, "'bids' needs subject="),
        ({"name": "plain", "split": "test"}, "'plain' has no split to choose, got split='test'"),
        ({"name": "kaneshiro2015", "split": "test"}, "'kaneshiro2015' has no split to choose"),
    ],
)
def test_nothing_is_passed_over(names, tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(root=tmp_path, **given)


def test_help_where_files_are_missing(names, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"needs root, .* purl\.stanford\.edu/bq914sc3730.*S1\.mat to S10\.mat"
    ):
        load_dataset(name="kaneshiro2015")
    with pytest.raises(FileNotFoundError, match=r"There is no .*S2\.mat.*purl\.stanford\.edu/bq914sc3730"):
        load_dataset(name="kaneshiro2015", root=tmp_path, subject=2)
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere\. plain is on osf\.io/none"):
        load_dataset(name="plain", root=tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"There is no trials\.npy\. missing is on .* root must hold x"
    ):
        load_dataset(name="missing", root=tmp_path)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_what_has_no_hash_is_not_downloaded(name, tmp_path):
    if DATASETS[name].files:
        pytest.skip("has links with hashes")
    with pytest.raises(
        ValueError, match=f"'{name}' cannot be downloaded: no public link with a hash is known"
    ):
        load_dataset(
            name=name, root=tmp_path / "new", subject="01" if name == "bids" else load.DEFAULT, download=True
        )
    assert not (tmp_path / "new").exists()


def test_download_then_load(monkeypatch, tmp_path, served):
    folder, link = served
    (folder / "x.bin").write_bytes(b"trials")
    files = {"x.npy": (f"{link}/x.bin", sha256(b"trials"))}
    entry = DatasetEntry(f"{__name__}:load_plain", "here.", "root must hold x.npy.", files)
    monkeypatch.setitem(load.DATASETS, "served", entry)
    root = tmp_path / "data"
    with pytest.raises(FileNotFoundError, match="There is no folder"):  # unasked, nothing is fetched
        load_dataset(name="served", root=root)
    with pytest.raises(
        ValueError, match="Unknown setting of 'served' 'x'"
    ):  # nor before the settings are right
        load_dataset(name="served", root=root, download=True, x=1)
    assert not root.exists()
    assert load_dataset(name="served", root=root, download=True) == (["x.npy"], 1.0)
    assert (root / "x.npy").read_bytes() == b"trials"


def test_files_that_are_there_stay(tmp_path, served):
    folder, link = served
    (folder / "a").write_bytes(b"new")
    (tmp_path / "root" / "deep").mkdir(parents=True)
    (tmp_path / "root" / "a").write_bytes(b"mine")
    files = {"a": (f"{link}/a", sha256(b"new")), "deep/b": (f"{link}/a", sha256(b"new"))}
    assert fetch(files, tmp_path / "root") == [tmp_path / "root" / "a", tmp_path / "root" / "deep" / "b"]
    assert (tmp_path / "root" / "a").read_bytes() == b"mine"
    assert (tmp_path / "root" / "deep" / "b").read_bytes() == b"new"


def test_another_content_is_not_kept(tmp_path, served):
    folder, link = served
    (folder / "a").write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"/a has another content than a had .*sha256"):
        fetch({"a": (f"{link}/a", sha256(b"listed"))}, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_link_that_is_gone(tmp_path, served):
    _, link = served
    with pytest.raises(OSError, match=r"/gone could not be fetched \(404.*; a is not there"):
        fetch({"a": (f"{link}/gone", sha256(b""))}, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []
