"""Choose how the graph of a tile encoder runs on the CPU, and open it for several workers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import TILES, GraphSpec
from triplex_deploy.contract.precision import precision_of
from triplex_deploy.errors import BackendError
from triplex_deploy.install import install_command
from triplex_deploy.runtime import openvino, ort
from triplex_deploy.runtime.backends import BACKENDS, ONNXRUNTIME, OPENVINO
from triplex_deploy.runtime.cpu_choice import (
    Candidate,
    fastest,
    installed_on_cpu,
    kept_rates,
    reason_of,
    require_bf16,
    time_sessions,
)
from triplex_deploy.runtime.device import CPU
from triplex_deploy.runtime.gates import cosine_of
from triplex_deploy.runtime.session import Session

logger = logging.getLogger(__name__)

FLOAT_TYPES = ("fp32", "bf16")
"""Precisions in which the graph of a tile encoder runs on a CPU."""


@dataclass(frozen=True)
class Reference:
    """What a session must compute before it is used."""

    tiles: NDArray[np.uint8]
    """RGB tiles (B, 224, 224, 3)."""
    features: NDArray[np.float32]
    """Their features (B, F) in fp32."""


@dataclass(frozen=True)
class TileGraph:
    """An fp32 graph that takes the input ``tiles`` and gives ``features``."""

    path: Path
    """The ONNX file."""
    spec: GraphSpec
    """Contract of the graph."""
    digest: str
    """Tells the encoder from others."""
    reference: Reference
    """Tiles and their features."""


@dataclass(frozen=True)
class OpenGraph:
    """A session that several threads call at once, each call in one thread."""

    session: Session
    """The session."""
    candidate: Candidate
    """Backend and type of products."""
    reason: str
    """Why this backend, in one line."""
    tiles_per_s: Mapping[str, float] = field(default_factory=dict)
    """Measured tiles per second of one core, by candidate; empty if nothing was to choose."""


def check_request(backend: str | None, precision: str) -> None:
    """Check that this machine has a precision in a backend.

    Args:
        backend: Name of a backend of the CPU; None for any that is installed.
        precision: One of ``FLOAT_TYPES``.

    Raises:
        BackendError: It does not; the message says what it has.
    """
    if precision not in FLOAT_TYPES:
        raise BackendError(f"precision {precision!r}: not known; use {' or '.join(FLOAT_TYPES)}")
    if precision == "bf16":
        require_bf16([BACKENDS[backend]] if backend else installed_on_cpu() or [ONNXRUNTIME])
    if backend and not BACKENDS[backend].is_installed:
        raise BackendError(f"backend {backend}: not installed; run `{install_command('cpu')}`")


def open_for_workers(
    graph: TileGraph, backend: str | None, precision: str, workers: int, stack: ExitStack
) -> OpenGraph:
    """Open the graph in the fastest of the backends that give the reference's features.

    Args:
        graph: The graph.
        backend: Name of the backend; None for the fastest that is installed, as measured.
        precision: One of ``FLOAT_TYPES``.
        workers: Number of threads that call the session at once.
        stack: Closes the session when it closes.

    Returns:
        The session.

    Raises:
        BackendError: If the backend that was asked for cannot load the graph or misses the
            precision's gate, or if every installed backend does.
    """
    check_request(backend, precision)
    candidates = [
        Candidate(entry.name, precision)
        for entry in ([BACKENDS[backend]] if backend else installed_on_cpu())
        if precision in entry.float_types
    ]
    sessions: dict[Candidate, Session] = {}
    with ExitStack() as opened:
        for candidate in candidates:
            try:
                session = opened.enter_context(_open(graph, candidate, workers))
                _check_features(graph, candidate, session, is_named=backend is not None)
            except BackendError as error:
                if len(candidates) == 1:
                    raise
                logger.warning("%s is left out: %s", candidate.backend, error)
                continue
            sessions[candidate] = session
        if not sessions:
            names = " and ".join(map(str, candidates))
            raise BackendError(f"{graph.path}: {names} cannot run it; see the warnings above")
        rates = _rates(graph, sessions) if len(sessions) > 1 else {}
        chosen = fastest(list(sessions), rates)
        for candidate, session in sessions.items():
            if candidate != chosen:
                session.close()
        stack.enter_context(opened.pop_all())
    listed = {str(candidate): rate for candidate, rate in rates.items()}
    return OpenGraph(sessions[chosen], chosen, reason_of(chosen, rates), listed)


def _open(graph: TileGraph, candidate: Candidate, workers: int) -> Session:
    if candidate.backend == OPENVINO.name:
        return openvino.open_session(
            graph.path, graph.spec, candidate.float_type, threads=workers, streams=workers
        )
    return ort.open_ort_session(graph.path, graph.spec, CPU, threads=1)


def _check_features(
    graph: TileGraph, candidate: Candidate, session: Session, is_named: bool
) -> None:
    """Raise ``BackendError`` unless the session's features are within the precision's gate.

    A few tiles are compared, and others may differ by more. So a backend that nobody has named
    must be within a tenth of an exact gate.
    """
    expected = graph.reference.features
    (output,) = session.run({TILES.name: graph.reference.tiles}).values()
    gate = precision_of(candidate.float_type).gate
    difference = float(np.abs(output - expected).max())
    spread = float(np.ptp(expected))
    limit = None if gate.max_relative is None else gate.max_relative / (1 if is_named else 10)
    if limit is not None and not difference <= limit * spread:
        raise BackendError(
            f"{candidate}: features differ from the reference by {difference:.2g}, where they "
            f"range over {spread:.2g}; choose another --backend"
        )
    if gate.min_cosine is not None and not cosine_of(output, expected) >= gate.min_cosine:
        raise BackendError(
            f"{candidate}: the cosine with the fp32 features is {cosine_of(output, expected):.4f}, "
            f"at least {gate.min_cosine} is needed; use --precision fp32"
        )


def _rates(graph: TileGraph, sessions: Mapping[Candidate, Session]) -> dict[Candidate, float]:
    candidates: Sequence[Candidate] = list(sessions)
    return kept_rates({"encoder": graph.digest}, candidates, lambda: time_sessions(sessions))
