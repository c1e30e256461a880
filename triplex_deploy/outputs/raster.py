"""Assign the pixels of a heatmap to spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ConfigError
from triplex_deploy.outputs.prediction import Prediction

PIXELS_PER_SPOT: Final = 8
"""Pixels across a spot, unless a pixel size is given."""
MAX_SIDE_PX: Final = 16_384
"""Maximum side of a heatmap."""


@dataclass(frozen=True)
class SpotRaster:
    """A raster over the whole slide, from its upper left corner."""

    owner: NDArray[np.int32]
    """(h, w): index of the spot on each pixel, -1 for none."""
    level0_per_px: float
    """Side of a pixel in level-0 pixels."""

    def paint(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return values of the spots, (N,), as a picture (h, w); NaN where there is no spot."""
        return np.append(values, np.float32(np.nan))[self.owner]


def rasterize(prediction: Prediction, pixel_um: float | None = None) -> SpotRaster:
    """Return the raster of the spots of a prediction, square or round.

    If spots overlap, a pixel belongs to the spot with the nearest center.

    Args:
        prediction: The spots and the slide.
        pixel_um: Pixel size in microns, None for an eighth of a spot.

    Raises:
        ConfigError: If a side would be longer than ``MAX_SIDE_PX``, or pixels are so large that
            they can miss a spot.
    """
    step = _level0_per_px(prediction, pixel_um)
    width, height = (int(np.ceil(side / step)) for side in prediction.slide_size_wh)
    owner = np.full((height, width), -1, np.int32)
    nearest = np.full((height, width), np.inf, np.float32)
    radius = prediction.spot_diameter_px / 2
    for spot, (x, y) in enumerate(prediction.level0_xy.tolist()):
        columns, dx = _reached(x, radius, step, width)
        rows, dy = _reached(y, radius, step, height)
        distance = np.hypot(dy[:, None], dx[None, :]).astype(np.float32)
        wins = distance < nearest[rows, columns]
        if not prediction.has_square_spots:
            wins &= distance <= radius
        nearest[rows, columns][wins] = distance[wins]
        owner[rows, columns][wins] = spot
    return SpotRaster(owner, step)


def _level0_per_px(prediction: Prediction, pixel_um: float | None) -> float:
    longest = max(prediction.slide_size_wh)
    if pixel_um is None:
        return max(1.0, prediction.spot_diameter_px / PIXELS_PER_SPOT, longest / MAX_SIDE_PX)
    step = pixel_um / prediction.slide_mpp
    spot_um = prediction.spot_diameter_px * prediction.slide_mpp
    if not 0 < pixel_um <= spot_um / 2:
        raise ConfigError(
            f"pixel size {pixel_um:g} um: spots are {spot_um:.4g} um wide; "
            f"use at most {spot_um / 2:.4g} um"
        )
    if longest / step > MAX_SIDE_PX:
        least = longest / MAX_SIDE_PX * prediction.slide_mpp
        raise ConfigError(
            f"pixel size {pixel_um:g} um: the picture would be {longest / step:,.0f} px long; "
            f"use at least {least:.3g} um"
        )
    return step


def _reached(
    center: float, radius: float, step: float, size: int
) -> tuple[slice, NDArray[np.float64]]:
    """Return the pixels of one axis with centers in [center - radius, center + radius).

    Also returns the signed distances of these centers from ``center``.
    """
    first = max(int(np.ceil((center - radius) / step - 0.5)), 0)
    last = min(int(np.ceil((center + radius) / step - 0.5)), size)
    centers = (np.arange(first, max(first, last)) + 0.5) * step
    return slice(first, max(first, last)), np.asarray(centers - center, np.float64)
