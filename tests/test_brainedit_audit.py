"""Audit: designs with one planted fault each are called what they are, randomised ones are not accused."""

import json

import numpy as np
import pandas as pd
import pytest

from brainedit.audit.design import CLAIMS, audit_design
from brainedit.simulate.pictures import KINDS, draw_scene
from brainedit.splits import TrialSplit


def block_design(n_people=1, n_recordings=1, *, n_labels=40, n_pictures=12, orders=None, seed=0):
    """The schedule of EEG-CVPR40: all pictures of a class in a row, .5 s each, 10 s of black between classes."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(n_people):
        for recording in range(n_recordings):
            order = rng.permutation(n_labels) if orders is None else orders[recording]
            onset = 0.0
            for block, label in enumerate(order):
                for k in range(n_pictures):
                    stimulus = f"class{label}/{recording}_{k}.jpg"
                    rows.append([f"s{person}", f"{recording}", block, onset, f"class{label}", stimulus])
                    onset += 0.5
                onset += 10
    return pd.DataFrame(rows, columns=["subject", "run", "block", "onset", "label", "stimulus"])


def random_design(n=480, *, n_labels=4, n_runs=4, n_pictures=6, seed=0):
    """Labels and their pictures in random order, each picture equally often."""
    rng = np.random.default_rng(seed)
    picture = rng.permutation(np.arange(n) % (n_labels * n_pictures))
    table = pd.DataFrame({"subject": "s0", "run": np.arange(n) * n_runs // n})
    table["onset"] = rng.uniform(0.9, 1.4, n)
    table["onset"] = table.groupby("run")["onset"].cumsum()
    table["label"] = [f"label{p % n_labels}" for p in picture]
    return table.assign(stimulus=[f"p{p}.png" for p in picture])


def reasons(audit):
    return " ".join(audit.reasons)


# block designs


@pytest.mark.parametrize("claim", ["category", "picture", "map"])
@pytest.mark.parametrize("split", ["stimulus", "trial"])
def test_a_block_design_split_inside_its_blocks_is_confounded(claim, split):
    audit = audit_design(block_design(), claim=claim, split=split)
    assert audit.verdict == "confounded"
    assert "The clock alone tells the label: accuracy 1.000" in reasons(audit)
    time = audit.figures["clock"]["views"]["time"]
    assert time["value"] == 1.0  # every neighbour in time has the label
    assert time["chance"] == pytest.approx(11 / 479, abs=0.01)  # another trial of the same label
    assert time["p"] == pytest.approx(1 / 1201)
    assert audit.figures["blocks_per_value"] == {"smallest": 1, "median": 1.0}
    assert audit.figures["association"]["block"] == {"plain": 1.0, "adjusted": pytest.approx(1.0)}
    assert "recordings" in audit.remedy[0]


def test_the_same_is_known_from_blocks_without_onsets():
    """What the published file of EEG-CVPR40 and its publication tell: subject, label and block."""
    table = block_design(2).drop(columns=["onset", "run"]).assign(design_source="documented")
    table["block"] = table["label"]
    audit = audit_design(table, claim="category", split="stimulus")
    assert audit.verdict == "confounded"
    assert "from the block" in audit.reasons[0]
    assert "blocked according to the publication, not checked" in reasons(audit)
    people = audit_design(table.assign(stimulus=table["subject"] + table["stimulus"]), split="subject")
    assert people.verdict == "unverifiable"


def test_recordings_with_their_own_order_of_blocks_support_leaving_one_out():
    audit = audit_design(block_design(1, 2), claim="category", split="run")
    assert audit.verdict == "supported", str(audit)
    assert audit.figures["clock"]["views"]["position"]["permuted"] == "streaks"
    assert audit.figures["order"]["p"] > 0.001
    inside = audit_design(block_design(1, 2), claim="category", split="stimulus")
    assert inside.verdict == "confounded"


@pytest.mark.parametrize("shift", [0, 3])
def test_an_order_of_blocks_that_repeats_is_confounded_across_recordings(shift):
    rng = np.random.default_rng(2)
    order = rng.permutation(40)
    orders = [order[np.argsort(np.arange(40) + rng.uniform(0, shift + 1e-9, 40) * 2)] for _ in range(4)]
    audit = audit_design(block_design(1, 4, orders=orders), claim="category", split="run")
    assert audit.verdict == "confounded"
    assert "come in much the same order in 4 recordings" in reasons(audit)
    assert audit.figures["order"]["correlation"] > 0.95
    assert ("The clock alone tells the label" in reasons(audit)) or shift
    people = block_design(4, 1, orders=[order]).assign(run="1")
    assert (
        audit_design(people.assign(stimulus=people["subject"] + people["stimulus"]), split="subject").verdict
        == "confounded"
    )


def test_a_rank_correlation_of_planted_orders():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    orders = [rng.permutation(12) for _ in range(2)]
    audit = audit_design(block_design(1, 2, n_labels=12, orders=orders), split="run")
    wanted = spearmanr(*(np.argsort(order) for order in orders)).statistic
    assert audit.figures["order"]["correlation"] == pytest.approx(wanted)
    assert audit.figures["order"]["spread"] == pytest.approx(1 - (12**2 - 1) / (144**2 - 1))


def test_a_sequence_that_repeats_in_each_run_is_confounded():
    run = random_design(120, n_runs=1)
    table = pd.concat([run.assign(run=k, onset=run["onset"] + k) for k in range(5)])
    table["stimulus"] = [f"p{i}" for i in range(600)]
    audit = audit_design(table, split="run")
    assert audit.verdict == "confounded"
    assert audit.figures["clock"]["views"]["order"]["value"] == 1.0
    assert audit.remedy == ["Put the labels in a new random order in each recording."]


def test_two_long_blocks_in_one_order_are_too_few_to_tell():
    table = block_design(1, 2, n_labels=2, n_pictures=50, orders=[[0, 1], [0, 1]])
    audit = audit_design(table, split="run")
    assert audit.verdict == "unverifiable"
    assert "AUC" in audit.reasons[0]
    assert "too few blocks to exclude chance" in audit.reasons[0]


def test_a_share_of_labels_that_drifts_over_runs_is_told():
    rng = np.random.default_rng(0)
    table = random_design(2000, n_labels=2, n_runs=20)
    late = rng.random(2000) < np.where(table["run"] < 10, 0.2, 0.8)
    audit = audit_design(table.assign(label=late, stimulus=[f"{i}" for i in range(2000)]), split="run")
    assert audit.verdict == "confounded"
    assert audit.figures["clock"]["views"]["time"]["value"] > 0.75  # .8 against .2, but for the edges


def test_a_label_that_goes_with_the_session_is_told():
    table = random_design(800, n_runs=8)
    table["session"] = (table["run"] > 3).astype(int)
    table["label"] = np.where(table["session"] == 1, "new", "old")
    table["stimulus"] = [f"{i}" for i in range(800)]
    audit = audit_design(table, split="run")
    assert audit.verdict == "confounded"
    assert audit.figures["clock"]["views"]["session"]["value"] == 1.0


# recordings and people


def one_recording_per_class(n_people=6):
    """ThoughtViz: a person thinks of each class in one recording, from which windows are cut."""
    rows = [
        [f"s{person}", f"{label}", f"{label}", 0.25 * window]
        for person in range(n_people)
        for label in np.random.default_rng(person).permutation(10)
        for window in range(20)
    ]
    return pd.DataFrame(rows, columns=["subject", "run", "label", "onset"])


def test_one_recording_per_class():
    table = one_recording_per_class()
    inside = audit_design(table, split="trial")
    assert inside.verdict == "confounded"
    assert "Each label is one recording per person (60 in all)" in reasons(inside)
    assert 'Split with by="subject"' in " ".join(inside.remedy)
    outside = audit_design(table, split="run")
    assert outside.verdict == "unverifiable"
    assert "within a person it cannot be told" in reasons(outside)
    assert audit_design(table, split="subject").verdict == "supported"
    assert audit_design(table.drop(columns="onset"), split="subject").verdict == "unverifiable"
    assert not audit_design(random_design(), split="run").figures["one_recording_per_value"]


def test_one_label_per_person():
    table = pd.concat(
        [random_design(seed=k).assign(subject=f"s{k}", label=f"group{k % 2}") for k in range(6)]
    )
    table["stimulus"] = [f"{i}" for i in range(len(table))]
    audit = audit_design(table, split="run")
    assert audit.verdict == "confounded"
    assert "Each of 6 people has one label alone: the person tells it." in audit.reasons
    assert audit_design(table, split="subject").verdict == "supported"


def test_a_label_that_training_has_not():
    audit = audit_design(
        random_design().assign(label=lambda t: t["label"] + t["run"].astype(str)), split="run"
    )
    assert audit.verdict != "supported"
    assert (
        "16 of 16 values of 'label' are tested where no training trial has them, 'label00' among them"
        in reasons(audit)
    )


def test_new_labels_that_were_shown_in_blocks_are_confounded():
    audit = audit_design(block_design(), claim="picture", split="label")
    assert audit.verdict == "confounded"
    assert "each has a time of its own" in audit.reasons[0]
    assert audit_design(random_design(), claim="picture", split="label").verdict == "supported"


# pictures


def kaneshiro(seed=0):
    """72 pictures of 6 categories in random order, 3 blocks in each of 2 sessions (fewer repeats here)."""
    table = random_design(72 * 24, n_labels=6, n_runs=6, n_pictures=12, seed=seed)
    return table.assign(session=table["run"] // 3)


def test_random_folds_over_repeated_pictures_are_confounded_and_leaving_exemplars_out_is_not():
    table = kaneshiro()
    for split in ("trial", "run"):
        audit = audit_design(table, claim="category", split=split)
        assert audit.verdict == "confounded"
        assert "72 pictures are in training and in test, 100.0% of test trials" in audit.reasons[0]
        assert "repeated-stimulus confound" in audit.reasons[0]
        assert 'by="stimulus"' in audit.remedy[0]
    out = audit_design(table, claim="category", split=TrialSplit(by="stimulus", n_splits=4))
    assert out.verdict == "supported", str(out)
    assert "n_splits=4" in out.split
    new_runs = TrialSplit(by="run", n_splits=3, apart=["stimulus"])
    assert audit_design(table, claim="category", split=new_runs).verdict == "supported"
    assert audit_design(table, claim="picture", split="run").verdict == "confounded"
    assert audit_design(table, claim="picture").verdict == "supported"  # by stimulus unless said otherwise


def test_the_picture_may_be_seen_again_where_it_does_not_tell_the_target():
    """Each picture is a target in half of the tasks."""
    table = random_design(960, n_labels=2, n_pictures=12)
    table["target"] = np.random.default_rng(1).permutation(np.arange(960) % 2 == 0)
    audit = audit_design(table, claim="relevance", split="run")
    assert audit.verdict == "supported", str(audit)
    assert audit.figures["picture_alone"]["gain"] < 0.05
    table["target"] ^= (table["label"] == "label0") & (np.arange(960) % 3 > 0)
    table.loc[table["label"] == "label0", "target"] |= np.arange(480) % 3 > 0
    audit = audit_design(table, claim="relevance", split="run")
    assert audit.verdict == "confounded"
    assert audit.figures["picture_alone"]["p"] < 0.001


def test_copies_under_another_name_are_found():
    pictures = {
        f"p{k}.png": draw_scene(list(KINDS)[k % 12 : k % 12 + 1], [(0, 0, 64, 64)], size=64, seed=(k,))
        for k in range(24)
    }
    table = random_design()
    folds = list(TrialSplit().split(groups=table))
    assert audit_design(table, images=pictures, split=folds).verdict == "supported"
    pictures["p4.png"] = pictures["p0.png"][:, ::-1].copy()
    pictures["p1.png"] = np.clip(pictures["p9.png"].astype(int) + 3, 0, 255).astype(np.uint8)
    code = table["stimulus"].isin(["p0.png", "p1.png"])
    audit = audit_design(table, images=pictures, split=[(np.flatnonzero(~code), np.flatnonzero(code))])
    assert audit.verdict == "confounded"
    assert "2 pictures are in training and in test, 100.0% of test trials" in reasons(audit)
    assert "1 mirrored, 1 near" in reasons(audit)
    named = table.assign(picture_sha256=table["stimulus"].replace("p4.png", "p0.png"))
    assert audit_design(named, split=[(np.flatnonzero(~code), np.flatnonzero(code))]).verdict == "confounded"


# timing


def test_without_timing_nothing_is_supported():
    table = random_design()
    audit = audit_design(table.drop(columns=["onset", "run"]))
    assert audit.verdict == "unverifiable"
    assert "There is no timing: neither onset nor block nor run is known." in audit.reasons
    audit = audit_design(table.drop(columns="onset"))
    assert (audit.verdict, audit.reasons[0]) == (
        "unverifiable",
        "There is no onset, so the order of trials inside a run is not known.",
    )
    audit = audit_design(table.assign(onset=table["onset"].where(table["run"] > 0)))
    assert "120 of 480 trials have no onset" in audit.reasons[0]
    audit = audit_design(table.assign(onset=0.0))
    assert "480 trials have 4 different ones" in audit.reasons[0]


def test_the_publications_word_is_not_a_check():
    """THINGS-EEG2: random order in the publication, and perhaps onsets, but not from the recording."""
    audit = audit_design(random_design().assign(design_source="documented"), claim="picture")
    assert audit.verdict == "unverifiable"
    assert "randomised or blocked according to the publication, not checked" in audit.reasons[0]
    assert (
        audit_design(random_design().assign(design_source="recorded"), claim="picture").verdict == "supported"
    )


def test_pictures_seen_once_cannot_be_asked_of_the_clock():
    once = random_design().assign(stimulus=[f"{i}" for i in range(480)])
    assert audit_design(once, claim="picture").verdict == "supported"  # their labels can
    audit = audit_design(once.drop(columns="label"), claim="picture")
    assert audit.verdict == "unverifiable"
    assert "the clock cannot name it" in audit.reasons[0]
    repeated = random_design().drop(columns="label")
    assert audit_design(repeated, claim="picture").verdict == "supported"
    together = repeated.sort_values(["run", "stimulus"]).assign(onset=repeated["onset"].to_numpy())
    assert audit_design(together, claim="picture").verdict == "unverifiable"


# properly randomised


@pytest.mark.parametrize("split", ["stimulus", "run"])
def test_randomised_designs_are_not_accused(split):
    """Numbers of trials, labels and runs at random; at p < .001 a few views each, 2 of 40 would be chance's doing."""
    rng = np.random.default_rng(7)
    accused = 0
    for seed in range(20):
        n, n_labels, n_runs = rng.integers(200, 400), rng.integers(2, 13), rng.integers(2, 9)
        table = random_design(n, n_labels=n_labels, n_runs=n_runs, n_pictures=10, seed=seed)
        table["block"] = np.arange(n) // int(rng.integers(5, 40))
        if split == "run":
            table["stimulus"] = [f"{i}" for i in range(n)]
        accused += audit_design(table, split=split, seed=seed).verdict == "confounded"
    assert accused <= 1


