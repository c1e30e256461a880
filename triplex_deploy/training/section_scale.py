"""Compare a measured section with its slide: the scale, and where its spots lie."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from triplex_deploy.data import Section
from triplex_deploy.errors import DatasetError
from triplex_deploy.slides import Slide
from triplex_deploy.spots import check_array_scale, check_swapped, known_array

logger = logging.getLogger(__name__)

MAX_DIFFERENCE: Final = 0.25
"""Relative difference of two scales beyond which one of them is wrong."""
DOUBTFUL_DIFFERENCE: Final = 0.08
"""Relative difference above which a warning is given."""


def check_section_scale(section: Section, slide: Slide) -> None:
    """Compare microns per pixel of the data set, of the slide and of the lattice of spots.

    A difference is warned about. A large one between data set and slide is refused, as positions
    made on an image of another size give one, unless the user gave the scale.

    Args:
        section: The section.
        slide: Its opened slide.

    Raises:
        DatasetError: The scales differ by more than a quarter.
    """
    warnings = [check_swapped(slide, section.slide_mpp, section.level0_xy)]
    array = known_array(section.grid_rc, section.level0_xy, section.array)
    if array is not None:
        doubted = replace(array, is_certain=False)  # the scale may be the user's own
        warnings.append(
            check_array_scale(section.level0_xy, section.grid_rc, section.slide_mpp, doubted)
        )
    for warning in filter(None, warnings):
        logger.warning("%s: %s", section.name, warning)
    if slide.mpp is None:
        return
    difference = abs(section.slide_mpp / slide.mpp - 1)
    if difference <= DOUBTFUL_DIFFERENCE:
        return
    numbers = (
        f"{section.name}: {section.slide_mpp:.4g} um/px by the data set, {slide.mpp:.4g} by the "
        f"slide {section.slide_path.name}"
    )
    if difference > MAX_DIFFERENCE and not section.is_mpp_given:
        raise DatasetError(
            f"{numbers}; give the image that the positions were made on, or the right scale in the "
            "column mpp of --patients"
        )
    logger.warning("%s; check which is right", numbers)
