"""N170: does F tell seen faces from seen houses in recordings it was not trained on, and how well against LDA?

The category of a trial is logged, the picture is not, so trials are paired by label with all twelve pictures
of their category. Recordings are left out within a person, and each of the two people is left out. Faces and
houses also differ in luminance, contrast and spatial frequency; as the picture is not known these cannot be
taken out of the EEG, so a difference may be driven by them.
"""

import time
from collections.abc import Callable
from pathlib import Path

import mne
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from real_p300 import (
    F_SETTINGS,
    add_data_option,
    arguments,
    centred_scores,
    classifier_scores,
    data_file,
    f_scores,
    held_out_models,
    muse_epochs,
    print_table,
    write_results,
)
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tqdm import tqdm

from brainedit.audit.controls import Controls, run_controls
from brainedit.datasets.paired import PairedDataset
from brainedit.encoders.image import picture_tensor
from brainedit.evaluation import Score, auc_difference, auc_score
from brainedit.joint import JointModel
from brainedit.relevance import score_trials
from brainedit.splits import TrialSplit
from saliency.image import occlusion_map
from saliency.plots import overlay

LABELS = ("house", "face")  # F of the second less F of the first
LDA, XDAWN = "window means + shrinkage LDA", "xDAWN + tangent space + logistic"
F, CONTROL = "F (seen category against the other)", "control: F trained on shuffled EEG"
TARGET = "label == 'face'"
CHANNELS = {"forehead": ["AF7", "AF8"], "behind the ears": ["TP9", "TP10"]}
WINDOW, STRIDE, N_PERMUTATIONS = 56, 28, 500  # of the maps


def n170_dataset(folder: str | None) -> PairedDataset:
    """Faces and houses with their onsets (s), paired by label with the twelve pictures of each."""
    path = data_file(folder, "n170_muse.npz")
    epochs = muse_epochs(path, {1: "house", 2: "face"})
    with np.load(path) as data:
        onset = data["onset_sample"][epochs.selection] / float(data["sfreq"])
    epochs.metadata = epochs.metadata.assign(onset=onset)
    pictures = {k: sorted(data_file(folder, f"stimuli/{k}s").glob("*.jpg")) for k in LABELS}
    return PairedDataset(epochs, pictures, pair_by="label")


def person_scores(
    dataset: PairedDataset,
) -> tuple[dict[str, np.ndarray], list[tuple[JointModel, np.ndarray]]]:
    """Out-of-fold scores of one person's trials by method, and the fold's models with their unseen trials."""
    folds, f = [], np.zeros(len(dataset))
    for model, test in held_out_models(dataset, description="F"):
        f[test] = centred_scores(model, dataset.subset(test), LABELS)
        folds.append((model, test))
    scores = {
        LDA: classifier_scores(dataset.epochs, TARGET, "lda"),
        XDAWN: classifier_scores(dataset.epochs, TARGET, "xdawn"),
        F: f,
        CONTROL: f_scores(dataset, LABELS, shuffled=True),
    }
    return scores, folds


def left_out_person_scores(dataset: PairedDataset) -> dict[str, np.ndarray]:
    """Scores (n,) of each person's trials by methods that were trained on the other people alone."""
    scores = {}
    for name, method in {LDA: "lda", XDAWN: "xdawn"}.items():
        p = score_trials(dataset.epochs, target=TARGET, method=method, scheme="subject")[
            "probability"
        ].to_numpy()
        scores[name] = np.log(p / (1 - p))
    return scores | {
        F: f_scores(dataset, LABELS, by="subject"),
        CONTROL: f_scores(dataset, LABELS, by="subject", shuffled=True),
    }


def channel_scores(dataset: PairedDataset) -> dict[str, Score]:
    """AUC of LDA on the forehead's channels and on those behind the ears, recordings left out within a person."""
    metadata, rows = dataset.metadata, {}
    person, run = metadata["subject"].to_numpy(), metadata["run"].to_numpy()
    for where, names in CHANNELS.items():
        part = dataset.epochs.copy().pick(names)
        values = classifier_scores(part, TARGET, "lda")
        for who in np.unique(person):
            mine, name = person == who, f"person {who}, {where} ({', '.join(names)})"
            face = dataset.keys[mine] == "face"
            rows[name] = auc_score(face, values[mine], name=name, within=run[mine])
    return rows


