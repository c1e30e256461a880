"""Know which files are slides and which files form one slide."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from triplex_deploy.files.digest import sha256_of

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


def companions(path: Path) -> list[Path]:
    """Return the other files of a slide, sorted.

    They are in the folder beside a MIRAX file, and in the folder of a DICOM file.
    """
    suffix, folder = path.suffix.lower(), path.with_suffix("")
    if suffix == MIRAX and folder.is_dir():
        return sorted(folder.iterdir())
    if suffix == DICOM:
        return sorted(part for part in path.parent.glob(f"*{DICOM}") if part != path)
    return []


def slide_digest(path: Path) -> str:
    """Return a digest of a slide's content as 64 hexadecimal digits; raises ``OSError``.

    It is the SHA-256 of the file's SHA-256 and of the names and sizes of its companions.
    """
    digest = hashlib.sha256(sha256_of(path).encode())
    for part in companions(path):
        digest.update(f"{part.name}:{part.stat().st_size}".encode())
    return digest.hexdigest()
