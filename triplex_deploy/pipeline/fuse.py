"""Second half of a prediction: spots related to each other, then predicted batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import GraphSpec
from triplex_deploy.pipeline.encode import Encoded
from triplex_deploy.pipeline.gather import Gatherer
from triplex_deploy.pipeline.run import Run
from triplex_deploy.pipeline.stage import Stage
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.session import Arrays
from triplex_deploy.tiles.plan import TilePlan
from triplex_deploy.tiles.spot_tables import spot_tables

SPOTS_PER_BATCH: Final = {"cpu": 16, "cuda": 128}
"""Spots per call; on a CPU larger calls leave its caches and take longer."""

Rows = NDArray[np.int64]


def relate_spots(
    run: Run,
    plan: TilePlan,
    encoded: Encoded,
    grid_rc: NDArray[np.int64],
    regions: list[Rows],
    from_corner: bool = False,
) -> Arrays:
    """Run the graphs that see all spots of a region at once; returns their outputs (N, ...).

    With ``from_corner`` the array coordinates of each region count from its own corner. The graphs
    run in a thread of their own, so that Ctrl-C is heard during a call of minutes.
    """
    found: Arrays = {}
    for spec in run.per_slide():
        run.progress.start("relating spots", len(grid_rc))
        gatherer = Gatherer(plan, encoded, found)
        relate = _Relating(run, gatherer, grid_rc, spec, from_corner).relate
        for output in spec.outputs:
            width = tuple(int(axis) for axis in output.axes[1:])
            found[output.name] = np.empty((len(grid_rc), *width), output.dtype)
        with Stage(spec.name, iter(regions), relate) as stage:
            for rows, tokens in zip(regions, stage, strict=True):
                for name, values in tokens.items():
                    found[name][rows] = values
                run.progress.advance(len(rows))
    return found


@dataclass(frozen=True)
class _Relating:
    """One graph over the spots of a region."""

    run: Run
    gatherer: Gatherer
    grid_rc: NDArray[np.int64]
    spec: GraphSpec
    from_corner: bool

    def relate(self, rows: Rows) -> Arrays:
        with self.run.clock.stage("gather"):
            inputs = self.gatherer.inputs(self.spec, rows, self._tables(rows))
        return self.run.graph(self.spec, inputs)

    def _tables(self, rows: Rows) -> Arrays:
        grid_rc = self.grid_rc[rows]
        if self.from_corner:
            grid_rc = grid_rc - grid_rc.min(axis=0)
        return dict(spot_tables(self.run.model.bundle.config, grid_rc))


def predict_spots(
    run: Run, plan: TilePlan, encoded: Encoded, related: Arrays
) -> NDArray[np.float32]:
    """Run the graphs that take some spots at a time; returns expression (N, G)."""
    n_spots = len(plan.spot_tile)
    expression = np.empty((n_spots, run.model.bundle.config.n_genes), dtype=np.float32)
    run.progress.start("predicting spots", n_spots)
    size = SPOTS_PER_BATCH[run.model.device.kind]
    batches = [slice(begin, begin + size) for begin in range(0, n_spots, size)]
    predict = _Predicting(run, Gatherer(plan, encoded, related)).predict
    with Stage("predict", iter(batches), predict, run.setting.lanes) as stage:
        for rows, predicted in zip(batches, stage, strict=True):
            expression[rows] = predicted
            run.progress.advance(len(predicted))
    run.note_waits("predict", stage)
    return expression


@dataclass(frozen=True)
class _Predicting:
    """What each lane does to a batch of spots: every tensor by name, made by graph after graph."""

    run: Run
    gatherer: Gatherer

    def predict(self, rows: slice) -> NDArray[np.float32]:
        made: dict[str, Any] = {}
        *before, last = self.run.per_batch()
        for spec in before:
            made |= self.run.graph_kept(spec, self._inputs(spec, rows, made))
        expression: NDArray[np.float32]
        expression = self.run.graph(last, self._inputs(last, rows, made))["expression"]
        return expression

    def _inputs(self, spec: GraphSpec, rows: slice, made: Tensors) -> Tensors:
        with self.run.clock.stage("gather", self.run.setting.lanes):
            return self.gatherer.inputs(spec, rows, made)
