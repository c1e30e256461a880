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
"""A spot is kept where tissue covers at least this share of it, unless another is asked for."""
PITCH_UM = 100.0
"""Distance of neighboring spots on a Visium array."""
SPOT_UM = 55.0
"""Diameter of a Visium spot."""
ROW_UM = PITCH_UM * 3**0.5 / 2
"""Distance of two rows of a Visium array."""


def grid_spots(
    slide: Slide,
    view_size_wh: tuple[int, int],
    scale_xy: tuple[float, float],
    mpp: float,
    pitch_um: float | None,
    tissue: TissueMask,
    min_tissue: float = MIN_TISSUE_FRACTION,
) -> Spots:
    """Return a grid of tiles inside the slide's view that are at least half on tissue.

    Centers lie at whole pixels of the view, the first at (112, 112). Tiles that reach beyond the
    right or lower edge are left out; ``note`` has their number if they hold tissue.

    Args:
        slide: The slide, for messages.
        view_size_wh: Width and height of the slide at ``mpp``, in pixels.
        scale_xy: Level-0 pixels per pixel of the view, along x and y.
        mpp: Microns per pixel of the view.
        pitch_um: Distance of tile centers. None puts tiles edge to edge, so that neighborhoods
            share every tile.
        tissue: Where the tissue is.
        min_tissue: Least share of a tile that is tissue.

    Raises:
        SpotsError: No tile fits, or the pitch is below one pixel.
    """
    scale = np.array(scale_xy)
    width, height = view_size_wh
    pitch_px = TILE_PX if pitch_um is None else pitch_um / mpp
    if not pitch_px >= 1:
        raise SpotsError(
            f"pitch {pitch_um:g} um: is below one pixel; give the spacing of spots in microns"
        )
    columns, rows = _centers(width, pitch_px), _centers(height, pitch_px)
    if not columns.size or not rows.size:
        raise SpotsError(
            f"{slide.path}: {width}x{height} pixels at the model's scale, less than one tile of "
            f"{TILE_PX}; use a larger slide or check --mpp"
        )
    row, column = (axis.ravel() for axis in np.mgrid[: rows.size, : columns.size])
    center_xy = np.stack([columns[column], rows[row]], axis=1)
    kept = tissue.fraction(_boxes(center_xy, scale)) >= min_tissue
    if not kept.any():
        raise SpotsError(
            f"{slide.path}: no tile has {min_tissue:.0%} of tissue; use a smaller --min-tissue, or "
            "list spots in a file (--spots)"
        )
    grid_rc = np.stack([row, column], axis=1)[kept].astype(np.int64)
    return Spots(
        center_xy[kept] * scale,
        grid_rc,
        "grid",
        TILE_PX * float(scale.mean()),
        _note_of_edge(_edge_tiles(columns, rows, pitch_px), scale, tissue, min_tissue),
    )


def visium_spots(
    slide: Slide, slide_mpp: float, tissue: TissueMask, min_tissue: float = MIN_TISSUE_FRACTION
) -> Spots:
    """Return the spots of a Visium lattice inside the slide that are at least half on tissue.

    Spots are 55 um wide and 100 um apart. Array coordinates follow Space Ranger: the columns of a
    row are 2 apart, and row + column is even.

    Args:
        slide: The slide.
        slide_mpp: Microns per level-0 pixel.
        tissue: Where the tissue is.
        min_tissue: Least share of a spot that is tissue.

    Raises:
        SpotsError: No spot fits.
    """
    width_um, height_um = (side * slide_mpp for side in slide.level_sizes[0])
    rows = int((height_um - SPOT_UM) // ROW_UM) + 1
    columns = int((width_um - SPOT_UM) // (PITCH_UM / 2)) + 1
    row, column = (axis.ravel() for axis in np.mgrid[: max(0, rows), : max(0, columns)])
    on_lattice = (row + column) % 2 == 0
    row, column = row[on_lattice], column[on_lattice]
    center_um = np.stack([column * PITCH_UM / 2, row * ROW_UM], axis=1) + SPOT_UM / 2
    boxes_um = np.concatenate([center_um - SPOT_UM / 2, center_um + SPOT_UM / 2], axis=1)
    kept = tissue.fraction(boxes_um / slide_mpp) >= min_tissue
    if not kept.any():
        raise SpotsError(
            f"{slide.path}: no Visium spot has {min_tissue:.0%} of tissue; use a smaller "
            "--min-tissue, or list spots in a file (--spots)"
        )
    grid_rc = np.stack([row, column], axis=1)[kept].astype(np.int64)
    return Spots(center_um[kept] / slide_mpp, grid_rc, "visium", SPOT_UM / slide_mpp)


def _boxes(center_xy: NDArray[np.int64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return left, top, right and bottom (N, 4) of tiles in level-0 pixels."""
    half = TILE_PX // 2
    return np.hstack([(center_xy - half) * scale, (center_xy + half) * scale])


def _edge_tiles(
    columns: NDArray[np.int64], rows: NDArray[np.int64], pitch_px: float
) -> NDArray[np.int64]:
    """Return the centers (N, 2) of the next tiles of the grid to the right and below."""
    beyond_x, beyond_y = (int(np.round(line[-1] + pitch_px)) for line in (columns, rows))
    right = [(beyond_x, int(y)) for y in (*rows, beyond_y)]
    return np.array([*right, *((int(x), beyond_y) for x in columns)], np.int64)


def _note_of_edge(
    center_xy: NDArray[np.int64],
    scale: NDArray[np.float64],
    tissue: TissueMask,
    min_tissue: float,
) -> str:
    """Tell how many tiles with enough tissue reach beyond the slide; places outside hold none."""
    count = int((tissue.fraction(_boxes(center_xy, scale)) >= min_tissue).sum())
    if not count:
        return ""
    return (
        f"{count} tiles at the right or lower edge reach beyond the slide and are not "
        "predicted; to predict there, list spots in a file (--spots)"
    )


def _centers(length: int, pitch_px: float) -> NDArray[np.int64]:
    """Return the tile centers along one axis of the view at which the whole tile is inside."""
    half = TILE_PX // 2
    steps = np.arange(max(0, int((length - TILE_PX) / pitch_px) + 2))
    centers = half + np.round(steps * pitch_px).astype(np.int64)
    return centers[centers + half <= length]
