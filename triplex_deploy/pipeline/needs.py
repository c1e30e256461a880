"""Which tiles a model needs, and which of them are the spots' own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import CENTER, N_NEIGHBORS, GraphSpec, TensorSpec
from triplex_deploy.tiles.plan import TilePlan

FEATURES: Final = "features"
"""What the frozen encoder gives, and others take: of one tile, or of a neighbourhood."""


@dataclass(frozen=True)
class OwnTiles:
    """The tiles that are some spot's own: ``slot_of_tile`` (T,) is -1 elsewhere, else the row of
    that tile's tokens in a store; ``slot_of_spot`` (N,) is the row each spot reads back."""

    count: int
    slot_of_tile: NDArray[np.int64]
    slot_of_spot: NDArray[np.int64]


def own_tiles(plan: TilePlan) -> OwnTiles:
    """Number the spots' own tiles; two spots on one tile share its tokens."""
    tiles, slot_of_spot = np.unique(plan.spot_tile, return_inverse=True)
    slot_of_tile = np.full(len(plan.origins_xy), -1, dtype=np.int64)
    slot_of_tile[tiles] = np.arange(len(tiles))
    return OwnTiles(len(tiles), slot_of_tile, slot_of_spot)


def sees_neighbors(specs: Iterable[GraphSpec]) -> bool:
    """Whether some graph takes the features of whole neighbourhoods."""
    return any(
        tensor.axes[1:-1] == (N_NEIGHBORS,) for spec in specs for tensor in _features_of(spec)
    )


def needed_tiles(plan: TilePlan, specs: Iterable[GraphSpec]) -> TilePlan:
    """The plan itself, or where no graph sees neighbours, that of the spots' own tiles alone."""
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
