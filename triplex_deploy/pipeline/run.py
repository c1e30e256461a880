"""One prediction under way: the opened model, who is told of progress, and the stage clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from triplex_deploy.pipeline.progress import Progress, StageClock
from triplex_deploy.runtime.model import Model


@dataclass(frozen=True)
class Run:
    """What every stage of a prediction needs besides its arrays."""

    model: Model
    progress: Progress
    clock: StageClock = field(default_factory=StageClock)

    def graph(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run a graph that has one output, and time it under its own name."""
        with self.clock.stage(name):
            (output,) = self.model.run(name, inputs).values()
        return output
