"""Open a slide with the reader that fits its file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from triplex_deploy.errors import SlideError
from triplex_deploy.files.regular import require_regular_file
from triplex_deploy.slides.identity import FileIdentity, identity_of
from triplex_deploy.slides.slide import Slide
from triplex_deploy.slides.slide_files import MIRAX, is_zarr
from triplex_deploy.slides.tiff_tags import (
    read_directories,
    require_plain_levels,
    require_safe_sizes,
)

if TYPE_CHECKING:
    from triplex_deploy.slides.openslide_reader import OpenSlideReader

GENERIC_TIFF = "generic-tiff"
"""OpenSlide's name of a tiled TIFF without a known vendor."""
ZARR = "zarr"
"""The container of OME-Zarr, a folder."""
MAX_SIDE_PX = 1 << 24
"""Most pixels of a side: 0.8 m at the smallest plausible scale. Larger sizes are damage."""
_MAGIC = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
}


def open_slide(path: str | Path) -> Slide:
    """Open a slide with the reader that fits its file.

    Args:
        path: A file that OpenSlide reads, another TIFF (untiled, OME), a JPEG or a PNG. Of a slide
            of several files, such as DICOM, any of them. Of OME-Zarr, its folder.

    Returns:
        The slide; use it as a context manager.

    Raises:
        SlideError: The file is missing, damaged, not a slide, or changed while it was opened.
    """
    path = Path(path)
    kind = ZARR if is_zarr(path) else _container(path)
    identity = identity_of(path)
    slide = _open(path, kind, identity[0])
    slide.identity = identity
    largest = max(max(size) for size in slide.level_sizes)
    try:
        slide.require_unchanged()
        if largest > MAX_SIDE_PX:
            raise SlideError(
                f"{path}: its header gives a side of {largest} pixels, more than any slide has; "
                "the file is damaged: copy it again"
            )
    except SlideError:
        slide.close()
        raise
    return slide


def _open(path: Path, kind: str | None, identity: FileIdentity) -> Slide:
    # Imported here, so that commands that open no slide do not import the readers' libraries.
    if kind == ZARR:
        from triplex_deploy.slides.zarr_reader import ZarrReader

        return ZarrReader.open(path)
    if kind == "png" or (kind == "jpeg" and path.suffix.lower() != MIRAX):
        from triplex_deploy.slides.image_reader import ImageReader

        return ImageReader.open(path, kind)
    from triplex_deploy.slides.first_look import look_first
    from triplex_deploy.slides.openslide_reader import OpenSlideReader, openslide_vendor

    directories = read_directories(path) if kind == "tiff" else []
    require_safe_sizes(path, directories, identity.size)
    look_first(path, identity)
    vendor = openslide_vendor(path)
    if vendor == GENERIC_TIFF:
        return _open_generic(path)
    if vendor is not None:
        slide = OpenSlideReader.open(path)
        try:
            require_plain_levels(path, directories, slide.level_sizes)
        except SlideError:
            slide.close()
            raise
        return _fastest(slide)
    if kind == "tiff":
        return _open_tiff(path)
    raise SlideError(
        f"{path}: not a slide; pass a format OpenSlide reads (SVS, NDPI, MRXS, DICOM, ...), "
        "a TIFF, a JPEG or a PNG"
    )


def _open_generic(path: Path) -> Slide:
    """Open a tiled TIFF without a known vendor.

    OpenSlide takes the first page for the slide and ignores OME metadata, planes and orientation.
    So it reads the file only if our own look at the structure finds the same levels.
    """
    from triplex_deploy.slides.openslide_reader import OpenSlideReader
    from triplex_deploy.slides.tiff_reader import plain_level_sizes

    level_sizes = plain_level_sizes(path)
    if level_sizes is None:
        return _open_tiff(path)
    try:
        slide = OpenSlideReader.open(path)
    except SlideError:
        # Tiled, but with a compression or sample layout that OpenSlide does not support.
        return _open_tiff(path)
    if slide.level_sizes != level_sizes:
        slide.close()
        return _open_tiff(path)
    return _fastest(slide)


def _fastest(slide: OpenSlideReader) -> Slide:
    """Return the same slide read without OpenSlide, if that gives the same pixels."""
    from triplex_deploy.slides.direct_tiff import open_direct

    direct = open_direct(slide.path, slide)
    if direct is None:
        return slide
    direct.scanned_xy = slide.scanned_xy
    slide.close()
    return direct


def _open_tiff(path: Path) -> Slide:
    from triplex_deploy.slides.tiff_reader import TiffReader

    return TiffReader.open(path)


def _container(path: Path) -> str | None:
    """Return the container by its first bytes, or None; raises ``SlideError`` if unreadable."""
    require_regular_file(
        path, SlideError, remedy="pass a slide file (for DICOM, any one of its files)"
    )
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise SlideError(f"{path}: {error.strerror}; check its permissions") from error
    if not head:
        raise SlideError(f"{path}: the file is empty; copy it again")
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
