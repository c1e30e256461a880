"""Notice positions with x and y exchanged, by where they lie on the slide and its tissue.

Spots on a known array with measured places need no look at the tissue: exchanged columns mirror
the array, see ``scale``.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError, SpotsError
from triplex_deploy.slides import Slide
from triplex_deploy.spots.tissue import tissue_mask
from triplex_deploy.spots.tissue_mask import TissueMask

MIN_GAIN: Final = 0.2
"""By how much more of the spots must lie on tissue once x and y are exchanged. Spots that are in
place lie on tissue nearly all."""

MIN_ON_TISSUE: Final = 0.5
"""Least share of the spots that must lie on tissue once x and y are exchanged."""


def check_swapped(slide: Slide, slide_mpp: float, level0_xy: NDArray[np.float64]) -> str:
    """Compare how many spots lie on tissue with how many do once x and y are exchanged.

    Args:
        slide: The slide.
        slide_mpp: Microns per level-0 pixel.
        level0_xy: (N, 2) centers in level-0 pixels, inside the slide.

    Returns:
        A warning for the user; "" if all is well, or no tissue is found.
    """
    if not (level0_xy[:, ::-1] < slide.level_sizes[0]).all():
        return ""  # exchanged, they would not lie on the slide
    with suppress(SlideError, SpotsError):  # unreadable, or without tissue: nothing to compare with
        return swapped_warning(level0_xy, tissue_mask(slide, slide_mpp, skip_bad=True))
    return ""


def swapped_warning(level0_xy: NDArray[np.float64], tissue: TissueMask) -> str:
    """Return a warning if clearly more centers (N, 2) lie on tissue with x and y exchanged."""
    count = len(level0_xy)
    given, exchanged = (int(tissue.holds(xy).sum()) for xy in (level0_xy, level0_xy[:, ::-1]))
    if exchanged - given < MIN_GAIN * count or exchanged < MIN_ON_TISSUE * count:
        return ""
    return (
        f"{given} of {count} spots lie on tissue, and {exchanged} of {count} with x and y "
        "exchanged; check that the columns of x and y are not swapped"
    )
