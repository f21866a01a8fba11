"""Read the objects of pickle, torch and safetensors files without running or importing anything they name."""

import hashlib
import io
import os
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from brainedit.pickle_machine import Budget, Machine, Storage

MAX_BYTES = 4 * 2**30  # of a file

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a torch.save before the zip format
_LEGACY_PROTOCOL = 1001
_FOREIGN = {  # how a file begins that is no pickle, and what to say of it
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"BZh": "is compressed with bzip2; unpack it first",
    b"\xfd7zXZ": "is compressed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it first",
    b"7z\xbc\xaf": "is a 7-Zip archive; unpack it first",
    b"\x89HDF": "is an HDF5 file, as Keras writes; only PyTorch weights are read",
    b"\x08": "looks like an ONNX file, which holds a graph; only PyTorch weights are read",
    b"version https://git-lfs": "is a Git LFS pointer of a few lines; fetch the file itself",
}


@dataclass(frozen=True)
class Contents:
    """What a file holds: its objects, the unknown names in it ("os.system"), its size and sha256."""

    value: Any
    names: tuple[str, ...]
    n_bytes: int
    sha256: str


def read_objects(path: str | os.PathLike) -> Contents:
    """The objects of a pickle, a torch.save of either format, or a safetensors file, told by its content.

    Numbers, text, containers, numpy arrays and torch tensors (as StoredTensor) come back as what they are,
    all else as Opaque. Nothing that the file names is imported or called.

    Raises ValueError, in one sentence, for every other kind of file and for a damaged or hostile one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} holds {path.stat().st_size} bytes; at most {MAX_BYTES} are read.")
    data = path.read_bytes()
    with naming(path):
        budget = Budget(len(data), _read_pickled)
        value = _read_safetensors(data) if _is_safetensors(data) else _read_pickled(data, budget)
        return Contents(value, tuple(sorted(budget.names)), len(data), hashlib.sha256(data).hexdigest())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file's content inside becomes one ValueError that names the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {str(error)[:500].rstrip('.')}.") from error
    except _DAMAGE as error:
        kind = type(error).__name__
        raise ValueError(f"{path}: is damaged or no file of weights ({kind}: {str(error)[:300]}).") from error


_DAMAGE = (
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,  # NotImplementedError and RecursionError too
    MemoryError,
    EOFError,
    OSError,
    struct.error,
    Warning,  # where warnings are errors: pickletools warns of odd escapes
    zipfile.BadZipFile,
)


def _refuse_foreign(data: bytes) -> None:
    for start, sentence in _FOREIGN.items():
        if data.startswith(start):
            raise ValueError(sentence)
    if data[:200].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError("is a web page, perhaps saved in place of the download; fetch the file itself")
    if data[257:262] == b"ustar":
        raise ValueError("is a tar archive; unpack it first")


def _is_safetensors(data: bytes) -> bool:
    length = int.from_bytes(data[:8], "little")
    return len(data) > 9 and 2 <= length <= len(data) - 8 and data[8:9] == b"{"


def _read_safetensors(data: bytes) -> dict[str, Tensor]:
    try:
        return load_safetensors(data)
    except SafetensorError as error:
        raise ValueError(f"is a damaged safetensors file ({error})") from error


def _read_pickled(data: bytes, budget: Budget) -> Any:
    if not data:
        raise ValueError("is empty")
    if data.startswith(b"PK"):
        return _read_zip(data, budget)
    _refuse_foreign(data)
    stream = io.BytesIO(data)
    value = Machine(budget).run(stream)
    if isinstance(value, int) and value == _LEGACY_MAGIC:
        value = _read_legacy(stream, data, budget)
    if stream.tell() != len(data):
        raise ValueError(f"goes on for {len(data) - stream.tell()} bytes after the end of its pickle")
    return value


def _read_zip(data: bytes, budget: Budget) -> Any:
    if data.count(b"PK\x01\x02") > 100_000:
        raise ValueError("is a zip archive of more than 100000 entries")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"is a damaged zip archive ({error})") from error
    entries = {entry.filename: entry for entry in archive.infolist()}
    packed = [name for name, entry in entries.items() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(
            f"is a zip archive with compressed entries ({packed[0][:60]!r}), which torch never writes"
        )
    if sum(entry.file_size for entry in archive.infolist()) > len(data):
        raise ValueError("is a zip archive whose entries claim more bytes than the file has")
    roots = [name.removesuffix("data.pkl") for name in entries if re.fullmatch(r"([^/]*/)?data\.pkl", name)]
    if len(roots) != 1:
        raise ValueError(f"is a zip archive with {len(roots)} data.pkl, so no torch.save; unpack it first")
    root = roots[0]
    if f"{root}constants.pkl" in entries:
        raise ValueError("is a TorchScript archive, which holds code; save its state_dict instead")
    if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
        raise ValueError("was written on a big-endian machine; only little-endian files are read")

    def storage(dtype: torch.dtype, key: str, n_items: int) -> Storage:
        if f"{root}data/{key}" not in entries:
            raise ValueError(f"lacks the zip entry of storage {key[:40]!r}")
        found = Storage(dtype, n_items)
        found.fill(archive.read(f"{root}data/{key}"))
        return found

    stream = io.BytesIO(archive.read(f"{root}data.pkl"))
    value = Machine(budget, storage).run(stream)
    if stream.read(1):
        raise ValueError("goes on after the end of its pickle")
    return value


def _read_legacy(stream: io.BytesIO, data: bytes, budget: Budget) -> Any:
    protocol, system = Machine(budget).run(stream), Machine(budget).run(stream)
    if not isinstance(protocol, int) or protocol != _LEGACY_PROTOCOL or not isinstance(system, dict):
        raise ValueError("begins like a torch.save of a kind that is not known")
    if system.get("little_endian") is not True:
        raise ValueError("was written on a big-endian machine; only little-endian files are read")
    machine = Machine(budget, lambda dtype, key, n_items: Storage(dtype, n_items))
    value, storages = machine.run(stream), machine.storages
    keys = Machine(budget).run(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("lists its storages in a way that is not known")
    if len(set(keys)) != len(keys) or set(keys) != set(storages):
        raise ValueError(f"lists {len(keys)} storages where its objects use {len(storages)}")
    for key in keys:
        n_items, start = int.from_bytes(stream.read(8), "little"), stream.tell()
        if n_items != storages[key].n_items:
            raise ValueError(f"declares {storages[key].n_items} numbers in a storage, then writes {n_items}")
        end = start + n_items * storages[key].dtype.itemsize
        storages[key].fill(memoryview(data)[start:end])
        stream.seek(end)
    return value
