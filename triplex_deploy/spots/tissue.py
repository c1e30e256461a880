"""Find the tissue of an H&E slide.

Slides of arrays have backgrounds from white to pink or gray, which are uneven and show printed
dots, shadows and pen marks. So brightness alone does not separate tissue from glass. Two properties
do: glass is smooth and tissue is not, and both stains absorb more green than red or blue. The
background is estimated from smooth places around each pixel. A pixel is tissue if it absorbs more
green than its background.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.slides import Slide, thumbnail
from triplex_deploy.spots.tissue_mask import TissueMask

MASK_UM = 8.0
"""Microns per mask pixel, about one nucleus."""
MAX_MASK_PX = 4096
"""Longest side of the mask."""
TEXTURE_WINDOW_PX = 5
"""Side of the window in which texture is measured."""
MAX_GLASS_TEXTURE = 0.03
"""Largest local standard deviation of optical density on glass. Glass measures below 0.01, tissue
above 0.04."""
MAX_GLASS_TINT = 0.1
"""Largest stain of clear glass: glass in pink light measures 0.08, gray glass 0."""
MAX_STAIN_ABOVE_GLASS = 0.15
"""Smooth places that differ more than this in stain from the clearest places are not glass."""
MAX_SHADE = 0.7
"""Smooth places that are denser than the brightest places by more than this are not glass."""
GLASS_REACH_PX = 50.0
"""Standard deviation of the Gaussian by which glass around a pixel counts."""
GLASS_STEP_PX = 8
"""Factor by which the picture is reduced before that Gaussian."""
MIN_GLASS_WEIGHT = 0.02
"""Weight of the slide's typical glass, which decides where there is no glass nearby."""
STAIN_BLUR_PX = 2.0
"""Standard deviation of the Gaussian that smooths the stain."""
STAIN_THRESHOLD_RANGE = (0.05, 0.10)
"""Range to which Otsu's threshold is clipped, as an empty or a full slide has only one class."""
OTSU_BINS = 256
"""Bins of the histogram for Otsu's threshold."""
MIN_STAIN_SHARE = 0.1
"""Least share of the stain in the mean density of tissue. Black ink and dirt have less; both stains
have over 0.5."""
MAX_INK = 0.25
"""Largest absorption of red beyond green in tissue; blue and green ink absorb more red."""
MIN_TISSUE_UM2 = 20_000.0
"""Smaller pieces of tissue are dropped."""
MAX_HOLE_UM2 = 50_000.0
"""Smaller holes in tissue are filled."""

Density = NDArray[np.float32]
"""Optical density by color or of the stain."""


def tissue_mask(slide: Slide, slide_mpp: float, skip_bad: bool = False) -> TissueMask:
    """Find the tissue of an H&E slide at about 8 um per pixel.

    Red ink looks like eosin and counts as tissue.

    Args:
        slide: The slide.
        slide_mpp: Microns per level-0 pixel.
        skip_bad: Treat unreadable places as background instead of raising ``SlideError``.

    Returns:
        The mask.

    Raises:
        SpotsError: There is no tissue.
        SlideError: The slide cannot be read.
    """
    width, height = slide.level_sizes[0]
    longest_px = min(MAX_MASK_PX, max(1, round(max(width, height) * slide_mpp / MASK_UM)))
    picture = thumbnail(slide, longest_px, skip_bad)
    mask_um = slide_mpp * max(width, height) / max(picture.shape[:2])
    mask = find_tissue(picture, mask_um)
    if not mask.any():
        raise SpotsError(
            f"{slide.path}: no tissue found; if there is some, check the scale (--mpp), draw the "
            "tissue (--mask), or list its spots in a file (--spots)"
        )
    return TissueMask(mask, (width / mask.shape[1], height / mask.shape[0]))


def find_tissue(rgb: NDArray[np.uint8], um_per_px: float) -> NDArray[np.bool_]:
    """Return the tissue mask (h, w) of a picture (h, w, 3) at about 8 um per pixel."""
    from scipy.ndimage import binary_fill_holes, gaussian_filter

    density = -np.log((rgb.astype(np.float32) + 1) / 256)
    density -= _glass_density(density)
    stain = gaussian_filter(_stain(density), STAIN_BLUR_PX)
    ink = gaussian_filter(density[..., 0] - density[..., 1], STAIN_BLUR_PX) > MAX_INK
    black = stain < MIN_STAIN_SHARE * gaussian_filter(density.mean(axis=2), STAIN_BLUR_PX)
    mask = (stain > np.clip(_otsu(stain), *STAIN_THRESHOLD_RANGE)) & ~ink & ~black
    px_um2 = um_per_px**2
    mask &= ~_small_parts(mask, MIN_TISSUE_UM2 / px_um2)
    holes = binary_fill_holes(mask) & ~mask
    return np.asarray(mask | _small_parts(holes, MAX_HOLE_UM2 / px_um2))


