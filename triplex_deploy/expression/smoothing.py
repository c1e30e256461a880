"""Average each spot with its neighbors on the array: docs/models.md, "Label transform"."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import DatasetError

WINDOWS: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "3x3": tuple((row, col) for row in (-1, 0, 1) for col in (-1, 0, 1)),
    "hex": ((0, 0), (0, -2), (0, 2), (-1, -1), (-1, 1), (1, -1), (1, 1)),
}
"""Offsets (row, column) that are averaged, by name of the window.

``hex`` is a Visium spot with its six neighbors; the spots of a row are two columns apart there.
``3x3`` is the rule of the paper. On Visium, it averages only four of the six neighbors.
"""


def smooth_spots(
    values: NDArray[np.floating], grid_rc: NDArray[np.int64], window: str = "3x3"
) -> NDArray[np.float64]:
    """Return the mean (N, G) over each spot and its neighbors.

    Args:
        values: Values (N, G) of the spots of a section.
        grid_rc: Array coordinates (N, 2): row, column. Places without a spot do not count.
        window: ``3x3`` or ``hex``, see ``WINDOWS``.

    Raises:
        DatasetError: The window is not known, or two spots have the same array coordinates.
    """
    if window not in WINDOWS:
        raise DatasetError(f"smoothing {window!r}: not known; use {' or '.join(WINDOWS)}")
    keys = _keys(grid_rc)
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    if (ranked[1:] == ranked[:-1]).any():
        raise DatasetError("smoothing: two spots have the same array coordinates; remove one spot")
    stride = _stride(grid_rc)
    total = np.zeros(values.shape, np.float64)
    present = np.zeros(len(values), np.int64)
    for row, col in WINDOWS[window]:
        wanted = keys + row * stride + col
        at = np.minimum(np.searchsorted(ranked, wanted), len(ranked) - 1)
        found = ranked[at] == wanted
        total[found] += values[order[at[found]]]
        present += found
    return total / present[:, None]


def _keys(grid_rc: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an integer (N,) for each (row, column); a step on the array adds a constant."""
    row, col = (grid_rc - grid_rc.min(axis=0)).T
    keys: NDArray[np.int64] = row * _stride(grid_rc) + col
    return keys


def _stride(grid_rc: NDArray[np.int64]) -> int:
    """Return the number of columns, plus two beyond each end of a row."""
    return int(np.ptp(grid_rc[:, 1])) + 5
