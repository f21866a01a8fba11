"""A simulated population in the layout of Brain-Supervised Image Editing (facecat.xz), with a known truth.

Faces come from a generator, and a judge says of which kind each is. Whoever looks for a kind answers its faces
with a P300. Whatever is shown of these data must be called simulated.
"""

import json
import lzma
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtri
from tqdm import tqdm

from brainedit.datasets.facecat import N_WINDOWS, TASK_PAIRS
from brainedit.datasets.latents import write_latents
from brainedit.evaluation import auc
from brainedit.generators.base import Generator
from brainedit.generators.load import load_generator
from brainedit.judges import judge
from brainedit.simulate.head import bumps_at, topography_of, visual_response
from brainedit.simulate.noise import background_noise, rereferenced
from brainedit.simulate.things import _new_folder
from brainedit.simulate.viewing import CHANNELS, P300, P300_PEAK, P300_WIDTH

PAINTED = {  # of each pair of tasks the one whose faces a judge scores high, and that judge
    "female": "painted/gender",
    "smiles": "painted/smile",
    "old": "painted/age",
    "blond": "painted/hair_colour",
}
REFERENCE = "FCz"
AUC_SD_OF_PEOPLE = (
    0.75  # share of the standard deviation of the AUC that is between people; the rest is of tasks
)
_PEAK_SD = 0.03  # s, of people's P300
_TIMES = np.arange(-20, 50) / 100  # s; what the window means are taken of
_ROUNDS = 4  # classifier and amplitudes, each fitted to the other
_FILTERS = [
    {"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**24}
]  # a person's repeated trials fit in 16 MiB


def simulate_facecat(
    out: str | Path,
    *,
    generator: str = "faces",
    judges: Mapping[str, str] | None = None,
    n_people: int = 30,
    n_images: int = 1930,
    n_unique: int = 189,
    n_unique_sd: float = 26.0,
    n_trials: int = 250,
    target_share: float = 0.3,
    auc_mean: float = 0.79,
    auc_sd: float = 0.08,
    auc_range: tuple[float, float] = (0.55, 0.95),
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write facecat.xz, latents.safetensors and the truth into the new folder `out`, and give its path.

    judges : task -> judge: of each pair of tasks the one whose faces the judge scores high; `PAINTED` when None,
        which is for the generator "faces". A face is of that kind where its score is above the median of all faces
    n_unique, n_unique_sd : different faces that a person sees in a task, and how much that varies
    n_trials : of a person in a task; faces come again until there are as many
    target_share : of the faces seen in a task; what it was in the study is not published
    auc_mean, auc_sd, auc_range : of the AUC, one for each person and task, that shrinkage LDA trained on the
        person's other pairs of tasks reaches on the task; three quarters of the deviation are the person's

    `truth.json` says of each person and task what AUC was drawn, which one was reached and the amplitude of the P300
    (µV at its largest electrode), and of each face its kinds. The folder is OUT.partial until it is whole.

    Raises ValueError for an `out` that exists, judges that leave out a pair, settings out of range, or too few faces
    of a kind.
    Source: Davis et al., CVPR 2022 (30 people, 8 tasks, 1930 faces, 129 to 277 of them a task, 5 window means of 32
    channels, AUC .55 to .95 with mean .79); file layout of its repository. Differs: the EEG tells relevance alone,
    nothing of the faces; trials are independent; there are no eye movements.
    """
    settings = {key: value for key, value in locals().items() if key not in ("out", "progress")}
    _check_settings(settings)
    chosen = high_tasks(judges or PAINTED)
    maker = load_generator(generator)
    with _new_folder(Path(out)) as folder:
        faces, latents = _draw_faces(maker, chosen, n_images, seed)
        head = _Windows()
        db, people = {}, {}
        for person in tqdm(range(n_people), desc="simulating people", disable=not progress):
            rng = np.random.default_rng([seed, 2, person])
            wanted = _draw_aucs(auc_mean, auc_sd, auc_range, rng)
            viewed = {task: _draw_trials(faces[task], settings, rng) for task in TASK_PAIRS}
            db[person], people[person] = _draw_person(head, viewed, wanted, rng)
        _write(folder, db, latents)
        record = {
            "simulated": True,
            "made_by": "brainedit.simulate.facecat",
            "settings": settings | {"judges": chosen},
        }
        record |= {"generator_sha256": maker.sha256, "people": people}
        record["faces"] = {task: [str(name) for name in faces.index[faces[task]]] for task in chosen}
        (folder / "truth.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        (folder / "README.txt").write_text(_README, encoding="utf-8")
    return Path(out)


def high_tasks(judges: Mapping[str, str]) -> dict[str, str]:
    """The judges, checked: one for each pair of tasks.

    Raises ValueError for an unknown task, or a pair with no judge or two.
    """
    unknown = [task for task in judges if task not in TASK_PAIRS]
    pairs = [TASK_PAIRS[task] for task in judges if task in TASK_PAIRS]
    if unknown or sorted(pairs) != sorted(set(TASK_PAIRS.values())):
        raise ValueError(
            f"judges name one task of each pair ({', '.join(sorted(set(TASK_PAIRS.values())))}) and its judge; got "
            f"{', '.join(judges) or 'none'}."
        )
    return dict(judges)


def _check_settings(settings: dict) -> None:
    low, high = settings["auc_range"]
    if not 0.5 < low <= settings["auc_mean"] <= high < 1 or not settings["auc_sd"] >= 0:
        raise ValueError(
            "AUCs lie between .5 and 1, their mean within their range, and auc_sd is 0 or more; got "
            f"{settings['auc_mean']}, {settings['auc_range']} and {settings['auc_sd']}."
        )
    if not 0 < settings["target_share"] < 1:
        raise ValueError(f"target_share lies between 0 and 1; got {settings['target_share']}.")
    if settings["n_people"] < 1 or settings["n_unique"] < 12 or not settings["n_unique_sd"] >= 0:
        raise ValueError(
            "A population has 1 or more people who see 12 or more faces a task, with a deviation of 0 or more; got "
            f"{settings['n_people']}, {settings['n_unique']} and {settings['n_unique_sd']}."
        )
    most = _most_faces(settings)
    share = max(settings["target_share"], 1 - settings["target_share"])
    if settings["n_images"] // 2 < int(np.ceil(share * most)):
        raise ValueError(
            f"n_images={settings['n_images']} gives {settings['n_images'] // 2} faces of a kind; a task of up to "
            f"{most} faces needs {int(np.ceil(share * most))}."
        )


def _most_faces(settings: dict) -> int:
    return round(settings["n_unique"] + 3.4 * settings["n_unique_sd"])  # 277 in the published files


def _draw_faces(
    maker: Generator, judges: Mapping[str, str], n: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Which faces are of the kind of each task (n, 8) bool, and their latents (n, z_dim); both by number."""
    latents = maker.sample(n, space="z", seed=seed)
    images = torch.cat(list(maker.synthesize_batches(latents, space="z")))
    numbers = np.random.default_rng([seed, 1]).choice(90_000, n, replace=False) + 10_000  # no row numbers
    kinds = {}
    for task, name in judges.items():
        scores = judge(name).score(images).double().numpy()
        (opposite,) = (
            other for other in TASK_PAIRS if TASK_PAIRS[other] == TASK_PAIRS[task] and other != task
        )
        kinds[task] = scores > np.median(scores)
        kinds[opposite] = ~kinds[task]
        if not 0.4 <= kinds[task].mean() <= 0.6:
            raise ValueError(
                f"The judge {name!r} scores too many of the {n} faces alike: {kinds[task].sum()} are above the median."
            )
    faces = pd.DataFrame(kinds, index=numbers)
    return faces, pd.DataFrame(latents.cpu().numpy(), index=[str(number) for number in numbers])


def _draw_aucs(mean: float, sd: float, limits: Sequence[float], rng: np.random.Generator) -> dict[str, float]:
    """One AUC a task, whose deviations are the person's in one part and the task's in the other."""
    own = np.sqrt(1 - AUC_SD_OF_PEOPLE**2)
    drawn = mean + sd * (
        AUC_SD_OF_PEOPLE * rng.standard_normal() + own * rng.standard_normal(len(TASK_PAIRS))
    )
    return dict(zip(TASK_PAIRS, np.clip(drawn, *limits).tolist(), strict=True))


def _draw_trials(kind: pd.Series, settings: dict, rng: np.random.Generator) -> pd.DataFrame:
    """Trials `stimulus`, `target` in random order: each face once, then some of them again."""
    most = _most_faces(settings)
    n = int(np.clip(round(rng.normal(settings["n_unique"], settings["n_unique_sd"])), 12, most))
    n_targets = min(max(round(settings["target_share"] * n), 3), n - 3)
    counts = {True: n_targets, False: n - n_targets}
    shown = np.concatenate(
        [rng.choice(kind.index[kind == is_target], k, replace=False) for is_target, k in counts.items()]
    )
    again = rng.choice(shown, max(settings["n_trials"] - n, 0))
    stimulus = rng.permutation(np.concatenate([shown, again]))
    return pd.DataFrame({"stimulus": stimulus, "target": kind[stimulus].to_numpy()})


class _Windows:
    """Noise, the response to every face and the P300 as means over 100 ms of 32 channels, flattened, µV.

    root : (160, 160), noise is white @ root; visual : (160,)
    """

    def __init__(self, noise_uv: float = 10.0, alpha_uv: float = 5.0):
        noise = background_noise(CHANNELS, REFERENCE, _TIMES, noise_uv=noise_uv, alpha_uv=alpha_uv)
        window = np.floor(_TIMES * 10 + 1e-9)  # -2, -1 before the face
        self.means = np.stack([(window == k) / (window == k).sum() for k in range(N_WINDOWS)])
        self.means -= (_TIMES < 0) / (_TIMES < 0).sum()  # from baseline
        parts = [
            (noise.cortical_time, noise.cortical),
            (noise.alpha_time, noise.fields @ noise.fields.T),
            (np.eye(len(_TIMES)), noise.sensor),
        ]
        covariance = sum(np.kron(self.means @ time @ self.means.T, space) for time, space in parts)
        self.root = np.linalg.cholesky(covariance).T
        self.names = (*CHANNELS, REFERENCE)
        self.visual = (self.means @ rereferenced(visual_response(self.names, _TIMES)).T).ravel()

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Noise and the response to every face (n, 160)."""
        return rng.standard_normal((n, len(self.root))) @ self.root + self.visual

    def p300(self, peak: float) -> np.ndarray:
        """The P300 (160,) of 1 µV at its largest electrode that peaks at `peak` (s)."""
        wave = self.means @ bumps_at(_TIMES, peak, P300_WIDTH)[0]
        return np.outer(wave, rereferenced(topography_of(self.names, tuple(P300.items())))).ravel()

    def amplitude(self, response: np.ndarray, wanted: float) -> float:
        """µV at which one who knows noise and response reaches an AUC."""
        return float(np.sqrt(2) * ndtri(wanted) / np.linalg.norm(np.linalg.solve(self.root.T, response)))


def _draw_person(
    head: _Windows, viewed: dict[str, pd.DataFrame], wanted: dict[str, float], rng: np.random.Generator
) -> tuple[dict, dict]:
    """One person's part of the file, and the truth about them."""
    response = head.p300(float(np.clip(rng.normal(P300_PEAK, _PEAK_SD), 0.32, 0.45)))
    noise = {task: head.draw(len(trials), rng) for task, trials in viewed.items()}
    target = {task: trials["target"].to_numpy() for task, trials in viewed.items()}
    start = {task: head.amplitude(response, value) for task, value in wanted.items()}
    amplitude, reached = _calibrated(noise, target, response, wanted, start)
    own = {}
    for task, trials in viewed.items():
        x = noise[task] + amplitude[task] * np.outer(target[task], response)
        x = (x * 1e-6).astype(np.float32).reshape(len(x), N_WINDOWS, len(CHANNELS))
        own[task] = x, np.column_stack([target[task].astype(np.int64), trials["stimulus"]])
    truth = {
        task: {"auc_drawn": wanted[task], "auc_reached": reached[task], "amplitude_uv": amplitude[task]}
        for task in viewed
    }
    return _layout(own), truth


def _calibrated(
    noise: dict[str, np.ndarray],
    target: dict[str, np.ndarray],
    response: np.ndarray,
    wanted: dict[str, float],
    amplitude: dict[str, float],
) -> tuple[dict[str, float], dict[str, float]]:
    """Amplitude and AUC of each task: at it LDA trained on the other pairs of tasks reaches the wanted AUC.

    Given the classifier, the AUC is the share of pairs of trials whose difference in noise an amplitude outweighs:
    the amplitude is a quantile of those differences. The classifier depends on the other tasks' amplitudes.
    """
    for _ in range(_ROUNDS):
        weights = _weights(noise, target, response, amplitude)
        amplitude = {
            task: _outweighing(
                noise[task] @ weights[task], target[task], response @ weights[task], wanted[task]
            )
            for task in noise
        }
    weights = _weights(noise, target, response, amplitude)
    reached = {
        task: auc(target[task], (x + amplitude[task] * np.outer(target[task], response)) @ weights[task])
        for task, x in noise.items()
    }
    return amplitude, reached


def _weights(
    noise: dict[str, np.ndarray],
    target: dict[str, np.ndarray],
    response: np.ndarray,
    amplitude: dict[str, float],
) -> dict[str, np.ndarray]:
    """Weights (160,) of shrinkage LDA for each task, from the trials of the other pairs."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    found = {}
    for pair in dict.fromkeys(TASK_PAIRS.values()):
        others = [task for task in noise if TASK_PAIRS[task] != pair]
        x = np.concatenate([noise[t] + amplitude[t] * np.outer(target[t], response) for t in others])
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
        model.fit(x, np.concatenate([target[task] for task in others]))
        found |= dict.fromkeys((task for task in noise if TASK_PAIRS[task] == pair), model.coef_[0])
    return found


def _outweighing(projected: np.ndarray, target: np.ndarray, gain: float, wanted: float) -> float:
    differences = (projected[~target, None] - projected[target]) / gain
    return max(float(np.quantile(differences, wanted)), 0.0)


def _layout(own: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict:
    """As published: the part train of a task is all trials of the other three pairs."""
    parts: dict = {"note": "simulated by brainedit.simulate.facecat"}
    for task, (x, y) in own.items():
        others = [own[other] for other in own if TASK_PAIRS[other] != TASK_PAIRS[task]]
        train_x, train_y = (np.concatenate(part) for part in zip(*others, strict=True))
        parts[f"facecat/{task}"] = {"train_x": train_x, "train_y": train_y, "test_x": x, "test_y": y}
    return parts


def _write(folder: Path, db: dict, latents: pd.DataFrame) -> None:
    with lzma.open(folder / "facecat.xz", "wb", filters=_FILTERS) as file:
        pickle.dump(db, file, protocol=3)  # of the authors' Python 3.7
    write_latents(latents, folder / "latents.safetensors", space="z")


_README = """SIMULATED. No person was recorded.

The folder has the layout of the data of Brain-Supervised Image Editing (Davis et al., CVPR 2022), so that programs can
be tried on data whose truth is known: truth.json says of which kind each face is, and how strongly each person's EEG
tells faces that were looked for. The faces are those of a generator; latents.safetensors has their z.
"""
