"""Train a joint model, score it on what it has not seen."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from brainedit import figures
from brainedit.audit.design import DesignAudit, audit_design
from brainedit.datasets.paired import PairedDataset, Picture
from brainedit.distributed import is_main
from brainedit.eeg import read_epochs
from brainedit.embedding_scores import embedding_scores
from brainedit.encoders.image import read_picture
from brainedit.evaluation import accuracy_score, auc_score, retrieval_score
from brainedit.jobs.audit import CONFOUNDED, design_section, stamp_for
from brainedit.jobs.map_trials import joined
from brainedit.joint import JointModel, load_joint
from brainedit.joint_training import train_joint
from brainedit.report import Result, Section, is_simulated, result_folder
from brainedit.retrieval import repeat_curve, transductive_retrieval
from brainedit.splits import split_trials

TWIN = (
    "A twin of this model, trained on the same trials with pictures and responses paired at random, lies in "
    "model_permuted: maps of this model are compared with its maps."
)


def train(
    epochs: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    pair_by: str = "stimulus",
    hold_out: str | None = None,
    permuted_twin: bool = True,
    allow_confounded: bool = False,
    overwrite: bool = False,
    **settings,
) -> Path:
    """Train a joint model and score it on trials that it has not seen -> OUT/model and a report.

    hold_out : what the test trials are apart in: "stimulus" (the default where pictures are known), "run" (the
        default for labels), "concept", "block", "session" or "subject". A fifth of the units is held out
    permuted_twin : also train a model on pictures and responses paired at random -> OUT/model_permuted; maps of the
        ordinary model are compared with its maps
    allow_confounded : train where `audit_design` finds the design confounded; all that is written then says so
    settings : of `brainedit.joint_training.train_joint`

    A run that was killed continues from OUT.checkpoint.safetensors, and its twin from
    OUT.permuted.checkpoint.safetensors. Under torchrun the main process writes and scores; the others train both
    models with it, and return when that is done.
    """
    dataset = PairedDataset(read_epochs(epochs), images, pair_by=pair_by)
    hold_out = hold_out or ("stimulus" if pair_by == "stimulus" else "run")
    split = next(split_trials(dataset.metadata, by=hold_out, seed=settings.get("seed", 0)))
    design = _design(dataset, split)
    stamp = stamp_for(design, allow_confounded=allow_confounded)
    train_part = dataset.subset(split[0])
    if not is_main():
        _train_models(train_part, out, permuted_twin, settings)
        return Path(out)
    with result_folder(out, overwrite=overwrite) as folder:
        models = _train_models(train_part, out, permuted_twin, settings)
        model = models["model"]
        for each in models.values():
            each.card["training"]["design"] = design.verdict
        result = Result(
            job="train joint",
            title="Joint embedding",
            settings=model.card["training"] | {"hold_out": hold_out},
            inputs={"epochs": epochs},
            simulated=is_simulated(dataset.metadata),
            stamp=stamp,
        )
        test_part = dataset.subset(split[1])
        result.sections += evaluation_sections(model, test_part, hold_out=hold_out)
        result.sections += [*_label_sections(model, train_part, test_part), _training_section(model)]
        if permuted_twin:
            result.sections[-1].text = [*result.sections[-1].text, TWIN]
        result.sections.append(design_section(design))
        for name, each in models.items():
            each.save(folder / name)
        result.write(folder)
    for checkpoint in _checkpoints(out).values():
        checkpoint.unlink(missing_ok=True)
    return Path(out)


def permuted_pairs(dataset: PairedDataset, *, seed: int = 0) -> PairedDataset:
    """The same trials, each paired with another picture than was seen: a model of them can learn no pairing.

    All trials of a picture go to one other picture, and none keeps its own. Trials that are paired by label are
    dealt the labels anew, one by one: exchanged labels would be a pairing like any other.
    """
    rng = np.random.default_rng(seed)
    if dataset.pair_by == "label":
        return dataset.with_metadata(dataset.metadata.assign(label=rng.permutation(dataset.keys)))
    names = rng.permutation(list(dataset.pictures))
    other = dict(zip(names, np.roll(names, 1), strict=True))
    return dataset.with_metadata(dataset.metadata.assign(stimulus=[str(other[key]) for key in dataset.keys]))


def _train_models(
    train_part: PairedDataset, out: str | Path, permuted_twin: bool, settings: dict
) -> dict[str, JointModel]:
    """The model, and its twin where one is wanted, by the names of their folders."""
    checkpoints = _checkpoints(out)
    models = {"model": train_joint(train_part, checkpoint=checkpoints["model"], **settings)}
    if permuted_twin:
        permuted = permuted_pairs(train_part, seed=settings.get("seed", 0))
        twin = train_joint(permuted, checkpoint=checkpoints["model_permuted"], **settings)
        twin.card["training"]["permuted_pairs"] = True
        models["model_permuted"] = twin
    return models


def _checkpoints(out: str | Path) -> dict[str, Path]:
    return {
        "model": Path(f"{out}.checkpoint.safetensors"),
        "model_permuted": Path(f"{out}.permuted.checkpoint.safetensors"),
    }


def _design(dataset: PairedDataset, split: tuple[np.ndarray, np.ndarray]) -> DesignAudit:
    known = dataset.pair_by == "stimulus"
    return audit_design(
        dataset.metadata,
        claim="picture" if known else "category",
        split=[split],
        images=dataset.pictures if known else None,
    )


def _training_section(model: JointModel) -> Section:
    card = model.card["training"]
    chosen = (
        f"the epoch was chosen by held-out training {card['validate_by']}s" if card["validate_by"] else ""
    )
    return Section(
        "Training",
        [f"{card['n_trials']} trials; {chosen or 'the last epoch is the model'}."],
        pictures=[(figures.loss_figure(card["loss_history"]), "Loss by epoch.")],
    )


def _label_sections(model: JointModel, train: PairedDataset, test: PairedDataset) -> list[Section]:
    """How well simple classifiers on phi, fitted on training trials, tell the labels of test trials."""
    if (
        "label" not in train.metadata
        or train.metadata["label"].isna().any()
        or test.metadata["label"].isna().any()
    ):
        return []
    labels = [part.metadata["label"].astype(str).to_numpy() for part in (train, test)]
    if len(set(labels[0])) < 2 or len(set(labels[1])) < 2 or not set(labels[1]) <= set(labels[0]):
        return []
    phi = [model.embed_epochs(part.epochs).cpu().numpy() for part in (train, test)]
    known = test.pair_by == "stimulus"
    units, unit = (test.keys, "picture") if known else (None, "trial")
    scores = embedding_scores(phi[0], labels[0], phi[1], labels[1], units=units, unit=unit)
    text = f"Embeddings of {len(test)} held-out trials; every classifier and cluster was fitted on training trials."
    return [Section("Do embeddings of EEG hold the label?", [text], scores)]


def evaluate(
    model: str | Path,
    epochs: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    pair_by: str = "stimulus",
    subject: str | None = None,
    allow_confounded: bool = False,
    overwrite: bool = False,
) -> Path:
    """Score a saved model on a recording none of whose trials and pictures trained it -> OUT/report.html.

    subject : whose input layer the model uses, where it has one a person

    Raises ValueError where these trials or pictures trained the model, or the model came from a confounded design.
    """
    joint, dataset = load_joint(model), PairedDataset(read_epochs(epochs), images, pair_by=pair_by)
    stamp = stamp_of(joint)
    if stamp and not allow_confounded:
        raise ValueError(
            f"The model in {model} was trained on a confounded design; with --allow-confounded every figure says so."
        )
    if pair_by == "stimulus":
        joint.check_unseen(dataset.epochs)
    else:
        joint.check_unseen_trials(dataset.epochs)
    with result_folder(out, overwrite=overwrite) as folder:
        result = Result(
            job="evaluate",
            title="A trained embedding on another recording",
            settings=joint.card["training"] | {"subject": subject},
            inputs={"model": model, "epochs": epochs},
            simulated=is_simulated(dataset.metadata) or bool(joint.card["training"]["simulated"]),
            stamp=stamp,
        )
        result.sections += evaluation_sections(joint, dataset, hold_out="recording", subject=subject)
        result.write(folder)
    return Path(out)


def stamp_of(model: JointModel) -> str:
    """What must stand on all that this model makes: "" unless its design was confounded."""
    return CONFOUNDED if model.card["training"].get("design") == "confounded" else ""


def evaluation_sections(
    model: JointModel, test: PairedDataset, *, hold_out: str, subject: str | None = None
) -> list[Section]:
    """Scores of F on held-out trials with the shuffled-EEG control beside them, and a look at the ranking."""
    if test.pair_by == "label":
        return [_label_section(model, test, hold_out, subject)]
    theta, names = model.embed_pictures(test.pictures), list(test.pictures)
    single = _compatibility(model, test, theta, subject)
    averages = _averages(test)
    mean = _compatibility(model, averages, theta, subject)
    own, own_mean = _columns(test.keys, names), _columns(averages.keys, names)
    shuffled = np.random.default_rng(0).permutation(len(names))
    scores, of = [], f" of {len(names)}"
    for k in (1, 5) if len(names) > 10 else (1,):
        scores += [
            replace(retrieval_score(single, own, k=k), name=f"single trials, top-{k}{of}"),
            replace(retrieval_score(mean, own_mean, k=k), name=f"all repeats averaged, top-{k}{of}"),
            replace(retrieval_score(mean, shuffled[own_mean], k=k), name=f"control: shuffled EEG, top-{k}"),
        ]
    lead = (
        f"{len(names)} pictures and {len(test)} trials that were apart from training by {hold_out}. F ranks all of "
        "these pictures for each response. Intervals and permutations take the picture as their unit."
    )
    pictures = _repeats_picture(model, test, theta, subject)
    if model.image_encoder.size is not None:
        ranking = "What was seen, and the pictures that F ranks best. Red: right."
        pictures.append((_gallery(test, averages, mean), ranking))
    tricks = transductive_retrieval(mean, own_mean, method="csls")
    return [
        Section("Does F find the picture that was seen?", [lead], scores, pictures),
        Section(
            "With knowledge about the test set (transductive)",
            [
                "This adjusts F by all test responses together, as if it were known that each picture is seen equally "
                "often. It is not comparable with the scores above, and stands apart from them."
            ],
            tricks,
        ),
        _response_section(test),
    ]


def _repeats_picture(
    model: JointModel, test: PairedDataset, theta: torch.Tensor, subject: str | None
) -> list[tuple[Figure, str]]:
    """Accuracy against the number of repeats averaged, where one person saw every picture more than once."""
    names, metadata = list(test.pictures), test.metadata
    several = "subject" in metadata and metadata["subject"].nunique() > 1
    if several or min(pd.Series(test.keys).value_counts()) < 2:
        return []

    def compatibility(groups: list[np.ndarray]) -> np.ndarray:
        return _compatibility(model, test.average(groups), theta, subject)

    curve = repeat_curve(compatibility, test.keys, names, top=(1,), n_permutations=200, n_bootstrap=1000)
    drawn = figures.repeats_figure({"top-1": [scores[0] for scores in curve.values()]}, list(curve))
    return [(drawn, f"Top-1 of {len(names)} against the number of repeats averaged; dotted: chance.")]


def _label_section(
    model: JointModel, test: PairedDataset, hold_out: str, subject: str | None = None
) -> Section:
    labels = sorted(set(test.keys))
    if len(labels) < 2:
        raise ValueError(f"The held-out trials are all {labels[0]!r}; hold out more, or by something else.")
    theta = _label_embeddings(model, test, labels)
    compatibility = _compatibility(model, test, theta, subject)
    within = _randomised_within(test.metadata)
    shuffled = np.random.default_rng(0).permutation(len(test))
    lead = (
        f"{len(test)} trials, apart from training by {hold_out}. F compares each with the mean embedding of "
        "the pictures of each label. Which picture was seen is not known, so nothing is claimed about single "
        "pictures."
    )
    if len(labels) == 2:
        score, target = compatibility[:, 1] - compatibility[:, 0], test.keys == labels[1]
        scores = [
            auc_score(target, score, name="F, seen category against the other", within=within),
            auc_score(target, score[shuffled], name="control: shuffled EEG", within=within),
        ]
    else:
        own, best = _columns(test.keys, labels), compatibility.argmax(1)
        scores = [
            accuracy_score(own, best, name=f"F, best of {len(labels)} categories", within=within),
            accuracy_score(own, best[shuffled], name="control: shuffled EEG", within=within),
        ]
    return Section(f"Does F tell {', '.join(labels)} apart?", [lead], scores)


def label_scores(model: JointModel, dataset: PairedDataset, labels: Sequence[str]) -> np.ndarray:
    """F of each trial with the second label's mean picture embedding less the first's, (n,)."""
    compatibility = _compatibility(model, dataset, _label_embeddings(model, dataset, labels))
    return compatibility[:, 1] - compatibility[:, 0]


def _label_embeddings(model: JointModel, dataset: PairedDataset, labels: Sequence[str]) -> torch.Tensor:
    """The mean embedding of each label's pictures, (n_labels, n_dims)."""
    return torch.stack(
        [
            model.embed_pictures({name: dataset.pictures[name] for name in dataset.candidates(label)}).mean(0)
            for label in labels
        ]
    )


