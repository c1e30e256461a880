"""Compute microns per pixel from the known spacing of the array."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import DatasetError

ST_STEP_UM: Final = (200.0, 200.0)
"""Distance of two rows and of two columns of a Spatial Transcriptomics array, in microns."""
VISIUM_STEP_UM: Final = (50.0 * np.sqrt(3.0), 50.0)
"""The same of a Visium array: neighbors are 100 um apart, a column is half of that."""
MAX_ANISOTROPY: Final = 0.1
"""Largest relative difference between the scales of rows and columns."""


def mpp_from_array(
    name: str,
    array_rc: NDArray[np.floating],
    level0_xy: NDArray[np.float64],
    step_um_rc: tuple[float, float],
) -> float:
    """Return the microns per pixel of the affine map from array coordinates to spot centers.

    Args:
        name: Name of the section, for errors.
        array_rc: Array positions (N, 2): row, column.
        level0_xy: Spot centers (N, 2): x, y in level-0 pixels.
        step_um_rc: Distance of two rows and of two columns, in microns.

    Raises:
        DatasetError: The spots lie on a line, or the scales of the two axes differ by more than
            10 %.
    """
    design = np.column_stack([array_rc, np.ones(len(array_rc))])
    fit, _, rank, _ = np.linalg.lstsq(design, level0_xy)
    if rank < 3:
        raise DatasetError(
            f"{name}: its spots lie on a line, so the scale is unknown; give its mpp"
        )
    mpp_rc = np.array(step_um_rc) / np.linalg.norm(fit[:2], axis=1)
    if abs(mpp_rc[0] / mpp_rc[1] - 1) > MAX_ANISOTROPY:
        raise DatasetError(
            f"{name}: rows give {mpp_rc[0]:.3g} um/px, columns {mpp_rc[1]:.3g}; check that array "
            "and pixel columns are not mixed up, or give its mpp"
        )
    return float(mpp_rc.mean())
