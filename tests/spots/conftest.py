"""A slide held in memory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.slides import Slide


class ArraySlide(Slide):
    def __init__(self, pixels: np.ndarray, mpp: float) -> None:
        self.path, self.format, self.mpp = Path("array.tif"), "array", mpp
        self.background_rgb = (255, 255, 255)
        self.pixels = pixels
        self.level_sizes = ((pixels.shape[1], pixels.shape[0]),)
        self.level_downsamples = (1.0,)

    def _read_inside(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self.pixels[y : y + height, x : x + width].copy()

    def _release(self) -> None:
        pass


@pytest.fixture
def array_slide() -> Callable[[np.ndarray, float], Slide]:
    return ArraySlide
