"""What people get wrong, through the public doors and the command: one sentence, nothing run, nothing half-written."""

import os
import pickle

import numpy as np
import pytest
import scipy.io
import test_brainedit_cvpr40 as cvpr40
import test_brainedit_kaneshiro as kaneshiro
import test_brainedit_things_eeg2 as things
import test_brainedit_thoughtviz as thoughtviz
import yaml
from PIL import Image
from test_brainedit_cli import run
from test_brainedit_joint_training import SMALL, planted

from brainedit.datasets.load import load_dataset
from brainedit.datasets.paired import PairedDataset
from brainedit.joint_training import train_joint


class Hostile:
    """A pickle that would leave a file `ran` in a folder."""

    def __init__(self, folder):
        self.command = f"touch {folder / 'ran'}"

    def __reduce__(self):
        return os.system, (self.command,)


def things_eeg2(root):
    things.write_metadata(root)
    things.write_pictures(root)
    for part in ("training", "test"):
        things.write_eeg(root, part)
    return root / "sub-01" / "preprocessed_eeg_training.npy"


def cut_short(root):
    path = things_eeg2(root)
    path.write_bytes(path.read_bytes()[:-5000])


def npy_cut_short(root):
    things_eeg2(root)
    path = things.write_eeg(root, "training", as_pickle=False)
    path.write_bytes(path.read_bytes()[:-5000])


def one_picture_missing(root):
    things_eeg2(root)
    (root / things.stimuli_of("training")[3]).unlink()


def one_picture_twice(root):
    things_eeg2(root)
    table = np.load(root / "image_metadata.npy", allow_pickle=True).item()
    for key in ("train_img_concepts", "train_img_files"):
        table[key][1] = table[key][0]
    np.save(root / "image_metadata.npy", table)


def code_in_things(root):
    path = things_eeg2(root)
    path.write_bytes(pickle.dumps({"preprocessed_eeg_data": Hostile(root)}, protocol=4))


def cvpr40_label(root):
    contents = cvpr40._contents()
    contents["dataset"][4]["label"] = 3
    cvpr40._write(root, contents)


def cvpr40_empty_class(root):
    parts = cvpr40._by_picture()["splits"][0]
    own = cvpr40._contents()["dataset"]
    kept = [i for i in parts["train"] if own[i]["label"] != 1]
    cvpr40._write(root, splits={"splits": [parts | {"train": kept}]})


def code_in_cvpr40(root):
    cvpr40._write(root)
    (root / "eeg_5_95_std.pth").write_bytes(pickle.dumps(cvpr40._contents() | {"dataset": Hostile(root)}))


COMMANDS = [
    ("things_eeg2", cut_short, "preprocessed_eeg_training.npy"),
    ("things_eeg2", npy_cut_short, "preprocessed_eeg_training.npy"),
    ("things_eeg2", one_picture_missing, "1 of 6 pictures are missing"),
    ("things_eeg2", one_picture_twice, "names the picture 'training_images/00002_zebra/zebra_09b.jpg' twice"),
    ("things_eeg2", code_in_things, "wants to run posix.system"),
    ("cvpr40", cvpr40_label, "trial 4 has label 3; it needs to be 0 to 2"),
    ("cvpr40", cvpr40_empty_class, f"has no trial of 1 classes ({cvpr40.LABELS[1]} is one)"),
    ("cvpr40", code_in_cvpr40, "needs the lists dataset"),
]


def refused(monkeypatch, capsys, folder, *arguments):
    """The sentence of a command that fails with exit code 2 and leaves nothing."""
    before = sorted(folder.rglob("*"))
    assert run(monkeypatch, *arguments, "--out", folder / "out") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("brainedit: ")
    assert "Traceback" not in said
    assert sorted(folder.rglob("*")) == before
    return said


@pytest.mark.parametrize(("name", "write", "message"), COMMANDS, ids=[case[1].__name__ for case in COMMANDS])
def test_a_published_set_that_is_damaged(monkeypatch, capsys, tmp_path, name, write, message):
    write(tmp_path)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": {"name": name}}))
    arguments = ["train", "joint", "--config", tmp_path / "c.yaml", "--root", tmp_path]
    assert message in refused(monkeypatch, capsys, tmp_path, *arguments)
    with pytest.raises(ValueError if "missing" not in write.__name__ else FileNotFoundError) as error:
        load_dataset(name=name, root=tmp_path, split="train")
    assert message in str(error.value)


def test_labels_of_kaneshiro_out_of_range(tmp_path):
    labels = {"exemplarLabels": np.uint8([[72, 1, 13, 73]])}
    scipy.io.savemat(tmp_path / "S1.mat", kaneshiro.content() | labels)
    with pytest.raises(ValueError, match="exemplarLabels must be 1 to 72, got 73"):
        load_dataset(name="kaneshiro2015", root=tmp_path)


