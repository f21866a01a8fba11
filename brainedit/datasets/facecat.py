"""The faces of Brain-Supervised Image Editing (facecat.xz and latents.pkl), read without running what they name."""

import logging
import lzma
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainedit._check import pick
from brainedit.datasets.feature_sets import LatentDataset
from brainedit.datasets.latents import read_latents
from brainedit.pickles.machine import Opaque
from brainedit.pickles.unpickle import read_objects

logger = logging.getLogger(__name__)

TASK_PAIRS = {
    **dict.fromkeys(("female", "male"), "female/male"),
    **dict.fromkeys(("nosmile", "smiles"), "nosmile/smiles"),
    **dict.fromkeys(("old", "young"), "old/young"),
    **dict.fromkeys(("blond", "darkhaired"), "blond/darkhaired"),
}
N_WINDOWS, N_CHANNELS = 5, 32
MAX_UNPACKED = 3 * 2**30  # bytes of facecat.xz; the published one holds 30 people, below one GiB

_NOTE = (
    "Faces of both kinds came mixed within a task, so relevance can be tested on tasks, faces and people that were "
    "left out; the file has no times, so nothing can be said about drift within a task."
)


def load_facecat(root: str | Path, *, subject: int | None = None, task: str | None = None) -> LatentDataset:
    """Window means of the EEG to faces, and the faces' latents.

    root : folder with `facecat.xz` (or, unpacked, `facecat.pkl`) and the faces' latents as `latents.pkl`,
        `latents.csv` or `latents.safetensors`, itself or in `data`
    subject : 0 to 29, the file's own number; None for all
    task : what the person looked for: female, male, nosmile, smiles, old, young, blond, darkhaired; None for all

    Features are (n_trials, 5, 32): means over 100 ms from 0 to 500 ms after the face, by channel (volts, as MNE
    gives them). The file does not name the channels. Metadata: stimulus, subject, task, task_pair, target (True
    where the face is of the kind looked for), design_source. Latents are PGGAN's z, one row a face.
    Only the part "test" of each task is read: it holds the task's own trials, each once. The part "train" repeats
    those of the other three pairs of tasks. Trials whose face has no latent are left out, with a warning.

    Raises FileNotFoundError or ValueError in one sentence.
    Source: Davis, de la Torre-Ortiz & Ruotsalo, Brain-Supervised Image Editing, CVPR 2022, and its repository.
    """
    root = Path(root)
    path = _find(root, ("facecat.xz", "facecat.pkl"))
    latents = _read_faces(_find(root, ("latents.pkl", "latents.csv", "latents.safetensors")))
    people = _people(_read(path), path, subject)
    tasks = list(TASK_PAIRS) if task is None else [_task_name(task)]
    features, metadata = [], []
    simulated = any(_is_simulated(parts) for parts in people.values())
    for person, parts in people.items():
        for name in tasks:
            x, y = _trials(parts, person, name, path)
            features.append(x)
            metadata.append(y.assign(subject=str(person), task=name, task_pair=TASK_PAIRS[name]))
        _warn_of_other_trials(parts, person)
    table = pd.concat(metadata, ignore_index=True).assign(
        design_source="simulated" if simulated else "recorded"
    )
    known = table["stimulus"].isin(latents.index).to_numpy()
    if not known.any():
        raise ValueError(
            f"{path}: none of its faces ({table['stimulus'].iloc[0]!r} is the first) has a latent."
        )
    if not known.all():
        logger.warning("%d of %d trials are left out: their face has no latent.", (~known).sum(), len(known))
    return LatentDataset(
        features=np.concatenate(features)[known],
        latents=latents[latents.index.isin(table["stimulus"])],
        metadata=table[known].reset_index(drop=True),
        name="facecat",
        note=_NOTE,
    )


def _find(root: Path, names: tuple[str, ...]) -> Path:
    for folder in (root, root / "data"):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise FileNotFoundError(
        f"There is no {' or '.join(names)} in {root}; facecat.xz and latents.pkl are in the folder `data` of the"
        " authors' GitHub repository Cognitive-Computing-Group/Brain-Supervised-Image-Editing (research use only);"
        " put both into this folder."
    )


def _read(path: Path) -> Any:
    if path.suffix != ".xz":
        return read_objects(path).value
    with tempfile.TemporaryDirectory(prefix="brainedit-") as folder:
        unpacked = Path(folder) / path.stem
        _unpack(path, unpacked)
        try:
            return read_objects(unpacked).value  # not mapped: the folder goes away
        except ValueError as error:
            raise ValueError(str(error).replace(str(unpacked), str(path))) from error


def _unpack(path: Path, unpacked: Path) -> None:
    n_bytes = 0
    try:
        with lzma.open(path) as source, open(unpacked, "wb") as target:
            while piece := source.read(2**20):
                n_bytes += len(piece)
                if n_bytes > MAX_UNPACKED:
                    raise ValueError(
                        f"{path} unpacks to more than {MAX_UNPACKED} bytes; that is not facecat."
                    )
                target.write(piece)
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{path} is damaged or no xz file ({error}); fetch it again.") from error


