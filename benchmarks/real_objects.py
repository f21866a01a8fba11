"""Object pictures: does EEG tell the first from the second picture of a pair, and do the eye channels tell it too?

Second pictures here are those that match the first. The two also differ in what is expected, in adaptation, in
the answer that is due, in eye movements, and in when they come: the file holds each person's earlier first pictures and
later second ones. Which picture was shown is not known. Channels lie against the vertex (see `reference_table`), so a
response that is largest there stands in every other channel, those at the eyes included.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from real_p300 import add_data_option, arguments, data_file, print_table, write_results
from sklearn.covariance import ledoit_wolf

from brainedit.audit.controls import Controls, run_controls
from brainedit.audit.design import DesignAudit, audit_design
from brainedit.datasets.paired import PairedDataset
from brainedit.eeg import standard_names
from brainedit.evaluation import Score, auc_difference, auc_score
from brainedit.montage import read_montage
from brainedit.splits import TrialSplit

LABELS = {"S1 obj": "first", "S2 match": "second", "S2 nomatch": "other second"}
NOT_SCALP = {"X": "eog", "Y": "eog", "nd": "misc", "Cz": "misc"}  # this "Cz" does not behave like the vertex
EYES = ("Fp1", "Fp2", "AF7", "AF8", "F7", "F8", "X", "Y")
CLAIMED, ALL, EYE, OUTER = "scalp", "all channels of the file", "eyes: X, Y and frontal", "eyes: X, Y"
SIDES, FRONT, BACK = "left less right at the eyes", "forehead, Fp less AF", "back of the head, less Pz"
DIFFERENCES = {  # in which the reference cancels
    SIDES: ["Fp2-Fp1", "AF8-AF7", "F8-F7"],
    FRONT: ["Fp1-AF1", "Fp2-AF2", "Fpz-AFz"],
    BACK: ["O1-Pz", "O2-Pz", "PO7-Pz", "PO8-Pz"],
}
PACE = 2.7  # s a picture; the file has the order alone, and only the phantom's drift depends on the pace
WINDOW, N_WINDOWS = 12, 16  # samples of 1/256 s: 47 ms, to .75 s as in `score_trials`
EARLY = 2  # windows, to 94 ms: too soon for the pictures to tell
HONEST = """\
First against second picture also differs in expectation, adaptation, the answer that is due, eye movements
and time in the session."""


def object_epochs(path: Path) -> mne.EpochsArray:
    """All trials in volts from 0 s on, with electrode positions; X and Y are EOG, nd and "Cz" are left out of the EEG.

    The file does not say when the picture came; the negative peak of about 165 ms over both occipital sides puts it
    at the first sample. `onset` is the trial's number at a nominal pace.
    """
    with np.load(path) as data:
        names = standard_names([str(name) for name in data["channels"]])
        kinds = [NOT_SCALP.get(name, "eeg") for name in names]
        info = mne.create_info(names, float(data["sfreq"]), kinds)
        metadata = pd.DataFrame({name: data[name] for name in ("subject", "trial", "split")})
        metadata = metadata.rename(columns={"split": "part"})
        metadata["label"] = [LABELS[str(condition)] for condition in data["condition"]]
        metadata["onset"] = metadata["trial"] * PACE
        volts = data["X"].astype(np.float64) * 1e-6
    epochs = mne.EpochsArray(volts, info, tmin=0.0, metadata=metadata, verbose="error")
    return epochs.set_montage(read_montage(), verbose="error")


def groups(epochs: mne.BaseEpochs) -> dict[str, list[str]]:
    """Channels of each group; "A-B" is the difference of two."""
    scalp = [name for name in epochs.ch_names if name not in NOT_SCALP]
    return {
        CLAIMED: scalp,
        ALL: epochs.ch_names,
        "posterior (P, PO, O)": [name for name in scalp if name[0] in "PO"],
        EYE: list(EYES),
        OUTER: ["X", "Y"],
        'the channel named "CZ"': ["Cz"],
    } | DIFFERENCES


def window_means(
    epochs: mne.BaseEpochs, channels: Sequence[str], *, n_windows: int = N_WINDOWS
) -> np.ndarray:
    """Means of windows of 47 ms from 0 s on, (n, n_channels * n_windows); their standard deviation is the unit."""
    pairs = [name.split("-") for name in channels]
    eeg = epochs.get_data(picks=[first for first, *_ in pairs], copy=False)[..., : n_windows * WINDOW].copy()
    for i, (_, *minus) in enumerate(pairs):
        if minus:
            eeg[:, i] -= epochs.get_data(picks=minus, copy=False)[:, 0, : n_windows * WINDOW]
    features = eeg.reshape(len(eeg), len(pairs), n_windows, WINDOW).mean(-1).reshape(len(eeg), -1)
    return features / features.std()


def publisher_fold(metadata: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """The publisher's parts, all people in both."""
    part = metadata["part"].to_numpy()
    return [(np.flatnonzero(part == "train"), np.flatnonzero(part == "test"))]


