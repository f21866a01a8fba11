"""Directions from recordings: people, tasks, groups, locks, arms and the report, on a generator linear in z."""

import functools
import json
from dataclasses import replace
from types import SimpleNamespace

import mne
import numpy as np
import pandas as pd
import pytest
from block_world import Blocks, Pixels

from brainedit.comparison import compare
from brainedit.datasets.latents import write_latents
from brainedit.directions import Direction, brain_direction
from brainedit.generators.load import save_generator
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.jobs import direction_arms, direction_inputs, direction_sections
from brainedit.jobs.direction_arms import compare_arms, shuffled_arm, steps_of
from brainedit.jobs.direction_inputs import EYES, read_latents_in
from brainedit.jobs.directions import direction_from_eeg, find_direction
from brainedit.jobs.directions import direction_sections as sections_of
from brainedit.judges import Judge
from brainedit.relevance import pool_relevance, score_trials
from brainedit.simulate.viewing import simulate_oddball
from brainedit.strengths import scan

CHANNELS = ("Fz", "Cz", "Pz", "P3", "P4", "Oz")
N = 60


def first_number(images):
    """The first number of z of pictures of `Blocks`."""
    return (images[:, 0, 4, 4] - 0.5) / 0.05


READ = Judge("first", "SD", "none", "closed form", first_number)


@pytest.fixture(scope="module")
def blocks():
    return Blocks(resolution=16, channels=(12, 8, 8, 8), z_dim=12).requires_grad_(False)


def recording(names, target, *, subject="s", seed=0, amplitude=20.0, channels=CHANNELS, eog=False, **columns):
    trials = pd.DataFrame({"stimulus": names, "target": target, **columns})
    trials = trials if subject is None else trials.assign(subject=subject)
    trials = pd.concat([trials.assign(run=run) for run in range(3)], ignore_index=True)
    quick = {"channels": channels, "sfreq": 100.0, "eog": eog}
    made = simulate_oddball(trials, amplitude_uv=amplitude, seed=seed, **quick).epochs
    if subject is None:
        made.metadata = made.metadata.drop(columns="subject", errors="ignore")
    return made


@pytest.fixture(scope="module")
def world(blocks):
    """Two people who saw the same 60 pictures; those with a positive first number are targets."""
    z = blocks.sample(N, seed=5).double().numpy()
    names = [f"face_{i:02d}.png" for i in range(N)]
    latents = pd.DataFrame(z, index=names)
    target = z[:, 0] > 0
    people = [recording(names, target, subject=s, seed=i) for i, s in enumerate("ab")]
    return SimpleNamespace(latents=latents, names=names, target=target, people=people)


def find(world, blocks, epochs=None, **settings):
    settings = {"target": "target", "n_permutations": 50} | settings
    return find_direction(
        epochs if epochs is not None else world.people[0], world.latents, blocks, **settings
    )


@pytest.fixture(scope="module")
def found(world, blocks):
    return find(world, blocks, world.people, name="first")


# recordings and people


def test_people_are_scored_each_by_themselves_and_pooled(world, found):
    alone = pd.concat([score_trials(epochs, target="target") for epochs in world.people], ignore_index=True)
    pd.testing.assert_frame_equal(found.trials, alone)
    pd.testing.assert_series_equal(found.relevance, pool_relevance(alone))
    assert found.direction.provenance["n_people"] == 2
    assert found.direction.provenance["simulated"] is True
    assert found.direction.vector[0] > 0.8


def test_one_file_with_two_people_gives_what_two_files_give(world, blocks, found):
    together = mne.concatenate_epochs(world.people, verbose="error")
    again = find(world, blocks, together, name="first")
    assert again.trials["probability"].to_numpy() == pytest.approx(found.trials["probability"].to_numpy())
    assert again.direction.vector == pytest.approx(found.direction.vector)


def test_people_without_names_are_several_and_one_person_comes_once(world, blocks):
    nameless = [recording(world.names, world.target, subject=None, seed=i) for i in (0, 1)]
    pooled = find(world, blocks, nameless)
    assert set(pooled.trials["subject"]) == {"recording 1", "recording 2"}
    with pytest.raises(ValueError, match="Person 'a' is in two of the 2 recordings"):
        find(world, blocks, [world.people[0], world.people[0]])
    with pytest.raises(ValueError, match="one recording or more; none came"):
        find(world, blocks, [])


