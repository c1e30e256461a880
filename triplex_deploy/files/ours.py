"""Ask whether a file is one that this package wrote, before it is replaced or removed.

Every writer asks here. No link is followed, and nothing but a regular file is opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from triplex_deploy.errors import OutputError

IsOurs = Callable[[bytes], bool]
"""Returns True for the first bytes of a file of this package."""
HEAD_BYTES: Final = 1 << 16
"""Number of bytes at the start of a file by which it is recognized."""
PNG_MARK: Final = {"Software": "triplex-deploy"}
"""Metadata of every PNG of this package."""


def require_no_link(path: Path) -> None:
    """Raise ``OutputError`` if ``path`` is a symbolic link, whatever it points to."""
    if path.is_symlink():
        raise OutputError(
            f"{path}: is a link, which is neither followed nor replaced; "
            "remove it or choose another name"
        )


def is_ours(path: Path, recognize: IsOurs) -> bool:
    """Return True if ``path`` is a regular file that ``recognize`` accepts, or an empty file.

    Raises:
        OutputError: If the file cannot be read.
    """
    head = _head(path)
    return head is not None and (not head or recognize(head))


def require_ours(path: Path, recognize: IsOurs, what: str) -> None:
    """Raise ``OutputError`` if ``path`` exists and is not a file of this package.

    Args:
        path: The file that is to be written.
        recognize: Returns True for the first bytes of such a file.
        what: What the file would be, with its article, such as ``a report``.

    Raises:
        OutputError: If something else is there: another file, a link, a folder or a pipe.
    """
    require_no_link(path)
    if exists(path) and not is_ours(path, recognize):
        raise OutputError(
            f"{path}: is not {what} written by triplex-deploy; choose another name to keep it"
        )


def remove_ours(path: Path, recognize: IsOurs) -> None:
    """Remove a file of this package; leave anything else."""
    if exists(path) and is_ours(path, recognize):
        path.unlink(missing_ok=True)


def first_foreign(folder: Path, patterns: Iterable[str]) -> Path | None:
    """Return a file below ``folder`` that no pattern fits, or None; ask before removing a folder.

    Args:
        folder: The folder.
        patterns: As in a shell, for the path below the folder; ``*`` also fits ``/``.
    """
    wanted = tuple(patterns)
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder).as_posix()
        is_folder = path.is_dir() and not path.is_symlink()
        if not is_folder and not any(fnmatchcase(below, pattern) for pattern in wanted):
            return path
    return None


def is_own_folder(folder: Path) -> bool:
    """Return True if this user or root owns a folder, and others may not write into it.

    What is kept in another folder, such as a cache, may be of anyone. A folder that does not exist
    gives True.
    """
    try:
        status = folder.stat()
    except OSError:  # nothing can be taken from there
        return True
    return status.st_uid in (os.getuid(), 0) and not status.st_mode & stat.S_IWOTH


def exists(path: Path) -> bool:
    """Return True if something has this name, a broken link included.

    Raises:
        OutputError: If the folder cannot be entered, or the name is too long.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error
    return True


def is_our_png(head: bytes) -> bool:
    """Return True for the first bytes of a PNG with ``PNG_MARK``."""
    return head.startswith(b"\x89PNG") and b"Software\x00triplex-deploy" in head


def is_our_npz(first: str) -> IsOurs:
    """Return a function that recognizes an ``.npz`` file by the name of its first array."""
    name = f"{first}.npy".encode()
    return lambda head: head.startswith(b"PK\x03\x04" + head[4:30] + name)


def has_keys(*keys: str) -> IsOurs:
    """Return a function that recognizes a JSON object by keys, even if its end is missing."""
    wanted = [f'"{key}"'.encode() for key in keys]

    def recognize(head: bytes) -> bool:
        return head.lstrip().startswith(b"{") and all(key in head for key in wanted)

    return recognize


def _head(path: Path) -> bytes | None:
    """Return the first bytes of a regular file, None for anything else."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if path.is_symlink() or not path.is_file():
            return None
        raise _unusable(path, error) from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        return file.read(HEAD_BYTES)


def _unusable(path: Path, error: OSError | ValueError) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{path}: cannot be used ({reason}); choose another name or folder")
