"""Run every needed tile once through the graphs whose only input is tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import TILE_PX, GraphSpec
from triplex_deploy.pipeline.context import PredictionContext
from triplex_deploy.pipeline.feature_cache import FeatureCache
from triplex_deploy.pipeline.kept_rows import KeptRows
from triplex_deploy.pipeline.needed import FEATURES, TargetTiles, target_tiles
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.ordered_pool import OrderedThreadPool
from triplex_deploy.pipeline.row_store import RowStore
from triplex_deploy.runtime.device_array import Tensor
from triplex_deploy.runtime.session import Session
from triplex_deploy.system import usable_cores
from triplex_deploy.tiles.masked_neighbor import mean_color_tile
from triplex_deploy.tiles.plan import TileIndex, TilePlan
from triplex_deploy.tiles.stream import StreamStats, TileBatch, step_length, stream_tiles
from triplex_deploy.tiles.view import SlideView

ENCODING: Final = "encoding tiles"
"""Name of the stage in which tiles are encoded."""
MAX_READERS: Final = 16
"""Most threads that read and decode."""
WORKERS_PER_READER: Final = 2
"""CPU workers that one reader keeps busy: decoding a tile takes 1 to 2 ms, and the fastest encoders
5 ms (int8 with AMX). A reader that is ahead waits, so one too many costs nothing."""


@dataclass(frozen=True)
class TileOutput:
    """The output of one graph for the tiles of a slide, and where each tile's row is."""

    spec: GraphSpec
    """The graph."""
    row_of_tile: NDArray[np.int64]
    """(T,) row of each planned tile in the store, -1 if the graph does not take the tile."""
    store: KeptRows
    """The rows. A store of features has one row per tile, then one for masked neighbors."""

    @property
    def name(self) -> str:
        """Name of the graph's output."""
        return self.spec.outputs[0].name


@dataclass
class Encoded:
    """The outputs of a slide's tiles."""

    outputs: dict[str, TileOutput]
    """Outputs by name."""
    targets: TargetTiles
    """Which tiles are target tiles."""
    tiles_encoded: int = 0
    """Number of tiles that went through the first graph."""
    tiles_from_cache: int = 0
    """Number of tiles with features from the cache."""
    opened: ExitStack = field(default_factory=ExitStack)
    """Closes the rows that are kept."""

    def keep(
        self,
        session: Session,
        shape: tuple[int, ...],
        budget_bytes: float = math.inf,
        half: bool = False,
        needs_host: bool = False,
    ) -> KeptRows:
        """Return memory for rows that ``session`` writes, on its GPU if there is room.

        Args:
            session: The session that computes the rows.
            shape: Number of rows, and the shape of a row.
            budget_bytes: Memory of the host beyond which a temporary file is used.
            half: Keep the rows as float16, on the host.
            needs_host: Keep a copy on the host in any case.
        """
        table = None if half else session.open_table(shape)
        store = None
        if table is not None:
            self.opened.callback(table.close)
        if table is None or needs_host:
            store = self.opened.enter_context(RowStore(shape, budget_bytes, half))
        return KeptRows(shape, table, store)


@contextmanager
def open_row_stores(
    context: PredictionContext, plan: TilePlan, options: PredictOptions
) -> Iterator[Encoded]:
    """Open a store for each graph of tiles; features get memory first, then tokens."""
    targets = target_tiles(plan)
    n_tiles = len(plan.origins_xy)
    left = options.row_store_bytes
    outputs: dict[str, TileOutput] = {}
    encoded = Encoded(outputs, targets)
    with encoded.opened:
        for spec in context.per_tile():
            name, axes = spec.outputs[0].name, spec.outputs[0].axes[1:]
            of_all = name == FEATURES
            shape = (n_tiles + 1 if of_all else targets.count, *(int(axis) for axis in axes))
            session, half = context.sessions[spec.name], options.half_features
            store = encoded.keep(session, shape, left, half, needs_host=of_all)
            left -= store.host_bytes
            rows = np.arange(n_tiles) if of_all else targets.slot_of_tile
            outputs[name] = TileOutput(spec, rows, store)
        yield encoded


def encode_tiles(
    context: PredictionContext,
    view: SlideView,
    plan: TilePlan,
    encoded: Encoded,
    options: PredictOptions,
    stats: StreamStats,
    cache: FeatureCache | None = None,
) -> None:
    """Fill the row stores of ``encoded``.

    Each tile is read at most once, and goes through each graph at most once and through all graphs
    in the same step.

    Args:
        context: The prediction.
        view: The slide at the bundle's scale.
        plan: The tiles.
        encoded: Receives the outputs.
        options: Memory, and what to do with unreadable tiles.
        stats: Receives the counts of the stream.
        cache: Features of earlier runs, which are not computed again; new features are added.

    Raises:
        SlideError: A compressed tile cannot be read.
        TilingError: The memory is too small.
    """
    if cache is not None and FEATURES in encoded.outputs:
        with context.clock.stage("load features"):
            _load_cached(plan, encoded, cache)
    _encode_masked(context, plan, encoded)
    rows = np.stack([output.row_of_tile for output in encoded.outputs.values()])
    needed = np.flatnonzero((rows >= 0).any(axis=0))
    context.progress.start(ENCODING, len(needed))
    if not len(needed):
        return
    rest = replace(plan, origins_xy=np.ascontiguousarray(plan.origins_xy[needed]))
    batch_size = context.setting.batch_size
    session = context.sessions[next(iter(encoded.outputs.values())).spec.name]
    stream = stream_tiles(
        view,
        rest,
        batch_size,
        _readers(context, options.threads),
        memory_bytes=options.stream_bytes,
        on_bad_tile=options.on_bad_tile,
        stats=stats,
        group=_groups(rows[:, needed] >= 0),
        buffers=session.lend_buffers((step_length(batch_size), TILE_PX, TILE_PX, 3)),
    )
    worker = _Worker(context, encoded, needed)
    try:
        with OrderedThreadPool("encode", stream, worker.encode, context.setting.workers) as pool:
            for step in pool:
                encoded.tiles_encoded += len(step.new_tiles)
                if cache is not None and step.features is not None:
                    cache.add(plan.origins_xy[step.new_tiles], step.features)
                context.progress.advance(step.n_tiles)
        context.note_waits("encode", pool)
    finally:
        if cache is not None:
            cache.flush()


