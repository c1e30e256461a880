"""Where engines are kept: in the bundle, or in the user's cache where the bundle is read-only."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from triplex_deploy.bundle import Bundle, GraphEntry
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.tensorrt.build import EngineSettings, Plan
from triplex_deploy.runtime.tensorrt.manifest import (
    EngineManifest,
    Platform,
    describe_engine,
    read_plan,
)
from triplex_deploy.system import cache_folder

logger = logging.getLogger(__name__)


ENGINES: Final = "engines"
TIMING_CACHE: Final = "timing.cache"
_ANYONE_MAY_WRITE: Final = 0o002

Build = Callable[[bytes, bytes], Plan]
"""ONNX bytes and a timing cache to a plan."""


@dataclass(frozen=True)
class EngineStore:
    """The engines of one bundle for one platform."""

    bundle: Bundle
    settings: EngineSettings
    platform: Platform

    def plan(self, graph: str, build: Build) -> bytes:
        """The plan of ``graph``; built once, announced and kept if there is none.

        Raises ``BackendError`` for a plan that is there and does not fit, and for a failed build.
        """
        entry = self.bundle.entry(graph, "tensorrt")
        wanted = describe_engine(entry, self.settings, self.platform, "")
        for folder in self._folders():
            if (folder / f"{graph}.json").exists():
                _require_own(folder)
                return read_plan(folder, wanted)
        folder = self._writable()
        with _alone(folder):
            if (folder / f"{graph}.json").exists():  # another process built it meanwhile
                return read_plan(folder, wanted)
            return self._build(entry, wanted, folder, build)

    def _build(
        self, entry: GraphEntry, wanted: EngineManifest, folder: Path, build: Build
    ) -> bytes:
        logger.warning(
            "building the TensorRT engine of %s for %s, once; it is kept in %s",
            *(entry.name, self.platform.gpu, folder),
        )
        begin = time.perf_counter()
        cache = folder / TIMING_CACHE
        known = cache.read_bytes() if cache.exists() else b""
        plan = build((self.bundle.path / entry.file).read_bytes(), known)
        manifest = wanted.model_copy(
            update={
                "plan_sha256": sha256(plan.engine).hexdigest(),
                "build_s": round(time.perf_counter() - begin, 1),
                "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        _write(cache, plan.timing_cache)
        _write(folder / f"{entry.name}.plan", plan.engine)
        _write(folder / f"{entry.name}.json", manifest.to_json().encode())
        return plan.engine

    def _folders(self) -> tuple[Path, Path]:
        name = self.platform.folder(self.settings.precision)
        cached = cache_folder() / ENGINES / self.bundle.id / name
        return self.bundle.path / ENGINES / name, cached

    def _writable(self) -> Path:
        """The first of our folders that can be written to, made if need be."""
        reasons = []
        for folder in self._folders():
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o755)
                with tempfile.NamedTemporaryFile(dir=folder, prefix=".triplex-"):
                    return folder
            except OSError as error:
                reasons.append(f"{folder}: {error.strerror or error}")
        raise BackendError(
            f"TensorRT engines cannot be kept ({'; '.join(reasons)}); make the bundle writable, or "
            "set XDG_CACHE_HOME to a folder that is"
        )


def _require_own(folder: Path) -> None:
    """Refuse plans that another user could have put there: a plan is code."""
    status = folder.stat()
    if status.st_uid not in (os.getuid(), 0) or status.st_mode & _ANYONE_MAY_WRITE:
        raise BackendError(
            f"{folder}: others may have written these engines, and an engine is code; "
            "own the folder and run `chmod o-w` on it, or delete it"
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time build into ``folder``."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: a plan cut short would cost an operator an hour."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise BackendError(
            f"{path}: cannot be written ({error.strerror or error}); free space on that disk"
        ) from error
