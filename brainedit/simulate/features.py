"""Features of simulated pictures: two layers of which a brain codes half of the dimensions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from brainedit.datasets.latents import write_latents

LAYERS = ("middle", "last")
CONCEPT_SHARE = {"middle": 0.15, "last": 0.75}  # of the variance of a layer's features


@dataclass(frozen=True)
class Pictures:
    """Names and features of pictures, by part ("training", "test"), and where the coded dimensions are.

    features : (n, 2 * n_features); mean : (2 * n_features,); axes : layer -> (n_coded, n_features), orthonormal;
    features @ axes.T are the dimensions that the brain codes
    """

    concepts: dict[str, list[str]]
    files: dict[str, list[str]]
    features: dict[str, np.ndarray]
    mean: np.ndarray
    axes: dict[str, np.ndarray]

    @classmethod
    def draw(cls, n_concepts: int, n_per_concept: int, n_test: int, n_features: int, seed: int) -> "Pictures":
        """Signed features, as of a residual stream: not centred, variances 1, 1/2, 1/3 ... along hidden axes."""
        rng = np.random.default_rng([seed, 0])
        spectrum = (1 + np.arange(n_features)) ** -0.5  # standard deviations; even dimensions are coded
        turns = {layer: np.linalg.qr(rng.normal(size=(n_features, n_features)))[0] for layer in LAYERS}
        mean = rng.normal(size=2 * n_features) * np.sqrt(np.mean(spectrum**2))
        numbers = {"training": np.repeat(np.arange(n_concepts), n_per_concept), "test": np.arange(n_test)}
        features = {}
        for part, concept in numbers.items():
            dimensions = _draw_dimensions(concept, n_features, rng)
            layers = [(dimensions[layer] * spectrum) @ turns[layer] for layer in LAYERS]
            features[part] = (np.hstack(layers) + mean).astype(np.float32)
        axes = {layer: turns[layer][::2] for layer in LAYERS}
        first = {"training": 1, "test": 1 + n_concepts}  # of the names: no concept is in both parts
        concepts = {
            part: [f"{c + 1:05d}_sim{c + first[part]:04d}" for c in concept]
            for part, concept in numbers.items()
        }
        files = {part: _file_names(names) for part, names in concepts.items()}
        return cls(concepts, files, features, mean.astype(np.float32), axes)

    def write(self, folder: Path, seed: int) -> None:
        """Write `image_metadata.npy`, and `features/` with rows in an order of their own."""
        table = {}
        for part, short in (("training", "train"), ("test", "test")):
            table |= {f"{short}_img_concepts": self.concepts[part], f"{short}_img_files": self.files[part]}
            pairs = zip(self.concepts[part], self.files[part], strict=True)
            stimuli = [f"{part}_images/{concept}/{file}" for concept, file in pairs]
            order = np.random.default_rng([seed, 5]).permutation(len(stimuli))
            layers = np.split(self.features[part], 2, axis=1)
            for layer, values in zip(LAYERS, layers, strict=True):
                path = folder / "features" / layer / f"{part}.safetensors"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_latents(pd.DataFrame(values, index=stimuli).iloc[order], path, space="features")
        np.save(folder / "image_metadata.npy", table)


def draw_weights(pictures: Pictures, codes: pd.DataFrame, seed: int) -> np.ndarray:
    """Weights (n_codes, 2 * n_features) on coded dimensions; a layer's codes are uncorrelated and have variance 1."""
    rng = np.random.default_rng([seed, 6])
    n_features = len(pictures.mean) // 2
    weights = np.zeros((len(codes), 2 * n_features))
    for layer, start in zip(LAYERS, (0, n_features), strict=True):
        rows, columns = np.flatnonzero(codes["layer"] == layer), slice(start, start + n_features)
        axes = pictures.axes[layer]  # (n_coded, n_features)
        features = (pictures.features["training"] - pictures.mean)[:, columns]
        drawn = rng.normal(size=(len(rows), len(axes))) @ axes
        values, vectors = np.linalg.eigh(drawn @ (features.T @ features / len(features)) @ drawn.T)
        weights[rows, columns] = (vectors / np.sqrt(values)) @ vectors.T @ drawn
    return weights.astype(np.float32)


def _draw_dimensions(concept: np.ndarray, n_features: int, rng) -> dict[str, np.ndarray]:
    """Independent dimensions of variance 1 behind the layers' features, per picture; `concept` numbers them."""
    of_concept = rng.normal(size=(concept.max() + 1, n_features))[concept]
    alone = rng.normal(size=(2, len(concept), n_features))
    own = {"middle": alone[0], "last": np.sqrt(0.1) * alone[0] + np.sqrt(0.9) * alone[1]}
    return {
        layer: np.sqrt(share) * of_concept + np.sqrt(1 - share) * own[layer]
        for layer, share in CONCEPT_SHARE.items()
    }


def _file_names(concepts: list[str]) -> list[str]:
    counts: dict[str, int] = {}
    names = []
    for concept in concepts:
        counts[concept] = counts.get(concept, 0) + 1
        names.append(f"{concept.split('_')[1]}_{counts[concept]:02d}b.jpg")
    return names
