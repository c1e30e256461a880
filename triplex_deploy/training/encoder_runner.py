"""Run the frozen tile encoder in several workers, by the runtimes of prediction where possible."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import TILE_PX, TILES
from triplex_deploy.contract.graphs import tile_encoder_graph
from triplex_deploy.errors import BackendError, OutputError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.install import install_command
from triplex_deploy.runtime.backends import AUTO
from triplex_deploy.runtime.cpu_choice import installed_on_cpu
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.finite import require_finite
from triplex_deploy.runtime.tile_graph import (
    FLOAT_TYPES,
    Reference,
    TileGraph,
    check_request,
    open_for_workers,
)
from triplex_deploy.system import cache_folder, usable_cores
from triplex_deploy.training.images import CPU_TILES
from triplex_deploy.training.tile_encoder import FrozenEncoder

logger = logging.getLogger(__name__)

TORCH: Final = "torch"
"""Backend that runs one of our encoders in PyTorch."""
PREPARE_BACKENDS: Final = (AUTO, "onnxruntime", "openvino", TORCH)
"""Values of ``prepare --backend``."""
PREPARE_PRECISIONS: Final = FLOAT_TYPES
"""Values of ``prepare --precision``."""
MOST_KEPT: Final = 8
"""Most graphs in the cache; older graphs are removed."""

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Returns features (B, F) of tiles (B, 224, 224, 3)."""


@dataclass(frozen=True)
class RunOptions:
    """Holds how the frozen encoder runs."""

    backend: str = AUTO
    """A name of ``PREPARE_BACKENDS``; ``auto`` is the fastest backend that is installed."""
    precision: str = "fp32"
    """A name of ``PREPARE_PRECISIONS``."""
    workers: int | None = None
    """Threads that encode on a CPU, each a batch at a time; None for as many as usable cores."""
    device: Device = CPU
    """Device that encodes."""
    batch_size: int = 32
    """Most tiles per call; on a CPU at most ``CPU_TILES``."""


@dataclass(frozen=True)
class Running:
    """Holds an encoder that is ready to be called."""

    encode: Encode
    """The function to call; ``workers`` threads may call it at once."""
    workers: int
    """Number of threads that should call it."""
    backend: str
    """The backend that computes, a name of ``PREPARE_BACKENDS``."""


