"""Find the pages of a TIFF that form the slide, and check that they can be read as RGB."""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError
from triplex_deploy.slides.slide import Size

logger = logging.getLogger(__name__)

MAX_SEGMENT_BYTES = 3_000_000_000
MINISBLACK, RGB, YCBCR = 1, 2, 6
JPEG_COMPRESSIONS = (6, 7, 33007, 34892)
ASSOCIATED, UNASSOCIATED = 1, 2
"""Values of ExtraSamples: colors multiplied with alpha or not."""
MAX_ASPECT_DIFFERENCE = 0.02


@dataclass(frozen=True)
class Page:
    """One level: a page cut into ``planes`` x rows x columns of strips or tiles."""

    tiff: Any
    size_wh: Size
    samples: int
    planes: int
    segment_width: int
    segment_height: int

    @classmethod
    def of(cls, tiff: Any) -> Page:
        samples = int(tiff.samplesperpixel)
        return cls(
            tiff,
            (int(tiff.imagewidth), int(tiff.imagelength)),
            samples,
            samples if samples > 1 and int(tiff.planarconfig) == 2 else 1,
            int(tiff.tilewidth if tiff.is_tiled else tiff.imagewidth),
            int(tiff.tilelength if tiff.is_tiled else min(tiff.rowsperstrip, tiff.imagelength)),
        )

    @property
    def segment_bytes(self) -> int:
        return self.segment_width * self.segment_height * (self.samples // self.planes)

    def index(self, plane: int, row: int, column: int) -> int:
        """Return the number of a strip or tile in file order."""
        width, height = self.size_wh
        rows, columns = -(-height // self.segment_height), -(-width // self.segment_width)
        return (plane * rows + row) * columns + column

    def to_rgb(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert (h, w, samples) to (h, w, 3); transparent places are white."""
        if self.samples in (1, 2):
            pixels = np.concatenate([pixels[..., :1]] * 3 + [pixels[..., 1:]], axis=2)
        if pixels.shape[2] == 3:
            return pixels
        alpha = pixels[..., 3:].astype(np.uint32)
        associated = int(self.tiff.extrasamples[0]) == ASSOCIATED
        color = pixels[..., :3] * np.uint32(255) if associated else pixels[..., :3] * alpha
        over = np.minimum(color + 255 * (255 - alpha), 255 * 255)
        rgb: NDArray[np.uint8] = ((over + 127) // 255).astype(np.uint8)
        return rgb


def pyramid_pages(path: Path, tif: Any) -> tuple[tuple[Page, ...], int]:
    """Return the levels of the largest image, finest first, and the image's number in the file.

    Raises ``SlideError`` if it is not an 8-bit RGB or gray image, or data is missing.
    """
    _require_whole_chain(path, tif)
    series = max(tif.series, key=_area, default=None)
    if series is None:
        raise SlideError(f"{path}: the TIFF holds no image; export it again")
    _require_one_picture(path, series)
    levels = [Page.of(level.pages[0].aspage()) for level in series.levels]
    width, height = levels[0].size_wh
    pages = tuple(
        page
        for page in levels
        if abs(page.size_wh[0] * height / (page.size_wh[1] * width) - 1) <= MAX_ASPECT_DIFFERENCE
        or page is levels[0]
    )
    for page in pages:
        _require_readable(path, tif, page)
    if pages[0].samples < 3:
        logger.warning("%s: the image is gray; models expect H&E color", path)
    return pages, tif.series.index(series)


def _area(series: Any) -> int:
    return prod(
        length for axis, length in zip(series.axes, series.shape, strict=True) if axis in "YX"
    )


def _require_whole_chain(path: Path, tif: Any) -> None:
    """Follow the directories to the last, since tifffile ignores a broken link."""
    file, form = tif.filehandle, tif.tiff
    file.seek(8 if form.is_bigtiff else 4)  # where the header keeps the first link
    seen: set[int] = set()
    while offset := _unpack(file, form.offsetformat, form.offsetsize):
        if offset in seen or offset >= file.size:
            raise SlideError(f"{path}: a directory is lost, the file is cut short; copy it again")
        seen.add(offset)
        file.seek(offset)
        tags = _unpack(file, form.tagnoformat, form.tagnosize)
        file.seek(offset + form.tagnosize + tags * form.tagsize)


def _unpack(file: Any, form: str, size: int) -> int:
    return int(struct.unpack(form, file.read(size))[0])


def _require_one_picture(path: Path, series: Any) -> None:
    for axis, length in zip(series.axes, series.shape, strict=True):
        if axis in "YXS" or length == 1:
            continue
        if axis == "C":
            raise SlideError(
                f"{path}: has {length} separate channels (axes {series.axes}), as fluorescence "
                "does; export an RGB image"
            )
        raise SlideError(
            f"{path}: is a stack of {length} images (axes {series.axes}); export a single RGB image"
        )


def _require_readable(path: Path, tif: Any, page: Page) -> None:
    tiff = page.tiff
    if tiff.parent.filehandle.path != tif.filehandle.path:
        raise SlideError(f"{path}: is spread over several files; export it as one file")
    if tiff.dtype != np.uint8:
        raise SlideError(f"{path}: its samples are {tiff.dtype}, not uint8; export it as 8-bit RGB")
    if not _is_rgb_or_gray(page):
        raise SlideError(
            f"{path}: its colors are {getattr(tiff.photometric, 'name', tiff.photometric)} with "
            f"{page.samples} samples; export it as 8-bit RGB"
        )
    if page.segment_bytes > MAX_SEGMENT_BYTES:
        raise SlideError(
            f"{path}: would have to be decoded {page.segment_bytes / 1e9:.1f} GB at a time; "
            "convert it to a tiled TIFF, such as with vips tiffsave --tile --pyramid"
        )
    ends = [o + c for o, c in zip(tiff.dataoffsets, tiff.databytecounts, strict=True)]
    if len(ends) < page.index(page.planes, 0, 0) or max(ends) > tif.filehandle.size:
        raise SlideError(f"{path}: the file is cut short or damaged; copy it again")


def _is_rgb_or_gray(page: Page) -> bool:
    photometric = int(page.tiff.photometric)
    if page.samples in (2, 4) and not _has_alpha(page.tiff):
        return False
    if photometric == RGB:
        return page.samples in (3, 4)
    if photometric == YCBCR:
        return page.samples == 3 and int(page.tiff.compression) in JPEG_COMPRESSIONS
    return photometric == MINISBLACK and page.samples in (1, 2)


def _has_alpha(tiff: Any) -> bool:
    return bool(tiff.extrasamples) and int(tiff.extrasamples[0]) in (ASSOCIATED, UNASSOCIATED)
