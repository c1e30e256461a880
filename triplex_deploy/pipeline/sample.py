"""Sample tissue tiles of a slide at a bundle's scale, for calibration and benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import TILE_PX
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.placing import place_spots
from triplex_deploy.slides import open_slide, resolve_mpp
from triplex_deploy.tiles import SlideView


def sample_tiles(
    slide_path: str | Path, tile_mpp: float, count: int, mpp: float | None = None
) -> NDArray[np.uint8]:
    """Return tiles spread evenly over the tissue of a slide.

    Args:
        slide_path: The slide file.
        tile_mpp: Microns per pixel of the tiles.
        count: Most tiles to return.
        mpp: Microns per level-0 pixel, to be used instead of the metadata.

    Returns:
        RGB tiles (T, 224, 224, 3), uint8, with T at most ``count``.

    Raises:
        SlideError: The slide cannot be opened or read, or has no usable scale.
        SpotsError: There is no tissue.
    """
    options = PredictOptions(mpp=mpp)
    with open_slide(slide_path) as slide:
        slide_mpp = resolve_mpp(slide, mpp)
        view = SlideView.open(slide, slide_mpp, tile_mpp)
        spots, _ = place_spots(slide, slide_mpp, view, options)
        centers = view.centers(spots.level0_xy)
        chosen = np.linspace(0, len(centers) - 1, min(count, len(centers))).astype(int)
        corners = (centers[chosen] - TILE_PX // 2).tolist()
        return np.stack([view.read(x, y, TILE_PX, TILE_PX) for x, y in corners])
