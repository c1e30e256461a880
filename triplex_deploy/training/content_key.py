"""Keys by which cached features are known to belong to their slide, spots and encoder."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.slides.digest import file_digest, slide_digest

__all__ = ["feature_key", "file_digest", "slide_digest"]

CACHE_VERSION = 1
"""Raise it when the same inputs would give other features."""


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
