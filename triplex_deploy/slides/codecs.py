"""Decode the compressed tiles of a TIFF to RGB without the GIL."""

from __future__ import annotations

from collections.abc import Callable

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from triplex_deploy.slides import _pixels
from triplex_deploy.slides.tiff_pages import JPEG_COMPRESSIONS, YCBCR, Page

APERIO_YCBCR, APERIO_RGB = 33003, 33005
"""Compressions of TIFF: JPEG 2000 as Aperio stores it. The first is YCbCr without declaring it."""
OLD_JPEG = 6
"""JPEG as in TIFF 6.0, with tables outside the tile; tifffile puts them together."""

Decoder = Callable[[bytes, int, NDArray[np.uint8]], None]
"""Decodes (data, number of the tile in its page) into (h, w, 3); may raise any error."""


def tile_decoder(page: Page) -> Decoder:
    """Return the decoder for the tiles of a page with three samples."""
    if page.compression in JPEG_COMPRESSIONS and page.compression != OLD_JPEG:
        return _jpeg(page)
    if page.compression in (APERIO_YCBCR, APERIO_RGB):
        return _jpeg2000(is_ycbcr=page.compression == APERIO_YCBCR)
    return _other(page)


def _jpeg(page: Page) -> Decoder:
    tables = page.tiff.jpegtables
    colorspace = "YCBCR" if page.photometric == YCBCR else "RGB"

    def decode(data: bytes, index: int, out: NDArray[np.uint8]) -> None:
        if not _pixels.jpeg_is_whole(data):
            raise ValueError("its JPEG data are broken or cut short")
        imagecodecs.jpeg8_decode(
            data, tables=tables, colorspace=colorspace, outcolorspace="RGB", out=out
        )

    return decode


def _jpeg2000(is_ycbcr: bool) -> Decoder:
    def decode(data: bytes, index: int, out: NDArray[np.uint8]) -> None:
        imagecodecs.jpeg2k_decode(data, out=out)
        if is_ycbcr:
            _pixels.ycbcr_to_rgb(out)

    return decode


def _other(page: Page) -> Decoder:
    tables = page.tiff.jpegtables

    def decode(data: bytes, index: int, out: NDArray[np.uint8]) -> None:
        pixels = page.tiff.decode(data, index, jpegtables=tables)[0][0]
        out[: pixels.shape[0], : pixels.shape[1]] = pixels

    return decode
