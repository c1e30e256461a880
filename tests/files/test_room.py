"""A full disk is found before the work where possible, and named after it."""

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from triplex_deploy.errors import OutputError
from triplex_deploy.files.room import require_room, why_unwritable


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The bytes that every disk has free; a test may change them."""
    usage = SimpleNamespace(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    return usage


def test_too_little_room_is_refused_with_both_sizes(free: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"state.pt: needs 3.00 MB, .* has 0.05 MB free"):
        require_room(tmp_path / "new" / "state.pt", 3_000_000)
    require_room(tmp_path / "state.pt", 50_000)


def test_a_disk_that_does_not_tell_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: Path) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(shutil, "disk_usage", unknown)
    require_room(tmp_path / "a", 1 << 60)
    assert why_unwritable(OSError(errno.EIO, "I/O error"), tmp_path / "a") == "I/O error"


@pytest.mark.parametrize(
    ("error", "bytes_free", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left"), 50_000, "No space left, 0.05 MB free"),
        (OSError(errno.EDQUOT, "Quota exceeded"), 9_000_000, "Quota exceeded, 9.00 MB free"),
        (RuntimeError("unexpected pos 41728 vs 41622"), 20_000, "the disk is full, 0.02 MB free"),
        (RuntimeError("unexpected\npos"), 9_000_000, "unexpected pos"),
        (PermissionError(errno.EACCES, "Permission denied"), 9_000_000, "Permission denied"),
    ],
)
def test_the_reason_has_the_room_where_the_disk_is_full(
    error: Exception, bytes_free: int, reason: str, free: SimpleNamespace, tmp_path: Path
) -> None:
    free.free = bytes_free
    assert why_unwritable(error, tmp_path / "a") == reason
