"""Know which files are slides and which files form one slide."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from triplex_deploy.files.digest import sha256_of
from triplex_deploy.files.regular import open_regular

DICOM: Final = ".dcm"
"""Suffix of DICOM files; several of them may form one slide."""
SLIDE_SUFFIXES: Final = frozenset(
    (
        ".svs",
        ".tif",
        ".tiff",
        ".btf",
        ".ndpi",
        ".scn",
        ".mrxs",
        ".vms",
        ".vmu",
        ".bif",
        ".svslide",
        ".czi",
        ".jpg",
        ".jpeg",
        ".png",
    )
)
"""Suffixes by which slides are found in a folder, in lower case. A file that the user names may
have any suffix."""
MIRAX: Final = ".mrxs"
ZARR_V3: Final = "zarr.json"
"""Metadata of a folder of Zarr 3, in which NGFF 0.5 is stored."""
ZARR_ATTRIBUTES: Final = ".zattrs"
"""Attributes of a folder of Zarr 2, in which NGFF 0.4 is stored."""


_SERIES_UID: Final = b"\x20\x00\x0e\x00UI"
"""The tag of a DICOM file with the identifier of its series, in explicit little-endian."""
_ZARR_HEAD_BYTES: Final = 1 << 22
"""Most bytes of the metadata of a Zarr group."""
_DICOM_HEAD_BYTES: Final = 1 << 16
"""First part of a DICOM file, in which that tag is looked for."""


DOUBLE_SUFFIX: Final = ".ome"
"""What may stand before a suffix and belongs to it, as in ``.ome.tif`` and ``.ome.zarr``."""


def slide_name(path: Path) -> str:
    """Return the name of a slide: that of its file without its suffix, ``.ome.tif`` as a whole.

    A DICOM file that is one of several of its slide has the name of the folder, as such files are
    called by numbers.
    """
    with suppress(OSError):  # a file that cannot be read has its own name
        if path.suffix.lower() == DICOM and path.is_file() and companions(path):
            return path.parent.resolve().name or path.stem
    inner = Path(path.stem)
    return inner.stem if inner.suffix.lower() == DOUBLE_SUFFIX else path.stem


def companions(path: Path) -> list[Path]:
    """Return the other files of a slide, sorted; raises ``OSError``.

    They are in the folder beside a MIRAX file. Of an OME-Zarr folder, they are all files in it. Of
    a DICOM file they are the files of the same series in its folder, or all DICOM files there if it
    names no series.
    """
    if path.is_dir():
        return sorted(part for part in path.rglob("*") if part.is_file())
    suffix, folder = path.suffix.lower(), path.with_suffix("")
    if suffix == MIRAX and folder.is_dir():
        return sorted(part for part in folder.iterdir() if part.is_file())
    if suffix == DICOM:
        others = sorted(
            part for part in path.parent.glob(f"*{DICOM}") if part != path and part.is_file()
        )
        series = _series(path) if others else b""
        return [part for part in others if not series or _series(part) == series]
    return []


def dicom_slides(files: Iterable[Path]) -> list[Path]:
    """Return the first file of each DICOM slide among the files of a folder.

    The files of one series are one slide, and so are those that name no series.
    """
    first: dict[bytes, Path] = {}
    for path in sorted(files):
        if path.suffix.lower() == DICOM:
            first.setdefault(_series(path), path)
    return list(first.values())


def is_zarr(path: Path) -> bool:
    """Return True for a folder that is a group of Zarr, as an OME-Zarr image is.

    False for what may not be entered: the reader of the slide reports it.
    """
    return any(os.path.isfile(path / name) for name in (ZARR_V3, ZARR_ATTRIBUTES))  # noqa: PTH113


def is_ome_zarr(path: Path) -> bool:
    """Return True for a folder that is an OME-Zarr image, not another store of Zarr."""
    try:
        name = ZARR_V3 if (path / ZARR_V3).is_file() else ZARR_ATTRIBUTES
        with open_regular(path / name) as file:
            content = json.loads(file.read(_ZARR_HEAD_BYTES))
        found = content["attributes"]["ome"] if name == ZARR_V3 else content
        return "multiscales" in found or "bioformats2raw.layout" in found
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def slide_digest(path: Path) -> str:
    """Return a digest of a slide's content as 64 hexadecimal digits; raises ``OSError``.

    It is the SHA-256 of the file's SHA-256 and of the names and contents of its companions.
    """
    is_folder = path.is_dir()
    digest = hashlib.sha256(b"" if is_folder else sha256_of(path).encode())
    for part in companions(path):
        name = part.relative_to(path) if is_folder else part.name
        digest.update(os.fsencode(name) + b":" + sha256_of(part).encode())
    return digest.hexdigest()


def _series(path: Path) -> bytes:
    """Return the identifier of a DICOM file's series; empty if it cannot be read."""
    try:
        with open_regular(path) as file:
            head = file.read(_DICOM_HEAD_BYTES)
    except OSError:
        return b""
    start = head.find(_SERIES_UID)
    if start < 0:
        return b""
    start += len(_SERIES_UID)
    length = int.from_bytes(head[start : start + 2], "little")
    return head[start + 2 : start + 2 + length]
