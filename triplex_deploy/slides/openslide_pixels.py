"""The pixel path of OpenSlide: the one place that turns its regions into RGB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import openslide
from numpy.typing import NDArray

from triplex_deploy.slides.dicom_color import ycbcr_to_rgb
from triplex_deploy.slides.slide import RGB

BLOCK_PX = 256
"""Side of the fixed blocks in which levels with a fractional downsample are read."""


@dataclass(frozen=True)
class PixelSource:
    """An open slide and what its pixels need on their way to RGB."""

    slide: openslide.OpenSlide
    background: RGB
    is_ycbcr: bool = False

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """RGB of a window inside one level, (height, width, 3); x and y are pixels of that level.

        OpenSlide addresses every level in level-0 pixels. Where those are not whole multiples, it
        interpolates, differently for each origin; such levels are read in blocks at fixed
        origins, so that a pixel does not depend on the window it was asked in.
        """
        if float(self.slide.level_downsamples[level]).is_integer():
            return self._region(level, x, y, width, height)
        window = np.empty((height, width, 3), np.uint8)
        level_width, level_height = self.slide.level_dimensions[level]
        for top in range(y - y % BLOCK_PX, y + height, BLOCK_PX):
            bottom = min(top + BLOCK_PX, level_height)
            y0, y1 = max(top, y), min(bottom, y + height)
            for left in range(x - x % BLOCK_PX, x + width, BLOCK_PX):
                right = min(left + BLOCK_PX, level_width)
                x0, x1 = max(left, x), min(right, x + width)
                block = self._region(level, left, top, right - left, bottom - top)
                window[y0 - y : y1 - y, x0 - x : x1 - x] = block[
                    y0 - top : y1 - top, x0 - left : x1 - left
                ]
        return window

    def _region(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        downsample = self.slide.level_downsamples[level]
        origin = (round(x * downsample), round(y * downsample))
        rgba = np.asarray(self.slide.read_region(origin, level, (width, height)))  # straight alpha
        rgb = np.ascontiguousarray(rgba[..., :3])
        if self.is_ycbcr:
            rgb = ycbcr_to_rgb(rgb)
        alpha = rgba[..., 3:]
        if alpha.min() == 255:
            return rgb
        weight = alpha.astype(np.uint32)
        over = rgb * weight + np.asarray(self.background, np.uint32) * (255 - weight)
        return ((over + 127) // 255).astype(np.uint8)
