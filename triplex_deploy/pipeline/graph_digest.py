"""What an ONNX file computes, in 64 hexadecimal digits: equal for equal graphs and weights.

Our exports note in each file which model it was made with, as properties that no runtime reads.
Two models on one frozen encoder hence have files that differ in nothing else.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

METADATA_PROPS: Final = 14
"""Number of the properties among the fields of ONNX's ``ModelProto``."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def graph_digest(path: Path) -> str:
    """SHA-256 of an ONNX file without its properties; ``ValueError`` if it is no such file."""
    digest = hashlib.sha256()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for number, begin, end in _fields(content):
            if number != METADATA_PROPS:
                digest.update(content[begin:end])
    return digest.hexdigest()


def _fields(content: mmap.mmap) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of each field of a Protocol Buffers message."""
    at = 0
    while at < len(content):
        begin = at
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(content, at)
        elif kind == _BYTES:
            length, at = _varint(content, at)
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"field of kind {kind} at byte {begin}: not an ONNX file")
        if at > len(content):
            raise ValueError(f"field at byte {begin} reaches beyond the end: not an ONNX file")
        yield tag >> 3, begin, at


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"no whole number before byte {at}: not an ONNX file")
