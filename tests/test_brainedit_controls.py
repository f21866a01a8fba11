"""Controls: planted signals pass them, planted artefacts do not, and each step equals a closed form."""

from itertools import pairwise
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from brainedit.audit import control_data
from brainedit.audit.control_data import CannotRun, relabelled
from brainedit.audit.control_evidence import FoldEvidence, LinearDecoder
from brainedit.audit.control_experiment import make_experiment
from brainedit.audit.control_statistics import ACCURACY, AUC, OWN_LESS_OTHERS, TOP_1, TWO_AFC, _ranks
from brainedit.audit.controls import CLAIMS, CONTROLS, Controls, controls_table, holm, run_controls
from brainedit.audit.exchange import Exchange, exchange_of
from brainedit.audit.phantom import phantom_dataset, phantom_trials
from brainedit.datasets.arrays import ArrayEpochs
from brainedit.datasets.paired import PairedDataset
from brainedit.evaluation import Score
from brainedit.splits import LeakageError

NAMES = ["Fp1", "Cz", "Pz", "Oz", "O1", "O2"]
QUIET = {"n_permutations": 39, "progress": False}


def simulated(array_epochs, *, signal=0.0, channel="Oz", at=0.3, n=200, n_runs=4, seed=0, names=NAMES):
    """Randomised trials of two labels in white noise; label "b" adds `signal` SD to one channel around `at` s."""
    rng = np.random.default_rng(seed)
    times = -0.2 + np.arange(50) / 50
    label = np.concatenate([rng.permutation(np.arange(n // n_runs) % 2) for _ in range(n_runs)])
    data = rng.normal(size=(n, len(names), len(times)))
    wave = np.exp(-0.5 * ((times - at) / 0.06) ** 2)
    data[label == 1, names.index(channel)] += signal * wave
    run = np.repeat(np.arange(n_runs), n // n_runs)
    metadata = pd.DataFrame(
        {
            "stimulus": [f"p{i:03d}" for i in range(n)],
            "label": np.array(["a", "b"])[label],
            "run": run,
            "onset": np.tile(np.arange(n // n_runs) * 1.5, n_runs),
        }
    )
    epochs = array_epochs(1e-5 * data, metadata, names=names, tmin=-0.2)
    noise = np.random.default_rng(1).integers(0, 255, (n, 8, 8, 3), dtype=np.uint8)
    return PairedDataset(epochs, dict(zip(metadata["stimulus"], noise, strict=True)))


def block_design(array_epochs, *, seed=0, n_classes=8, n_images=20):
    """Phantom EEG of two recordings, one block a class, in an order of its own in each."""
    rng = np.random.default_rng(seed)
    rows = []
    for run in range(2):
        start = 0.0
        for block, k in enumerate(rng.permutation(n_classes)):
            rows += [(f"c{k}", run, block, start + 0.5 * i) for i in range(n_images)]
            start += 0.5 * n_images + 10
    metadata = pd.DataFrame(rows, columns=["label", "run", "block", "onset"])
    data = phantom_trials(
        metadata["onset"].to_numpy(), metadata["run"].to_numpy(), np.arange(25) / 50, n_channels=8, seed=seed
    )
    images = {label: [np.zeros((4, 4, 3), np.uint8)] for label in metadata["label"].unique()}
    epochs = array_epochs(data, metadata, names=[f"C{i}" for i in range(8)], highpass=0.0)
    return PairedDataset(epochs, images, pair_by="label")


def random_folds(n, k=4):
    parts = np.array_split(np.random.default_rng(0).permutation(n), k)
    return [(np.setdiff1d(np.arange(n), part), np.sort(part)) for part in parts]


# statistics


def one_fold(values, own):
    fold = FoldEvidence(np.arange(len(own)), np.asarray(values, float), np.arange(np.shape(values)[1]))
    return [fold], [np.asarray(own)]


def of(statistic, values, own):
    folds, owns = one_fold(values, own)
    return statistic.value([statistic.table(fold.values) for fold in folds], owns, folds)


def test_the_auc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    own = rng.integers(0, 3, 60)
    values = rng.integers(-8, 8, (60, 3)) * 3.0  # with ties
    centred = values - values.mean(1, keepdims=True)
    expected = np.mean([roc_auc_score(own == k, centred[:, k]) for k in range(3)])
    assert of(AUC, values, own) == pytest.approx(expected)
    two = values[:, :2]
    assert of(AUC, two, np.minimum(own, 1)) == pytest.approx(roc_auc_score(own > 0, two[:, 1] - two[:, 0]))


def test_a_trial_offset_moves_no_auc():
    rng = np.random.default_rng(0)
    values, own = rng.normal(size=(40, 4)), np.arange(40) % 4
    assert of(AUC, values + 100 * rng.normal(size=(40, 1)), own) == pytest.approx(of(AUC, values, own))


def test_many_answers_at_once_give_what_each_gives():
    rng = np.random.default_rng(0)
    folds = [FoldEvidence(np.arange(20), rng.normal(size=(20, 3)), np.arange(3)) for _ in range(2)]
    owns = [rng.integers(0, 3, (6, 20)), np.vstack([np.zeros((1, 20), int), rng.integers(0, 3, (5, 20))])]
    for statistic in (AUC, ACCURACY, TWO_AFC):
        tables = [statistic.table(fold.values) for fold in folds]
        expected = [statistic.value(tables, [owns[0][i], owns[1][i]], folds) for i in range(6)]
        np.testing.assert_allclose(statistic.values(tables, owns, folds), expected)


def test_the_influence_gives_delongs_variance():
    rng = np.random.default_rng(1)
    own = np.arange(80) % 2
    score = rng.normal(size=80) + own
    folds, owns = one_fold(np.column_stack([-score, score]), own)
    measured = AUC.measure([AUC.table(f.values) for f in folds], owns, folds, 80)
    positive, negative = score[own == 1], score[own == 0]
    wins = positive[:, None] > negative
    delong = wins.mean(1).var() / 40 + wins.mean(0).var() / 40
    assert measured.influence.sum() == pytest.approx(0, abs=1e-12)
    assert (measured.influence**2).sum() == pytest.approx(delong)


def test_a_block_that_is_a_class_counts_as_one_draw():
    aucs = np.array([1.0, 1.0, 0.0, 0.0])  # classes of ten alike trials: two always told, two never
    own = np.repeat(np.arange(4), 10)
    values = np.zeros((40, 4))
    values[np.arange(40), own] = np.where(aucs[own] == 1, 10, -10)
    folds, owns = one_fold(values, own)
    measured = AUC.measure([AUC.table(f.values) for f in folds], owns, folds, 40)
    moved = measured.by_unit(own)
    assert measured.value == pytest.approx(0.5, abs=0.2)
    assert np.sqrt((moved**2).sum()) > 0.2  # the standard error of a mean of four such draws is 0.25


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [(TWO_AFC, (1 + 0.5 + 0.75) / 3), (TOP_1, (1 + 0 + 0.5) / 3), (ACCURACY, (1 + 0 + 0.5) / 3)],
)
def test_shares_of_a_gallery_by_hand(statistic, expected):
    values = [
        [3, 1, 2],
        [5, 4, 1],
        [0, 1, 1],
    ]  # own: first of three; second of three; tied for the first place
    assert of(statistic, values, [0, 1, 2]) == pytest.approx(expected)


def test_own_less_others_is_in_standard_deviations_and_zero_where_all_are_alike():
    z = np.array([3.0, 1, 2])
    expected = (3 - 1.5) / z.std()
    assert of(OWN_LESS_OTHERS, [z * 7 + 100], [0]) == pytest.approx(expected)
    assert of(OWN_LESS_OTHERS, [[4.0, 4, 4]], [0]) == 0


def test_pictures_count_alike_whatever_their_repeats():
    values = [[1, 0], [1, 0], [1, 0], [1, 0]]
    assert of(TWO_AFC, values, [0, 0, 0, 1]) == pytest.approx(0.5)


def test_chance_of_accuracy_is_that_of_unequal_numbers():
    folds, owns = one_fold([[1, 0]] * 10, [0] * 8 + [1] * 2)
    tables = [ACCURACY.table(f.values) for f in folds]
    assert ACCURACY.value(tables, owns, folds) == pytest.approx(0.8)
    assert ACCURACY.chance(tables, owns, folds) == pytest.approx(0.8)


# the linear pipeline


def test_with_two_classes_and_no_shrinkage_it_is_linear_discriminant_analysis(monkeypatch):
    monkeypatch.setattr("sklearn.covariance.ledoit_wolf", lambda x: (np.cov(x.T, bias=True), 0.0))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 6)) @ rng.normal(size=(6, 6))
    codes = np.arange(3000) % 2
    x[codes == 1] += rng.normal(size=6)
    fold = (np.arange(2000), np.arange(2000, 3000))
    decoder = LinearDecoder()
    values = decoder.decode(decoder.whiten(x, [fold]), 0, fold, codes).values
    model = LinearDiscriminantAnalysis(solver="svd", priors=[0.5, 0.5]).fit(x[fold[0]], codes[fold[0]])
    assert np.corrcoef(values[:, 1] - values[:, 0], model.decision_function(x[fold[1]]))[0, 1] > 1 - 1e-9


class Centroids(ClassifierMixin, BaseEstimator):
    """The linear pipeline once more, by the book: each fit from the beginning."""

    def fit(self, X, y):
        x = self._features(X)
        self.classes_, self.mean_, self.inverse_ = np.unique(y), x.mean(0), np.linalg.inv(ledoit_wolf(x)[0])
        self.means_ = np.stack([x[y == k].mean(0) for k in self.classes_]) - self.mean_
        return self

    def decision_function(self, X):
        x = self._features(X) - self.mean_
        values = x @ self.inverse_ @ self.means_.T
        values = values - 0.5 * np.einsum("ki,ij,kj->k", self.means_, self.inverse_, self.means_)
        return values[:, 1] - values[:, 0] if len(self.classes_) == 2 else values

    def _features(self, X):
        edges = np.ceil(np.arange(17) * 0.75 / 16 * 50 - 1e-4).astype(int)
        means = [X[..., a:b].mean(-1) for a, b in pairwise(edges)]
        return np.concatenate(means, 1) / 1e-5


def test_permuting_through_one_factorisation_equals_fitting_anew(array_epochs):
    dataset = simulated(array_epochs, signal=1.0, n=120)
    settings = {"claim": "category", "split": "run", "controls": [], **QUIET}
    fast, slow = run_controls(dataset, **settings), run_controls(dataset, Centroids(), **settings)
    for one, other in zip(fast.scores, slow.scores, strict=True):
        assert one.value == pytest.approx(other.value, abs=0.01)
        assert one.p == pytest.approx(other.p, abs=0.051)


# what is permuted


def test_blocks_keep_together_and_stay_in_their_recording():
    block = np.repeat(np.arange(8), 5)
    metadata = pd.DataFrame({"run": block // 4, "block": block % 4})
    codes = np.array([0, 1, 2, 3, 4, 5, 6, 7])[block]
    exchange = exchange_of(metadata, codes, claim="category", disjoint=False)
    assert exchange.unit == "block"
    rng = np.random.default_rng(0)
    found = np.array([exchange.permute(codes, rng) for _ in range(50)])
    assert (found.reshape(50, 8, 5).std(2) == 0).all()
    assert (np.sort(found[:, ::5][:, :4]) == np.arange(4)).all()
    assert len({tuple(row) for row in found}) > 20


def test_a_run_of_one_label_is_the_unit_whatever_its_blocks():
    metadata = pd.DataFrame({"run": np.repeat(np.arange(4), 10), "block": np.repeat(np.arange(8), 5)})
    codes = np.repeat([0, 1, 0, 1], 10)
    exchange = exchange_of(metadata, codes, claim="category", disjoint=False)
    assert exchange.unit == "run"
    assert exchange.n_arrangements(codes) == pytest.approx(6)  # 4 choose 2


def test_streaks_are_units_where_no_block_is_known():
    metadata = pd.DataFrame({"onset": np.arange(60.0)})
    streaks = np.repeat([0, 1, 2, 0, 1, 2], 10)
    assert exchange_of(metadata, streaks, claim="category", disjoint=False).unit == "streak"
    shuffled = np.random.default_rng(0).permutation(streaks)
    assert exchange_of(metadata, shuffled, claim="category", disjoint=False).unit == "trial"


def test_categories_of_repeated_pictures_are_permuted_among_pictures():
    rng = np.random.default_rng(0)
    stimulus = rng.permutation(np.repeat(np.arange(12), 5))
    metadata = pd.DataFrame({"stimulus": stimulus, "run": np.arange(60) % 5})
    codes = stimulus // 6
    exchange = exchange_of(metadata, codes, claim="category", disjoint=False)
    found = exchange.permute(codes, rng)
    assert exchange.unit == "picture"
    assert all(len(set(found[stimulus == k])) == 1 for k in range(12))
    assert exchange_of(metadata, codes, claim="relevance", disjoint=False).unit == "picture"
    by_task = codes ^ (metadata["run"].to_numpy() % 2)  # a picture is a target in some tasks only
    assert exchange_of(metadata, by_task, claim="relevance", disjoint=False).unit == "trial"


def test_trials_are_permuted_within_their_run():
    run = np.repeat(np.arange(3), 20)
    rng = np.random.default_rng(0)
    codes = np.concatenate([rng.permutation(20) < k for k in (5, 10, 15)]).astype(int)
    exchange = exchange_of(pd.DataFrame({"run": run}), codes, claim="category", disjoint=False)
    found = exchange.permute(codes, rng)
    assert exchange.unit == "trial"
    assert [found[run == k].sum() for k in range(3)] == [5, 10, 15]
    assert (found != codes).any()


def test_pictures_change_names_as_a_whole():
    codes = np.repeat(np.arange(6), 3)
    exchange = Exchange("picture", "", codes, np.zeros(18), pictures=True)
    found = exchange.permute(codes, np.random.default_rng(0))
    assert sorted(found[::3]) == list(range(6))
    assert (found.reshape(6, 3).std(1) == 0).all()
    assert exchange.n_arrangements(codes) == pytest.approx(720)


def test_holm_by_hand():
    assert dict(holm({"a": 0.01, "b": 0.04, "c": 0.03})) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


# what controls do to the data


def test_the_window_before_the_stimulus_holds_nothing_after_it(array_epochs):
    dataset = simulated(array_epochs)
    before = control_data.before_stimulus(dataset)
    assert before.epochs.tmin == 0
    np.testing.assert_array_equal(before.epochs.get_data(), dataset.epochs.get_data()[..., :10])
    with pytest.raises(CannotRun, match="hold 0 samples"):
        control_data.before_stimulus(before)


def test_filters_and_baseline_are_warned_of(array_epochs):
    epochs = array_epochs(np.ones((2, 2, 50)), {"label": ["a", "b"]}, tmin=-0.2, highpass=0.5, lowpass=10.0)
    assert len(control_data.before_stimulus_notes(epochs)) == 2
    epochs.apply_baseline((None, 0))
    assert "baseline" in control_data.before_stimulus_notes(epochs)[0]


def test_eye_channels_are_those_and_no_others(array_epochs):
    dataset = simulated(array_epochs, names=["Fp1", "AF8", "Cz", "Oz", "VEOG"], n=20)
    dataset.epochs.set_channel_types({"VEOG": "eog"}, verbose="error")
    eyes = control_data.eye_channels(dataset)
    assert eyes.epochs.ch_names == ["Fp1", "AF8", "VEOG"]
    assert set(eyes.epochs.get_channel_types()) == {"eeg"}
    np.testing.assert_array_equal(eyes.epochs.get_data()[:, 2], dataset.epochs.get_data()[:, 4])
    front = PairedDataset(dataset.epochs.copy().pick(["Fp1", "AF8"]), control_data.images_of(dataset))
    with pytest.raises(CannotRun, match="rests on these channels alone"):
        control_data.eye_channels(front)
    back = PairedDataset(dataset.epochs.copy().pick(["Cz", "Oz"]), control_data.images_of(dataset))
    with pytest.raises(CannotRun, match="no EOG channel and none of Fp1"):
        control_data.eye_channels(back)


def test_pseudo_blocks_are_stretches_of_time_with_both_labels_in_each_recording():
    rng = np.random.default_rng(0)
    metadata = pd.DataFrame({"run": np.repeat([0, 1], 50), "onset": np.tile(rng.permutation(50), 2)})
    blocks, labels = control_data.pseudo_blocks(metadata, seed=0)
    for run in (0, 1):
        rows = np.flatnonzero(metadata["run"] == run)
        assert (np.diff(blocks[rows][np.argsort(metadata["onset"][rows])]) >= 0).all()
        assert labels[rows].mean() == 0.5
    assert len(np.unique(blocks)) == 20


def test_a_codebook_has_one_vector_an_answer(array_epochs):
    dataset = simulated(array_epochs, n=40)
    labels = dataset.metadata["label"].to_numpy()
    code = control_data.random_codebook(dataset, labels, seed=0)
    assert len({code.pictures[key].tobytes() for key in code.keys}) == 2
    assert (
        len(
            {
                v.tobytes()
                for v in control_data.random_codebook(dataset, dataset.keys, seed=0).pictures.values()
            }
        )
        == 40
    )
    both = PairedDataset(dataset.epochs, {k: [np.zeros(3)] for k in "ab"}, pair_by="label")
    with pytest.raises(CannotRun, match="several answers"):
        control_data.random_codebook(both, dataset.keys, seed=0)


def test_low_level_features_tell_bright_from_dark():
    pictures = {"bright": np.full((8, 8, 3), 200, np.uint8), "dark": np.full((8, 8, 3), 20, np.uint8)}
    epochs = mne.EpochsArray(np.ones((4, 1, 5)), mne.create_info(1, 50.0, "eeg"), verbose="error")
    epochs.metadata = pd.DataFrame({"stimulus": ["bright", "dark"] * 2})
    features = control_data.low_level_features(PairedDataset(epochs, pictures))
    np.testing.assert_allclose(features[:, 0], [1, -1, 1, -1])


def test_lazy_epochs_stay_lazy_and_give_the_same(array_epochs):
    dataset = simulated(array_epochs, signal=2.0, n=80)
    epochs = dataset.epochs
    data = epochs.get_data(copy=False).astype(np.float32)
    lazy = ArrayEpochs(data, epochs.info, tmin=epochs.tmin, metadata=epochs.metadata)
    other = PairedDataset(lazy, control_data.images_of(dataset))
    part = relabelled(other, np.arange(10), np.array(["x", "y"] * 5), gallery=False)
    assert isinstance(part.epochs, ArrayEpochs)
    assert list(part.keys) == ["x", "y"] * 5
    np.testing.assert_array_equal(part.epochs.get_data(), data[:10])
    settings = {"claim": "category", "split": "run", "refit": False, **QUIET}
    one, two = run_controls(dataset, **settings), run_controls(other, **settings)
    assert two.score.value == pytest.approx(one.score.value, abs=1e-3)
    assert [r.score is None for r in two.results] == [r.score is None for r in one.results]


# phantom EEG


def test_phantom_noise_runs_on_through_a_recording_and_not_into_the_next():
    onset = np.array([0.0, 0.0, 0.5, 0.0])
    data = phantom_trials(onset, np.array([0, 0, 0, 1]), np.arange(100) / 100, n_channels=3, seed=0)
    np.testing.assert_array_equal(data[0], data[1])
    np.testing.assert_allclose(data[0][:, 50:], data[2][:, :50], atol=1e-7)
    assert np.abs(data[0] - data[3]).max() > 1e-6


def test_phantom_noise_has_its_amplitude_and_the_filter_takes_the_drift():
    onset, times = np.arange(0, 2000, 1.0), np.arange(20) / 50
    settings = {"recording": np.zeros(2000, int), "times": times, "n_channels": 6, "seed": 0}
    data = phantom_trials(onset, **settings)
    assert np.sqrt((data**2).mean()) == pytest.approx(np.hypot(10e-6, 20e-6), rel=0.35)
    filtered = phantom_trials(onset, highpass=1.0, **settings)
    assert np.abs(filtered.mean(-1)).std() < 0.2 * np.abs(data.mean(-1)).std()


def test_phantom_data_keep_everything_but_the_eeg(array_epochs):
    dataset = simulated(array_epochs)
    dataset.epochs.apply_baseline((None, 0))
    ghost, notes = phantom_dataset(dataset)
    assert notes == ()
    assert list(ghost.keys) == list(dataset.keys)
    assert ghost.epochs.ch_names == dataset.epochs.ch_names
    before = ghost.epochs.times <= 0
    np.testing.assert_allclose(ghost.epochs.get_data()[..., before].mean(-1), 0, atol=1e-11)
    dataset.epochs.metadata = dataset.metadata.drop(columns="onset")
    with pytest.raises(CannotRun, match="neither `onset` nor `block`"):
        phantom_dataset(dataset)
    dataset.epochs.metadata = dataset.metadata.assign(block=0)
    assert "no onsets are known" in phantom_dataset(dataset)[1][0]


# the whole


def test_a_planted_response_is_supported(array_epochs):
    found = run_controls(simulated(array_epochs, signal=2.0), claim="category", split="run", **QUIET)
    assert found.supported
    assert found.verdict.startswith("Supported")
    assert found.score.value > 0.75
    assert found.score.unit == "trial"
    results = {r.name: r for r in found.results}
    assert "vary within blocks" in results["block_permutation"].not_run
    assert "looks at no picture" in results["random_codebook"].not_run
    assert "shuffled_within_class" not in results
    assert "not run: block_permutation" in found.verdict
    assert found.as_dict()["controls"][0]["name"] == "shuffled_pairs"
    assert "prestimulus: " in str(found)


def test_noise_is_rarely_above_chance(array_epochs):
    settings = {"claim": "category", "split": "run", "controls": [], **QUIET}
    p = [run_controls(simulated(array_epochs, n=80, seed=s), **settings).score.p for s in range(12)]
    assert np.sum(np.array(p) < 0.05) <= 2
    assert 0.25 < np.mean(p) < 0.75


def test_a_block_design_is_no_evidence_under_random_folds(array_epochs):
    dataset = block_design(array_epochs)
    found = run_controls(dataset, claim="category", split=random_folds(len(dataset)), **QUIET)
    assert found.score.value > 0.9
    assert found.score.p > 0.05  # permuted among blocks, wrong labels do as well
    assert found.design == "confounded"
    assert not found.supported
    assert {r.name for r in found.results if r.vetoes} == {"block_permutation", "phantom"}
    assert "Not evidence of stimulus decoding" in found.verdict
    apart = run_controls(dataset, claim="category", split="run", **QUIET)
    assert apart.score.low < 0.5 < apart.score.high
    assert not any(r.vetoes for r in apart.results)
    assert not apart.supported


@pytest.mark.parametrize(
    ("where", "control"), [({"channel": "Fp1"}, "eye_channels"), ({"at": -0.1}, "prestimulus")]
)
def test_a_planted_artefact_is_vetoed_by_its_control_alone(array_epochs, where, control):
    dataset = simulated(array_epochs, signal=2.5, **where)
    found = run_controls(dataset, claim="category", split="run", **QUIET)
    fired = {r.name for r in found.results if r.fires}
    assert fired == {control}
    if control == "eye_channels":
        assert "Not evidence of stimulus decoding: eye_channels reaches the score" in found.verdict


def test_a_weaker_control_warns_and_does_not_veto(array_epochs):
    dataset = simulated(array_epochs, signal=3.0)
    data = dataset.epochs.get_data(copy=False)
    data[:, 0] += 0.35 * (data[:, 3] - data[:, 4])  # a trace of it at Fp1
    found = run_controls(dataset, claim="category", split="run", controls=["eye_channels"], **QUIET)
    (eyes,) = found.results
    assert eyes.fires
    assert not eyes.vetoes
    assert eyes.below[1] > 0
    assert found.supported
    assert "as a warning: eye_channels" in found.verdict


def test_bright_pictures_of_one_label_give_a_warning(array_epochs):
    dataset = simulated(array_epochs, signal=2.0, n=100)
    images = {
        name: np.full((8, 8, 3), 200 if label == "b" else 90, np.uint8) + np.uint8(i % 50)
        for i, (name, label) in enumerate(zip(dataset.keys, dataset.metadata["label"], strict=True))
    }
    dataset = PairedDataset(dataset.epochs, images)
    found = run_controls(
        dataset, claim="category", split="run", controls=["low_level", "shuffled_pairs"], **QUIET
    )
    result = found.results[0]
    assert result.score.value > 0.95
    assert result.fires
    assert not result.can_veto
    assert found.supported


def test_two_recordings_can_be_arranged_in_too_few_ways(array_epochs):
    dataset = simulated(array_epochs, signal=2.0, n=80)
    dataset.epochs.metadata = dataset.metadata.assign(run=np.where(dataset.metadata["label"] == "a", 0, 1))
    found = run_controls(dataset, claim="category", split=random_folds(80), **QUIET)
    assert not found.supported
    assert "Only 2 arrangements" in found.verdict or "confounded" in found.verdict
    by_name = {r.name: r for r in found.results}
    assert "arranged in 2 ways" in by_name["eye_channels"].not_run


def test_nothing_refitted_is_said(array_epochs):
    dataset = simulated(array_epochs, signal=2.0, n=80)
    found = run_controls(dataset, claim="category", split="run", refit=False, controls=[], **QUIET)
    assert "nothing refitted" in found.score.permuted
    assert found.score.p < 0.05


def test_the_p_of_held_out_evidence_is_as_wide_as_that_of_refitting(array_epochs):
    spread = []
    for seed in range(6):
        dataset = simulated(array_epochs, n=120, seed=seed)
        experiment = make_experiment(
            dataset,
            "lda",
            claim="category",
            split="run",
            column=None,
            n_permutations=200,
            smallest_p=0.01,
            seed=seed,
        )
        one, other = (experiment.main_findings(refit=r, progress=False)[0].null for r in (False, True))
        spread.append(one.std() / other.std())
    assert np.mean(spread) == pytest.approx(1, abs=0.15)  # without regard to shared trials it is 0.7


# pipelines that are functions


def linear_gallery(train, test):
    """Ridge from EEG to the pictures' features; the gallery's features are compared with what it predicts."""
    columns = sorted(set(test.keys))
    x, y = (d.epochs.get_data(copy=False).mean(-1) * 1e5 for d in (train, test))
    features = np.stack([train.pictures[k] for k in train.keys])
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ features)
    return (y @ weights) @ np.stack([test.pictures[k] for k in columns]).T


def viewing(array_epochs, *, by_class=False, n=60, seed=0):
    """Responses to feature vectors of 6 numbers; of their class alone where `by_class`."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 3
    centre = 2 * rng.normal(size=(3, 6))
    feature = centre[label] + rng.normal(size=(n, 6))
    coded = centre[label] if by_class else feature
    stimulus = np.repeat(np.arange(n), 2)
    data = np.repeat(coded[stimulus][:, :, None], 10, -1) + 0.5 * rng.normal(size=(2 * n, 6, 10))
    metadata = pd.DataFrame(
        {"stimulus": [f"p{i:02d}" for i in stimulus], "label": [f"c{k}" for k in label[stimulus]]}
    )
    metadata = metadata.assign(onset=rng.permutation(2 * n) * 2.0)
    images = {f"p{i:02d}": feature[i].astype(np.float32) for i in range(n)}
    return PairedDataset(array_epochs(1e-5 * data, metadata, names=NAMES), images)


def test_pictures_that_are_told_apart_pass(array_epochs):
    dataset = viewing(array_epochs)
    found = run_controls(dataset, linear_gallery, claim="picture", split="stimulus", **QUIET)
    assert found.supported
    assert found.score.unit == "picture"
    assert found.score.n == 60
    results = {r.name: r for r in found.results}
    assert not results["random_codebook"].fires
    assert results["shuffled_within_class"].score.value < found.score.value
    assert results["shuffled_within_class"].below[1] > 0


def test_classes_do_not_pass_for_pictures(array_epochs):
    dataset = viewing(array_epochs, by_class=True)
    settings = {"controls": ["shuffled_within_class"], "refit": False, **QUIET}
    found = run_controls(dataset, linear_gallery, claim="picture", split="stimulus", **settings)
    assert found.score.value > 0.6
    assert "Not evidence of stimulus decoding: shuffled_within_class" in found.verdict


def test_maps_are_judged_by_their_own_column(array_epochs):
    found = run_controls(
        viewing(array_epochs),
        linear_gallery,
        claim="map",
        split="stimulus",
        refit=False,
        controls=["shuffled_pairs"],
        **QUIET,
    )
    assert found.score.name.startswith("D, own less other")
    assert found.score.chance == pytest.approx(0)
    assert found.supported


def test_a_pipeline_cannot_read_the_answers_of_the_test_part(array_epochs):
    seen = []

    def cheat(train, test):
        labels = sorted(set(train.keys))
        seen.append((set(train.metadata), set(test.metadata), set(test.pictures) & set(train.pictures)))
        return (test.keys[:, None] == np.array(labels)).astype(float)

    dataset = simulated(array_epochs, n=200)
    found = run_controls(dataset, cheat, claim="category", split="run", controls=[], refit=False, **QUIET)
    assert 0.35 < found.score.value < 0.65
    assert "stimulus" not in seen[0][1]

    def cheat_gallery(train, test):
        return (test.keys[:, None] == np.array(sorted(set(test.keys)))).astype(float)

    found = run_controls(
        viewing(array_epochs),
        cheat_gallery,
        claim="picture",
        split="stimulus",
        controls=[],
        refit=False,
        **QUIET,
    )
    assert found.score.value < 0.65


def test_the_training_part_brings_its_own_pictures_alone(array_epochs):
    dataset = simulated(array_epochs, n=40)
    rows = np.arange(20)
    part = relabelled(dataset, rows, dataset.metadata["label"].to_numpy()[rows], gallery=False)
    assert part.pair_by == "label"
    wanted = {dataset.pictures[k].tobytes() for k in dataset.keys[rows]}
    assert {p.tobytes() for p in part.pictures.values()} == wanted


def test_a_control_that_breaks_the_pipeline_is_not_passed(array_epochs):
    def strict(train, test):
        if len(train.epochs.ch_names) != 6:
            raise ValueError("needs 6 channels, got 1")
        return np.random.default_rng(0).normal(size=(len(test), 2))

    dataset = simulated(array_epochs, n=80)
    found = run_controls(
        dataset, strict, claim="category", split="run", controls=["eye_channels"], refit=False, **QUIET
    )
    assert found.results[0].score is None
    assert "needs 6 channels, got 1" in found.results[0].not_run
    assert "eye_channels: not run" in str(found)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.ones((50, 3)), r"\(50, 2\) values; it gave \(50, 3\)"),
        (np.full((50, 2), np.nan), "100 of 100 values"),
    ],
)
def test_a_pipeline_must_keep_the_contract(array_epochs, values, match):
    dataset = simulated(array_epochs)
    with pytest.raises(ValueError, match=match):
        run_controls(dataset, lambda train, test: values, claim="category", split="run", **QUIET)


# the door


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"claim": "mind"}, "Unknown claim 'mind'"),
        ({"controls": ["fantom"]}, "Did you mean 'phantom'"),
        ({"controls": "phantom"}, "list of names; got 'phantom'"),
        ({"n_permutations": 19}, "n_permutations of 1 / alpha or more; got 0.05 and 19"),
        ({"column": "shape"}, "need 'shape' for every trial|needs 'shape'|The answers need 'shape'"),
        ({"pipeline": 3}, "got int"),
        ({"pipeline": "svm"}, "Unknown pipeline 'svm'"),
        ({"claim": "picture"}, "cannot score pictures that it was not trained on"),
        ({"split": []}, "The split has no fold"),
        ({"split": [([0, 1], [2, 999])]}, "names trials 0 to 79"),
    ],
)
def test_what_does_not_fit_is_refused(array_epochs, settings, match):
    dataset = simulated(array_epochs, n=80)
    with pytest.raises(ValueError, match=match):
        run_controls(dataset, **{"claim": "category", "split": "run"} | QUIET | settings)


def test_a_trial_on_both_sides_is_a_leak(array_epochs):
    dataset = simulated(array_epochs, n=80)
    with pytest.raises(LeakageError, match="Trial 5 is in training and in test"):
        run_controls(dataset, claim="category", split=[(np.arange(6), np.arange(5, 80))], **QUIET)


def test_a_class_that_training_lacks_is_named(array_epochs):
    dataset = simulated(array_epochs, n=80)
    label = (dataset.metadata["label"] == "a").to_numpy()
    folds = [(np.flatnonzero(label), np.flatnonzero(~label))]
    with pytest.raises(ValueError, match="Fold 0 has no trial of 'b' to train on"):
        run_controls(dataset, claim="category", split=folds, **QUIET)


def test_pictures_need_trials_paired_by_stimulus(array_epochs):
    with pytest.raises(ValueError, match="pair_by='label'"):
        run_controls(block_design(array_epochs), claim="picture", split="run", **QUIET)


def test_a_control_that_says_nothing_about_the_claim_says_so(array_epochs):
    dataset = simulated(array_epochs, n=80)
    found = run_controls(dataset, claim="category", split="run", controls=["shuffled_within_class"], **QUIET)
    assert "says nothing about a claim of category" in found.results[0].not_run


def test_the_table_names_every_claim_and_control():
    lines = controls_table().splitlines()
    assert len(lines) == 2 + len(CONTROLS)
    assert all(claim in lines[0] for claim in CLAIMS)
    assert lines[2].startswith("| `shuffled_pairs` | veto |")
    low = next(line for line in lines if "low_level" in line)
    assert "veto" not in low


def test_a_design_that_is_confounded_or_cannot_be_checked_is_never_supported():
    score = Score("AUC", 0.9, 50, "trial", 0.5, 0.85, 0.95, 0.001, 999, "answers")
    found = Controls("category", (score,), (), "confounded", ("Each label has one block.",), 0.05)
    assert not found.supported
    assert "Each label has one block." in found.verdict
    unknown = Controls("category", (score,), (), "unverifiable", ("There is no timing.",), 0.05)
    assert not unknown.supported
    assert unknown.verdict.startswith("Above chance, not refuted, but unverifiable: AUC 0.900")
    assert "There is no timing." in unknown.verdict
    untried = Controls("category", (score,), (), "supported", (), 0.05)
    assert not untried.supported
    assert untried.verdict.startswith("Above chance, but nothing that could refute it was run")


def test_ranks_with_ties_are_scipys():
    values = np.random.default_rng(0).integers(0, 5, (20, 3)).astype(float)
    np.testing.assert_array_equal(_ranks(values), rankdata(values, axis=0))


def test_the_readme_holds_the_table_of_controls():
    readme = Path(__file__).parent.parent / "README.md"
    assert controls_table() in readme.read_text(encoding="utf-8")
