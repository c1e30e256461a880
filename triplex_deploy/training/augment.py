"""Augmentation of the spots' own tiles; their surroundings keep their orientation (MODELS 1.3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def augment_tiles(tiles: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Flip tiles (B, h, h, 3) left-right, up-down and turn them by 90 degrees, each at p = 0.5."""
    augmented = np.empty_like(tiles)
    for i, (mirror, flip, turn) in enumerate(rng.random((len(tiles), 3)) < 0.5):
        tile = tiles[i, ::-1] if flip else tiles[i]
        tile = tile[:, ::-1] if mirror else tile
        augmented[i] = np.rot90(tile) if turn else tile
    return augmented
