"""At most one process works on an output: an advisory lock that the kernel frees at death."""

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


@contextmanager
def output_lock(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock on file ``path``; yields False where another process has it.

    With ``wait``, that process is waited for. The file says who holds it, and is removed with the
    lock. Raises ``OutputError`` where the file system cannot lock.
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
    """Who holds the lock, as the file says."""
    try:
        return path.read_text(encoding="utf-8").strip() or "unknown process"
    except OSError:
        return "a process that has just ended"


def _take(path: Path) -> int | None:
    """The locked file, or None where another process has locked it."""
    try:
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            with ExitStack() as stack:
                stack.callback(os.close, handle)
                if not _lock(handle):
                    return None
                if _still_named(handle, path):  # else its last holder removed it meanwhile
                    os.truncate(handle, 0)
                    os.write(handle, f"process {os.getpid()} on {platform.node()}\n".encode())
                    stack.pop_all()
                    return handle
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be locked ({error.strerror or error}); "
            "choose an --out folder that can be written and locked"
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
