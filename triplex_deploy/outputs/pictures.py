"""Encode pictures and arrays as base64 text for HTML."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

JPEG_QUALITY: Final = 82
"""Quality of pictures, 0 to 100."""


def jpeg_base64(image: NDArray[np.uint8], longest_px: int | None = None) -> str:
    """Return an image (h, w, 3) as JPEG text, with its longest side at most ``longest_px``."""
    from PIL import Image

    buffer = BytesIO()
    picture = Image.fromarray(image)
    if longest_px is not None:
        picture.thumbnail((longest_px, longest_px))
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def array_base64(array: NDArray[Any]) -> str:
    """Return the bytes of an array, in C order, as text."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
