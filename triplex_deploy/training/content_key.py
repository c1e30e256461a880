"""Keys by which cached features are known to belong to their slide, spots and encoder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CACHE_VERSION = 1
"""Raise it when the same inputs would give other features."""

_CHUNK = 1 << 22


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def slide_digest(path: Path) -> str:
    """SHA-256 of a slide's file, and of the names and sizes of a MIRAX slide's folder."""
    digest = hashlib.sha256(file_digest(path).encode())
    folder = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and folder.is_dir():
        for part in sorted(folder.iterdir()):
            digest.update(f"{part.name}:{part.stat().st_size}".encode())
    return digest.hexdigest()


def feature_key(
    slide_sha256: str,
    encoder_digest: str,
    slide_mpp: float,
    tile_mpp: float,
    level0_xy: NDArray[np.float64],
) -> str:
    """Key of the features of one section: equal exactly where all that decides them is equal."""
    digest = hashlib.sha256()
    facts = (CACHE_VERSION, slide_sha256, encoder_digest, repr(slide_mpp), repr(tile_mpp))
    digest.update("|".join(map(str, facts)).encode())
    digest.update(np.ascontiguousarray(level0_xy, np.float64).tobytes())
    return digest.hexdigest()
