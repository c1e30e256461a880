"""Decode tiled TIFF and SVS files tile by tile, if the pixels equal those of OpenSlide."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError
from triplex_deploy.slides.codecs import Decoder, tile_decoder
from triplex_deploy.slides.guard import ReadGuard
from triplex_deploy.slides.openslide_reader import OpenSlideReader
from triplex_deploy.slides.segment_cache import SegmentCache
from triplex_deploy.slides.slide import SegmentGrid, Size, Slide, copy_overlap, reading_tile
from triplex_deploy.slides.tiff_pages import RGB, YCBCR, Page, reading_header

logger = logging.getLogger(__name__)

VENDORS = ("aperio", "generic-tiff")
"""OpenSlide's vendors with plain pages as levels; other vendors overlap, shift or fill tiles."""
TILE_PX_RANGE = (64, 4096)
"""Smallest and largest side of a compressed tile that is decoded directly."""
CACHE_BYTES = 64 << 20
"""Memory for decoded tiles."""


@dataclass(frozen=True)
class TiffLevel:
    """The compressed tiles of a level."""

    grid: SegmentGrid
    """Their grid."""
    offsets: tuple[int, ...]
    """First byte of each tile in the file."""
    byte_counts: tuple[int, ...]
    """Length of each tile; 0 if the file leaves it out."""
    decode: Decoder
    """Decodes a tile."""

    @classmethod
    def of(cls, page: Page) -> TiffLevel:
        """Return the level of a page."""
        return cls(page.grid, page.offsets, page.byte_counts, tile_decoder(page))


