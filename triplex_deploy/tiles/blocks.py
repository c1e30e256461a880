"""Which rectangles of a view to read so that every tile lies in one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import TILE_PX

_COMPRESSED_PX = 256
"""Usual side of a slide's compressed tiles; reading a window decodes all it touches."""
_DENSE = 0.6
"""From this share of occupied tile positions on, cutting a block up is not worth trying."""


@dataclass(frozen=True, eq=False)
class Block:
    """One rectangle to read, in the view frame, and the tiles that lie wholly inside it."""

    xywh: tuple[int, int, int, int]
    tile_index: NDArray[np.int64]  # (n,)


def plan_blocks(origins_xy: NDArray[np.int64], cell_px: int) -> Iterator[Block]:
    """Blocks for the tiles at ``origins_xy`` (T, 2), each tile in exactly one, row of cells by row.

    Tiles are grouped by the square cell of ``cell_px`` their origin lies in, counted from the least
    origin: on a contiguous grid whole tiles fit a cell and no pixel is read twice. A cell with much
    empty space between its tiles becomes several blocks.
    """
    if len(origins_xy) == 0:
        return
    cell_xy = (origins_xy - origins_xy.min(axis=0)) // cell_px
    order = np.lexsort((cell_xy[:, 0], cell_xy[:, 1]))
    ordered = cell_xy[order]
    starts = np.flatnonzero((ordered[1:] != ordered[:-1]).any(axis=1)) + 1
    for index in np.split(order, starts):
        for part in cheapest_parts(origins_xy, index)[1]:
            yield Block(_bounds(origins_xy[part]), part)


def cheapest_parts(
    origins_xy: NDArray[np.int64], index: NDArray[np.int64]
) -> tuple[int, list[NDArray[np.int64]]]:
    """Cut the tiles ``index`` into the groups whose bounding boxes cost least to decode together.

    Returns the cost in pixels and the groups; cuts are halvings, or follow an empty strip.
    """
    origins = origins_xy[index]
    whole = _decoded_px(origins)
    if len(index) == 1 or _is_dense(origins):
        return whole, [index]
    lower = _lower_half(origins)
    low_cost, low_parts = cheapest_parts(origins_xy, index[lower])
    high_cost, high_parts = cheapest_parts(origins_xy, index[~lower])
    if low_cost + high_cost < whole:
        return low_cost + high_cost, low_parts + high_parts
    return whole, [index]


def _decoded_px(origins: NDArray[np.int64]) -> int:
    """Expected pixels decoded to read the bounding box, wherever compressed tiles begin."""
    _, _, width, height = _bounds(origins)
    return (width + _COMPRESSED_PX - 1) * (height + _COMPRESSED_PX - 1)


def _is_dense(origins: NDArray[np.int64]) -> bool:
    """Whether tile origins occupy most cells of a tile-sized lattice over their bounding box."""
    columns, rows = ((origins - origins.min(axis=0)) // TILE_PX).T
    occupied = np.zeros((rows.max() + 1, columns.max() + 1), np.bool_)
    occupied[rows, columns] = True
    return bool(occupied.mean() >= _DENSE)


def _lower_half(origins: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tiles on the near side of the widest empty strip, or of the middle of the longer side."""
    sorted_xy = np.sort(origins, axis=0)
    gaps = np.diff(sorted_xy, axis=0)
    axis = int(gaps.max(axis=0).argmax())
    if gaps[:, axis].max() > TILE_PX:
        limit = sorted_xy[gaps[:, axis].argmax(), axis]
    else:
        axis = int((sorted_xy[-1] - sorted_xy[0]).argmax())
        limit = (sorted_xy[0, axis] + sorted_xy[-1, axis]) // 2
    lower: NDArray[np.bool_] = origins[:, axis] <= limit
    return lower


def _bounds(origins: NDArray[np.int64]) -> tuple[int, int, int, int]:
    """Left, top, width and height of the tiles' bounding box."""
    left, top = (int(value) for value in origins.min(axis=0))
    right, bottom = (int(value) + TILE_PX for value in origins.max(axis=0))
    return left, top, right - left, bottom - top
