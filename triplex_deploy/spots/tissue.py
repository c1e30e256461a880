"""Where the tissue of an H&E slide is.

Array slides are photographed on backgrounds from white to pink or grey, uneven, with printed
dots, shadows and pen marks, so brightness tells little. Two things do: glass is smooth, tissue is
not; and both stains absorb green more than they absorb red and blue together. The background is
estimated from the smooth places around each point, and what absorbs green beyond it is tissue.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.slides import Slide, thumbnail
from triplex_deploy.spots.tissue_mask import TissueMask

MASK_UM = 8.0
"""Micrometres per mask pixel, about one nucleus."""
MAX_MASK_PX = 4096
TEXTURE_WINDOW_PX = 5
MAX_GLASS_TEXTURE = 0.03
"""Local standard deviation of optical density; glass measures below 0.01, tissue above 0.04."""
MAX_GLASS_TINT = 0.1
"""Pink light glass measures 0.08 on the stain scale, grey glass 0."""
MAX_STAIN_ABOVE_GLASS = 0.15
MAX_SHADE = 0.7
"""Smooth places this much more stained, or denser, than the clearest ones are not glass."""
GLASS_REACH_PX = 50.0
GLASS_STEP_PX = 8
MIN_GLASS_WEIGHT = 0.02
STAIN_BLUR_PX = 2.0
STAIN_THRESHOLD_RANGE = (0.05, 0.10)
"""Otsu's threshold is kept within these, since a blank or a full slide has no two classes."""
MIN_STAIN_SHARE = 0.1
"""Of the mean density; below, what is dark is black ink or dirt. Both stains have over 0.5."""
MAX_INK = 0.25
"""Red absorbed beyond green: more than haematoxylin does, as blue and green ink do."""
MIN_TISSUE_UM2 = 20_000.0
MAX_HOLE_UM2 = 50_000.0

Density = NDArray[np.float32]


def tissue_mask(slide: Slide, slide_mpp: float, skip_bad: bool = False) -> TissueMask:
    """Find the tissue of an H&E slide at about 8 um per pixel.

    Raises ``SpotsError`` where there is none. Red ink cannot be told from eosin. With ``skip_bad``
    unreadable places count as background.
    """
    width, height = slide.level_sizes[0]
    longest_px = min(MAX_MASK_PX, max(1, round(max(width, height) * slide_mpp / MASK_UM)))
    picture = thumbnail(slide, longest_px, skip_bad)
    mask_um = slide_mpp * max(width, height) / max(picture.shape[:2])
    mask = find_tissue(picture, mask_um)
    if not mask.any():
        raise SpotsError(
            f"{slide.path}: no tissue found; if there is some, list its spots in a file (--spots)"
        )
    return TissueMask(mask, (width / mask.shape[1], height / mask.shape[0]))


def find_tissue(rgb: NDArray[np.uint8], um_per_px: float) -> NDArray[np.bool_]:
    """Mask (h, w) of a picture (h, w, 3) at about 8 um per pixel."""
    from scipy.ndimage import binary_fill_holes, gaussian_filter
    from skimage.filters import threshold_otsu

    density = -np.log((rgb.astype(np.float32) + 1) / 256)
    density -= _glass_density(density)
    stain = gaussian_filter(_stain(density), STAIN_BLUR_PX)
    ink = gaussian_filter(density[..., 0] - density[..., 1], STAIN_BLUR_PX) > MAX_INK
    otsu = float(threshold_otsu(stain))  # type: ignore[no-untyped-call]
    black = stain < MIN_STAIN_SHARE * gaussian_filter(density.mean(axis=2), STAIN_BLUR_PX)
    mask = (stain > np.clip(otsu, *STAIN_THRESHOLD_RANGE)) & ~ink & ~black
    px_um2 = um_per_px**2
    mask &= ~_small_parts(mask, MIN_TISSUE_UM2 / px_um2)
    holes = binary_fill_holes(mask) & ~mask
    return np.asarray(mask | _small_parts(holes, MAX_HOLE_UM2 / px_um2))


def _small_parts(mask: NDArray[np.bool_], max_px: float) -> NDArray[np.bool_]:
    """The connected parts of fewer than ``max_px`` pixels."""
    from scipy.ndimage import label

    parts, _ = label(mask)
    small = np.bincount(parts.ravel()) < max_px
    small[0] = False
    return np.asarray(small[parts])


def _stain(density: Density) -> Density:
    """Green absorbed beyond the lesser of red and blue: 0 for grey, negative for green."""
    return np.asarray(density[..., 1] - np.minimum(density[..., 0], density[..., 2]))


def _glass_density(density: Density) -> Density:
    """Optical density of the glass around each pixel, (h, w, 3); 0 where the slide shows none."""
    glass = _smooth_places(density)
    if not glass.any():
        return np.zeros_like(density)
    typical = np.median(density[glass], axis=0)
    weight = glass[..., None].astype(np.float32)
    around = _around(np.concatenate([density * weight, weight], axis=2))
    local = (around[..., :3] + MIN_GLASS_WEIGHT * typical) / (around[..., 3:] + MIN_GLASS_WEIGHT)
    return np.asarray(local, np.float32)


def _around(values: Density) -> Density:
    """Gaussian mean (h, w, C) over ``GLASS_REACH_PX``, at an eighth of the scale: it is smooth."""
    from scipy.ndimage import gaussian_filter1d
    from skimage.transform import resize

    height, width, channels = values.shape
    pad = [(0, -height % GLASS_STEP_PX), (0, -width % GLASS_STEP_PX), (0, 0)]
    padded = np.pad(values, pad, mode="edge")
    rows, columns = (side // GLASS_STEP_PX for side in padded.shape[:2])
    blocks = padded.reshape(rows, GLASS_STEP_PX, columns, GLASS_STEP_PX, channels)
    coarse = blocks.mean(axis=(1, 3))
    for axis in (0, 1):
        coarse = gaussian_filter1d(coarse, GLASS_REACH_PX / GLASS_STEP_PX, axis)
    fine = resize(coarse, (*padded.shape[:2], channels), order=1, mode="edge")  # type: ignore[no-untyped-call]
    return np.asarray(fine[:height, :width], np.float32)


def _smooth_places(density: Density) -> NDArray[np.bool_]:
    from scipy.ndimage import uniform_filter

    grey = density.mean(axis=2).astype(np.float64)
    variance = (
        uniform_filter(grey**2, TEXTURE_WINDOW_PX) - uniform_filter(grey, TEXTURE_WINDOW_PX) ** 2
    )
    smooth: NDArray[np.bool_] = variance < MAX_GLASS_TEXTURE**2
    stain = _stain(density)
    if not smooth.any():
        return smooth
    clearest = np.clip(np.percentile(stain[smooth], 5), -MAX_GLASS_TINT, MAX_GLASS_TINT)
    brightest = np.percentile(grey[smooth], 5)
    alike = np.abs(stain - clearest) < MAX_STAIN_ABOVE_GLASS
    return np.asarray(smooth & alike & (grey < brightest + MAX_SHADE))
