"""A pickle machine that rebuilds plain data, arrays and tensors, and keeps every other object as an inert record."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from brainedit.pickles.arrays import (
    ARRAY_CONSTRUCTORS,
    Bytes,
    PendingArray,
    array_from_state,
    encoded,
    is_size,
    set_byte_order,
    short,
)
from brainedit.pickles.stream import MappedStream, Stream, instructions
from brainedit.pickles.tensors import (
    MAX_NESTING,
    STORAGE_TYPES,
    TENSOR_CONSTRUCTORS,
    TORCH_TYPES,
    Storage,
    StoredTensor,
)

__all__ = ["Budget", "Machine", "MappedStream", "Opaque", "Storage", "StoredTensor"]

MAX_OPCODES = 1_000_000  # of all pickles in a file; also bounds its stack, marks and memo
MAX_INT_BITS = 256
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
        self.pending = 0  # arrays that are begun and not whole

    def run(self, stream: Stream) -> Any:
        for name, argument in instructions(stream):
            self.budget.step()
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
        if self.pending:
            raise ValueError(f"holds {self.pending} numpy arrays without their content")
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
        index = len(self.memo) if index is None else index
        self.memo[index] = value = self.stack[-1]
        if isinstance(value, PendingArray):
            value.memo.append(index)

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(
                f"is a damaged pickle or no file of weights: it asks for object {index}, which it never stored"
            )
        self.repeat(self.memo[index])

    def repeat(self, value: Any) -> None:
        if isinstance(value, PendingArray):
            raise ValueError("holds a numpy array inside itself")
        self.stack.append(value)

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
        known = TORCH_TYPES.get(name) if module == "torch" else None
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
            set_byte_order(target, state)
        elif isinstance(target, PendingArray):
            self.finish(target, array_from_state(self, state))
        elif not isinstance(target, dict):  # an OrderedDict may have attributes, which we do not need
            raise ValueError(f"sets the state of {type(target).__name__}, which weights do not need")

    def finish(self, begun: PendingArray, array: np.ndarray) -> None:
        self.pending -= 1
        self.stack[-1] = array
        for index in begun.memo:
            if self.memo[index] is begun:
                self.memo[index] = array

    def persistent(self, reference: Any) -> None:
        kind = reference[0] if type(reference) is tuple and reference else reference
        if self.make_storage is None or kind != "storage" or len(reference) not in (5, 6):
            raise ValueError(f"refers to an outside object of an unknown kind ({short(kind)})")
        _, kind, key, _, n_items = reference[:5]
        if not isinstance(kind, Opaque) or kind.name not in STORAGE_TYPES:
            raise ValueError(f"holds a storage of an unknown type ({short(getattr(kind, 'name', kind))})")
        if reference[5:] not in ((), (None,)) or not isinstance(key, str) or not is_size(n_items):
            raise ValueError("holds a storage in a form that is not known")
        dtype = STORAGE_TYPES[kind.name]
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
    "DUP": lambda machine, _: machine.repeat(machine.stack[-1]),
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


def _ordered_dict(machine: Machine, pairs: Any = ()) -> OrderedDict:
    machine.budget.copy(64 * len(pairs))
    return OrderedDict((_key(key), value) for key, value in pairs)


def _plain_set(machine: Machine, items: Any = ()) -> set:
    machine.budget.copy(64 * len(items))
    return set(map(_key, items))


def _plain_bytes(machine: Machine, data: Any = b"", encoding: Any = "latin1") -> Bytes:
    return data if isinstance(data, (bytes, bytearray, memoryview)) else encoded(machine, data, encoding)


_CONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("dnnlib.util", "EasyDict"): lambda machine: {},  # NVIDIA's dict of settings
    ("_codecs", "encode"): encoded,
    **{(python, "set"): _plain_set for python in ("builtins", "__builtin__")},
    **{(python, "bytes"): _plain_bytes for python in ("builtins", "__builtin__")},
    **{(python, "bytearray"): _plain_bytes for python in ("builtins", "__builtin__")},
    **ARRAY_CONSTRUCTORS,
    **TENSOR_CONSTRUCTORS,
}
