"""Keep engines in the bundle, or in the user's cache folder if the bundle is read-only."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from triplex_deploy.bundle import Bundle, GraphEntry
from triplex_deploy.errors import BackendError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.lock import exclusive_lock
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
LOCK: Final = ".lock"
_ANYONE_MAY_WRITE: Final = 0o002

Build = Callable[[bytes, bytes], Plan]
"""Builds a plan from ONNX bytes and a timing cache."""


@dataclass(frozen=True)
class EngineStore:
    """The engines of one bundle for one platform."""

    bundle: Bundle
    """A verified bundle."""
    settings: EngineSettings
    """How its engines are built."""
    platform: Platform
    """The GPU and TensorRT of this machine."""

    def plan(self, graph: str, build: Build) -> bytes:
        """Return the plan of ``graph``; if there is none, build it and keep it.

        Raises ``BackendError`` if the plan that is kept does not fit or the build fails, and
        ``OutputError`` if the new plan cannot be written.
        """
        entry = self.bundle.entry(graph, "tensorrt")
        wanted = describe_engine(entry, self.settings, self.platform, "")
        for folder in self._folders():
            if (folder / f"{graph}.json").exists():
                _require_own(folder)
                return read_plan(folder, wanted)
        folder = self._writable()
        with exclusive_lock(folder / LOCK, wait=True):
            if (folder / f"{graph}.json").exists():  # another process built it meanwhile
                return read_plan(folder, wanted)
            return self._build(entry, wanted, folder, build)

    def _build(
        self, entry: GraphEntry, wanted: EngineManifest, folder: Path, build: Build
    ) -> bytes:
        logger.warning(
            "building the TensorRT engine of %s for %s, once; it is kept in %s",
            entry.name,
            self.platform.gpu,
            folder,
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
        """Return the first folder that can be written to; it is created if it is missing."""
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
            "set XDG_CACHE_HOME to a folder that can be written to"
        )


def _require_own(folder: Path) -> None:
    """Raise ``BackendError`` if another user could have written the plans: a plan is code."""
    status = folder.stat()
    if status.st_uid not in (os.getuid(), 0) or status.st_mode & _ANYONE_MAY_WRITE:
        raise BackendError(
            f"{folder}: others may have written these engines, and an engine is code; "
            "own the folder and run `chmod o-w` on it, or delete it"
        )


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:  # a truncated plan would be refused, and built again
        temporary.write_bytes(content)