def test_reliable_people_weigh_more(world, blocks):
    noise = recording(world.names, world.target, subject="b", seed=9, amplitude=0.0)
    people = [world.people[0], noise]
    weighted = find(world, blocks, people, weights="reliability")
    expected = pool_relevance(weighted.trials, weights="reliability")
    pd.testing.assert_series_equal(weighted.relevance, expected)
    assert weighted.auc.value < 0.95
    assert not np.allclose(expected, pool_relevance(weighted.trials))


def test_the_hierarchical_method_takes_a_table_of_people(world, blocks, found):
    pooled = find(world, blocks, world.people, method="hierarchical")
    table = {s: pool_relevance(own) for s, own in found.trials.groupby("subject")}
    expected = brain_direction(
        world.latents, pd.DataFrame(table).T, space="z", method="hierarchical", generator=blocks
    )
    assert pooled.direction.vector == pytest.approx(expected.vector)
    assert len(pooled.shuffled) == 100
    with pytest.raises(ValueError, match="weighs people itself"):
        find(world, blocks, world.people, method="hierarchical", weights="reliability")


def test_transfer_between_people_needs_the_same_channels(world, blocks):
    other = recording(world.names, world.target, subject="c", channels=CHANNELS[:4])
    with pytest.raises(ValueError, match="The scheme 'subject' needs recordings of the same channels"):
        find(world, blocks, [world.people[0], other], scheme="subject")
    assert find(world, blocks, world.people, scheme="subject").auc.value > 0.8


# tasks


@pytest.fixture(scope="module")
def tasks(world, blocks):
    """One person, two pairs of tasks: what is relevant differs, faces are the same."""
    wanted = {"old": world.target, "young": ~world.target, "fair": world.latents[1] > 0}
    parts = [
        pd.DataFrame({"stimulus": world.names, "target": np.asarray(t), "task": k}) for k, t in wanted.items()
    ]
    trials = pd.concat(parts, ignore_index=True)
    trials["task_pair"] = np.where(trials["task"] == "fair", "hair", "age")
    trials = trials.assign(subject="s", run=np.arange(len(trials)) % 3)
    return simulate_oddball(trials, amplitude_uv=20.0, channels=CHANNELS, sfreq=100.0).epochs


def test_one_task_of_several_gives_the_direction(world, blocks, tasks):
    with pytest.raises(ValueError, match=r"of 3 tasks \(fair, old, young\); choose with task="):
        find(world, blocks, tasks, scheme="task_pair")
    with pytest.raises(ValueError, match="No trial has the task 'bald'; known: fair, old, young"):
        find(world, blocks, tasks, scheme="task_pair", task="bald")
    old, fair = (find(world, blocks, tasks, scheme="task_pair", task=task) for task in ("old", "fair"))
    assert old.direction.vector[0] > 0.6
    assert fair.direction.vector[1] > 0.6
    assert set(old.trials["task"]) == {"old"}
    assert len(old.trials) == N
    assert old.direction.provenance["task"] == "old"


def test_across_tasks_the_labels_of_a_task_do_not_take_part(world, blocks, tasks):
    relabelled = tasks.copy()
    pair = (relabelled.metadata["task_pair"] == "age").to_numpy()
    rng = np.random.default_rng(0)
    relabelled.metadata.loc[pair, "target"] = rng.permutation(relabelled.metadata.loc[pair, "target"])
    before, after = (
        find(world, blocks, epochs, scheme="task_pair", task="old") for epochs in (tasks, relabelled)
    )
    pd.testing.assert_series_equal(before.relevance, after.relevance)
    assert "other tasks" in direction_sections.labels_sentence(before.direction)
    assert find(world, blocks, tasks, task="old").direction.provenance["scheme"] == "task_pair"  # unasked
    within = find(world, blocks, tasks, task="old", scheme="run")
    assert "prefer the scheme task_pair" in direction_sections.labels_sentence(within.direction)


# groups, locks, arms


