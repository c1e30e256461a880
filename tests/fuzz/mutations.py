"""Damage a file in ways that a seed decides."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

HEAD = 4096
"""Bytes at the beginning, where most formats keep what they describe themselves by."""
WORDS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1)
TOKENS = (
    b"",
    b"nan",
    b"NaN",
    b"inf",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b"0.5",
    b"-0",
    b"0",
    b"=1+1",
    b"\x1b[31m",
    b"caf\xe9",
    b'"',
    b"'",
    b"\xef\xbb\xbf",
    b"\0",
    b"\t",
    b",",
    b"\n",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"4294967296",
    b"x" * 400,
    b"../../x",
    b"\xff\xfe",
    b"None",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    3,
    10**18,
    1e308,
    "",
    "x" * 300,
    "\0",
    "\x1b[2J",
    "../../etc",
    [],
    {},
    [[]],
    {"a": 1},
    [1, "a", None],
    "NaN",
    0.5,
    2**31,
    2**63,
)


def mutate(path: Path, seed: int) -> str:
    """Damage a file in place.

    Args:
        path: The file; its end decides whether it is text, JSON, zip or HDF5.
        seed: The same seed gives the same damage.

    Returns:
        What was done: ``cut``, ``bytes``, ``text``, ``inside`` or ``gone``.
    """
    rng = np.random.default_rng(seed)
    choice = rng.random()
    kind = path.suffix
    if choice < 0.2:
        return _cut(path, rng)
    if kind in (".npz", ".ckpt") and choice < 0.5:
        return _inside_zip(path, rng)
    if kind in (".h5ad", ".h5") and choice < 0.7:
        return _inside_hdf5(path, rng)
    if kind == ".json" and choice < 0.7:
        return _inside_json(path, rng)
    if kind in (".tsv", ".csv", ".txt", ".mtx", ".toml", ".yaml", ".json") and choice < 0.8:
        path.write_bytes(_text(path.read_bytes(), rng))
        return "text"
    if choice < 0.22:
        path.unlink()
        return "gone"
    path.write_bytes(_bytes(path.read_bytes(), rng))
    return "bytes"


def _cut(path: Path, rng: np.random.Generator) -> str:
    content = path.read_bytes()
    share = rng.random() if rng.random() < 0.7 else 1 - 10 ** (-4 * rng.random())
    path.write_bytes(content[: int(len(content) * share)])
    return "cut"


def _place(length: int, rng: np.random.Generator) -> int:
    return int(rng.integers(0, max(1, min(length, HEAD) if rng.random() < 0.6 else length)))


def _bytes(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        if not data:
            break
        start, action = _place(len(data), rng), int(rng.integers(0, 6))
        length = int(rng.integers(1, 40))
        if action == 0:
            data[start] ^= 1 << int(rng.integers(0, 8))
        elif action == 1:
            data[start : start + length] = rng.bytes(length)
        elif action == 2:
            size = int(rng.choice([1, 2, 4, 8]))
            word = WORDS[int(rng.integers(0, len(WORDS)))] % (1 << 8 * size)
            order = "little" if rng.random() < 0.5 else "big"
            data[start : start + size] = word.to_bytes(size, order)  # type: ignore[arg-type]
        elif action == 3:
            del data[start : start + length]
        elif action == 4:
            data[start:start] = data[start : start + length]
        else:
            data[start : start + length] = bytes(length)
    return bytes(data)


def _text(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace cells, lines and single bytes of a table or settings file."""
    lines = content.split(b"\n")
    for _ in range(int(rng.integers(1, 4))):
        row, action = int(rng.integers(0, len(lines))), int(rng.integers(0, 6))
        separator = next((s for s in (b"\t", b",", b": ", b" ") if s in lines[row]), b" ")
        cells = lines[row].split(separator)
        column = int(rng.integers(0, len(cells)))
        token = TOKENS[int(rng.integers(0, len(TOKENS)))]
        if action <= 1:
            cells[column] = token
        elif action == 2:
            cells.insert(column, token)
        elif action == 3:
            del cells[column]
        elif action == 4:
            lines.insert(row, lines[int(rng.integers(0, len(lines)))])
            continue
        else:
            del lines[row]
            if not lines:
                return b""
            continue
        lines[row] = separator.join(cells)
    return b"\n".join(lines)


def _inside_zip(path: Path, rng: np.random.Generator) -> str:
    """Damage one member, and write the archive again with sums that fit."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    names = sorted(members)
    name = names[int(rng.integers(0, len(names)))]
    if rng.random() < 0.15:
        del members[name]
    else:
        members[name] = _bytes(members[name], rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    path.write_bytes(buffer.getvalue())
    return "inside"


def _inside_hdf5(path: Path, rng: np.random.Generator) -> str:
    """Replace values, shapes, types and members of an HDF5 file that stays well formed."""
    import h5py

    with h5py.File(path, "r+") as file:
        found: list[str] = []
        file.visit(found.append)
        name = found[int(rng.integers(0, len(found)))]
        node, action = file[name], int(rng.integers(0, 7))
        if action == 0:
            del file[name]
        elif action == 1 and node.attrs:
            keys = list(node.attrs)
            key = keys[int(rng.integers(0, len(keys)))]
            node.attrs[key] = [0, -1, "x", "0.9.9", 10**12][int(rng.integers(0, 5))]
        elif action == 2:
            del file[name]
            file[name] = h5py.ExternalLink("/etc/hostname", "/x")
        elif action == 3:
            del file[name]
            file[name] = h5py.SoftLink("/" + name)
        elif isinstance(node, h5py.Dataset) and node.ndim:
            if node.dtype.kind in "iuf" and node.size and action == 4:
                values = node[()]
                limit = np.iinfo(values.dtype) if values.dtype.kind in "iu" else None
                unusual: list[Any] = [0, 1, 3, -1, -7, 10**9, 2**31, 2**62]
                unusual += [float("nan"), float("inf")] if limit is None else []
                value = unusual[int(rng.integers(0, len(unusual)))]
                if limit is not None:
                    value = min(max(value, int(limit.min)), int(limit.max))
                values.flat[int(rng.integers(0, values.size))] = value
                node[()] = values
            else:
                values = node[()]
                attributes = dict(node.attrs)
                del file[name]
                if action == 5:
                    file[name] = values[: max(0, len(values) - 1)]
                else:
                    file.create_dataset(name, (10**10,), "i4", chunks=(1024,))
                file[name].attrs.update(attributes)
    return "inside"


def _inside_json(path: Path, rng: np.random.Generator) -> str:
    """Replace, remove or add one value of a JSON file that stays well formed."""
    content = json.loads(path.read_text(encoding="utf-8"))
    node = content
    for _ in range(int(rng.integers(0, 5))):
        keys = _keys(node)
        if not keys:
            break
        child = node[keys[int(rng.integers(0, len(keys)))]]
        if not _keys(child):
            break
        node = child
    keys = _keys(node)
    if keys:
        key = keys[int(rng.integers(0, len(keys)))]
        if rng.random() < 0.25:
            del node[key]
        else:
            node[key] = VALUES[int(rng.integers(0, len(VALUES)))]
    path.write_text(json.dumps(content), encoding="utf-8")
    return "inside"


def _keys(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node)
    return list(range(len(node))) if isinstance(node, list) else []
