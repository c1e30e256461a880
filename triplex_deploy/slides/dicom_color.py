"""Find DICOM slides with RGB in the header and YCbCr in the JPEG frames.

Some converters write such files. OpenSlide follows the header and returns luma and chroma as if
they were red, green and blue.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_PIXEL_DATA = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff"
"""The tag of encapsulated frames, in explicit little-endian, as in all JPEG syntaxes."""
_ITEM_BYTES = 8
_FRAME_SIZES = range(0xC0, 0xC3)
_APP14 = 0xEE


def holds_mislabeled_ycbcr(path: Path, properties: Mapping[str, str]) -> bool:
    """Return True if OpenSlide's pixels of this DICOM slide are YCbCr.

    That is the case if the header declares RGB, the first frame has subsampled second and third
    components (no RGB image has), and no Adobe marker declares RGB.
    """
    if properties.get("dicom.PhotometricInterpretation", "").strip() != "RGB":
        return False
    if properties.get("dicom.TransferSyntaxUID") != JPEG_BASELINE:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(_PIXEL_DATA)
        if start < 0:
            return False
        offsets = start + len(_PIXEL_DATA)
        try:
            (table_bytes,) = struct.unpack_from("<I", data, offsets + 4)
            frame = offsets + _ITEM_BYTES + table_bytes + _ITEM_BYTES
            return _is_subsampled(data[frame : frame + (1 << 16)])
        except (IndexError, struct.error):
            return False


def _is_subsampled(jpeg: bytes) -> bool:
    """Return True if the first of three components is sampled more finely than the second."""
    if not jpeg.startswith(b"\xff\xd8"):
        return False
    at = 2
    while jpeg[at] == 0xFF:
        marker, (length,) = jpeg[at + 1], struct.unpack_from(">H", jpeg, at + 2)
        body = jpeg[at + 4 : at + 2 + length]
        if marker == _APP14 and body.startswith(b"Adobe") and body[11] == 0:
            return False
        if marker in _FRAME_SIZES:
            return body[5] == 3 and body[7] > body[10]  # sampling factors of components 0 and 1
        at += 2 + length
    return False
