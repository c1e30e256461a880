"""Find the spot at each offset of each spot, for the position encoding."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triplex_deploy.errors import TilingError
from triplex_deploy.tiles import _kernels


def apeg_index(grid_rc: ArrayLike, kernel: int = 3) -> NDArray[np.int64]:
    """Return the index of the spot at every offset of a window around each spot.

    See docs/models.md, "APEG".

    Args:
        grid_rc: Array coordinates (row, column), integers of any sign and size, (N, 2).
        kernel: Side of the window; an odd number.

    Returns:
        Indices (N, kernel * kernel) int64, offsets (drow, dcol) row-major from -(kernel // 2); -1
        where there is no spot.

    Raises:
        TilingError: The kernel is even, the coordinates are not integers, or two spots share
            coordinates.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise TilingError(f"kernel={kernel}: a window needs a center; use an odd number, such as 3")
    grid = _as_int64(np.asarray(grid_rc))
    order = np.lexsort((grid[:, 1], grid[:, 0])).astype(np.int64)
    rows, columns = np.ascontiguousarray(grid[order].T)
    _check_unique(rows, columns, order)
    table = np.empty((len(grid), kernel * kernel), np.int64)
    _kernels.apeg_table(rows, columns, order, kernel // 2, table)
    return table


def position_index(grid_rc: ArrayLike, position: str, kernel: int = 3) -> NDArray[np.int64]:
    """Return the neighbor table of a position encoding.

    See docs/models.md, "Other position encodings".

    Args:
        grid_rc: Array coordinates (row, column), (N, 2) integers.
        position: ``apeg`` uses the array coordinates. ``peg`` sorts the spots by row and column and
            puts them row by row into a square with side ceil(sqrt(N)). ``none`` has no neighbors.
        kernel: Side of the window; an odd number.

    Returns:
        Indices (N, kernel * kernel) int64 as in ``apeg_index``; all -1 for ``none``.

    Raises:
        TilingError: As in ``apeg_index``.
    """
    if position == "apeg":
        return apeg_index(grid_rc, kernel)
    grid = _as_int64(np.asarray(grid_rc))
    if position == "none":
        return np.full((len(grid), kernel * kernel), -1, np.int64)
    rank = np.empty(len(grid), np.int64)
    rank[np.lexsort((grid[:, 1], grid[:, 0]))] = np.arange(len(grid))
    side = math.isqrt(max(len(grid) - 1, 0)) + 1
    return apeg_index(np.stack([rank // side, rank % side], axis=1), kernel)


def _as_int64(grid: NDArray[np.generic]) -> NDArray[np.int64]:
    if grid.ndim != 2 or grid.shape[1] != 2:
        raise TilingError(f"grid_rc: shape {grid.shape}; expected (spots, 2) as (row, column)")
    if grid.dtype.kind not in "iu":
        raise TilingError(f"grid_rc: dtype {grid.dtype}; round array coordinates to integers")
    if grid.size and int(grid.max()) > np.iinfo(np.int64).max:
        raise TilingError(f"grid_rc: {grid.max()} does not fit in int64; shift the coordinates")
    return grid.astype(np.int64)


def _check_unique(
    rows: NDArray[np.int64], columns: NDArray[np.int64], order: NDArray[np.int64]
) -> None:
    """Compare adjacent sorted spots; ``order`` maps them to the caller's spot numbers."""
    repeated = np.flatnonzero((rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1]))
    if repeated.size:
        at = int(repeated[0])
        raise TilingError(
            f"grid_rc: spots {order[at]} and {order[at + 1]} share row {rows[at]}, column "
            f"{columns[at]}; keep one spot per array position"
        )
