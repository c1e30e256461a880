"""Find the pages of a TIFF that form the slide, and check that they can be read as RGB."""

from __future__ import annotations

import logging
import struct
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.slides.mpp import is_plausible_mpp
from triplex_deploy.slides.slide import SegmentGrid, Size
from triplex_deploy.slides.tiff_scale import ome_mpp_xy, ome_planes
from triplex_deploy.slides.tiff_tags import require_upright

logger = logging.getLogger(__name__)

MAX_SEGMENT_BYTES = 3_000_000_000
"""Largest decoded strip or tile."""
MINISBLACK, RGB, YCBCR = 1, 2, 6
"""Values of PhotometricInterpretation: gray, RGB and YCbCr."""
JPEG_COMPRESSIONS = (6, 7, 33007, 34892)
"""Values of Compression for JPEG."""
ASSOCIATED, UNASSOCIATED = 1, 2
"""Values of ExtraSamples: colors multiplied with alpha or not."""
MAX_ASPECT_DIFFERENCE = 0.02
"""Largest relative difference of a level's aspect ratio from the first level's."""
BESIDE_THE_SLIDE = ("label", "macro", "overview", "thumbnail")
"""Words in the names of images that scanners store beside the slide."""
MAX_RIVAL_SHARE = 0.5
"""Another image with a larger share of the largest image's area may be the slide as well."""
MAX_PLANES_PER_PAGE = 16
"""Most planes that one page can hold side by side, as samples."""
MIN_PLANE_BYTES = 4096
"""Least bytes of a plane of an uncompressed stack without pages of its own."""


