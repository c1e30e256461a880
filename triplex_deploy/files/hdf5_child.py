"""Read the parts of an HDF5 file in a process of its own, which a damaged file may end or stop.

Run as ``python hdf5_child.py FILE [--all | GROUP ...]``. An error that the library reports is no
reason to fail here: the process that reads the file afterwards reports it better.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

ALL = "--all"
"""In place of the names of groups: everything is read."""
ASKED_FOR = ("encoding-type", "h5sparse_format", "shape", "h5sparse_shape")
"""Attributes that readers ask for by name, even if their names cannot be listed."""
PIECE_BYTES = 1 << 24
"""Bytes that are read at once, so that this process needs little memory."""
MAX_UNPACKED_RATIO = 5000
"""gzip reaches about 1000 to 1; a larger ratio is a shape without its data."""
SMALL_BYTES = 1 << 26
"""Arrays up to this size are read whatever the file stores for them."""


def main(path: str, groups: list[str]) -> None:
    """Read attributes and contents of all groups, unless the file leads to other files."""
    import h5py

    with suppress(Exception), h5py.File(path, "r") as file:
        if link_outside(file) is not None:
            return
        _read_attributes(file)
        for name in list(file) if groups == [ALL] else groups:
            with suppress(Exception):
                _read(file[name])


def link_outside(file: Any) -> str | None:
    """Return the name of a link of an open ``h5py.File`` into another file, None without one.

    No link is followed.
    """
    import h5py

    def name_outside(name: bytes, info: Any) -> str | None:
        inside = info.type in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)
        return None if inside else name.decode("utf-8", "replace")

    found: str | None = file.id.links.visit(name_outside, info=True)
    return found


def claims_too_much(data: Any) -> bool:
    """Return True if an ``h5py.Dataset`` has a shape that its stored bytes cannot fill."""
    stored = data.id.get_storage_size()
    return bool(data.nbytes > max(SMALL_BYTES, MAX_UNPACKED_RATIO * stored))


def _read(item: Any) -> None:
    import h5py

    waiting, seen = [item], set()
    while waiting:
        found = waiting.pop()
        address = h5py.h5o.get_info(found.id).addr
        if address in seen:
            continue
        seen.add(address)
        _read_attributes(found)
        with suppress(Exception):
            if isinstance(found, h5py.Group):
                for name in found:
                    with suppress(Exception):
                        waiting.append(found[name])
            elif isinstance(found, h5py.Dataset) and not (found.is_virtual or found.external):
                _read_dataset(found)


def _read_attributes(item: Any) -> None:
    """Read each attribute; one that fails must not hide another that hangs."""
    names: list[str] = []
    with suppress(Exception):
        names = list(item.attrs)
    for name in dict.fromkeys((*names, *ASKED_FOR)):
        with suppress(Exception):
            item.attrs.get(name)


def _read_dataset(data: Any) -> None:
    """Read all values piece by piece, unless the shape is far beyond what is stored."""
    if not data.shape:
        data[()]
    elif not claims_too_much(data):
        rows = max(1, PIECE_BYTES * data.shape[0] // max(1, data.nbytes))
        for first in range(0, data.shape[0], rows):
            data[first : first + rows]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
