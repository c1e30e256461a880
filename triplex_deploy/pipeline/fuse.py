"""Second half of a prediction: spots related to each other, then predicted batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import MASK, GraphSpec, TensorSpec
from triplex_deploy.pipeline.context import Run
from triplex_deploy.pipeline.encode import FEATURES, Encoded, TileOutput
from triplex_deploy.pipeline.ordered_pool import Stage
from triplex_deploy.runtime.device_array import Tensor, Tensors
from triplex_deploy.runtime.session import Arrays
from triplex_deploy.tiles.plan import TilePlan
from triplex_deploy.tiles.spot_tables import spot_tables

SPOTS_PER_BATCH: Final = {"cpu": 16, "cuda": 128}
"""Spots per call; on a CPU larger calls leave its caches and take longer."""

SpotRows = NDArray[np.int64]


def relate_spots(
    run: Run,
    plan: TilePlan,
    encoded: Encoded,
    grid_rc: NDArray[np.int64],
    regions: list[SpotRows],
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

    def relate(self, rows: SpotRows) -> Arrays:
        with self.run.clock.stage("gather"):
            inputs = self.gatherer.inputs(self.spec, rows, self._tables(rows))
        return self.run.graph(self.spec, inputs)

    def _tables(self, rows: SpotRows) -> Arrays:
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


Rows = slice | NDArray[np.int64]


@dataclass(frozen=True)
class Gatherer:
    """The inputs that graphs take of some spots: by tile, by spot, or made for these spots.

    ``per_spot`` are arrays (N, ...) by name, of which spots have their own row.
    """

    plan: TilePlan
    encoded: Encoded
    per_spot: Arrays

    def inputs(self, spec: GraphSpec, rows: Rows, made: Tensors) -> dict[str, Tensor]:
        """The inputs of ``spec`` for the spots ``rows``; ``made`` are those that lie ready."""
        return {
            tensor.name: made[tensor.name] if tensor.name in made else self._take(tensor, rows)
            for tensor in spec.inputs
        }

    def _take(self, tensor: TensorSpec, rows: Rows) -> NDArray[Any]:
        if tensor.name == MASK.name:
            return self.plan.neighbor_mask[rows]
        if tensor.name in self.per_spot:
            return self.per_spot[tensor.name][rows]
        output = self.encoded.outputs[tensor.name]
        return output.store.take(self._tiles(tensor, output, rows))

    def _tiles(self, tensor: TensorSpec, output: TileOutput, rows: Rows) -> NDArray[np.int64]:
        """Rows of a store: of the spots' own tiles, or of whole neighbourhoods (B, 25)."""
        if len(tensor.axes) > len(output.spec.outputs[0].axes):
            tiles = self.plan.neighbor_tile[rows]
            masked = len(self.plan.origins_xy)
            return np.where(tiles < 0, masked, tiles)
        if tensor.name == FEATURES:
            return self.plan.spot_tile[rows]
        return self.encoded.own.slot_of_spot[rows]
