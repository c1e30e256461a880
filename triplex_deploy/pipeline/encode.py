"""First half of a prediction: every needed tile through the graphs that see nothing but tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import CENTER, IMAGE_MEAN, N_NEIGHBORS, TILE_PX, GraphSpec, TensorSpec
from triplex_deploy.pipeline.context import Run
from triplex_deploy.pipeline.feature_cache import FeatureCache, TileIndex
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.ordered_pool import Stage
from triplex_deploy.pipeline.row_store import RowStore
from triplex_deploy.runtime.device_array import Tensor
from triplex_deploy.system import usable_cores
from triplex_deploy.tiles.plan import TilePlan
from triplex_deploy.tiles.stream import StreamStats, TileBatch, stream_tiles
from triplex_deploy.tiles.view import SlideView

MEAN_COLOR: Final = tuple(round(255 * mean) for mean in IMAGE_MEAN)
"""What a masked neighbour looks like to the frozen encoder: zero once normalised (MODELS 1.5)."""
MAX_READERS: Final = 16
LANES_PER_READER: Final = 4
"""A tile takes about a millisecond of one core to decode, and tens of them to encode."""


@dataclass(frozen=True)
class TileOutput:
    """What one graph gives for tiles: ``row_of_tile`` (T,) is where in the store, -1 for nowhere.

    The store of the frozen features has a row for every tile and, last, one for masked neighbours.
    """

    spec: GraphSpec
    row_of_tile: NDArray[np.int64]
    store: RowStore

    @property
    def name(self) -> str:
        return self.spec.outputs[0].name


@dataclass
class Encoded:
    """The outputs of a slide's tiles, by name, and how they came about."""

    outputs: dict[str, TileOutput]
    own: OwnTiles
    tiles_encoded: int = 0
    tiles_from_cache: int = 0


@contextmanager
def open_stores(run: Run, plan: TilePlan, options: PredictOptions) -> Iterator[Encoded]:
    """Room for what the tile graphs will give: features in memory first, then tokens."""
    own = own_tiles(plan)
    n_tiles = len(plan.origins_xy)
    left = options.store_bytes
    outputs = {}
    with ExitStack() as stack:
        for spec in run.per_tile():
            name, axes = spec.outputs[0].name, spec.outputs[0].axes[1:]
            of_all = name == FEATURES
            shape = (n_tiles + 1 if of_all else own.count, *(int(axis) for axis in axes))
            store = stack.enter_context(RowStore(shape, left, options.half_features))
            left -= store.n_bytes if store.in_memory else 0
            rows = np.arange(n_tiles) if of_all else own.slot_of_tile
            outputs[name] = TileOutput(spec, rows, store)
        yield Encoded(outputs, own)


def encode_tiles(
    run: Run,
    view: SlideView,
    plan: TilePlan,
    encoded: Encoded,
    options: PredictOptions,
    stats: StreamStats,
    cache: FeatureCache | None = None,
) -> None:
    """Fill the stores of ``encoded``; each tile is read at most once and goes through each graph
    at most once, through all of them in the same step. What ``cache`` knows is not encoded."""
    if cache is not None and FEATURES in encoded.outputs:
        with run.clock.stage("load features"):
            _load_known(plan, encoded, cache)
    _encode_masked(run, plan, encoded)
    rows = np.stack([output.row_of_tile for output in encoded.outputs.values()])
    needed = np.flatnonzero((rows >= 0).any(axis=0))
    run.progress.start("encoding tiles", len(needed))
    if not len(needed):
        return
    rest = replace(plan, origins_xy=np.ascontiguousarray(plan.origins_xy[needed]))
    stream = stream_tiles(
        view,
        rest,
        run.setting.batch_size,
        _readers(run),
        memory_bytes=options.stream_bytes,
        on_bad_tile=options.on_bad_tile,
        stats=stats,
    )
    lane = _Lane(run, encoded, needed)
    try:
        with Stage("encode", stream, lane.encode, run.setting.lanes) as stage:
            for step in stage:
                encoded.tiles_encoded += len(step.new_tiles)
                if cache is not None and step.features is not None:
                    cache.add(plan.origins_xy[step.new_tiles], step.features)
                run.progress.advance(step.n_tiles)
        run.note_waits("encode", stage)
    finally:
        if cache is not None:
            cache.flush()


