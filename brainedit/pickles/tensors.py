"""The torch tensors and storages of a pickle, kept as what the file says of them until they are asked for."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from brainedit.pickles.arrays import is_size, short, sizes

if TYPE_CHECKING:
    from brainedit.pickles.machine import Machine

MAX_NESTING = 2  # pickles inside pickles

STORAGE_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
TORCH_TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in STORAGE_TYPES.values()}


@dataclass(eq=False, repr=False, slots=True)
class Storage:
    """Numbers of one type in a row; the bytes may come after the first mention."""

    dtype: torch.dtype
    n_items: int
    data: bytes | memoryview | None = None
    _values: Tensor | None = None

    def fill(self, data: bytes | memoryview) -> None:
        """Take the bytes.

        Raises ValueError when they are not as many as were declared.
        """
        if len(data) != self.n_items * self.dtype.itemsize:
            raise ValueError(
                f"declares a storage of {self.n_items} numbers of {self.dtype} but has {len(data)} bytes for it"
            )
        self.data = data

    def values(self) -> Tensor:
        """All numbers (n_items,), copied out of the file once."""
        if self._values is None:
            raw = torch.empty(0, dtype=torch.uint8)  # frombuffer takes no empty buffer
            if self.data:
                raw = torch.frombuffer(bytearray(self.data), dtype=torch.uint8)
            self._values = raw != 0 if self.dtype is torch.bool else raw.view(self.dtype)
        return self._values


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class StoredTensor:
    """A tensor of the file; `tensor()` makes it, as a view on its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self) -> Tensor:
        """The torch tensor, sharing memory with the others of its storage."""
        return torch.as_strided(self.storage.values(), self.shape, self.stride, self.offset)


def _tensor(machine: "Machine", storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage) or not is_size(offset):
        raise ValueError("holds a tensor without a storage")
    shape, stride = sizes(shape), sizes(stride, what="stride")
    if len(shape) != len(stride):
        raise ValueError(f"holds a tensor of shape {shape} with {len(stride)} strides")
    n_items = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if n_items else 0
    if n_items > storage.n_items or (n_items and last >= storage.n_items):
        raise ValueError(
            f"holds a tensor of shape {shape} that reaches beyond its storage of {storage.n_items} numbers"
        )
    return StoredTensor(storage, offset if n_items else 0, shape, stride)


def _parameter(machine: "Machine", data: Any, *_: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise ValueError("holds a parameter without a tensor")
    return data


def _size(machine: "Machine", shape: Any = ()) -> torch.Size:
    return torch.Size(sizes(shape))


def _device(machine: "Machine", kind: Any, index: Any = None) -> torch.device:
    if kind not in ("cpu", "cuda", "mps") or not (index is None or (is_size(index) and index < 64)):
        raise ValueError(f"names a device that is not known ({short(kind)})")
    return torch.device(kind) if index is None else torch.device(kind, index)


def _storage_from_bytes(machine: "Machine", data: Any) -> Storage:
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ValueError("holds a storage without bytes")
    budget = machine.budget
    if budget.nesting == 0:
        raise ValueError(f"holds pickles inside pickles more than {MAX_NESTING} deep")
    budget.copy(len(data))
    budget.nesting -= 1
    value = budget.read_inner(bytes(data), budget)
    budget.nesting += 1
    if not isinstance(value, Storage):
        raise ValueError(f"holds {type(value).__name__} where a storage should be")
    return value


TENSOR_CONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
}