@dataclass(frozen=True)
class _Step:
    """What a worker returns for a batch of tiles."""

    n_tiles: int
    """Tiles in the batch."""
    new_tiles: NDArray[np.int64]
    """Tiles of the plan that went through the first graph."""
    features: NDArray[np.float32] | None
    """Features of ``new_tiles``, or None if the first graph gives something else."""


@dataclass(frozen=True)
class _Worker:
    """Encodes one batch of tiles per call; safe to call from several threads."""

    context: PredictionContext
    encoded: Encoded
    needed: NDArray[np.int64]
    """(K,) tiles of the plan that are streamed."""

    def encode(self, batch: TileBatch) -> _Step:
        """Run all graphs on one batch, so that its pixels are copied to a GPU once."""
        outputs = list(self.encoded.outputs.values())
        tiles = self.needed[batch.tile_index]
        order = _side_by_side(np.stack([output.row_of_tile[tiles] >= 0 for output in outputs]))
        tiles = tiles[order]
        session = self.context.sessions[outputs[0].spec.name]
        pixels = session.upload(_in_order(batch.tiles, order))
        steps = [self._through(output, tiles, pixels) for output in outputs]
        return steps[0]

    def _through(self, output: TileOutput, tiles: NDArray[np.int64], pixels: Tensor) -> _Step:
        rows = output.row_of_tile[tiles]
        wanted = np.flatnonzero(rows >= 0)
        if not len(wanted):
            return _Step(len(tiles), tiles[:0], None)
        these = slice(wanted[0], wanted[-1] + 1)
        pixels_of_these = {"tiles": pixels[these]}
        run = self.context.graph_kept if output.store.is_on_gpu else self.context.graph
        values = run(output.spec, pixels_of_these, tiles[these])[output.name]
        copied = output.store.put(rows[these], values)
        return _Step(len(tiles), tiles[these], copied if output.name == FEATURES else None)


def _groups(wanted: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Return (T,) groups of tiles; in their order, the tiles of each graph are contiguous.

    ``wanted`` (graphs, T) has a row for each of one or two graphs. The order is: tiles of the first
    graph only, tiles of both, tiles of the second only.
    """
    assert len(wanted) <= 2, "the tiles of three graphs cannot all be contiguous"
    group: NDArray[np.int8] = wanted[-1].astype(np.int8) - wanted[0].astype(np.int8)
    return group


def _side_by_side(wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return an order of the tiles of a batch in which the tiles of each graph are contiguous."""
    return np.argsort(_groups(wanted), kind="stable")


def _in_order(tiles: NDArray[np.uint8], order: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the tiles in an order.

    The stream gives them in it, and they are not copied. Only a batch on the border of two stripes
    of a large slide is not in order.
    """
    is_sorted = bool((np.diff(order) > 0).all())
    return tiles if is_sorted else tiles[order]


def _encode_masked(context: PredictionContext, plan: TilePlan, encoded: Encoded) -> None:
    """Put the feature of masked neighbors in the last row; models that average tokens use it."""
    output = encoded.outputs.get(FEATURES)
    if output is None:
        return
    values = np.zeros((1, *output.store.shape[1:]), np.float32)
    if not plan.neighbor_mask.all():
        values = context.graph(output.spec, {"tiles": mean_color_tile()})[FEATURES]
    output.store.put(np.array([len(plan.origins_xy)]), values)


def _load_cached(plan: TilePlan, encoded: Encoded, cache: FeatureCache) -> None:
    """Store the cached features and mark their tiles as done (row -1)."""
    output = encoded.outputs[FEATURES]
    index = TileIndex(plan.origins_xy)
    for origins_xy, features in cache.parts():
        tiles = index.find(origins_xy)
        found = tiles >= 0
        output.store.put(tiles[found], features[found])
        output.row_of_tile[tiles[found]] = -1
    encoded.tiles_from_cache = int(np.count_nonzero(output.row_of_tile < 0))


def _readers(context: PredictionContext, threads: int | None) -> int:
    """Return the number of threads that read: few on a CPU, which also encodes; else most cores.

    ``threads`` are the cores of this process if others have the rest.
    """
    workers = context.setting.workers
    if context.model.device.kind == "cpu":
        return max(1, min(workers // WORKERS_PER_READER, MAX_READERS))
    return max(2, min((threads or usable_cores()) - workers, MAX_READERS))
