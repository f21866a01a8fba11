"""A simulated file in the layout of Kaneshiro et al. 2015, whose pictures and categories have known responses."""

from pathlib import Path

import numpy as np
import scipy.io

from brainedit.montage import read_montage
from brainedit.simulate.head import bumps_at

N_CATEGORIES, N_EXEMPLARS, N_CHANNELS, N_TIMES, SFREQ = 6, 72, 124, 32, 62.5
NOISE_UV = 10.0
CHUNK = 512  # trials whose noise is made at a time


def simulate_kaneshiro(
    out: str | Path,
    *,
    subject: int = 1,
    snr_exemplar: float = 0.2,
    snr_category: float = 0.1,
    n_repeats: int = 72,
    seed: int = 0,
) -> Path:
    """Write S<subject>.mat with simulated trials: 72 pictures, 12 a category, `n_repeats` each in random order.

    out : folder, made if it is not there
    snr_exemplar : RMS of the response that each picture alone evokes, over the RMS of the noise in one trial
    snr_category : the same of the response that the 12 pictures of a category share; at 0 the category of a
        picture that was not trained on cannot be decoded
    n_repeats : 72 as published gives 5184 trials and a file of 165 MB

    Every picture also evokes the same response, 3 µV. Noise (10 µV) is 1/f between 1 and 25 Hz, smooth over the
    head. All people of a seed differ. The variable `note` says that the file is simulated; X_2D, a copy of X_3D
    as a matrix, is left out.
    Returns the file.
    """
    if not 1 <= subject <= 10 or n_repeats < 1 or min(snr_exemplar, snr_category) < 0:
        raise ValueError(
            "subject must be 1 to 10, n_repeats 1 or more, snr_exemplar and snr_category 0 or more, got "
            f"{subject}, {n_repeats}, {snr_exemplar} and {snr_category}."
        )
    rng = np.random.default_rng([seed, subject])
    smooth = _smoothing()
    exemplar = rng.permutation(np.repeat(np.arange(N_EXEMPLARS), n_repeats))
    category = exemplar // (N_EXEMPLARS // N_CATEGORIES)
    every = 3.0 * _responses(1, smooth, rng)
    own = NOISE_UV * snr_exemplar * _responses(N_EXEMPLARS, smooth, rng)
    shared = NOISE_UV * snr_category * _responses(N_CATEGORIES, smooth, rng)
    data = every + own[exemplar] + shared[category]
    for start in range(0, len(data), CHUNK):
        data[start : start + CHUNK] += NOISE_UV * _noise(len(data[start : start + CHUNK]), smooth, rng)
    data -= data.mean(axis=1, keepdims=True)  # average reference
    path = Path(out) / f"S{subject}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "X_3D": data.transpose(1, 2, 0).astype(np.float64),
        "categoryLabels": category[None].astype(np.uint8) + 1,
        "exemplarLabels": exemplar[None].astype(np.uint8) + 1,
        "Fs": SFREQ,
        "N": N_TIMES,
        "T": len(data),
        "sub": f"S{subject}",
        "note": "simulated by brainedit.simulate.kaneshiro",
    }
    scipy.io.savemat(path, content)
    return path


def _smoothing(width: float = 0.4) -> np.ndarray:
    """Matrix (n_channels, n_channels) that makes white channels smooth over the head; RMS 1.

    width : of the Gaussian by which neighbours are alike, in radii of the head
    """
    places = read_montage("GSN-HydroCel-128").get_positions()["ch_pos"]
    places = np.array([places[f"E{number}"] for number in range(1, N_CHANNELS + 1)])
    places -= places.mean(axis=0)
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    values, vectors = np.linalg.eigh(np.exp(-0.5 * (distance / width) ** 2) + 0.05 * np.eye(N_CHANNELS))
    return ((vectors * np.sqrt(np.maximum(values, 0))) / np.sqrt(1.05)).astype(np.float32)


def _responses(n: int, smooth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Responses (n, n_channels, n_times) of RMS 1: four bumps each between .1 and .4 s, with fields of their own."""
    times = np.arange(N_TIMES) / SFREQ
    bumps = bumps_at(times, rng.uniform(0.1, 0.4, 4 * n), 0.03).reshape(n, 4, N_TIMES)
    fields = np.einsum("cd,nkd->nkc", smooth, rng.standard_normal((n, 4, N_CHANNELS), np.float32))
    responses = np.einsum("nkc,nkt->nct", fields, bumps)
    responses -= responses.mean(axis=1, keepdims=True)
    return responses / np.sqrt(np.mean(responses**2, axis=(1, 2), keepdims=True))


def _noise(n: int, smooth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise (n, n_channels, n_times) of RMS 1, 1/f in power between 1 and 25 Hz."""
    length = 4 * N_TIMES  # the longer stretch that is cut lets 1 Hz through
    frequency = np.fft.rfftfreq(length, 1 / SFREQ)
    amplitude = ((frequency >= 1) & (frequency <= 25)) / np.sqrt(np.maximum(frequency, 1))
    amplitude *= length / (2 * np.sqrt(np.sum(amplitude**2)))
    white = rng.standard_normal((n, N_CHANNELS, len(frequency), 2), np.float32).view(np.complex64)[..., 0]
    noise = np.fft.irfft(white * amplitude.astype(np.float32), length, axis=-1)[..., :N_TIMES]
    return np.einsum("cd,ndt->nct", smooth, noise.astype(np.float32), optimize=True)