def test_code_in_thoughtviz_is_not_run(tmp_path):
    arrays = thoughtviz._arrays() | {"x_train": Hostile(tmp_path)}
    thoughtviz._write(tmp_path, arrays, how="python3")
    with pytest.raises(ValueError, match="needs the arrays x_train and y_train"):
        load_dataset(name="thoughtviz", root=tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("joint: {n_epoch: 3}", "Unknown key in section 'joint' 'n_epoch'. Did you mean 'n_epochs'"),
        ("data: {name: things_eeg2, sfrek: 3}", "Unknown setting of 'things_eeg2' 'sfrek'"),
        ("protokol: {}", "Unknown section 'protokol'. Did you mean 'protocol'"),
        ("joint: !!python/object/apply:os.system ['touch ran']", "is no YAML that can be read"),
        ("joint: !!python/object:os.system {}", "is no YAML that can be read"),
    ],
)
def test_configurations(monkeypatch, capsys, tmp_path, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    arguments = ["train", "joint", "--config", tmp_path / "c.yaml", "--root", tmp_path]
    assert message in refused(monkeypatch, capsys, tmp_path, *arguments)


@pytest.fixture
def recording(tmp_path, array_epochs):
    """Writes epochs of labels by run, and pictures of each label."""

    def write(labels, runs):
        for label in set(labels):
            (tmp_path / "pictures" / label).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64)).save(tmp_path / "pictures" / label / "1.png")
        data = 1e-5 * np.random.default_rng(0).normal(size=(len(labels), 4, 40))
        epochs = array_epochs(data, {"label": labels, "run": runs})
        epochs.save(tmp_path / "my-epo.fif", verbose="error")
        return ["train", "joint", "--epochs", tmp_path / "my-epo.fif", "--images", tmp_path / "pictures"]

    return write


def test_a_split_that_leaves_one_category_for_training(monkeypatch, capsys, tmp_path, recording):
    arguments = [*recording(["face"] * 8 + ["house"] * 8, [1] * 8 + [2] * 8), "--pair-by", "label"]
    said = refused(monkeypatch, capsys, tmp_path, *arguments, "--allow-confounded")
    assert "two or more labels to tell apart; all are" in said


def test_a_category_without_pictures(monkeypatch, capsys, tmp_path, recording):
    arguments = [*recording(["face", "house"] * 8, [1] * 8 + [2] * 8), "--pair-by", "label"]
    (tmp_path / "pictures" / "house" / "1.png").unlink()
    assert "'house' has no folder of pictures" in refused(monkeypatch, capsys, tmp_path, *arguments)


def test_files_of_other_rates_are_not_joined(tmp_path, array_epochs):
    for name, sfreq in (("one", 50.0), ("two", 100.0)):
        data = 1e-5 * np.random.default_rng(int(sfreq)).normal(size=(2, 4, 40))
        epochs = array_epochs(data, {"stimulus": ["a.png", "b.png"]}, sfreq=sfreq)
        epochs.save(tmp_path / f"{name}-epo.fif", verbose="error")
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / name)
    with pytest.raises(ValueError, match="sampling rates 50 and 100 Hz"):
        load_dataset(name="folder", root=tmp_path)


def test_channels_in_another_order_work_and_other_channels_are_told():
    data = planted(n=20)
    model = train_joint(data, **SMALL | {"n_epochs": 2})
    expected = model.embed_epochs(data.epochs).numpy()
    turned = data.epochs.copy().reorder_channels(data.epochs.ch_names[::-1])
    assert np.allclose(model.embed_epochs(turned).numpy(), expected, atol=1e-6)
    again = train_joint(
        PairedDataset(turned, data.pictures), **SMALL | {"n_epochs": 1}, channels=data.epochs.ch_names
    )
    assert again.eeg_input.channels == data.epochs.ch_names
    renamed = data.epochs.copy().rename_channels({"E2": "F2"})
    for other in (renamed, data.epochs.copy().drop_channels(["E2"])):
        with pytest.raises(ValueError, match="channels E2 are missing"):
            model.embed_epochs(other)
        with pytest.raises(ValueError, match="channels E2 are missing"):
            train_joint(PairedDataset(other, data.pictures), **SMALL, channels=data.epochs.ch_names)


def test_a_picture_that_no_trial_names_or_that_lacks(tmp_path):
    data = planted(n=4)
    lacking = {name: picture for name, picture in data.pictures.items() if name != "p002.png"}
    with pytest.raises(ValueError, match=r"'p002\.png' has no picture in the dict; 4 are needed"):
        PairedDataset(data.epochs, lacking)
    more = PairedDataset(data.epochs, data.pictures | {"spare.png": data.pictures["p000.png"]})
    assert list(more.pictures) == list(data.pictures)
    other = PairedDataset(data.epochs, data.pictures | {"p001.png": data.pictures["p000.png"]})
    with pytest.raises(ValueError, match=r"'p001\.png' stands for two pictures"):
        PairedDataset.concatenate([data, other])


def test_truncated_epochs(monkeypatch, capsys, tmp_path, recording):
    arguments = [*recording(["face", "house"] * 8, [1] * 8 + [2] * 8), "--pair-by", "label"]
    path = tmp_path / "my-epo.fif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "my-epo.fif" in refused(monkeypatch, capsys, tmp_path, *arguments)
