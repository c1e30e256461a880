"""Read RGB pixels through OpenSlide's C functions, without the GIL.

This is the only file that uses names of openslide-python which are not part of its public API:
``lowlevel`` and, in it, ``_lib`` and ``_as_parameter_``. The public API holds the GIL while it
converts pixels, and gives no access to the C functions.
"""

from __future__ import annotations

import os
import threading
from contextlib import closing
from ctypes import c_void_p, cast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray
from openslide import lowlevel

from triplex_deploy.errors import SlideError
from triplex_deploy.slides import _pixels
from triplex_deploy.slides.guard import ReadGuard
from triplex_deploy.slides.slide import RGB, SegmentGrid, Size, copy_overlap

BLOCK_PX = 256
"""Side of the fixed blocks in which a level with a fractional downsample is read."""
TESTED_VERSIONS = ("1.4.0", "1.4.6", "1.4.7")
"""Versions of openslide-python with which the tests of slides passed."""


@dataclass(frozen=True)
class Pyramid:
    """The properties of a slide that reading its pixels needs."""

    path: Path
    """The file."""
    level_sizes: tuple[Size, ...]
    """(width, height) of each level."""
    level_downsamples: tuple[float, ...]
    """Level-0 pixels per pixel of each level."""
    background: RGB
    """Color of transparent places."""
    is_ycbcr: bool = False
    """True if the pixels are YCbCr although the header declares RGB."""


class PixelSource:
    """An open slide; its handle is replaced after an error, since OpenSlide then refuses reads."""

    def __init__(self, pyramid: Pyramid, cache_bytes: int) -> None:
        """Open the file; raises ``openslide.OpenSlideError``."""
        self._pyramid = pyramid
        self._cache_bytes = cache_bytes
        self._handle: OpenSlideHandle | None = OpenSlideHandle(pyramid.path, cache_bytes)
        self._file = pyramid.path.open(
            "rb"
        )  # while it is open, no other file can have its identity
        self._closed = False
        self._lock = threading.Lock()
        self._alone = threading.Lock()

    def read(self, level: int, x: int, y: int, out: NDArray[np.uint8]) -> None:
        """Fill ``out`` (h, w, 3) with a window inside one level; x and y are its pixels.

        OpenSlide addresses every level in level-0 pixels. If a downsample is not an integer, it
        interpolates, differently for each origin. Such levels are read in blocks at fixed origins,
        so that a pixel does not depend on the window.
        """
        if self._pyramid.level_downsamples[level].is_integer():
            self.region(level, x, y, out)
            return
        height, width, _ = out.shape
        level_width, level_height = self._pyramid.level_sizes[level]
        blocks = SegmentGrid.over((level_width, level_height), BLOCK_PX, BLOCK_PX)
        for column, row in blocks.under(x, y, width, height):
            left, top = column * BLOCK_PX, row * BLOCK_PX
            size = (min(BLOCK_PX, level_height - top), min(BLOCK_PX, level_width - left), 3)
            block = np.empty(size, np.uint8)
            self.region(level, left, top, block)
            copy_overlap(block, (left, top), out, (x, y))

    def region(self, level: int, x: int, y: int, out: NDArray[np.uint8]) -> None:
        """Fill ``out`` with one region of OpenSlide, interpolated or not.

        Raises ``SlideError`` if the file is gone or was replaced: OpenSlide opens its path again
        when threads read at once, and would return pixels of the new file.
        """
        downsample = self._pyramid.level_downsamples[level]
        level0_xy = (round(x * downsample), round(y * downsample))
        background = self._pyramid.background
        handle = self._current()
        try:
            handle.read(level, level0_xy, background, out)
        except (openslide.OpenSlideError, SlideError):
            # The error may be of another thread: OpenSlide refuses all reads after the first error.
            self._give_up(handle)
            self._refuse_another_file()  # OpenSlide's own message would not name the cause
            with self._alone, closing(self._opened()) as own:
                own.read(level, level0_xy, background, out)
        self._refuse_another_file()
        if self._pyramid.is_ycbcr:
            _pixels.ycbcr_to_rgb(out)

    def close(self) -> None:
        """Close the file once no thread reads."""
        with self._lock:
            self._closed = True
            handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()
        self._file.close()

    def _refuse_another_file(self) -> None:
        path = self._pyramid.path
        try:
            is_same = os.path.samestat(path.stat(), os.fstat(self._file.fileno()))
        except ValueError:  # closed by another thread
            raise self._closed_error() from None
        except OSError as error:
            raise SlideError(
                f"{path}: the file went away while it was read: {error.strerror}; "
                "put it back and run again"
            ) from error
        if not is_same:
            raise SlideError(f"{path}: the file was replaced while it was read; run again")

    def _current(self) -> OpenSlideHandle:
        """Return the shared handle; open it again after an error."""
        with self._lock:
            if self._handle is None:
                self._handle = self._opened()
            return self._handle

    def _opened(self) -> OpenSlideHandle:
        if self._closed:
            raise self._closed_error()
        return OpenSlideHandle(self._pyramid.path, self._cache_bytes)

    def _closed_error(self) -> SlideError:
        return SlideError(f"{self._pyramid.path}: the slide is closed; open it again to read")

    def _give_up(self, handle: OpenSlideHandle) -> None:
        with self._lock:
            if self._handle is not handle:
                return
            self._handle = None
        handle.close()


def library_name() -> str:
    """Return the path or the name under which OpenSlide's library is loaded."""
    return str(lowlevel._lib._name)


class OpenSlideHandle:
    """An ``openslide_t``; several threads may read at once, and ``close`` waits for them."""

    def __init__(self, path: Path, cache_bytes: int) -> None:
        """Open the file.

        Raises ``openslide.OpenSlideError``, and ``SlideError`` if openslide-python lacks the names
        that this file uses.
        """
        try:
            self._read_region = _address(lowlevel._lib.openslide_read_region)
            self._slide = lowlevel.open(path)
            lowlevel.set_cache(self._slide, lowlevel.cache_create(cache_bytes))
            self._address = _address(self._slide._as_parameter_)
        except AttributeError as error:
            raise SlideError(
                f"{path}: openslide-python {openslide.__version__} has changed ({error}); "
                f"run `pip install openslide-python=={TESTED_VERSIONS[-1]}`"
            ) from error
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
            _pixels.read_region(
                self._read_region, self._address, argb, *level0_xy, level, out, *background
            )
            error = lowlevel.get_error(self._slide)
        if error is not None:
            raise openslide.OpenSlideError(error)

    def close(self) -> None:
        """Close the file once no thread reads."""
        self._guard.shut()
        lowlevel.close(self._slide)


def _address(pointer: Any) -> int:
    """Return the address in a pointer of ctypes; raises ``AttributeError`` if it is null."""
    address = cast(pointer, c_void_p).value
    if not address:
        raise AttributeError("null pointer")
    return address
