"""Find tensors of an ONNX file that are kept outside of it, without the package ``onnx``.

The file is read as protobuf fields, which is how every runtime reads it. So no way to write a field
hides it, unlike in a search for bytes. Source: the protobuf encoding, and ``onnx.proto``.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION, _TRAINING = range(8)
_INSIDE: Final = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _TENSOR: {},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
}
"""The kind of message in each field of each kind of message."""
_EXTERNAL_DATA: Final = 13
"""Field of a tensor that names the file with its values."""
_DATA_LOCATION: Final = 14
"""Field of a tensor that says where its values are; not 0 if they are outside."""
_OP_TYPE: Final = 4
"""Field of a node with the name of its operator."""
_COMPILED: Final = b"EPContext"
"""Operator that loads a compiled graph, which may be a file of any path."""
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)

Buffer = bytes | mmap.mmap


class _MalformedError(Exception):
    """The content is not protobuf."""


def reaches_outside(path: Path) -> bool:
    """Return True if an ONNX file takes values or compiled graphs from other files.

    A file that is not protobuf gives False; every runtime refuses to load it.

    Args:
        path: A regular file.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content_reaches_outside(content)


def content_reaches_outside(content: Buffer) -> bool:
    """Return what ``reaches_outside`` returns, for the content of a file."""
    waiting = [(_MODEL, 0, len(content))]
    found = False
    while waiting:
        kind, start, end = waiting.pop()
        try:
            for field, wire, first, last in _fields(content, start, end):
                inner = _INSIDE[kind].get(field)
                if inner is not None and wire == _BYTES:
                    waiting.append((inner, first, last))
                elif kind == _TENSOR and field == _EXTERNAL_DATA:
                    found = True
                elif kind == _TENSOR and field == _DATA_LOCATION and wire == _VARINT:
                    found |= _varint(content, first, last)[0] != 0
                elif kind == _NODE and field == _OP_TYPE and wire == _BYTES:
                    found |= content[first:last] == _COMPILED
        except _MalformedError:
            return False
    return found


def _fields(content: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, and first and last position of the value of each field."""
    at = start
    while at < end:
        tag, at = _varint(content, at, end)
        number, wire = tag >> 3, tag & 7
        first, at = _value(content, wire, number, at, end)
        yield number, wire, first, at


def _value(content: Buffer, wire: int, number: int, at: int, end: int) -> tuple[int, int]:
    """Return where the value of a field begins and ends."""
    if wire == _VARINT:
        return at, _varint(content, at, end)[1]
    if wire == _BYTES:
        length, at = _varint(content, at, end)
        return at, _within(at + length, end)
    if wire in (_FIXED32, _FIXED64):
        return at, _within(at + (4 if wire == _FIXED32 else 8), end)
    if wire == _GROUP:
        return at, _group_end(content, number, at, end)
    raise _MalformedError


def _group_end(content: Buffer, number: int, at: int, end: int) -> int:
    """Return where a group ends; groups may lie in groups."""
    open_groups = [number]
    while open_groups:
        tag, at = _varint(content, at, end)
        inner, wire = tag >> 3, tag & 7
        if wire == _GROUP:
            open_groups.append(inner)
        elif wire == _GROUP_END:
            if open_groups.pop() != inner:
                raise _MalformedError
        else:
            at = _value(content, wire, inner, at, end)[1]
    return at


def _varint(content: Buffer, at: int, end: int) -> tuple[int, int]:
    """Return an integer of 1 to 10 bytes, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _MalformedError
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
    raise _MalformedError


def _within(at: int, end: int) -> int:
    if at > end:
        raise _MalformedError
    return at
