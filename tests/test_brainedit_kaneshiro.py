"""S1.mat as published: units, labels and order are kept; the simulation inflates random folds as it should."""

import mne
import numpy as np
import pytest
import scipy.io
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import GroupKFold, KFold, cross_val_score

from brainedit.datasets.kaneshiro import CATEGORIES, load_kaneshiro
from brainedit.simulate.kaneshiro import simulate_kaneshiro

# fmt: off
IN_ORDER = ("human_body", "human_face", "animal_body", "animal_face", "fruit_vegetable", "inanimate_object")
# fmt: on


def content(exemplars=(72, 1, 13, 1), seed=0):
    """Trial k's channel c holds 100 k + c µV at each sample, and a little of its own."""
    exemplars = np.array(exemplars)
    wiggle = np.random.default_rng(seed).normal(size=(124, 32, len(exemplars)))
    wiggle -= wiggle.mean(axis=1, keepdims=True)
    data = 100.0 * np.arange(len(exemplars)) + np.arange(124)[:, None, None] + wiggle
    return {
        "X_3D": data,
        "X_2D": data.reshape(-1, len(exemplars)).T,
        "categoryLabels": ((exemplars - 1) // 12 + 1).astype(np.uint8)[None],
        "exemplarLabels": exemplars.astype(np.uint8)[None],
        "Fs": 62.5,
        "N": 32,
        "T": len(exemplars),
        "sub": "S1",
    }


@pytest.fixture
def mat(tmp_path):
    def write(without=(), subject=1, **changes):
        variables = {k: v for k, v in (content() | changes).items() if k not in without}
        scipy.io.savemat(tmp_path / f"S{subject}.mat", variables)
        return tmp_path

    return write


def test_trials_units_and_labels(mat):
    dataset = load_kaneshiro(mat(subject=10), subject=10)
    epochs, metadata = dataset.epochs, dataset.metadata
    mean = epochs.get_data().mean(axis=-1)
    assert np.allclose(mean * 1e6, 100 * np.arange(4)[:, None] + np.arange(124))
    assert epochs.ch_names == [f"E{k}" for k in range(1, 125)]
    assert (epochs.times[0], epochs.times[-1], epochs.info["sfreq"]) == (0, pytest.approx(0.496), 62.5)
    assert (epochs.info["highpass"], epochs.info["lowpass"]) == (1, 25)
    assert bool(epochs.info["custom_ref_applied"])
    published = mne.channels.make_standard_montage("GSN-HydroCel-128").get_positions()["ch_pos"]
    placed = epochs.get_montage().get_positions()["ch_pos"]
    apart = np.linalg.norm(published["E62"] - published["E17"])  # back and front
    assert np.linalg.norm(placed["E62"] - placed["E17"]) == pytest.approx(apart, rel=1e-3)
    assert metadata["stimulus"].tolist() == ["exemplar_72", "exemplar_01", "exemplar_13", "exemplar_01"]
    assert metadata["label"].tolist() == ["inanimate_object", "human_body", "human_face", "human_body"]
    assert set(metadata["subject"]) == {"S10"}
    assert set(metadata["design_source"]) == {"documented"}
    assert not {"session", "run", "block", "onset", "trial", "simulated"} & set(metadata)
    assert CATEGORIES == IN_ORDER


def test_without_pictures_a_trial_is_paired_with_its_category(mat):
    dataset = load_kaneshiro(mat())
    assert dataset.pair_by == "label"
    codes = [dataset[k][1].tolist() for k in range(4)]
    assert codes == np.eye(6)[[5, 0, 1, 0]].tolist()


def test_pictures_by_name_never_by_place(mat, tmp_path):
    root = mat()
    for name in ("z.png", "a.png", "m.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    table = tmp_path / "pictures.csv"
    table.write_text("exemplar,file\n72,a.png\n1,z.png\nexemplar_13,m.png\n")
    dataset = load_kaneshiro(root, images=table)
    assert dataset.pair_by == "stimulus"
    assert [dataset[k][1].name for k in range(4)] == ["a.png", "z.png", "m.png", "z.png"]
    given = load_kaneshiro(
        root, images={13: tmp_path / "m.png", "1": tmp_path / "a.png", 72: np.zeros((4, 4, 3))}
    )
    assert given[1][1] == tmp_path / "a.png"
    with pytest.raises(ValueError, match="the order of files in a folder does not tell"):
        load_kaneshiro(root, images=tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("exemplar,file\n1,a.png\n01,b.png\n", "exemplar_01 has two pictures"),
        ("exemplar,file\n1,a.png\n2,a.png\n", "stands for exemplar_01 and for exemplar_02"),
        ("exemplar,file\n1,a.png\n73,b.png\n", "An exemplar is 1 to 72 .*, got '73'"),
        ("exemplar,file\n1,a.png\n2,b.png\n", "'exemplar_72' and 1 more have no picture"),
        ("number,file\n1,a.png\n", "needs columns 'exemplar' and 'file'; it has number, file"),
    ],
)
def test_pictures_that_do_not_fit(mat, tmp_path, lines, message):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "pictures.csv").write_text(lines)
    with pytest.raises(ValueError, match=message):
        load_kaneshiro(mat(), images=tmp_path / "pictures.csv")