def own_folds(metadata: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """The publisher's parts of each person alone."""
    subject, (train, test) = metadata["subject"].to_numpy(), publisher_fold(metadata)[0]
    return [(train[subject[train] == who], test[subject[test] == who]) for who in np.unique(subject)]


def person_folds(metadata: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each person left out once."""
    subject = metadata["subject"].to_numpy()
    return [(np.flatnonzero(subject != who), np.flatnonzero(subject == who)) for who in np.unique(subject)]


SPLITS = {"train to test": publisher_fold, "person left out": person_folds, "own train to test": own_folds}


def held_out(
    features: np.ndarray, target: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Log-odds (n,) of shrinkage LDA, centred on their fold's mean; NaN where none was tested.

    Differs from `score_trials`: one covariance is shrunk for both classes, and solved for, which is faster here.
    """
    scores = np.full(len(target), np.nan)
    for train, test in folds:
        kind = target[train].astype(int)
        means = np.stack([features[train][kind == k].mean(0) for k in (0, 1)])
        covariance = ledoit_wolf(features[train] - means[kind], assume_centered=True)[0]
        values = features[test] @ np.linalg.solve(covariance, means[1] - means[0])
        scores[test] = values - values.mean()
    return scores


def scored(
    scores: np.ndarray, target: np.ndarray, subject: np.ndarray, name: str, *, by_person: bool
) -> Score:
    """AUC of the tested trials, targets permuted within people; `by_person`: the interval draws people anew."""
    tested = ~np.isnan(scores)
    units = {"unit": "person", "units": subject[tested]} if by_person else {}
    settings = {"within": subject[tested], "n_permutations": 1000, "n_bootstrap": 1000} | units
    return auc_score(target[tested], scores[tested], name=name, **settings)


def group_table(epochs: mne.BaseEpochs, target: np.ndarray, split: str) -> dict[str, Score]:
    """AUC of each group of channels under a split, and the eye channels less the scalp, paired."""
    metadata = epochs.metadata.reset_index(drop=True)
    folds, subject = SPLITS[split](metadata), metadata["subject"].to_numpy()
    scores = {
        name: held_out(window_means(epochs, channels), target, folds)
        for name, channels in groups(epochs).items()
    }
    early = window_means(epochs, groups(epochs)[CLAIMED], n_windows=EARLY)
    scores["scalp, first 94 ms alone"] = held_out(early, target, folds)
    by_person = split == "person left out"
    rows = {
        name: scored(values, target, subject, name, by_person=by_person) for name, values in scores.items()
    }
    tested = ~np.isnan(scores[CLAIMED])
    rows["eyes (X, Y and frontal) less scalp, over trials"] = auc_difference(
        target[tested], scores[EYE][tested], scores[CLAIMED][tested]
    )
    return rows


def clock_rows(epochs: mne.BaseEpochs) -> dict[str, Score]:
    """People left out: the trial's number alone, EEG where time tells less, and EEG on time alone."""
    metadata = epochs.metadata.reset_index(drop=True)
    late = (metadata["part"] == "test").to_numpy()
    second = (metadata["label"] == "second").to_numpy()
    rows = {}
    for name, used in {"all trials": np.ones(len(late), bool), "same stretch": late != second}.items():
        part = epochs[used]
        number = part.metadata["trial"] - part.metadata.groupby("subject")["trial"].transform("mean")
        subject = part.metadata["subject"].to_numpy()
        rows[f"{name}: trial number"] = scored(
            number.to_numpy(), second[used], subject, "trial number", by_person=True
        )
        for group in (CLAIMED, EYE):
            rows[f"{name}: {group}"] = _left_out_person(part, second[used], group)
    for kind, used in {"first": ~second, "second": second}.items():
        rows[f"{kind} pictures, early or late: scalp"] = _left_out_person(epochs[used], late[used], CLAIMED)
    return rows


def _left_out_person(epochs: mne.BaseEpochs, target: np.ndarray, group: str) -> Score:
    metadata = epochs.metadata.reset_index(drop=True)
    scores = held_out(window_means(epochs, groups(epochs)[group]), target, person_folds(metadata))
    return scored(scores, target, metadata["subject"].to_numpy(), group, by_person=True)


def reference_table(epochs: mne.BaseEpochs) -> dict[str, float]:
    """Standard deviation (µV, median over people) near the vertex, far from it, and of the channel named "CZ"."""
    place = epochs.get_montage().get_positions()["ch_pos"]
    vertex = read_montage().get_positions()["ch_pos"]["Cz"]
    scalp = groups(epochs)[CLAIMED]
    distance = np.array([np.linalg.norm(place[name] - vertex) for name in scalp])
    people = epochs.metadata["subject"].to_numpy()
    data = epochs.get_data(picks=[*scalp, "Cz"], copy=False) * 1e6
    sd = np.median([data[people == who].std((0, 2)) for who in np.unique(people)], 0)
    return {
        "6 electrodes nearest the vertex": float(np.median(sd[:-1][np.argsort(distance)[:6]])),
        "20 electrodes farthest from it": float(np.median(sd[:-1][np.argsort(distance)[-20:]])),
        'the channel named "CZ"': float(sd[-1]),
        "correlation over electrodes of SD and distance": float(np.corrcoef(sd[:-1], distance)[0, 1]),
    }


def paired(epochs: mne.BaseEpochs) -> PairedDataset:
    """Trials by label; each label stands for itself (one-hot), as no picture is known."""
    labels = sorted(set(epochs.metadata["label"]))
    codes = np.eye(len(labels), dtype=np.float32)
    return PairedDataset(
        epochs, {name: [code] for name, code in zip(labels, codes, strict=True)}, pair_by="label"
    )


def examined(epochs: mne.BaseEpochs) -> dict[str, tuple[DesignAudit, Controls]]:
    """Audit of the design and controls under the publisher's split and leaving out people."""
    dataset = paired(epochs)
    metadata = dataset.metadata.reset_index(drop=True)
    splits = {
        "train to test": publisher_fold(metadata),
        "person left out": TrialSplit(by="subject", n_splits=8),
    }
    return {
        name: (
            audit_design(metadata, claim="category", split=split),
            run_controls(dataset, "lda", claim="category", split=split, progress=False),
        )
        for name, split in splits.items()
    }


def conclusion(rows: dict[str, dict[str, Score]], controls: Sequence[Controls]) -> str:
    """What may be said of the contrast: not evidence about pictures where the eye channels come close."""
    vetoed = any(r.name == "eye_channels" and r.vetoes for c in controls for r in c.results)
    close = [name for name, table in rows.items() if table[EYE].value > table[CLAIMED].low]
    if not vetoed and not close:
        return f"{HONEST} The eye channels alone do not come near the scalp; which of the others drives it is open."
    under = f" under {' and '.join(close)}" if close else ""
    front, sides, back = (_span(rows, name) for name in (FRONT, SIDES, BACK))
    return (
        f"The eye channels alone come close{under}:\nthis contrast is not evidence about pictures.\n{HONEST}\n"
        "As the channels lie against the vertex, the eye channels hold the response there too. In differences,\n"
        f"in which the reference cancels, the AUC is {front} at the forehead (eyes or frontal brain),\n"
        f"{sides} from side to side at the eyes (horizontal eye movements) and {back} at the back of\n"
        "the head: it is hardly the eyes alone, and they are not ruled out."
    )


def _span(rows: dict[str, dict[str, Score]], name: str) -> str:
    values = [table[name].value for table in rows.values()]
    return f"{min(values):.2f} to {max(values):.2f}"


def main() -> None:
    """Measure, print the tables, write the JSON file."""
    options = add_data_option(arguments(__doc__.splitlines()[0], "real_objects")).parse_args()
    mne.set_log_level("error")
    start = time.time()
    everything = object_epochs(data_file(options.data, "object_pictures_64ch.npz"))
    label = everything.metadata["label"].to_numpy()
    epochs = everything[label != "other second"]
    second = (epochs.metadata["label"] == "second").to_numpy()
    results = {"reference_uv": reference_table(everything), "channels": groups(epochs)}
    print_table("Standard deviation, µV: which electrode is the reference", results["reference_uv"])
    results["first_second"] = {split: group_table(epochs, second, split) for split in SPLITS}
    for split, rows in results["first_second"].items():
        print_table(f"First against second (matching) picture, AUC; {split}", rows)
    results["clock"] = clock_rows(epochs)
    print_table("What time in the session tells; person left out", results["clock"])
    pairs = everything[label != "first"]
    matching = (pairs.metadata["label"] == "second").to_numpy()
    results["match"] = {split: group_table(pairs, matching, split) for split in list(SPLITS)[:2]}
    for split, rows in results["match"].items():
        print_table(f"Second picture, matching against not, AUC; {split}", rows)
    found = examined(epochs)
    for split, (design, controls) in found.items():
        print(f"\nDesign, {split}\n{design}\n\nControls, {split}\n{controls}")
    results["design"] = {split: design.as_dict() for split, (design, _) in found.items()}
    results["controls"] = {split: controls.as_dict() for split, (_, controls) in found.items()}
    results["conclusion"] = conclusion(results["first_second"], [controls for _, controls in found.values()])
    print(f"\n{results['conclusion']}")
    write_results(options.out, "real_objects", results | {"seconds": round(time.time() - start)})


if __name__ == "__main__":
    main()
