"""Latents of pictures on disk: a CSV, or safetensors with the list of stimuli in its header."""

import json
from pathlib import Path

import numpy as np
import pandas as pd


def read_latents(path: str | Path) -> pd.DataFrame:
    """Latents as a table, one row a stimulus and one column a dimension.

    path : a CSV whose first column is the stimulus, or a safetensors file with a tensor `latents`
        (n, n_dims) or (n, n_layers, n_dims) and `stimulus` (a JSON list) in its header. "w+" comes flat,
        layer by layer

    Raises FileNotFoundError or ValueError in one sentence.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of latents {path}.")
    try:
        table = _from_csv(path) if _is_text(path) else _from_safetensors(path)
    except Exception as error:  # parsers raise many kinds for a file that is something else
        raise ValueError(f"{path} holds no latents that can be read ({error}).") from error
    if table.index.has_duplicates:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(f"{path} has more than one row for {twice!r}; one is needed.")
    if not np.isfinite(table.to_numpy()).all():
        raise ValueError(f"{path} has latents that are NaN or infinite.")
    return table


def write_latents(latents: pd.DataFrame, path: str | Path, *, space: str) -> Path:
    """Write a table of latents as safetensors with the stimuli in the header."""
    from safetensors.numpy import save_file

    header = {"stimulus": json.dumps([str(name) for name in latents.index]), "space": space}
    values = np.ascontiguousarray(latents.to_numpy(np.float32))
    save_file({"latents": values}, path, metadata=header)
    return Path(path)


def _is_text(path: Path) -> bool:
    """A CSV begins with printable text; safetensors with the eight bytes of its header's length."""
    return b"\x00" not in path.read_bytes()[:64]


def _from_csv(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, index_col=0, dtype={0: str})
    table.index = table.index.astype(str)
    return table.astype(np.float64)


def _from_safetensors(path: Path) -> pd.DataFrame:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        names = json.loads((file.metadata() or {})["stimulus"])
        values = file.get_tensor("latents")
    if len(names) != len(values):
        raise ValueError(f"{len(names)} stimuli but {len(values)} latents")
    return pd.DataFrame(values.reshape(len(values), -1).astype(np.float64), index=[str(n) for n in names])
