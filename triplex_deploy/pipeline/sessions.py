"""One session per graph, fit to be run by several lanes at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from triplex_deploy.runtime.device import CPU
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import Session


@contextmanager
def lane_sessions(model: Model) -> Iterator[Mapping[str, Session]]:
    """The model's sessions; on a CPU those that work in batches have one thread per call.

    Several calls of one thread each need less CPU than one call of several threads, at any batch
    size: nothing is split, and nobody spins while waiting for the others (docs/throughput.md).
    """
    if model.device != CPU or model.backend != "onnxruntime":
        yield model.sessions
        return
    from triplex_deploy.runtime.ort import open_ort_session

    bundle = model.bundle
    with ExitStack() as stack:
        sessions = dict(model.sessions)
        for name, spec in bundle.specs.items():
            if spec.batch_axis == "batch":
                path = bundle.path / bundle.entry(name, "onnxruntime").file
                sessions[name] = stack.enter_context(open_ort_session(path, spec, CPU, threads=1))
        yield sessions
