"""Write files and folders so that they appear complete under their names, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from triplex_deploy.errors import OutputError
from triplex_deploy.files.ours import exists, require_no_link
from triplex_deploy.files.room import why_unwritable


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``, and rename it to ``path`` on success.

    A missing folder is made, and removed again on failure. The temporary file is always removed.
    A link at ``path`` is neither followed nor replaced. Errors of the file system raise
    ``OutputError``.
    """
    with atomic_paths(path) as (temporary,):
        yield temporary


@contextmanager
def atomic_paths(*paths: str | Path) -> Iterator[tuple[Path, ...]]:
    """Yield a temporary path for each of ``paths``; on success all get their names, or none does.

    They get their names in the order of ``paths``, after the content of all has reached the disk.
    If a name cannot be given, the files that were there before are put back. The temporary files
    are always removed. Links are neither followed nor replaced.

    Args:
        paths: Files to write. Folders that are missing are made. The block must make every file.

    Yields:
        The temporary paths, in the same order and in the same folders.

    Raises:
        OutputError: If a file cannot be written.
    """
    targets = [Path(path) for path in paths]
    # A short name, as the name of the target may already have the maximum length.
    temporaries = tuple(path.with_name(f".triplex-{secrets.token_hex(6)}.tmp") for path in targets)
    known = dict(zip(map(str, temporaries), targets, strict=True))
    try:
        for path in targets:
            require_target(path)
        with _parents_of(targets), _removed_at_the_end(temporaries):
            yield temporaries
            replace_files(temporaries, targets)
    except OSError as error:
        raise unwritable(known.get(str(error.filename), targets[0]), error) from error
    except OutputError as error:  # of a writer that was given one of the temporary paths
        text = str(error)
        for temporary_name, path in known.items():
            text = text.replace(temporary_name, str(path))
        raise OutputError(text) from error


def replace_files(temporaries: Sequence[Path], paths: Sequence[Path]) -> None:
    """Rename complete files to ``paths`` on the same file system, all of them or none.

    The data of all reach the disk before the first rename, so that a power cut leaves no empty
    file. Raises ``OSError``.
    """
    for temporary in temporaries:
        _flush_to_disk(temporary)
    _rename_all(temporaries, paths)


def _rename_all(temporaries: Sequence[Path], paths: Sequence[Path]) -> None:
    """Rename files in order; after a failure, put back what was there before."""
    with ExitStack() as leftovers, ExitStack() as undo:
        for temporary, path in zip(temporaries, paths, strict=True):
            if len(paths) > 1:
                _put_back_on_failure(path, undo, leftovers)
            temporary.replace(path)
        undo.pop_all()


def _put_back_on_failure(path: Path, undo: ExitStack, leftovers: ExitStack) -> None:
    """Let ``undo`` restore what is at ``path`` now."""
    if not exists(path):
        undo.callback(path.unlink, missing_ok=True)
        return
    former = path.with_name(f".triplex-{secrets.token_hex(6)}.old")
    with suppress(OSError):  # a file system without hard links
        os.link(path, former, follow_symlinks=False)
        leftovers.callback(former.unlink, missing_ok=True)
        undo.callback(former.replace, path)


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
        with _parents_of([path]):
            try:
                yield temporary
                if path.exists():
                    path.rename(former)
                temporary.rename(path)
            finally:
                if former.exists() and not path.exists():
                    former.rename(path)
                for leftover in (temporary, former):
                    shutil.rmtree(leftover, ignore_errors=True)
    except OSError as error:
        raise unwritable(path, error) from error


def require_target(path: Path) -> None:
    """Raise ``OutputError`` if no file can be written at ``path``, whatever is in it.

    Call it before long work, so that its result is not lost.
    """
    _require_parent(path)
    require_no_link(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give the name of a file")


def unwritable(path: Path, error: BaseException) -> OutputError:
    """Return the error to raise where ``path`` cannot be written because of ``error``."""
    return OutputError(
        f"{path}: cannot be written ({why_unwritable(error, path)}); "
        "check the folder's permissions and free space, or choose another"
    )


def copy_file(source: Path, path: Path) -> None:
    """Copy a file to ``path`` as ``atomic_path`` writes one."""
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)


def _require_parent(path: Path) -> None:
    """Refuse a path whose folder is not there and cannot be made."""
    folder = path.parent
    while not exists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{path}: {folder} is not a folder; choose another path")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: {folder} is not writable; choose another folder")


@contextmanager
def _parents_of(paths: Sequence[Path]) -> Iterator[None]:
    """Make the folders that ``paths`` lie in; remove those that were made if the block fails."""
    missing = {parent for path in paths for parent in path.parents if not parent.exists()}
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in sorted(missing, reverse=True):
            with suppress(OSError):
                folder.rmdir()
        raise


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _removed_at_the_end(paths: Sequence[Path]) -> Iterator[None]:
    """Remove those of ``paths`` that are there when the block ends in any way."""
    try:
        yield
    finally:
        for path in paths:
            with suppress(OSError):
                path.unlink()
