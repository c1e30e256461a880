"""Read the parts of an HDF5 file in a process of its own, which a damaged file may end or stop.

Run as ``python hdf5_child.py FILE GROUP ...``. An error that the library reports is no reason to
fail here: the process that reads the file afterwards reports it better.
"""

from __future__ import annotations

import sys


def main(path: str, groups: list[str]) -> None:
    """Read attributes and contents of all groups, and the size of what else there is."""
    import h5py

    with h5py.File(path, "r") as file:
        dict(file.attrs)
        for name in file:
            link = file.get(name, getlink=True)
            if name in groups and not isinstance(link, h5py.ExternalLink):
                _read(file[name])


def _read(item: object) -> None:
    import h5py

    waiting, seen = [item], set()
    while waiting:
        found = waiting.pop()
        address = h5py.h5o.get_info(found.id).addr  # type: ignore[attr-defined]
        if address in seen:
            continue
        seen.add(address)
        dict(found.attrs)  # type: ignore[attr-defined]
        if isinstance(found, h5py.Group):
            waiting += [
                found[name]
                for name in found
                if not isinstance(found.get(name, getlink=True), h5py.ExternalLink)
            ]
        elif isinstance(found, h5py.Dataset) and found.size and found.size < 100_000_000:
            found[()]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
