"""Compare the distance of spots on a measured array with the scale of the slide.

The distance of neighboring spots is known for arrays that are sold: 100 um for Visium, 200 um for
ST, the size of a bin for Visium HD. If the slide's microns per pixel give another distance, the
positions were made on an image of another size, or the scale of the slide is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.spots.spot_diameter import HEX_ROW, is_hexagonal

MAX_DIFFERENCE: Final = 0.25
"""Largest relative difference of the distances; beyond it, one of the two numbers is wrong."""
DOUBTFUL_DIFFERENCE: Final = 0.08
"""Relative difference above which a warning is given: scales in metadata are right within a few
percent."""
VISIUM_PITCH_UM: Final = 100.0
"""Distance of neighboring spots of Visium."""
ST_PITCH_UM: Final = 200.0
"""Distance of neighboring spots of the ST array."""


@dataclass(frozen=True)
class KnownArray:
    """An array of spots with a known distance of neighbors."""

    name: str
    """Name for messages."""
    pitch_um: float
    """Microns between neighboring spots."""
    step_um_rc: tuple[float, float]
    """Microns of one step of the row and of the column."""
    is_certain: bool = True
    """False if the array was recognized by its shape only, so that it may be another one."""


def visium(is_certain: bool = True) -> KnownArray:
    """Return Visium's array: columns of a row are 2 apart, rows are closer than spots."""
    steps = (VISIUM_PITCH_UM * HEX_ROW, VISIUM_PITCH_UM / 2)
    return KnownArray("Visium array", VISIUM_PITCH_UM, steps, is_certain)


def square(name: str, pitch_um: float) -> KnownArray:
    """Return a square array such as ST's, or the bins of Visium HD."""
    return KnownArray(name, pitch_um, (pitch_um, pitch_um))


def known_array(
    grid_rc: NDArray[np.int64], level0_xy: NDArray[np.float64], given: KnownArray | None
) -> KnownArray | None:
    """Return ``given``, or the Visium array if the spots form a hexagonal one, or None."""
    if given is None and len(grid_rc) > 2 and is_hexagonal(level0_xy, grid_rc):
        return visium(is_certain=False)
    return given


def check_array_scale(
    level0_xy: NDArray[np.float64],
    grid_rc: NDArray[np.int64],
    slide_mpp: float,
    array: KnownArray,
) -> str:
    """Check that neighboring spots are as far apart on the slide as on their array.

    Args:
        level0_xy: (N, 2) centers in level-0 pixels.
        grid_rc: (N, 2) array (row, column).
        slide_mpp: Microns per level-0 pixel of the slide.
        array: The array.

    Returns:
        A warning for the user; "" if all is well or the spots lie on one line.

    Raises:
        SpotsError: The distances differ by more than a quarter, and the array is known for certain.
    """
    design = np.column_stack([grid_rc, np.ones(len(grid_rc))])
    fit, _, rank, _ = np.linalg.lstsq(design, level0_xy)
    if rank < 3:
        return ""
    steps_px = np.linalg.norm(fit[:2], axis=1)
    mpp_rc = np.array(array.step_um_rc) / steps_px
    found_um = array.pitch_um * slide_mpp / mpp_rc
    worst_um = float(found_um[np.argmax(np.abs(np.log(found_um / array.pitch_um)))])
    difference = float(np.abs(found_um / array.pitch_um - 1).max())
    numbers = (
        f"neighboring spots are {worst_um:.3g} um apart at the slide's {slide_mpp:.4g} um/px, and "
        f"{array.pitch_um:g} um on a {array.name}"
    )
    if difference > MAX_DIFFERENCE and array.is_certain:
        raise SpotsError(
            f"{numbers}; give positions in pixels of this image, not of a smaller copy, with rows "
            f"and columns in place, or pass the scale that fits, --mpp {mpp_rc.mean():.4g}"
        )
    if difference > DOUBTFUL_DIFFERENCE:
        return f"{numbers}; check --mpp, and that the positions are in pixels of this image"
    if np.linalg.det(fit[[1, 0]]) < 0:
        return (
            f"the {array.name} is mirrored on this image; check that x and y of the positions are "
            "not swapped, unless the image itself is mirrored"
        )
    return ""
