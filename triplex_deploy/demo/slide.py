"""Write a synthetic H&E whole-slide image, for the demo and the tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.demo.growth import grow_section
from triplex_deploy.demo.tissue import Section
from triplex_deploy.errors import ConfigError
from triplex_deploy.files.atomic import atomic_path

TILE_PX: Final = 256
LEVEL_FACTOR: Final = 4
SMALLEST_LEVEL_PX: Final = 512
"""Levels are added until the last fits into a square of this side."""
JPEG_QUALITY: Final = 88
MIN_PX: Final = 256
"""Minimum side of a slide."""

Image = NDArray[np.uint8]
"""RGB pixels (height, width, 3)."""
ReadRows = Callable[[int, int], Image]
"""Returns the rows from the first up to, without, the second argument."""


def synthesize_slide(path: str | Path, width: int, height: int, mpp: float, seed: int) -> None:
    """Write a tiled JPEG pyramid of synthetic H&E tissue that OpenSlide opens as a generic TIFF.

    Equal arguments give equal pixels.

    Args:
        path: The file, which is complete or not there.
        width: Width in level-0 pixels.
        height: Height in level-0 pixels.
        mpp: Microns per pixel, which the resolution tags give.
        seed: Seed of the tissue.

    Raises:
        ConfigError: If the size or ``mpp`` is not suitable for a slide.
        OutputError: If the file cannot be written.
    """
    if min(width, height) < MIN_PX:
        raise ConfigError(f"slide of {width} x {height} px: too small; use at least {MIN_PX} px")
    if not 0.1 <= mpp <= 2:
        raise ConfigError(f"mpp={mpp}: nuclei cannot be drawn at this scale; use 0.1 to 2 um/px")
    write_section(grow_section((width, height), mpp, seed), path, mpp)


def write_section(section: Section, path: str | Path, mpp: float) -> None:
    """Write a section as a slide, as ``synthesize_slide`` does."""
    with atomic_path(path) as temporary:
        _write_pyramid(temporary, section.rows, _level_sizes(*section.size_wh), mpp)


def _level_sizes(width: int, height: int) -> list[tuple[int, int]]:
    """Return (width, height) of every level, of at least two levels."""
    sizes = [(width, height), (width // LEVEL_FACTOR, height // LEVEL_FACTOR)]
    while max(sizes[-1]) > SMALLEST_LEVEL_PX:
        sizes.append((sizes[-1][0] // LEVEL_FACTOR, sizes[-1][1] // LEVEL_FACTOR))
    return [(max(1, w), max(1, h)) for w, h in sizes]


def _write_pyramid(
    path: Path, read_rows: ReadRows, sizes_wh: list[tuple[int, int]], mpp: float
) -> None:
    """Write the levels, each from averages of the rows of the level before."""
    import tifffile

    with tifffile.TiffWriter(path, bigtiff=_needs_bigtiff(sizes_wh[0])) as tiff:
        for index, (width, height) in enumerate(sizes_wh):
            coarser = _scratch(sizes_wh[index + 1]) if index + 1 < len(sizes_wh) else None
            pixels_per_cm = 1e4 / (mpp * sizes_wh[0][0] / width)
            tiff.write(
                _tiles(read_rows, width, height, coarser),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                subsampling=(2, 2),
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY},
                subfiletype=int(index > 0),
                resolution=(pixels_per_cm, pixels_per_cm),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
                maxworkers=1,
            )
            if coarser is not None:
                read_rows = _rows_of(coarser)


def _needs_bigtiff(size_wh: tuple[int, int]) -> bool:
    return size_wh[0] * size_wh[1] * 3 > 2**31


def _scratch(size_wh: tuple[int, int]) -> Image:
    """Return an array for a level that is written later; on disk, as it grows with the slide."""
    with tempfile.TemporaryFile() as stream:
        return np.memmap(stream, np.uint8, "w+", shape=(size_wh[1], size_wh[0], 3))


def _rows_of(image: Image) -> ReadRows:
    return lambda top, bottom: image[top:bottom]


def _tiles(read_rows: ReadRows, width: int, height: int, coarser: Image | None) -> Iterator[Image]:
    """Yield the tiles of a level, row by row, and write averages of its blocks to ``coarser``.

    Tiles at the edges are filled with the pixels at the edge.
    """
    for top in range(0, height, TILE_PX):
        rows = read_rows(top, min(top + TILE_PX, height))
        if coarser is not None:
            _average_into(coarser, rows, top)
        padding = ((0, -len(rows) % TILE_PX), (0, -width % TILE_PX), (0, 0))
        band = np.pad(rows, padding, mode="edge")
        for left in range(0, width, TILE_PX):
            yield np.ascontiguousarray(band[:, left : left + TILE_PX])


def _average_into(coarser: Image, rows: Image, top: int) -> None:
    n_rows, n_columns = len(rows) // LEVEL_FACTOR, coarser.shape[1]
    blocks = rows[: n_rows * LEVEL_FACTOR, : n_columns * LEVEL_FACTOR]
    blocks = blocks.reshape(n_rows, LEVEL_FACTOR, n_columns, LEVEL_FACTOR, 3)
    total = blocks.sum(axis=(1, 3), dtype=np.uint16)
    first = top // LEVEL_FACTOR
    coarser[first : first + n_rows] = (total + LEVEL_FACTOR**2 // 2) // LEVEL_FACTOR**2
