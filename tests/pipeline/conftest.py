"""A synthetic slide small enough to predict in seconds, and spots on it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.shared_cache import share_traces
from triplex_deploy import open_slide
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.spots import Spots

WIDTH, HEIGHT = 1400, 1200


@pytest.fixture(autouse=True)
def _no_cache_of_the_user(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forget after each test what it measured of the machine; traces are shared."""
    folder = tmp_path_factory.mktemp("cache-home")
    share_traces(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1400 x 1200 px of made-up tissue at the bundle's 0.5 um/px."""
    path = tmp_path_factory.mktemp("slide") / "tissue.tif"
    synthesize_slide(path, WIDTH, HEIGHT, 0.5, seed=3)
    return path


@pytest.fixture(scope="session")
def slide_pixels(slide_path: Path) -> NDArray[np.uint8]:
    """Its pixels (1200, 1400, 3)."""
    with open_slide(slide_path) as slide:
        return slide.read(0, 0, 0, *slide.level_sizes[0])


@pytest.fixture(scope="session")
def make_spots() -> Callable[..., Spots]:
    """Spots at level-0 (x, y) with array coordinates (row, column)."""

    def make(level0_xy: list[tuple[float, float]], grid_rc: list[tuple[int, int]]) -> Spots:
        return Spots(np.array(level0_xy, np.float64), np.array(grid_rc, np.int64), "file", 100.0)

    return make


@pytest.fixture(scope="session")
def some_spots(make_spots: Callable[..., Spots]) -> Spots:
    """Nine spots in no order: on the borders, with masked neighbors, sharing tiles or not."""
    return make_spots(
        [
            (700, 600),
            (0, 0),
            (1399, 1199),
            (560, 560),
            (784, 560),
            (560, 784),
            (112, 600),
            (783, 336),
            (701, 601),
        ],
        [(5, 5), (0, 0), (9, 9), (4, 4), (4, 5), (5, 4), (4, 0), (2, 5), (5, 6)],
    )
