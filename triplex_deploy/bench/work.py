"""Define what a benchmark times: a call of one graph, and the stages that its seconds go to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bench.machine import Clock
from triplex_deploy.contract import CENTER, GraphSpec, TensorSpec
from triplex_deploy.runtime.finite import require_finite
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import Arrays, Session

STAGES: Final[tuple[str, ...]] = (
    "queue",
    "decode",
    "prepare",
    "gather",
    "host_to_device",
    "compute",
    "device_to_host",
    "write",
)
"""Stages in the order in which a query passes them; the time between them is ``other``."""
OTHER: Final = "other"
COPIES: Final = ("host_to_device", "device_to_host")

Seconds = Mapping[str, float]
MASKED: Final = 0.2
"""Part of the neighbors that made-up masks mask."""


@runtime_checkable
class StagedSession(Protocol):
    """A session that measures copies and computing apart."""

    def run_staged(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[Arrays, Seconds]:
        """Run like ``run``, and return the seconds of each of ``COPIES`` and of compute."""
        ...


def copies_absent(model: Model) -> dict[str, str]:
    """Return why a backend does not measure copies apart; empty if it does."""
    if any(isinstance(session, StagedSession) for session in model.sessions.values()):
        return {}
    if model.device.kind == "cpu":
        return dict.fromkeys(COPIES, "the CPU computes where the arrays are")
    return dict.fromkeys(COPIES, f"{model.backend} copies within its call, counted as compute")


def transfers_note(model: Model) -> str:
    """Return whether a latency includes copies to and from the device."""
    return "none: host memory" if model.device.kind == "cpu" else "included in every latency"


class CallResult(NamedTuple):
    """The result of one call."""

    rows: int
    """Tiles or spots that it served."""
    seconds: Seconds
    """Seconds by stage, of the stages that are measured apart."""


class Work(ABC):
    """Something to time."""

    graph: str
    """Name of the graph, or ``END_TO_END``."""
    axis: str
    """Name of the axis that ``size`` counts."""
    size: int
    """Rows of a query."""
    unit: str
    """What a row is: ``tiles`` or ``spots``."""
    limit: int
    """Maximum number of queries in a call."""
    absent: Mapping[str, str]
    """Why a stage is not measured apart."""
    metadata: dict[str, Any]
    """Other facts for the record."""

    @abstractmethod
    def query(self) -> CallResult:
        """Run one query of ``size`` rows; its input is ready."""

    @abstractmethod
    def batch(self, queries: int) -> CallResult:
        """Gather the input of ``queries`` waiting queries, at most ``limit``, and run them."""

    def graph_seconds(self) -> Seconds:
        """Return the seconds of the latest call by graph, if it ran several."""
        return {}


class GraphWork(Work):
    """Runs one session on made-up inputs.

    Rows of a ``batch`` axis come from different spots, and a call may take any of them. Rows of
    another axis belong to one slide, which is then one query.
    """

    def __init__(
        self,
        session: Session,
        size: int,
        pool: Mapping[str, NDArray[Any]],
        clock: Clock,
        absent: Mapping[str, str],
        where: str = "",
    ) -> None:
        """Take what a query needs.

        Args:
            session: The session.
            size: Rows of a query.
            pool: Inputs by name, with ``size`` rows on the dynamic axis, or more.
            clock: Measures the seconds.
            absent: Stages that the session does not measure apart, and why.
            where: Precision and device, for the error of an output that is NaN or infinite.
        """
        spec = session.spec
        self.graph, self.axis, self.size = spec.name, spec.batch_axis, size
        self.unit = "tiles" if spec.kind == "per tile" else "spots"
        self.limit = size if spec.kind != "per slide" else 1
        self.absent = {
            "decode": "no slide is read: inputs are made up",
            "prepare": "no slide is planned: inputs are made up",
            "write": "outputs are not kept",
            **absent,
        }
        self.metadata = {}
        self._session, self._clock = session, clock
        self._ready = {name: array[:size] for name, array in pool.items()}
        self._first = 0
        self._where: str | None = where

    def query(self) -> CallResult:
        return CallResult(self.size, self._run(self._ready))

    def batch(self, queries: int) -> CallResult:
        if self.axis != "batch":
            return self.query()
        begin = self._clock.now()
        rows = (self._first + np.arange(queries)) % self.size
        self._first = (self._first + queries) % self.size
        gathered = {name: array[rows] for name, array in self._ready.items()}
        took = self._clock.now() - begin
        return CallResult(queries, {"gather": took, **self._run(gathered)})

    def _run(self, inputs: Arrays) -> Seconds:
        if isinstance(self._session, StagedSession):
            outputs, seconds = self._session.run_staged(inputs)
        else:
            begin = self._clock.now()
            outputs = self._session.run(inputs)
            seconds = {"compute": self._clock.now() - begin}
        if self._where is not None:  # once, in the first call, which is a warm-up
            require_finite(self._session.spec, outputs, self._where)
            self._where = None
        return seconds


def made_up_inputs(spec: GraphSpec, size: int, seed: int, n_positions: int) -> Arrays:
    """Return seeded inputs of a graph, all of them distinct arrays.

    Args:
        spec: The graph.
        size: Length of the dynamic axis.
        seed: Seed of the values.
        n_positions: Number of rows and columns of the array that the model has embeddings for.
    """
    rng = np.random.default_rng([seed, size])
    return {tensor.name: _made_up(tensor, size, rng, n_positions) for tensor in spec.inputs}


def _made_up(
    tensor: TensorSpec, size: int, rng: np.random.Generator, n_positions: int
) -> NDArray[Any]:
    shape = tuple(size if isinstance(axis, str) else axis for axis in tensor.axes)
    if tensor.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    if tensor.name == "grid_xy":
        return rng.integers(0, n_positions, shape, np.int64)
    if tensor.dtype == "int64":
        return rng.integers(-1, size, shape, np.int64)
    if tensor.dtype == "bool":
        mask = rng.random(shape) >= MASKED
        mask[:, CENTER] = True
        return mask
    return rng.standard_normal(shape, np.float32)
