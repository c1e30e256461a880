"""An in-memory slide that counts what is read from it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError
from triplex_deploy.slides import Slide

Level = NDArray[np.uint8]


class MemorySlide(Slide):
    """A slide whose levels are arrays (height, width, 3).

    ``fail`` makes every read raise, ``fail_at`` those that begin at that pixel.
    """

    def __init__(self, levels: Sequence[Level]) -> None:
        self.path = Path("memory.tif")
        self.format = "memory"
        self.levels = list(levels)
        self.level_sizes = tuple((level.shape[1], level.shape[0]) for level in levels)
        self.level_downsamples = tuple(self.level_sizes[0][0] / w for w, _ in self.level_sizes)
        self.mpp = None
        self.background_rgb = (255, 255, 255)
        self.reads = np.zeros(levels[0].shape[:2], np.int64)
        self.windows: list[tuple[int, int, int, int, int]] = []
        self.fail: Exception | None = None
        self.fail_at: tuple[int, int] | None = None
        self._lock = Lock()

    def _read_inside(self, level: int, x: int, y: int, width: int, height: int) -> Level:
        if self.fail is not None:
            raise self.fail
        if self.fail_at == (x, y):
            raise SlideError(f"memory.tif: broken cell at {x}, {y}")
        with self._lock:
            self.windows.append((level, x, y, width, height))
            if level == 0:
                self.reads[y : y + height, x : x + width] += 1
        return self.levels[level][y : y + height, x : x + width].copy()

    def _release(self) -> None:
        self.levels = []


@pytest.fixture(scope="session")
def memory_slide() -> Callable[..., MemorySlide]:
    """Make a slide with levels of the given (width, height), random pixels, the same each time."""

    def make(*sizes: tuple[int, int]) -> MemorySlide:
        rng = np.random.default_rng(7)
        return MemorySlide([rng.integers(1, 256, (h, w, 3), dtype=np.uint8) for w, h in sizes])

    return make
