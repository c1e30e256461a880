"""Order the tiles of a plan for reading, and schedule the decoding of the segments under them.

Tiles are read by the row of segments in which they begin, from left to right, so a row of segments
is held in memory only until the next row is done. If that does not fit in memory, the slide is read
in vertical stripes, and segments under two stripes are decoded twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import TILE_PX
from triplex_deploy.errors import TilingError
from triplex_deploy.slides.slide import SegmentGrid
from triplex_deploy.tiles.view import SlideView

VIEW_CELL_PX = 256
"""Side of the view cells, squares of a resampled view that are each computed once."""
TILE_BYTES = 3 * TILE_PX * TILE_PX
"""Bytes of a tile."""
MAX_STRIPES = 1 << 12
"""Most stripes that are tried."""


@dataclass(frozen=True, eq=False)
class Cover:
    """The segments under each of N windows, as a small grid per window."""

    origin_xy: NDArray[np.int64]
    """(N, 2) top-left corners (x, y) of the windows, in pixels."""
    first_xy: NDArray[np.int64]
    """(N, 2) pixel (x, y) where the first segment under each window begins."""
    segment: NDArray[np.int64]
    """(N, rows, columns) numbers of the segments, row * grid.columns + column; -1 for none."""

    def __getitem__(self, index: NDArray[np.int64] | slice) -> Cover:
        return Cover(self.origin_xy[index], self.first_xy[index], self.segment[index])


@dataclass(frozen=True, eq=False)
class Schedule:
    """Segments in the order of their first use, over steps that run one after another.

    An item is one segment in one stripe: a segment under two stripes is two items.
    """

    item_of_use: NDArray[np.int64]
    """(N, rows, columns) item under each use, -1 for none."""
    segment: NDArray[np.int64]
    """(items,) number of each item's segment in its grid."""
    stripe: NDArray[np.int64]
    """(items,) stripe of each item, ascending."""
    first_step: NDArray[np.int64]
    """(items,) first step that needs each item, ascending."""
    last_step: NDArray[np.int64]
    """(items,) last step that needs each item."""

    @classmethod
    def of(
        cls, segment_of_use: NDArray[np.int64], step: NDArray[np.int64], stripe: NDArray[np.int64]
    ) -> Schedule:
        """Schedule N uses.

        ``segment_of_use`` (N, rows, columns) are the segments each use needs; ``step`` and
        ``stripe`` (N,) are those of each use, ascending.
        """
        used = segment_of_use >= 0
        size = int(segment_of_use.max(initial=-1)) + 1
        key = (segment_of_use + stripe[:, None, None] * size)[used]
        steps = np.broadcast_to(step[:, None, None], used.shape)[used]
        keys, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        last = np.zeros(len(keys), np.int64)
        np.maximum.at(last, inverse, steps)
        order = np.argsort(steps[first], kind="stable")
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        item_of_use = np.full(used.shape, -1, np.int64)
        item_of_use[used] = rank[inverse]
        stripes, segments = np.divmod(keys[order], max(size, 1))
        return cls(item_of_use, segments, stripes, steps[first][order], last[order])

    def starting(self, step: int) -> range:
        """Return the items first needed in a step."""
        low, high = np.searchsorted(self.first_step, (step, step + 1))
        return range(int(low), int(high))

    def peak(self, delay: int) -> int:
        """Return the most items held at once if freed ``delay`` steps after their last step."""
        if not len(self.segment):
            return 0
        steps = int(self.last_step.max()) + 1 + delay
        gained = np.bincount(self.first_step, minlength=steps)
        lost = np.bincount(self.last_step + delay, minlength=steps)
        return int(np.cumsum(gained - lost[: len(gained)]).max())


@dataclass(frozen=True, eq=False)
class Layer:
    """One grid of segments and how they are used step by step."""

    grid: SegmentGrid
    """The segments."""
    uses: Cover
    """The windows taken from the segments, in reading order."""
    first_use: NDArray[np.int64]
    """(steps + 1,) uses of step s are first_use[s] : first_use[s + 1]."""
    schedule: Schedule
    """When each segment is needed."""
    n_slots: int
    """Most segments held at once."""

    @property
    def n_bytes(self) -> int:
        """Memory of all slots."""
        return self.n_slots * self.grid.segment_bytes


@dataclass(frozen=True, eq=False)
class Reading:
    """How to read the tiles of a plan step by step."""

    order: NDArray[np.int64]
    """(T,) tiles of the plan in reading order."""
    steps: int
    """Number of steps."""
    ahead: int
    """A step ends before the step ``ahead`` later begins."""
    level: Layer
    """Segments of the slide's level, from which tiles or view cells are taken."""
    view: Layer | None
    """View cells, from which tiles are taken; None if the view is not resampled."""

    @property
    def n_bytes(self) -> int:
        """Memory of both layers."""
        return self.level.n_bytes + (self.view.n_bytes if self.view else 0)


