"""An opened bundle: every graph loaded on one device, run by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from triplex_deploy.bundle import Bundle, read_bundle
from triplex_deploy.errors import BackendError, ContractError
from triplex_deploy.runtime.device import CPU, Device, parse_device
from triplex_deploy.runtime.session import Arrays, Session

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "onnxruntime")


class RunnableBundle(Bundle):
    """A verified bundle that can be opened on a device."""

    def open(
        self,
        device: str = "auto",
        backend: str = "auto",
        threads: int | None = None,
    ) -> Model:
        """Load every graph; use the result as a context manager.

        ``device`` is auto, cpu or cuda:N; ``threads`` bounds the CPU threads of one operator.
        Raises ``BackendError`` if the device or backend cannot be had; nothing is substituted.
        """
        if backend not in BACKENDS:
            raise BackendError(f"backend {backend!r}: not known; use {' or '.join(BACKENDS)}")
        from triplex_deploy.runtime.ort import cuda_usable, open_ort_session

        chosen = parse_device(device)
        if chosen is None:
            chosen = Device("cuda") if cuda_usable() else CPU
            logger.info("device auto: using %s", chosen)
        with ExitStack() as stack:
            sessions: dict[str, Session] = {}
            for name, spec in self.specs.items():
                entry = self.entry(name, "onnxruntime")
                session = open_ort_session(self.path / entry.file, spec, chosen, threads)
                sessions[name] = stack.enter_context(session)
            return Model(self, sessions, chosen, "onnxruntime", stack.pop_all())


@dataclass
class Model:
    """The graphs of one bundle, loaded; ``run`` takes and gives dicts of arrays."""

    bundle: Bundle
    sessions: Mapping[str, Session]
    device: Device
    backend: str
    _open: ExitStack

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run one graph by name; raises ``ContractError`` if name or inputs do not fit."""
        session = self.sessions.get(graph)
        if session is None:
            raise ContractError(
                f"graph {graph!r}: not in this bundle; it has {', '.join(self.sessions)}"
            )
        return session.run(inputs)

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
