"""Write a slide as a pyramid of JPEG tiles in the layout of Deep Zoom, for browsers.

Source of the layout: "Deep Zoom File Format Overview", Microsoft, 2011.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ConfigError, OutputError
from triplex_deploy.files.atomic import atomic_folder
from triplex_deploy.files.ours import exists, first_foreign, has_keys, is_ours
from triplex_deploy.slides.slide import Slide
from triplex_deploy.system import usable_cores

TILE_PX: Final = 512
"""Side of a tile."""
FINEST_UM: Final = 0.5
"""Microns per pixel of the finest level, unless another is asked for: about 20x."""
JPEG_QUALITY: Final = 80
"""Quality of a tile, 0 to 100."""
DESCRIPTION: Final = "pyramid.json"
"""File that describes the pyramid and marks the folder as one of this package."""
GLASS_LEAST: Final = 225
"""Least value of a channel on glass."""
GLASS_COLOR: Final = 14
"""Largest difference of the channels on glass."""
GLASS_STEP: Final = 4
"""Of so many pixels, one is looked at."""
_OWN: Final = (DESCRIPTION, "slide.dzi", "slide_files/*/*.jpg")


@dataclass(frozen=True)
class TilePyramid:
    """What a viewer must know of a pyramid."""

    width: int
    """Width of the finest level in pixels."""
    height: int
    """Height of the finest level in pixels."""
    level0_per_px: float
    """Level-0 pixels per pixel of the finest level."""
    tile_px: int
    """Side of a tile."""
    present: Mapping[int, tuple[str, ...]]
    """For each level, a text of ``1`` and ``0`` for each row of tiles: 0 is glass and no file."""


def write_pyramid(
    slide: Slide,
    slide_mpp: float,
    folder: Path,
    finest_um: float = FINEST_UM,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> TilePyramid:
    """Write the tiles of a slide into a folder, atomically, and return their description.

    Tiles of nothing but glass are left out. A pyramid of an earlier call is replaced.

    Args:
        slide: The slide.
        slide_mpp: Microns per level-0 pixel.
        folder: The folder to write.
        finest_um: Microns per pixel of the finest level; a coarser slide is not enlarged.
        advance: Called with the number of finished tiles of the finest level and of all.

    Raises:
        ConfigError: If ``finest_um`` is not a positive length.
        OutputError: If the folder cannot be written, or holds other files.
        SlideError: If the slide cannot be read.
    """
    if not 0 < finest_um < math.inf:
        raise ConfigError(f"finest_um={finest_um}: use positive microns per pixel, such as 0.5")
    require_own_pyramid(folder)
    with atomic_folder(folder) as temporary:
        writer = _Writer(slide, max(1.0, finest_um / slide_mpp), temporary / "slide_files", advance)
        found = writer.write()
        (temporary / "slide.dzi").write_text(_deep_zoom(found), encoding="utf-8")
        content = {"triplex-deploy": "tile-pyramid/1", **asdict(found)}
        (temporary / DESCRIPTION).write_text(json.dumps(content) + "\n", encoding="utf-8")
    return found


def require_own_pyramid(folder: Path) -> None:
    """Raise ``OutputError`` if something exists that is not a pyramid of this package."""
    if not exists(folder):
        return
    is_marked = folder.is_dir() and is_ours(folder / DESCRIPTION, has_keys("triplex-deploy"))
    if not is_marked or first_foreign(folder, _OWN) is not None:
        raise OutputError(f"{folder}: holds other files; move them away or choose another --out")


def _deep_zoom(pyramid: TilePyramid) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpg" Overlap="0" '
        f'TileSize="{pyramid.tile_px}"><Size Width="{pyramid.width}" Height="{pyramid.height}"/>'
        "</Image>\n"
    )


class _Writer:
    """Writes tiles depth first, so that each pixel is read once and few tiles are in memory."""

    def __init__(
        self, slide: Slide, scale: float, folder: Path, advance: Callable[[int, int], None]
    ) -> None:
        self._slide, self._scale, self._folder, self._advance = slide, scale, folder, advance
        width, height = slide.level_sizes[0]
        self._size_wh = (math.ceil(width / scale), math.ceil(height / scale))
        self._top = math.ceil(math.log2(max(self._size_wh)))  # Deep Zoom's level 0 is one pixel
        fit = [i for i, d in enumerate(slide.level_downsamples) if d <= scale * 1.01]
        self._level = fit[-1] if fit else 0
        self._present: dict[tuple[int, int, int], bool] = {}
        self._done = 0

    def write(self) -> TilePyramid:
        for level in range(self._top + 1):
            (self._folder / str(level)).mkdir(parents=True)
        roots = max(self._top - 3, 0)
        columns, rows = self._tiles(roots)
        places = [(roots, column, row) for row in range(rows) for column in range(columns)]
        with ThreadPoolExecutor(usable_cores()) as pool:
            made = dict(
                zip(places, pool.map(lambda place: self._make(*place), places), strict=True)
            )
        for level in range(roots - 1, -1, -1):
            columns, rows = self._tiles(level)
            made = {
                (level, column, row): self._join(
                    level, column, row, lambda *place, below=made: below[place]
                )
                for row in range(rows)
                for column in range(columns)
            }
        return TilePyramid(*self._size_wh, self._scale, TILE_PX, self._rows())

    def _size(self, level: int) -> tuple[int, int]:
        shrink = 2 ** (self._top - level)
        return (-(-self._size_wh[0] // shrink), -(-self._size_wh[1] // shrink))

    def _tiles(self, level: int) -> tuple[int, int]:
        width, height = self._size(level)
        return -(-width // TILE_PX), -(-height // TILE_PX)

    def _shape(self, level: int, column: int, row: int) -> tuple[int, int]:
        width, height = self._size(level)
        return min(TILE_PX, height - row * TILE_PX), min(TILE_PX, width - column * TILE_PX)

    def _make(self, level: int, column: int, row: int) -> NDArray[np.uint8] | None:
        """Write a tile and all below it; return its pixels, None for glass."""
        if level < self._top:
            return self._join(level, column, row, self._make)
        height, width = self._shape(level, column, row)
        pixels = self._read(column * TILE_PX, row * TILE_PX, width, height)
        self._done += 1
        columns, rows = self._tiles(self._top)
        self._advance(self._done, columns * rows)
        return self._save(level, column, row, None if _is_glass(pixels) else pixels)

    def _join(
        self,
        level: int,
        column: int,
        row: int,
        below: Callable[[int, int, int], NDArray[np.uint8] | None],
    ) -> NDArray[np.uint8] | None:
        """Write a tile from the four below it; return its pixels, None for glass."""
        from PIL import Image

        columns, rows = self._tiles(level + 1)
        canvas = np.full((2 * TILE_PX, 2 * TILE_PX, 3), 243, np.uint8)
        found = False
        for c in range(2 * column, min(2 * column + 2, columns)):
            for r in range(2 * row, min(2 * row + 2, rows)):
                pixels = below(level + 1, c, r)
                if pixels is None:
                    continue
                found = True
                top, left = (r % 2) * TILE_PX, (c % 2) * TILE_PX
                canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        if not found:
            return self._save(level, column, row, None)
        height, width = self._shape(level, column, row)
        small = np.asarray(Image.fromarray(canvas).reduce(2))
        return self._save(level, column, row, small[:height, :width])

    def _read(self, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return pixels of the finest level, averaged over the slide's pixels under each."""
        from PIL import Image

        shrink = self._scale / self._slide.level_downsamples[self._level]
        x, y = left * shrink, top * shrink
        x0, y0 = math.floor(x), math.floor(y)
        level_width, level_height = self._slide.level_sizes[self._level]
        x1 = min(math.ceil(x + width * shrink), level_width)
        y1 = min(math.ceil(y + height * shrink), level_height)
        pixels = self._slide.read(self._level, x0, y0, max(x1 - x0, 1), max(y1 - y0, 1))
        if pixels.shape[:2] == (height, width):
            return pixels
        right, bottom = min(x - x0 + width * shrink, pixels.shape[1]), pixels.shape[0]
        box = (x - x0, y - y0, right, min(y - y0 + height * shrink, bottom))
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX, box)
        return np.asarray(picture)

    def _save(
        self, level: int, column: int, row: int, pixels: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8] | None:
        from PIL import Image

        self._present[level, column, row] = pixels is not None
        if pixels is not None:
            path = self._folder / str(level) / f"{column}_{row}.jpg"
            Image.fromarray(pixels).save(path, "JPEG", quality=JPEG_QUALITY)
        return pixels

    def _rows(self) -> dict[int, tuple[str, ...]]:
        rows_of = {}
        for level in range(self._top + 1):
            columns, rows = self._tiles(level)
            rows_of[level] = tuple(
                "".join("01"[self._present[level, column, row]] for column in range(columns))
                for row in range(rows)
            )
        return rows_of


def _is_glass(pixels: NDArray[np.uint8]) -> bool:
    """Return True for a tile of glass, or of nothing: black, as beyond what was scanned."""
    few = pixels[::GLASS_STEP, ::GLASS_STEP].reshape(-1, 3).astype(np.int16)
    light = few.min(axis=1) >= GLASS_LEAST
    gray = np.ptp(few, axis=1) <= GLASS_COLOR
    return bool(((light & gray) | (few.max(axis=1) == 0)).all())
