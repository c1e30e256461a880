"""Plan the tiles around spots so that each distinct tile is read and encoded once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import CENTER, NEIGHBORHOOD, TILE_PX, Neighborhood
from triplex_deploy.errors import TilingError
from triplex_deploy.tiles.kernels import neighbor_table

CENTER_LIMIT = 1 << 30
"""Spot centers must lie within +-this many view pixels: a tile origin is packed into 64 bits."""
_BAND_BITS = 11
"""Tiles are sorted in bands of 2 ** 11 rows, from left to right in each."""
_OFFSET = 1 << 31
"""Added to coordinates before packing, so that they are not negative."""
_EXACT = Neighborhood()


@dataclass(frozen=True, eq=False)
class TilePlan:
    """The distinct tiles of a slide and the tiles of each spot, in the view frame.

    Spots share tiles with equal origins. Masked neighbors are not planned.
    """

    origins_xy: NDArray[np.int64]
    """(T, 2) top-left corners (x, y), in bands from top to bottom."""
    neighbor_tile: NDArray[np.int64]
    """(N, 25) indices into ``origins_xy``, -1 where masked."""
    neighbor_mask: NDArray[np.bool_]
    """(N, 25) True where the tile is inside the slide."""
    spot_tile: NDArray[np.int64]
    """(N,) the target tile of each spot, ``neighbor_tile[:, 12]``."""


def plan_tiles(
    center_xy: NDArray[np.int64],
    size_wh: tuple[int, int],
    neighborhood: Neighborhood = _EXACT,
) -> TilePlan:
    """Plan the 5x5 neighborhoods of spots.

    Preparing, predicting and serving all take their tiles from here.

    Args:
        center_xy: Centers (x, y) of the spots in view pixels, (N, 2) int64.
        size_wh: Width and height of the view in pixels.
        neighborhood: Where neighbor tiles are taken, as the model was trained:
            ``Config.neighbors``.

    Returns:
        The distinct tiles, and the tiles of each spot.

    Raises:
        TilingError: The centers are not int64 (N, 2), or are beyond ``CENTER_LIMIT``.
    """
    origin_xy, mask = neighbor_table(center_xy, size_wh)  # (N, 25, 2), (N, 25)
    if center_xy.size and np.abs(center_xy).max() > CENTER_LIMIT:
        raise TilingError(f"center_xy: beyond +-{CENTER_LIMIT} pixels; check the spots' frame")
    if neighborhood.is_shared:
        origin_xy, mask = _on_grid(origin_xy, size_wh, neighborhood.stride)
    keys, inverse = np.unique(_pack(origin_xy[mask]), return_inverse=True)
    neighbor_tile = np.full(mask.shape, -1, np.int64)
    neighbor_tile[mask] = inverse
    return TilePlan(_unpack(keys), neighbor_tile, mask, neighbor_tile[:, CENTER].copy())


def _on_grid(
    exact_xy: NDArray[np.int64], size_wh: tuple[int, int], stride: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Move neighbors to the nearest origins of a grid, and mask those that are not inside then.

    The grid has an origin at every multiple of ``stride``, so it does not depend on the spots. Of
    two origins that are equally near, the right one and the lower one are taken. Columns of tiles
    are masked by x and rows by y; the central column and row are not, as in ``neighbor_table``.
    The target tile stays where it is.
    """
    origin_xy = (exact_xy + stride // 2) // stride * stride  # // rounds down, also below zero
    inside_xy = (origin_xy >= 0) & (origin_xy + TILE_PX <= np.array(size_wh))  # (N, 25, 2)
    row, column = np.divmod(np.arange(NEIGHBORHOOD**2), NEIGHBORHOOD)
    inside_xy[:, column == NEIGHBORHOOD // 2, 0] = True
    inside_xy[:, row == NEIGHBORHOOD // 2, 1] = True
    origin_xy[:, CENTER] = exact_xy[:, CENTER]
    return origin_xy, inside_xy[..., 0] & inside_xy[..., 1]


class TileIndex:
    """Finds tiles of a plan by their origins."""

    def __init__(self, origins_xy: NDArray[np.int64]) -> None:
        """Index the tiles at ``origins_xy`` (T, 2) of a plan."""
        keys = _pack(origins_xy)
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def find(self, origins_xy: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tile at each of ``origins_xy`` (K, 2), -1 for none."""
        if not len(self._keys):
            return np.full(len(origins_xy), -1, np.int64)
        keys = _pack(origins_xy)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        found: NDArray[np.int64] = np.where(self._keys[place] == keys, self._order[place], -1)
        return found


def _pack(origin_xy: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Pack each origin into one sortable integer: band, then x, then row within the band."""
    x, y = (origin_xy + _OFFSET).astype(np.uint64).T
    band, row = y >> _BAND_BITS, y & ((1 << _BAND_BITS) - 1)
    packed: NDArray[np.uint64] = (band << (32 + _BAND_BITS)) | (x << _BAND_BITS) | row
    return packed


def _unpack(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    x = (keys >> _BAND_BITS) & 0xFFFFFFFF
    y = ((keys >> (32 + _BAND_BITS)) << _BAND_BITS) | (keys & ((1 << _BAND_BITS) - 1))
    return np.stack([x, y], axis=1).astype(np.int64) - _OFFSET