def _people(db: Any, path: Path, subject: int | None) -> dict[int, Mapping]:
    if not isinstance(db, dict) or not all(isinstance(key, int) for key in db) or not db:
        raise ValueError(f"{path} needs to hold a dict of people numbered from 0; it holds {_kind(db)}.")
    if subject is None:
        return dict(sorted(db.items()))
    if isinstance(subject, bool) or subject not in db:
        raise ValueError(f"{path} has no subject {subject!r}; it has {min(db)} to {max(db)}.")
    return {subject: db[subject]}


def _is_simulated(parts: Any) -> bool:
    """Whether a person's trials say so, as those of `simulate_facecat` do."""
    note = parts.get("note") if isinstance(parts, Mapping) else None
    return isinstance(note, str) and note.startswith("simulated")


def _task_name(task: str) -> str:
    short = task.removeprefix("facecat/")
    return pick("task", short, dict.fromkeys(TASK_PAIRS, short))


def _trials(parts: Any, person: int, task: str, path: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Features (n, 5, 32) float32 and a table stimulus, target of one person's own trials of a task."""
    where = f"{path}, subject {person}, task {task}"
    part = parts.get(f"facecat/{task}") if isinstance(parts, dict) else None
    if not isinstance(part, dict):
        raise ValueError(f"{where}: needs a dict with test_x and test_y; it holds {_kind(part)}.")
    x, y = _pair(part, "test", where)
    if (
        not isinstance(x, np.ndarray)
        or x.shape[1:] != (N_WINDOWS, N_CHANNELS)
        or x.dtype.kind != "f"
        or not len(x)
    ):
        raise ValueError(f"{where}: needs features (n, {N_WINDOWS}, {N_CHANNELS}); got {_kind(x)}.")
    table = _labels(y, where)
    if len(table) != len(x):
        raise ValueError(f"{where}: has {len(x)} trials but {len(table)} labels.")
    return x.astype(np.float32), table


def _pair(part: dict, name: str, where: str) -> tuple[Any, Any]:
    """Features and labels in both published layouts: keys test_x and test_y, or a key test with the two."""
    if f"{name}_x" in part and f"{name}_y" in part:
        return part[f"{name}_x"], part[f"{name}_y"]
    both = part.get(name)
    if isinstance(both, dict) and {"x", "y"} <= set(both):
        return both["x"], both["y"]
    if isinstance(both, (tuple, list)) and len(both) == 2:
        return both[0], both[1]
    raise ValueError(
        f"{where}: needs {name}_x and {name}_y, or {name} with both; it has {', '.join(map(str, part))}."
    )


def _labels(y: Any, where: str) -> pd.DataFrame:
    """A table stimulus, target of an array (n, 2) of label and stimulus, or of a pickled table with rel and img."""
    if isinstance(y, Opaque):
        frame = read_frame(y, where)
        if not {"rel", "img"} <= set(frame):
            raise ValueError(
                f"{where}: the labels need columns rel and img; they have {', '.join(map(str, frame))}."
            )
        label, stimulus = frame["rel"].tolist(), frame["img"].tolist()
    elif isinstance(y, np.ndarray) and y.ndim == 2 and y.shape[1] == 2:
        label, stimulus = y[:, 0].tolist(), y[:, 1].tolist()
    else:
        raise ValueError(f"{where}: needs labels (n, 2), a label and a stimulus; got {_kind(y)}.")
    target = [_whole(value, where) for value in label]
    wrong = [value for value in target if value not in (0, 1)]
    if wrong:
        raise ValueError(f"{where}: labels are 0 or 1; one is {wrong[0]}.")
    names = [str(_whole(value, where)) for value in stimulus]
    return pd.DataFrame({"stimulus": names, "target": np.array(target, bool)})


def _whole(value: Any, where: str) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number) or number != int(number):
        raise ValueError(f"{where}: labels and stimuli are whole numbers; one is {value!r}.")
    return int(number)


def _warn_of_other_trials(parts: dict, person: int) -> None:
    """Warn when a part "train" is not what it was published as: the own trials of the other pairs of tasks."""
    tests = {name: _n_trials(parts.get(f"facecat/{name}"), "test") for name in TASK_PAIRS}
    for name, pair in TASK_PAIRS.items():
        n_train = _n_trials(parts.get(f"facecat/{name}"), "train")
        others = sum(n for other, n in tests.items() if TASK_PAIRS[other] != pair)
        if n_train not in (0, others):
            logger.warning(
                "Subject %s, task %s: the part train has %d trials where the other tasks have %d; only the part"
                " test is read, so some trials may be left out.", person, name, n_train, others
            )  # fmt: skip


def _n_trials(part: Any, name: str) -> int:
    try:
        return len(_pair(part, name, "")[0])
    except (ValueError, TypeError, AttributeError):
        return 0


