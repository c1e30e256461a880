"""Keep engines in the bundle, or in the user's cache folder if the bundle is read-only.

An engine is code. Only engines that this installation has built are loaded: those that came with a
bundle are built again, in the user's cache folder.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from triplex_deploy.bundle import Bundle, GraphEntry
from triplex_deploy.errors import BackendError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.lock import exclusive_lock
from triplex_deploy.files.ours import is_own_folder
from triplex_deploy.files.regular import open_regular
from triplex_deploy.files.signed import sign_bytes, signed_content
from triplex_deploy.runtime.tensorrt.build import EngineSettings, Plan
from triplex_deploy.runtime.tensorrt.manifest import (
    EngineManifest,
    Platform,
    describe_engine,
    is_own_plan,
    read_plan,
)
from triplex_deploy.system import cache_folder

logger = logging.getLogger(__name__)


ENGINES: Final = "engines"
TIMING_CACHE: Final = "timing.cache"
LOCK: Final = ".lock"

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
        """Return the plan of ``graph``; if this installation has built none, build and keep it.

        Raises ``BackendError`` if the plan that is kept does not fit or the build fails, and
        ``OutputError`` if the new plan cannot be written.
        """
        entry = self.bundle.entry(graph, "tensorrt")
        wanted = describe_engine(entry, self.settings, self.platform, "")
        folders = self._folders()
        for folder in folders:
            if is_own_folder(folder) and is_own_plan(folder, graph):
                return read_plan(folder, wanted)
        foreign = [folder for folder in folders if (folder / f"{graph}.json").exists()]
        for folder in foreign:
            logger.warning(
                "%s: came with the bundle or from another installation, and an engine is code; "
                "it is built again",
                folder / f"{graph}.plan",
            )
        folder = _writable([f for f in folders if f not in foreign] or folders[-1:])
        with exclusive_lock(folder / LOCK, wait=True):
            if is_own_plan(folder, graph):  # another process built it meanwhile
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
        plan = build((self.bundle.path / entry.file).read_bytes(), _known_timings(cache))
        manifest = wanted.model_copy(
            update={
                "plan_sha256": sha256(plan.engine).hexdigest(),
                "build_s": round(time.perf_counter() - begin, 1),
                "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        _write(cache, sign_bytes(TIMING_CACHE, plan.timing_cache))
        _write(folder / f"{entry.name}.plan", plan.engine)
        _write(folder / f"{entry.name}.json", manifest.signed().to_json().encode())
        return plan.engine

    def _folders(self) -> tuple[Path, Path]:
        name = self.platform.folder(self.settings.precision)
        cached = cache_folder() / ENGINES / self.bundle.id / name
        return self.bundle.path / ENGINES / name, cached


def _known_timings(path: Path) -> bytes:
    """Return the timings of earlier builds of this installation, empty if there are none."""
    try:
        with open_regular(path) as file:
            return signed_content(TIMING_CACHE, file.read()) or b""
    except OSError:
        return b""


def _writable(folders: Sequence[Path]) -> Path:
    """Return the first folder that only this user can write to; it is made if it is missing."""
    reasons = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            if not is_own_folder(folder):
                raise OSError(f"others may write there; own it and run `chmod o-w {folder}`")
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".triplex-"):
                return folder
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
    raise BackendError(
        f"TensorRT engines cannot be kept ({'; '.join(reasons)}); make the bundle writable, or "
        "set XDG_CACHE_HOME to a folder that can be written to"
    )


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:  # a truncated plan would be refused, and built again
        temporary.write_bytes(content)
