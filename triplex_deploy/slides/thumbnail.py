"""Make a small picture of a whole slide."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError
from triplex_deploy.slides.slide import Slide

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BAND_PX = 1 << 20
"""Pixels read at once; at least the rows under one row of the thumbnail are read."""
PATCH_PX = 256
"""Side of the patch that is left blank around an unreadable place."""


def thumbnail(
    slide: Slide,
    max_px: int,
    skip_bad: bool = False,
    before_band: Callable[[], None] = lambda: None,
) -> NDArray[np.uint8]:
    """Return an area-averaged picture of the whole slide.

    The coarsest level that is large enough is read in bands, so memory stays small also for a slide
    with a single level.

    Args:
        slide: The slide.
        max_px: Longest side of the picture in pixels. A smaller slide is not enlarged.
        skip_bad: Show the background in unreadable places instead of raising ``SlideError``.
        before_band: Called before each band is read; it may raise an error to end the work.

    Returns:
        RGB pixels (h, w, 3), uint8.

    Raises:
        SlideError: The slide cannot be read.
    """
    width, height = slide.level_sizes[0]
    shrink = max(1.0, max(width, height) / max_px)
    out_width, out_height = max(1, round(width / shrink)), max(1, round(height / shrink))
    level = _coarsest_level(slide, out_width, out_height)
    level_width, level_height = slide.level_sizes[level]
    edges_x = np.linspace(0, level_width, out_width + 1)
    edges_y = np.linspace(0, level_height, out_height + 1)
    picture = np.empty((out_height, out_width, 3), np.uint8)
    across = overlaps(edges_x, level_width)
    area = (level_width / out_width) * (level_height / out_height)
    band = max(1, int(BAND_PX / (level_width * level_height / out_height)))
    for row in range(0, out_height, band):
        before_band()
        edges = edges_y[row : row + band + 1]
        top, bottom = int(edges[0]), min(int(np.ceil(edges[-1])), level_height)
        pixels = _read_band(slide, level, top, bottom, skip_bad)
        lines = _summed(overlaps(edges - top, bottom - top), pixels.reshape(bottom - top, -1))
        columns = lines.reshape(-1, level_width, 3).transpose(1, 0, 2).reshape(level_width, -1)
        sums = (across @ columns).reshape(out_width, -1, 3).transpose(1, 0, 2)
        picture[row : row + band] = np.floor(sums / area + 0.5).astype(np.uint8)
    return picture


def _read_band(
    slide: Slide, level: int, top: int, bottom: int, skip_bad: bool
) -> NDArray[np.uint8]:
    """Return rows [top, bottom) of a level, read at once or, if that fails, patch by patch."""
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


def _summed(weights: csr_array, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return ``weights @ pixels``, in parts, since SciPy converts its operand to float."""
    sums = np.empty((weights.shape[0], pixels.shape[1]), np.float32)
    step = max(1, BAND_PX // len(pixels))
    for begin in range(0, pixels.shape[1], step):
        part = slice(begin, begin + step)
        sums[:, part] = weights @ pixels[:, part].astype(np.float32)
    return sums


def overlaps(edges: NDArray[np.float64], size: int) -> csr_array:
    """Return the share (n, size) of each pixel between ``edges[i]`` and ``edges[i+1]``.

    Its product with values is their sum between the edges; a part of a pixel counts in part.
    """
    from scipy.sparse import csr_array

    low, high = edges[:-1, None], edges[1:, None]
    first = low.astype(np.int64)
    pixel = first + np.arange(int((np.ceil(high) - first).max()))
    shared = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    row = np.broadcast_to(np.arange(len(low))[:, None], pixel.shape)
    some = (shared > 0) & (pixel < size)
    entries = shared[some].astype(np.float32), (row[some], pixel[some])
    return csr_array(entries, shape=(len(low), size))


def _coarsest_level(slide: Slide, width: int, height: int) -> int:
    fitting = [i for i, (w, h) in enumerate(slide.level_sizes) if w >= width and h >= height]
    return max(fitting)