def _otsu(values: Density) -> float:
    """Return the threshold with the largest variance between its two sides.

    Otsu, IEEE Trans. Syst. Man Cybern. 9 (1979) 62; of a histogram of 256 bins, the center of the
    last bin below. Scikit-image gives the same number and would be needed for nothing else.
    """
    counts, edges = np.histogram(values, OTSU_BINS)
    centers = (edges[:-1] + edges[1:]) / 2
    below, sum_below = np.cumsum(counts), np.cumsum(counts * centers)
    above, sum_above = below[-1] - below, sum_below[-1] - sum_below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sum_below / below - sum_above / above) ** 2
    return float(centers[np.argmax(np.nan_to_num(between[:-1]))])


def _small_parts(mask: NDArray[np.bool_], max_px: float) -> NDArray[np.bool_]:
    """Return the connected parts of a mask that have fewer than ``max_px`` pixels."""
    from scipy.ndimage import label

    parts, _ = label(mask)
    small = np.bincount(parts.ravel()) < max_px
    small[0] = False
    return np.asarray(small[parts])


def _stain(density: Density) -> Density:
    """Return how much more green is absorbed than the lesser of red and blue; 0 for gray."""
    return np.asarray(density[..., 1] - np.minimum(density[..., 0], density[..., 2]))


def _glass_density(density: Density) -> Density:
    """Return the optical density (h, w, 3) of the glass around each pixel; 0 without any glass."""
    glass = _smooth_places(density)
    if not glass.any():
        return np.zeros_like(density)
    typical = np.median(density[glass], axis=0)
    weight = glass[..., None].astype(np.float32)
    around = _around(np.concatenate([density * weight, weight], axis=2))
    local = (around[..., :3] + MIN_GLASS_WEIGHT * typical) / (around[..., 3:] + MIN_GLASS_WEIGHT)
    return np.asarray(local, np.float32)


def _around(values: Density) -> Density:
    """Return Gaussian means (h, w, C) over ``GLASS_REACH_PX``, computed on a reduced picture."""
    from scipy.ndimage import gaussian_filter1d, zoom

    height, width, channels = values.shape
    pad = [(0, -height % GLASS_STEP_PX), (0, -width % GLASS_STEP_PX), (0, 0)]
    padded = np.pad(values, pad, mode="edge")
    rows, columns = (side // GLASS_STEP_PX for side in padded.shape[:2])
    blocks = padded.reshape(rows, GLASS_STEP_PX, columns, GLASS_STEP_PX, channels)
    coarse = blocks.mean(axis=(1, 3))
    for axis in (0, 1):
        coarse = gaussian_filter1d(coarse, GLASS_REACH_PX / GLASS_STEP_PX, axis)
    steps = (GLASS_STEP_PX, GLASS_STEP_PX, 1)
    fine = zoom(coarse, steps, order=1, mode="nearest", grid_mode=True)  # whole pixels, not centers
    return np.asarray(fine[:height, :width], np.float32)


def _smooth_places(density: Density) -> NDArray[np.bool_]:
    """Return the mask (h, w) of smooth places with about the stain and density of clear glass."""
    from scipy.ndimage import uniform_filter

    gray = density.mean(axis=2).astype(np.float64)
    variance = (
        uniform_filter(gray**2, TEXTURE_WINDOW_PX) - uniform_filter(gray, TEXTURE_WINDOW_PX) ** 2
    )
    smooth: NDArray[np.bool_] = variance < MAX_GLASS_TEXTURE**2
    stain = _stain(density)
    if not smooth.any():
        return smooth
    clearest = np.clip(np.percentile(stain[smooth], 5), -MAX_GLASS_TINT, MAX_GLASS_TINT)
    brightest = np.percentile(gray[smooth], 5)
    alike = np.abs(stain - clearest) < MAX_STAIN_ABOVE_GLASS
    return np.asarray(smooth & alike & (gray < brightest + MAX_SHADE))
