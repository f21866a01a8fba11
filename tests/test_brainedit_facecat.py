"""facecat.xz and latents.pkl, as published: each trial once, with its own task and the latent of its own face."""

import lzma
import pickle

import numpy as np
import pandas as pd
import pytest

from brainedit.datasets.facecat import TASK_PAIRS, load_facecat
from brainedit.datasets.latents import write_latents

TASKS = tuple(TASK_PAIRS)
FACES = [3645, 254, 3647, 12076, 57487, 90023]
PEOPLE = 2


def _own_trials(person, task):
    """4 to 6 trials whose features say whose, in which task and which they are; labels (n, 2)."""
    n = 4 + TASKS.index(task) % 3
    code = 100 * person + 10 * TASKS.index(task) + np.arange(n)
    x = code[:, None, None] + np.arange(5)[:, None] / 8 + np.arange(32) / 1024
    return x, np.column_stack([np.arange(n) % 2, [FACES[i % 6] for i in range(person, person + n)]])


def _four_keys(train_x, train_y, test_x, test_y):
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


def _two_keys(train_x, train_y, test_x, test_y):
    return {"train": (train_x, train_y), "test": (test_x, test_y)}


def _two_dicts(train_x, train_y, test_x, test_y):
    return {"train": {"x": train_x, "y": train_y}, "test": {"x": test_x, "y": test_y}}


def _db(layout=_four_keys):
    """As the authors wrote it: the part train of a task is all trials of the other three pairs."""
    db = {}
    for person in range(PEOPLE):
        own = {task: _own_trials(person, task) for task in TASKS}
        db[person] = {}
        for task in sorted(TASKS):
            others = [own[other] for other in TASKS if TASK_PAIRS[other] != TASK_PAIRS[task]]
            train = [np.concatenate(parts) for parts in zip(*others, strict=True)]
            db[person][f"facecat/{task}"] = layout(*train, *own[task])
    return db


def _table(faces=FACES, n_dims=512):
    values = np.random.default_rng(0).normal(size=(len(faces), n_dims))
    return pd.DataFrame(values, index=faces)


def _write(root, db=None, table=None):
    with lzma.open(root / "facecat.xz", "wb") as file:
        pickle.dump(_db() if db is None else db, file, protocol=3)  # of the authors' Python 3.7
    (_table() if table is None else table).to_pickle(root / "latents.pkl")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("facecat"))


