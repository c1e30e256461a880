"""Make seeded inputs for any graph, to trace it and to compare it with PyTorch."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import CENTER, GraphSpec, TensorSpec

SEED: Final = 2024
"""Seed of the inputs."""
_PATCH_PX: Final = 16
"""Side of a stained patch."""
_STAINS: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
"""Optical density of hematoxylin and eosin in red, green, blue (Ruifrok and Johnston 2001)."""


def graph_inputs(
    spec: GraphSpec, size: int, seed: int = SEED, n_positions: int = 1
) -> dict[str, NDArray[Any]]:
    """Return an array for each input of a graph.

    Args:
        spec: The graph.
        size: Length of the dynamic axes.
        seed: Seed of the values.
        n_positions: Rows and columns of the array that the model has embeddings for.
    """
    rng = np.random.default_rng([seed, size])
    return {tensor.name: _tensor(tensor, size, rng, n_positions) for tensor in spec.inputs}


def tiles(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return tiles (B, H, W, 3) that look like H&E: stained patches with fine grain."""
    batch, height, width, _ = shape
    coarse = (batch, -(-height // _PATCH_PX), -(-width // _PATCH_PX), len(_STAINS))
    amount = rng.gamma(2.0, 0.25, coarse) * rng.uniform(0.0, 2.0, (batch, 1, 1, len(_STAINS)))
    patches = 240 * np.exp(-amount @ _STAINS)
    fine = np.repeat(np.repeat(patches, _PATCH_PX, axis=1), _PATCH_PX, axis=2)
    grain = rng.integers(-12, 13, (height, width, 1))
    return np.clip(fine[:, :height, :width] + grain, 0, 255).astype(np.uint8)


def _tensor(
    tensor: TensorSpec, size: int, rng: np.random.Generator, n_positions: int
) -> NDArray[Any]:
    shape = tuple(size if isinstance(axis, str) else axis for axis in tensor.axes)
    if tensor.dtype == "uint8":
        return tiles(shape, rng)
    if tensor.dtype == "bool":
        return _mask(shape, rng)
    if tensor.name == "grid_xy":
        return rng.integers(0, n_positions, shape, dtype=np.int64)
    if tensor.dtype == "int64":  # rows of other spots; -1 means none
        return rng.integers(-1, size, shape, dtype=np.int64)
    return rng.standard_normal(shape, dtype=np.float32)


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return a mask with all neighbors of every second spot and some of the others."""
    mask = rng.random(shape) < 0.6
    mask[0::2] = True
    mask[:, CENTER] = True
    return mask