def person_controls(dataset: PairedDataset) -> Controls:
    """The controls of one person's category claim, each recording left out, LDA."""
    n_runs = dataset.metadata["run"].nunique()
    split = TrialSplit(by="run", n_splits=n_runs)
    return run_controls(dataset, "lda", claim="category", split=split, progress=False)


def summary(face: np.ndarray, run: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, Score]:
    """AUC of each method, labels permuted within recordings, and the paired difference of F and LDA."""
    rows = {name: auc_score(face, values, name=name, within=run) for name, values in scores.items()}
    return rows | {"F less LDA (paired)": auc_difference(face, scores[F], scores[LDA])}


def low_level_features(dataset: PairedDataset) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Luminance, contrast and spatial frequency of each picture (n, 3), which are faces (n,), the names.

    Luminance is the mean of linear-light grey, contrast its standard deviation over its mean, spatial
    frequency the power-weighted mean (cycles a picture) of the grey picture under a Hann window.
    """
    features = []
    for picture in dataset.pictures.values():
        srgb = picture_tensor(picture, size=224).double().numpy()
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        grey = np.tensordot([0.2126, 0.7152, 0.0722], linear, 1)
        window = np.outer(np.hanning(224), np.hanning(224))
        power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
        frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(224, 1 / 224)] * 2))
        features.append((grey.mean(), grey.std() / grey.mean(), (power * frequency).sum() / power.sum()))
    face = np.isin(list(dataset.pictures), dataset.candidates("face"))
    return np.array(features), face, ["luminance", "contrast", "spatial frequency"]


def low_level_baseline(dataset: PairedDataset) -> dict[str, Score]:
    """How well low-level features tell face pictures from house pictures; each picture is left out once."""
    features, face, names = low_level_features(dataset)
    columns = {name: [i] for i, name in enumerate(names)} | {"all three": [0, 1, 2]}
    return {
        name: auc_score(face, _left_out(features[:, index], face), name=name, unit="picture")
        for name, index in columns.items()
    }


def _left_out(features: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Log-odds (n,) of each picture by LDA on all others, with equal priors."""
    scores = np.empty(len(face))
    for i in range(len(face)):
        others = np.arange(len(face)) != i
        mean, std = features[others].mean(0), features[others].std(0)
        model = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.5, 0.5])
        model.fit((features[others] - mean) / std, face[others])
        scores[i] = model.decision_function((features[i : i + 1] - mean) / std)[0]
    return scores


def category_maps(
    dataset: PairedDataset, folds: list[tuple[JointModel, np.ndarray]], names: list[str], *, seed: int = 0
) -> dict[str, dict]:
    """Map of each picture for face trials less house trials, all held out; labels permuted as the control.

    F of every trial, by the model that has not seen it, goes through one occlusion run, so the map for any
    labelling of the trials is a difference of means. The pictures themselves did train the models.
    p: share of labellings, permuted within recordings, whose largest absolute value reaches the map's.
    """
    rng = np.random.default_rng(seed)
    face = dataset.keys == "face"
    labelled = [face] + [_permuted(face, folds, rng) for _ in range(N_PERMUTATIONS)]
    weights = np.array([k / k.sum() - ~k / (~k).sum() for k in labelled])
    weights = weights[:, np.concatenate([np.flatnonzero(test) for _, test in folds])]
    score = _trial_scores(dataset, folds)
    found = {}
    for name in tqdm(names, desc="maps"):
        image = folds[0][0].prepare_image(dataset.pictures[name])
        trials = occlusion_map(score, image, window=WINDOW, stride=STRIDE)  # (n, h, w)
        maps = torch.tensor(weights, dtype=trials.dtype) @ trials.flatten(1)
        maps = maps.reshape(-1, *image.shape[1:]).numpy()
        largest = np.abs(maps).max((1, 2))
        p = (1 + (largest[1:] >= largest[0]).sum()) / len(largest)
        found[name] = {"image": image, "map": maps[0], "control": maps[1], "p": float(p)}
    return found


