"""Run the graphs of spots: the global encoder over all spots, then the rest batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import MASK, GraphSpec, TensorSpec
from triplex_deploy.pipeline.context import PredictionContext
from triplex_deploy.pipeline.encode import Encoded, TileOutput
from triplex_deploy.pipeline.kept_rows import KeptRows
from triplex_deploy.pipeline.needed import FEATURES
from triplex_deploy.pipeline.ordered_pool import OrderedThreadPool
from triplex_deploy.runtime.device_array import Tensor, Tensors
from triplex_deploy.runtime.session import Arrays
from triplex_deploy.tiles.plan import TilePlan
from triplex_deploy.tiles.spot_tables import spot_tables

SPOTS_PER_BATCH: Final = {"cpu": 16, "cuda": 128}
"""Spots per call by kind of device; on a CPU larger calls do not fit its caches and are slower."""

PerSpot = dict[str, KeptRows]
"""Outputs of graphs of whole slides, by name."""
SpotRows = NDArray[np.int64]
Rows = slice | NDArray[np.int64]


def run_slide_graphs(
    context: PredictionContext,
    plan: TilePlan,
    encoded: Encoded,
    grid_rc: NDArray[np.int64],
    regions: list[SpotRows],
    from_corner: bool = False,
) -> PerSpot:
    """Run the graphs that take all spots of a region at once, such as the global encoder.

    They run in a thread of their own, so that Ctrl-C works during a call of minutes.

    Args:
        context: The prediction.
        plan: The tiles of the slide.
        encoded: The outputs of the tiles.
        grid_rc: Array coordinates (row, column) of the spots, (N, 2).
        regions: Indices of the spots of each region.
        from_corner: Count the array coordinates of each region from its own corner.

    Returns:
        The outputs (N, ...) by name.
    """
    found: PerSpot = {}
    for spec in context.per_slide():
        context.progress.start("comparing spots", len(grid_rc))
        gatherer = Gatherer(plan, encoded, found)
        call = _SlideGraph(context, gatherer, grid_rc, spec, from_corner).run
        for output in spec.outputs:
            width = tuple(int(axis) for axis in output.axes[1:])
            found[output.name] = encoded.keep(context.sessions[spec.name], (len(grid_rc), *width))
        with OrderedThreadPool(spec.name, iter(regions), call) as pool:
            for rows, tokens in zip(regions, pool, strict=True):
                for name, values in tokens.items():
                    found[name].put(rows, values)
                context.progress.advance(len(rows))
    return found


def predict_spots(
    context: PredictionContext, plan: TilePlan, encoded: Encoded, per_spot: PerSpot
) -> NDArray[np.float32]:
    """Run the graphs that take a batch of spots.

    Args:
        context: The prediction.
        plan: The tiles of the slide.
        encoded: The outputs of the tiles.
        per_spot: The outputs of ``run_slide_graphs``.

    Returns:
        The expression (N, members * G), float32: every gene of the first member, then of the next.
    """
    n_spots = len(plan.spot_tile)
    (width,) = context.per_batch()[-1].outputs[0].axes[1:]
    expression = np.empty((n_spots, int(width)), dtype=np.float32)
    context.progress.start("predicting genes", n_spots)
    size = SPOTS_PER_BATCH[context.model.device.kind]
    batches = [slice(begin, begin + size) for begin in range(0, n_spots, size)]
    predict = _Predicting(context, Gatherer(plan, encoded, per_spot, room=size)).predict
    with OrderedThreadPool("predict", iter(batches), predict, context.setting.workers) as pool:
        for rows, predicted in zip(batches, pool, strict=True):
            expression[rows] = predicted
            context.progress.advance(len(predicted))
    context.note_waits("predict", pool)
    return expression


def join_members(
    expression: NDArray[np.float32], members: int, rmse: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return the mean (N, G) of the members' predictions and their standard deviation.

    Args:
        expression: (N, members * G), as ``predict_spots`` returns it.
        members: Number of members; 1 for a single model, which has no spread.
        rmse: Root mean squared error (G,) of a member at held-out spots; None if it is not known.

    Returns:
        The mean, and the standard deviation (N, G). Without ``rmse`` it is that over the members
        (divided by members - 1, so that few members do not look more certain than many). With
        ``rmse`` it is that of the error of the mean: sqrt(rmse² + variance over the members). None
        for a single model.
    """
    if members == 1:
        return expression, None
    by_member = expression.reshape(len(expression), members, -1).astype(np.float64)
    mean, variance = by_member.mean(axis=1), by_member.var(axis=1, ddof=1)
    if rmse is not None:
        variance += rmse.astype(np.float64) ** 2
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


