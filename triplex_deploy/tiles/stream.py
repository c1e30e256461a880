"""Stream the tiles of a plan, read ahead of the consumer; compressed tiles are decoded once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import TILE_PX
from triplex_deploy.errors import SlideError, TilingError
from triplex_deploy.tiles.kernels import gather, resample
from triplex_deploy.tiles.plan import TilePlan
from triplex_deploy.tiles.reading import (
    TILE_BYTES,
    Batching,
    Layer,
    Reading,
    plan_reading,
    view_cell_span,
)
from triplex_deploy.tiles.store import BufferPool, SegmentStore
from triplex_deploy.tiles.view import SlideView
from triplex_deploy.tiles.weights import AxisWeights

MEMORY_BYTES = 1 << 30
"""Default memory for decoded pixels; a slide 100,000 pixels wide needs a quarter of it."""
MIN_STEP_TILES = 32
"""Fewest tiles cropped at a time, for any batch size."""
TASK_SEGMENTS = 8
"""Segments a thread decodes before it looks for other work."""
OUTPUT_STEPS = 3
"""Steps whose tiles may exist at once."""

OnBadTile = Literal["raise", "skip"]
Tiles = NDArray[np.uint8]

logger = logging.getLogger(__name__)


class TileBuffers(Protocol):
    """Lends memory for tiles; a loan ends when the borrower drops the array and its views."""

    def take(self, length: int) -> NDArray[np.uint8]:
        """Return an array (length, 224, 224, 3) of undefined content, from any thread."""


@dataclass(frozen=True, eq=False)
class TileBatch:
    """Some tiles of a plan; the consumer may keep the arrays."""

    tile_index: NDArray[np.int64]
    """(B,) indices into the plan's ``origins_xy``."""
    tiles: NDArray[np.uint8]
    """(B, 224, 224, 3) RGB."""


@dataclass(frozen=True)
class BadTile:
    """A compressed tile that could not be read and was replaced by zeros."""

    level: int
    """Level of the slide."""
    column: int
    """Column in the level's segment grid."""
    row: int
    """Row in that grid."""
    error: str
    """Message of the error."""


@dataclass
class StreamStats:
    """Counts that a stream updates while it runs."""

    segments_planned: int = 0
    """Compressed tiles to decode; some count twice if the slide is read in stripes."""
    segments_decoded: int = 0
    """Compressed tiles decoded so far."""
    buffer_bytes: int = 0
    """Largest memory of decoded segments."""
    bad_tiles: list[BadTile] = field(default_factory=list)
    """Compressed tiles that could not be read."""


def stream_tiles(
    view: SlideView,
    plan: TilePlan,
    batch_size: int,
    threads: int = 2,
    *,
    memory_bytes: int = MEMORY_BYTES,
    on_bad_tile: OnBadTile = "raise",
    stats: StreamStats | None = None,
    group: NDArray[np.int8] | None = None,
    buffers: TileBuffers | None = None,
) -> Generator[TileBatch, None, None]:
    """Yield every planned tile exactly once; compressed tiles are decoded once.

    Batches come in reading order, not in the order of the plan. The threads end with the
    generator, also if it is closed early.

    Args:
        view: The slide at the bundle's scale.
        plan: The tiles.
        batch_size: Tiles per batch; the last batch may be smaller.
        threads: Threads that read a few steps ahead.
        memory_bytes: Memory for decoded pixels and waiting batches together.
        on_bad_tile: ``raise``, or ``skip`` to replace a compressed tile that cannot be read by
            zeros, log it and list it in ``stats``.
        stats: Receives the counts.
        group: (T,) group of each tile of the plan: in a batch, tiles of lower groups come first.
        buffers: Lends the memory that tiles are cut into, for at least ``step_length`` tiles; None
            takes it from the system.

    Yields:
        Batches of tiles.

    Raises:
        SlideError: A compressed tile cannot be read.
        TilingError: A count is below 1, or ``memory_bytes`` is too small.
    """
    if batch_size < 1 or threads < 1:
        raise TilingError(f"batch_size={batch_size}, threads={threads}: use at least 1 of each")
    if on_bad_tile not in ("raise", "skip"):
        raise TilingError(f"on_bad_tile={on_bad_tile!r}: unknown; use 'raise' or 'skip'")
    step_tiles = step_length(batch_size)
    outputs = OUTPUT_STEPS * min(step_tiles, len(plan.origins_xy)) * TILE_BYTES
    batching = None if group is None else Batching(batch_size, group)
    reading = plan_reading(view, plan.origins_xy, step_tiles, memory_bytes - outputs, batching)
    work = _Work(view, reading, on_bad_tile == "skip", stats or StreamStats(), buffers)
    return _stream(work, batch_size, threads)