def test_groups_count_as_one_picture(world, blocks):
    kind = np.arange(N) // 4
    grouped = find(world, blocks, recording(world.names, world.target, kind=kind), groups="kind")
    assert (grouped.direction.reliability["n"], grouped.direction.reliability["n_images"]) == (15, 60)
    assert "15 groups of 60 pictures" in direction_sections.reliability_section(grouped.direction).text[1]
    odd = recording(world.names, world.target, kind=kind)
    odd.metadata.loc[odd.metadata.index[0], "kind"] = 14
    with pytest.raises(ValueError, match=r"Picture 'face_00\.png' is in several groups of 'kind'"):
        find(world, blocks, odd, groups="kind")
    with pytest.raises(ValueError, match="the column 'kin', filled"):
        find(world, blocks, odd, groups="kin")


def test_shuffled_relevance_of_groups_keeps_their_means(world):
    rng = np.random.default_rng(1)
    kind = pd.Series(np.arange(N) // 4, index=world.names)
    relevance = pd.Series(rng.random(N), index=world.names)
    moved = direction_arms._exchanged(relevance, kind, rng)
    before, after = (np.sort(values.groupby(kind).mean()) for values in (relevance, moved))
    assert after == pytest.approx(before)
    assert moved.groupby(kind).mean().to_numpy() != pytest.approx(relevance.groupby(kind).mean().to_numpy())
    # what is shared inside groups alone cannot move a direction by single pictures
    constant = kind.astype(float)
    assert direction_arms._exchanged(constant, kind, rng).groupby(kind).nunique().eq(1).all()


def test_shuffled_arms_are_a_hundred_and_point_nowhere(world, blocks, found):
    assert len(found.shuffled) == 100
    cosines = np.array([move.vector @ found.direction.vector for move in found.shuffled])
    assert abs(cosines.mean()) < 4 * cosines.std() / 10
    assert found.control.vector == pytest.approx(found.shuffled[0].vector)
    assert found.control.provenance["generator_sha256"] == blocks.sha256
    kind = pd.Series(np.arange(N) // 4, index=world.names)
    settings = {"generator": blocks, "space": "z", "method": "ridge"}
    grouped = shuffled_arm(world.latents, found.relevance, groups=kind, **settings)
    assert len({tuple(move.vector) for move in grouped}) == 100


def test_logged_targets_give_the_explicit_direction(world, blocks, found):
    logged = pd.Series(world.target.astype(float), index=world.names)
    expected = brain_direction(world.latents, logged, space="z", generator=blocks)
    assert found.explicit.vector == pytest.approx(expected.vector)
    other = recording(world.names, ~world.target, subject="b", seed=3)
    assert (
        find(world, blocks, [world.people[0], other]).explicit is None
    )  # every picture a target for one of two


def test_locks_are_kept(world, blocks, tmp_path):
    held = Direction(np.eye(12)[0], "z", 1.0, "held", {"generator_sha256": blocks.sha256})
    locked = find(world, blocks, locks=[held.save(tmp_path / "held.safetensors")])
    assert locked.direction.vector[0] == pytest.approx(0, abs=1e-9)
    assert locked.control.vector[0] == pytest.approx(0, abs=1e-9)
    assert locked.direction.reliability["n"] == N
    assert "'held'" in direction_sections.reliability_section(locked.direction).text[2]
    other = Direction(np.eye(12)[1], "z", 1.0, "far", {"generator_sha256": "0" * 64})
    with pytest.raises(ValueError, match="lock 'far' was found in another generator"):
        find(world, blocks, locks=[other])
    with pytest.raises(ValueError, match="lock 'w' lives in 'w'; the direction is looked for in 'z'"):
        find(world, blocks, locks=[Direction(np.eye(12)[1], "w", 1.0, "w")])
    same = find(world, blocks).direction
    with pytest.raises(ValueError, match="Nothing of direction 'target' is left when 'target'"):
        find(world, blocks, locks=[same])


@pytest.fixture(scope="module")
def compared(world, blocks, found):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direction_arms, "compare", functools.partial(compare, identity=Pixels()))
        return compare_arms(found.direction, found.shuffled, blocks, READ, explicit=found.explicit)


def test_arms_at_equal_steps_are_what_geometry_says(blocks, found, compared):
    step = steps_of(found.direction, blocks)[-1]
    assert step == pytest.approx(3 * found.direction.scale, rel=0.02)  # z has standard deviation 1
    table = compared.matched("step", step)
    assert list(table.index) == ["brain", "logged targets", "judge's own", "shuffled", "random"]
    brain, own = (table.loc[name, "change"] for name in ("brain", "judge's own"))
    assert brain == pytest.approx(step * found.direction.vector[0], rel=0.1)  # of the population's SD, near 1
    assert own == pytest.approx(step, rel=0.1)
    assert table.loc["shuffled", "low"] < 0 < table.loc["shuffled", "high"]
    section = direction_sections.comparison_section(compared)
    text = "None of 100 directions from shuffled EEG move first as far as the brain's, the same way."
    assert section.text[1] == text
    arm = compared.arms["brain"]
    turned = replace(compared, arms=compared.arms | {"brain": replace(arm, changes=-arm.changes)})
    assert direction_sections.shuffled_sentence(turned) == text  # of a judge that counts the other way
    assert [row[0] for row in section.table[1]] == list(table.index)
    assert section.table[1][0][3].startswith(f"{brain / table.loc['logged targets', 'change']:.2f}")


def test_a_judge_is_looked_up_before_the_work(world, blocks, monkeypatch):
    monkeypatch.setattr(direction_inputs, "score_trials", None)
    with pytest.raises(ValueError, match="Unknown judge 'smiles'"):
        find(world, blocks, judge="smiles")


# the eyes


def test_the_eyes_alone_are_scored_where_there_are_channels(world, blocks, found):
    assert "needs EOG channels" in found.eyes
    blinks = recording(world.names, world.target, channels=(*CHANNELS, "Fp1", "Fp2"), eog=True)
    rows = blinks.metadata["target"].to_numpy()
    data = blinks.get_data(copy=False)
    eyes = [blinks.ch_names.index(name) for name in ("Fp1", "Fp2")]
    data[np.ix_(rows, eyes)] += 200e-6 * np.hanning(data.shape[2])
    told = find(world, blocks, blinks)
    assert told.eyes.name == EYES
    assert told.eyes.value > 0.95
    assert "a warning, not a proof" in direction_sections.eyes_sentence(told)
    assert "was not measured" in direction_sections.eyes_sentence(found)


# the report


@pytest.fixture(scope="module")
def sections(world, blocks, found):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direction_sections, "scan", functools.partial(scan, identity=Pixels()))

        return sections_of(found, world.people, blocks, target="target")


