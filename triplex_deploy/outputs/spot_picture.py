"""Draw one gene on the picture of a slide, small and without other libraries than Pillow."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.outputs.color_range import comparable_ranges
from triplex_deploy.outputs.colormaps import color_table
from triplex_deploy.outputs.drawable import Drawable

COLORS: Final = "viridis"


def draw_gene(prediction: Drawable, gene: int, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture of the whole slide with the spots of a gene drawn on it.

    Args:
        prediction: The spots.
        gene: Number of the gene.
        picture: Picture of the slide, (h, w, 3); it is not changed.
    """
    from PIL import Image, ImageDraw

    values = prediction.expression[:, gene]
    known = np.isfinite(values)
    first, last = comparable_ranges(prediction.expression)
    shades = np.nan_to_num((values - first[gene]) / (last[gene] - first[gene])).clip(0, 1)
    colors = color_table(COLORS)[np.rint(shades * 255).astype(int)].tolist()
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    step = prediction.slide_size_wh[0] / picture.shape[1]
    radius = max(prediction.spot_diameter_px / 2 / step, 1.0)
    shape = draw.rectangle if prediction.has_square_spots else draw.ellipse
    for spot in np.flatnonzero(known).tolist():
        x, y = prediction.level0_xy[spot] / step
        shape((x - radius, y - radius, x + radius, y + radius), fill=tuple(colors[spot]))
    return np.asarray(canvas)


def shrink(image: NDArray[np.uint8], longest_px: int) -> NDArray[np.uint8]:
    """Return an image (h, w, 3) with its longest side at most ``longest_px``."""
    from PIL import Image

    small = Image.fromarray(image)
    small.thumbnail((longest_px, longest_px))
    return np.asarray(small)
