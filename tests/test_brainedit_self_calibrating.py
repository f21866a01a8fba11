"""The self-calibrating BCI's npz: faces are told apart by their latents, nothing else is made up."""

import pickle

import numpy as np
import pytest

from brainedit.datasets.self_calibrating import load_self_calibrating

N_TRIALS = 40
SEEN = np.random.default_rng(1).integers(0, 9, N_TRIALS)  # which of nine faces a trial showed
SOUGHT = np.random.default_rng(2).integers(6, 9, N_TRIALS)


def _arrays():
    rng = np.random.default_rng(0)
    faces = rng.normal(size=(9, 512))
    return {
        "target_faces": faces[SOUGHT],
        "observed_faces": faces[SEEN],
        "eeg_raw": rng.normal(size=(N_TRIALS, 203)),
        "eeg_net": rng.normal(size=(N_TRIALS, 176)),
    }


@pytest.fixture
def root(tmp_path):
    np.savez(tmp_path / "all_data_sorted.npz", **_arrays())
    return tmp_path


def test_trials_keep_their_features_and_both_latents(root):
    data = load_self_calibrating(root)
    arrays = _arrays()
    assert np.array_equal(data.features, arrays["eeg_raw"].astype(np.float32))
    assert np.array_equal(data.latents_of(), arrays["observed_faces"])
    assert np.array_equal(data.latents_of("target_stimulus"), arrays["target_faces"])
    assert load_self_calibrating(root, eeg="net").features.shape == (N_TRIALS, 176)


def test_one_face_has_one_name_whether_it_was_seen_or_looked_for(root):
    data = load_self_calibrating(root)
    names = data.metadata["stimulus"].to_numpy()
    assert np.array_equal(names[:, None] == names, SEEN[:, None] == SEEN)
    sought = data.metadata["target_stimulus"].to_numpy()
    assert np.array_equal(names[:, None] == sought, SEEN[:, None] == SOUGHT)
    assert names[0] == "face0000"
    assert len(data.latents) == len(set(SEEN) | set(SOUGHT))


def test_rounding_does_not_make_two_faces_of_one(tmp_path):
    arrays = _arrays()
    jitter = np.random.default_rng(3).uniform(-1e-6, 1e-6, (N_TRIALS, 512))
    arrays["observed_faces"] = arrays["observed_faces"] + jitter
    near = np.flatnonzero(SEEN[0] == SEEN)
    arrays["observed_faces"][near[1:], 7] += 1e-3  # but this is another face
    np.savez_compressed(tmp_path / "all_data_sorted.npz", **arrays)
    names = load_self_calibrating(tmp_path).metadata["stimulus"].to_numpy()
    same = SEEN[:, None] == SEEN
    same[near[0], near[1:]] = same[near[1:], near[0]] = False
    assert len(near) > 2
    assert np.array_equal(names[:, None] == names, same)


def test_nothing_is_made_up(root):
    data = load_self_calibrating(root)
    assert list(data.metadata) == ["stimulus", "target_stimulus"]
    assert "neither person nor order" in data.note


def test_the_layout_of_the_repository_is_known_and_a_missing_file_is_told(root, tmp_path):
    (tmp_path / "src" / "data").mkdir(parents=True)
    (root / "all_data_sorted.npz").rename(tmp_path / "src" / "data" / "all_data_sorted.npz")
    assert len(load_self_calibrating(tmp_path)) == N_TRIALS
    with pytest.raises(FileNotFoundError, match=r"no all_data_sorted.npz in .*src; it is in .*jgrizou"):
        load_self_calibrating(tmp_path / "src")


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("eeg_raw", lambda a: a[:-1], r"eeg_raw needs to be real numbers \(40, 203\); it is \(39, 203\)"),
        ("eeg_raw", lambda a: a[:, :202], r"\(40, 203\); it is \(40, 202\)"),
        ("target_faces", lambda a: a[:, :511], r"target_faces needs .*\(40, 512\); it is \(40, 511\)"),
        ("eeg_raw", lambda a: a.astype(int), "it is .* of int64"),
        ("eeg_raw", lambda a: a.astype(object), "not plain numbers"),
        (
            "observed_faces",
            lambda a: np.where(a == a[3, 5], np.nan, a),
            "observed_faces has values that are NaN",
        ),
        ("target_faces", None, "has no array target_faces; it has observed_faces, eeg_raw, eeg_net"),
    ],
)
def test_arrays_that_do_not_fit_are_told(tmp_path, key, change, message):
    arrays = _arrays()
    if change is None:
        del arrays[key]
    else:
        arrays[key] = change(arrays[key])
    np.savez(tmp_path / "all_data_sorted.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_self_calibrating(tmp_path)


def test_a_truncated_file_is_told(root):
    path = root / "all_data_sorted.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"all_data_sorted.npz is damaged or no npz file"):
        load_self_calibrating(root)


def test_a_damaged_array_is_told(tmp_path):
    np.savez_compressed(tmp_path / "all_data_sorted.npz", **_arrays())
    whole = bytearray((tmp_path / "all_data_sorted.npz").read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 64] = bytes(64)
    (tmp_path / "all_data_sorted.npz").write_bytes(whole)
    with pytest.raises(ValueError, match=r"all_data_sorted.npz is damaged"):
        load_self_calibrating(tmp_path)


def test_code_in_the_file_does_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    arrays = _arrays() | {"eeg_raw": np.array([Hostile()], dtype=object)}
    np.savez(tmp_path / "all_data_sorted.npz", **arrays)
    with pytest.raises(ValueError, match="not plain numbers"):
        load_self_calibrating(tmp_path)
    (tmp_path / "all_data_sorted.npz").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="no npz file"):
        load_self_calibrating(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_unpacks_beyond_reason_is_told(root, monkeypatch):
    monkeypatch.setattr("brainedit.datasets.self_calibrating.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"unpacks to [0-9]+ bytes; up to 1000"):
        load_self_calibrating(root)


def test_a_wrong_name_is_told(root):
    with pytest.raises(ValueError, match=r"Unknown eeg 'rwa'\. Did you mean 'raw'"):
        load_self_calibrating(root, eeg="rwa")