def test_the_report_says_what_was_found(found, sections):
    titles = [section.title for section in sections]
    assert titles == [
        "Is the response to targets different?",
        "How far to trust the direction",
        "How many looks a better direction needs",
        "Until when it is the same face",
        "New pictures, edited",
    ]
    relevance, trust, looks, identity, _ = sections
    assert [score.name for score in relevance.scores] == ["relevance AUC", "relevance AUC within folds"]
    low, high = found.direction.reliability["predicted_interval"]
    assert trust.table[1][1][1] == f"{low:.3f} to {high:.3f}"
    assert [row[0] for row in looks.table[1]] == ["0.5", "0.7", "0.9"]
    assert identity.text[0].startswith("Identity breaks where the median picture")
    assert len(identity.table[1]) == 6


def test_looks_grow_with_the_cosine(found):
    rows = direction_sections.looks_section(found.direction).table[1]
    numbers = [float(row[1].replace(",", "")) for row in rows]
    assert numbers == sorted(numbers)
    assert direction_sections._count(float("inf")) == "out of reach"
    assert (direction_sections._count(41.2), direction_sections._count(1234)) == ("42", "1,300")


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        ((-2.0, None), "backwards it breaks at -2.0 SD, forwards it does not break by +6 SD."),
        ((None, 3.25), "backwards it does not break by -6 SD, forwards it breaks at +3.2 SD."),
    ],
)
def test_where_identity_breaks_is_said_for_both_ways(breaks, said):
    table = pd.DataFrame({"strength": [-6.0, 0.0, 6.0]})
    found = SimpleNamespace(table=table, breaks=breaks, rule="so")
    assert direction_sections.breaks_sentence(found) == f"Identity breaks where so: {said}"


