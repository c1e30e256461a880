"""Microns per pixel from the known spacing of the array, for images that name none."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import DatasetError

ST_STEP_UM: Final = (200.0, 200.0)
"""Spatial Transcriptomics: rows and columns 200 um apart."""
VISIUM_STEP_UM: Final = (50.0 * np.sqrt(3.0), 50.0)
"""Visium: 100 um between neighbours; a step of one column is half of that."""
MAX_ANISOTROPY: Final = 0.1


def mpp_from_array(
    name: str,
    array_rc: NDArray[np.floating],
    level0_xy: NDArray[np.float64],
    step_um_rc: tuple[float, float],
) -> float:
    """Microns per pixel of the affine map that takes array places (N, 2) to centres (N, 2).

    ``step_um_rc`` are the microns of one step of row and of column. Raises ``DatasetError`` where
    the spots do not span both, or where the two axes disagree by more than 10 %.
    """
    design = np.column_stack([array_rc, np.ones(len(array_rc))])
    fit, _, rank, _ = np.linalg.lstsq(design, level0_xy)
    if rank < 3:
        raise DatasetError(f"{name}: its spots lie on one line, which gives no scale; give its mpp")
    mpp_rc = np.array(step_um_rc) / np.linalg.norm(fit[:2], axis=1)
    if abs(mpp_rc[0] / mpp_rc[1] - 1) > MAX_ANISOTROPY:
        raise DatasetError(
            f"{name}: rows give {mpp_rc[0]:.3g} um/px, columns {mpp_rc[1]:.3g}; check that array "
            "and pixel columns are not mixed up, or give its mpp"
        )
    return float(mpp_rc.mean())
