"""Cluster tests against scipy, brute force over sign flips, null rates and planted clusters."""

import warnings
from itertools import product

import mne
import numpy as np
import pytest
import torch
from scipy import stats

import saliency.neural
from saliency.clusters import cluster_test, placed_channels

NAMES = ["Fz", "Cz", "Pz", "POz", "O1", "O2", "T7", "F4"]


def noise(n: int = 12, n_channels: int = 8, n_times: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, n_channels, n_times))


def smooth(seed: int) -> np.ndarray:
    """Noise that neighbouring channels and moments share, as maps do."""
    maps = noise(12, 9, 34, seed)
    return maps[:, 1:, 2:-2] + maps[:, :-1, 2:-2] + sum(maps[:, 1:, i : 30 + i] for i in range(5))


def head(montage: str | None = "biosemi64") -> mne.Info:
    info = mne.create_info(NAMES, 100.0, "eeg")
    return info.set_montage(montage) if montage else info


def test_it_is_found_where_one_looks_for_it():
    assert saliency.neural.cluster_test is cluster_test


def test_t_is_the_one_sample_t():
    maps = noise()
    result = cluster_test(torch.from_numpy(maps), n_permutations=50)
    assert np.allclose(result.t, stats.ttest_1samp(maps, 0).statistic)
    assert result.threshold == pytest.approx(2.2009851600829489)  # two-sided 5 % of t with 11 degrees
    assert cluster_test(maps, threshold=3.0, n_permutations=50).threshold == 3.0


def test_p_of_one_cell_is_the_share_of_all_sign_flips():
    maps = np.array([0.4, 1.9, 0.8, -0.3, 1.1, 2.0, 0.9])[:, None]
    result = cluster_test(maps)
    flips = np.array(list(product((-1, 1), repeat=7)))
    masses = np.abs(stats.ttest_1samp(flips * maps[:, 0], 0, axis=1).statistic)
    assert result.p == pytest.approx([(masses >= abs(result.t[0]) - 1e-9).mean()])
    assert result.n_permutations == 64
    assert result.clusters.shape == (1, 1)
    assert result.mass == pytest.approx(result.t)


def test_mass_and_p_of_two_cells_by_brute_force():
    maps = noise(8, 1, 2, seed=3) + 1.2
    result = cluster_test(maps, threshold=1.0)

    def largest(values):
        t = stats.ttest_1samp(values, 0).statistic[0]
        runs = [t[t > 1].sum(), -t[t < -1].sum()]  # two cells in a row: all of one sign are one cluster
        return max(runs)

    masses = np.array([largest(maps * np.reshape(s, (8, 1, 1))) for s in product((-1, 1), repeat=8)])
    assert result.mass == pytest.approx([largest(maps)])
    assert result.p == pytest.approx([(masses >= largest(maps) - 1e-9).mean()])


def test_false_alarms_stay_near_five_percent():
    settings = {"n_permutations": 60}
    alarms = [cluster_test(smooth(seed), head(), seed=seed, **settings).mask.any() for seed in range(40)]
    assert sum(alarms) <= 6  # more than 6 of 40 has a chance of 0.3 %


def test_two_planted_clusters_are_found_with_their_signs():
    maps = noise()
    maps[:, 3:6, 8:14] += 1.5  # POz, O1, O2
    maps[:, 6, 20:26] -= 1.5  # T7
    result = cluster_test(maps, head(), tmin=-0.1, n_permutations=200)
    assert result.mask[3:6, 8:14].mean() > 0.9
    assert result.mask[6, 20:26].mean() > 0.9
    assert result.mask.sum() < 32
    found = result.table()[result.p <= 0.05]
    assert len(found) == 2
    assert found["mass"].tolist() == sorted(found["mass"], key=abs, reverse=True)
    assert {"POz", "O1", "O2"} <= set(found["channels"][0].split(", "))
    assert found["first"][0] == pytest.approx(-0.02, abs=0.011)
    assert found["last"][0] == pytest.approx(0.03, abs=0.011)
    assert found["mass"][1] < 0 < found["mass"][0]
    assert np.array_equal(result.mask, result.clusters[result.p <= 0.05].any(0))


def test_neighbours_form_one_cluster_and_strangers_two():
    maps = noise()
    maps[:, 4:6, 8:14] += 2  # O1, O2
    together, apart = (cluster_test(maps, info, n_permutations=200) for info in (head(), head(None)))
    assert (together.p <= 0.05).sum() == 1
    assert (apart.p <= 0.05).sum() == 2
    assert "Delaunay" in together.neighbours
    assert "no channel neighbours another" in apart.verdict


