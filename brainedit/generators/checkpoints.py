"""Find the generator in someone else's checkpoint and read it as ours."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brainedit.generators.layouts import KNOWN, TOP_SETTINGS, Network, recognise
from brainedit.pickles.machine import Opaque, StoredTensor
from brainedit.pickles.unpickle import naming, read_objects

_GENERATORS = (  # from the one to prefer; the averaged network comes first
    *("G_ema", "g_ema", "generator_ema", "generator_smooth", "ema", "G", "g", "netG", "generator"),
    *("state_dict", "model_state_dict", "model", "module", "params_ema"),
)
_DISCRIMINATORS = ("D", "d", "netD", "discriminator")
_MAX_TENSORS = 10_000
_MAX_SETTING = 2**20  # no number among the settings of a real network is larger
_HARMLESS = ("torch_utils.persistence.", "torch.nn.", "argparse.")


@dataclass(frozen=True)
class Checkpoint:
    """A generator read from someone else's file.

    architecture, kwargs : which constructor, and its arguments
    tensors : float32, by our names
    network : which part of the file was taken, e.g. "G_ema"; "" where there is but one
    sha256 : of the file
    notes : sentences on what was assumed or left out
    """

    architecture: str
    kwargs: dict[str, Any]
    tensors: dict[str, Tensor]
    network: str
    sha256: str
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """The generator in a pickle, torch.save or safetensors file; no code of the file runs.

    Raises ValueError, in one sentence that names the file, for anything but one generator of `KNOWN`,
    for a damaged file, and for one that names more than it holds.
    """
    contents = read_objects(path)
    strange = ", ".join([name for name in contents.names if not name.startswith(_HARMLESS)][:5])
    with naming(Path(path)):
        try:
            label, found, siblings = _choose(contents.value)
        except ValueError as error:
            raise (
                ValueError(f"{error}; it names {strange}, which was not run") if strange else error
            ) from None
        network = _gather(found, contents.n_bytes)
        network.mean = _latent_mean(siblings)
        architecture, reader = recognise(network.tensors)
        kwargs, tensors = reader(network)
    if label in ("G", "g", "generator", "netG"):
        network.notes.append(f"The file has no averaged generator; {label} is the one in training.")
    if strange:
        network.notes.append(f"Named in the file and not run: {strange}.")
    return Checkpoint(architecture, kwargs, tensors, label, contents.sha256, tuple(network.notes))


def _choose(value: Any) -> tuple[str, Any, Mapping]:
    """Key, value and neighbours of the part that is a generator."""
    label, siblings = "", {}
    for _ in range(3):
        parts = [key for key in _GENERATORS if isinstance(value, dict) and _is_network(value.get(key))]
        if not parts:
            break
        label, siblings, value = parts[0], value, value[parts[0]]
    if isinstance(value, dict) and not any(map(_is_tensor, value.values())):
        if any(key in value for key in _DISCRIMINATORS):
            raise ValueError("holds a discriminator and no generator")
        keys = ", ".join(str(key)[:40] for key in list(value)[:6])
        raise ValueError(
            f"holds {keys or 'nothing'} and no generator under a name that is known; known: {KNOWN}"
        )
    if not isinstance(value, dict) and not _is_network(value):
        what = f"{value.module}.{value.name}" if isinstance(value, Opaque) else type(value).__name__
        raise ValueError(f"holds {what[:80]}, which is no generator; known: {KNOWN}")
    return label, value, siblings


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (StoredTensor, Tensor, np.ndarray))


def _is_network(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, Opaque) and _state(value) is not None)


def _state(value: Any) -> dict | None:
    """The attributes of a pickled module, whether NVIDIA's persistent kind or plain torch."""
    if not isinstance(value, Opaque):
        return None
    state = value.state
    if value.name == "_reconstruct_persistent_obj" and value.args and isinstance(value.args[0], dict):
        state = value.args[0].get("state")
    return state if isinstance(state, dict) and isinstance(state.get("_modules"), dict) else None


