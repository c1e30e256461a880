"""Define the cases of ``bench_tiles.py``, each with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.tiling import mosaic
from triplex_deploy.spots import read_spots
from triplex_deploy.tiles import TilePlan, plan_tiles

TILE_PX = 224
REACH_PX = 560
PHASE_XY = (100, 60)
"""Origin of the grid, which is no multiple of the size of a compressed tile."""


@dataclass(frozen=True)
class TileCase:
    """A slide, the tiles to read from it, and the regions that a user would read."""

    name: str
    reason: str
    make_slide: Callable[[Path, bool], Path | None]
    """Write the slide of (folder, quick) and return its path; None if its data are absent."""
    make_plan: Callable[[tuple[int, int]], TilePlan]
    region_px: int = TILE_PX
    """Side of the regions of the reference: a tile, or a whole neighborhood."""


def grid_plan(size_wh: tuple[int, int]) -> TilePlan:
    """Return contiguous tiles inside the slide, without neighbors."""
    x, y = (
        np.arange(phase, size - TILE_PX + 1, TILE_PX)
        for phase, size in zip(PHASE_XY, size_wh, strict=True)
    )
    origins = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.int64)
    number = np.arange(len(origins))
    return TilePlan(origins, number[:, None], np.ones((len(origins), 1), np.bool_), number)


def neighborhoods_plan(size_wh: tuple[int, int]) -> TilePlan:
    return plan_tiles(spot_centers(size_wh), size_wh)


def spot_centers(size_wh: tuple[int, int]) -> NDArray[np.int64]:
    """Return spots of her2st C3 at full resolution, or an uneven lattice of the same pitch."""
    path = mosaic.SHARED_DATA / "her2st/ST-spotfiles/C3_selection.tsv"
    if path.exists():
        return np.floor(read_spots(path).level0_xy).astype(np.int64)
    rng = np.random.default_rng(3)
    lattice = np.stack(np.meshgrid(np.arange(14), np.arange(13)), axis=-1).reshape(-1, 2)
    return (1500 + 291 * lattice + rng.normal(0, 8, lattice.shape)).astype(np.int64)


def mosaic_tiff(folder: Path, quick: bool) -> Path:
    side = 12288 if quick else 20480
    path = folder / "mosaic.tif"
    return mosaic.write_pyramid(path, mosaic.mosaic(side), side, mosaic.jpeg_codec())


def section_tiff(folder: Path, quick: bool) -> Path:
    side = 9216
    rows: Iterator[mosaic.Picture]
    picture = mosaic.section_picture("C3")
    if picture is not None:
        side = min(picture.shape[:2])
        rows = (picture[y : y + mosaic.TILE_PX, :side] for y in range(0, side, mosaic.TILE_PX))
    else:
        rows = mosaic.mosaic(side)
    return mosaic.write_pyramid(folder / "section.tif", rows, side, mosaic.jpeg_codec())


def jpeg_svs(folder: Path, quick: bool) -> Path:
    side = 2048 if quick else 4096
    rows = mosaic.mosaic(side, first_px=3500)
    return mosaic.write_pyramid(folder / "j.svs", rows, side, mosaic.jpeg_codec(), aperio=True)


def jpeg2000_svs(folder: Path, quick: bool) -> Path:
    side = 1024 if quick else 2048
    rows = mosaic.mosaic(side, first_px=3500)
    return mosaic.write_pyramid(
        folder / "j2k.svs", rows, side, mosaic.jpeg2000_codec(), aperio=True
    )


def dicom(folder: Path, quick: bool) -> Path | None:
    path = mosaic.SHARED_DATA / "slides/dicom_cmu1_small/level-0-frames-0-30.dcm"
    return path if path.exists() else None


CASES = (
    TileCase(
        "grid",
        "the common case: a contiguous grid over a pyramidal JPEG TIFF, across its 256 tiles",
        mosaic_tiff,
        grid_plan,
    ),
    TileCase(
        "neighborhoods",
        "irregular spots of an array section, each with its own 5x5 tiles, 15-fold overlap",
        section_tiff,
        neighborhoods_plan,
        region_px=2 * REACH_PX,
    ),
    TileCase("grid_svs", "Aperio SVS with JPEG tiles", jpeg_svs, grid_plan),
    TileCase(
        "grid_jpeg2000", "Aperio SVS with JPEG 2000 tiles, slow to decode", jpeg2000_svs, grid_plan
    ),
    TileCase("grid_dicom", "a format that only OpenSlide reads", dicom, grid_plan),
)
