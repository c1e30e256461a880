"""Reference numbers of the published code; tests that need them skip where they are absent."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Goldens = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def golden(shared_data: Path) -> Callable[[str], Goldens]:
    """Arrays of one file of goldens/data by its name."""

    def load(name: str) -> Goldens:
        with np.load(shared_data / "goldens" / "data" / name) as arrays:
            return dict(arrays)

    return load
