"""Read slides of every format that OpenSlide supports."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.slides.dicom_color import holds_mislabeled_ycbcr
from triplex_deploy.slides.openslide_pixels import BLOCK_PX, PixelSource, Pyramid
from triplex_deploy.slides.slide import (
    DAMAGED,
    DEFAULT_SEGMENT_PX,
    RGB,
    SegmentGrid,
    Size,
    Slide,
    reading_tile,
)

logger = logging.getLogger(__name__)

WHITE: RGB = (255, 255, 255)
MIN_SEGMENT_PX = 120
"""Smallest segment; smaller compressed tiles are read several at a time."""
MAX_SEGMENT_PX = 4096
"""Largest compressed tile that is read whole."""
CACHE_BYTES_RANGE = (32 << 20, 256 << 20)
"""Smallest and largest size of OpenSlide's cache."""
READ_ERRORS = (openslide.OpenSlideError, MemoryError)
"""Errors of a damaged file while OpenSlide reads pixels; other errors are bugs of this package."""


def openslide_vendor(path: Path) -> str | None:
    """Return the vendor that OpenSlide finds in the file, or None."""
    with _opening(path):
        vendor: str | None = openslide.OpenSlide.detect_format(path)
        return vendor


class OpenSlideReader(Slide):
    """A slide read through OpenSlide; transparent places show the slide's background color."""

    @classmethod
    def open(cls, path: Path) -> OpenSlideReader:
        """Open the file; raises ``SlideError``."""
        with _opening(path), openslide.OpenSlide(path) as handle:
            properties = dict(handle.properties)
            level_sizes, downsamples = handle.level_dimensions, handle.level_downsamples
        return cls(path, properties, level_sizes, downsamples)

    def __init__(
        self,
        path: Path,
        properties: Mapping[str, str],
        level_sizes: tuple[Size, ...],
        level_downsamples: tuple[float, ...],
    ) -> None:
        self.path = path
        self.format = properties[openslide.PROPERTY_NAME_VENDOR]
        self.level_sizes = level_sizes
        self.level_downsamples = level_downsamples
        self.mpp_xy = _mpp_xy(
            properties.get(openslide.PROPERTY_NAME_MPP_X),
            properties.get(openslide.PROPERTY_NAME_MPP_Y),
        )
        self.mpp = None if self.mpp_xy is None else sum(self.mpp_xy) / 2
        self.scanned_xy = _scanned_xy(properties)
        self.background_rgb = _color(properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR))
        with _opening(path, (OSError, ValueError)):
            is_ycbcr = self.format == "dicom" and holds_mislabeled_ycbcr(path, properties)
        if is_ycbcr:
            logger.warning("%s: the header says RGB, its JPEG frames are YCbCr; converted", path)
        self._compressed_wh = [_compressed_wh(properties, n) for n in range(len(level_sizes))]
        pyramid = Pyramid(path, level_sizes, level_downsamples, self.background_rgb, is_ycbcr)
        with _opening(path, (openslide.OpenSlideError, OSError)):
            self._source = PixelSource(pyramid, self._band_bytes())

    def segment_grid(self, level: int) -> SegmentGrid:
        """Return segments of whole compressed tiles, so that no tile is decoded twice."""
        if not self.level_downsamples[level].is_integer():
            return SegmentGrid.over(self.level_sizes[level], BLOCK_PX, BLOCK_PX)
        width, height = (_segment_px(side) for side in self._compressed_wh[level])
        return SegmentGrid.over(self.level_sizes[level], width, height)

    def read_segment(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None:
        level_width, level_height = self.level_sizes[level]
        x, y = column * out.shape[1], row * out.shape[0]
        inside = out[: level_height - y, : level_width - x]
        with reading_tile(self.path, level, column, row, READ_ERRORS):
            self._source.read(level, x, y, inside)

    def _read_inside(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        window = np.empty((height, width, 3), np.uint8)
        what = f"{self.path}: reading {width}x{height} pixels at ({x}, {y}) of level {level} failed"
        with damage_as(SlideError, what, f"{DAMAGED}, or pass --on-bad-tile skip", READ_ERRORS):
            self._source.read(level, x, y, window)
        return window

    def read_region(self, level: int, x: int, y: int, out: NDArray[np.uint8]) -> None:
        """Fill ``out`` (h, w, 3) with one region of OpenSlide, which may be interpolated."""
        with damage_as(SlideError, f"{self.path}: cannot be read", DAMAGED, READ_ERRORS):
            self._source.region(level, x, y, out)

    def _band_bytes(self) -> int:
        """Return the bytes of OpenSlide's cache: the compressed tiles of two rows of segments."""
        row_px = max(DEFAULT_SEGMENT_PX, self._compressed_wh[0][1])
        low, high = CACHE_BYTES_RANGE
        return min(max(2 * 4 * self.level_sizes[0][0] * row_px, low), high)

    def _release(self) -> None:
        self._source.close()


def _opening(
    path: Path, only: tuple[type[Exception], ...] = (Exception,)
) -> AbstractContextManager[None]:
    """Turn the errors ``only`` while OpenSlide opens the file into ``SlideError``."""
    what = f"{path}: cannot be opened as a slide"
    return damage_as(SlideError, what, "check that the copy is complete", only)


def _compressed_wh(properties: Mapping[str, str], level: int) -> Size:
    """Return the size of the file's compressed tiles; a default if OpenSlide does not know it."""
    prefix = f"openslide.level[{level}].tile-"
    width, height = (int(properties.get(prefix + side, 0)) for side in ("width", "height"))
    return (width, height) if width > 0 and height > 0 else (DEFAULT_SEGMENT_PX, DEFAULT_SEGMENT_PX)


def _segment_px(compressed_px: int) -> int:
    if compressed_px > MAX_SEGMENT_PX:
        return DEFAULT_SEGMENT_PX
    return compressed_px * -(-MIN_SEGMENT_PX // compressed_px)


def _mpp_xy(x: str | None, y: str | None) -> tuple[float, float] | None:
    try:
        return float(x or y or ""), float(y or x or "")
    except ValueError:
        return None


def _scanned_xy(properties: Mapping[str, str]) -> Size:
    """Return the corner of the scanned part; (0, 0) if the file does not give it."""
    names = (openslide.PROPERTY_NAME_BOUNDS_X, openslide.PROPERTY_NAME_BOUNDS_Y)
    try:
        x, y = (int(properties.get(name, 0)) for name in names)
    except ValueError:
        return 0, 0
    return x, y


def _color(hex_rgb: str | None) -> RGB:
    if hex_rgb is None:
        return WHITE
    red, green, blue = bytes.fromhex(hex_rgb.lstrip("#"))
    return red, green, blue
