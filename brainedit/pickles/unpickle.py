"""Read the objects of pickle, NumPy, torch and safetensors files; nothing that they name is run or imported."""

import hashlib
import io
import mmap
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from brainedit.pickles.arrays import array_from_bytes, check_dtype, sizes
from brainedit.pickles.machine import Budget, Machine, Storage
from brainedit.pickles.stream import MappedStream, Stream

MAX_BYTES = 4 * 2**30  # of a file that is not mapped

_NUMPY_MAGIC = b"\x93NUMPY"
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
    hash_bytes: Callable[[], str] = field(repr=False, compare=False)

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes, in hexadecimal; of a mapped file it is computed when first asked for."""
        return self.hash_bytes()


def read_objects(path: str | os.PathLike, *, mapped: bool = False) -> Contents:
    """The objects of a pickle, a .npy, a torch.save of either format, or a safetensors file, told by its content.

    mapped : arrays of a pickle or .npy stay on disk, as read-only views, so that the file may be larger than
        the memory. Bytes of 64 KiB and more that no array takes come as memoryview. The file must stay as
        it is while the arrays are in use. Other formats are loaded as ever

    Numbers, text, containers, numpy arrays (of objects too) and torch tensors (as StoredTensor) come back as
    what they are, all else as Opaque. A dict that np.save wrote, an array () of one object, comes back as the
    dict. Nothing that the file names is imported or called.

    Raises ValueError, in one sentence, for every other kind of file and for a damaged or hostile one.
    Source: the formats of pickle (PEP 307, 3154, 574) and of .npy (NumPy Enhancement Proposal 1).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file.")
    n_bytes = path.stat().st_size
    mapped = mapped and n_bytes > 0 and not _must_be_loaded(path)
    if not mapped and n_bytes > MAX_BYTES:
        raise ValueError(f"{path} holds {n_bytes} bytes; at most {MAX_BYTES} are read.")
    data = _map(path) if mapped else path.read_bytes()
    with naming(path):
        budget = Budget(min(len(data), MAX_BYTES), _read_pickled)
        value = _read(data, budget)
        names = tuple(sorted(budget.names))
    if mapped:
        return Contents(value, names, len(data), lambda: hashlib.sha256(data).hexdigest())
    sha256 = hashlib.sha256(data).hexdigest()
    return Contents(value, names, len(data), lambda: sha256)


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


def _map(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _must_be_loaded(path: Path) -> bool:
    """Whether a file is of a format that is read from memory."""
    with path.open("rb") as file:
        head = file.read(16)
    return head.startswith(b"PK") or _is_safetensors(head, path.stat().st_size)


def _read(data: bytes | memoryview, budget: Budget) -> Any:
    if data[: len(_NUMPY_MAGIC)] == _NUMPY_MAGIC:
        return _read_numpy(data, budget)
    if isinstance(data, bytes) and _is_safetensors(data[:16], len(data)):
        return _read_safetensors(data)
    return _read_pickled(data, budget)


def _stream(data: bytes | memoryview) -> Stream:
    return MappedStream(data) if isinstance(data, memoryview) else io.BytesIO(data)


def _read_numpy(data: bytes | memoryview, budget: Budget) -> Any:
    """The array of a .npy file; numpy reads its header, which is a literal, and nothing else."""
    header = io.BytesIO(data[: 2**16])
    shape, fortran, dtype = _numpy_header(header)
    check_dtype(dtype)
    shape, content = sizes(shape), data[header.tell() :]
    if not dtype.hasobject:
        array = array_from_bytes(content, dtype, shape, order="F" if fortran else "C")
        return array if isinstance(data, memoryview) else array.copy(order="K")
    array = _read_pickled(content, budget)
    if not isinstance(array, np.ndarray) or not array.dtype.hasobject or array.shape != shape:
        raise ValueError(f"promises an array {shape} of objects and holds {type(array).__name__}")
    only = array.item() if shape == () else None
    return only if isinstance(only, dict) else array


def _numpy_header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"is a .npy file of version {version[0]}.{version[1]}; 1.0 and 2.0 are read")
    try:
        return readers[version](file)
    except (ValueError, SyntaxError, TokenError) as error:  # numpy's advice is to trust the file
        raise ValueError("is a .npy file whose header is damaged or longer than 10000 bytes") from error


def _refuse_foreign(data: bytes) -> None:
    for start, sentence in _FOREIGN.items():
        if data.startswith(start):
            raise ValueError(sentence)
    if data[:200].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError("is a web page, perhaps saved in place of the download; fetch the file itself")
    if data[257:262] == b"ustar":
        raise ValueError("is a tar archive; unpack it first")


def _is_safetensors(head: bytes, n_bytes: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return n_bytes > 9 and 2 <= length <= n_bytes - 8 and head[8:9] == b"{"


def _read_safetensors(data: bytes) -> dict[str, Tensor]:
    try:
        return load_safetensors(data)
    except SafetensorError as error:
        raise ValueError(f"is a damaged safetensors file ({error})") from error


def _read_pickled(data: bytes | memoryview, budget: Budget) -> Any:
    if not len(data):
        raise ValueError("is empty")
    if isinstance(data, bytes) and data.startswith(b"PK"):
        return _read_zip(data, budget)
    _refuse_foreign(bytes(data[:300]))
    stream = _stream(data)
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


def _read_legacy(stream: Stream, data: bytes | memoryview, budget: Budget) -> Any:
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
