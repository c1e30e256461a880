"""Open a slide with the reader that fits its file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from triplex_deploy.errors import SlideError
from triplex_deploy.slides.slide import Slide

if TYPE_CHECKING:
    from triplex_deploy.slides.openslide_reader import OpenSlideReader

GENERIC_TIFF = "generic-tiff"
"""OpenSlide's name of a tiled TIFF without a known vendor."""
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
            of several files, such as DICOM, any of them.

    Returns:
        The slide; use it as a context manager.

    Raises:
        SlideError: The file is missing, damaged, or not a slide.
    """
    slide = _open(Path(path))
    largest = max(max(size) for size in slide.level_sizes)
    if largest > MAX_SIDE_PX:
        slide.close()
        raise SlideError(
            f"{path}: its header gives a side of {largest} pixels, more than any slide has; "
            "the file is damaged: copy it again"
        )
    return slide


def _open(path: Path) -> Slide:
    kind = _container(path)
    # Imported here, so that commands that open no slide do not import the readers' libraries.
    from triplex_deploy.slides.openslide_reader import OpenSlideReader, openslide_vendor

    vendor = openslide_vendor(path)
    if vendor is not None and vendor != GENERIC_TIFF:
        return _fastest(OpenSlideReader.open(path))
    if vendor == GENERIC_TIFF:
        try:
            return _fastest(OpenSlideReader.open(path))
        except SlideError:
            # Tiled, but with a compression or sample layout that OpenSlide does not support.
            return _open_tiff(path)
    if kind == "tiff":
        return _open_tiff(path)
    if kind in ("jpeg", "png"):
        from triplex_deploy.slides.image_reader import ImageReader

        return ImageReader.open(path, kind)
    raise SlideError(
        f"{path}: not a slide; pass a format OpenSlide reads (SVS, NDPI, MRXS, DICOM, ...), "
        "a TIFF, a JPEG or a PNG"
    )


def _fastest(slide: OpenSlideReader) -> Slide:
    """Return the same slide read without OpenSlide, if that gives the same pixels."""
    from triplex_deploy.slides.direct_tiff import open_direct

    direct = open_direct(slide.path, slide)
    if direct is None:
        return slide
    slide.close()
    return direct


def _open_tiff(path: Path) -> Slide:
    from triplex_deploy.slides.tiff_reader import TiffReader

    return TiffReader.open(path)


def _container(path: Path) -> str | None:
    """Return the container by its first bytes, or None; raises ``SlideError`` if unreadable."""
    if path.is_dir():
        raise SlideError(
            f"{path}: is a folder; pass a slide file (for DICOM, any one of its files)"
        )
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError as error:
        raise SlideError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise SlideError(f"{path}: {error.strerror}; check its permissions") from error
    if not head:
        raise SlideError(f"{path}: the file is empty; copy it again")
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