class EncoderRunner:
    """Runs a frozen encoder in several workers. Close it, or use it as a context manager.

    The sessions are opened when the first tile is encoded. A run that finds all features in the
    prepared folder opens none.
    """

    def __init__(self, encoder: FrozenEncoder, options: RunOptions) -> None:
        """Check the options against the encoder and the machine.

        Raises:
            BackendError: The backend or the precision is not available.
        """
        self.encoder = encoder
        self.options = options
        self._stack = ExitStack()
        self._runs_itself = self._check()

    @property
    def precision(self) -> str:
        """Return the precision of the features; it does not depend on the backend."""
        return self.options.precision

    @property
    def digest(self) -> str:
        """Return the digest of the encoder, with the precision unless it is fp32.

        It is equal for equal features.
        """
        digest = self.encoder.digest
        return digest if self.precision == "fp32" else f"{digest}|{self.precision}"

    @property
    def tiles_per_call(self) -> int:
        """Return the number of tiles that a worker encodes at once."""
        size = self.options.batch_size
        return min(size, CPU_TILES) if self.options.device == CPU else size

    @cached_property
    def running(self) -> Running:
        """Open the encoder.

        Raises:
            BackendError: No backend can run it.
        """
        workers = self._workers()
        if self._runs_itself:
            return self._itself()
        path = self._write_graph()
        opened = open_for_workers(
            TileGraph(
                path,
                tile_encoder_graph(self.encoder.feature_dim),
                self.encoder.digest,
                self._reference(),
            ),
            None if self.options.backend == AUTO else self.options.backend,
            self.precision,
            workers,
            self._stack,
        )
        logger.info("tile encoder: %s; %d workers", opened.reason, workers)
        session = opened.session

        def encode(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
            (features,) = session.run({TILES.name: tiles}).values()
            return np.asarray(features, np.float32)

        return Running(self._checked(encode), workers, opened.candidate.backend)

    def _checked(self, encode: Encode) -> Encode:
        """Return a function that encodes, and raises ``BackendError`` for NaN and infinity."""
        spec = tile_encoder_graph(self.encoder.feature_dim)
        where = f"{self.precision} on {self.options.device}"

        def checked(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
            features = encode(tiles)
            named = {spec.outputs[0].name: features}
            require_finite(spec, named, where, remedy="use --precision fp32 or another encoder")
            return features

        return checked

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the encoder, and the precision unless it is fp32.

        Without a precision it is fp32, as in data sets of versions that had no other precision.
        """
        reduced = {} if self.precision == "fp32" else {"precision": self.precision}
        return {**self.encoder.metadata(), **reduced}

    def close(self) -> None:
        """Close the sessions."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _workers(self) -> int:
        return self.options.workers or usable_cores()

    def _itself(self) -> Running:
        on_cpu = self.options.device == CPU
        workers = self._workers() if on_cpu and self.encoder.takes_threads else 1
        return Running(self._checked(self.encoder.encode), workers, self.encoder.own_backend)

    def _check(self) -> bool:
        """Return True if the encoder's own runtime is used; raise ``BackendError`` if none can."""
        asked, own = self.options.backend, self.encoder.own_backend
        if asked not in PREPARE_BACKENDS:
            raise BackendError(f"backend {asked!r}: not known; use {' or '.join(PREPARE_BACKENDS)}")
        if self.precision not in PREPARE_PRECISIONS:
            raise BackendError(
                f"precision {self.precision!r}: not known; use {' or '.join(PREPARE_PRECISIONS)}"
            )
        if self.options.device != CPU:
            self._require_own(f"device {self.options.device}", "--device cpu")
            return True
        if asked == TORCH:
            self._require_own(f"backend {TORCH}", f"--backend {AUTO}")
            return True
        lacking = self.encoder.why_no_graph
        if not lacking and asked == AUTO and not installed_on_cpu():
            lacking = f"no runtime is installed; run `{install_command('cpu')}`"
        if not lacking:
            check_request(None if asked == AUTO else asked, self.precision)
            return False
        if asked not in (AUTO, own):
            raise BackendError(f"backend {asked}: {lacking}")
        self._require_own("this tile encoder", f"--precision fp32, as {lacking}")
        logger.warning("tile encoder: runs in %s only, which is slower: %s", own, lacking)
        return True

    def _require_own(self, where: str, remedy: str) -> None:
        """Raise ``BackendError`` for options that the encoder's own runtime does not have."""
        own = self.encoder.own_backend
        if self.options.backend not in (AUTO, own):
            raise BackendError(f"{where}: this encoder runs in {own} there; pass {remedy}")
        if self.precision != "fp32":
            raise BackendError(
                f"precision {self.precision}: {where} encodes in fp32 only; pass {remedy}"
            )

    def _reference(self) -> Reference:
        """Return tiles of several contrasts, with their features by the encoder's own runtime.

        An even, bright tile shows the error of a runtime that sums many equal values.
        """
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (CPU_TILES, TILE_PX, TILE_PX, 3))
        contrast = np.geomspace(0.02, 1, CPU_TILES).reshape(-1, 1, 1, 1)
        tiles = (255 - noise * contrast).astype(np.uint8)
        return Reference(tiles, self._checked(self.encoder.encode)(tiles))

    def _write_graph(self) -> Path:
        """Write the graph of the encoder and return its path.

        The file is in the cache folder of the user, so that OpenVINO finds what it compiled for
        this path before. An existing file is not trusted: the graph is written anew each time, and
        replaces a file that differs. If the cache folder cannot be written, the file is temporary.
        """
        temporary = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        fresh = temporary / "tile_encoder.onnx"
        self.encoder.write_graph(fresh)
        path = cache_folder() / "encoders" / f"{self.encoder.digest}.onnx"
        content = fresh.read_bytes()
        try:
            if path.is_file() and path.read_bytes() == content:
                return path
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as target:
                target.write_bytes(content)
            _remove_oldest(path.parent)
        except (OSError, OutputError) as error:
            logger.info("%s: not kept (%s)", path, error)
            return fresh
        return path


def _remove_oldest(folder: Path) -> None:
    graphs = sorted(folder.glob("*.onnx"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in graphs[MOST_KEPT:]:
        path.unlink(missing_ok=True)
