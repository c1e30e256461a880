"""First half of a prediction: every planned tile through the frozen and the trained ResNet18."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import FEATURE_DIM
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.run import Run
from triplex_deploy.pipeline.token_store import TokenStore
from triplex_deploy.tiles.plan import TilePlan
from triplex_deploy.tiles.stream import StreamStats, TileBatch, stream_tiles
from triplex_deploy.tiles.view import SlideView

BATCH_SIZE: Final = {"cpu": 16, "cuda": 64}
"""Tiles per encoder call unless the caller chooses; on a CPU more would only delay Ctrl-C."""


@dataclass(frozen=True)
class OwnTiles:
    """The tiles that are some spot's own: ``slot_of_tile`` (T,) is -1 elsewhere, else the row of
    that tile's tokens in the store; ``slot_of_spot`` (N,) is the row each spot reads back."""

    count: int
    slot_of_tile: NDArray[np.int64]
    slot_of_spot: NDArray[np.int64]


def own_tiles(plan: TilePlan) -> OwnTiles:
    """Number the spots' own tiles; two spots on one tile share its tokens."""
    tiles, slot_of_spot = np.unique(plan.spot_tile, return_inverse=True)
    slot_of_tile = np.full(len(plan.origins_xy), -1, dtype=np.int64)
    slot_of_tile[tiles] = np.arange(len(tiles))
    return OwnTiles(len(tiles), slot_of_tile, slot_of_spot)


def encode_tiles(
    run: Run,
    view: SlideView,
    plan: TilePlan,
    own: OwnTiles,
    store: TokenStore,
    options: PredictOptions,
    stats: StreamStats,
) -> NDArray[np.float32]:
    """Encode each planned tile once; returns features (T + 1, 512), the last row zero.

    The zero row stands for masked neighbours, whose index in the plan is -1. Target tokens of the
    spots' own tiles go to ``store``.
    """
    n_tiles = len(plan.origins_xy)
    features = np.zeros((n_tiles + 1, FEATURE_DIM), dtype=np.float32)
    run.progress.start("encoding tiles", n_tiles)
    stream = stream_tiles(
        view,
        plan,
        options.batch_size or BATCH_SIZE[run.model.device.kind],
        memory_bytes=options.stream_bytes,
        on_bad_tile=options.on_bad_tile,
        stats=stats,
    )
    with closing(stream) as batches:
        while True:
            with run.clock.stage("read"):
                batch = next(batches, None)
            if batch is None:
                return features
            features[batch.tile_index] = run.graph("tile_encoder", {"tiles": batch.tiles})
            _encode_targets(run, batch, own, store)
            run.progress.advance(len(batch.tile_index))


def _encode_targets(run: Run, batch: TileBatch, own: OwnTiles, store: TokenStore) -> None:
    slots = own.slot_of_tile[batch.tile_index]
    wanted = slots >= 0
    if wanted.any():
        tiles = batch.tiles if wanted.all() else np.ascontiguousarray(batch.tiles[wanted])
        store.put(slots[wanted], run.graph("target_encoder", {"tiles": tiles}))