def _read_faces(path: Path) -> pd.DataFrame:
    """Latents (n_faces, n_dims), indexed by the number of the face as text."""
    if path.suffix != ".pkl":
        return read_latents(path)
    table = read_frame(read_objects(path).value, str(path))
    if isinstance(table.index, pd.RangeIndex):
        raise ValueError(
            f"{path}: its rows are numbered 0 to {len(table) - 1}, not by face; whose they are is lost."
        )
    values = table.to_numpy()
    if values.dtype.kind != "f":
        raise ValueError(f"{path}: latents are real numbers; these are {values.dtype}.")
    table.index = [str(_whole(name, str(path))) for name in table.index]
    return table


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    return f"{value.module}.{value.name}" if isinstance(value, Opaque) else type(value).__name__


def read_frame(pickled: Any, where: str) -> pd.DataFrame:
    """A pandas table out of the records of its pickle, as pandas 1.0 and as pandas 1.3 to 3 write it.

    pickled : what `read_objects` gives for the pickle; pandas' own code is not asked
    where : what a message calls the table

    Raises ValueError for anything that is not a plain table of numbers or Python objects.
    """
    axes, blocks = _manager(pickled, where)
    columns, index = (_index(axis, where) for axis in axes)
    if len(columns) > 2**16:
        raise ValueError(f"{where}: a table of {len(columns)} columns is no table of latents.")
    found: dict[int, np.ndarray] = {}
    for values, places in blocks:
        places = _places(places, len(columns), where)
        if not isinstance(values, np.ndarray) or values.shape != (len(places), len(index)):
            raise ValueError(
                f"{where}: a block of {len(places)} columns by {len(index)} rows is {_kind(values)}."
            )
        found |= dict(zip(places, values, strict=True))
    if len(found) != len(columns) or len(found) != sum(len(values) for values, _ in blocks):
        raise ValueError(
            f"{where}: its blocks hold {len(found)} of {len(columns)} columns, or one of them twice."
        )
    dtypes = {values.dtype for values in found.values()}
    if len(dtypes) == 1:
        return pd.DataFrame(np.stack([found[i] for i in range(len(columns))], axis=1), index, columns)
    return pd.DataFrame({i: found[i] for i in range(len(columns))}, index).set_axis(columns, axis=1)


def _manager(pickled: Any, where: str) -> tuple[list, list[tuple[Any, Any]]]:
    """The axes (columns, rows) and the blocks (values, places) of a pickled DataFrame."""
    state = pickled.state if isinstance(pickled, Opaque) and pickled.name == "DataFrame" else None
    manager = (state.get("_mgr") or state.get("_data")) if isinstance(state, dict) else None
    if not isinstance(manager, Opaque) or manager.name != "BlockManager":
        raise ValueError(f"{where} needs to hold a pandas DataFrame; it holds {_kind(pickled)}.")
    if len(manager.args or ()) == 2 and isinstance(
        manager.args[0], tuple
    ):  # pandas 1.3 on: blocks, then axes
        blocks, axes = manager.args
        made = [block.args for block in blocks if isinstance(block, Opaque) and len(block.args or ()) == 3]
        pairs = [(values, places) for values, places, _ in made] if len(made) == len(blocks) else None
    else:
        try:
            axes = manager.state[3]["0.14.1"]["axes"]
            pairs = [(block["values"], block["mgr_locs"]) for block in manager.state[3]["0.14.1"]["blocks"]]
        except (TypeError, LookupError):
            axes = pairs = None
    if pairs is None or not isinstance(axes, list) or len(axes) != 2:
        raise ValueError(
            f"{where}: this pandas pickle is laid out in a way that is not known; save it as CSV."
        )
    return axes, pairs


def _index(axis: Any, where: str) -> pd.Index:
    args = (axis.args or ()) if isinstance(axis, Opaque) and axis.name == "_new_Index" else ()
    settings = args[1] if len(args) == 2 and isinstance(args[1], dict) else {}
    numbers = [settings.get(key) for key in ("start", "stop", "step")]
    if all(type(number) is int and abs(number) < 2**31 for number in numbers) and numbers[2] != 0:
        return pd.RangeIndex(*numbers)
    if isinstance(settings.get("data"), np.ndarray) and settings["data"].ndim == 1:
        return pd.Index(settings["data"])
    raise ValueError(
        f"{where}: the names of its rows or columns are of a kind that is not read; save it as CSV."
    )


def _places(places: Any, n_columns: int, where: str) -> list[int]:
    limits = (places.args or ()) if isinstance(places, Opaque) and places.name == "slice" else ()
    if len(limits) == 3 and all(limit is None or type(limit) is int for limit in limits) and limits[2] != 0:
        chosen = list(range(n_columns))[slice(*limits)]
    elif isinstance(places, np.ndarray) and places.ndim == 1 and places.dtype.kind in "iu":
        chosen = places.tolist()
    else:
        raise ValueError(f"{where}: the places of its columns are {_kind(places)}.")
    if any(not 0 <= place < n_columns for place in chosen):
        raise ValueError(f"{where}: a block belongs to column {max(chosen)} of {n_columns}.")
    return chosen
