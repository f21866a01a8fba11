"""Load a generator by its name or from our own files, and write such files."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from brainedit._check import pick
from brainedit.generators.base import Generator, tensors_sha256
from brainedit.generators.dcgan import load_dcgan_faces
from brainedit.generators.stylegan2 import StyleGAN2

NAMED: dict[str, Callable[[], Generator]] = {"dcgan-faces": load_dcgan_faces}
ARCHITECTURES: dict[str, type[Generator]] = {"stylegan2": StyleGAN2}
FORMAT = "brainedit-generator"


def load_generator(name_or_path: str | os.PathLike, *, device: str = "cpu") -> Generator:
    """A generator in eval mode, its weights fixed.

    name_or_path : "dcgan-faces", or a folder that `save_generator` wrote (or its generator.json)

    Raises ValueError for an unknown name, a file that is not ours, or damaged weights. Nothing is unpickled.
    """
    path = Path(name_or_path)
    if str(name_or_path) in NAMED:
        generator = NAMED[str(name_or_path)]()
    elif path.is_dir() or path.suffix == ".json":
        generator = _load_own(path if path.suffix == ".json" else path / "generator.json")
    elif path.exists():
        raise ValueError(
            f"{path} is not a folder written by save_generator; convert other people's checkpoints first."
        )
    else:
        pick("generator (or there is no such path)", str(name_or_path), NAMED)
    return generator.to(device).eval().requires_grad_(False)


def save_generator(generator: Generator, path: str | os.PathLike) -> Path:
    """Write generator.safetensors and generator.json (settings, sha256, licence) into the folder `path`.

    Raises ValueError for a generator that only its package can give.
    """
    architecture = getattr(generator, "architecture", None)
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{generator.name} cannot be saved: it is loaded by its name from its own package.")
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "format": FORMAT,
        "version": 1,
        "architecture": architecture,
        "name": generator.name,
        "licence": generator.licence,
        "sha256": generator.sha256,
        "kwargs": generator.kwargs,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()}
    # the record goes last: without it the folder is no generator
    save_file(tensors, folder / "generator.safetensors.partial")
    (folder / "generator.json.partial").write_text(json.dumps(record, indent=1), encoding="utf-8")
    for file in ("generator.safetensors", "generator.json"):
        os.replace(folder / f"{file}.partial", folder / file)
    return folder


def _load_own(record_path: Path) -> Generator:
    record = _read_record(record_path)
    weights_path = record_path.with_suffix(".safetensors")
    if not weights_path.is_file():
        raise FileNotFoundError(f"{weights_path} is missing; it belongs beside {record_path.name}.")
    try:
        tensors = load_file(weights_path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{weights_path} is damaged or no safetensors file: {error}.") from error
    generator = build(record["architecture"], record["kwargs"], tensors, source=weights_path)
    generator.name, generator.licence = str(record["name"]), str(record["licence"])
    if tensors_sha256(tensors) != record["sha256"]:
        raise ValueError(f"{weights_path} is not what {record_path.name} describes: their sha256 differ.")
    return generator


def build(
    architecture: str, kwargs: dict, tensors: dict[str, torch.Tensor], *, source: str | os.PathLike
) -> Generator:
    """A generator from its constructor's arguments and its tensors.

    source : where the tensors came from, for the messages

    Raises ValueError when a tensor is missing, left over, of another shape, or not finite.
    """
    try:
        generator = pick("generator architecture", architecture, ARCHITECTURES)(**kwargs)
    except TypeError as error:
        raise ValueError(f"The settings of {source} do not make a {architecture}: {error}.") from error
    wanted = {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(f"{source}: tensor {name!r} should be {wanted.get(name)}, is {found.get(name)}.")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{source}: tensor {name!r} holds NaN or infinity.")
    generator.load_state_dict(tensors)
    return generator


def _read_record(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; a generator's folder holds generator.json and its weights."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f'{path} was not written by save_generator: it needs "format": "{FORMAT}".')
    missing = [key for key in ("architecture", "name", "licence", "sha256", "kwargs") if key not in record]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; write it again with save_generator.")
    return record
