"""Which segments of an image lie under which windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.slides.segment_grid import SegmentGrid


@dataclass(frozen=True, eq=False)
class Cover:
    """For every window the lattice of segments under it; windows may differ in what they cover."""

    origin_xy: NDArray[np.int64]  # (N, 2) top-left corners of the windows, in pixels
    first_xy: NDArray[np.int64]  # (N, 2) where the lattice's first segment begins, in pixels
    segment: NDArray[np.int64]  # (N, rows, columns) row * grid.columns + column, -1 for none

    def __getitem__(self, index: NDArray[np.int64] | slice) -> Cover:
        return Cover(self.origin_xy[index], self.first_xy[index], self.segment[index])


def cover(
    origin_xy: NDArray[np.int64],
    window_wh: NDArray[np.int64],
    grid: SegmentGrid,
    limit_wh: tuple[int, int],
) -> Cover:
    """Segments of ``grid`` under windows at ``origin_xy`` (N, 2) of ``window_wh`` ((N, 2) or (2,)).

    The part of a window outside ``limit_wh``, the size of the image, covers nothing.
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
