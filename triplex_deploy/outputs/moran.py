"""Compute the spatial autocorrelation of genes over the array coordinates of spots."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SQUARE_STEPS: Final = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Steps (row, column) to the adjacent spots of a square array."""
HEXAGONAL_STEPS: Final = ((0, -2), (0, 2), (-1, -1), (-1, 1), (1, -1), (1, 1))
"""Steps (row, column) to the adjacent spots of a Visium array."""
GENES_AT_ONCE: Final = 256
"""Genes per step; more need more memory."""


def morans_i(expression: NDArray[np.float32], grid_rc: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return Moran's I of every gene, (G,), with equal weights for adjacent spots (Moran, 1950).

    1 is a smooth pattern, and about 0 is no pattern. The value is NaN if it is undefined: if a
    gene is constant or not finite, or no spots are adjacent.
    """
    neighbors = adjacent_spots(grid_rc)  # (N, K)
    n_weights = np.count_nonzero(neighbors >= 0)
    result = np.full(expression.shape[1], np.nan)
    if n_weights == 0:
        return result
    for first in range(0, expression.shape[1], GENES_AT_ONCE):
        part = slice(first, first + GENES_AT_ONCE)
        deviation = expression[:, part].astype(np.float64)  # (N, g)
        deviation -= deviation.mean(axis=0)
        padded = np.vstack([deviation, np.zeros_like(deviation[:1])])  # index -1 selects the zeros
        product = sum((deviation * padded[column]).sum(axis=0) for column in neighbors.T)
        variance = (deviation**2).mean(axis=0)
        varies = np.isfinite(variance) & (np.ptp(expression[:, part], axis=0) > 0)
        np.divide(product / n_weights, variance, out=result[part], where=varies)
    return result


def adjacent_spots(grid_rc: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of adjacent spots, (N, 4), or (N, 6) on a Visium array; -1 for none."""
    steps = HEXAGONAL_STEPS if is_hexagonal(grid_rc) else SQUARE_STEPS
    at = {(row, column): index for index, (row, column) in enumerate(grid_rc.tolist())}
    table = [[at.get((r + dr, c + dc), -1) for dr, dc in steps] for r, c in grid_rc.tolist()]
    return np.array(table, np.int64).reshape(len(grid_rc), len(steps))


def is_hexagonal(grid_rc: NDArray[np.int64]) -> bool:
    """Return True for Visium coordinates: columns count in twos, odd rows are shifted by one."""
    parity: NDArray[Any] = grid_rc.sum(axis=1) % 2
    rows = np.unique(grid_rc[:, 0] % 2)
    return len(grid_rc) > 1 and rows.size == 2 and bool((parity == parity[0]).all())
