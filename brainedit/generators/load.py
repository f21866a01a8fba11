"""Load a generator by its name, from our own files or from anyone's checkpoint, and write our own files."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from brainedit._check import pick
from brainedit.assets import FACES
from brainedit.generators.base import Generator
from brainedit.generators.checkpoints import read_checkpoint
from brainedit.generators.dcgan import load_dcgan_faces
from brainedit.generators.pggan import PGGAN
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.generators.stylegan3 import StyleGAN3

logger = logging.getLogger(__name__)

ARCHITECTURES: dict[str, type[Generator]] = {"stylegan2": StyleGAN2, "stylegan3": StyleGAN3, "pggan": PGGAN}
FORMAT = "brainedit-generator"
TYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Source:
    """Where converted weights came from: the file, which of its networks was taken, and what was assumed."""

    file: str
    sha256: str
    network: str
    notes: tuple[str, ...]


def load_generator(name_or_path: str | os.PathLike, *, device: str = "cpu") -> Generator:
    """A generator in eval mode, its weights fixed.

    name_or_path : "faces" (bundled), "dcgan-faces" (optional package), a folder that `save_generator` or
        `convert_checkpoint` wrote (or its generator.json), or anyone's checkpoint, as `convert_checkpoint`
        takes; converting once saves the time of reading it

    No code inside a file ever runs. Raises ValueError for an unknown name, a file that is no generator, or
    damaged weights.
    """
    path = Path(name_or_path)
    if str(name_or_path) in NAMED:
        generator = NAMED[str(name_or_path)]()
    elif path.is_dir() or path.suffix == ".json":
        generator = _load_own(path if path.suffix == ".json" else path / "generator.json")
    elif path.is_file():
        generator, _ = _load_checkpoint(path)
    else:
        pick("generator (or there is no such path)", str(name_or_path), NAMED)
    return generator.to(device).eval().requires_grad_(False)


def convert_checkpoint(path: str | os.PathLike, out: str | os.PathLike, *, licence: str = "") -> Path:
    """Read anyone's checkpoint without running its code and write our own files into the folder `out`.

    path : a PyTorch pickle of StyleGAN2-ADA or StyleGAN3 (also a training snapshot), a StyleGAN2 `.pt` with
        g_ema, a Progressive GAN `.pth`, a state dict of any of them, or safetensors; told by content
    licence : what these weights may be used for; a note to fill in when empty

    Raises ValueError for a file that is none of these, or does not fit its architecture.
    """
    generator, source = _load_checkpoint(Path(path))
    generator.licence = licence or generator.licence
    return save_generator(generator, out, source=source)


def save_generator(
    generator: Generator, path: str | os.PathLike, *, precision: str = "float32", source: Source | None = None
) -> Path:
    """Write generator.safetensors and generator.json (settings, sha256, licence) into the folder `path`.

    precision : "float16" halves the file; the weights are rounded, and so is the generator that comes back

    Raises ValueError for a generator that only its package can give, or weights too large for the precision.
    """
    architecture = getattr(generator, "architecture", None)
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{generator.name} cannot be saved: it is loaded by its name from its own package.")
    stored = pick("precision", precision, TYPES)
    tensors = {k: v.detach().cpu().to(stored).contiguous() for k, v in generator.state_dict().items()}
    written = build(architecture, generator.kwargs, tensors, source=path)  # it can be read again
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "format": FORMAT,
        "version": 2,
        "architecture": architecture,
        "name": generator.name,
        "licence": generator.licence,
        "sha256": written.sha256,
        "source": asdict(source) if source else None,
        "kwargs": generator.kwargs,
    }
    # the record goes last: without it the folder is no generator
    save_file(tensors, folder / "generator.safetensors.partial")
    (folder / "generator.json.partial").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for file in ("generator.safetensors", "generator.json"):
        os.replace(folder / f"{file}.partial", folder / file)
    return folder


def build(
    architecture: str, kwargs: dict, tensors: dict[str, Tensor], *, source: str | os.PathLike
) -> Generator:
    """A float32 generator from its constructor's arguments and its tensors.

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
            raise ValueError(
                f"{source} is no whole {architecture}: tensor {name!r} should be "
                f"{wanted.get(name, 'absent')}, is {found.get(name, 'missing')}."
            )
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{source}: tensor {name!r} holds NaN or infinity.")
    generator.load_state_dict(tensors)
    return generator


def _load_checkpoint(path: Path) -> tuple[Generator, Source]:
    found = read_checkpoint(path)
    for note in found.notes:  # what was assumed may change the pictures
        logger.warning("%s: %s", path, note)
    generator = build(found.architecture, found.kwargs, found.tensors, source=path)
    generator.name = path.stem
    generator.licence = f"Licence of {path.name} not stated: fill in what its weights may be used for."
    return generator, Source(path.name, found.sha256, found.network, found.notes)


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
    if generator.sha256 != record["sha256"]:
        raise ValueError(f"{weights_path} is not what {record_path.name} describes: their sha256 differ.")
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


def _bundled_faces() -> Generator:
    return _load_own(FACES / "generator.json")


NAMED: dict[str, Callable[[], Generator]] = {"faces": _bundled_faces, "dcgan-faces": load_dcgan_faces}
