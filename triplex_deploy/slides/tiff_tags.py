"""Read the tags of a TIFF that decide whether a library may be given the file.

Native libraries allocate what a tag asks for, and end the process if they cannot. So sizes in tags
are compared with the file's own size first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError
from triplex_deploy.slides.slide import Size

MAX_TILE_PX: Final = 1 << 26
"""Most pixels of a compressed tile, 8192 x 8192; usual tiles have 256 x 256."""
MAX_DIRECTORIES: Final = 100_000
"""Most directories that are looked at."""
SPARSE_TILES: Final = 10_000
"""A page with more tiles than this must hold some of them."""
MIN_HELD_SHARE: Final = 1e-3
"""Least share of the tiles of such a page that the file must hold."""

WIDTH, HEIGHT, BITS, ORIENTATION, SAMPLES, PLANAR = 256, 257, 258, 274, 277, 284
TILE_WIDTH, TILE_HEIGHT, TILE_COUNTS, SUB_DIRECTORIES = 322, 323, 325, 330
IMAGE_DEPTH, TILE_DEPTH, NDPI = 32997, 32998, 65420
_TEXTS: Final = (270, 347)
"""Tags of one byte a value that decide what is shown: ImageDescription and JPEGTables."""
_NUMBERS: Final = (WIDTH, HEIGHT, BITS, ORIENTATION, SAMPLES, PLANAR, TILE_WIDTH, TILE_HEIGHT)
_WANTED: Final = frozenset((*_NUMBERS, TILE_COUNTS, SUB_DIRECTORIES, IMAGE_DEPTH, TILE_DEPTH, NDPI))
_TYPES: Final = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
"""NumPy's type of the values of each unsigned type of a tag."""


@dataclass(frozen=True)
class Directory:
    """One page of a TIFF."""

    tags: Mapping[int, NDArray[np.uint64]]
    """Values of the tags that were asked for, by number."""

    def first(self, tag: int, default: int) -> int:
        """Return the first value of a tag."""
        values = self.tags.get(tag)
        return default if values is None or not len(values) else int(values[0])

    @property
    def is_tiled(self) -> bool:
        """True if the page has tiles."""
        return TILE_WIDTH in self.tags or TILE_HEIGHT in self.tags

    @property
    def size_wh(self) -> Size:
        """Width and height in pixels."""
        return self.first(WIDTH, 0), self.first(HEIGHT, 0)

    @property
    def tile_wh(self) -> Size:
        """Width and height of a tile."""
        return self.first(TILE_WIDTH, 0), self.first(TILE_HEIGHT, 0)


def read_directories(path: Path) -> list[Directory]:
    """Return the directories that can be read, in the order of the file.

    A broken chain ends the list; the reader of the slide reports it. The list of an NDPI file is
    empty, since its offsets differ from those of a TIFF.

    Raises:
        SlideError: The file cannot be read, or values that decide what it shows are cut off.
    """
    try:
        with path.open("rb") as file:
            walker = _Walker(file, path.stat().st_size)
            directories = list(walker.walk())
    except OSError as error:
        raise SlideError(f"{path}: {error.strerror}; check its permissions") from error
    if any(NDPI in directory.tags for directory in directories[:1]):
        return []
    if walker.is_cut:
        raise SlideError(
            f"{path}: a part of its header lies beyond its end, the file is cut short or damaged; "
            "copy it again"
        )
    return directories


def require_safe_sizes(path: Path, directories: list[Directory], file_bytes: int) -> None:
    """Refuse tags by which a library would allocate more than any slide needs.

    Args:
        path: The file, for messages.
        directories: Its directories.
        file_bytes: Its size.

    Raises:
        SlideError: A tile is larger than 8192 x 8192 pixels or its data are longer than the file,
            or nearly all tiles of a page are missing.
    """
    for directory in directories:
        if directory.is_tiled:
            _require_safe_page(path, directory, file_bytes)


def require_plain_levels(
    path: Path, directories: list[Directory], level_sizes: tuple[Size, ...]
) -> None:
    """Refuse tiled pages that OpenSlide would show wrongly.

    Args:
        path: The file, for messages.
        directories: Its directories.
        level_sizes: Width and height of each level that OpenSlide finds.

    Raises:
        SlideError: A level has other samples than 8 bits, is turned or mirrored, or is a stack.
    """
    for directory in directories:
        if not directory.is_tiled or directory.size_wh not in level_sizes:
            continue
        bits = sorted({int(value) for value in directory.tags.get(BITS, np.array([8], np.uint64))})
        if bits != [8]:
            found = " and ".join(map(str, bits))
            raise SlideError(f"{path}: its samples have {found} bits; export it as 8-bit RGB")
        require_upright(path, directory.first(ORIENTATION, 1))
        depth = max(directory.first(IMAGE_DEPTH, 1), directory.first(TILE_DEPTH, 1))
        if depth > 1:
            raise SlideError(f"{path}: is a stack of {depth} images; export a single RGB image")


