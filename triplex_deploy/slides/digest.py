"""A slide's content in 64 hexadecimal digits."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def slide_digest(path: Path) -> str:
    """SHA-256 of a slide's file; where a slide has more files, also of their names and sizes."""
    digest = hashlib.sha256(file_digest(path).encode())
    for part in companions(path):
        digest.update(f"{part.name}:{part.stat().st_size}".encode())
    return digest.hexdigest()


def companions(path: Path) -> list[Path]:
    """A slide's other files: in the folder beside a MIRAX one, in the folder of a DICOM one."""
    suffix, folder = path.suffix.lower(), path.with_suffix("")
    if suffix == ".mrxs" and folder.is_dir():
        return sorted(folder.iterdir())
    if suffix == ".dcm":
        return sorted(part for part in path.parent.glob("*.dcm") if part != path)
    return []
