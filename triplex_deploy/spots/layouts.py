"""Lay out spots over the tissue of a slide: a grid of square tiles, or a Visium lattice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import TILE_PX
from triplex_deploy.errors import SpotsError
from triplex_deploy.slides import Slide
from triplex_deploy.spots.spots import Spots
from triplex_deploy.spots.tissue_mask import TissueMask

MIN_TISSUE_FRACTION = 0.5
"""A spot is kept where tissue covers at least this much of it."""
PITCH_UM = 100.0
SPOT_UM = 55.0
ROW_UM = PITCH_UM * 3**0.5 / 2


def grid_spots(
    slide: Slide,
    view_size_wh: tuple[int, int],
    scale_xy: tuple[float, float],
    mpp: float,
    pitch_um: float | None,
    tissue: TissueMask,
) -> Spots:
    """Tiles of 224 px wholly inside the view of a slide and at least half on tissue.

    The view is the slide at ``mpp``, ``view_size_wh`` pixels with ``scale_xy`` level-0 pixels each.
    ``pitch_um`` is the distance of tile centres; None puts tiles edge to edge, which lets
    neighbourhoods share every tile. Centres lie at integers of the view, the first at (112, 112).
    Raises ``SpotsError`` where no tile fits.
    """
    scale = np.array(scale_xy)
    width, height = view_size_wh
    pitch_px = TILE_PX if pitch_um is None else pitch_um / mpp
    if not pitch_px >= 1:
        raise SpotsError(
            f"pitch {pitch_um:g} um: is below a pixel; give the spacing of spots in um"
        )
    columns, rows = _centers(width, pitch_px), _centers(height, pitch_px)
    if not columns.size or not rows.size:
        raise SpotsError(
            f"{slide.path}: {width}x{height} pixels at the model's scale, less than one tile of "
            f"{TILE_PX}; use a larger slide or check --mpp"
        )
    row, column = (axis.ravel() for axis in np.mgrid[: rows.size, : columns.size])
    center_xy = np.stack([columns[column], rows[row]], axis=1)
    half = TILE_PX // 2
    boxes = np.hstack([(center_xy - half) * scale, (center_xy + half) * scale])
    kept = tissue.fraction(boxes) >= MIN_TISSUE_FRACTION
    if not kept.any():
        raise SpotsError(
            f"{slide.path}: no tile is at least half on tissue; list spots in a file (--spots)"
        )
    grid_rc = np.stack([row, column], axis=1)[kept].astype(np.int64)
    return Spots(center_xy[kept] * scale, grid_rc, "grid", TILE_PX * float(scale.mean()))


def visium_spots(slide: Slide, slide_mpp: float, tissue: TissueMask) -> Spots:
    """Spots of 55 um, 100 um apart, wholly inside the slide and at least half on tissue.

    Array coordinates are Space Ranger's: columns of a row are 2 apart and odd rows have odd
    columns. Raises ``SpotsError`` where no spot fits.
    """
    width_um, height_um = (side * slide_mpp for side in slide.level_sizes[0])
    rows = int((height_um - SPOT_UM) // ROW_UM) + 1
    columns = int((width_um - SPOT_UM) // (PITCH_UM / 2)) + 1
    row, column = (axis.ravel() for axis in np.mgrid[: max(0, rows), : max(0, columns)])
    on_lattice = (row + column) % 2 == 0
    row, column = row[on_lattice], column[on_lattice]
    center_um = np.stack([column * PITCH_UM / 2, row * ROW_UM], axis=1) + SPOT_UM / 2
    boxes_um = np.concatenate([center_um - SPOT_UM / 2, center_um + SPOT_UM / 2], axis=1)
    kept = tissue.fraction(boxes_um / slide_mpp) >= MIN_TISSUE_FRACTION
    if not kept.any():
        raise SpotsError(
            f"{slide.path}: no Visium spot is half on tissue; list spots in a file (--spots)"
        )
    grid_rc = np.stack([row, column], axis=1)[kept].astype(np.int64)
    return Spots(center_um[kept] / slide_mpp, grid_rc, "visium", SPOT_UM / slide_mpp)


def _centers(length: int, pitch_px: float) -> NDArray[np.int64]:
    """Tile centres along one axis of the view, where the whole tile is inside."""
    half = TILE_PX // 2
    steps = np.arange(max(0, int((length - TILE_PX) / pitch_px) + 2))
    centers = half + np.round(steps * pitch_px).astype(np.int64)
    return centers[centers + half <= length]
