"""A result file appears complete under its name, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from triplex_deploy.errors import OutputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path`` and rename it to ``path`` on success.

    Whatever happens, no temporary file stays. Problems of the file system raise ``OutputError``.
    """
    path = Path(path)
    # The name is short whatever the target's, which may already be as long as names can be.
    temporary = path.with_name(f".triplex-{secrets.token_hex(6)}.tmp")
    try:
        _require_target(path)
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a path to fill as a folder and rename it to ``path``, in place of what is there.

    Whatever happens, no temporary folder stays. Problems of the file system raise ``OutputError``.
    """
    path = Path(path)
    token = secrets.token_hex(6)
    temporary, former = (path.with_name(f".triplex-{token}.{end}") for end in ("tmp", "old"))
    try:
        _require_parent(path)
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


def _require_target(path: Path) -> None:
    _require_parent(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give the name of a file")


def _require_parent(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{path}: {folder} is not a folder; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: {folder} is not writable; choose another folder")


def _flush_to_disk(path: Path) -> None:
    """Have the data on disk before the rename is, so that a power cut leaves no empty result."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
