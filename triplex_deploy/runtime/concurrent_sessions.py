"""Sessions of a model that several threads may call at the same time."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from numpy.typing import NDArray

from triplex_deploy.bundle import Bundle
from triplex_deploy.runtime.device import CPU
from triplex_deploy.runtime.device_array import Tensor, Tensors
from triplex_deploy.runtime.session import Arrays, Session


def single_threaded(
    bundle: Bundle, sessions: Mapping[str, Session], stack: ExitStack
) -> dict[str, Session]:
    """ONNX Runtime on the CPU: graphs that work in batches with one thread per call, for workers.

    Several calls of one thread each need less CPU than one call of several threads, at any batch
    size: nothing is split, and nobody spins while waiting for the others (docs/throughput.md).
    ``stack`` owns what is opened.
    """
    from triplex_deploy.runtime.ort import open_ort_session

    opened = dict(sessions)
    for name, spec in bundle.specs.items():
        if spec.kind != "per slide":
            path = bundle.path / bundle.entry(name, "onnxruntime").file
            opened[name] = stack.enter_context(open_ort_session(path, spec, CPU, threads=1))
    return opened


def taking_turns(sessions: Mapping[str, Session]) -> dict[str, Session]:
    """On a GPU: one call at a time; meanwhile a worker stores, fetches and uploads."""
    turn = threading.Lock()
    return {name: _TakingTurns(session, turn) for name, session in sessions.items()}


class _TakingTurns(Session):
    """A session whose buffers serve one call at a time; its owner closes it."""

    def __init__(self, session: Session, turn: threading.Lock) -> None:
        super().__init__(session.spec)
        self._session = session
        self._turn = turn

    def _run(self, inputs: Tensors) -> Arrays:
        with self._turn:
            return self._session.run(inputs)

    def _run_kept(self, inputs: Tensors) -> dict[str, Any]:
        with self._turn:
            return self._session.run_kept(inputs)

    def _upload(self, array: NDArray[Any]) -> Tensor:
        return self._session.upload(array)

    def close(self) -> None:
        pass
