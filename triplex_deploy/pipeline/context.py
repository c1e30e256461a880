"""Hold what all stages of one prediction share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from triplex_deploy.contract import GraphSpec
from triplex_deploy.pipeline.ordered_pool import OrderedThreadPool
from triplex_deploy.pipeline.tuning import Setting
from triplex_deploy.progress import Progress, StageClock, WallClock
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.finite import Rows, require_finite
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import Arrays, Session


@dataclass(frozen=True)
class PredictionContext:
    """The model, its sessions and the clocks of one prediction; every stage takes it."""

    model: Model
    """The opened bundle."""
    progress: Progress
    """Receives the progress of each stage."""
    sessions: Mapping[str, Session]
    """Sessions by graph name; ``setting.workers`` threads may call them at once."""
    setting: Setting
    """Number of workers and tiles per call."""
    clock: StageClock = field(default_factory=StageClock)
    """Seconds per stage."""
    wall: WallClock = field(default_factory=WallClock)
    """Elapsed seconds of the steps of a prediction, which follow each other, under plain names."""
    waits: dict[str, dict[str, float]] = field(default_factory=dict)
    """Idle seconds by stage, then by kind of thread."""

    @cached_property
    def specs(self) -> dict[str, GraphSpec]:
        """Return the graphs of the bundle by name."""
        return self.model.bundle.specs

    def per_tile(self) -> list[GraphSpec]:
        """Return the graphs whose only input is tiles."""
        return [spec for spec in self.specs.values() if spec.kind == "per tile"]

    def per_slide(self) -> list[GraphSpec]:
        """Return the graphs that take all spots of a slide at once."""
        return [spec for spec in self.specs.values() if spec.kind == "per slide"]

    def per_batch(self) -> list[GraphSpec]:
        """Return the graphs that take a batch of spots, in the order in which they run."""
        return [spec for spec in self.specs.values() if spec.kind == "per batch"]

    def graph(self, spec: GraphSpec, values: Tensors, rows: Rows | None = None) -> Arrays:
        """Run a graph with its inputs taken from ``values`` and record the time under its name.

        ``rows`` are the numbers of the tiles or spots, for the error of an output that is NaN or
        infinite.
        """
        session = self.sessions[spec.name]
        return self._timed(spec, session.run, values, session.runs_in_caller, rows)

    def graph_kept(
        self, spec: GraphSpec, values: Tensors, rows: Rows | None = None
    ) -> dict[str, Any]:
        """Run a graph as ``graph`` does, but leave the outputs on the GPU for the next graph."""
        session = self.sessions[spec.name]
        return self._timed(spec, session.run_kept, values, session.runs_in_caller, rows)

    def cpu_of_runtime(self) -> dict[str, float]:
        """Return the CPU seconds so far in threads of the runtime, by graph of tiles or batches."""
        return {
            name: session.own_cpu_s()
            for name, session in self.sessions.items()
            if session.spec.kind != "per slide"  # counted by the process's clock
        }

    def add_cpu_of_runtime(self, before: Mapping[str, float]) -> None:
        """Add what has been computed in threads of the runtime since ``before``."""
        for name, cpu_s in self.cpu_of_runtime().items():
            self.clock.add(name, 0.0, cpu_s - before[name])

    def note_waits(self, name: str, pool: OrderedThreadPool[Any, Any]) -> None:
        """Record how long the threads of a pool were idle; workers are averaged."""
        workers = self.setting.workers
        self.waits[name] = {**pool.waits, "workers": pool.waits["workers"] / workers}

    def _timed(
        self,
        spec: GraphSpec,
        run: Callable[[Tensors], dict[str, Any]],
        values: Tensors,
        runs_in_caller: bool,
        rows: Rows | None,
    ) -> dict[str, Any]:
        """Run a graph and add its wall and CPU seconds.

        A call in batches has one thread on a CPU, so the thread's clock counts it, unless it is a
        thread of the runtime: then ``add_cpu_of_runtime`` adds its CPU time in the end. A graph
        that takes all spots runs alone with several threads, so the process's clock counts it.
        """
        inputs = {tensor.name: values[tensor.name] for tensor in spec.inputs}
        alone = spec.kind == "per slide"
        in_call = time.thread_time if runs_in_caller else lambda: 0.0
        cpu_clock: Callable[[], float] = time.process_time if alone else in_call
        with self.clock.stage(spec.name, 1 if alone else self.setting.workers, cpu_clock):
            outputs = run(inputs)
        where = f"{self.model.precision} on {self.model.device}"
        require_finite(spec, outputs, where, rows)
        return outputs
