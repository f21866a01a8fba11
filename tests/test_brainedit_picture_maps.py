"""Maps of a picture in a job: which trials stand behind which map, what D says, and what could not be run."""

import copy
import dataclasses
import functools

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from brainedit.datasets.paired import PairedDataset
from brainedit.encoders.image import ReadyFeatures
from brainedit.jobs import brain_maps as brain
from brainedit.jobs import map_dependence as dependence
from brainedit.jobs import map_trials as trials
from brainedit.jobs import picture_maps as maps
from brainedit.jobs.joint import _randomised_within, permuted_pairs
from brainedit.jobs.saliency import trials_of
from brainedit.jobs.saliency_sections import map_sentence, verdict_of, z_figure
from brainedit.joint_training import train_joint
from saliency.bands import band_map
from saliency.clusters import cluster_test
from saliency.dependence import eeg_dependence
from saliency.sanity import SanityCheck, map_verdict, map_z

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


def test_one_control_of_each_picture_where_there_are_99_of_them(array_epochs):
    names = ["own"] * 3 + [f"{i}" for i in range(110) for _ in range(4)] + ["rare"]
    eeg, epochs = told_apart(names, array_epochs)
    own = np.array(names) == "own"
    found = trials.mean_responses(eeg, epochs, own)
    assert found.own.flatten()[own] == pytest.approx(np.full(3, 1 / 3))
    assert found.rest.flatten()[~own] == pytest.approx(np.full(441, 1 / 441))
    behind = trials_behind(found.controls)
    assert not found.permuted
    assert len(behind) == 100
    assert {len(some) for some in behind} == {3}
    assert len({names[some[0]] for some in behind}) == 100
    assert all(len({names[i] for i in some}) == 1 for some in behind)
    assert not any(own[list(some)].any() for some in behind)


def test_few_pictures_are_drawn_from_all_trials_and_shuffled_from_others_alone(array_epochs):
    names = [name for name, n in (("a", 3), ("b", 5), ("c", 3), ("d", 2)) for _ in range(n)]
    eeg, epochs = told_apart(names, array_epochs)
    own = np.array(names) == "a"
    found = trials.mean_responses(eeg, epochs, own)
    behind = trials_behind(found.controls)
    assert found.permuted
    assert len(set(behind)) == 100
    assert (0, 1, 2) not in behind
    share = np.mean([own[list(some)].mean() for some in behind])
    assert share == pytest.approx(3 / 13, abs=0.06)  # own trials come in as often as others
    apart = trials_behind(found.others)
    assert len(set(apart)) == 20
    assert all(len(some) == 3 and not own[list(some)].any() for some in apart)
    # three of five b and the three c: 11 different means of one picture; then pictures mix
    assert [len({names[i] for i in some}) == 1 for some in apart] == [True] * 11 + [False] * 9


@pytest.mark.parametrize(
    ("n_own", "n_others", "each"), [(40, 1, 60), (10, 4, 20), (1, 20, 2), (4, 12, 8), (4, 100, 4)]
)
def test_p_of_a_map_of_noise_is_uniform(array_epochs, n_own, n_others, each):
    names = ["own"] * n_own + [f"{i}" for i in range(n_others) for _ in range(each)]
    epochs = array_epochs(np.zeros((len(names), 1, 4)), {"stimulus": names})
    own, generator = np.array(names) == "own", torch.Generator().manual_seed(n_own)
    linear, p = torch.randn(12, 36, generator=generator), []
    for seed in range(200):
        eeg = torch.randn(len(names), 1, 12, generator=generator)
        found = trials.mean_responses(eeg, epochs, own, n_controls=39, seed=seed)
        means = torch.cat([found.own[None], found.controls])[:, 0] @ linear
        p.append(map_z(means[0].reshape(6, 6), means[1:].reshape(-1, 6, 6))[1])
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    assert np.mean(p) == pytest.approx(0.5, abs=0.08)


def test_other_trials_of_this_picture_are_no_controls(model, array_epochs):
    names, run = ["a"] * 6 + ["b"] * 3 + ["c"] * 3 + [None], [1, 1, 1, 2, 2, 2] + [1] * 7
    eeg, epochs = told_apart(names, array_epochs)
    own = (np.array(names) == "a") & (np.array(run) == 1)
    found = trials.mean_responses(eeg, epochs, own)
    assert np.flatnonzero(found.rest.flatten()).tolist() == [6, 7, 8, 9, 10, 11]
    left_out = {3, 4, 5, 12}  # a in run 2, and a trial that names no picture
    for means in (found.controls, found.others):
        assert not left_out & {i for some in trials_behind(means) for i in some}


def test_too_few_trials_for_controls_are_told(array_epochs):
    eeg, epochs = told_apart(["a"] * 4 + ["b"] * 3, array_epochs)
    with pytest.raises(ValueError, match=r"there are 3 beside 4 of this one"):
        trials.mean_responses(eeg, epochs, np.arange(7) < 4)
    with pytest.raises(ValueError, match=r"there are 3 beside 1 of this one"):
        trials.mean_responses(eeg[3:], epochs[3:], np.arange(4) < 1)
    with pytest.raises(ValueError, match="No trial was chosen"):
        trials.mean_responses(eeg, epochs, np.zeros(7, bool))


