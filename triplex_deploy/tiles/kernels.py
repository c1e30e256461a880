"""Checked wrappers over the native tiling kernels.

Every array is checked for dtype, layout, shape and bounds here, because the kernels check nothing.
All of them release the GIL; ``threads`` splits the work over that many threads, with equal results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
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


def crop_tiles(
    block: RGBImage,
    origin_xy: NDArray[np.int64],
    tile_px: int = TILE_PX,
    *,
    out: RGBImage | None = None,
    threads: int = 1,
) -> RGBImage:
    """Copy square tiles out of an RGB block.

    ``block`` is (H, W, 3); ``origin_xy`` is (B, 2), the top-left corners (x, y) relative to the
    block, anywhere in or outside it. Returns (B, tile_px, tile_px, 3), written into ``out`` if
    given; pixels outside the block are 0. Raises ``TilingError`` if an array does not fit.
    """
    _check_count("tile_px", tile_px)
    _check("block", block, np.uint8, (None, None, 3))
    _check("origin_xy", origin_xy, np.int64, (None, 2))
    _check_coordinates("origin_xy", origin_xy)
    out = _output(out, (len(origin_xy), tile_px, tile_px, 3), block)
    _split(
        len(origin_xy),
        threads,
        lambda first, last: _kernels.crop_tiles(block, origin_xy[first:last], out[first:last]),
    )
    return out


def gather(
    segments: RGBImage,
    slots: NDArray[np.int64],
    first_xy: NDArray[np.int64],
    origin_xy: NDArray[np.int64],
    limit_wh: tuple[int, int],
    out: RGBImage,
) -> None:
    """Put windows together from decoded segments of an image.

    ``segments`` is (S, h, w, 3); ``slots`` (B, rows, columns) says which of them lie under each
    window, -1 for none, in a lattice whose first one begins at ``first_xy`` (B, 2) of the image.
    ``out`` (B, H, W, 3) gets the windows at ``origin_xy`` (B, 2); what lies outside ``limit_wh``
    becomes 0, what lies inside but under no slot is left alone. Raises ``TilingError`` if an array
    does not fit.
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


def crop_neighborhoods(
    block: RGBImage,
    origin_xy: NDArray[np.int64],
    mask: NDArray[np.bool_],
    tile_px: int = TILE_PX,
    *,
    out: RGBImage | None = None,
    threads: int = 1,
) -> RGBImage:
    """Copy the 25 neighbour tiles of every spot out of an RGB block.

    ``block`` is (H, W, 3); ``origin_xy`` is (N, 25, 2), top-left corners (x, y) relative to the
    block; ``mask`` is (N, 25), True where the tile is wanted. Returns (N, 25, tile_px, tile_px, 3),
    written into ``out`` if given; masked tiles and pixels outside the block are 0. Raises
    ``TilingError`` if an array does not fit.
    """
    _check_count("tile_px", tile_px)
    _check("block", block, np.uint8, (None, None, 3))
    _check("origin_xy", origin_xy, np.int64, (None, N_NEIGHBORS, 2))
    _check("mask", mask, np.bool_, (len(origin_xy), N_NEIGHBORS))
    _check_coordinates("origin_xy", origin_xy)
    out = _output(out, (len(origin_xy), N_NEIGHBORS, tile_px, tile_px, 3), block)
    wanted = mask.view(np.uint8)
    _split(
        len(origin_xy),
        threads,
        lambda first, last: _kernels.crop_neighborhoods(
            block, origin_xy[first:last], wanted[first:last], out[first:last]
        ),
    )
    return out