def test_a_picture_that_is_not_there(mat, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no picture .*no\.png for exemplar_01"):
        load_kaneshiro(mat(), images={1: tmp_path / "no.png"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X_3D": content()["X_3D"][:, :, :3]}, "categoryLabels has 4 entries, X_3D has 3 trials"),
        (
            {"X_3D": content()["X_3D"][:, :31]},
            r"124 channels x 32 samples x trials, got float64 \(124, 31, 4\)",
        ),
        ({"X_3D": content()["X_3D"][:123]}, r"got float64 \(123, 32, 4\)"),
        ({"X_3D": content()["X_3D"].transpose(2, 0, 1)}, r"got float64 \(4, 124, 32\)"),
        ({"X_3D": np.full((124, 32, 4), "x")}, "X_3D must be real, 124 channels"),
        ({"X_3D": content()["X_3D"] * 1e-6}, "X_3D must be in µV; its standard deviation is 0.0001"),
        ({"exemplarLabels": np.uint8([[72, 1, 13]])}, "exemplarLabels has 3 entries, X_3D has 4"),
        ({"exemplarLabels": np.uint8([[72, 1, 13, 73]])}, "exemplarLabels must be 1 to 72, got 73"),
        ({"exemplarLabels": np.uint8([[71, 0, 12, 0]])}, "exemplarLabels must be 1 to 72, got 0"),
        ({"categoryLabels": np.array([[6, 1, 2, 1.5]])}, "categoryLabels must be 1 to 6, got 1.5"),
        ({"categoryLabels": np.uint8([[6, 1, 2, 7]])}, "categoryLabels must be 1 to 6, got 7"),
        ({"categoryLabels": np.uint8([[6, 1, 2, 3]])}, "exemplar 1 is of categories 1, 3"),
        ({"Fs": 1000.0}, "Fs must be 62.5 Hz, got 1000"),
        ({"without": ["exemplarLabels"]}, r"S1\.mat lacks exemplarLabels"),
        ({"X_3D": content()["X_3D"] * np.where(np.arange(124) == 3, np.nan, 1)[:, None, None]}, "NaN.*E4"),
    ],
)
def test_other_layouts(mat, changes, message):
    with pytest.raises(ValueError, match=message):
        load_kaneshiro(mat(**changes))


def test_labels_may_be_doubles(mat):
    labels = {k: content()[k].astype(float) for k in ("categoryLabels", "exemplarLabels")}
    assert load_kaneshiro(mat(**labels)).metadata["stimulus"][2] == "exemplar_13"


def test_damaged_and_missing_files(mat):
    root = mat()
    with pytest.raises(FileNotFoundError, match=r"There is no .*S2\.mat"):
        load_kaneshiro(root, subject=2)
    with pytest.raises(ValueError, match="subject must be 1 to 10, got 11"):
        load_kaneshiro(root, subject=11)
    whole = (root / "S1.mat").read_bytes()
    (root / "S1.mat").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"S1\.mat (cannot be read as MATLAB 5|lacks)"):
        load_kaneshiro(root)
    (root / "S1.mat").write_text("no matrix")
    with pytest.raises(ValueError, match=r"S1\.mat cannot be read as MATLAB 5"):
        load_kaneshiro(root)
    header = (
        b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2024 HDF5 schema 1.00 ."
    )
    (root / "S1.mat").write_bytes(header.ljust(124) + b"\x00\x02IM" + bytes(600))
    with pytest.raises(ValueError, match=r"S1\.mat is of MATLAB 7\.3.*save it with -v7"):
        load_kaneshiro(root)


