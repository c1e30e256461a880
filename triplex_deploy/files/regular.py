"""Ask whether a path is a regular file before anything opens it.

Opening a named pipe waits for a writer, and a device such as ``/dev/zero`` never ends.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from triplex_deploy.errors import TriplexError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_regular_file(
    path: Path,
    kind: type[TriplexError],
    what: str = "file",
    remedy: str = "pass a file that is stored on a disk",
) -> os.stat_result:
    """Return the status of a regular file; links are followed, and nothing is opened.

    Args:
        path: The file.
        kind: The error to raise.
        what: What the file should be, such as ``spots file``.
        remedy: What to do about a folder, a pipe or a device.

    Returns:
        The status of the file.

    Raises:
        TriplexError: ``kind``, if there is no such file, its folder cannot be entered, or it is a
            folder, a pipe, a socket or a device.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise kind(f"{path}: no such {what}; check the path") from error
    except OSError as error:
        raise kind(f"{path}: {error.strerror}; check the path and its permissions") from error
    except ValueError as error:  # a zero byte in the name
        raise kind(f"{str(path)!r}: is not the name of a file; check the path") from error
    if not stat.S_ISREG(status.st_mode):
        raise kind(f"{path}: is {_kind(status)}; {remedy}")
    return status


def kind_of(path: Path) -> str:
    """Return what a path is that is no regular file, such as ``a pipe`` or ``a broken link``."""
    try:
        return _kind(path.stat())
    except OSError:
        return "a broken link" if path.is_symlink() else "gone"


def _kind(status: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(status.st_mode), "not a regular file")


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading bytes, without waiting for the writer of a pipe.

    Args:
        path: The file; links are followed.

    Returns:
        The open file.

    Raises:
        OSError: The file cannot be opened, or is a folder, a pipe, a socket or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
