"""A picture that shows what was taken for tissue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.spots.tissue import TissueMask

OUTLINE_RGB = (20, 160, 60)
OUTLINE_PX_PER_SIDE = 1 / 500
"""Width of the outline as a share of the picture's longer side, at least one pixel."""
OUTSIDE_FADE = 0.6
"""How far what is not tissue is drawn towards white."""


def mask_overlay(picture: NDArray[np.uint8], tissue: TissueMask) -> NDArray[np.uint8]:
    """The slide's thumbnail (h, w, 3) with tissue outlined and everything else faded.

    ``picture`` shows the whole slide at any size; returns a new one of the same size.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    mask = _at_size(tissue.mask, picture.shape[0], picture.shape[1])
    shown = picture.astype(np.float32)
    shown[~mask] += (255 - shown[~mask]) * OUTSIDE_FADE
    width = max(1, round(max(picture.shape[:2]) * OUTLINE_PX_PER_SIDE))
    # Beyond the picture counts as tissue, so that its border is no outline.
    inner = binary_erosion(mask, iterations=width, border_value=1)
    outline = binary_dilation(mask, iterations=width) & ~inner
    shown[outline] = OUTLINE_RGB
    return np.asarray(np.round(shown).astype(np.uint8))


def _at_size(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """The mask pixel under the middle of each pixel of a picture of that size."""
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(np.int64)
    return np.asarray(mask[rows[:, None], columns])
