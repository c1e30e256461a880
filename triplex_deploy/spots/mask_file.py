"""Tissue masks that do not come from the slide: a picture, or the whole slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.slides import Slide
from triplex_deploy.spots.tissue import TissueMask

MAX_ASPECT_DIFFERENCE = 0.02
"""A mask whose sides differ from the slide's by more than this belongs to another slide."""


def read_mask(path: str | Path, slide: Slide) -> TissueMask:
    """A black and white picture of the whole slide at any size; what is not black is tissue.

    PNG, TIFF, JPEG or any other image; where it has transparency, only that counts if its colours
    are all alike. Raises ``SpotsError`` where it is no image, has no tissue, or another shape than
    the slide.
    """
    mask = _picture(Path(path))
    height, width = mask.shape
    slide_width, slide_height = slide.level_sizes[0]
    aspect = (width / height) / (slide_width / slide_height)
    # Rounding to whole mask pixels changes the shape of small masks.
    tolerance = MAX_ASPECT_DIFFERENCE + 1 / width + 1 / height
    if abs(aspect - 1) > tolerance:
        raise SpotsError(
            f"{path}: the mask is {width}x{height}, the slide {slide_width}x{slide_height}; "
            "draw it over a picture of the whole slide"
        )
    if not mask.any():
        raise SpotsError(f"{path}: the mask is all black; tissue is what is not black")
    return TissueMask(mask, (slide_width / width, slide_height / height))


def whole_slide_mask(slide: Slide) -> TissueMask:
    """A mask under which everything counts as tissue."""
    width, height = slide.level_sizes[0]
    return TissueMask(np.ones((1, 1), np.bool_), (float(width), float(height)))


def _picture(path: Path) -> NDArray[np.bool_]:
    from PIL import Image

    if not path.exists():
        raise SpotsError(f"{path}: no such mask file; check the path")
    with damage_as(SpotsError, f"{path}: not a picture of a mask", "pass a PNG"):
        try:
            with Image.open(path) as image:
                bands = np.asarray(image.convert("RGBA"))
        except Image.DecompressionBombError as error:
            what = f"{path}: the mask is too large; a few thousand pixels are enough"
            raise SpotsError(what) from error
    colour, alpha = bands[..., :3], bands[..., 3]
    if (alpha < 255).any() and (colour == colour[0, 0]).all():
        return np.asarray(alpha > 0)
    return np.asarray((colour.max(axis=2) > 0) & (alpha > 0))
