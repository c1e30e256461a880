"""One session per graph, fit to be run by several lanes at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from triplex_deploy.runtime.device import CPU
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import Arrays, Session


@contextmanager
def lane_sessions(model: Model) -> Iterator[Mapping[str, Session]]:
    """Sessions of the model's graphs that lanes may call at the same time.

    On a CPU those that work in batches have one thread per call. Several calls of one thread each
    need less CPU than one call of several threads, at any batch size: nothing is split, and nobody
    spins while waiting for the others (docs/throughput.md). On a GPU calls take turns, so that one
    lane stores results and fetches tiles while the other's are encoded.
    """
    if model.device != CPU:
        turn = threading.Lock()
        yield {name: _TakingTurns(session, turn) for name, session in model.sessions.items()}
    elif model.backend != "onnxruntime":
        yield model.sessions
    else:
        with ExitStack() as stack:
            yield _single_threaded(model, stack)


def _single_threaded(model: Model, stack: ExitStack) -> dict[str, Session]:
    from triplex_deploy.runtime.ort import open_ort_session

    sessions = dict(model.sessions)
    for name, spec in model.bundle.specs.items():
        if spec.batch_axis == "batch":
            path = model.bundle.path / model.bundle.entry(name, "onnxruntime").file
            sessions[name] = stack.enter_context(open_ort_session(path, spec, CPU, threads=1))
    return sessions


class _TakingTurns(Session):
    """A session on a GPU, whose buffers serve one call at a time; its owner closes it."""

    def __init__(self, session: Session, turn: threading.Lock) -> None:
        super().__init__(session.spec)
        self._session = session
        self._turn = turn

    def _run(self, inputs: Tensors) -> Arrays:
        with self._turn:
            return self._session.run(inputs)

    def close(self) -> None:
        pass
