"""A small picture of a whole slide."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError
from triplex_deploy.slides.slide import Slide

BAND_PX = 1 << 20
"""Pixels read at once; at least the rows under one row of the thumbnail."""
PATCH_PX = 256
"""Side of what is given up around an unreadable place."""


def thumbnail(slide: Slide, max_px: int, skip_bad: bool = False) -> NDArray[np.uint8]:
    """The slide area-averaged to (h, w, 3) with the longer side ``max_px``, never enlarged.

    Reads bands of the coarsest level that is at least as large, so that memory stays small on a
    slide with a single level too. With ``skip_bad``, what cannot be read shows as background;
    else it raises ``SlideError``.
    """
    width, height = slide.level_sizes[0]
    shrink = max(1.0, max(width, height) / max_px)
    out_width, out_height = max(1, round(width / shrink)), max(1, round(height / shrink))
    level = _coarsest_level(slide, out_width, out_height)
    level_width, level_height = slide.level_sizes[level]
    edges_x = np.linspace(0, level_width, out_width + 1)
    edges_y = np.linspace(0, level_height, out_height + 1)
    picture = np.empty((out_height, out_width, 3), np.uint8)
    band = max(1, int(BAND_PX / (level_width * level_height / out_height)))
    for row in range(0, out_height, band):
        edges = edges_y[row : row + band + 1]
        top, bottom = int(edges[0]), min(int(np.ceil(edges[-1])), level_height)
        pixels = _read_band(slide, level, top, bottom, skip_bad)
        means = average_between(average_between(pixels, edges - top, 0), edges_x, 1)
        picture[row : row + band] = np.floor(means + 0.5).astype(np.uint8)
    return picture


def _read_band(
    slide: Slide, level: int, top: int, bottom: int, skip_bad: bool
) -> NDArray[np.uint8]:
    """Rows [top, bottom) of a level, whole or, where that fails, patch by patch."""
    width = slide.level_sizes[level][0]
    try:
        return slide.read(level, 0, top, width, bottom - top)
    except SlideError:
        if not skip_bad:
            raise
    band = np.full((bottom - top, width, 3), slide.background_rgb, np.uint8)
    for y in range(top, bottom, PATCH_PX):
        for x in range(0, width, PATCH_PX):
            w, h = min(PATCH_PX, width - x), min(PATCH_PX, bottom - y)
            with suppress(SlideError):
                band[y - top : y - top + h, x : x + w] = slide.read(level, x, y, w, h)
    return band


def average_between(
    values: NDArray[np.generic], edges: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    """Mean over [edges[i], edges[i+1]) along one axis, where parts of a pixel count in part.

    Edges are at least a pixel apart, and the last one cuts the last pixel or ends it.
    """
    size, count = values.shape[axis], len(edges) - 1
    whole = np.minimum(edges.astype(np.int64), size - 1)
    dtype = np.uint32 if values.dtype == np.uint8 else np.float64
    sums = np.add.reduceat(values, edges[:-1].astype(np.int64), axis, dtype).astype(np.float64)
    shape = [1] * values.ndim
    shape[axis] = -1
    before = (edges - whole).reshape(shape) * np.take(values, whole, axis)  # of pixels that are cut
    after = np.take(values, [size - 1], axis) - np.take(before, [count], axis)
    sums -= np.take(before, np.arange(count), axis)
    sums[_along(axis, slice(0, count - 1), values.ndim)] += np.take(
        before, np.arange(1, count), axis
    )
    sums[_along(axis, slice(count - 1, count), values.ndim)] -= after
    means: NDArray[np.float64] = sums / np.diff(edges).reshape(shape)
    return means


def _along(axis: int, part: slice, ndim: int) -> tuple[slice, ...]:
    return tuple(part if i == axis else slice(None) for i in range(ndim))


def _coarsest_level(slide: Slide, width: int, height: int) -> int:
    fitting = [i for i, (w, h) in enumerate(slide.level_sizes) if w >= width and h >= height]
    return max(fitting)
