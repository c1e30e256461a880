"""Define the interface of a slide, for every file format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.slides.identity import (
    FileIdentity,
    digest_of_opened,
    identity_of,
    require_same_files,
)

RGB = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
Size = tuple[int, int]
"""Width and height in pixels."""
DAMAGED = "the file is damaged, cut short or gone: copy it again"
"""What to do about pixels that cannot be read."""
DEFAULT_SEGMENT_PX = 512
"""Side of the segments of a level if the file has no parts that can be decoded separately."""


@dataclass(frozen=True)
class SegmentGrid:
    """Equal rectangles from a level's top left corner; the last may reach beyond its edge."""

    width_px: int
    """Width of a segment."""
    height_px: int
    """Height of a segment."""
    columns: int
    """Number of columns."""
    rows: int
    """Number of rows."""

    @classmethod
    def over(cls, size_wh: tuple[int, int], width_px: int, height_px: int) -> SegmentGrid:
        """Return segments of the given size over a level of ``size_wh``."""
        return cls(width_px, height_px, -(-size_wh[0] // width_px), -(-size_wh[1] // height_px))

    @property
    def segment_bytes(self) -> int:
        """Return the bytes of a decoded segment."""
        return 3 * self.width_px * self.height_px

    def under(self, x: int, y: int, width: int, height: int) -> Iterator[tuple[int, int]]:
        """Yield (column, row) of the segments under a window of the level, row by row."""
        rows = range(y // self.height_px, -(-(y + height) // self.height_px))
        columns = range(x // self.width_px, -(-(x + width) // self.width_px))
        for row, column in product(rows, columns):
            yield column, row


class Slide(ABC):
    """A whole-slide image as a pyramid of RGB levels; level 0 is the finest.

    Sizes are (width, height) and coordinates (x, y). A reader implements ``_read_inside`` and
    ``_release``; clipping, zero padding and checks are done here. If the file has parts that can be
    decoded separately, the reader also implements ``segment_grid`` and ``read_segment``.
    """

    path: Path
    """The file."""
    format: str
    """The file's vendor or container, such as ``aperio``, ``dicom`` or ``jpeg``."""
    level_sizes: tuple[Size, ...]
    """(width, height) of each level in its pixels."""
    level_downsamples: tuple[float, ...]
    """Level-0 pixels per pixel of each level, both axes averaged."""
    mpp: float | None
    """Microns per level-0 pixel from the file's metadata, or None."""
    mpp_xy: tuple[float, float] | None = None
    """The same along x and y, or None."""
    background_rgb: RGB
    """Color of places inside the slide without pixels."""
    scanned_xy: Size = (0, 0)
    """Level-0 pixels (x, y) of the corner of the part that was scanned, to which QuPath crops."""
    identity: tuple[FileIdentity, ...] = ()
    """Identities of its files, taken before they were opened; empty if unknown."""
    closed: bool = False
    """True after ``close``."""

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return the pixels of a window of a level; several threads may call it at once.

        Args:
            level: Number of the level; 0 is the finest.
            x: Left edge of the window in pixels of that level; may lie outside the level.
            y: Top edge of the window, likewise.
            width: Width of the window in pixels of that level.
            height: Height of the window.

        Returns:
            RGB pixels (height, width, 3), uint8; 0 outside the level.

        Raises:
            SlideError: The file cannot be read, the slide is closed, or there is no such level.
        """
        if self.closed:
            raise SlideError(f"{self.path}: the slide is closed; open it again to read")
        if not 0 <= level < len(self.level_sizes):
            coarsest = len(self.level_sizes) - 1
            raise SlideError(f"{self.path}: no level {level}; its levels are 0 to {coarsest}")
        if width < 0 or height < 0:
            raise SlideError(f"{self.path}: window {width}x{height} is negative; use sizes >= 0")
        what = f"{self.path}: level {level} cannot be read"
        with damage_as(SlideError, what, "read a smaller window at a time", (MemoryError,)):
            read_inside = partial(self._read_inside, level)
            return read_padded(read_inside, self.level_sizes[level], (x, y), (width, height))

    def segment_grid(self, level: int) -> SegmentGrid:
        """Return the parts of a level that are cheapest to decode one by one.

        Args:
            level: Number of the level.

        Returns:
            A grid over the whole level.
        """
        return SegmentGrid.over(self.level_sizes[level], DEFAULT_SEGMENT_PX, DEFAULT_SEGMENT_PX)

    def read_segment(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None:
        """Decode a segment of ``segment_grid(level)`` into ``out``; several threads may call it.

        Args:
            level: Number of the level.
            column: Column of the segment in the grid.
            row: Row of the segment in the grid.
            out: Receives the pixels of ``read``, (height_px, width_px, 3) uint8; pixels beyond the
                level's edge are undefined.

        Raises:
            SlideError: The segment cannot be read.
        """
        level_width, level_height = self.level_sizes[level]
        height_px, width_px, _ = out.shape
        x, y = column * width_px, row * height_px
        width, height = min(width_px, level_width - x), min(height_px, level_height - y)
        out[:height, :width] = self._read_inside(level, x, y, width, height)

    def require_unchanged(self) -> None:
        """Check that the slide's files are still those that were opened.

        Raises:
            SlideError: A file was replaced, written to or removed.
        """
        if self.identity:
            require_same_files(self.path, self.identity)

    def digest(self) -> str:
        """Return a digest of the content that was opened, 64 hexadecimal digits.

        Raises:
            SlideError: A file was replaced, written to or removed.
        """
        return digest_of_opened(self.path, self.identity or identity_of(self.path))

    def close(self) -> None:
        """Release the file; reading afterwards raises ``SlideError``. Closing twice is allowed."""
        if not self.closed:
            self.closed = True
            self._release()

    @abstractmethod
    def _read_inside(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        """Return a new array (height, width, 3) of a non-empty window inside the level."""

    @abstractmethod
    def _release(self) -> None:
        """Free the file and any decoded pixels; called once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def reading_tile(
    path: Path, level: int, column: int, row: int, only: tuple[type[Exception], ...] = (Exception,)
) -> AbstractContextManager[None]:
    """Turn the errors ``only`` while a reader decodes one segment into ``SlideError``."""
    what = f"{path}: level {level}, tile (column {column}, row {row}) cannot be read"
    return damage_as(SlideError, what, f"{DAMAGED}, or pass --on-bad-tile skip", only)


def copy_overlap(
    part: NDArray[np.uint8],
    part_xy: tuple[int, int],
    window: NDArray[np.uint8],
    window_xy: tuple[int, int],
) -> None:
    """Copy the pixels of ``part`` that lie in ``window``, both (h, w, channels).

    ``part_xy`` and ``window_xy`` are their top-left corners in the same level.
    """
    (left, top), (x, y) = part_xy, window_xy
    x0, x1 = max(left, x), min(left + part.shape[1], x + window.shape[1])
    y0, y1 = max(top, y), min(top + part.shape[0], y + window.shape[0])
    if x0 < x1 and y0 < y1:
        window[y0 - y : y1 - y, x0 - x : x1 - x] = part[y0 - top : y1 - top, x0 - left : x1 - left]


def read_padded(
    read_inside: Callable[[int, int, int, int], NDArray[np.uint8]],
    limit_wh: Size,
    window_xy: tuple[int, int],
    window_wh: Size,
) -> NDArray[np.uint8]:
    """Return a window (height, width, 3) of an image; pixels outside the image are 0.

    Args:
        read_inside: Returns the pixels of a window inside the image: x, y, width, height.
        limit_wh: Size of the image.
        window_xy: Top-left corner of the window; may lie outside the image.
        window_wh: Size of the window.
    """
    (x, y), (width, height) = window_xy, window_wh
    left, right = _clip(x, width, limit_wh[0])
    top, bottom = _clip(y, height, limit_wh[1])
    if right <= left or bottom <= top:
        return np.zeros((height, width, 3), np.uint8)
    inside = read_inside(left, top, right - left, bottom - top)
    if inside.shape == (height, width, 3):
        return inside
    window = np.zeros((height, width, 3), np.uint8)
    window[top - y : bottom - y, left - x : right - x] = inside
    return window


def _clip(start: int, length: int, limit: int) -> tuple[int, int]:
    return min(max(start, 0), limit), min(max(start + length, 0), limit)
