"""Find out which tiles the graphs of a bundle need, and which of them are target tiles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import CENTER, N_NEIGHBORS, GraphSpec, TensorSpec
from triplex_deploy.tiles.plan import TilePlan

FEATURES: Final = "features"
"""Name of the tile encoder's output, and of inputs that hold features of tiles."""


@dataclass(frozen=True)
class TargetTiles:
    """The target tiles of a slide, each counted once."""

    count: int
    """Number of distinct target tiles."""
    slot_of_tile: NDArray[np.int64]
    """(T,) row of each planned tile in a store of target tiles, -1 for other tiles."""
    slot_of_spot: NDArray[np.int64]
    """(N,) row of each spot's target tile in such a store."""


def target_tiles(plan: TilePlan) -> TargetTiles:
    """Number the target tiles of a plan; two spots on one tile share its row."""
    tiles, slot_of_spot = np.unique(plan.spot_tile, return_inverse=True)
    slot_of_tile = np.full(len(plan.origins_xy), -1, dtype=np.int64)
    slot_of_tile[tiles] = np.arange(len(tiles))
    return TargetTiles(len(tiles), slot_of_tile, slot_of_spot)


def sees_neighbors(specs: Iterable[GraphSpec]) -> bool:
    """Return True if some graph takes the features of whole neighborhoods."""
    return any(
        tensor.axes[1:-1] == (N_NEIGHBORS,) for spec in specs for tensor in _features_of(spec)
    )


def needed_tiles(plan: TilePlan, specs: Iterable[GraphSpec]) -> TilePlan:
    """Return the plan, or a plan of target tiles alone if no graph sees neighbors."""
    if sees_neighbors(specs):
        return plan
    tiles, spot_tile = np.unique(plan.spot_tile, return_inverse=True)
    neighbor_tile = np.full_like(plan.neighbor_tile, -1)
    neighbor_tile[:, CENTER] = spot_tile
    return TilePlan(
        np.ascontiguousarray(plan.origins_xy[tiles]), neighbor_tile, neighbor_tile >= 0, spot_tile
    )


def _features_of(spec: GraphSpec) -> list[TensorSpec]:
    return [tensor for tensor in spec.inputs if tensor.name == FEATURES]
