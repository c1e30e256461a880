"""Write a bundle beside its final place and move it there when it is complete."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triplex_deploy.bundle import first_other_file, is_bundle
from triplex_deploy.errors import OutputError


def require_free(target: Path, force: bool) -> None:
    """Raise ``OutputError`` if ``target`` exists, unless it is a bundle and ``force`` is set."""
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise OutputError(f"{target}: exists already; choose another --out or pass --force")
    if target.is_symlink() or not target.is_dir() or not is_bundle(target):
        raise OutputError(f"{target}: is no bundle, --force would lose it; choose another --out")
    other = first_other_file(target)
    if other is not None:
        raise OutputError(
            f"{target / other}: does not belong to the bundle, --force would lose it; "
            "move it away or choose another --out"
        )


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Yield a new folder beside ``target``; it is removed afterwards if it was not moved."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}); choose another --out") from error
    try:
        stage.chmod(0o755)
        yield stage
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}); choose another --out") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def replace(stage: Path, target: Path) -> None:
    """Move the finished bundle to ``target``; an old bundle is removed only after the move."""
    if not target.exists():
        stage.rename(target)
        return
    old = target.with_name(f"{stage.name}.old")
    target.rename(old)
    try:
        stage.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