def step_length(batch_size: int) -> int:
    """Return how many tiles are cropped at a time for batches of this size."""
    return batch_size * max(1, MIN_STEP_TILES // batch_size)


def _stream(work: _Work, batch_size: int, threads: int) -> Generator[TileBatch, None, None]:
    reading = work.reading
    pool = ThreadPoolExecutor(threads, thread_name_prefix="stream-tiles")
    try:
        for step in range(reading.steps + reading.ahead):
            tiles = work.finish(step - reading.ahead)
            work.submit(pool, step)
            if tiles is None:
                continue
            first = (step - reading.ahead) * work.step_tiles
            for start in range(0, len(tiles), batch_size):
                part = tiles[start : start + batch_size]
                yield TileBatch(reading.order[first + start :][: len(part)], part)
            del tiles
        work.report_bad_tiles()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Work:
    """The tasks of each step: decode segments, compute view cells if needed, crop tiles.

    A task waits for the tasks whose pixels it needs. The pool takes tasks in order, so those have
    already started. Each kind of task is submitted one step after the kind it needs, so tasks
    seldom wait.
    """

    def __init__(
        self,
        view: SlideView,
        reading: Reading,
        skip: bool,
        stats: StreamStats,
        buffers: TileBuffers | None = None,
    ) -> None:
        self.view = view
        self.reading = reading
        self.last_layer = reading.view or reading.level
        self.step_tiles = int(self.last_layer.first_use[1]) if reading.steps else 1
        self._skip = skip
        self._stats = stats
        self._stats.segments_planned += len(reading.level.schedule.segment)
        self._stats.buffer_bytes += reading.n_bytes
        self._counting = threading.Lock()
        self._decoded = _segment_store(reading.level)
        self._view_cells = _segment_store(reading.view) if reading.view else None
        self._pending: list[dict[int, list[Future[None]]]] = [{}, {}]
        self._tiles: dict[int, Future[Tiles]] = {}
        shape = (self.step_tiles, TILE_PX, TILE_PX, 3)
        self._buffers: TileBuffers = buffers or BufferPool(shape, keep=OUTPUT_STEPS)
        self._weights = lru_cache(maxsize=4096)(view.weights)

    def submit(self, pool: ThreadPoolExecutor, step: int) -> None:
        """Submit the tasks that are due: decoding of this step, cropping of an earlier step."""
        self._submit_decoding(pool, step)
        if self._view_cells is None:
            self._submit_cropping(pool, step - 1, self._pending[0])
        else:
            self._submit_resampling(pool, step - 1, self._view_cells)
            self._submit_cropping(pool, step - 2, self._pending[1])

    def finish(self, step: int) -> Tiles | None:
        """Return a step's tiles and free what no later step needs; None if no such step."""
        if not 0 <= step < self.reading.steps:
            return None
        tiles = self._tiles.pop(step).result()
        self._decoded.finish(step)
        if self._view_cells is not None:
            self._view_cells.finish(step)
        for pending in self._pending:
            pending.pop(step, None)
        return tiles

    def report_bad_tiles(self) -> None:
        """Log the number of unreadable compressed tiles, if more than the one already logged."""
        count = len(self._stats.bad_tiles)
        if count > 1:
            logger.warning("%s: %d tiles are shown as zeros", self.view.slide.path, count)

    def _submit_decoding(self, pool: ThreadPoolExecutor, step: int) -> None:
        if step >= self.reading.steps:
            return
        tasks = []
        for items in _parts(self._decoded.start(step), TASK_SEGMENTS):
            numbers = self._decoded.schedule.segment[items.start : items.stop].tolist()
            tasks.append(pool.submit(self._decode, numbers, self._decoded.slots(items)))
        self._pending[0][step] = tasks

    def _submit_resampling(self, pool: ThreadPoolExecutor, step: int, cells: SegmentStore) -> None:
        if not 0 <= step < self.reading.steps:
            return
        needed = _until(step, self._pending[0])
        tasks = []
        for items in _parts(cells.start(step), TASK_SEGMENTS):
            numbers = cells.schedule.segment[items.start : items.stop].tolist()
            below = self._decoded.slots_of_uses(slice(items.start, items.stop))
            slots = cells.slots(items)
            task = pool.submit(self._resample, numbers, slots, below, items.start, needed)
            tasks.append(task)
        self._pending[1][step] = tasks

    def _submit_cropping(
        self, pool: ThreadPoolExecutor, step: int, before: dict[int, list[Future[None]]]
    ) -> None:
        if not 0 <= step < self.reading.steps:
            return
        needed = _until(step, before)
        uses = slice(*self.last_layer.first_use[step : step + 2].tolist())
        store = self._view_cells or self._decoded
        self._tiles[step] = pool.submit(self._crop, uses, store.slots_of_uses(uses), needed)

    def _decode(self, numbers: list[int], slots: list[int]) -> None:
        view, columns = self.view, self.reading.level.grid.columns
        for number, slot in zip(numbers, slots, strict=True):
            row, column = divmod(number, columns)
            out = self._decoded.pixels[slot]
            try:
                view.slide.read_segment(view.level, column, row, out)
            except SlideError as error:
                if not self._skip or view.slide.closed:
                    raise
                out[:] = 0
                if not self._stats.bad_tiles:
                    logger.warning("shown as zeros: %s", error)
                self._stats.bad_tiles.append(BadTile(view.level, column, row, str(error)))
        with self._counting:
            self._stats.segments_decoded += len(numbers)

    def _resample(
        self,
        numbers: list[int],
        slots: list[int],
        below: NDArray[np.int64],
        first: int,
        needed: list[Future[None]],
    ) -> None:
        """Compute view cells from the segments in the slots ``below`` them."""
        _wait(needed)
        assert self._view_cells is not None
        columns = self.last_layer.grid.columns
        for n, (number, slot) in enumerate(zip(numbers, slots, strict=True)):
            row, column = divmod(number, columns)
            weights_x = self._weights(0, *view_cell_span(self.view, 0, column))
            weights_y = self._weights(1, *view_cell_span(self.view, 1, row))
            block = self._block(weights_x, weights_y, below[n : n + 1], first + n)
            left, top = weights_x.span[0], weights_y.span[0]
            cell = resample(block, weights_y.relative_to(top), weights_x.relative_to(left))
            self._view_cells.pixels[slot, : cell.shape[0], : cell.shape[1]] = cell

    def _block(
        self, weights_x: AxisWeights, weights_y: AxisWeights, slots: NDArray[np.int64], use: int
    ) -> Tiles:
        """Return the level's pixels under one view cell, (h, w, 3)."""
        (left, right), (top, bottom) = weights_x.span, weights_y.span
        uses = self.reading.level.uses[use : use + 1]
        block: Tiles = np.empty((1, bottom - top, right - left, 3), np.uint8)
        limit = self.view.slide.level_sizes[self.view.level]
        gather(self._decoded.pixels, slots, uses.first_xy, uses.origin_xy, limit, block)
        return block.reshape(block.shape[1:])

    def _crop(self, uses: slice, slots: NDArray[np.int64], needed: list[Future[None]]) -> Tiles:
        _wait(needed)
        windows = self.last_layer.uses[uses]
        tiles = self._buffers.take(len(slots))
        pixels = (self._view_cells or self._decoded).pixels
        gather(pixels, slots, windows.first_xy, windows.origin_xy, self.view.size_wh, tiles)
        return tiles


def _segment_store(layer: Layer) -> SegmentStore:
    grid = layer.grid
    return SegmentStore(layer.schedule, layer.n_slots, (grid.width_px, grid.height_px))


def _parts(items: range, size: int) -> Iterator[range]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _until(step: int, pending: dict[int, list[Future[None]]]) -> list[Future[None]]:
    return [task for earlier, tasks in pending.items() if earlier <= step for task in tasks]


def _wait(tasks: list[Future[None]]) -> None:
    """Wait until the tasks are done, and raise the first error among them."""
    for task in tasks:
        task.result()
