"""Let one process at a time work on a file or folder, by an advisory lock.

The kernel frees the lock when the process that holds it ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from triplex_deploy.errors import OutputError
from triplex_deploy.files.escape import printable
from triplex_deploy.files.ours import require_no_link

logger = logging.getLogger(__name__)

SAY_EVERY_S: Final = 30.0
"""Seconds between two words about a lock that another process holds."""
LOOK_EVERY_S: Final = 0.2
"""Seconds between two attempts to take a lock that another process holds."""

HOLDER_BYTES: Final = 200
"""Bytes that are read of a lock file."""


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
        started = said_at = time.monotonic()
        logger.info("%s: locked by %s; waiting for it", path, holder(path))
        while handle is None:
            time.sleep(LOOK_EVERY_S)
            if time.monotonic() - said_at >= SAY_EVERY_S:
                said_at = time.monotonic()
                logger.warning(
                    "%s: locked by %s; has waited %.0f s for it, Ctrl-C ends the wait",
                    path,
                    holder(path),
                    said_at - started,
                )
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
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return "a process that has just ended"
    with os.fdopen(handle, "rb") as file:
        text = file.read(HOLDER_BYTES).decode("utf-8", "replace").strip()
    return printable(text.partition("\n")[0].strip()) or "unknown process"


def _take(path: Path) -> int | None:
    """Return a handle of the locked file, or None if another process has locked it."""
    try:
        while True:
            require_no_link(path)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            with ExitStack() as stack:
                stack.callback(os.close, handle)
                _require_lock_file(handle, path)
                if not _lock(handle):
                    return None
                if _still_named(handle, path):  # otherwise its last holder has removed it
                    text = f"process {os.getpid()} on {platform.node()}\n".encode()
                    os.pwrite(handle, text, 0)
                    os.truncate(handle, len(text))  # to 0 first, ext4 would wait for the disk
                    stack.pop_all()
                    return handle
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be locked ({error.strerror or error}); "
            "choose a folder that can be written and locked"
        ) from error


def _require_lock_file(handle: int, path: Path) -> None:
    """Refuse a file with other content than a lock has: it is not of this package."""
    is_regular = stat.S_ISREG(os.fstat(handle).st_mode)
    content = os.pread(handle, HOLDER_BYTES, 0) if is_regular else b"?"
    if content.strip(b"\0") and not content.startswith(b"process "):
        raise OutputError(
            f"{path}: is not a lock written by triplex-deploy; "
            "move it away or choose another folder"
        )


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
