"""A training run in one safetensors file, written aside and renamed, so that a kill leaves the last one whole."""

import json
import os
import textwrap
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save_checkpoint(
    path: str | Path,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    *,
    identity: dict[str, object],
    state: dict[str, object],
) -> None:
    """Weights and buffers of the modules, moments of the optimisers, what the run is and where it stands.

    identity : settings and data; a checkpoint of another run is refused
    state : any JSON: how many pictures were seen, the losses so far
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"module.{name}.{key}"] = value.detach().cpu().contiguous()
    for name, optimizer in optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"optimizer.{name}.{index}.{key}"] = torch.as_tensor(value).cpu().contiguous()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata={"identity": json.dumps(identity), "state": json.dumps(state)})
    os.replace(partial, path)


def load_checkpoint(
    path: str | Path,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    *,
    identity: dict[str, object],
) -> dict[str, object]:
    """Put modules and optimisers where the checkpoint left them; gives its state.

    Raises ValueError when the file is damaged, or of a run with other settings or data.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        written, state = json.loads(metadata["identity"]), json.loads(metadata["state"])
        now = json.loads(json.dumps(identity))
        other = sorted(key for key in written.keys() | now.keys() if written.get(key) != now.get(key))
        if other:
            key = other[0]
            raise ValueError(f"its {key} is {written.get(key)}, now it is {now.get(key)}")
        for name, module in modules.items():
            start = f"module.{name}."
            module.load_state_dict(
                {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            )
        for name, optimizer in optimizers.items():
            _load_moments(optimizer, name, tensors)
    except Exception as error:  # a truncated or foreign file fails in many ways
        reason = textwrap.shorten(str(error), 300)
        raise ValueError(
            f"The checkpoint {path} cannot be continued ({reason}); delete it to start anew."
        ) from error
    return state


def _load_moments(optimizer: torch.optim.Optimizer, name: str, tensors: dict[str, Tensor]) -> None:
    start = f"optimizer.{name}."
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(start):
            index, moment = key.removeprefix(start).split(".")
            moments.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
