"""Check the arguments of the native tiling kernels and call them.

The kernels check nothing, so dtype, layout, shape and bounds of every array are checked here. All
kernels release the GIL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from triplex_deploy.contract import N_NEIGHBORS, TILE_PX
from triplex_deploy.errors import TilingError
from triplex_deploy.tiles import _kernels
from triplex_deploy.tiles.weights import AxisWeights

COORDINATE_LIMIT = 1 << 40
"""Pixel coordinates must lie within +-this, so that no sum inside a kernel can overflow."""

RGBImage = NDArray[np.uint8]
"""An array (..., height, width, 3)."""


def gather(
    segments: RGBImage,
    slots: NDArray[np.int64],
    first_xy: NDArray[np.int64],
    origin_xy: NDArray[np.int64],
    limit_wh: tuple[int, int],
    out: RGBImage,
) -> None:
    """Crop windows of an image out of its decoded segments; the padding is zero.

    Args:
        segments: Decoded segments of equal size, (S, h, w, 3) uint8.
        slots: Segments under each window, (B, rows, columns) int64, indices into ``segments``, -1
            for none. Pixels inside the image but under no segment are left as they are.
        first_xy: Pixel (x, y) of the image where each window's first segment begins, (B, 2) int64.
        origin_xy: Top-left corners (x, y) of the windows in the image, (B, 2) int64.
        limit_wh: Width and height of the image; pixels outside become 0.
        out: Receives the windows, (B, H, W, 3) uint8.

    Raises:
        TilingError: An array does not fit.
    """
    _check("segments", segments, np.uint8, (None, None, None, 3))
    _check("out", out, np.uint8, (None, None, None, 3))
    _check("slots", slots, np.int64, (len(out), None, None))
    _check("first_xy", first_xy, np.int64, (len(out), 2))
    _check("origin_xy", origin_xy, np.int64, (len(out), 2))
    _check_coordinates("first_xy", first_xy)
    _check_coordinates("origin_xy", origin_xy)
    if slots.size and slots.max() >= len(segments):
        raise TilingError(f"slots: {slots.max()} is beyond the {len(segments)} segments")
    if not out.flags.writeable or np.may_share_memory(out, segments):
        raise TilingError("out: pass a writable array apart from the segments")
    if out.size:
        _kernels.gather(segments, slots, first_xy, origin_xy, *limit_wh, out)


def neighbor_table(
    center_xy: NDArray[np.int64], size_wh: tuple[int, int], tile_px: int = TILE_PX
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the corners and the mask of the 5x5 tiles around every spot center.

    Neighbor n = row * 5 + column. The center row and column never count as outside the image, as in
    docs/models.md, "Masked neighbors".

    Args:
        center_xy: Centers (x, y) of the spots, pixels of the image, (N, 2) int64.
        size_wh: Width and height of the image.
        tile_px: Side of a tile.

    Returns:
        The top-left corners (x, y) of the tiles, (N, 25, 2) int64, and the mask (N, 25): False if
        the tile's row or column reaches outside the image.

    Raises:
        TilingError: An array does not fit.
    """
    _check_count("tile_px", tile_px)
    _check("center_xy", center_xy, np.int64, (None, 2))
    _check_coordinates("center_xy", center_xy)
    width, height = size_wh
    if not (0 <= width <= COORDINATE_LIMIT and 0 <= height <= COORDINATE_LIMIT):
        raise TilingError(f"size_wh={size_wh}: not an image size; give (width, height) in pixels")
    origin_xy = np.empty((len(center_xy), N_NEIGHBORS, 2), np.int64)
    mask = np.empty((len(center_xy), N_NEIGHBORS), np.bool_)
    _kernels.neighbor_table(center_xy, width, height, tile_px, origin_xy, mask.view(np.uint8))
    return origin_xy, mask


def resample(block: RGBImage, rows: AxisWeights, columns: AxisWeights) -> RGBImage:
    """Return weighted sums over rows and columns of an RGB block, rounded half up.

    Args:
        block: The source pixels, (H, W, 3) uint8.
        rows: The rows of the block that make up each output row.
        columns: The columns of the block that make up each output column.

    Returns:
        (len(rows), len(columns), 3) uint8.

    Raises:
        TilingError: An array does not fit, or a weight reaches outside the block.
    """
    _check("block", block, np.uint8, (None, None, 3))
    _check_weights("rows", rows, block.shape[0])
    _check_weights("columns", columns, block.shape[1])
    out = np.empty((len(rows.start), len(columns.start), 3), np.uint8)
    if not out.size:
        return out
    _kernels.resample(
        block,
        rows.start,
        rows.count,
        rows.weight,
        columns.start,
        columns.count,
        columns.weight,
        np.empty(3 * block.shape[1], np.float32),
        out,
    )
    return out


def _check(name: str, array: Any, dtype: DTypeLike, shape: tuple[int | None, ...]) -> None:
    if not isinstance(array, np.ndarray):
        raise TilingError(f"{name}: {type(array).__name__}, not an array; pass a NumPy array")
    if array.dtype != np.dtype(dtype):
        raise TilingError(f"{name}: dtype {array.dtype}; convert to {np.dtype(dtype)}")
    fits = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise TilingError(f"{name}: shape {array.shape}; expected ({wanted})")
    if not array.flags.c_contiguous:
        raise TilingError(f"{name}: strides {array.strides}; make it C-contiguous")


def _check_count(name: str, value: int) -> None:
    if not 1 <= value <= COORDINATE_LIMIT:
        raise TilingError(f"{name}={value}: out of range; use at least 1")


def _check_coordinates(name: str, xy: NDArray[np.int64]) -> None:
    if xy.size and not (xy.min() >= -COORDINATE_LIMIT and xy.max() <= COORDINATE_LIMIT):
        raise TilingError(f"{name}: pixel coordinates beyond +-{COORDINATE_LIMIT}; check the frame")


def _check_weights(name: str, axis: AxisWeights, length: int) -> None:
    n = len(axis.start)
    _check(f"{name}.start", axis.start, np.int64, (n,))
    _check(f"{name}.count", axis.count, np.int64, (n,))
    _check(f"{name}.weight", axis.weight, np.float32, (n, None))
    if n == 0:
        return
    if axis.count.min() < 0 or axis.count.max() > axis.weight.shape[1]:
        raise TilingError(f"{name}.count: not within the {axis.weight.shape[1]} weights of a sum")
    if axis.start.min() < 0 or axis.start.max() > length or axis.span[1] > length:
        raise TilingError(f"{name}: weights reach outside the block's {length} pixels")
