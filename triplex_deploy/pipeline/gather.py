"""What a graph takes, gathered by the names and axes of its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import MASK, GraphSpec, TensorSpec
from triplex_deploy.pipeline.encode import Encoded, TileOutput
from triplex_deploy.pipeline.needs import FEATURES
from triplex_deploy.runtime.device_array import Tensor, Tensors
from triplex_deploy.runtime.session import Arrays
from triplex_deploy.tiles.plan import TilePlan

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
