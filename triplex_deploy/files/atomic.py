"""Write files and folders so that they appear complete under their names, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from triplex_deploy.errors import OutputError
from triplex_deploy.files.ours import require_no_link


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``, and rename it to ``path`` on success.

    The temporary file is always removed. A link at ``path`` is neither followed nor replaced.
    Errors of the file system raise ``OutputError``.
    """
    path = Path(path)
    # A short name, as the name of the target may already have the maximum length.
    temporary = path.with_name(f".triplex-{secrets.token_hex(6)}.tmp")
    try:
        _require_target(path)
        yield temporary
        replace_file(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def replace_file(temporary: Path, path: Path) -> None:
    """Rename a complete file to ``path`` on the same file system, replacing what is there.

    The data reach the disk before the rename, so that a power cut leaves no empty file. Raises
    ``OSError``.
    """
    _flush_to_disk(temporary)
    temporary.replace(path)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield the path of a folder to make and fill, and rename it to ``path`` on success.

    What was at ``path`` is replaced. The temporary folder is always removed. Errors of the file
    system raise ``OutputError``.
    """
    path = Path(path)
    token = secrets.token_hex(6)
    temporary, former = (path.with_name(f".triplex-{token}.{end}") for end in ("tmp", "old"))
    try:
        _require_parent(path)
        require_no_link(path)
        yield temporary
        if path.exists():
            path.rename(former)
        temporary.rename(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if former.exists() and not path.exists():
            former.rename(path)
        for leftover in (temporary, former):
            shutil.rmtree(leftover, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: cannot be written ({error.strerror or error}); "
        "check the folder's permissions and free space, or choose another"
    )


def copy_file(source: Path, path: Path) -> None:
    """Copy a file to ``path`` as ``atomic_path`` writes one."""
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)


def _require_target(path: Path) -> None:
    _require_parent(path)
    require_no_link(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give the name of a file")


def _require_parent(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{path}: {folder} is not a folder; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: {folder} is not writable; choose another folder")


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