def test_channels_without_a_place_have_no_neighbours():
    info = head()
    info["chs"][4]["loc"][:3] = np.nan
    maps = noise()
    maps[:, 3:6, 8:14] += 2
    result = cluster_test(maps, info, n_permutations=200)
    alone = [set(names.split(", ")) for names in result.table()["channels"][result.p <= 0.05]]
    assert {"O1"} in alone
    assert any({"POz", "O2"} <= names for names in alone)
    assert result.neighbours.endswith("of the 7 placed channels")
    assert placed_channels(info) == [0, 1, 2, 3, 5, 6, 7]


def test_zero_and_constant_maps_have_defined_values():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        none = cluster_test(np.zeros((8, 3, 4)))
        same = cluster_test(np.full((8, 3, 4), 0.1))
    assert not none.t.any()
    assert not none.mask.any()
    assert none.p.shape == (0,)
    assert none.clusters.shape == (0, 3, 4)
    assert len(none.table()) == 0
    assert "No cluster over 8 trials" in none.verdict
    assert (same.t == 1e9).all()
    assert np.allclose(same.p, 1 / 128)


def test_the_sign_of_rounding_is_no_effect():
    maps = noise()
    maps[:, 2] = 1e-8 + 1e-9 * noise(seed=1)[:, 2]
    result = cluster_test(maps, n_permutations=100)
    assert not result.t[2].any()
    assert not result.mask[2].any()


def test_scale_and_sign_of_the_maps_do_not_matter():
    maps = smooth(3)
    plain = cluster_test(maps, n_permutations=100)
    turned = cluster_test(-1e-7 * maps, n_permutations=100)
    assert np.allclose(turned.t, -plain.t)
    assert np.array_equal(turned.p, plain.p)


def test_one_value_a_channel_and_bands_keep_their_shapes():
    maps = noise(12, 8, 5)
    maps[:, 4:6, 2] += 3
    channels = cluster_test(maps[:, :, 2], head(), n_permutations=100, unit="people")
    assert channels.t.shape == channels.mask.shape == (8,)
    assert channels.mask[4:6].all()
    assert "over 12 people" in channels.verdict
    names = ["delta", "theta", "alpha", "beta", "gamma"]
    bands = cluster_test(maps, head(), bands=names, n_permutations=100)
    assert bands.mask[4:6, 2].all()
    assert "alpha" in {bands.table()["first"][0], bands.table()["last"][0]}


def test_times_come_from_the_rate_or_count_samples():
    assert np.allclose(cluster_test(noise(), sfreq=200.0, tmin=1.0, n_permutations=50).times[:2], [1, 1.005])
    assert np.allclose(cluster_test(noise(), head(), tmin=1.0, n_permutations=50).times[:2], [1, 1.01])
    assert cluster_test(noise(), n_permutations=50).times[:2].tolist() == [0, 1]


def test_the_seed_alone_decides():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again = (cluster_test(smooth(5), n_permutations=50).p for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(cluster_test(smooth(5), n_permutations=50, seed=1).p, first)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_mne_says_nothing(capfd):
    cluster_test(noise(), head(), n_permutations=50)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("maps", "settings", "message"),
    [
        (np.zeros(8), {}, r"got shape \(8,\)"),
        (np.zeros((8, 0, 4)), {}, r"got shape \(8, 0, 4\)"),
        (np.full((8, 3, 4), np.nan), {}, "NaN"),
        (noise(5), {}, "5 maps and 1000 permutations no p is below 0.0625, alpha is 0.05"),
        (noise(1), {}, "1 maps and 1000 permutations no p is below 1"),
        (noise(), {"n_permutations": 10}, "12 maps and 10 permutations no p is below 0.1"),
        (noise(), {"n_permutations": 0}, "n_permutations .* got 0"),
        (noise(), {"threshold": -2.0}, "got -2.0"),
        (noise(), {"alpha": 0.0}, "got 0.0"),
        (noise(), {"sfreq": 0.0}, "got 0.0"),
        (noise(), {"bands": ["alpha"]}, "each of 30 bands, got 1"),
        (noise(12, 7), {"info": head()}, "info's 8 channels, got 7"),
    ],
)
def test_what_does_not_fit_is_refused(maps, settings, message):
    with pytest.raises(ValueError, match=message):
        cluster_test(maps, **settings)