def require_upright(path: Path, orientation: int) -> None:
    """Raise ``SlideError`` if the orientation tag asks for a turned or mirrored picture."""
    if orientation not in (0, 1):
        raise SlideError(
            f"{path}: its orientation tag is {orientation}, which turns or mirrors the picture; "
            "export it upright, such as with vips autorot"
        )


def _require_safe_page(path: Path, directory: Directory, file_bytes: int) -> None:
    (width, height), (tile_width, tile_height) = directory.size_wh, directory.tile_wh
    if not 0 < tile_width * tile_height <= MAX_TILE_PX:
        raise SlideError(
            f"{path}: its header gives tiles of {tile_width}x{tile_height} pixels; the file is "
            "damaged: copy it again, or export it with tiles of 256 pixels"
        )
    counts = directory.tags.get(TILE_COUNTS)
    if counts is None or not len(counts):
        return
    if int(counts.max()) > file_bytes:
        raise SlideError(
            f"{path}: its header gives a tile of {int(counts.max())} bytes in a file of "
            f"{file_bytes}; the file is damaged: copy it again"
        )
    tiles = -(-width // tile_width) * -(-height // tile_height)
    held = int(np.count_nonzero(counts))
    if tiles > SPARSE_TILES and held < MIN_HELD_SHARE * tiles:
        raise SlideError(
            f"{path}: holds {held} of {tiles} tiles of a page of {width}x{height} pixels; "
            "the file is damaged or cut short: copy it again"
        )


class _Walker:
    """Reads the directories of an open TIFF; stops where the file makes no sense."""

    def __init__(self, file: BinaryIO, file_bytes: int) -> None:
        self._file = file
        self._file_bytes = file_bytes
        head = file.read(8)
        self._order = "<" if head[:2] == b"II" else ">"
        self._byteorder: Literal["little", "big"] = "little" if self._order == "<" else "big"
        self._is_big = len(head) == 8 and head[2:4] in (b"+\0", b"\0+")
        self._seen: set[int] = set()
        self.is_cut = False

    def walk(self) -> Iterator[Directory]:
        """Yield each directory of the chain, and the directories below it."""
        form, at = ("Q", 8) if self._is_big else ("I", 4)
        link = self._number(at, form)
        while link:
            directory, link = self._directory(link)
            if directory is None:
                return
            yield directory
            for below in directory.tags.get(SUB_DIRECTORIES, ()):
                self.is_cut |= int(below) >= self._file_bytes
                nested, _ = self._directory(int(below))
                if nested is not None:
                    yield nested

    def _directory(self, at: int) -> tuple[Directory | None, int]:
        """Return the directory at an offset and the link to the next one; None at its end."""
        if at in self._seen or at >= self._file_bytes or len(self._seen) >= MAX_DIRECTORIES:
            return None, 0
        self._seen.add(at)
        count_form, entry_bytes = ("Q", 20) if self._is_big else ("H", 12)
        count = self._number(at, count_form)
        start = at + struct.calcsize(f"={count_form}")
        if not count or count * entry_bytes > self._file_bytes - start:
            return None, 0
        self._file.seek(start)
        entries = self._file.read(count * entry_bytes)
        found = (
            self._entry(entries[begin : begin + entry_bytes])
            for begin in range(0, len(entries), entry_bytes)
        )
        tags = {tag: values for tag, values in found if tag in _WANTED and values is not None}
        link = self._number(start + count * entry_bytes, "Q" if self._is_big else "I")
        return Directory(tags), link

    def _entry(self, entry: bytes) -> tuple[int, NDArray[np.uint64] | None]:
        """Return the number of a tag and its values; None if they are not whole numbers."""
        inline = 8 if self._is_big else 4
        form = f"{self._order}HH{'Q' if self._is_big else 'I'}"
        tag, kind, count = struct.unpack_from(form, entry)
        if tag in _TEXTS and count > inline:
            self.is_cut |= int.from_bytes(entry[-inline:], self._byteorder) + count > (
                self._file_bytes
            )
        if tag not in _WANTED or kind not in _TYPES or not count:
            return tag, None
        dtype = np.dtype(self._order + _TYPES[kind])
        value = entry[-inline:]
        n_bytes = count * dtype.itemsize
        if n_bytes > inline:
            (at,) = struct.unpack(f"{self._order}{'Q' if self._is_big else 'I'}", value)
            if n_bytes > self._file_bytes - at:
                self.is_cut = True
                return tag, None
            self._file.seek(at)
            value = self._file.read(n_bytes)
        if len(value) < n_bytes:
            return tag, None
        return tag, np.frombuffer(value[:n_bytes], dtype).astype(np.uint64)

    def _number(self, at: int, form: str) -> int:
        """Return the number at an offset; 0 beyond the end of the file."""
        size = struct.calcsize(f"={form}")
        self._file.seek(at)
        data = self._file.read(size)
        return int(struct.unpack(self._order + form, data)[0]) if len(data) == size else 0
