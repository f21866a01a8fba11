"""The data of the self-calibrating BCI: EEG features, the faces that were seen, and the face that was looked for."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from brainedit._check import pick
from brainedit.datasets.feature_sets import LatentDataset

FEATURES = {"raw": ("eeg_raw", 203), "net": ("eeg_net", 176)}
N_DIMS = 512
MAX_BYTES = 2**31  # unpacked; the published file has about 100 MiB
SAME_FACE = 1e-5  # latents of one face may differ so much by rounding

_NOTE = (
    "The file tells neither person nor order, so only splits by the face seen or by the face looked for are possible, "
    "and one person's trials may lie on both sides."
)


def load_self_calibrating(root: str | Path, *, eeg: str = "raw") -> LatentDataset:
    """EEG features of faces seen while another face was looked for, with the latents of both.

    root : folder with `all_data_sorted.npz`, itself or in `src/data`
    eeg : "raw", (n_trials, 203): 29 channels x 7 time windows, in an order that is not documented; or "net",
        (n_trials, 176), features of a network that the authors had trained (on which trials is not documented)

    Latents are PGGAN's z, (n_faces, 512). The file has no names: faces whose latents agree are one, called
    face0000 and so on by first use. Metadata: stimulus (the face seen), target_stimulus (the face looked for). Person,
    run and time are not in the file and absent.
    Raises FileNotFoundError or ValueError in one sentence.
    Source: Grizou, de la Torre-Ortiz & Ruotsalo, Self-Calibrating BCIs, NeurIPS 2025, arXiv 2506.11151.
    """
    key, n_features = pick("eeg", eeg, FEATURES)
    path = _file(Path(root))
    shapes = {key: n_features, "observed_faces": N_DIMS, "target_faces": N_DIMS}
    arrays = _read(path, shapes)
    seen, sought = arrays["observed_faces"], arrays["target_faces"]
    numbers, latents = _faces(np.concatenate([seen, sought]))
    names = np.array([f"face{number:04d}" for number in range(len(latents))])
    metadata = pd.DataFrame(
        {"stimulus": names[numbers[: len(seen)]], "target_stimulus": names[numbers[len(seen) :]]}
    )
    return LatentDataset(
        features=arrays[key].astype(np.float32),
        latents=pd.DataFrame(latents, index=names),
        metadata=metadata,
        name="self_calibrating",
        note=_NOTE,
    )


def _file(root: Path) -> Path:
    for path in (root / "all_data_sorted.npz", root / "src" / "data" / "all_data_sorted.npz"):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"There is no all_data_sorted.npz in {root}; it is in `src/data` of the GitHub repository "
        "jgrizou/neurips-self-calibrating-bci (MIT, arXiv 2506.11151): put it into this folder."
    )


def _read(path: Path, shapes: dict[str, int]) -> dict[str, np.ndarray]:
    """The arrays (n, columns) of the file by name, all with as many rows; no objects are unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            n_bytes = sum(entry.file_size for entry in archive.infolist())
        if n_bytes > MAX_BYTES:
            raise ValueError(f"{path} unpacks to {n_bytes} bytes; up to {MAX_BYTES} are read.")
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in shapes if key not in file]
            if missing:
                raise ValueError(f"{path} has no array {missing[0]}; it has {', '.join(file)}.")
            arrays = {key: file[key] for key in shapes}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged or no npz file ({error}); fetch it again.") from error
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path} holds an array that is not plain numbers ({error}).") from error
    n_trials = len(arrays["observed_faces"])
    for key, columns in shapes.items():
        if arrays[key].shape != (n_trials, columns) or arrays[key].dtype.kind != "f" or n_trials == 0:
            came = f"{arrays[key].shape} of {arrays[key].dtype}"
            raise ValueError(f"{path}: {key} needs to be real numbers ({n_trials}, {columns}); it is {came}.")
        if not np.isfinite(arrays[key]).all():
            raise ValueError(f"{path}: {key} has values that are NaN or infinite; fetch the file again.")
    return arrays


def _faces(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of the face of each row, by first use, and the faces' latents.

    Rows that differ by rounding are one face: under two names it could lie on both sides of a split.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    rows, inverse = np.unique(latents, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    directions = np.random.default_rng(0).normal(size=(latents.shape[1], 8)) / np.sqrt(latents.shape[1])
    reach = SAME_FACE * np.abs(directions).sum(axis=0).max()  # how far a projection can move
    pairs = cKDTree(rows @ directions).query_pairs(reach, p=np.inf, output_type="ndarray")
    near = np.abs(rows[pairs[:, 0]] - rows[pairs[:, 1]]).max(axis=1, initial=0) <= SAME_FACE
    links = coo_array((np.ones(near.sum()), tuple(pairs[near].T)), shape=(len(rows), len(rows)))
    face = connected_components(links, directed=False)[1][inverse]
    _, first, number = np.unique(face, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return np.argsort(order)[number.reshape(-1)], latents[first[order]]
