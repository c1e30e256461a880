"""A synthetic slide small enough to predict in seconds."""

from pathlib import Path

import pytest

from triplex_deploy.demo.slide import synthesise_slide

WIDTH, HEIGHT = 1400, 1200


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1400 x 1200 px of made-up tissue at the bundle's 0.5 um/px."""
    path = tmp_path_factory.mktemp("slide") / "tissue.tif"
    synthesise_slide(path, WIDTH, HEIGHT, 0.5, seed=3)
    return path