def _trial_scores(
    dataset: PairedDataset, folds: list[tuple[JointModel, np.ndarray]]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Score of pictures (n, 3, h, w) -> (n, n_trials): F with each trial by the model that has not seen it.

    The folds share one frozen image network, so that pictures pass through it once.
    """
    encoder = folds[0][0].image_encoder
    with torch.inference_mode():
        phi = [model.embed_eeg(model.prepare_eeg(dataset.epochs[test])) for model, test in folds]

    def score(images: torch.Tensor) -> torch.Tensor:
        features = encoder(images)
        pairs = zip(folds, phi, strict=True)
        return torch.cat([model.towers.embed_features(features) @ e.T for (model, _), e in pairs], 1)

    return score


def _permuted(face: np.ndarray, folds: list, rng: np.random.Generator) -> np.ndarray:
    shuffled = face.copy()
    for _, test in folds:
        shuffled[test] = rng.permutation(face[test])
    return shuffled


def draw_maps(maps: dict[str, dict], path: Path) -> None:
    """A row a picture: the picture, its map for face less house trials, the same with labels permuted."""
    limit = max(np.abs(entry[key]).max() for entry in maps.values() for key in ("map", "control"))
    figure = Figure(figsize=(8, 2.7 * len(maps)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(maps), 3)
    titles = ("Picture", f"Face less house trials (limit {limit:.2g})", "Labels permuted")
    for row, (name, entry) in zip(axes, maps.items(), strict=True):
        panels = [entry["image"].permute(1, 2, 0).numpy()]
        panels += [overlay(entry["image"], entry[key], limit=limit) for key in ("map", "control")]
        for axis, panel in zip(row, panels, strict=True):
            axis.imshow(panel)
            axis.set_axis_off()
        row[0].set_title(name, fontsize=8)
        row[1].set_title(f"max |map| p = {entry['p']:.3f}", fontsize=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(f"{title}\n{axis.get_title()}", fontsize=9)
    figure.savefig(path)


def main() -> None:
    """Measure, print the tables, draw the maps, write the JSON file."""
    options = add_data_option(arguments(__doc__.splitlines()[0], "real_n170")).parse_args()
    torch.set_num_threads(2)
    mne.set_log_level("error")
    start = time.time()
    dataset = n170_dataset(options.data)
    face, run = dataset.keys == "face", dataset.metadata["run"].to_numpy()
    subject = dataset.metadata["subject"].to_numpy()
    results, scores, folds = {"settings": F_SETTINGS, "scores": {}}, {}, {}
    for person in np.unique(subject):
        mine = subject == person
        own, folds[person] = person_scores(dataset.subset(mine))
        for name, values in own.items():
            scores.setdefault(name, np.zeros(len(dataset)))[mine] = values
        results["scores"][f"person {person}"] = summary(face[mine], run[mine], own)
    results["scores"]["both people"] = summary(face, run, scores)
    for who, rows in results["scores"].items():
        print_table(f"N170, {who}, recordings left out within a person", rows)
    left_out = left_out_person_scores(dataset)
    results["person_left_out"] = {
        f"person {who}": summary(
            face[subject == who], run[subject == who], {k: v[subject == who] for k, v in left_out.items()}
        )
        for who in np.unique(subject)
    }
    for who, rows in results["person_left_out"].items():
        print_table(f"N170, {who}, trained on the other person alone", rows)
    results["channels"] = channel_scores(dataset)
    print_table("N170 by channels, LDA, recordings left out within a person", results["channels"])
    results["controls"] = {}
    for who in np.unique(subject):
        controls = person_controls(dataset.subset(subject == who))
        results["controls"][f"person {who}"] = controls.as_dict()
        print(f"\nControls, person {who}, LDA, each recording left out\n{controls}")
    results["low_level"] = low_level_baseline(dataset)
    print_table("Low-level differences of the face and house pictures (no EEG)", results["low_level"])
    print(
        "\nThe pictures' categories differ in low-level features, and which picture a trial showed is not\n"
        "logged: the EEG difference may be driven by them, and nothing here is a claim about single pictures."
    )
    person = np.unique(subject)[0]
    names = [name for label in LABELS[::-1] for name in dataset.candidates(label)[:3]]
    maps = category_maps(dataset.subset(subject == person), folds[person], names)
    results["maps_p"] = {name: entry["p"] for name, entry in maps.items()}
    print_table("Maps, face less house trials: p of the largest value", results["maps_p"])
    write_results(options.out, "real_n170", results | {"seconds": round(time.time() - start)})
    draw_maps(maps, Path(options.out) / "maps.png")


if __name__ == "__main__":
    main()
