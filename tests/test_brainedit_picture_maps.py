"""Maps of a picture in a job: which trials stand behind which map, what D says, and what could not be run."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from brainedit.datasets.paired import PairedDataset
from brainedit.encoders.image import ReadyFeatures
from brainedit.jobs import brain_maps as brain
from brainedit.jobs import map_dependence as dependence
from brainedit.jobs import picture_maps as maps
from brainedit.jobs.joint import permuted_pairs
from brainedit.jobs.saliency_sections import map_sentence
from brainedit.joint_training import train_joint
from saliency.bands import band_map

COARSE = maps.map_maker("occlusion", window=112, stride=112)


@pytest.fixture(scope="module")
def model(viewing, pictures):
    dataset = PairedDataset(viewing.epochs, pictures).subset(viewing.train)
    return train_joint(dataset, n_dims=32, n_epochs=15, batch_size=24, progress=False)


@pytest.fixture(scope="module")
def held_out(viewing):
    return viewing.epochs[viewing.test]


class Deaf(torch.nn.Module):
    """An EEG encoder that gives the same vector for all EEG."""

    def __init__(self):
        super().__init__()
        self.vector = torch.nn.Parameter(torch.arange(1.0, 33.0))

    def forward(self, eeg):
        return self.vector + 0 * eeg.mean((1, 2))[:, None]


def deaf(model):
    changed = copy.deepcopy(model)
    changed.towers.eeg = Deaf()
    return changed


def of(epochs, name):
    return (epochs.metadata["stimulus"] == name).to_numpy()


def trials_behind(means):
    """Which trials a mean is over, where trial i is the i-th unit vector."""
    return [tuple(np.flatnonzero(row.numpy())) for row in means.flatten(1)]


def told_apart(names, array_epochs):
    """EEG that shows which trials a mean is over, and epochs whose trials have these stimuli."""
    metadata = {"stimulus": names} if names[0] else {"label": ["x"] * len(names)}
    return torch.eye(len(names))[:, None], array_epochs(np.zeros((len(names), 1, 4)), metadata)


def test_controls_are_different_means_of_as_many_trials_of_one_other_picture(array_epochs):
    names = [name for name, n in (("a", 3), ("b", 5), ("c", 3), ("d", 2)) for _ in range(n)]
    eeg, epochs = told_apart(names, array_epochs)
    own = np.array(names) == "a"
    found = maps.mean_responses(eeg, epochs, own, n_controls=30)
    assert found.own.flatten()[own] == pytest.approx(np.full(3, 1 / 3))
    assert found.rest.flatten()[~own] == pytest.approx(np.full(10, 1 / 10))
    behind = trials_behind(found.controls)
    assert len(set(behind)) == 30
    assert all(len(trials) == 3 and not own[list(trials)].any() for trials in behind)
    pure = [len({names[i] for i in trials}) == 1 for trials in behind]
    # three of five b and the three c give 11 different means; d has too few trials; the rest mix pictures
    assert pure[:11] == [True] * 11
    assert not any(pure[11:])
    assert found.n_mixed == 19


def test_controls_of_pictures_seen_once_are_single_trials(array_epochs):
    eeg, epochs = told_apart([f"{i}" for i in range(120)], array_epochs)
    found = maps.mean_responses(eeg, epochs, np.arange(120) == 5)
    assert len(set(trials_behind(found.controls))) == 100
    assert found.n_mixed == 0


def test_too_few_trials_for_controls_are_told(array_epochs):
    eeg, epochs = told_apart(["a"] * 4 + ["b"] * 4, array_epochs)
    with pytest.raises(ValueError, match=r"there are 4 beside 4 of this one"):
        maps.mean_responses(eeg, epochs, np.arange(8) < 4)
    with pytest.raises(ValueError, match="No trial was chosen"):
        maps.mean_responses(eeg, epochs, np.zeros(8, bool))


def test_few_pictures_as_controls_are_admitted(model, held_out, pictures):
    settings = {"window": 112, "stride": 112, "progress": False}
    found = maps.picture_maps(model, held_out, pictures["disc.png"], of(held_out, "disc.png"), **settings)
    assert found.n_mixed == 95  # five other pictures of four trials each
    assert "95 of these mix the trials of several pictures" in map_sentence(found)
    assert "mix" not in map_sentence(dataclasses.replace(found, n_mixed=5))


def test_one_pass_gives_each_name_the_map_of_its_vectors(model, held_out, pictures):
    image = model.prepare_image(pictures["disc.png"])
    twin = copy.deepcopy(model)
    torch.nn.init.normal_(twin.towers.image.weight)
    generator = torch.Generator().manual_seed(0)
    vectors = {"one": torch.randn(1, 32, generator=generator), "two": torch.randn(2, 32, generator=generator)}
    with torch.no_grad():
        found = maps.NamedScore(model, vectors, (twin, vectors["one"])).maps(COARSE, image)
        for name, some in vectors.items():
            alone = COARSE(model.score_embeddings(some), image).numpy()
            assert found[name] == pytest.approx(alone, abs=1e-4)
        of_twin = COARSE(twin.score_embeddings(vectors["one"]), image).numpy()
    assert found["permuted_training"] == pytest.approx(of_twin, abs=1e-3)
    assert not np.allclose(of_twin, found["one"], atol=1e-2)


@pytest.mark.parametrize("normalize", ["both", "distance"])
def test_stand_ins_have_the_length_of_phi_and_no_response_in_them(viewing, pictures, normalize):
    dataset = PairedDataset(viewing.epochs, pictures).subset(viewing.train)
    f = train_joint(dataset, n_dims=8, n_epochs=1, normalize=normalize, progress=False)
    eeg = f.prepare_eeg(viewing.epochs)
    with torch.no_grad():
        phi = f.embed_eeg(eeg[:2])
        one, other = (maps.stand_ins(f, some, eeg[4:6]) for some in (eeg[:2], eeg[2:4]))
    n = 8
    length = phi[:, :n].norm(dim=1).mean().item()
    for name in ("constant_vector", "random_vector"):
        assert one[name][:, :n].norm(dim=1).numpy() == pytest.approx(length, rel=1e-4)
        cosine = torch.nn.functional.cosine_similarity(one[name][:, :n], other[name][:, :n])
        assert cosine.numpy() == pytest.approx(1, abs=1e-5)
        assert (one[name][:, n:] == 1).all()  # what a distance adds to phi
    assert len(one["random_eeg_encoder"]) == 2 * maps.N_ENCODERS
    with torch.no_grad():
        assert not torch.allclose(one["random_eeg_encoder"][:2], phi, atol=1e-2)
        assert torch.allclose(f.embed_eeg(eeg[:2]), phi)  # the model itself is as it was


def test_maps_without_eeg_have_no_dependence(model, held_out, pictures):
    own = of(held_out, "disc.png")
    sources = dependence.dependence_sources(model, held_out, pictures, own, pictures["disc.png"])
    assert sources[0].name == "disc.png"
    assert len(sources) == 6
    blind = dependence.picture_dependence(deaf(model), held_out, sources, COARSE, progress=False)
    assert blind.result.value == pytest.approx(0, abs=1e-6)
    assert blind.result.p == 1
    assert blind.correlations == pytest.approx(np.ones((6, 6)), abs=1e-5)
    finer = maps.map_maker("occlusion", window=56, stride=28)
    found = dependence.picture_dependence(model, held_out, sources, finer, progress=False)
    assert found.seen
    assert found.result.n_pictures == 6
    assert found.result.p < 0.05
    assert found.result.value > found.result.null_interval[1]
    own_r, rest = np.diag(found.correlations), found.correlations[~np.eye(6, dtype=bool)]
    assert own_r.mean() - rest.mean() == pytest.approx(found.result.value, abs=1e-6)
    checks = {check.name: check for check in blind.checks}
    assert checks["mean_eeg"].r == pytest.approx(1, abs=1e-5)
    assert checks["other_eeg"].r == pytest.approx(1, abs=1e-5)
    assert not checks["permuted_training"].ran


def test_fewer_than_three_pictures_have_no_dependence(model, held_out, pictures):
    few = {name: pictures[name] for name in ("disc.png", "noise.png")}
    sources = dependence.dependence_sources(model, held_out, few, of(held_out, "disc.png"), few["disc.png"])
    found = dependence.picture_dependence(model, held_out, sources, COARSE)
    assert found.result is None
    assert "needs 3 pictures" in found.why_not
    assert "and had 2." in found.why_not


def test_pictures_of_the_dependence_were_seen_twice_and_did_not_train(model, array_epochs):
    names = ["a"] * 4 + ["b"] * 2 + ["c"] + ["d"] * 2 + ["e"] * 2 + ["f"] * 2
    epochs = array_epochs(np.zeros((len(names), 1, 4)), {"stimulus": names})
    known = dict.fromkeys("abcdef", np.zeros((8, 8, 3), np.uint8))
    trained = copy.copy(model)
    trained.card = {"training": {"stimuli": ["f"]}}
    pick = dependence.dependence_sources
    own = np.arange(len(names)) < 4
    assert [s.name for s in pick(trained, epochs, known, own, known["a"])] == ["a", "b", "d", "e"]
    some = pick(trained, epochs, known, own, known["a"], n_most=3)
    assert (len(some), some[0].name) == (3, "a")
    assert pick(trained, epochs, known, own, known["a"], n_most=0) == []
    del known["e"], known["d"]  # too few others did not train it: then all are taken
    assert [s.name for s in pick(trained, epochs, known, own, known["a"])] == ["a", "b", "f"]
    some = np.isin(np.arange(len(names)), [0, 4])  # a query that takes a trial of b: b is no other picture
    assert [s.name for s in pick(trained, epochs, known, some, known["a"])] == ["the chosen trials", "f"]


def test_halves_take_turns_run_by_run(model, array_epochs):
    metadata = {
        "stimulus": ["a"] * 6 + ["b"] * 2,
        "run": [2, 1, 2, 1, 1, 2, 1, 2],
        "onset": [30.0, 9.0, 10.0, 1.0, 5.0, 20.0, 2.0, 3.0],
    }
    epochs = array_epochs(np.zeros((8, 1, 4)), metadata)
    picture = np.zeros((8, 8, 3), np.uint8)
    own = np.arange(8) < 6
    (source, *_) = dependence.dependence_sources(model, epochs, {"b": picture}, own, picture, n_most=3)
    # run 2 comes first in the file; within a run by onset
    assert source.trials.tolist() == [2, 5, 0, 3, 4, 1]


def test_files_of_the_other_pictures_are_found_beside_this_one(array_epochs, tmp_path):
    names = ["sub/a.png", "sub/b.png", "c.png", "gone.png"]
    for name in names[:3]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    epochs = array_epochs(np.zeros((4, 1, 4)), {"stimulus": names})
    there = {name: tmp_path / name for name in names[:3]}
    assert dependence.find_pictures(epochs, tmp_path / "sub" / "a.png") == there
    assert dependence.find_pictures(epochs, images=tmp_path) == there
    assert dependence.find_pictures(epochs, tmp_path / "elsewhere.png") == {}
    with pytest.raises(FileNotFoundError, match=r"no folder of pictures .*nowhere"):
        dependence.find_pictures(epochs, images=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"None of the 4 pictures .*'sub/a\.png'"):
        dependence.find_pictures(epochs, images=tmp_path / "sub")


def test_a_twin_is_taken_only_from_the_same_training(model, viewing, pictures, tmp_path):
    model.save(tmp_path / "model")
    assert "No model_permuted lies beside" in maps.find_twin(tmp_path / "model", model)
    model.save(tmp_path / "model_permuted")
    assert "was not trained on permuted pairs" in maps.find_twin(tmp_path / "model", model)
    twin = copy.deepcopy(model)
    twin.card["training"]["permuted_pairs"] = True
    twin.save(tmp_path / "model_permuted")
    assert maps.find_twin(tmp_path / "model", model).card["training"]["permuted_pairs"]
    assert "itself was trained on permuted pairs" in maps.find_twin(tmp_path / "model_permuted", twin)
    twin.card["training"]["stimuli"] = ["others.png"]
    twin.save(tmp_path / "model_permuted")
    assert "was trained on other data" in maps.find_twin(tmp_path / "model", model)


def test_permuted_pairs_move_pictures_and_keep_what_belongs_together(viewing, pictures):
    dataset = PairedDataset(viewing.epochs, pictures)
    before = list(dataset.keys)
    permuted = permuted_pairs(dataset, seed=3)
    moved = set(zip(before, permuted.keys, strict=True))
    assert len(moved) == 6  # all trials of a picture go to one other
    assert len({new for _, new in moved}) == 6
    assert all(old != new for old, new in moved)
    assert list(dataset.keys) == before
    assert list(permuted_pairs(dataset, seed=3).keys) == list(permuted.keys)


def test_labels_are_dealt_anew_one_by_one(array_epochs, pictures):
    labels = ["face", "house"] * 20
    files = {"face": [pictures["disc.png"]], "house": [pictures["noise.png"]]}
    dataset = PairedDataset(array_epochs(np.zeros((40, 1, 4)), {"label": labels}), files, pair_by="label")
    dealt = permuted_pairs(dataset).keys
    assert sorted(dealt) == sorted(labels)
    assert 5 < sum(a != b for a, b in zip(labels, dealt, strict=True)) < 35


def test_bands_are_those_that_the_models_eeg_holds(model, caplog):
    found = brain.usable_bands(model)  # 50 Hz, .8 s: frequencies are 1.25 Hz apart, up to 25
    assert found == {"delta": (0.5, 4.0), "theta": (4.0, 8.0), "alpha": (8.0, 13.0), "beta": (13.0, 25.0)}
    eeg = torch.randn(1, 2, 40, generator=torch.Generator().manual_seed(0))
    band_map(lambda batch: batch.sum((1, 2)), eeg, sfreq=50.0, bands=found)
    assert not caplog.records


def test_the_cluster_test_says_what_it_tested(model, held_out, viewing, pictures):
    image = model.prepare_image(pictures["disc.png"])
    own = of(held_out, "disc.png")
    alone = brain.brain_maps(model, held_out, image, own)
    assert alone.clusters is None
    assert "there are 4 and 0" in alone.tested
    assert alone.neural.shape == (8, 40)
    assert alone.by_band.shape == (8, 4)
    sources = dependence.dependence_sources(model, held_out, pictures, own, pictures["disc.png"])
    over_pictures = brain.brain_maps(model, held_out, image, own, sources)
    assert over_pictures.clusters.unit == "pictures"
    assert over_pictures.clusters.n_units == 6
    more = viewing.epochs
    over_trials = brain.brain_maps(model, more, image, of(more, "disc.png"), sources)
    assert (over_trials.clusters.unit, over_trials.clusters.n_units) == ("trials", 12)
    assert over_trials.clusters.p.min() < 0.05  # the response to this picture has a pattern of its own
    blind = brain.brain_maps(deaf(model), held_out, image, own, sources)
    assert not blind.clusters.mask.any()


@pytest.mark.parametrize("method", ["gradcam", "rise"])
def test_methods_by_name_give_signed_maps(model, held_out, pictures, method):
    score = model.score_images(model.prepare_eeg(held_out)[:2])
    found = maps.map_maker(method, n_masks=40)(score, model.prepare_image(pictures["disc.png"]))
    assert found.shape == (2, 224, 224)
    assert found.min() < 0 < found.max()


def test_what_cannot_be_mapped_is_one_sentence(model, held_out, pictures):
    own = of(held_out, "disc.png")
    with pytest.raises(ValueError, match="Did you mean 'occlusion'"):
        maps.picture_maps(model, held_out, pictures["disc.png"], own, method="oclusion")
    with pytest.raises(ValueError, match=r"no larger than the picture .* got 500"):
        maps.picture_maps(model, held_out, pictures["disc.png"], own, window=500)
    with pytest.raises(ValueError, match="stride to be a whole number of at least 1, got 0"):
        maps.picture_maps(model, held_out, pictures["disc.png"], own, stride=0)
    short = held_out.copy().crop(0, 0.3)
    with pytest.raises(ValueError, match="do not fit the model"):
        maps.picture_maps(model, short, pictures["disc.png"], own)
    blind = copy.copy(model)
    blind._modules = model._modules | {"image_encoder": ReadyFeatures(4)}
    with pytest.raises(ValueError, match="sees no pictures"):
        maps.prepare_picture(blind, pictures["disc.png"])


def test_trials_without_named_pictures_have_no_dependence(model, array_epochs):
    epochs = array_epochs(np.zeros((8, 1, 4)), {"label": ["x", "y"] * 4})
    picture = np.zeros((8, 8, 3), np.uint8)
    assert dependence.find_pictures(epochs, "x.png") == {}
    assert dependence.dependence_sources(model, epochs, {}, np.arange(8) < 4, picture) == []
    assert pd.isna(epochs.metadata).sum().sum() == 0
