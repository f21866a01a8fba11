"""The instructions of a pickle, one by one, from memory or from a mapped file whose long parts are not copied."""

import io
import pickletools
from collections.abc import Iterator
from typing import Any

MAX_LINE = 2**20  # bytes, of a mapped file
VIEW_BYTES = 2**16  # from here on a part of a mapped file is a view


class MappedStream:
    """Reads a mapped file as io.BytesIO would, but gives long parts as views, which take no memory."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def tell(self) -> int:
        return self.at

    def seek(self, at: int) -> None:
        self.at = at

    def read(self, n: int) -> bytes | memoryview:
        part = self.data[self.at : self.at + n]
        self.at += len(part)
        return part if len(part) >= VIEW_BYTES else bytes(part)

    def readline(self) -> bytes:
        line, newline, _ = bytes(self.data[self.at : self.at + MAX_LINE]).partition(b"\n")
        if not newline and len(line) == MAX_LINE:
            raise ValueError(f"has a line of more than {MAX_LINE} bytes; read it without mapping")
        self.at += len(line) + len(newline)
        return line + newline


Stream = io.BytesIO | MappedStream


def instructions(stream: Stream) -> Iterator[tuple[str, Any]]:
    """Names and arguments of a pickle's instructions, up to its STOP.

    Raises ValueError where the pickle is damaged or ends before its STOP.
    """
    name = ""
    try:
        while name != "STOP":
            at, code = stream.tell(), stream.read(1)
            if not code:
                raise ValueError("pickle exhausted before seeing STOP")
            opcode = pickletools.code2op.get(chr(code[0]))
            if opcode is None:
                raise ValueError(f"at position {at}, opcode {bytes(code)!r} unknown")
            name = opcode.name
            if name in _COPIED and isinstance(stream, MappedStream):
                yield name, _counted(stream, name)
            else:
                yield name, opcode.arg.reader(stream) if opcode.arg else None
    except ValueError as error:
        raise ValueError(f"is a damaged pickle or no file of weights: {error}") from error


_COPIED = {"BYTEARRAY8": 8, "BINSTRING": 4}  # what pickletools would copy, and the bytes of its length


def _counted(stream: MappedStream, name: str) -> bytearray | str | memoryview:
    """Bytes that follow their length; a long str of Python 2 comes as its bytes, which arrays take."""
    n = int.from_bytes(stream.read(_COPIED[name]), "little")
    data = stream.read(n)
    if len(data) != n:
        raise ValueError(f"expected {n} bytes in {name}, but only {len(data)} remain")
    if isinstance(data, memoryview):
        return data
    return bytearray(data) if name == "BYTEARRAY8" else data.decode("latin-1")