def _gather(found: Any, n_bytes: int) -> Network:
    if isinstance(found, dict):
        named = _without_prefix({key: value for key, value in found.items() if isinstance(key, str)})
        return Network(_tensors(named, n_bytes))
    state = _state(found)
    settings = dict(zip((*TOP_SETTINGS, "synthesis_kwargs"), state.get("_init_args") or (), strict=False))
    settings |= state.get("_init_kwargs") or {}
    network = Network(_tensors(_stored(found), n_bytes))
    network.settings = {key: _plain(key, value) for key, value in settings.items()}
    network.conv_clamp = _plain("conv_clamp", _attribute(found, "synthesis.b4.conv1", "conv_clamp"))
    return network


def _without_prefix(named: dict[str, Any]) -> dict[str, Any]:
    """`G_ema.x` and `module.x` become `x`; where several networks lie side by side the preferred is taken."""
    for _ in range(3):
        first = {name.split(".")[0] for name in named if "." in name}
        prefix = next((key for key in _GENERATORS if key in first), None)
        if prefix is None:
            break
        named = {k.removeprefix(f"{prefix}."): v for k, v in named.items() if k.startswith(f"{prefix}.")}
    return named


def _stored(network: Opaque) -> dict[str, Any]:
    """Parameters and buffers of a pickled module and of all inside it, by their full names."""
    stored: dict[str, Any] = {}
    modules, n_seen = [("", network)], 0
    while modules:
        prefix, module = modules.pop()
        state = _state(module)
        if state is None:
            raise ValueError(f"has no module under the name {prefix.rstrip('.')[:80]!r}")
        own = {**(state.get("_parameters") or {}), **(state.get("_buffers") or {})}
        n_seen += 1 + len(own) + len(state["_modules"])
        if n_seen > 10 * _MAX_TENSORS or len(prefix) > 500:  # modules may hold each other
            raise ValueError("nests its modules without end")
        stored |= {f"{prefix}{name}": value for name, value in own.items() if value is not None}
        children = [(f"{prefix}{name}.", child) for name, child in state["_modules"].items()]
        modules += [(name, child) for name, child in reversed(children) if child is not None]
    return stored


def _attribute(module: Any, where: str, name: str) -> Any:
    for part in where.split("."):
        state = _state(module)
        module = state["_modules"].get(part) if state else None
    return (_state(module) or {}).get(name)


def _tensors(named: dict[str, Any], n_bytes: int) -> dict[str, Tensor]:
    """The tensors, once it is clear that they take no more memory than a file of n_bytes may ask for."""
    sizes = [math.prod(value.shape) for value in named.values() if _is_tensor(value)]
    if len(sizes) > _MAX_TENSORS:
        raise ValueError(f"holds {len(sizes)} tensors; a generator has fewer than {_MAX_TENSORS}")
    if 4 * sum(sizes) > 4 * n_bytes + 2**20:
        raise ValueError("holds tensors that would take many times the bytes of the file")
    return {name: _tensor(name, value) for name, value in named.items()}


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, StoredTensor):
        value = value.tensor()
    elif isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))
    if not isinstance(value, Tensor):
        raise ValueError(f"holds {type(value).__name__} under {name[:80]!r} where a tensor should be")
    return value


def _plain(name: str, value: Any) -> Any:
    """A setting as JSON could hold it.

    Raises ValueError for anything but numbers, text, None and flat containers of these.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and value.size <= 64:
        value = value.tolist()
    if isinstance(value, dict) and name in ("mapping_kwargs", "synthesis_kwargs"):
        return {str(key): _plain(f"{name}.{str(key)[:40]}", part) for key, part in value.items()}
    numbers = isinstance(value, (list, tuple)) and all(isinstance(part, (int, float)) for part in value)
    if numbers and len(value) <= 64:
        return list(value)
    small = isinstance(value, (int, float)) and -_MAX_SETTING <= value <= _MAX_SETTING
    if not (value is None or small or (isinstance(value, str) and len(value) < 200)):
        raise ValueError(
            f"gives the setting {name[:60]!r} a value that is not known ({type(value).__name__})"
        )
    return value


def _latent_mean(siblings: Mapping) -> Tensor | None:
    mean = siblings.get("latent_avg")
    return _tensor("latent_avg", mean).float().flatten() if _is_tensor(mean) else None
