"""Find the physical scale of a slide: microns per level-0 pixel."""

from __future__ import annotations

import logging
import math

from triplex_deploy.errors import SlideError
from triplex_deploy.slides.slide import Slide

logger = logging.getLogger(__name__)

MIN_MPP = 0.05
MAX_MPP = 5.0
"""Smallest and largest plausible scale."""
MAX_ANISOTROPY = 0.05
"""Largest relative difference of x and y."""
OVERRIDE_TOLERANCE = 0.01
"""Relative difference from the metadata above which an override is logged."""


def is_plausible_mpp(mpp: float) -> bool:
    """Return True if a light microscope can have pixels of this size; False for NaN."""
    return math.isfinite(mpp) and MIN_MPP <= mpp <= MAX_MPP


def plausible_mpp_xy(x: float, y: float) -> tuple[float, float] | None:
    """Return the pair, or None if a value is implausible, such as a printing resolution."""
    return (x, y) if is_plausible_mpp(x) and is_plausible_mpp(y) else None


def resolve_mpp(slide: Slide, override: float | None) -> float:
    """Return the microns per level-0 pixel of a slide.

    Args:
        slide: The opened slide.
        override: The value to use instead of the metadata, or None.

    Returns:
        The override, or else the mean of x and y in the metadata.

    Raises:
        SlideError: There is no value, it is outside 0.05 to 5 um/px, or x and y of the metadata
            differ by more than 5 %.
    """
    if override is not None:
        return _checked_override(slide, override)
    if slide.mpp is None:
        raise SlideError(
            f"{slide.path}: its metadata have no plausible microns per pixel; look it up "
            "in the scanner's software, and pass it, such as --mpp 0.25"
        )
    if not is_plausible_mpp(slide.mpp):
        raise SlideError(
            f"{slide.path}: its metadata say {slide.mpp:g} um/px, outside {MIN_MPP:g} to "
            f"{MAX_MPP:g}; pass the true value with --mpp"
        )
    x, y = slide.mpp_xy or (slide.mpp, slide.mpp)
    if abs(x - y) > MAX_ANISOTROPY * min(x, y):
        raise SlideError(
            f"{slide.path}: its pixels are not square, {x:g} by {y:g} um; "
            "resample the slide, or pass one value with --mpp"
        )
    return slide.mpp


def _checked_override(slide: Slide, override: float) -> float:
    if not is_plausible_mpp(override):
        raise SlideError(
            f"{slide.path}: --mpp {override:g} um/px lies outside {MIN_MPP:g} to {MAX_MPP:g}; "
            "pass microns per level-0 pixel, such as 0.5"
        )
    if slide.mpp is not None and abs(override / slide.mpp - 1) > OVERRIDE_TOLERANCE:
        logger.warning(
            "%s: using %g um/px as given, the metadata say %g", slide.path, override, slide.mpp
        )
    return float(override)
