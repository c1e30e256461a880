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
"""In the order a query passes them; what lies between them is ``other``."""
OTHER: Final = "other"
COPIES: Final = ("host_to_device", "device_to_host")

Seconds = Mapping[str, float]
MASKED: Final = 0.2
"""Part of the neighbours outside the slide in made-up masks."""


@runtime_checkable
class StagedSession(Protocol):
    """A session that can tell copies from computing."""

    def run_staged(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[Arrays, Seconds]:
        """As ``run``, with the seconds of host_to_device, compute and device_to_host."""
        ...


def copies_absent(model: Model) -> dict[str, str]:
    """Why copies cannot be told apart on this backend; empty where they can."""
    if any(isinstance(session, StagedSession) for session in model.sessions.values()):
        return {}
    if model.device.kind == "cpu":
        return dict.fromkeys(COPIES, "the CPU computes where the arrays are")
    return dict.fromkeys(COPIES, f"{model.backend} copies within its call, counted as compute")


def transfers_note(model: Model) -> str:
    """Whether a latency includes copies to and from the device."""
    return "none: host memory" if model.device.kind == "cpu" else "included in every latency"


class CallResult(NamedTuple):
    """One call: how many tiles or spots it served, and the stages it can tell apart."""

    rows: int
    seconds: Seconds


class Work(ABC):
    """One thing to time.

    ``unit`` is what its rows are, ``limit`` the queries one call can take, ``absent`` the stages it
    cannot tell apart and why, ``metadata`` what else is worth recording.
    """

    graph: str
    axis: str
    size: int
    unit: str
    limit: int
    absent: Mapping[str, str]
    metadata: dict[str, float | int | str]

    @abstractmethod
    def query(self) -> CallResult:
        """One query of ``size`` whose input lies ready."""

    @abstractmethod
    def batch(self, queries: int) -> CallResult:
        """One call for ``queries`` waiting queries, at most ``limit``, gathered first."""

    def graph_seconds(self) -> Seconds:
        """Seconds per graph of the latest call, where it runs several."""
        return {}


class GraphWork(Work):
    """One session on made-up inputs; ``pool`` has ``size`` rows on the dynamic axis, or more.

    Rows of a ``batch`` axis come from different spots and can be batched freely; those of another
    axis belong to one slide, which is then one query, and ``pool`` has just its rows. ``where`` is
    the precision and device, for the error of an output that is NaN or infinite.
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
