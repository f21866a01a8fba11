"""Simulated EEG in the layout and size of THINGS-EEG2, with a known truth and a stated oracle accuracy.

Pictures are vectors of features: "middle" (mostly this picture alone) and "last" (mostly its concept). The brain
codes combinations of them through dipoles below occipito-temporal electrodes. No picture exists, and whatever is
shown of these data must be called simulated.
"""

import json
import pickle
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from brainedit import _check
from brainedit.simulate.features import LAYERS, Pictures, draw_weights
from brainedit.simulate.head import bumps_at, leadfield, places_below, visual_response
from brainedit.simulate.noise import KroneckerNoise, background_noise, rereferenced, root

# fmt: off
ALL = (  # the 63 channels of the published files
    "Fp1", "Fp2", "AF7", "AF3", "AFz", "AF4", "AF8", "F7", "F5", "F3", "F1", "F2", "F4", "F6", "F8", "FT9", "FT7",
    "FC5", "FC3", "FC1", "FCz", "FC2", "FC4", "FC6", "FT8", "FT10", "T7", "C5", "C3", "C1", "Cz", "C2", "C4", "C6",
    "T8", "TP9", "TP7", "CP5", "CP3", "CP1", "CPz", "CP2", "CP4", "CP6", "TP8", "TP10", "P7", "P5", "P3", "P1", "Pz",
    "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2",
)
# fmt: on
CHANNELS = {"posterior": tuple(name for name in ALL if name[0] in "PO"), "all": ALL}
REFERENCE = "Fz"
LATENCIES = {"middle": (0.08, 0.2), "last": (0.2, 0.5)}  # s, when the codes of a layer peak
WIDTHS = {"middle": (0.018, 0.036), "last": (0.045, 0.09)}  # s, standard deviations of their time courses
BELOW = {
    "middle": ("O1", "Oz", "O2", "PO3", "POz", "PO4", "PO7", "PO8"),
    "last": ("PO7", "PO8", "P7", "P8", "P5", "P6", "TP7", "TP8"),
}
_CHUNK_BYTES = 24 * 2**20  # of EEG that is drawn at a time
_N_DRAWS = 20_000  # averages that measure the oracle


@dataclass(frozen=True)
class SimulatedBrain:
    """What the EEG of one simulated person is made of, after whitening over channels.

    weights : (n_codes, n_features) and `mean` (n_features,): codes = (features - mean) @ weights.T have variance 1.
        Features are those of "middle", then those of "last"
    patterns : (n_codes, n_channels, n_times), the response to one unit of a code
    unexplained : variance of what each picture adds to each code, in all its trials, that no feature tells
    evoked : (n_channels, n_times), the response to every picture
    noise : of one trial
    """

    weights: np.ndarray
    mean: np.ndarray
    patterns: np.ndarray
    unexplained: float
    evoked: np.ndarray
    noise: KroneckerNoise

    def codes(self, features: np.ndarray) -> np.ndarray:
        """What the brain codes of pictures (n, n_codes)."""
        return (features - self.mean) @ self.weights.T

    def response(self, features: np.ndarray) -> np.ndarray:
        """What features tell of the EEG of pictures (n, n_channels, n_times)."""
        return self.evoked + np.tensordot(self.codes(features), self.patterns, axes=1)

    def log_likelihood(self, eeg: np.ndarray, gallery: np.ndarray, *, n_averaged: int = 1) -> np.ndarray:
        """The oracle's log-likelihood (n, n_gallery) of averages of `n_averaged` trials, but for a constant a row.

        eeg : (n, n_channels, n_times)
        gallery : features of the pictures to choose from (n_gallery, n_features)
        """
        codes = self.codes(gallery)
        information, damping = self._information(n_averaged)
        seen = np.tensordot(eeg - self.evoked, self.noise.solve(self.patterns), axes=([1, 2], [1, 2]))
        energy = np.einsum("ik,kl,il->i", codes, information, codes)
        return n_averaged * seen @ damping @ codes.T - energy / 2

    def oracle_accuracy(self, gallery: np.ndarray, *, n_averaged: int, top: int = 1, seed: int = 0) -> float:
        """Share of new averages of `n_averaged` trials whose picture is among the oracle's `top`, by drawing."""
        return _hit_rate(*_similarities(self, gallery, n_averaged, seed), 1.0, top)

    def _information(self, n_averaged: int) -> tuple[np.ndarray, np.ndarray]:
        """Of an average about its codes (n_codes, the same), and by how much what is unexplained damps it."""
        each = np.tensordot(self.patterns, self.noise.solve(self.patterns), axes=([1, 2], [1, 2]))
        damping = np.linalg.inv(np.eye(len(each)) + n_averaged * self.unexplained * each)
        return n_averaged * each @ damping, damping


