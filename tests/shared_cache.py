"""Keep what is slow to make and always the same between the test processes and between runs.

The folder ``build/test-cache`` holds traced graphs, trained models and exported bundles. Each entry
is made by one process; the others wait for it. The name of an entry holds a digest of the source
files and library versions that decide its content, so a change to them makes it again.
"""

import functools
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from triplex_deploy.files.lock import exclusive_lock
from triplex_deploy.system import installed_versions

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("TRIPLEX_TEST_CACHE", ROOT / "build" / "test-cache"))
TRACES = "traces"

EXPORT = ("bundle.py", "contract", "exporters", "files", "models", "runtime", "version.py")
"""Parts of the package that decide what an exported bundle holds."""
KEPT_UNUSED_S = 3600
"""Seconds that an entry of other sources is kept, for tests that may still run with it."""
_VERSIONS = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "torch")
_DIGEST_LENGTH = 16


def shared(name: str, parts: tuple[str, ...], make: Callable[[Path], None]) -> Path:
    """Return the folder of an entry, made by ``make(folder)`` unless it is there already.

    Nobody may change the files of the folder: other tests and later runs read them too.

    Args:
        name: The name of the entry, without dots.
        parts: Files and folders of the package that decide its content.
        make: Fills the empty folder that it is given.
    """
    folder = FOLDER / f"{name}.{digest_of(parts)}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(FOLDER / f"{folder.name}.lock", wait=True):
        if not folder.is_dir():
            _remove_old(name)
            unfinished = folder.with_name(f"{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
        os.utime(folder)
    return folder


def _remove_old(name: str) -> None:
    """Remove entries of other sources that no test run of the last hour has asked for."""
    for old in FOLDER.glob(f"{name}.*"):
        if old.is_dir() and time.time() - old.stat().st_mtime > KEPT_UNUSED_S:
            shutil.rmtree(old)


def share_traces(cache_home: Path) -> None:
    """Let the package find the shared traces when ``cache_home`` is its ``XDG_CACHE_HOME``."""
    traces = FOLDER / TRACES
    traces.mkdir(parents=True, exist_ok=True)
    own = cache_home / "triplex-deploy"
    own.mkdir(parents=True, exist_ok=True)
    (own / TRACES).symlink_to(traces, target_is_directory=True)


@functools.cache
def digest_of(parts: tuple[str, ...]) -> str:
    """Return 16 hexadecimal digits of these source files, of the tests' models and of versions."""
    paths = [ROOT / "tests" / "variants.py", Path(__file__)]
    for part in parts:
        path = ROOT / "triplex_deploy" / part
        paths += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    digest = hashlib.sha256(platform.python_version().encode())
    digest.update(repr(sorted(installed_versions(_VERSIONS).items())).encode())
    for path in paths:
        digest.update(path.relative_to(ROOT).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:_DIGEST_LENGTH]