class DirectTiffReader(Slide):
    """Reads a TIFF or SVS with one ``pread`` and one decoding per compressed tile.

    The pixels are those of OpenSlide. Open it with ``open_direct``. Tiles that the file leaves out
    show the background.
    """

    def __init__(self, base: OpenSlideReader, tif: Any, levels: tuple[TiffLevel, ...]) -> None:
        self.path = base.path
        self.format = base.format
        self.level_sizes = base.level_sizes
        self.level_downsamples = base.level_downsamples
        self.mpp, self.mpp_xy = base.mpp, base.mpp_xy
        self.background_rgb = base.background_rgb
        self._tif = tif
        self._fileno = tif.filehandle.fileno()
        self._levels = levels
        self._cache = SegmentCache(CACHE_BYTES)
        self._guard = ReadGuard(base.path)

    def segment_grid(self, level: int) -> SegmentGrid:
        return self._levels[level].grid

    def read_segment(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None:
        source = self._levels[level]
        index = row * source.grid.columns + column
        count = source.byte_counts[index]
        if count == 0:
            self._blank(out)
            return
        with reading_tile(self.path, level, column, row):
            with self._guard.reading():
                data = os.pread(self._fileno, count, source.offsets[index])
            if len(data) != count:
                raise ValueError(f"the file ends {count - len(data)} bytes too early")
            source.decode(data, index, out)

    def _blank(self, out: NDArray[np.uint8]) -> None:
        if len(set(self.background_rgb)) == 1:
            out.fill(self.background_rgb[0])  # many times faster than setting three channels
        else:
            out[:] = self.background_rgb

    def _read_inside(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        grid = self._levels[level].grid
        window = np.empty((height, width, 3), np.uint8)
        for column, row in grid.under(x, y, width, height):
            corner_xy = (column * grid.width_px, row * grid.height_px)
            copy_overlap(self._segment(level, column, row), corner_xy, window, (x, y))
        return window

    def _segment(self, level: int, column: int, row: int) -> NDArray[np.uint8]:
        grid = self._levels[level].grid

        def decode() -> NDArray[np.uint8]:
            out = np.empty((grid.height_px, grid.width_px, 3), np.uint8)
            self.read_segment(level, column, row, out)
            return out

        return self._cache.get((level, column, row), grid.segment_bytes, decode)

    def _release(self) -> None:
        self._guard.shut()
        self._cache.clear()
        self._tif.close()


def open_direct(path: Path, base: OpenSlideReader) -> DirectTiffReader | None:
    """Open the file of ``base`` without OpenSlide, if its pixels equal those of OpenSlide.

    A few tiles of every level are decoded both ways and compared. The reader does not use ``base``
    afterwards. Returns None if a tile differs, or if the file is of an unsupported kind.
    """
    if base.format not in VENDORS:
        return None
    with ExitStack() as on_failure:
        try:
            with reading_header(path):
                tif = on_failure.enter_context(tifffile.TiffFile(path))
            levels = _levels(path, tif, base.level_sizes)
            if levels is None or (base.format == "aperio" and _has_missing(levels)):
                logger.info("%s: its tiles are read through OpenSlide", path)
                return None
            reader = DirectTiffReader(base, tif, levels)
            if not all(_is_proven(reader, base, level) for level in range(len(levels))):
                logger.warning(
                    "%s: direct decoding differs from OpenSlide, so OpenSlide reads it, which is "
                    "slower",
                    path,
                )
                return None
        except SlideError as error:
            logger.warning("%s: direct decoding failed, OpenSlide is used: %s", path, error)
            return None
        on_failure.pop_all()
        return reader


def _levels(path: Path, tif: Any, level_sizes: tuple[Size, ...]) -> tuple[TiffLevel, ...] | None:
    """Return the pages that are OpenSlide's levels; None if a page is not plain or not unique."""
    with reading_header(path):
        tiled = [page for page in (page.aspage() for page in tif.pages) if page.is_tiled]
        of_levels = [p for p in tiled if (p.imagewidth, p.imagelength) in level_sizes]
        pages = [Page.of(page) for page in of_levels]
    found = []
    for size in level_sizes:
        matching = [page for page in pages if page.size_wh == size]
        if len(matching) != 1 or not _is_plain(matching[0]):
            return None
        found.append(TiffLevel.of(matching[0]))
        n_tiles = found[-1].grid.columns * found[-1].grid.rows
        if not len(found[-1].offsets) == len(found[-1].byte_counts) == n_tiles:
            return None
    return tuple(found)


def _has_missing(levels: tuple[TiffLevel, ...]) -> bool:
    """Return True if tiles are left out; OpenSlide replaces those of Aperio on every level."""
    return any(0 in level.byte_counts for level in levels)


def _is_plain(page: Page) -> bool:
    """Return True if a page is 8-bit RGB in tiles of a usual size."""
    low, high = TILE_PX_RANGE
    return (
        page.dtype == np.uint8
        and page.samples == 3
        and page.planes == 1
        and page.photometric in (RGB, YCBCR)
        and page.depth == 1
        and low <= page.grid.width_px <= high
        and low <= page.grid.height_px <= high
    )


def _is_proven(reader: DirectTiffReader, base: OpenSlideReader, level: int) -> bool:
    """Return True if at least one sampled tile matches OpenSlide and none differs.

    Tiles that OpenSlide cannot read are ignored.
    """
    grid = reader.segment_grid(level)
    exact = base.level_downsamples[level].is_integer()
    tiles = _tiles_to_compare(reader._levels[level]) if exact else [(0, 0)]
    tiles = tiles if level == 0 else tiles[:2]
    # OpenSlide addresses levels in level-0 pixels. If the downsample is not an integer, only a
    # region that begins at the origin is not interpolated.
    span = 1 if exact else 2
    equal = 0
    for column, row in tiles:
        window = (column * grid.width_px, row * grid.height_px)
        size = (min(span, grid.columns) * grid.width_px, min(span, grid.rows) * grid.height_px)
        try:
            expected = _openslide_pixels(base, level, *window, *size)
        except SlideError:
            continue
        if not np.array_equal(reader.read(level, *window, *size), expected):
            return False
        equal += 1
    return equal > 0


def _tiles_to_compare(level: TiffLevel) -> list[tuple[int, int]]:
    """Return (column, row) of tiles to compare: the largest, the last, a median, a missing one."""
    counts = np.array(level.byte_counts)
    order = np.argsort(counts, kind="stable")
    held = order[np.count_nonzero(counts == 0) :]
    chosen = [*held[-1:], len(counts) - 1, *held[len(held) // 2 :][:1], order[0]]
    unique = list(dict.fromkeys(int(index) for index in chosen))
    return [(index % level.grid.columns, index // level.grid.columns) for index in unique]


def _openslide_pixels(
    base: OpenSlideReader, level: int, x: int, y: int, width: int, height: int
) -> NDArray[np.uint8]:
    """Return a window read in one call of OpenSlide; pixels outside the level are 0."""
    level_width, level_height = base.level_sizes[level]
    window = np.zeros((height, width, 3), np.uint8)
    inside = window[: max(0, level_height - y), : max(0, level_width - x)]
    base.read_region(level, x, y, inside)
    return window
