"""Second half of a prediction: spots related to each other, then predicted batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import GraphSpec
from triplex_deploy.pipeline.encode import Encoded
from triplex_deploy.pipeline.needs import FEATURES, sees_neighbors
from triplex_deploy.pipeline.run import Run
from triplex_deploy.pipeline.stage import Stage
from triplex_deploy.runtime.session import Arrays
from triplex_deploy.tiles.apeg import position_index
from triplex_deploy.tiles.plan import TilePlan

SPOTS_PER_BATCH: Final = {"cpu": 16, "cuda": 128}
"""Spots per call; on a CPU larger calls leave its caches and take longer."""

Rows = NDArray[np.int64]


def relate_spots(
    run: Run,
    plan: TilePlan,
    encoded: Encoded,
    grid_rc: NDArray[np.int64],
    regions: list[Rows],
) -> Arrays:
    """Run the graphs that see all spots of a region at once; returns their outputs (N, ...).

    They run in a thread of their own, so that Ctrl-C is heard during a call of minutes.
    """
    found: Arrays = {}
    for spec in run.per_slide():
        run.progress.start("relating spots", len(grid_rc))
        relate = _Relating(run, plan, encoded, grid_rc, spec).relate
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
    plan: TilePlan
    encoded: Encoded
    grid_rc: NDArray[np.int64]
    spec: GraphSpec

    def relate(self, rows: Rows) -> Arrays:
        config = self.run.model.bundle.config
        values: Arrays = {
            FEATURES: self.encoded.outputs[FEATURES].store.take(self.plan.spot_tile[rows]),
            "apeg_index": position_index(self.grid_rc[rows], config.position, config.apeg_kernel),
        }
        return self.run.graph(self.spec, values)


def predict_spots(
    run: Run, plan: TilePlan, encoded: Encoded, related: Arrays
) -> NDArray[np.float32]:
    """Run the graphs that take some spots at a time; returns expression (N, G)."""
    n_spots = len(plan.spot_tile)
    expression = np.empty((n_spots, run.model.bundle.config.n_genes), dtype=np.float32)
    run.progress.start("predicting spots", n_spots)
    size = SPOTS_PER_BATCH[run.model.device.kind]
    batches = [slice(begin, begin + size) for begin in range(0, n_spots, size)]
    predict = _Predicting(run, plan, encoded, related).predict
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
    plan: TilePlan
    encoded: Encoded
    related: Arrays

    def predict(self, rows: slice) -> NDArray[np.float32]:
        values = self._inputs(rows)
        for spec in self.run.per_batch():
            values |= self.run.graph(spec, values)
        expression: NDArray[np.float32] = values["expression"]
        return expression

    def _inputs(self, rows: slice) -> dict[str, NDArray[Any]]:
        values: Arrays = {"mask": self.plan.neighbor_mask[rows]}
        for name, tokens in self.related.items():
            values[name] = tokens[rows]
        for name, output in self.encoded.outputs.items():
            if name != FEATURES:
                values[name] = output.store.take(self.encoded.own.slot_of_spot[rows])
        if sees_neighbors(self.run.per_batch()):
            masked = len(self.plan.origins_xy)
            tiles = self.plan.neighbor_tile[rows]
            values[FEATURES] = self.encoded.outputs[FEATURES].store.take(
                np.where(tiles < 0, masked, tiles)
            )
        return values