def test_every_trial_comes_once_with_its_own_task_person_and_label(root, caplog):
    data = load_facecat(root)
    assert data.features.shape == (PEOPLE * sum(4 + i % 3 for i in range(8)), 5, 32)
    trial = np.rint(data.features[:, 0, 0]).astype(int)
    assert len(set(trial)) == len(trial)
    table = data.metadata
    assert table["subject"].tolist() == [str(code // 100) for code in trial]
    assert table["task"].tolist() == [TASKS[code // 10 % 10] for code in trial]
    assert table["target"].tolist() == [bool(code % 10 % 2) for code in trial]
    assert table["stimulus"].tolist() == [str(FACES[(code // 100 + code % 10) % 6]) for code in trial]
    assert not caplog.records


def test_features_are_windows_by_channels(root):
    features = load_facecat(root, subject=0, task="female").features
    assert features.dtype == np.float32
    assert np.allclose(features[0], np.arange(5)[:, None] / 8 + np.arange(32) / 1024)


def test_each_face_has_its_own_latent(root):
    data = load_facecat(root)
    assert np.array_equal(data.latents_of(), _table().loc[data.metadata["stimulus"].astype(int)].to_numpy())


def test_pairs_of_tasks_and_the_source_of_the_design(root):
    table = load_facecat(root).metadata
    pairs = {frozenset(part["task"]) for _, part in table.groupby("task_pair")}
    assert pairs == {
        frozenset(pair)
        for pair in [("female", "male"), ("nosmile", "smiles"), ("old", "young"), ("blond", "darkhaired")]
    }
    assert set(table) == {"stimulus", "target", "subject", "task", "task_pair", "design_source"}
    assert set(table["design_source"]) == {"recorded"}


def test_one_person_and_one_task(root):
    assert set(load_facecat(root, subject=1).metadata["subject"]) == {"1"}
    one = load_facecat(root, subject=1, task="facecat/old")
    assert set(one.metadata["task"]) == {"old"}
    assert np.rint(one.features[:, 0, 0]).tolist() == [140, 141, 142, 143, 144]
    with pytest.raises(ValueError, match="no subject 30; it has 0 to 1"):
        load_facecat(root, subject=30)
    with pytest.raises(ValueError, match="no subject True"):
        load_facecat(root, subject=True)
    with pytest.raises(ValueError, match=r"Unknown task 'blonde'\. Did you mean 'blond'"):
        load_facecat(root, task="blonde")


@pytest.mark.parametrize("layout", [_two_keys, _two_dicts])
def test_the_other_layout_of_keys_gives_the_same(root, tmp_path, layout, caplog):
    again = load_facecat(_write(tmp_path, _db(layout)))
    assert np.array_equal(again.features, load_facecat(root).features)
    assert again.metadata.equals(load_facecat(root).metadata)
    assert not caplog.records


@pytest.mark.parametrize("dtype", [object, str, float])
def test_labels_of_any_kind_of_array(root, tmp_path, dtype):
    def layout(train_x, train_y, test_x, test_y):
        return _four_keys(train_x, train_y.astype(dtype), test_x, test_y.astype(dtype))

    assert load_facecat(_write(tmp_path, _db(layout))).metadata.equals(load_facecat(root).metadata)


def test_labels_as_a_table(root, tmp_path):
    columns = pd.Index(["img", "event", "rel"], dtype=object)  # as texts were before pandas 3

    def table(y):
        return pd.DataFrame(np.column_stack([y[:, 1], 202 - y[:, 0], y[:, 0]]), columns=columns)

    def layout(train_x, train_y, test_x, test_y):
        return _four_keys(train_x, table(train_y), test_x, table(test_y))

    assert load_facecat(_write(tmp_path, _db(layout))).metadata.equals(load_facecat(root).metadata)

    def nameless(train_x, train_y, test_x, test_y):
        return _four_keys(train_x, train_y, test_x, pd.DataFrame(test_y))

    with pytest.raises(ValueError, match="labels need columns rel and img; they have 0, 1"):
        load_facecat(_write(tmp_path, _db(nameless)))


def test_an_unpacked_file_and_the_folder_data(root, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "facecat.pkl").write_bytes(pickle.dumps(_db()))
    write_latents(_table(), tmp_path / "data" / "latents.safetensors", space="z")
    data = load_facecat(tmp_path)
    assert data.metadata.equals(load_facecat(root).metadata)
    assert np.allclose(data.latents_of(), load_facecat(root).latents_of(), atol=1e-6)


def test_latents_as_text(root, tmp_path):
    _write(tmp_path)
    (tmp_path / "latents.pkl").unlink()
    _table().to_csv(tmp_path / "latents.csv")
    assert np.allclose(load_facecat(tmp_path).latents_of(), load_facecat(root).latents_of())


def test_trials_without_a_latent_are_left_out_and_told(tmp_path, caplog):
    data = load_facecat(_write(tmp_path, table=_table(FACES[:-1])))
    assert "90023" not in set(data.metadata["stimulus"])
    assert np.array_equal(
        data.latents_of(), _table(FACES[:-1]).loc[data.metadata["stimulus"].astype(int)].to_numpy()
    )
    lost = sum(
        (_own_trials(person, task)[1][:, 1] == 90023).sum() for person in range(PEOPLE) for task in TASKS
    )
    assert f"{lost} of {len(data) + lost} trials are left out" in caplog.text
    with pytest.raises(ValueError, match=r"none of its faces \('3645' is the first\) has a latent"):
        load_facecat(_write(tmp_path, table=_table([1, 2])))


def test_a_part_train_that_is_not_the_other_tasks_is_told(tmp_path, caplog):
    db = _db()
    db[1]["facecat/old"]["train_x"] = db[1]["facecat/old"]["train_x"][:3]
    load_facecat(_write(tmp_path, db))
    assert "Subject 1, task old: the part train has 3 trials where the other tasks have 28" in caplog.text


def _changed(change):
    db = _db()
    change(db[1]["facecat/male"])
    return db


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda part: part.update(test_x=part["test_x"][:-1]),
            "subject 1, task male: has 4 trials but 5 labels",
        ),
        (
            lambda part: part.update(test_x=part["test_x"][:, :4]),
            r"needs features \(n, 5, 32\); got an array",
        ),
        (lambda part: part.update(test_x=part["test_x"].swapaxes(1, 2)), r"array \(5, 32, 5\)"),
        (lambda part: part.update(test_x=part["test_x"].astype(int)), "of int64"),
        (lambda part: part.update(test_y=part["test_y"][:, :1]), r"needs labels \(n, 2\).*\(5, 1\)"),
        (lambda part: part.update(test_y=part["test_y"][:, ::-1]), "labels are 0 or 1; one is 254"),
        (lambda part: part.update(test_y=part["test_y"] + 0.5), "whole numbers; one is 0.5"),
        (lambda part: part.update(test_y=np.full((5, 2), "smile")), "whole numbers; one is 'smile'"),
        (
            lambda part: part.pop("test_y"),
            "needs test_x and test_y, or test with both; it has train_x, train_y",
        ),
        (lambda part: part.clear(), "needs test_x and test_y"),
    ],
)
def test_parts_that_do_not_fit_are_told(tmp_path, change, message):
    _write(tmp_path, _changed(change))
    with pytest.raises(ValueError, match=message):
        load_facecat(tmp_path)


def test_nan_in_the_features_is_told(tmp_path):
    db = _db()
    db[0]["facecat/female"]["test_x"][2, 0, 0] = np.nan
    with pytest.raises(ValueError, match="features of trial 2 are NaN"):
        load_facecat(_write(tmp_path, db))


@pytest.mark.parametrize(
    ("db", "message"),
    [
        ([], "dict of people numbered from 0; it holds list"),
        ({}, "dict of people"),
        ({"P01": {}}, "dict of people"),
        ({0: {"facecat/female": None}}, "subject 0, task female: needs a dict.*NoneType"),
        ({0: []}, "subject 0, task female: needs a dict"),
    ],
)
def test_other_pickles_are_told(tmp_path, db, message):
    with pytest.raises(ValueError, match=message):
        load_facecat(_write(tmp_path, db))


def test_missing_files_are_told(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no facecat.xz or facecat.pkl in .*Brain-Supervised-Image-Editing"
    ):
        load_facecat(tmp_path)
    _write(tmp_path)
    (tmp_path / "latents.pkl").unlink()
    with pytest.raises(FileNotFoundError, match=r"no latents.pkl or latents.csv"):
        load_facecat(tmp_path)


def test_damaged_files_are_told(tmp_path, monkeypatch):
    path = _write(tmp_path) / "facecat.xz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"facecat.xz is damaged or no xz file .*end-of-stream"):
        load_facecat(tmp_path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"facecat.xz is damaged or no xz file"):
        load_facecat(tmp_path)
    path.write_bytes(lzma.compress(pickle.dumps(_db())[:-100]))
    with pytest.raises(ValueError, match=r"^[^ ]*facecat.xz: is .*damaged"):
        load_facecat(tmp_path)
    path.write_bytes(whole)
    monkeypatch.setattr("brainedit.datasets.facecat.MAX_UNPACKED", 5000)
    with pytest.raises(ValueError, match="unpacks to more than 5000 bytes"):
        load_facecat(tmp_path)


class _Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_the_files_does_not_run(tmp_path):
    with pytest.raises(ValueError, match=r"it holds (_?io|builtins)\.open"):
        load_facecat(_write(tmp_path, _Hostile(tmp_path / "ran")))
    _write(tmp_path)
    (tmp_path / "latents.pkl").write_bytes(pickle.dumps(_Hostile(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"latents.pkl needs to hold a pandas DataFrame; it holds .*open"):
        load_facecat(tmp_path)
    hostile = _changed(lambda part: part.update(test_y=_Hostile(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"needs to hold a pandas DataFrame; it holds .*open"):
        load_facecat(_write(tmp_path, hostile))
    assert not (tmp_path / "ran").exists()


class _Record:
    """An object of a class that this pandas no longer has, pickled as the old one pickled it."""

    def __init__(self, published, args, state=None):
        self.published, self.args, self.state = published, args, state


class _Name(str):
    """The module and name of a class, "module:name"."""


class _OldPickler(pickle._Pickler):
    """Names pandas' classes as pandas 1.0 on Python 3.7 did."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _Name):
            self.write(pickle.GLOBAL + obj.replace(":", "\n").encode() + b"\n")
        elif isinstance(obj, _Record) and id(obj) in self.memo:
            self.write(self.get(self.memo[id(obj)][0]))
        elif isinstance(obj, _Record):
            self.save(_Name(obj.published))
            self.save(obj.args)
            self.write(pickle.REDUCE if obj.state is None else pickle.NEWOBJ)
            self.memoize(obj)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


def _old_pickle(table, path, *, axes=None, **layout):
    """A DataFrame of one float block, laid out as pandas 1.0 did."""
    axes = axes or [
        _Record(
            "pandas.core.indexes.base:_new_Index",
            (_Name("pandas.core.indexes.range:RangeIndex"),
             {"name": None, "start": 0, "stop": table.shape[1], "step": 1}),
        ),
        _Record(
            "pandas.core.indexes.base:_new_Index",
            (_Name("pandas.core.indexes.numeric:Int64Index"), {"data": table.index.to_numpy(), "name": None}),
        ),
    ]  # fmt: skip
    block = {"values": table.to_numpy().T.copy(), "mgr_locs": slice(0, table.shape[1], 1)} | layout
    state = (axes, [block["values"]], [axes[0]], {"0.14.1": {"axes": axes, "blocks": [block]}})
    manager = _Record("pandas.core.internals.managers:BlockManager", (), state)
    frame = _Record(
        "pandas.core.frame:DataFrame",
        (),
        {"_data": manager, "_typ": "dataframe", "_metadata": [], "attrs": {}},
    )
    with open(path, "wb") as file:
        _OldPickler(file, 3).dump(frame)


def test_latents_as_pandas_1_wrote_them(root, tmp_path):
    _old_pickle(_table(), _write(tmp_path) / "latents.pkl")
    assert b"Int64Index" in (tmp_path / "latents.pkl").read_bytes()
    data = load_facecat(tmp_path)
    assert np.array_equal(data.latents_of(), load_facecat(root).latents_of())
    shuffled = np.random.default_rng(0).permutation(512)
    _old_pickle(_table(), tmp_path / "latents.pkl", mgr_locs=shuffled)
    assert np.array_equal(load_facecat(tmp_path).latents_of()[:, shuffled], data.latents_of())


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"values": np.zeros((512, 5))}, r"block of 512 columns by 6 rows is an array \(512, 5\)"),
        ({"mgr_locs": slice(0, 511, 1), "values": np.zeros((511, 6))}, "hold 511 of 512 columns"),
        ({"mgr_locs": np.arange(1, 513)}, "belongs to column 512 of 512"),
        ({"mgr_locs": np.zeros(512, int)}, "hold 1 of 512 columns, or one of them twice"),
        ({"mgr_locs": "all"}, "places of its columns are str"),
        ({"mgr_locs": slice("a", None, None)}, "places of its columns are"),
    ],
)
def test_a_table_whose_blocks_do_not_fit_is_told(tmp_path, layout, message):
    _old_pickle(_table(), _write(tmp_path) / "latents.pkl", **layout)
    with pytest.raises(ValueError, match=message):
        load_facecat(tmp_path)


def test_latents_that_are_not_numbered_by_face_are_told(tmp_path):
    with pytest.raises(ValueError, match="numbered 0 to 5, not by face"):
        load_facecat(_write(tmp_path, table=_table(range(6))))
    with pytest.raises(ValueError, match="more than one row for '254'"):
        load_facecat(_write(tmp_path, table=_table([254, 3645, 254])))
    with pytest.raises(ValueError, match="latents are real numbers; these are int64"):
        load_facecat(_write(tmp_path, table=_table().astype(int)))
    double = pd.MultiIndex.from_product([["faces"], FACES])
    with pytest.raises(ValueError, match=r"names of its rows or columns .* save it as CSV"):
        load_facecat(_write(tmp_path, table=_table().set_axis(double)))


def test_a_table_of_several_kinds_of_column(tmp_path):
    table = _table().assign(smile=[1, 0, 1, 0, 1, 0])
    with pytest.raises(ValueError, match="a block of 1 columns by 6 rows is pandas"):
        load_facecat(_write(tmp_path, table=table.assign(word=list("abcdef"))))
    data = load_facecat(_write(tmp_path, table=table))
    assert data.latents.shape == (6, 513)
    assert data.latents.loc["3647"].iloc[-1] == 1