def simulate_things_eeg2(
    out: str | Path,
    *,
    subjects: Sequence[int] = (1, 2),
    channels: str = "posterior",
    sfreq: float = 100.0,
    tmin: float = -0.2,
    n_concepts: int = 1654,
    n_per_concept: int = 10,
    n_train_repeats: int = 4,
    n_test: int = 200,
    n_test_repeats: int = 80,
    n_features: int = 64,
    n_codes: int = 8,
    shared: float = 0.7,
    unexplained: float = 0.1,
    oracle: float = 0.6,
    noise_uv: float = 10.0,
    alpha_uv: float = 5.0,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write a simulated data set in the layout of THINGS-EEG2 to the new folder `out`, and give its path.

    channels : "posterior" (17) or "all" (63)
    tmin : s, start of the epochs, which last 1 s; -.2 as in the files at 100 Hz, 0 as in those at 250 Hz
    n_features : of each layer; the brain codes half of the dimensions behind them and nothing of the other half
    n_codes : combinations of features that the brain codes, half of them of each layer, equally strong
    shared : 0 to 1, share of the power of the codes' topographies that people have in common
    unexplained : variance of what a picture adds to each code that no feature tells, in units of the noise of one
        trial. Repeats do not average it out. With 0 and many codes the oracle needs so little of each that the
        training trials cannot teach them: it keeps its accuracy, and whatever is fitted falls to chance
    oracle : top-1 over the test gallery of one who knows the true model, from the average of all test repeats; it
        sets the height of what pictures evoke, in each person. 0: nothing in the EEG depends on the picture
    noise_uv, alpha_uv : RMS of the background over channels, and of alpha at its largest electrode, before the
        whitening

    The folder has `image_metadata.npy`; `sub-01/preprocessed_eeg_training.npy` and `..._test.npy`, pickles of
    `preprocessed_eeg_data` (n_pictures, n_repeats, n_channels, n_times) float32, `ch_names` and `times` (s);
    `features/middle/training.safetensors` and so on, whose rows are shuffled and belong to a stimulus by its name;
    `truth.json` and `truth.safetensors` (see `read_truth`); `README.txt`. It is OUT.partial until it is whole.

    Raises ValueError for an `out` that exists and for settings out of range.
    Source: Gifford et al., NeuroImage 2022 (design, layout, whitening over channels by the noise covariance).
    Differs: that covariance is the true one, not estimated by session; no baseline is subtracted; the noise of
    trials is independent, so neighbours in the stream do not overlap and nothing drifts; noise and latencies are
    the same in all people.
    """
    settings = {
        k: list(v) if k == "subjects" else v for k, v in locals().items() if k not in ("out", "progress")
    }
    names = _check.pick("set of channels", channels, CHANNELS)
    _check_settings(settings)
    times = tmin + np.arange(round(sfreq)) / sfreq
    pictures = Pictures.draw(n_concepts, n_per_concept, n_test, n_features, seed)
    repeats = {"training": n_train_repeats, "test": n_test_repeats}
    with _new_folder(Path(out)) as folder:
        pictures.write(folder, seed)
        codes = _draw_codes(n_codes, seed)
        weights = draw_weights(pictures, codes, seed)
        head = _Head(names, times, noise_uv, alpha_uv)
        brains = {}
        for subject in subjects:
            brain = head.brain(weights, pictures.mean, codes, shared, unexplained, [seed, 3, subject])
            brain = _scaled(brain, pictures.features["test"], n_test_repeats, oracle)
            _write_person(
                folder / f"sub-{subject:02d}", brain, pictures, repeats, head, [seed, 4, subject], progress
            )
            brains[f"sub-{subject:02d}"] = brain
        _write_truth(folder, settings, codes, brains, pictures.features["test"])
    return Path(out)


def read_truth(folder: str | Path, *, subject: int = 1) -> SimulatedBrain:
    """The truth about one person of a data set that `simulate_things_eeg2` wrote."""
    path, name = Path(folder) / "truth.safetensors", f"sub-{subject:02d}"
    if not path.is_file():
        raise FileNotFoundError(f"There is no truth of a simulation {path}.")
    tensors = load_file(path)
    if f"{name}/patterns" not in tensors:
        people = sorted(key.split("/")[0] for key in tensors if key.endswith("/patterns"))
        raise ValueError(f"The simulation has {', '.join(people)}; not {name}.")
    noise = {key.split("/")[1]: value for key, value in tensors.items() if key.startswith("noise/")}
    own = {key: tensors[f"{name}/{key}"] for key in ("patterns", "evoked")}
    own["unexplained"] = float(tensors[f"{name}/unexplained"][0])
    return SimulatedBrain(tensors["weights"], tensors["mean"], **own, noise=KroneckerNoise(**noise))


class _Head:
    """One head for all people: noise and evoked response at the channels, before and after whitening."""

    def __init__(self, names: tuple[str, ...], times: np.ndarray, noise_uv: float, alpha_uv: float):
        noise = background_noise(ALL, REFERENCE, times, noise_uv=noise_uv, alpha_uv=alpha_uv)
        rows = [ALL.index(name) for name in names]
        choice = np.eye(len(ALL))[rows]
        self.names, self.times = names, times
        self.whitening = noise.mixed(choice).whitening() @ choice  # (n_channels, 63)
        self.noise = noise.mixed(self.whitening)

    def brain(
        self, weights, mean, codes: pd.DataFrame, shared, unexplained, seed: list[int]
    ) -> SimulatedBrain:
        """A person whose codes have topographies of their own and of all people; information 1 in each code."""
        common = _topographies(codes, np.random.default_rng([seed[0], 2]))
        own = _topographies(codes, np.random.default_rng(seed))
        fields = np.sqrt(shared) * common + np.sqrt(1 - shared) * own  # (63, n_codes)
        waves = [
            bumps_at(self.times, peak, width)[0] for peak, width in codes[["latency", "width"]].to_numpy()
        ]
        patterns = np.einsum("ck,kt->kct", self.whitening @ fields, np.array(waves))
        patterns /= np.sqrt(np.sum(patterns * self.noise.solve(patterns), axis=(1, 2), keepdims=True))
        evoked = self.whitening @ rereferenced(visual_response((*ALL, REFERENCE), self.times))
        return SimulatedBrain(weights, mean, patterns, unexplained, evoked, self.noise)


def _check_settings(settings: dict) -> None:
    subjects, n_test, oracle = settings["subjects"], settings["n_test"], settings["oracle"]
    if not subjects or len(set(subjects)) < len(subjects) or min(subjects) < 1:
        raise ValueError(f"subjects must be different numbers from 1 on, got {subjects}.")
    if not 0 <= settings["shared"] <= 1:
        raise ValueError(f"shared must be 0 to 1, got {settings['shared']}.")
    if not settings["unexplained"] >= 0:
        raise ValueError(f"unexplained must be 0 or more, got {settings['unexplained']}.")
    counts = {k: v for k, v in settings.items() if k.startswith("n_")}
    small = [
        f"{k}={v}" for k, v in counts.items() if v < (2 if k in ("n_test", "n_codes", "n_features") else 1)
    ]
    if small:
        raise ValueError(
            f"A simulation needs pictures, repeats, and two or more codes of features; got {small[0]}."
        )
    if (settings["n_codes"] + 1) // 2 > (settings["n_features"] + 1) // 2:
        raise ValueError(
            f"A layer of {settings['n_features']} features has {(settings['n_features'] + 1) // 2} coded dimensions; "
            f"n_codes={settings['n_codes']} needs more."
        )
    if oracle != 0 and not 2 / n_test <= oracle <= 0.99:
        raise ValueError(f"oracle must be 0 or {2 / n_test:g} (twice chance) to .99, got {oracle}.")
    if settings["sfreq"] < 50:
        raise ValueError(f"sfreq must be 50 Hz or more for responses this short, got {settings['sfreq']}.")
    if not -0.4 <= settings["tmin"] <= 0:
        raise ValueError(
            f"tmin must be -.4 to 0 s, so that the second has the responses, got {settings['tmin']}."
        )


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """OUT.partial, renamed when all went well and removed when not."""
    if out.exists():
        raise ValueError(f"{out} exists; give a new folder.")
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _draw_codes(n_codes: int, seed: int) -> pd.DataFrame:
    """Layer, latency (s) and width (s) of what the brain codes, and electrodes above the dipoles."""
    rng = np.random.default_rng([seed, 1])
    layers = [LAYERS[k % 2] for k in range(n_codes)]
    rows = [
        {
            "layer": layer,
            "latency": rng.uniform(*LATENCIES[layer]),
            "width": rng.uniform(*WIDTHS[layer]),
            "electrode": str(rng.choice(BELOW[layer])),
        }
        for layer in sorted(layers, key=LAYERS.index)
    ]
    return pd.DataFrame(rows)


def _topographies(codes: pd.DataFrame, rng) -> np.ndarray:
    """Fields (63, n_codes) of dipoles of any orientation near the electrodes; 1 at the largest."""
    places, out = places_below(codes["electrode"].tolist())
    directions = out + rng.normal(size=out.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    fields = rereferenced(
        leadfield((*ALL, REFERENCE), places + rng.normal(0, 0.004, places.shape), directions)
    )
    return fields / np.abs(fields).max(axis=0)


def _scaled(brain: SimulatedBrain, gallery: np.ndarray, n_averaged: int, oracle: float) -> SimulatedBrain:
    """The person with responses to pictures as high as the oracle's accuracy needs them, by bisection."""
    if oracle == 0:
        return replace(brain, patterns=0 * brain.patterns, unexplained=0.0)
    likeness, noise = _similarities(brain, gallery, n_averaged, seed=0)
    low, high = np.log(1e-6), np.log(1e4)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if _hit_rate(likeness, noise, np.exp(middle), 1) > oracle else (middle, high)
        )
    scale = np.exp(high)
    return replace(brain, patterns=scale * brain.patterns, unexplained=brain.unexplained / scale**2)


