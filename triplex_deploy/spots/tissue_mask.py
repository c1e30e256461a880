"""Represent where the tissue of a slide is, read it from a file, and draw it on a picture."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.regular import require_regular_file
from triplex_deploy.slides import Slide
from triplex_deploy.spots.geojson_mask import draw_geojson, is_geojson

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

logger = logging.getLogger(__name__)

MAX_ASPECT_DIFFERENCE = 0.02
"""Largest relative difference of a mask's and the slide's aspect ratio; above it, the mask belongs
to another slide."""

MAX_CLASSES: Final = 15
"""A gray picture without brighter values holds numbers of classes, as black and white would not."""
MASK_ORIGINS: Final = ("scanned", "slide")
"""Where coordinates of GeoJSON begin: at the corner of the scanned part, as in QuPath, or at that
of the slide."""

OUTLINE_RGB = (20, 160, 60)
"""Color of the outline of tissue."""
OUTLINE_PX_PER_SIDE = 1 / 500
"""Width of the outline as a share of the picture's longer side, at least one pixel."""
OUTSIDE_FADE = 0.6
"""How far places without tissue are faded to white: 0 not at all, 1 fully."""


@dataclass(frozen=True)
class TissueMask:
    """Where the tissue of a slide is; row 0, column 0 is the slide's top left corner."""

    mask: NDArray[np.bool_]
    """(h, w) over the whole slide, True for tissue."""
    level0_per_px: tuple[float, float]
    """Level-0 pixels per mask pixel along x and y."""

    def fraction(self, level0_boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the share (N,) of each box that is tissue.

        ``level0_boxes`` is (N, 4): left, top, right and bottom in level-0 pixels. Mask pixels
        count by the part that lies in the box. Places outside the slide are not tissue.
        """
        height, width = self.mask.shape
        area = np.zeros((height + 1, width + 1))
        area[1:, 1:] = self.mask.cumsum(axis=0).cumsum(axis=1)
        boxes = np.asarray(level0_boxes, np.float64) / np.tile(self.level0_per_px, 2)
        left, top, right, bottom = boxes.T
        tissue = (
            _at(area, bottom, right)
            - _at(area, top, right)
            - _at(area, bottom, left)
            + _at(area, top, left)
        )
        return np.asarray(tissue / ((right - left) * (bottom - top)))

    def holds(self, level0_xy: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return True (N,) for each point (N, 2), in level-0 pixels, that is on tissue."""
        column, row = np.floor(level0_xy / self.level0_per_px).astype(np.int64).T
        height, width = self.mask.shape
        return np.asarray(self.mask[row.clip(0, height - 1), column.clip(0, width - 1)])


def read_mask(
    path: str | Path, slide: Slide, mask_class: str | None = None, origin: str = "scanned"
) -> TissueMask:
    """Read a mask from GeoJSON, or from a picture of the whole slide in which all but black counts.

    Args:
        path: Regions as QuPath exports them (``.geojson``, ``.json``, also ``.gz``), or a PNG,
            TIFF, JPEG or other image of any size. Transparent places are not tissue. If the picture
            has a single color and transparency, only the transparency counts.
        slide: The slide.
        mask_class: Name of the regions that count; in a gray picture, the value that counts, such
            as 1 in ``mask_qc`` of GrandQC and 0 in its ``tis_det_mask``.
        origin: Where the coordinates of regions begin, one of ``MASK_ORIGINS``.

    Returns:
        The mask.

    Raises:
        SpotsError: The file is not a mask, has nothing of that class, is all black, or does not
            belong to the slide.
    """
    path = Path(path)
    if is_geojson(path):
        return _regions(path, slide, mask_class, origin)
    mask = _picture(path, mask_class)
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
        raise SpotsError(f"{path}: the mask is all black; draw tissue in white")
    return TissueMask(mask, (slide_width / width, slide_height / height))


def _regions(path: Path, slide: Slide, mask_class: str | None, origin: str) -> TissueMask:
    width, height = slide.level_sizes[0]
    origin_xy = slide.scanned_xy if origin == "scanned" else (0, 0)
    if origin_xy != (0, 0):
        logger.warning(
            "%s: its coordinates are taken to begin at the scanned part of the slide, (%d, %d), as "
            "in QuPath; --mask-origin slide takes them from the slide's corner",
            path,
            *origin_xy,
        )
    mask = draw_geojson(path, (width, height), origin_xy, mask_class)
    return TissueMask(mask, (width / mask.shape[1], height / mask.shape[0]))


def whole_slide_mask(slide: Slide) -> TissueMask:
    """Return a mask by which the whole slide is tissue."""
    width, height = slide.level_sizes[0]
    return TissueMask(np.ones((1, 1), np.bool_), (float(width), float(height)))


def mask_overlay(picture: NDArray[np.uint8], tissue: TissueMask) -> NDArray[np.uint8]:
    """Return a copy of ``picture`` (h, w, 3) with tissue outlined and other places faded.

    ``picture`` shows the whole slide at any size.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    mask = _at_size(tissue.mask, picture.shape[0], picture.shape[1])
    shown = picture.astype(np.float32)
    shown[~mask] += (255 - shown[~mask]) * OUTSIDE_FADE
    width = max(1, round(max(picture.shape[:2]) * OUTLINE_PX_PER_SIDE))
    # Places beyond the picture count as tissue, so that its border gets no outline.
    inner = binary_erosion(mask, iterations=width, border_value=1)
    outline = binary_dilation(mask, iterations=width) & ~inner
    shown[outline] = OUTLINE_RGB
    return np.asarray(np.round(shown).astype(np.uint8))


def _picture(path: Path, mask_class: str | None) -> NDArray[np.bool_]:
    from PIL import Image

    require_regular_file(path, SpotsError, "mask file")
    with damage_as(SpotsError, f"{path}: not a picture of a mask", "pass a PNG"):
        try:
            with (
                warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
                Image.open(path) as image,
            ):
                if mask_class is not None or image.mode == "L":
                    classes = _of_classes(path, image, mask_class)
                    if classes is not None:
                        return classes
                bands = np.asarray(image.convert("RGBA"))
        except Image.DecompressionBombError as error:
            what = f"{path}: the mask is too large; a few thousand pixels are enough"
            raise SpotsError(what) from error
    color, alpha = bands[..., :3], bands[..., 3]
    if (alpha < 255).any() and (color == color[0, 0]).all():
        return np.asarray(alpha > 0)
    return np.asarray((color.max(axis=2) > 0) & (alpha > 0))


def _of_classes(path: Path, image: Picture, mask_class: str | None) -> NDArray[np.bool_] | None:
    """Return where a picture of class numbers has the chosen one; None if it is black and white."""
    if mask_class is not None and (image.mode not in ("L", "P", "1") or not mask_class.isdecimal()):
        raise SpotsError(
            f"{path}: no class {mask_class!r} in a picture of mode {image.mode}; give the number "
            "of a class in a gray picture, or regions as .geojson"
        )
    values = np.asarray(image)
    found = [int(value) for value in np.unique(values)]
    if mask_class is not None:
        if int(mask_class) not in found:
            listed = ", ".join(map(str, found[:MAX_CLASSES]))
            raise SpotsError(f"{path}: no class {mask_class} (it has {listed}); give one of them")
        return np.asarray(values == int(mask_class))
    if not 0 < found[-1] <= MAX_CLASSES:
        return None
    if found == [0, 1]:
        logger.warning(
            "%s: its values are 0 and 1, and 1 counts as tissue; in tis_det_mask of GrandQC 0 is "
            "tissue: --mask-class 0",
            path,
        )
        return None
    raise SpotsError(
        f"{path}: holds the classes {', '.join(map(str, found))}, not black and white; choose one "
        "with --mask-class, such as 1 for tissue in mask_qc of GrandQC"
    )


def _at_size(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask pixel under the middle of each pixel of a (height, width) picture."""
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(np.int64)
    return np.asarray(mask[rows[:, None], columns])


def _at(
    area: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the summed area (N,) at fractional corners, clipped to the mask."""
    rows = np.clip(rows, 0, area.shape[0] - 1)
    columns = np.clip(columns, 0, area.shape[1] - 1)
    r = np.minimum(rows.astype(np.int64), area.shape[0] - 2)
    c = np.minimum(columns.astype(np.int64), area.shape[1] - 2)
    dr, dc = rows - r, columns - c
    upper = area[r, c] * (1 - dc) + area[r, c + 1] * dc
    lower = area[r + 1, c] * (1 - dc) + area[r + 1, c + 1] * dc
    return np.asarray(upper * (1 - dr) + lower * dr)
