"""Find out before the work whether a disk has room, and say after it why a file was not written."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Final

from triplex_deploy.errors import OutputError

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LITTLE: Final = 1 << 20
"""Bytes of free room below which any failed write is taken for one of a full disk."""


def why_unwritable(error: BaseException, path: Path) -> str:
    """Return why a file could not be written, in words; of a full disk with the room it has.

    Args:
        error: What was raised. Where a disk is full, native code raises other errors than
            ``OSError``, which do not say so.
        path: The file that was written; what was written of it is still there.
    """
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    free = _free_bytes(path)
    if free is None or not (getattr(error, "errno", None) in _FULL or free < _LITTLE):
        return reason
    if not isinstance(error, OSError):
        reason = "the disk is full"
    return f"{reason}, {_megabytes(free)} free"


def require_room(path: Path, n_bytes: int) -> None:
    """Raise ``OutputError`` if the disk of ``path`` has less than ``n_bytes`` free.

    Call it before long work of which the result has about this size. A disk that does not tell
    how much is free passes.
    """
    free = _free_bytes(path)
    if free is not None and free < n_bytes:
        raise OutputError(
            f"{path}: needs {_megabytes(n_bytes)}, and its disk has {_megabytes(free)} free; "
            "free some space or choose another folder"
        )


def _free_bytes(path: Path) -> int | None:
    """Return the bytes that this user may still write to the disk of a file, existing or not."""
    for folder in path.absolute().parents:
        try:
            return shutil.disk_usage(folder).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.2f} MB"