def test_mutual_information_of_many_small_blocks_is_adjusted():
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    table = random_design().assign(block=lambda t: np.arange(480) // 4)
    found = audit_design(table).figures["association"]["block"]
    block = table["run"] * 1000 + table["block"]
    assert found["plain"] == pytest.approx(normalized_mutual_info_score(table["label"], block))
    assert found["adjusted"] == pytest.approx(adjusted_mutual_info_score(table["label"], block))
    assert found["plain"] > 0.1
    assert abs(found["adjusted"]) < 0.05


# the door


def test_the_report_is_plain():
    audit = audit_design(block_design(n_labels=5), split="stimulus")
    assert json.loads(json.dumps(audit.as_dict())) == audit.as_dict()
    text = str(audit)
    assert text.startswith("confounded: the claim 'label' under a split by stimulus\n- The clock alone")
    assert text.count("What to do: ") == len(audit.remedy) > 0
    assert audit_design(block_design(n_labels=5), split="stimulus") == audit  # the seed decides


def test_the_order_of_rows_does_not_matter_for_the_verdict():
    for table in (block_design(), random_design()):
        mixed = table.sample(frac=1, random_state=3)
        assert audit_design(table, split="stimulus").verdict == audit_design(mixed, split="stimulus").verdict


def test_many_folds_and_trials_are_sampled_and_that_is_said():
    audit = audit_design(random_design(), split=TrialSplit(n_splits=24))
    assert (audit.figures["n_folds_given"], audit.figures["n_folds"]) == (24, 20)
    assert audit.figures["n_tested"] == 480 * 20 // 24


def test_a_column_may_be_named():
    table = random_design().rename(columns={"label": "smile"})
    audit = audit_design(table, claim="direction", target="smile")
    assert audit.verdict == "supported"
    assert audit.figures["clock"]["column"] == "smile"


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"claim": "pictures"}, r"Unknown claim 'pictures'. Did you mean 'picture'"),
        (
            {},
            {"claim": "relevance", "target": "smile"},
            r"needs the column 'smile'; the metadata have subject",
        ),
        ({"label": "one"}, {}, r"two or more values of 'label'; there is \['one'\]"),
        ({"label": None}, {}, r"480 of 480 trials have no 'label'"),
        ({}, {"split": "picture"}, r"not by 'picture'"),
        ({}, {"split": []}, r"no folds"),
        ({}, {"split": [([0, 1], [480])]}, r"indices 0 to 479; one side is array\(\[480\]\)"),
        ({}, {"split": [([0, 1], [1])]}, r"Trial 1 is in training and in test"),
        ({}, {"split": [([0, 1],)]}, r"a pair \(train, test\) of trial indices; one has 1 parts"),
        ({}, {"images": {"p0.png": 0}}, r"more pictures are not in `images`"),
        ({"stimulus": None}, {"images": {}, "split": "run"}, r"where each trial has its `stimulus`"),
    ],
)
def test_what_cannot_be_audited_is_told(change, settings, message):
    with pytest.raises(ValueError, match=message):
        audit_design(random_design().assign(**change), **settings)
    assert set(CLAIMS) == {"picture", "category", "label", "relevance", "direction", "map"}


