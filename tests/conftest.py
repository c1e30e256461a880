"""Fixtures shared by all tests; real data is used where it lies and skipped visibly where it does not."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides and reference numbers; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data is absent: no ../shared/data beside the checkout")
    return SHARED_DATA