def test_the_report_says_what_the_controls_are(model, held_out, pictures):
    settings = {"window": 112, "stride": 112, "progress": False}
    found = maps.picture_maps(model, held_out, pictures["disc.png"], of(held_out, "disc.png"), **settings)
    assert found.permuted
    assert "100 maps from as many trials drawn at random from all" in map_sentence(found)
    one_each = dataclasses.replace(found, permuted=False)
    assert "the maps of 100 other pictures' responses" in map_sentence(one_each)
    assert z_figure(found).axes


def test_the_cluster_test_of_noise_is_right(model, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    theta = torch.randn(8, 20, generator=generator)

    def score(eeg):
        return (torch.tanh(eeg) * theta).sum((1, 2))

    few = functools.partial(brain.neural_maps, n_steps=4)
    monkeypatch.setattr(brain, "neural_maps", few)
    own, hits = np.arange(30) < 15, 0
    for seed in range(40):
        eeg = torch.nn.functional.avg_pool1d(torch.randn(30, 8, 20, generator=generator), 5, 1, 2)
        found = brain._trial_differences(score, eeg, own, ~own, seed)
        assert len(found) == 15
        hits += cluster_test(found, brain.model_info(model), n_permutations=60, seed=seed).mask.any()
    assert hits <= 6  # 2 are due; the binomial reaches 7 in 1 of 300


def test_the_lead_does_not_contradict_the_map_it_heads(model, held_out, pictures):
    own, settings = of(held_out, "disc.png"), {"window": 112, "stride": 112, "progress": False}
    one = maps.picture_maps(model, held_out, pictures["disc.png"], own, **settings)
    sources = dependence.dependence_sources(model, held_out, pictures, own, pictures["disc.png"])
    over = dependence.picture_dependence(model, held_out, sources, COARSE, progress=False)
    alike = SanityCheck("centre", "a Gaussian is drawn", 0.9, 0.9, True)
    one = dataclasses.replace(one, p=0.4, checks=[alike])
    lead = verdict_of(one, over)
    assert lead.index("D = ") < lead.index("This picture's map by itself cannot be told")
    assert "there too when a Gaussian is drawn (r = 0.90)" in lead
    lead = verdict_of(one, dataclasses.replace(over, mapped=False))
    assert lead.startswith("The map cannot be told")
    assert lead.index("For other pictures of this recording") < lead.index("D = ")
    few = dataclasses.replace(over, result=dataclasses.replace(over.result, p_floor=1 / 6))
    assert "D = " not in verdict_of(one, few)


def test_three_pictures_are_no_evidence_either_way():
    base = np.random.default_rng(0).normal(size=(3, 3, 8, 8))
    said = map_verdict(eeg_dependence(list(base), list(base)))
    assert "too few to tell" in said
    assert "picture map" not in said


def test_sources_are_of_the_subject_and_session_that_has_most_own_trials(model, array_epochs):
    table = pd.DataFrame(
        [
            (name, s, v)
            for s, v, k in (("A", 1, 2), ("B", 1, 3), ("B", 2, 2))
            for name in "abcde"
            for _ in range(k)
        ],
        columns=["stimulus", "subject", "session"],
    )
    epochs = array_epochs(np.zeros((len(table), 1, 4)), table)
    known = dict.fromkeys("abcde", np.zeros((8, 8, 3), np.uint8))
    own = (table["stimulus"] == "a").to_numpy()
    found = dependence.dependence_sources(model, epochs, known, own, known["a"])
    assert found.where == "subject B, session 1"
    assert [source.mapped for source in found] == [True] + [False] * 4
    for source in found:
        of_source = table.iloc[source.trials]
        assert set(of_source["subject"]) == {"B"}
        assert set(of_source["session"]) == {1}
        assert len(of_source) == 3


def test_a_source_that_cannot_be_read_is_left_out_and_named(model, array_epochs, pictures, tmp_path):
    names = [name for name in "abcdef" for _ in range(2)]
    epochs = array_epochs(np.zeros((12, 1, 4)), {"stimulus": names})
    known = dict.fromkeys("abcdef", pictures["disc.png"]) | {"c": tmp_path / "c.png"}
    known["c"].write_text("no picture")
    found = dependence.dependence_sources(model, epochs, known, np.arange(12) < 2, known["a"])
    assert [source.name for source in found] == ["a", "b", "d", "e", "f"]
    assert found.unread == ("c",)


@pytest.mark.parametrize(("n", "why"), [(0, "none was asked for"), (2, "at most 2 pictures, and needs 4")])
def test_why_no_dependence_was_measured(model, held_out, pictures, n, why):
    own = of(held_out, "disc.png")
    found = dependence.dependence_sources(model, held_out, pictures, own, pictures["disc.png"], n_most=n)
    assert why in found.why_not


def test_own_trials_and_pictures_that_trained_the_model_are_told(model, viewing, array_epochs):
    epochs, own = viewing.epochs, of(viewing.epochs, "disc.png")
    told = trials.memorised(model, epochs, own)
    assert told[0] == trials.MEMORISED
    assert "8 of the 12 trials" in told[1]
    bare = array_epochs(epochs.get_data(), {"label": ["x"] * len(epochs)})
    unseen = np.isin(np.arange(len(epochs)), viewing.test) & own
    assert trials.memorised(model, bare, unseen, "elsewhere/disc.png") == [trials.MEMORISED]
    assert trials.memorised(model, bare, unseen, "elsewhere/new.png") == []


def test_missing_metadata_is_no_traceback(model, array_epochs):
    table = {
        "stimulus": ["a", None, "b", "b", "a", "c", "c", "d", "d"],
        "subject": [None, None] + ["s"] * 7,
        "session": np.nan,
        "run": [1.0] * 8 + [np.nan],
        "onset": ["n/a", "1", "5", "3", "2", "6", "7", "8", "9"],
    }
    epochs = array_epochs(np.zeros((9, 1, 4)), table)
    known = dict.fromkeys("abcd", np.zeros((8, 8, 3), np.uint8))
    found = dependence.dependence_sources(model, epochs, known, np.arange(9) == 2, known["b"])
    assert found.why_not.endswith("had 2.")  # b was chosen once, a is s's once
    assert _randomised_within(pd.DataFrame(table))[:3].tolist() == ["//1.0", "//1.0", "s//1.0"]
    assert trials_of(epochs, "x/a").tolist() == [i in (0, 4) for i in range(9)]
    bare = array_epochs(np.zeros((9, 1, 4)))
    assert dependence.find_pictures(bare, "x.png") == {}
    assert "do not name their pictures" in dependence.dependence_sources(model, bare, {}, [], "a").why_not
    unnamed = array_epochs(np.zeros((2, 1, 4)), {"stimulus": [None, np.nan]})
    assert dependence.find_pictures(unnamed, images=".") == {}
    with pytest.raises(ValueError, match="do not name their pictures"):
        trials_of(unnamed, "a.png")


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


def test_fewer_than_four_pictures_have_no_dependence(model, held_out, pictures):
    few = {name: pictures[name] for name in ("disc.png", "noise.png", "red.png")}
    sources = dependence.dependence_sources(model, held_out, few, of(held_out, "disc.png"), few["disc.png"])
    found = dependence.picture_dependence(model, held_out, sources, COARSE)
    assert found.result is None
    assert "needs 4 pictures" in found.why_not
    assert "and had 3." in found.why_not


def test_pictures_of_the_dependence_were_seen_twice_and_did_not_train(model, array_epochs):
    names = ["a"] * 4 + ["b"] * 2 + ["c"] + ["d"] * 2 + ["e"] * 2 + ["f"] * 2
    epochs = array_epochs(np.zeros((len(names), 1, 4)), {"stimulus": names})
    known = dict.fromkeys("abcdef", np.zeros((8, 8, 3), np.uint8))
    trained = copy.copy(model)
    trained.card = {"training": {"stimuli": ["f"]}}
    pick = dependence.dependence_sources
    own = np.arange(len(names)) < 4
    assert [s.name for s in pick(trained, epochs, known, own, known["a"])] == ["a", "b", "d", "e"]
    some = pick(trained, epochs, known, own, known["a"], n_most=4)
    assert (len(some), some[0].name) == (4, "a")
    assert len(pick(trained, epochs, known, own, known["a"], n_most=0)) == 0
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
    (source, *_) = dependence.dependence_sources(model, epochs, {"b": picture}, own, picture, n_most=4)
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
    assert "there are 4, 20 and 0" in alone.tested
    assert alone.neural.shape == (8, 40)
    assert alone.by_band.shape == (8, 4)
    sources = dependence.dependence_sources(model, held_out, pictures, own, pictures["disc.png"])
    over_pictures = brain.brain_maps(model, held_out, image, own, sources)
    assert over_pictures.clusters.unit == "pictures"
    assert over_pictures.clusters.n_units == 6
    more = viewing.epochs
    over_trials = brain.brain_maps(model, more, image, of(more, "disc.png"), sources)
    assert (over_trials.clusters.unit, over_trials.clusters.n_units) == ("pairs of trials", 12)
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
    assert dependence.dependence_sources(model, epochs, {}, np.arange(8) < 4, picture).found == ()
    assert pd.isna(epochs.metadata).sum().sum() == 0


def test_controls_are_of_the_same_people_and_sessions(held_out):
    epochs = held_out.copy()
    names = epochs.metadata["stimulus"].to_numpy()
    half = np.arange(len(epochs)) % 2 == 0
    epochs.metadata = epochs.metadata.assign(subject=np.where(half, "A", "B"))
    own = half & (names == names[0])
    others = trials.other_trials(epochs, own)
    assert others.any()
    assert set(epochs.metadata["subject"][others]) == {"A"}
    assert not (names[others] == names[0]).any()