def neighbor_table(
    center_xy: NDArray[np.int64], size_wh: tuple[int, int], tile_px: int = TILE_PX
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Origins and mask of the 5x5 tiles around every spot centre (MODELS 1.5).

    ``center_xy`` is (N, 2) in pixels of an image of ``size_wh`` (width, height). Returns origins
    (N, 25, 2) as (x, y) in the same frame, neighbour n = row * 5 + column, and mask (N, 25): False
    where the tile's row or column reaches outside the image. The centre row and column never count
    as outside. Raises ``TilingError`` if an array does not fit.
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


def bgra_to_rgb(
    argb: NDArray[np.uint32],
    background_rgb: tuple[int, int, int] = (255, 255, 255),
    *,
    out: RGBImage | None = None,
    threads: int = 1,
) -> RGBImage:
    """Composite OpenSlide's pixels over a background colour.

    ``argb`` is (H, W), premultiplied ARGB in native-endian words: B, G, R, A in the memory of the
    little-endian machines this runs on. Returns (H, W, 3); ``out``, if given, may be a window of a
    larger image, each row contiguous. Raises ``TilingError`` if an array does not fit.
    """
    if sys.byteorder != "little":
        raise TilingError("bgra_to_rgb: this machine is big-endian; run on a little-endian one")
    _check("argb", argb, np.uint32, (None, None))
    if any(not 0 <= channel <= 255 for channel in background_rgb):
        raise TilingError(f"background_rgb={background_rgb}: channels must lie in 0..255")
    height, width = argb.shape
    out = _output(out, (height, width, 3), argb, rows_contiguous=True)
    if argb.size == 0:
        return out
    _split(
        height,
        threads,
        lambda first, last: _kernels.bgra_to_rgb(
            argb[first:last], out[first:last], *background_rgb
        ),
    )
    return out


def resample(
    block: RGBImage,
    rows: AxisWeights,
    columns: AxisWeights,
    *,
    out: RGBImage | None = None,
    threads: int = 1,
) -> RGBImage:
    """Weighted sums over rows and columns of an RGB block, rounded half up.

    ``block`` is (H, W, 3); ``rows`` and ``columns`` say which of its rows and columns each output
    row and column takes, relative to the block. Returns (len(rows), len(columns), 3). Raises
    ``TilingError`` if an array does not fit or a weight reaches outside the block.
    """
    _check("block", block, np.uint8, (None, None, 3))
    _check_weights("rows", rows, block.shape[0])
    _check_weights("columns", columns, block.shape[1])
    out = _output(out, (len(rows.start), len(columns.start), 3), block)

    def work(first: int, last: int) -> None:
        _kernels.resample(
            block,
            *(rows.start[first:last], rows.count[first:last], rows.weight[first:last]),
            *(columns.start, columns.count, columns.weight),
            np.empty(3 * block.shape[1], np.float32),
            out[first:last],
        )

    _split(len(rows.start), threads, work)
    return out


def _check(
    name: str, array: Any, dtype: DTypeLike, shape: tuple[int | None, ...], layout: bool = True
) -> None:
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
    if layout and not array.flags.c_contiguous:
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


def _output(
    out: RGBImage | None,
    shape: tuple[int, ...],
    source: NDArray[Any],
    rows_contiguous: bool = False,
) -> RGBImage:
    """A new output array, or ``out`` once it is known to be safe to write into."""
    if out is None:
        return np.empty(shape, np.uint8)
    _check("out", out, np.uint8, shape, layout=not rows_contiguous)
    if rows_contiguous and out.size and out.strides[1:] != (3, 1):
        raise TilingError(f"out: strides {out.strides}; each row must be contiguous RGB")
    if not out.flags.writeable:
        raise TilingError("out: the array is read-only; pass a writable one")
    if np.may_share_memory(out, source):
        raise TilingError("out: shares memory with the input; pass a separate array")
    return out


def _split(count: int, threads: int, work: Callable[[int, int], None]) -> None:
    """Run ``work(first, last)`` over equal parts of ``range(count)``, one part per thread."""
    _check_count("threads", threads)
    parts = min(threads, count)
    if parts <= 1:
        work(0, count)
        return
    edges = [count * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        for done in [pool.submit(work, *span) for span in pairwise(edges)]:
            done.result()
