"""The numpy arrays of a pickle, rebuilt from their bytes or their lists of objects; numpy unpickles nothing."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from brainedit.pickles.machine import Machine

MAX_DIMENSIONS = 8

Bytes = bytes | bytearray | memoryview  # views are what a mapped file gives


@dataclass(eq=False, repr=False, slots=True)
class PendingArray:
    """An array that a pickle has begun; its state, which follows, makes it whole.

    memo : where the machine keeps it, so that the array can take its place there
    """

    memo: list[int] = field(default_factory=list)


def array_from_bytes(data: Bytes, dtype: np.dtype, shape: tuple[int, ...], *, order: str) -> np.ndarray:
    """The array whose numbers or fixed-width texts lie in `data`, as a view on it.

    Raises ValueError where the bytes are not as many as the shape needs, or are no text.
    """
    needed = math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        raise ValueError(f"holds a numpy array that needs {needed} bytes and has {len(data)}")
    if not needed:
        return np.zeros(shape, dtype, order="F" if order == "F" else "C")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")
    if dtype.kind == "U":
        _check_text(np.frombuffer(data, np.dtype("u4").newbyteorder(dtype.byteorder)))
    return array


def array_from_state(machine: "Machine", state: Any) -> np.ndarray:
    """The array that numpy's `__setstate__` would make: a view where the file is mapped, else a copy."""
    if type(state) is not tuple or len(state) != 5 or not isinstance(state[2], np.dtype):
        raise ValueError("describes a numpy array in a way that is not known")
    _, shape, dtype, fortran, data = state
    if not isinstance(fortran, int) or fortran not in (0, 1):
        raise ValueError(f"holds a numpy array of an unknown order ({short(fortran)})")
    order = "F" if fortran else "C"
    if dtype.hasobject:
        return _array_of_objects(machine, data, sizes(shape))  # listed row by row, whatever the order
    data = _as_bytes(machine, data)
    array = array_from_bytes(data, dtype, sizes(shape), order=order)
    if isinstance(data, memoryview):
        return array
    machine.budget.copy(len(data))
    return array.copy(order="K")


def check_dtype(dtype: np.dtype) -> None:
    """Raise ValueError for a type that is neither numbers, text nor objects."""
    if dtype.kind not in "biufcUSO" or dtype.fields or dtype.subdtype:
        raise ValueError(f"holds a numpy array of {short(dtype.str)}; only plain numbers and text are read")


def set_byte_order(dtype: np.dtype, state: Any) -> None:
    """Give a type the byte order that its state names; nothing else of the state is used."""
    if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
        raise ValueError("describes a numpy type in a way that is not known")
    if dtype.kind in "OS":  # have no byte order
        return
    size = (dtype.itemsize, dtype.alignment) if dtype.kind == "U" else (-1, -1)
    dtype.__setstate__((3, state[1], None, None, None, *size, dtype.flags))


def encoded(machine: "Machine", text: str, encoding: str = "latin1") -> bytes:
    """Bytes as protocols before 3 write them."""
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise ValueError(f"encodes text as {short(encoding)}; only 'latin1' is known")
    machine.budget.copy(len(text))
    return text.encode("latin1")


def sizes(shape: Any, *, what: str = "shape") -> tuple[int, ...]:
    """A shape or stride as a tuple; raises ValueError unless it is one within reason."""
    if not isinstance(shape, (tuple, list)) or len(shape) > MAX_DIMENSIONS or not all(map(is_size, shape)):
        raise ValueError(f"holds an array whose {what} is no tuple of up to {MAX_DIMENSIONS} whole numbers")
    if math.prod(max(size, 1) for size in shape) >= 2**48:
        raise ValueError(f"holds an array with a {what} beyond reason")
    return tuple(shape)


def is_size(value: Any) -> bool:
    """Whether a value is a whole number that can count things in a file."""
    return type(value) is int and 0 <= value < 2**48


def short(value: Any) -> str:
    """A value for a message."""
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


def _check_text(codes: np.ndarray) -> None:
    step = 2**20  # codes at a time, so that nothing of the size of the file is made
    for start in range(0, len(codes), step):
        if (codes[start : start + step] > 0x10FFFF).any():
            raise ValueError("holds a numpy array of text with letters that do not exist")


def _array_of_objects(machine: "Machine", items: Any, shape: tuple[int, ...]) -> np.ndarray:
    needed = math.prod(shape)
    if type(items) is not list or len(items) != needed:
        got = len(items) if isinstance(items, list) else short(items)
        raise ValueError(f"holds a numpy array that needs {needed} objects and has {got}")
    machine.budget.copy(8 * needed)
    array = np.empty(needed, object)
    for i, item in enumerate(items):
        array[i] = item
    return array.reshape(shape)


def _as_bytes(machine: "Machine", data: Any) -> Bytes:
    if isinstance(data, str):  # Python 2 wrote bytes as text
        data = encoded(machine, data)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ValueError(f"holds a numpy array that needs bytes and has {short(data)}")
    return data


def _dtype(machine: "Machine", code: Any, *_: Any) -> np.dtype:
    pattern = "[<>=|]?([iu][1248]|f[248]|b1|c8|c16|[US][0-9]{1,6}|O8?)"
    if not isinstance(code, str) or not re.fullmatch(pattern, code):
        raise ValueError(f"holds a numpy array of {short(code)}; only plain numbers and text are read")
    return np.dtype(code, copy=True)


def _scalar(machine: "Machine", dtype: Any, data: Any) -> np.generic:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise ValueError("holds a numpy number of an unknown type")
    return array_from_bytes(_as_bytes(machine, data), dtype, (1,), order="C")[0]


def _begin(machine: "Machine", *_: Any) -> PendingArray:
    machine.pending += 1
    return PendingArray()


def _array_of_buffer(
    machine: "Machine", data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or order not in ("C", "F", "K"):
        raise ValueError("describes a numpy array in a way that is not known")
    array = array_from_bytes(_as_bytes(machine, data), dtype, sizes(shape), order=order)
    if order != "K":
        return array
    if axes is None or sorted(sizes(axes, what="order of axes")) != list(range(array.ndim)):
        raise ValueError("describes a numpy array with an order of axes that is not known")
    return array.transpose(axes)


ARRAY_CONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _dtype,
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _begin for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_of_buffer for core in ("core", "_core")},
}
