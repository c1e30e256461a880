"""Read one opened OpenSlide file through the library's C functions, without the GIL.

This is the only file that uses names of openslide-python which are not part of its public API:
``lowlevel`` and, in it, ``_lib`` and ``_as_parameter_``. The public API holds the GIL while it
converts pixels, and gives no access to the C functions.
"""

from __future__ import annotations

from ctypes import c_void_p, cast
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from openslide import lowlevel

from triplex_deploy.slides import _pixels
from triplex_deploy.slides.guard import ReadGuard
from triplex_deploy.slides.slide import RGB

TESTED_VERSIONS = ("1.4.7",)
"""Versions of openslide-python in which the private names were tested."""
_READ_REGION = cast(lowlevel._lib.openslide_read_region, c_void_p).value or 0
"""Address of ``openslide_read_region`` in the library that openslide-python has loaded."""


class OpenSlideHandle:
    """An ``openslide_t``; several threads may read at once, and ``close`` waits for them."""

    def __init__(self, path: Path, cache_bytes: int) -> None:
        """Open the file; raises ``openslide.OpenSlideError``."""
        self._slide = lowlevel.open(path)
        lowlevel.set_cache(self._slide, lowlevel.cache_create(cache_bytes))
        self._guard = ReadGuard(path)

    def read(
        self, level: int, level0_xy: tuple[int, int], background: RGB, out: NDArray[np.uint8]
    ) -> None:
        """Fill ``out`` (h, w, 3), rows contiguous, with a region; transparency shows background.

        Raises ``openslide.OpenSlideError``, and then on every later read as well.
        """
        height, width, _ = out.shape
        argb = np.empty((height, width), np.uint32)
        with self._guard.reading():
            address = self._slide._as_parameter_.value or 0
            _pixels.read_region(_READ_REGION, address, argb, *level0_xy, level, out, *background)
            error = lowlevel.get_error(self._slide)
        if error is not None:
            raise openslide.OpenSlideError(error)

    def close(self) -> None:
        """Close the file once no thread reads."""
        self._guard.shut()
        lowlevel.close(self._slide)
