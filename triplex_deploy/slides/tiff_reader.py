"""Read TIFFs that OpenSlide refuses: untiled, OME, or with other compressions."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.slides import tiff_pages
from triplex_deploy.slides.guard import ReadGuard
from triplex_deploy.slides.memory import require_memory
from triplex_deploy.slides.segment_cache import SegmentCache
from triplex_deploy.slides.slide import Size, Slide, copy_overlap
from triplex_deploy.slides.tiff_pages import Page, pyramid_pages, reading_header
from triplex_deploy.slides.tiff_scale import ome_mpp_xy, tag_mpp_xy

CACHE_BYTES = 256 << 20
"""Memory for decoded strips and tiles."""
COPIES = 2
"""Most copies of a strip or tile in memory while it is decoded."""
BACKGROUND = 255
"""Value of missing tiles."""


class TiffReader(Slide):
    """The largest RGB or gray image of a TIFF with its pyramid; missing tiles and alpha are white.

    tifffile reads the structure. Strips and tiles are read with one ``pread`` each and decoded by
    imagecodecs without the GIL; the last ones are cached.
    """

    @classmethod
    def open(cls, path: Path) -> TiffReader:
        """Open the file; raises ``SlideError``."""
        with ExitStack() as on_failure:
            with reading_header(path):
                tif = on_failure.enter_context(tifffile.TiffFile(path))
            pages, image = pyramid_pages(path, tif)
            largest = max(pages, key=lambda page: page.segment_bytes)
            part_wh = (largest.grid.width_px, largest.grid.height_px)
            require_memory(path, COPIES * largest.segment_bytes, part_wh)
            reader = cls(path, tif, pages, image)
            on_failure.pop_all()
            return reader

    def __init__(self, path: Path, tif: Any, pages: tuple[Page, ...], image: int) -> None:
        self.path = path
        self.format = "ome-tiff" if tif.is_ome else "tiff"
        self.level_sizes = tuple(page.size_wh for page in pages)
        width, height = self.level_sizes[0]
        self.level_downsamples = tuple((width / w + height / h) / 2 for w, h in self.level_sizes)
        with reading_header(path):
            ome_xml = tif.ome_metadata if tif.is_ome else None
        self.mpp_xy = ome_mpp_xy(ome_xml, image, (width, height)) or tag_mpp_xy(pages[0].tiff)
        self.mpp = None if self.mpp_xy is None else sum(self.mpp_xy) / 2
        self.background_rgb = (BACKGROUND,) * 3
        self._tif = tif
        self._pages = pages
        self._fileno = tif.filehandle.fileno()
        self._cache = SegmentCache(CACHE_BYTES)
        self._guard = ReadGuard(path)

    def _read_inside(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        page = self._pages[level]
        window = np.empty((height, width, page.samples), np.uint8)
        grid = page.grid
        with self._guard.reading():
            for plane in range(page.planes):
                samples = window if page.planes == 1 else window[..., plane : plane + 1]
                for column, row in grid.under(x, y, width, height):
                    segment = self._segment(level, page.index(plane, row, column))
                    corner_xy = (column * grid.width_px, row * grid.height_px)
                    copy_overlap(segment, corner_xy, samples, (x, y))
        return page.to_rgb(window)

    def _segment(self, level: int, index: int) -> NDArray[np.uint8]:
        page = self._pages[level]
        return self._cache.get(
            (level, index), page.segment_bytes, lambda: self._decode(page, index)
        )

    def _decode(self, page: Page, index: int) -> NDArray[np.uint8]:
        """Return one strip or tile, (h, w, samples); missing ones are background."""
        what = f"{self.path}: decoding part {index} of a level failed"
        remedy = "the file is damaged, or export it with JPEG, LZW or deflate compression"
        with damage_as(SlideError, what, remedy):
            offset, count = page.offsets[index], page.byte_counts[index]
            data = os.pread(self._fileno, count, offset) if count else None
            if data is not None and len(data) != count:
                raise SlideError(f"{self.path}: the file is cut short; copy it again")
            tiff = page.tiff
            pixels, _, shape = tiff.decode(data, index, jpegtables=tiff.jpegtables)
            if pixels is None:
                return np.full(shape[1:], BACKGROUND, np.uint8)
            segment: NDArray[np.uint8] = np.asarray(pixels)[0]
            if not _fits(segment, page, index):
                raise ValueError(f"it has the shape {segment.shape}")
            return segment

    def _release(self) -> None:
        self._guard.shut()
        self._cache.clear()
        self._tif.close()


def plain_level_sizes(path: Path) -> tuple[Size, ...] | None:
    """Return the sizes of the levels of a tiled TIFF without OME metadata, planes or other images.

    Args:
        path: The file.

    Returns:
        The sizes, finest first; None if the TIFF is not of this simple kind.

    Raises:
        SlideError: The file is damaged, or holds no single upright picture of 8 bits.
    """
    with ExitStack() as opened:
        with reading_header(path):
            tif = opened.enter_context(tifffile.TiffFile(path))
        return tiff_pages.plain_level_sizes(path, tif)


def _fits(segment: NDArray[np.uint8], page: Page, index: int) -> bool:
    """Return True if a decoded segment covers its part of the level with the right samples."""
    row, column = divmod(index % (page.grid.rows * page.grid.columns), page.grid.columns)
    width = min(page.grid.width_px, page.size_wh[0] - column * page.grid.width_px)
    height = min(page.grid.height_px, page.size_wh[1] - row * page.grid.height_px)
    return (
        segment.ndim == 3
        and segment.shape[0] >= height
        and segment.shape[1] >= width
        and segment.shape[2] == page.samples // page.planes
    )