@dataclass(frozen=True)
class Gatherer:
    """Collects the inputs of a graph for some spots."""

    plan: TilePlan
    """The tiles of the slide."""
    encoded: Encoded
    """The outputs of the tiles."""
    per_spot: PerSpot
    """Rows (N, ...) by name, one for each spot."""
    room: int = 0
    """Rows for which there is memory at least, so that a smaller batch can be filled up."""

    def inputs(self, spec: GraphSpec, rows: Rows, made: Tensors) -> dict[str, Tensor]:
        """Return the inputs of ``spec`` for the spots ``rows``; those in ``made`` are ready."""
        return {
            tensor.name: made[tensor.name] if tensor.name in made else self._take(tensor, rows)
            for tensor in spec.inputs
        }

    def _take(self, tensor: TensorSpec, rows: Rows) -> Tensor:
        if tensor.name == MASK.name:
            return self.plan.neighbor_mask[rows]
        if tensor.name in self.per_spot:
            return self.per_spot[tensor.name].take(
                np.arange(len(self.plan.spot_tile))[rows], self.room
            )
        output = self.encoded.outputs[tensor.name]
        return output.store.take(self._tiles(tensor, output, rows), self.room)

    def _tiles(self, tensor: TensorSpec, output: TileOutput, rows: Rows) -> NDArray[np.int64]:
        """Return rows of a store: of target tiles (B,), or of whole neighborhoods (B, 25)."""
        if len(tensor.axes) > len(output.spec.outputs[0].axes):
            tiles = self.plan.neighbor_tile[rows]
            masked = len(self.plan.origins_xy)
            return np.where(tiles < 0, masked, tiles)
        if tensor.name == FEATURES:
            return self.plan.spot_tile[rows]
        return self.encoded.targets.slot_of_spot[rows]


@dataclass(frozen=True)
class _SlideGraph:
    """Runs one graph over all spots of a region."""

    context: PredictionContext
    gatherer: Gatherer
    grid_rc: NDArray[np.int64]
    spec: GraphSpec
    from_corner: bool

    def run(self, rows: SpotRows) -> dict[str, Tensor]:
        with self.context.clock.stage("gather"):
            inputs = self.gatherer.inputs(self.spec, rows, self._tables(rows))
        return self.context.graph_kept(self.spec, inputs, rows)

    def _tables(self, rows: SpotRows) -> Arrays:
        grid_rc = self.grid_rc[rows]
        if self.from_corner:
            grid_rc = grid_rc - grid_rc.min(axis=0)
        return dict(spot_tables(self.context.model.bundle.config, grid_rc))


@dataclass(frozen=True)
class _Predicting:
    """Predicts one batch of spots per call, graph after graph; thread-safe."""

    context: PredictionContext
    gatherer: Gatherer

    def predict(self, rows: slice) -> NDArray[np.float32]:
        made: dict[str, Any] = {}
        *before, last = self.context.per_batch()
        for spec in before:
            made |= self.context.graph_kept(spec, self._inputs(spec, rows, made), rows)
        outputs = self.context.graph(last, self._inputs(last, rows, made), rows)
        expression: NDArray[np.float32] = outputs["expression"]
        return expression

    def _inputs(self, spec: GraphSpec, rows: slice, made: Tensors) -> Tensors:
        with self.context.clock.stage("gather", self.context.setting.workers):
            return self.gatherer.inputs(spec, rows, made)