def test_recordings_with_other_channels_are_not_averaged_with_the_first(world):
    other = recording(world.names, world.target, subject="c", channels=CHANNELS[:4])
    responses, n = direction_sections.mean_responses([*world.people, other], "target")
    assert n == 2
    data = np.concatenate([epochs.get_data()[np.tile(world.target, 3)] for epochs in world.people])
    assert responses["targets"].data == pytest.approx(data.mean(0), abs=1e-12)


# files


def test_latents_of_another_space_are_refused(world, tmp_path):
    write_latents(world.latents, tmp_path / "w.safetensors", space="w")
    with pytest.raises(ValueError, match="holds latents in 'w'; needed are latents in 'z'"):
        read_latents_in(tmp_path / "w.safetensors", "z")
    world.latents.to_csv(tmp_path / "plain.csv")
    assert read_latents_in(tmp_path / "plain.csv", "z").shape == (N, 12)


@pytest.fixture(scope="module")
def files(world, tmp_path_factory):
    """Two people's files, the latents, and a small StyleGAN2 with the same number of latents in z and w."""
    root = tmp_path_factory.mktemp("files")
    small = {"channel_base": 64, "channel_max": 8}
    generator = StyleGAN2(z_dim=12, w_dim=12, img_resolution=16, synthesis_kwargs=small)
    save_generator(generator, root / "generator")
    for name, epochs in zip("ab", world.people, strict=True):
        epochs.save(root / f"{name}-epo.fif", verbose="error")
    write_latents(world.latents, root / "latents.safetensors", space="z")
    return root


def test_a_direction_from_two_files(files, tmp_path, monkeypatch):
    monkeypatch.setattr(direction_sections, "scan", functools.partial(scan, identity=Pixels()))
    out = direction_from_eeg(
        [files / "a-epo.fif", files / "b-epo.fif"],
        tmp_path / "out",
        target="target",
        generator=str(files / "generator"),
        latents=files / "latents.safetensors",
        preset="kangassalo2020",
    )
    record = json.loads((out / "result.json").read_text())
    assert {"epochs 1", "epochs 2", "latents"} == set(record["inputs"])
    assert set(record["figures"]["looks_needed"]) == {"0.5", "0.7", "0.9"}
    assert record["settings"]["preset"] == "kangassalo2020"
    assert "of 2 people" in (out / "report.html").read_text()
    saved = Direction.load(out / "direction.safetensors")
    assert saved.reliability["learning_curve"]["n"][0] == pytest.approx(N / 16)
    again = direction_sections.looks_section(saved)  # a file gives the same table as the report
    assert len(again.table[1]) == 3


def test_what_files_cannot_give_is_one_sentence(files, tmp_path):
    settings = {"target": "target", "generator": str(files / "generator")}
    latents = files / "latents.safetensors"
    twice = [files / "a-epo.fif", tmp_path / "copy-epo.fif"]
    twice[1].write_bytes(twice[0].read_bytes())
    with pytest.raises(ValueError, match=r"copy-epo\.fif holds the same as .*a-epo\.fif; give each"):
        direction_from_eeg(twice, tmp_path / "out", latents=latents, **settings)
    with pytest.raises(ValueError, match="'joint' is a joint model's compatibility; give the model too"):
        direction_from_eeg(twice[0], tmp_path / "out", latents=latents, classifier="joint", **settings)
    with pytest.raises(ValueError, match="holds latents in 'z'; needed are latents in 'w'"):
        direction_from_eeg(twice[0], tmp_path / "out", latents=latents, space="w", **settings)
    assert not (tmp_path / "out").exists()


def test_latents_are_checked_before_the_work(world, blocks, monkeypatch):
    monkeypatch.setattr(direction_inputs, "score_trials", None)
    with pytest.raises(ValueError, match=r"has latents \(12,\) in 'z'; these have 5 numbers"):
        find_direction(world.people[0], world.latents.iloc[:, :5], blocks, target="target")
    with pytest.raises(
        ValueError, match=r"'face_30\.png' and 29 more pictures that were shown have no latent"
    ):
        find_direction(world.people[0], world.latents.iloc[:30], blocks, target="target")
    bare = world.people[0].copy()
    bare.metadata = bare.metadata.drop(columns="stimulus")
    with pytest.raises(ValueError, match="fill the column 'stimulus'"):
        find_direction(bare, world.latents, blocks, target="target")