@dataclass(frozen=True)
class Page:
    """A page with the values of its header that reading needs; one level of the slide.

    Its pixels are cut into ``planes`` x rows x columns of segments: strips or tiles.
    """

    tiff: Any
    """The page of tifffile, for its decoder."""
    size_wh: Size
    """Width and height in pixels."""
    depth: int
    """Number of images on top of each other; 1 for a plain picture."""
    samples: int
    """Values per pixel, alpha included."""
    planes: int
    """``samples`` if each sample has segments of its own, else 1."""
    is_tiled: bool
    """True if the segments are tiles, False if they are strips."""
    grid: SegmentGrid
    """The segments of a plane."""
    dtype: Any
    """NumPy's type of a sample; None if tifffile knows none."""
    photometric: int
    """PhotometricInterpretation of the header."""
    compression: int
    """Compression of the header."""
    orientation: int
    """Orientation of the header; 1 is upright."""
    extra_sample: int | None
    """ExtraSamples of the header (its first value), None if absent."""
    offsets: tuple[int, ...]
    """First byte of each segment in the file."""
    byte_counts: tuple[int, ...]
    """Length of each segment in bytes; 0 if the file leaves it out."""

    @classmethod
    def of(cls, tiff: Any) -> Page:
        """Return the page of tifffile with checked values.

        Raises any kind of error if the header is damaged, since a value may then be of any type.
        """
        size_wh = (int(tiff.imagewidth), int(tiff.imagelength))
        samples = int(tiff.samplesperpixel)
        segment_wh = (size_wh[0], min(int(tiff.rowsperstrip), size_wh[1]))
        if tiff.is_tiled:
            segment_wh = (int(tiff.tilewidth), int(tiff.tilelength))
        if min(*size_wh, samples, *segment_wh) < 1:
            raise ValueError(f"{size_wh} pixels of {samples} samples in parts of {segment_wh}")
        return cls(
            tiff=tiff,
            size_wh=size_wh,
            depth=int(tiff.imagedepth),
            samples=samples,
            planes=samples if samples > 1 and int(tiff.planarconfig) == 2 else 1,
            is_tiled=bool(tiff.is_tiled),
            grid=SegmentGrid.over(size_wh, *segment_wh),
            dtype=tiff.dtype,
            photometric=int(tiff.photometric),
            compression=int(tiff.compression),
            orientation=int(tiff.tags.valueof("Orientation", 1)),
            extra_sample=int(tiff.extrasamples[0]) if tiff.extrasamples else None,
            offsets=tuple(int(offset) for offset in tiff.dataoffsets),
            byte_counts=tuple(int(count) for count in tiff.databytecounts),
        )

    @property
    def segment_bytes(self) -> int:
        """Return the bytes of a decoded segment."""
        return self.grid.width_px * self.grid.height_px * (self.samples // self.planes)

    def index(self, plane: int, row: int, column: int) -> int:
        """Return the number of a strip or tile in file order."""
        return (plane * self.grid.rows + row) * self.grid.columns + column

    def to_rgb(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert (h, w, samples) to (h, w, 3); transparent places are white."""
        if self.samples in (1, 2):
            pixels = np.concatenate([pixels[..., :1]] * 3 + [pixels[..., 1:]], axis=2)
        if pixels.shape[2] == 3:
            return pixels
        alpha = pixels[..., 3:].astype(np.uint32)
        associated = self.extra_sample == ASSOCIATED
        color = pixels[..., :3] * np.uint32(255) if associated else pixels[..., :3] * alpha
        over = np.minimum(color + 255 * (255 - alpha), 255 * 255)
        rgb: NDArray[np.uint8] = ((over + 127) // 255).astype(np.uint8)
        return rgb


def pyramid_pages(path: Path, tif: Any) -> tuple[tuple[Page, ...], int]:
    """Return the levels of the slide's image, finest first, and the image's number in the file.

    Args:
        path: The file, for messages.
        tif: The file as tifffile has opened it.

    Raises:
        SlideError: The file is damaged, holds no image or several that may be the slide, or the
            image is not 8-bit RGB or gray.
    """
    pages, number = _find_levels(path, tif)
    for page in pages:
        _require_readable(path, tif, page)
    if pages[0].samples < 3:
        logger.warning("%s: the image is gray; models expect H&E color", path)
    return pages, number


def plain_level_sizes(path: Path, tif: Any) -> tuple[Size, ...] | None:
    """Return the sizes of the levels of a tiled TIFF that needs no more than its page chain.

    That is a TIFF without OME metadata, its first page being the slide and its reduced pages the
    other levels, all of three samples in tiles.

    Args:
        path: The file, for messages.
        tif: The file as tifffile has opened it.

    Returns:
        The sizes, or None for any other TIFF.

    Raises:
        SlideError: The file is damaged, or its image is no single upright picture of 8 bits.
    """
    pages, _ = _find_levels(path, tif)
    for page in pages:
        _require_picture(path, page)
    with reading_header(path):
        chain = [page.aspage() for page in tif.pages]
        reduced = [page for page in chain[1:] if page.is_tiled and int(page.subfiletype) & 1]
        is_first = pages[0].tiff.offset == chain[0].offset
        levels = [pages[0], *(Page.of(page) for page in reduced)]
    sizes = tuple(page.size_wh for page in levels)
    is_plain = (
        not tif.is_ome
        and is_first
        and {page.size_wh for page in pages} <= set(sizes)
        and all(page.is_tiled and page.samples == 3 for page in levels)
        and all(page.photometric in (RGB, YCBCR) for page in levels)
        and all(_has_aspect_of(page, pages[0]) for page in levels)
    )
    return tuple(sorted(sizes, reverse=True)) if is_plain else None


def _find_levels(path: Path, tif: Any) -> tuple[tuple[Page, ...], int]:
    """Return the pages that are levels of the slide, and the number of its image."""
    with reading_header(path):
        _require_whole_chain(path, tif)
        _require_counted_planes(path, tif)
        every = list(tif.series)
        series = _slide_series(path, tif, every)
        number = every.index(series)
        axes, shape = str(series.axes), tuple(series.shape)
        levels = [Page.of(level.pages[0].aspage()) for level in series.levels]
    _require_one_picture(path, axes, shape)
    pages = (page for page in levels if page is levels[0] or _has_aspect_of(page, levels[0]))
    return tuple(pages), number


def _has_aspect_of(page: Page, first: Page) -> bool:
    """Return True if a page has the aspect ratio of the first level."""
    width, height = first.size_wh
    ratio = page.size_wh[0] * height / (page.size_wh[1] * width)
    return abs(ratio - 1) <= MAX_ASPECT_DIFFERENCE


def reading_header(path: Path) -> AbstractContextManager[None]:
    """Turn any error while tifffile reads a header into ``SlideError``."""
    return damage_as(SlideError, f"{path}: not a readable TIFF", "check that the copy is complete")


def _slide_series(path: Path, tif: Any, every: list[Any]) -> Any:
    """Return the image that is the slide: the largest that is neither label nor overview."""
    if not every:
        raise SlideError(f"{path}: the TIFF holds no image; export it again")
    xml = tif.ome_metadata if tif.is_ome else None
    scales = [ome_mpp_xy(xml, number, _size_wh(series)) for number, series in enumerate(every)]
    candidates = [series for series in every if not _is_beside(series)] or every
    measured = [
        series
        for series in candidates
        if (scale := scales[every.index(series)]) is None or is_plausible_mpp(scale[0])
    ]
    candidates = measured or candidates
    largest = max(candidates, key=_area)
    rivals = [
        series
        for series in candidates
        if series is not largest and _area(series) > MAX_RIVAL_SHARE * _area(largest)
    ]
    if rivals:
        sizes = " and ".join(_described(series) for series in (largest, *rivals)[:3])
        raise SlideError(
            f"{path}: holds {len(rivals) + 1} images that may be the slide, {sizes}; "
            "export the one to predict as a file of its own"
        )
    return largest


def _is_beside(series: Any) -> bool:
    """Return True if an image is named as what scanners store beside the slide."""
    name = str(series.name or "").lower()
    return any(word in name for word in BESIDE_THE_SLIDE)


def _described(series: Any) -> str:
    width, height = _size_wh(series)
    return f"{series.name or 'image'} of {width}x{height} pixels"


def _size_wh(series: Any) -> Size:
    sides = dict(zip(series.axes, series.shape, strict=True))
    return int(sides.get("X", 1)), int(sides.get("Y", 1))


def _area(series: Any) -> int:
    return prod(_size_wh(series))


def _require_counted_planes(path: Path, tif: Any) -> None:
    """Refuse metadata that name more planes than the file can hold, before tifffile lists them."""
    if tif.is_ome:
        declared = ome_planes(tif.ome_metadata)
    elif tif.is_imagej:
        declared = int((tif.imagej_metadata or {}).get("images", 1))
    else:
        return
    held = max(len(tif.pages) * MAX_PLANES_PER_PAGE, tif.filehandle.size // MIN_PLANE_BYTES)
    if declared > held:
        raise SlideError(
            f"{path}: its metadata name {declared} planes, more than the file can hold; "
            "export a single RGB image"
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


def _require_one_picture(path: Path, axes: str, shape: tuple[int, ...]) -> None:
    for axis, length in zip(axes, shape, strict=True):
        if axis in "YXS" or length == 1:
            continue
        if axis == "C":
            raise SlideError(
                f"{path}: has {length} separate channels (axes {axes}), as fluorescence "
                "does; export an RGB image"
            )
        raise SlideError(
            f"{path}: is a stack of {length} images (axes {axes}); export a single RGB image"
        )


def _require_picture(path: Path, page: Page) -> None:
    """Raise ``SlideError`` if a page is no single upright picture of 8-bit samples."""
    if page.dtype != np.uint8:
        raise SlideError(f"{path}: its samples are {page.dtype}, not uint8; export it as 8-bit RGB")
    if page.depth > 1:
        raise SlideError(f"{path}: is a stack of {page.depth} images; export a single RGB image")
    require_upright(path, page.orientation)


def _require_readable(path: Path, tif: Any, page: Page) -> None:
    if page.tiff.parent.filehandle.path != tif.filehandle.path:
        raise SlideError(f"{path}: is spread over several files; export it as one file")
    _require_picture(path, page)
    if not _is_rgb_or_gray(page):
        name = getattr(page.tiff.photometric, "name", page.photometric)
        raise SlideError(
            f"{path}: its colors are {name} with {page.samples} samples; export it as 8-bit RGB"
        )
    if page.segment_bytes > MAX_SEGMENT_BYTES:
        raise SlideError(
            f"{path}: would have to be decoded {page.segment_bytes / 1e9:.1f} GB at a time; "
            "convert it to a tiled TIFF, such as with vips tiffsave --tile --pyramid"
        )
    if not _is_whole(page, tif.filehandle.size):
        raise SlideError(f"{path}: the file is cut short or damaged; copy it again")


def _is_whole(page: Page, file_bytes: int) -> bool:
    """Return True if all segments of a page are listed and inside the file."""
    if not page.index(page.planes, 0, 0) <= len(page.offsets) == len(page.byte_counts):
        return False
    parts = zip(page.offsets, page.byte_counts, strict=True)
    return all(offset >= 0 and 0 <= count <= file_bytes - offset for offset, count in parts)


def _is_rgb_or_gray(page: Page) -> bool:
    if page.samples in (2, 4) and page.extra_sample not in (ASSOCIATED, UNASSOCIATED):
        return False
    if page.photometric == RGB:
        return page.samples in (3, 4)
    if page.photometric == YCBCR:
        return page.samples == 3 and page.compression in JPEG_COMPRESSIONS
    return page.photometric == MINISBLACK and page.samples in (1, 2)
