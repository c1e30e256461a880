"""An opened bundle: every graph loaded on one device, run by name."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from triplex_deploy.bundle import Bundle, read_bundle
from triplex_deploy.errors import BackendError, ContractError
from triplex_deploy.runtime.concurrent_sessions import single_threaded, taking_turns
from triplex_deploy.runtime.device import CPU, Device, parse_device
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.session import Arrays, Session

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "onnxruntime", "tensorrt")


class RunnableBundle(Bundle):
    """A verified bundle that can be opened on a device."""

    def open(
        self,
        device: str = "auto",
        backend: str = "auto",
        threads: int | None = None,
        spinning: bool = True,
    ) -> Model:
        """Load every graph; use the result as a context manager.

        ``device`` is auto, cpu or cuda:N. ``backend`` auto takes TensorRT on a GPU where the bundle
        has graphs for it and its library is there, and ONNX Runtime else; TensorRT engines that are
        missing are built, once. ``threads`` bounds the CPU threads of one operator in ONNX Runtime,
        which without ``spinning`` sleep between operators.
        Raises ``BackendError`` if the device or backend cannot be had; nothing is substituted.
        """
        if backend not in BACKENDS:
            raise BackendError(f"backend {backend!r}: not known; use {' or '.join(BACKENDS)}")
        chosen = parse_device(device) or _best_device(backend)
        engine = _best_backend(self, chosen) if backend == "auto" else backend
        if "auto" in (device, backend):
            logger.info("using %s on %s", engine, chosen)
        _warn(self)
        with ExitStack() as stack:
            if engine == "tensorrt":
                from triplex_deploy.runtime.tensorrt.engines import open_engines

                sessions = open_engines(self, chosen, stack)
            else:
                sessions = self._open_onnx(chosen, threads, spinning, stack)
            return Model(self, sessions, chosen, engine, stack.pop_all())

    def _open_onnx(
        self, device: Device, threads: int | None, spinning: bool, stack: ExitStack
    ) -> dict[str, Session]:
        from triplex_deploy.runtime.ort import Tuning, open_ort_session

        sessions: dict[str, Session] = {}
        for name, spec in self.specs.items():
            entry = self.entry(name, "onnxruntime")
            tuning = Tuning(threads, spinning, tf32=entry.precision == "tf32")
            session = open_ort_session(self.path / entry.file, spec, device, tuning=tuning)
            sessions[name] = stack.enter_context(session)
        return sessions


def _warn(bundle: Bundle) -> None:
    """Say what its maker said: that the weights are untrained, or that parity was missed."""
    note = bundle.manifest.provenance.get("note")
    if note:
        logger.warning("%s: %s", bundle.path, note)
    if not bundle.manifest.parity_passed:
        logger.warning("%s: differs from PyTorch beyond its gate, see parity.json", bundle.path)


def _best_device(backend: str) -> Device:
    """The first GPU if the backend can use one here, else the CPU."""
    from triplex_deploy.runtime.ort import cuda_device_count, cuda_usable

    usable = cuda_device_count() > 0 if backend == "tensorrt" else cuda_usable()
    return Device("cuda") if usable else CPU


def _best_backend(bundle: Bundle, device: Device) -> str:
    """TensorRT on a GPU where the bundle has graphs for it and its library is installed."""
    served = {entry.target for entry in bundle.manifest.graphs}
    if "tensorrt" not in served or device.kind == "cpu":
        return "onnxruntime"
    return "tensorrt" if find_spec("tensorrt") and find_spec("pycuda") else "onnxruntime"


@dataclass
class Model:
    """The graphs of one bundle, loaded; ``run`` takes and gives dicts of arrays."""

    bundle: Bundle
    sessions: Mapping[str, Session]
    device: Device
    backend: str
    _open: ExitStack
    _opening: threading.Lock = field(default_factory=threading.Lock, init=False)
    _concurrent: Mapping[str, Session] | None = field(default=None, init=False)

    def run(self, graph: str, inputs: Tensors) -> Arrays:
        """Run one graph by name; raises ``ContractError`` if name or inputs do not fit."""
        return self.session(graph).run(inputs)

    def session(self, graph: str) -> Session:
        """The session of a graph, to ``submit`` to or to keep outputs on the device with."""
        session = self.sessions.get(graph)
        if session is None:
            raise ContractError(
                f"graph {graph!r}: not in this bundle; it has {', '.join(self.sessions)}"
            )
        return session

    def concurrent_sessions(self) -> Mapping[str, Session]:
        """Sessions that several threads may call at once; opened when first asked for, and kept."""
        with self._opening:
            if self._concurrent is None:
                self._concurrent = self._make_concurrent()
            return self._concurrent

    def _make_concurrent(self) -> Mapping[str, Session]:
        if self.device != CPU:
            return taking_turns(self.sessions)
        if self.backend != "onnxruntime":
            return self.sessions
        return single_threaded(self.bundle, self.sessions, self._open)

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_bundle(path: str | Path) -> RunnableBundle:
    """Read and verify a bundle directory; raises ``BundleError`` naming what is wrong."""
    bundle = read_bundle(path)
    return RunnableBundle(bundle.path, bundle.manifest, bundle.config)
