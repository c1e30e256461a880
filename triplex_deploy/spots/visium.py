"""The hexagonal lattice of a Visium array, laid over the tissue of any slide."""

from __future__ import annotations

import numpy as np

from triplex_deploy.errors import SpotsError
from triplex_deploy.slides import Slide
from triplex_deploy.spots.grid import MIN_TISSUE_FRACTION
from triplex_deploy.spots.spots import Spots
from triplex_deploy.spots.tissue import TissueMask

PITCH_UM = 100.0
SPOT_UM = 55.0
ROW_UM = PITCH_UM * 3**0.5 / 2


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