def test_simulated_files_have_the_published_layout(tmp_path):
    path = simulate_kaneshiro(tmp_path, subject=3, n_repeats=2)
    written = scipy.io.loadmat(path, squeeze_me=True)
    assert path == tmp_path / "S3.mat"
    assert written["X_3D"].shape == (124, 32, 144)
    assert (written["Fs"], written["N"], written["T"], written["sub"]) == (62.5, 32, 144, "S3")
    assert np.bincount(written["exemplarLabels"]).tolist() == [0] + [2] * 72
    assert np.array_equal(written["categoryLabels"], (written["exemplarLabels"].astype(int) - 1) // 12 + 1)
    assert np.allclose(written["X_3D"].mean(axis=0), 0, atol=1e-5)
    metadata = load_kaneshiro(tmp_path, subject=3).metadata
    assert metadata["simulated"].all()


def test_planted_ratios_of_signal_to_noise(tmp_path):
    n = 10
    settings = {"n_repeats": n, "snr_exemplar": 0.5, "snr_category": 0.0}
    dataset = load_kaneshiro(simulate_kaneshiro(tmp_path, **settings).parent)
    order = np.argsort(dataset.metadata["stimulus"], kind="stable")
    data = dataset.epochs.get_data()[order].reshape(72, n, 124, 32) * 1e6
    noise = data.var(axis=1, ddof=1).mean()
    signal = data.mean(axis=1).var(axis=0, ddof=1).mean() - noise / n
    assert np.sqrt(noise) == pytest.approx(10, rel=0.1)
    assert np.sqrt(signal / noise) == pytest.approx(0.5, rel=0.1)


def test_noise_falls_as_one_over_f(tmp_path):
    dataset = load_kaneshiro(simulate_kaneshiro(tmp_path, n_repeats=6, snr_exemplar=0, snr_category=0).parent)
    data = dataset.epochs.get_data() * 1e6
    power = np.mean(np.abs(np.fft.rfft((data - data.mean(0)) * np.hanning(32))) ** 2, axis=(0, 1))
    frequency = np.fft.rfftfreq(32, 1 / 62.5)
    band = (frequency >= 4) & (frequency <= 22)
    slope = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.25)
    assert power[frequency > 28].max() < 0.05 * power[band].min()


@pytest.mark.parametrize(("snr_category", "generalises"), [(0.0, False), (0.1, True)])
def test_random_folds_are_inflated_against_exemplars_left_out(tmp_path, snr_category, generalises):
    settings = {"snr_exemplar": 0.3, "snr_category": snr_category, "n_repeats": 12}
    dataset = load_kaneshiro(simulate_kaneshiro(tmp_path, **settings).parent)
    data = dataset.epochs.get_data()[:, ::4, 4:28:3].reshape(len(dataset), -1)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    exemplar = dataset.metadata["stimulus"].str[-2:].astype(int) - 1
    scores = {
        "random": cross_val_score(lda, data, dataset.keys, cv=KFold(4, shuffle=True, random_state=0)).mean(),
        "left out": cross_val_score(
            lda, data, dataset.keys, groups=exemplar % 12 % 4, cv=GroupKFold(4)
        ).mean(),
    }
    error = np.sqrt(
        1 / 6 * 5 / 6 / 72
    )  # of chance; where a picture falls is one draw, however often it is shown
    assert scores["random"] > scores["left out"] + 2 * error
    if generalises:
        assert scores["left out"] > 1 / 6 + 4 * error
    else:
        assert abs(scores["left out"] - 1 / 6) < 2 * error


def test_simulation_settings(tmp_path):
    one, two, again = (
        scipy.io.loadmat(simulate_kaneshiro(tmp_path / name, n_repeats=1, seed=seed, subject=person))["X_3D"]
        for name, seed, person in (("a", 0, 1), ("b", 0, 2), ("c", 0, 1))
    )
    assert np.array_equal(one, again)
    assert not np.allclose(one, two)
    with pytest.raises(ValueError, match=r"got 11, 72, 0\.2 and 0\.1"):
        simulate_kaneshiro(tmp_path, subject=11)
    with pytest.raises(ValueError, match=r"got 1, 72, -1 and 0\.1"):
        simulate_kaneshiro(tmp_path, snr_exemplar=-1)