def _compatibility(
    model: JointModel, dataset: PairedDataset, theta: torch.Tensor, subject: str | None = None
) -> np.ndarray:
    """F of every trial with every row of theta; people that the model has a layer for are read by their own."""
    metadata, known = dataset.metadata, model.card["subjects"]
    if subject is not None or not known or "subject" not in metadata:
        return (model.embed_epochs(dataset.epochs, subject=subject) @ theta.T).cpu().numpy()
    people = metadata["subject"].astype(str).to_numpy()
    found = np.empty((len(dataset), len(theta)), np.float32)
    for name in np.unique(people):
        rows = np.flatnonzero(people == name)
        phi = model.embed_epochs(dataset.epochs[rows], subject=name if name in known else None)
        found[rows] = (phi @ theta.T).cpu().numpy()
    return found


def _averages(dataset: PairedDataset) -> PairedDataset:
    """All repeats of a picture averaged, each person's by themselves."""
    metadata = dataset.metadata
    if "subject" not in metadata or metadata["subject"].nunique() < 2:
        return dataset.by_stimulus()
    pairs = pd.Series(dataset.keys).str.cat(metadata["subject"].astype(str).to_numpy(), sep="\0")
    return dataset.average(list(pairs.groupby(pairs, sort=False).indices.values()))


