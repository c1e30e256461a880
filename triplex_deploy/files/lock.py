"""Let one process at a time work on a file or folder, by an advisory lock.

The kernel frees the lock when the process that holds it ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from triplex_deploy.errors import OutputError

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.2
"""Seconds between two attempts to take a lock that another process holds."""


@contextmanager
def exclusive_lock(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold an exclusive lock on the file ``path``, and remove the file at the end.

    The file is created if it is missing. While the lock is held, it names the process and machine.

    Args:
        path: The lock file; its folder must exist.
        wait: Wait while another process holds the lock.

    Yields:
        True if the lock is held, False if another process holds it and ``wait`` is False.

    Raises:
        OutputError: The file cannot be created, or its file system has no locks.
    """
    handle = _take(path)
    if handle is None and wait:
        logger.info("%s: locked by %s; waiting for it", path, holder(path))
        while handle is None:
            time.sleep(LOOK_EVERY_S)
            handle = _take(path)
    if handle is None:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def holder(path: Path) -> str:
    """Return the process and machine that hold the lock, as the lock file names them."""
    try:
        return path.read_text(encoding="utf-8").strip() or "unknown process"
    except OSError:
        return "a process that has just ended"


def _take(path: Path) -> int | None:
    """Return a handle of the locked file, or None if another process has locked it."""
    try:
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            with ExitStack() as stack:
                stack.callback(os.close, handle)
                if not _lock(handle):
                    return None
                if _still_named(handle, path):  # otherwise its last holder has removed it
                    os.truncate(handle, 0)
                    os.write(handle, f"process {os.getpid()} on {platform.node()}\n".encode())
                    stack.pop_all()
                    return handle
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be locked ({error.strerror or error}); "
            "choose a folder that can be written and locked"
        ) from error


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
