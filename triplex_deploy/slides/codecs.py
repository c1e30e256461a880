"""Decode the compressed tiles of a TIFF to RGB without the GIL."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from triplex_deploy.slides import _pixels

JPEG = (7, 33007, 34892)
APERIO_YCBCR, APERIO_RGB = 33003, 33005
"""JPEG 2000 codestreams as Aperio stores them; the first kind is YCbCr but does not declare it."""
YCBCR = 6

DECODE_ERRORS = (
    RuntimeError,  # includes the errors of imagecodecs
    ValueError,
    LookupError,
    OSError,
    struct.error,
    tifffile.TiffFileError,
)

Decoder = Callable[[bytes, int, NDArray[np.uint8]], None]
"""Decodes (data, number of the tile in its page) into (h, w, 3); raises DECODE_ERRORS."""


def tile_decoder(page: Any) -> Decoder:
    """Return the decoder for the tiles of a tifffile page with three samples."""
    compression = int(page.compression)
    if compression in JPEG:
        return _jpeg(page)
    if compression in (APERIO_YCBCR, APERIO_RGB):
        return _jpeg2000(is_ycbcr=compression == APERIO_YCBCR)
    return _other(page)


def _jpeg(page: Any) -> Decoder:
    tables = page.jpegtables
    colorspace = "YCBCR" if int(page.photometric) == YCBCR else "RGB"

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


def _other(page: Any) -> Decoder:
    tables = page.jpegtables

    def decode(data: bytes, index: int, out: NDArray[np.uint8]) -> None:
        pixels = page.decode(data, index, jpegtables=tables)[0][0]
        out[: pixels.shape[0], : pixels.shape[1]] = pixels

    return decode
