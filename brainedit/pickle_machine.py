"""A pickle machine that rebuilds plain data, arrays and tensors, and keeps every other object as an inert record."""

import io
import math
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_OPCODES = 1_000_000  # of all pickles in a file; also bounds its stack, marks and memo
MAX_NESTING = 2  # pickles inside pickles
MAX_DIMENSIONS = 8
MAX_INT_BITS = 256

_STORAGE_TYPES = {
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
_TORCH_TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _STORAGE_TYPES.values()}
_TENSORFLOW = ("dnnlib.tflib", "tfutil", "tensorflow")


@dataclass(eq=False, repr=False, slots=True)
class Opaque:
    """What a pickle names and we do not know: kept as a record, never looked up and never called.

    args : what it was to be called with; None where the name stands alone
    state, items : what was to be set or added afterwards
    """

    module: str
    name: str
    args: tuple | None = None
    state: Any = None
    items: list = field(default_factory=list)


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


class Budget:
    """What one file may still use up; all pickles inside it share it.

    read_inner : reads a pickle or torch.save that lies inside another as bytes
    """

    def __init__(self, n_bytes: int, read_inner: Callable[[bytes, "Budget"], Any]):
        self.read_inner = read_inner
        self.opcodes = MAX_OPCODES
        self.bytes = 4 * n_bytes + 2**20
        self.nesting = MAX_NESTING
        self.names: set[str] = set()

    def step(self) -> None:
        self.opcodes -= 1
        if self.opcodes < 0:
            raise ValueError(f"holds more than {MAX_OPCODES} pickle instructions")

    def copy(self, n_bytes: int) -> None:
        self.bytes -= n_bytes
        if self.bytes < 0:
            raise ValueError("unpacks to many times its own size")


def _opcodes(stream: io.BytesIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            yield opcode, argument
    except ValueError as error:
        raise ValueError(f"is a damaged pickle or no file of weights: {error}") from error


class Machine:
    """A pickle machine that can build plain containers and what `_CONSTRUCTORS` lists, nothing else.

    storage : makes the Storage of a type, key and number of items, where the file may refer to storages
    """

    def __init__(self, budget: Budget, storage: Callable[[torch.dtype, str, int], Storage] | None = None):
        self.budget = budget
        self.make_storage = storage
        self.storages: dict[str, Storage] = {}
        self.stack: list = []
        self.marked: list[list] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: io.BytesIO) -> Any:
        for opcode, argument in _opcodes(stream):
            self.budget.step()
            name = opcode.name
            if name in _PLAIN:
                self.stack.append(_checked(argument))
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _EMPTY:
                self.stack.append(_EMPTY[name]())
            elif name in _INSTRUCTIONS:
                _INSTRUCTIONS[name](self, argument)
            elif name != "STOP":
                raise ValueError(f"uses the pickle instruction {name}, which weights do not need")
        if self.marked or len(self.stack) != 1:
            raise ValueError(
                "is a damaged pickle or no file of weights: its end leaves more or less than one object"
            )
        return self.stack.pop()

    def protocol(self, version: int) -> None:
        if version > 5:
            raise ValueError(f"is a pickle of protocol {version}; up to 5 is known")

    def mark(self, _: None = None) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop_mark(self, _: None = None) -> list:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def pop(self, _: None = None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(
                f"is a damaged pickle or no file of weights: it asks for object {index}, which it never stored"
            )
        self.stack.append(self.memo[index])

    def collect(self, kind: Callable[[list], Any]) -> None:
        items = self.pop_mark()
        self.stack.append(kind(items))

    def collect_last(self, n: int) -> None:
        if len(self.stack) < n:
            raise ValueError(
                "is a damaged pickle or no file of weights: it takes more objects than there are"
            )
        self.stack[-n:] = [tuple(self.stack[-n:])]

    def append(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, Opaque):
            target.items.extend(items)
        elif type(target) is list:
            target.extend(items)
        elif type(target) is set:
            target.update(map(_key, items))
        else:
            raise ValueError(
                f"is a damaged pickle or no file of weights: it adds items to {type(target).__name__}"
            )

    def set_items(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, Opaque):
            target.items.extend(_pairs(items))
        elif isinstance(target, dict):
            target.update(_pairs(items))
        else:
            raise ValueError(
                f"is a damaged pickle or no file of weights: it sets items of {type(target).__name__}"
            )

    def find(self, module: str, name: str) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("is a damaged pickle or no file of weights: the name of a class is no text")
        if len(module) + len(name) > 1000:
            raise ValueError(f"names a class in {len(module) + len(name)} letters")
        if module.startswith(_TENSORFLOW):
            raise ValueError(
                f"is a TensorFlow pickle (it names {module[:60]}); turn it into a PyTorch pickle first with "
                "legacy.py of the public stylegan2-ada-pytorch or stylegan3 repository"
            )
        known = _TORCH_TYPES.get(name) if module == "torch" else None
        self.stack.append(known or Opaque(module, name))

    def call(self, what: Any, args: Any, kwargs: Any = None) -> None:
        if not isinstance(what, Opaque) or what.args is not None:
            raise ValueError("calls the result of another call, which weights do not need")
        if type(args) is not tuple or (kwargs is not None and type(kwargs) is not dict):
            raise ValueError(
                f"is a damaged pickle or no file of weights: {what.module[:60]}.{what.name[:60]} gets no arguments"
            )
        if len(args) > 64:
            raise ValueError(f"gives {what.module[:60]}.{what.name[:60]} {len(args)} arguments")
        constructor = _CONSTRUCTORS.get((what.module, what.name))
        if constructor is None:
            self.budget.names.add(f"{what.module[:60]}.{what.name[:60]}")
            self.stack.append(Opaque(what.module, what.name, (*args, kwargs) if kwargs else args))
        elif kwargs:
            raise ValueError(f"gives {what.module}.{what.name} keywords, which it does not take")
        else:
            self.stack.append(constructor(self, *args))

    def reduce(self, _: None = None) -> None:
        args, what = self.stack.pop(), self.stack.pop()
        self.call(what, args)

    def new_with_keywords(self, _: None) -> None:
        kwargs, args, what = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.call(what, args, kwargs)

    def instance(self, name: str | None) -> None:
        args = self.pop_mark()
        if name is None:  # OBJ: the class comes first
            what = args.pop(0)
        else:
            self.find(*name.split(" ", 1))
            what = self.stack.pop()
        self.call(what, tuple(args))

    def build(self, _: None) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Opaque):
            target.state = state
        elif isinstance(target, np.dtype):
            _set_byte_order(target, state)
        elif isinstance(target, np.ndarray):
            _set_array(self, target, state)
        elif not isinstance(target, dict):  # an OrderedDict may have attributes, which we do not need
            raise ValueError(f"sets the state of {type(target).__name__}, which weights do not need")

    def persistent(self, reference: Any) -> None:
        kind = reference[0] if type(reference) is tuple and reference else reference
        if self.make_storage is None or kind != "storage" or len(reference) not in (5, 6):
            raise ValueError(f"refers to an outside object of an unknown kind ({_short(kind)})")
        _, kind, key, _, n_items = reference[:5]
        if not isinstance(kind, Opaque) or kind.name not in _STORAGE_TYPES:
            raise ValueError(f"holds a storage of an unknown type ({_short(getattr(kind, 'name', kind))})")
        if reference[5:] not in ((), (None,)) or not isinstance(key, str) or not _is_size(n_items):
            raise ValueError("holds a storage in a form that is not known")
        dtype = _STORAGE_TYPES[kind.name]
        if key not in self.storages:
            self.storages[key] = self.make_storage(dtype, key, n_items)
        found = self.storages[key]
        if (found.dtype, found.n_items) != (dtype, n_items):
            raise ValueError(f"describes storage {key[:40]!r} in two ways")
        self.stack.append(found)