def test_labels_that_follow_the_person_are_confounded_even_when_not_perfectly():
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(20), 20)
    label = np.where(person < 10, "a", "b")
    label[:10] = "b"
    metadata = pd.DataFrame({"subject": person.astype(str), "label": label, "run": 1})
    metadata["onset"] = np.tile(np.arange(20.0), 20)
    metadata["stimulus"] = [f"{i}.png" for i in range(400)]
    found = audit_design(metadata, claim="category", split="stimulus")
    assert found.verdict == "confounded"
    assert "the person tells it" in found.reasons[0]
    metadata["label"] = rng.permutation(label)
    assert audit_design(metadata, claim="category", split="stimulus").verdict == "supported"


def test_labels_uneven_over_blocks_are_not_called_supported():
    rng = np.random.default_rng(1)
    block = np.repeat(np.arange(16), 30)
    label = np.where(rng.uniform(size=480) < 0.3, rng.integers(0, 2, 480), rng.permutation(16)[block] % 2)
    metadata = pd.DataFrame({"label": label.astype(str), "block": block, "run": block // 4})
    metadata["onset"] = np.tile(np.arange(120.0), 4)
    found = audit_design(metadata, claim="category", split="run")
    assert found.verdict != "supported"
    assert any("uneven over blocks" in reason for reason in found.reasons)