@dataclass(frozen=True)
class _Step:
    """What a lane reports of a batch."""

    n_tiles: int
    new_tiles: NDArray[np.int64]
    """Tiles of the plan that went through the first graph."""
    features: NDArray[np.float32] | None
    """Their features, if that is what it gives."""


@dataclass(frozen=True)
class _Lane:
    """What each lane does to a batch of the tiles ``needed`` (K,) of the plan."""

    run: Run
    encoded: Encoded
    needed: NDArray[np.int64]

    def encode(self, batch: TileBatch) -> _Step:
        """All graphs of one batch, whose tiles are in the cache, or copied to a GPU once."""
        outputs = list(self.encoded.outputs.values())
        tiles = self.needed[batch.tile_index]
        order = _side_by_side([output.row_of_tile[tiles] >= 0 for output in outputs])
        tiles = tiles[order]
        pixels = self.run.sessions[outputs[0].spec.name].upload(batch.tiles[order])
        steps = [self._through(output, tiles, pixels) for output in outputs]
        return steps[0]

    def _through(self, output: TileOutput, tiles: NDArray[np.int64], pixels: Tensor) -> _Step:
        rows = output.row_of_tile[tiles]
        wanted = np.flatnonzero(rows >= 0)
        if not len(wanted):
            return _Step(len(tiles), tiles[:0], None)
        these = slice(wanted[0], wanted[-1] + 1)
        values = self.run.graph(output.spec, {"tiles": pixels[these]})[output.name]
        output.store.put(rows[these], values)
        return _Step(len(tiles), tiles[these], values if output.name == FEATURES else None)


def _side_by_side(wanted: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """An order of tiles in which those that each of at most two graphs takes lie together.

    First those only the first graph takes, then those both do, then those only the last does.
    """
    assert len(wanted) <= 2, "three sets of tiles need not lie together"
    group = wanted[-1].astype(np.int8) - wanted[0]
    return np.argsort(group, kind="stable")


def mean_color_tile() -> NDArray[np.uint8]:
    """A tile (1, 224, 224, 3) that shows nothing."""
    tile = np.empty((1, TILE_PX, TILE_PX, 3), np.uint8)
    tile[:] = MEAN_COLOR
    return tile


def _encode_masked(run: Run, plan: TilePlan, encoded: Encoded) -> None:
    """The feature of masked neighbours, in the last row: it matters where tokens are averaged."""
    output = encoded.outputs.get(FEATURES)
    if output is None:
        return
    values = np.zeros((1, *output.store.shape[1:]), np.float32)
    if not plan.neighbor_mask.all():
        values = run.graph(output.spec, {"tiles": mean_color_tile()})[FEATURES]
    output.store.put(np.array([len(plan.origins_xy)]), values)


def _load_known(plan: TilePlan, encoded: Encoded, cache: FeatureCache) -> None:
    """Take features from the cache; their tiles then have no row left to fill."""
    output = encoded.outputs[FEATURES]
    index = TileIndex(plan.origins_xy)
    for origins_xy, features in cache.parts():
        tiles = index.find(origins_xy)
        found = tiles >= 0
        output.store.put(tiles[found], features[found])
        output.row_of_tile[tiles[found]] = -1
    encoded.tiles_from_cache = int(np.count_nonzero(output.row_of_tile < 0))


def _readers(run: Run) -> int:
    """Threads that read and decode: a few beside lanes that need the same cores, else most."""
    if run.model.device.kind == "cpu":
        return max(1, min(run.setting.lanes // LANES_PER_READER, MAX_READERS))
    return max(2, min(usable_cores() - run.setting.lanes, MAX_READERS))


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
