"""What all stages of one prediction share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from triplex_deploy.contract import GraphSpec
from triplex_deploy.pipeline.ordered_pool import Stage
from triplex_deploy.pipeline.tuning import Setting
from triplex_deploy.progress import Progress, StageClock
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import Arrays, Session


@dataclass(frozen=True)
class Run:
    """What every stage of a prediction needs besides its arrays.

    ``sessions`` may be run by ``setting.lanes`` threads at once.
    """

    model: Model
    progress: Progress
    sessions: Mapping[str, Session]
    setting: Setting
    clock: StageClock = field(default_factory=StageClock)
    waits: dict[str, dict[str, float]] = field(default_factory=dict)

    @cached_property
    def specs(self) -> dict[str, GraphSpec]:
        return self.model.bundle.specs

    def per_tile(self) -> list[GraphSpec]:
        """The graphs that see nothing but tiles."""
        return [spec for spec in self.specs.values() if _is_per_tile(spec)]

    def per_slide(self) -> list[GraphSpec]:
        """The graphs that relate all spots."""
        return [spec for spec in self.specs.values() if spec.batch_axis == "spots"]

    def per_batch(self) -> list[GraphSpec]:
        """The graphs that take some spots at a time, in the order they run."""
        rest = (spec for spec in self.specs.values() if spec.batch_axis == "batch")
        return [spec for spec in rest if not _is_per_tile(spec)]

    def graph(self, spec: GraphSpec, values: Tensors) -> Arrays:
        """Run a graph with its inputs out of ``values``, timed under its name."""
        return self._timed(spec, self.sessions[spec.name].run, values)

    def graph_kept(self, spec: GraphSpec, values: Tensors) -> dict[str, Any]:
        """The same for outputs that the next graph takes: on a GPU they stay there."""
        return self._timed(spec, self.sessions[spec.name].run_kept, values)

    def _timed(
        self, spec: GraphSpec, run: Callable[[Tensors], dict[str, Any]], values: Tensors
    ) -> dict[str, Any]:
        """The CPU time is the calling thread's where a lane's calls have one thread (on a CPU), and
        the process's for a graph that runs alone.
        """
        inputs = {tensor.name: values[tensor.name] for tensor in spec.inputs}
        alone = spec.batch_axis == "spots"
        cpu_clock: Callable[[], float] = time.process_time if alone else time.thread_time
        with self.clock.stage(spec.name, 1 if alone else self.setting.lanes, cpu_clock):
            return run(inputs)

    def note_waits(self, name: str, stage: Stage[Any, Any]) -> None:
        """Remember how long the threads of a stage were idle, each kind on the average."""
        lanes = self.setting.lanes
        self.waits[name] = {**stage.waits, "lanes": stage.waits["lanes"] / lanes}


def _is_per_tile(spec: GraphSpec) -> bool:
    return [tensor.name for tensor in spec.inputs] == ["tiles"]