def _similarities(brain: SimulatedBrain, gallery: np.ndarray, n_averaged: int, seed: int):
    """Inner products of templates (n, n), and of what hides them with templates (n_draws, n, n).

    In coordinates in which all that hides the codes, noise and what is unexplained, is white.
    """
    templates = brain.codes(gallery) @ root(brain._information(n_averaged)[0], np.float64)
    n, rng = len(templates), np.random.default_rng([seed, 7])
    noise = rng.normal(size=(-(-_N_DRAWS // n), n, templates.shape[1]))
    return templates @ templates.T, (noise @ templates.T).astype(np.float32)


def _hit_rate(likeness: np.ndarray, noise: np.ndarray, scale: float, top: int) -> float:
    """How often the true picture is among the `top` most likely, ties counted against it."""
    signal = scale**2 * (likeness - np.diag(likeness) / 2)  # rows: shown, columns: gallery
    scores = signal + scale * noise
    true = np.diagonal(scores, axis1=1, axis2=2)[..., None]
    return float(np.mean((scores >= true).sum(axis=-1) <= top))


def _write_person(
    folder: Path,
    brain: SimulatedBrain,
    pictures: Pictures,
    repeats: dict[str, int],
    head: _Head,
    seed,
    progress,
) -> None:
    folder.mkdir()
    for number, (part, n_repeats) in enumerate(repeats.items()):
        rng = np.random.default_rng([*seed, number])
        codes = brain.codes(pictures.features[part])
        codes += rng.normal(0, np.sqrt(brain.unexplained), codes.shape)
        shape = (len(codes), n_repeats, *brain.evoked.shape)
        with tqdm(
            total=len(codes), desc=f"{folder.name} {part}", unit="picture", disable=not progress
        ) as bar:
            chunks = _draw_chunks(brain, codes, n_repeats, rng, bar)
            write_pickled_eeg(folder / f"preprocessed_eeg_{part}.npy", chunks, shape, head.names, head.times)


def _draw_chunks(brain: SimulatedBrain, codes: np.ndarray, n_repeats: int, rng, bar) -> Iterator[np.ndarray]:
    evoked, patterns = brain.evoked.astype(np.float32), brain.patterns.astype(np.float32)
    step = max(1, _CHUNK_BYTES // (evoked.nbytes * n_repeats))
    draw = brain.noise.sampler()
    for start in range(0, len(codes), step):
        mean = evoked + np.tensordot(codes[start : start + step], patterns, axes=1)
        trials = draw(len(mean) * n_repeats, rng).reshape(len(mean), n_repeats, *evoked.shape)
        trials += mean[:, None]
        bar.update(len(mean))
        yield trials


def write_pickled_eeg(path: Path, chunks: Iterator[np.ndarray], shape, names: Sequence[str], times) -> None:
    """Write the pickle (protocol 4) of a dictionary of EEG whose float32 array comes in `chunks` of pictures.

    What numpy 1 wrote: the array's bytes are one item outside the frames, so a reader can map them into memory.
    """
    marker = b"the bytes of the array go here: 68d1c5"
    eeg = {"preprocessed_eeg_data": _Placeholder(shape, marker), "ch_names": list(names), "times": times}
    frame = pickle.dumps(eeg, protocol=4)[2 + 9 :]  # without PROTO and FRAME
    frame = frame.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    head, tail = frame.split(b"C" + bytes([len(marker)]) + marker)  # SHORT_BINBYTES
    n_bytes = 4 * int(np.prod(shape, dtype=np.int64))
    with open(path, "wb") as file:
        file.write(b"\x80\x04\x95" + len(head).to_bytes(8, "little") + head)
        file.write(b"\x8e" + n_bytes.to_bytes(8, "little"))  # BINBYTES8
        written = sum(file.write(np.ascontiguousarray(chunk, "<f4")) for chunk in chunks)
        if written != n_bytes:
            raise ValueError(f"An array of shape {tuple(shape)} has {n_bytes} bytes; {written} came.")
        file.write(b"\x95" + len(tail).to_bytes(8, "little") + tail)


class _Placeholder:
    """Pickles like a float32 array of a shape, with a marker instead of its bytes."""

    def __init__(self, shape: Sequence[int], marker: bytes):
        make, (kind, empty, code), (version, _, dtype, order, _) = np.zeros(1, "<f4").__reduce__()
        self.reduced = make, (kind, empty, code), (version, tuple(shape), dtype, order, marker)

    def __reduce__(self):
        return self.reduced


def _write_truth(
    folder: Path, settings: dict, codes: pd.DataFrame, brains: dict, gallery: np.ndarray
) -> None:
    first = next(iter(brains.values()))
    tensors = {"weights": first.weights, "mean": first.mean}
    tensors |= {f"noise/{key}": value for key, value in vars(first.noise).items()}
    people = {}
    for name, brain in brains.items():
        tensors |= {f"{name}/patterns": brain.patterns, f"{name}/evoked": brain.evoked}
        tensors[f"{name}/unexplained"] = np.array([brain.unexplained])
        people[name] = _summary(brain, gallery, settings["n_test_repeats"])
    save_file(
        {key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / "truth.safetensors"
    )
    record = {
        "simulated": True, "made_by": "brainedit.simulate.things", "settings": settings, "layers": LAYERS,
        "codes": codes.round(4).to_dict("records"), "people": people,
    }  # fmt: skip
    (folder / "truth.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (folder / "README.txt").write_text(_README, encoding="utf-8")


def _summary(brain: SimulatedBrain, gallery: np.ndarray, n_repeats: int) -> dict:
    """Signal-to-noise of one trial, and the oracle's accuracy by the number of averaged trials."""
    counts = sorted({n for n in (1, 2, 4, 10, 20, 40) if n < n_repeats} | {n_repeats})
    rates = {
        str(n): {
            f"top{k}": round(brain.oracle_accuracy(gallery, n_averaged=n, top=k, seed=1), 4) for k in (1, 5)
        }
        for n in counts
    }
    power = brain.response(gallery).var(axis=0).mean()  # noise has power 1 after whitening
    explained = 1 / (1 + brain.unexplained)
    return {"signal_to_noise_power": float(power), "explained_share_of_codes": explained, "oracle": rates}


_README = """SIMULATED. No person was recorded and no picture exists.

The folder has the layout of THINGS-EEG2 (Gifford et al., 2022), so that programs can be tried on data whose truth
is known: truth.json says what is coded with which latency, how strong it is and how well one who knows the true
model tells the test pictures apart; truth.safetensors has the model (brainedit.simulate.things.read_truth).
The features in features/ stand for two layers of a network. Their rows are shuffled: join them by stimulus.
"""