_PLAIN = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}
_INSTRUCTIONS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": Machine.protocol,
    "FRAME": lambda machine, _: None,
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": Machine.pop_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.get),
    "LIST": lambda machine, _: machine.collect(list),
    "TUPLE": lambda machine, _: machine.collect(tuple),
    "FROZENSET": lambda machine, _: machine.collect(lambda items: frozenset(map(_key, items))),
    "DICT": lambda machine, _: machine.collect(lambda items: dict(_pairs(items))),
    "TUPLE1": lambda machine, _: machine.collect_last(1),
    "TUPLE2": lambda machine, _: machine.collect_last(2),
    "TUPLE3": lambda machine, _: machine.collect_last(3),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, _: machine.append(machine.pop_mark())),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "GLOBAL": lambda machine, name: machine.find(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.find(machine.stack.pop(-2), machine.stack.pop()),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), Machine.reduce),
    "NEWOBJ_EX": Machine.new_with_keywords,
    **dict.fromkeys(("INST", "OBJ"), Machine.instance),
    "BUILD": Machine.build,
    "PERSID": Machine.persistent,
    "BINPERSID": lambda machine, _: machine.persistent(machine.stack.pop()),
}


def _checked(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
        raise ValueError(f"holds a whole number of {value.bit_length()} bits; up to {MAX_INT_BITS} are read")
    return value


def _key(key: Any) -> Any:
    # no tuples and no huge numbers: their hashes can be made to take for ever
    small = not isinstance(key, int) or key.bit_length() <= 64
    if not isinstance(key, (str, int, float, bytes, type(None), Opaque)) or not small:
        raise ValueError(f"uses a key of the kind {type(key).__name__}, which weights do not need")
    return key


def _pairs(items: list) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("is a damaged pickle or no file of weights: a key has no value")
    return list(zip(map(_key, items[::2]), items[1::2], strict=True))


def _short(value: Any) -> str:
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _ordered_dict(machine: Machine, pairs: Any = ()) -> OrderedDict:
    machine.budget.copy(64 * len(pairs))
    return OrderedDict((_key(key), value) for key, value in pairs)


def _plain_set(machine: Machine, items: Any = ()) -> set:
    machine.budget.copy(64 * len(items))
    return set(map(_key, items))


def _encoded(machine: Machine, text: str, encoding: str = "latin1") -> bytes:
    """Bytes as protocols before 3 write them."""
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise ValueError(f"encodes text as {_short(encoding)}; only 'latin1' is known")
    machine.budget.copy(len(text))
    return text.encode("latin1")


def _plain_bytes(machine: Machine, data: Any = b"", encoding: Any = "latin1") -> bytes | bytearray:
    return data if isinstance(data, (bytes, bytearray)) else _encoded(machine, data, encoding)


def _numpy_dtype(machine: Machine, code: Any, *_: Any) -> np.dtype:
    if not isinstance(code, str) or not re.fullmatch("[<>=|]?([iu][1248]|f[248]|b1|c8|c16)", code):
        raise ValueError(f"holds a numpy array of {_short(code)}; only plain numbers are read")
    return np.dtype(code, copy=True)


def _set_byte_order(dtype: np.dtype, state: Any) -> None:
    if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
        raise ValueError("describes a numpy type in a way that is not known")
    dtype.__setstate__((3, state[1], None, None, None, -1, -1, 0))


def _as_bytes(machine: Machine, data: Any, n_bytes: int) -> bytes | bytearray:
    if isinstance(data, str):  # Python 2 wrote bytes as text
        data = _encoded(machine, data)
    if not isinstance(data, (bytes, bytearray)) or len(data) != n_bytes:
        got = len(data) if isinstance(data, (bytes, bytearray)) else _short(data)
        raise ValueError(f"holds a numpy array that needs {n_bytes} bytes and has {got}")
    return data


def _numpy_scalar(machine: Machine, dtype: Any, data: Any) -> np.generic:
    if not isinstance(dtype, np.dtype):
        raise ValueError("holds a numpy number of an unknown type")
    return np.frombuffer(_as_bytes(machine, data, dtype.itemsize), dtype)[0]


def _empty_array(machine: Machine, *_: Any) -> np.ndarray:
    return np.empty(0)  # its state follows


def _set_array(machine: Machine, array: np.ndarray, state: Any) -> None:
    if type(state) is not tuple or len(state) != 5 or not isinstance(state[2], np.dtype):
        raise ValueError("describes a numpy array in a way that is not known")
    _, shape, dtype, fortran, data = state
    data = _as_bytes(machine, data, math.prod(_sizes(shape)) * dtype.itemsize)
    machine.budget.copy(len(data))
    array.__setstate__((1, _sizes(shape), dtype, fortran is True, bytes(data)))


def _array_of_buffer(machine: Machine, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or order not in ("C", "F"):
        raise ValueError("describes a numpy array in a way that is not known")
    data = _as_bytes(machine, data, math.prod(_sizes(shape)) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(_sizes(shape), order=order)


def _sizes(shape: Any, *, what: str = "shape") -> tuple[int, ...]:
    if not isinstance(shape, (tuple, list)) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise ValueError(f"holds an array whose {what} is no tuple of up to {MAX_DIMENSIONS} whole numbers")
    if math.prod(max(size, 1) for size in shape) >= 2**48:
        raise ValueError(f"holds an array with a {what} beyond reason")
    return tuple(shape)


def _tensor(machine: Machine, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage) or not _is_size(offset):
        raise ValueError("holds a tensor without a storage")
    shape, stride = _sizes(shape), _sizes(stride, what="stride")
    if len(shape) != len(stride):
        raise ValueError(f"holds a tensor of shape {shape} with {len(stride)} strides")
    n_items = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if n_items else 0
    if n_items > storage.n_items or (n_items and last >= storage.n_items):
        raise ValueError(
            f"holds a tensor of shape {shape} that reaches beyond its storage of {storage.n_items} numbers"
        )
    return StoredTensor(storage, offset if n_items else 0, shape, stride)


def _parameter(machine: Machine, data: Any, *_: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise ValueError("holds a parameter without a tensor")
    return data


def _size(machine: Machine, sizes: Any = ()) -> torch.Size:
    return torch.Size(_sizes(sizes))


def _device(machine: Machine, kind: Any, index: Any = None) -> torch.device:
    if kind not in ("cpu", "cuda", "mps") or not (index is None or (_is_size(index) and index < 64)):
        raise ValueError(f"names a device that is not known ({_short(kind)})")
    return torch.device(kind) if index is None else torch.device(kind, index)


def _storage_from_bytes(machine: Machine, data: Any) -> Storage:
    if not isinstance(data, (bytes, bytearray)):
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


_CONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("dnnlib.util", "EasyDict"): lambda machine: {},  # NVIDIA's dict of settings
    ("_codecs", "encode"): _encoded,
    **{(python, "set"): _plain_set for python in ("builtins", "__builtin__")},
    **{(python, "bytes"): _plain_bytes for python in ("builtins", "__builtin__")},
    **{(python, "bytearray"): _plain_bytes for python in ("builtins", "__builtin__")},
    ("numpy", "dtype"): _numpy_dtype,
    **{(f"numpy.{core}.multiarray", "scalar"): _numpy_scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_of_buffer for core in ("core", "_core")},
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
}
