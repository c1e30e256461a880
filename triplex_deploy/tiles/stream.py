"""Read the tiles of a plan block by block, each block once, ahead of the consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import TILE_PX
from triplex_deploy.errors import TilingError
from triplex_deploy.tiles.blocks import Block, plan_blocks
from triplex_deploy.tiles.kernels import crop_tiles
from triplex_deploy.tiles.plan import TilePlan
from triplex_deploy.tiles.view import SlideView

_CELL_TILES = 16
"""Side of a cell in tiles at level resolution: a block of at most 3,808 pixels a side, 44 MB."""


@dataclass(frozen=True, eq=False)
class TileBatch:
    """Some tiles of a plan; the arrays are the consumer's to keep."""

    tile_index: NDArray[np.int64]  # (B,) indices into the plan's origins_xy
    tiles: NDArray[np.uint8]  # (B, 224, 224, 3) RGB


def stream_tiles(
    view: SlideView, plan: TilePlan, batch_size: int, threads: int = 2
) -> Generator[TileBatch, None, None]:
    """Yield every planned tile exactly once, in batches of ``batch_size`` but for the last.

    ``threads`` threads read ahead, at most ``threads + 1`` blocks; they end with the generator,
    also when it is closed early. Batches come in reading order, not in the plan's. Raises
    ``TilingError`` for a count below 1, and whatever the slide raises.
    """
    if batch_size < 1 or threads < 1:
        raise TilingError(f"batch_size={batch_size}, threads={threads}: use at least 1 of each")
    return _stream(view, plan, batch_size, threads)


def _stream(
    view: SlideView, plan: TilePlan, batch_size: int, threads: int
) -> Generator[TileBatch, None, None]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="stream-tiles")
    try:
        blocks = plan_blocks(plan.origins_xy, cell_px(view))
        yield from _batches(_read_ahead(pool, view, blocks, threads + 1), plan, batch_size)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def cell_px(view: SlideView) -> int:
    """Side of the square cells tile origins are grouped in, in view pixels: whole tiles.

    Larger cells read fewer pixels twice at their seams; the limit is the memory of a block, which
    is read at the resolution of the view's level.
    """
    tiles = int(_CELL_TILES / max(1.0, *view.step_xy))
    return TILE_PX * max(1, tiles)


def _read_ahead(
    pool: ThreadPoolExecutor, view: SlideView, blocks: Iterator[Block], in_flight: int
) -> Iterator[tuple[Block, NDArray[np.uint8]]]:
    """Blocks with their pixels, in order, while the next ones are being read."""
    pending: deque[tuple[Block, Future[NDArray[np.uint8]]]] = deque()
    for block in blocks:
        pending.append((block, pool.submit(view.read, *block.xywh)))
        if len(pending) == in_flight:
            first, pixels = pending.popleft()
            yield first, pixels.result()
    while pending:
        first, pixels = pending.popleft()
        yield first, pixels.result()


def _batches(
    blocks: Iterator[tuple[Block, NDArray[np.uint8]]], plan: TilePlan, batch_size: int
) -> Iterator[TileBatch]:
    left = len(plan.origins_xy)
    batch, filled = _empty_batch(min(batch_size, left)), 0
    for block, pixels in blocks:
        for index in _runs(block.tile_index, batch_size, filled):
            relative_xy = plan.origins_xy[index] - block.xywh[:2]
            batch.tile_index[filled : filled + len(index)] = index
            crop_tiles(pixels, relative_xy, out=batch.tiles[filled : filled + len(index)])
            filled += len(index)
            if filled == len(batch.tile_index):
                yield batch
                left -= filled
                batch, filled = _empty_batch(min(batch_size, left)), 0


def _runs(index: NDArray[np.int64], batch_size: int, filled: int) -> Iterator[NDArray[np.int64]]:
    """Cut a block's tiles where batches end, the current one holding ``filled`` already."""
    start = 0
    while start < len(index):
        stop = start + batch_size - filled
        yield index[start:stop]
        start, filled = stop, 0


def _empty_batch(size: int) -> TileBatch:
    return TileBatch(np.empty(size, np.int64), np.empty((size, TILE_PX, TILE_PX, 3), np.uint8))
