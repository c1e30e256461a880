"""Many slides in one process leave nothing behind: the short form of ``make soak``."""

from pathlib import Path

import pytest

from tests.field.soak import soak


@pytest.mark.slow
def test_twenty_slides_with_faults_leave_nothing(tmp_path: Path) -> None:
    found = soak(20, tmp_path)
    assert not found.wrong
    assert (found.done, found.failed) == (16, 4)