def _columns(keys: np.ndarray, names: list[str]) -> np.ndarray:
    position = {name: i for i, name in enumerate(names)}
    return np.array([position[key] for key in keys])


def _randomised_within(metadata: pd.DataFrame) -> np.ndarray | None:
    """The recording of each trial: the design draws the order of trials inside it."""
    columns = [c for c in ("subject", "session", "run") if c in metadata]
    return joined(metadata, columns) if columns else None


def _gallery(test: PairedDataset, averages: PairedDataset, compatibility: np.ndarray, n: int = 4) -> Figure:
    names = list(test.pictures)
    rows = []
    for i in range(min(n, len(averages))):
        best = np.argsort(-compatibility[i])[:6]
        ranked = [_thumbnail(test.pictures[names[j]]) for j in best]
        right = [j for j, b in enumerate(best) if names[b] == averages.keys[i]]
        rows.append((_thumbnail(test.pictures[averages.keys[i]]), ranked, right[0] if right else -1))
    return figures.gallery_figure(rows)


def _thumbnail(picture: Picture, size: int = 128) -> np.ndarray:
    from PIL import Image

    image = Image.fromarray(read_picture(picture))
    image.thumbnail((size, size))
    return np.asarray(image)


def _response_section(dataset: PairedDataset) -> Section:
    evoked = dataset.epochs.average(picks="eeg")
    picture = figures.response_figure({"all pictures": evoked})
    return Section("The response", pictures=[(picture, f"Mean of {evoked.nave} held-out trials.")])