@dataclass(frozen=True, eq=False)
class Batching:
    """Which tiles of a batch come first, so that a consumer takes them without a copy."""

    size: int
    """Tiles of a batch."""
    group: NDArray[np.int8]
    """(T,) group of each tile of the plan; lower groups come first."""

    def within(self, order: NDArray[np.int64], stripe: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (T,) places in ``order``, sorted by group within each batch.

        A batch on the border of two stripes, ``stripe`` (T,), keeps them apart.
        """
        place = np.arange(len(order))
        return np.lexsort((place, self.group[order], stripe, place // self.size))


def plan_reading(
    view: SlideView,
    origin_xy: NDArray[np.int64],
    step_tiles: int,
    memory_bytes: int,
    batching: Batching | None = None,
) -> Reading:
    """Plan how to read tiles of the view so that decoded segments fit in memory.

    Args:
        view: The slide at the tiles' scale.
        origin_xy: Top-left corners (x, y) of the tiles in the view, (T, 2).
        step_tiles: Tiles per step.
        memory_bytes: Memory for decoded segments.
        batching: How the tiles of a batch are ordered; None leaves them in reading order.

    Returns:
        The order of the tiles and what is decoded in each step.

    Raises:
        TilingError: Even narrow stripes do not fit.
    """
    stripes = 1
    while True:
        reading = _in_stripes(view, origin_xy, step_tiles, stripes, batching)
        if reading.n_bytes <= memory_bytes:
            return reading
        narrow = view.size_wh[0] // stripes <= 2 * TILE_PX
        if narrow or stripes >= MAX_STRIPES:
            raise TilingError(
                f"{view.slide.path}: reading tiles takes {reading.n_bytes / 1e6:.0f} MB, "
                f"{max(memory_bytes, 0) / 1e6:.0f} MB are left beside the batches; "
                "raise --memory-gb or lower --batch-size"
            )
        stripes = max(stripes * 2, stripes * reading.n_bytes // max(memory_bytes, 1))


def view_cell_span(view: SlideView, axis: int, number: int) -> tuple[int, int]:
    """Return the first view pixel of a view cell along one axis, and its number of pixels."""
    first = number * VIEW_CELL_PX
    return first, min(VIEW_CELL_PX, view.size_wh[axis] - first)


def cover(
    origin_xy: NDArray[np.int64],
    window_wh: NDArray[np.int64],
    grid: SegmentGrid,
    limit_wh: tuple[int, int],
) -> Cover:
    """Find the segments of ``grid`` under windows of an image.

    ``origin_xy`` (N, 2) are the windows' corners, ``window_wh`` ((N, 2) or (2,)) their sizes. The
    part of a window outside ``limit_wh``, the size of the image, covers nothing.
    """
    segment_wh = np.array([grid.width_px, grid.height_px])
    low = np.clip(origin_xy, 0, limit_wh)
    high = np.clip(origin_xy + window_wh, 0, limit_wh)
    first = low // segment_wh
    count = np.where((high > low).all(axis=1, keepdims=True), -(-high // segment_wh) - first, 0)
    columns, rows = (np.arange(most) for most in count.max(axis=0, initial=1))
    column = first[:, 0, None] + columns  # (N, columns)
    row = first[:, 1, None] + rows
    segment = row[:, :, None] * grid.columns + column[:, None, :]
    segment[(rows >= count[:, 1, None])[:, :, None] | (columns >= count[:, 0, None])[:, None]] = -1
    return Cover(origin_xy, first * segment_wh, segment)


def _in_stripes(
    view: SlideView,
    origin_xy: NDArray[np.int64],
    step_tiles: int,
    stripes: int,
    batching: Batching | None,
) -> Reading:
    resampled = view.resampling != "none"
    level_grid = view.slide.segment_grid(view.level)
    cells = SegmentGrid.over(view.size_wh, VIEW_CELL_PX, VIEW_CELL_PX)
    grid = cells if resampled else level_grid
    tiles = cover(origin_xy, np.array([TILE_PX, TILE_PX]), grid, view.size_wh)
    stripe = np.clip(origin_xy[:, 0], 0, None) * stripes // max(view.size_wh[0], 1)
    order = np.lexsort((origin_xy[:, 0], tiles.first_xy[:, 1], stripe))
    if batching is not None:
        order = order[batching.within(order, stripe[order])]
    steps = -(-len(order) // step_tiles)
    first_use = np.minimum(np.arange(steps + 1) * step_tiles, len(order))
    ahead = 4 if resampled else 3
    of_tiles = _layer(grid, tiles[order], first_use, stripe[order], ahead - int(resampled))
    if not resampled:
        return Reading(order, steps, ahead, of_tiles, None)
    return Reading(order, steps, ahead, _under(view, level_grid, of_tiles, ahead), of_tiles)


def _layer(
    grid: SegmentGrid,
    uses: Cover,
    first_use: NDArray[np.int64],
    stripe: NDArray[np.int64],
    delay: int,
) -> Layer:
    step = np.repeat(np.arange(len(first_use) - 1), np.diff(first_use))
    schedule = Schedule.of(uses.segment, step, stripe)
    return Layer(grid, uses, first_use, schedule, schedule.peak(delay))


def _under(view: SlideView, grid: SegmentGrid, cells: Layer, ahead: int) -> Layer:
    """Return the layer of level segments under the cells of a view, in the order of the cells."""
    row, column = np.divmod(cells.schedule.segment, cells.grid.columns)
    x, width = _level_spans(view, 0, cells.grid.columns)
    y, height = _level_spans(view, 1, cells.grid.rows)
    origin_xy = np.stack([x[column], y[row]], axis=1)
    size_wh = np.stack([width[column], height[row]], axis=1)
    uses = cover(origin_xy, size_wh, grid, view.slide.level_sizes[view.level])
    steps = len(cells.first_use) - 1
    first_use = np.searchsorted(cells.schedule.first_step, np.arange(steps + 1))
    return _layer(grid, uses, first_use, cells.schedule.stripe, ahead)


def _level_spans(
    view: SlideView, axis: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first level pixel under each cell along one axis, and the number of pixels."""
    spans = [view.weights(axis, *view_cell_span(view, axis, n)).span for n in range(count)]
    low, high = np.array(spans, np.int64).reshape(-1, 2).T
    return low, high - low
