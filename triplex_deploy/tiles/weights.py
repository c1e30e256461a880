"""Compute the weights of source pixels in resampled pixels.

Weights are computed from absolute pixel numbers of the axis, never from the start of a block,
so a resampled pixel does not depend on how the image was divided into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class AxisWeights:
    """Output pixel n is the sum over t < count[n] of weight[n, t] * source[start[n] + t]."""

    start: NDArray[np.int64]
    """(n,) first source pixel of each output pixel."""
    count: NDArray[np.int64]
    """(n,) number of source pixels."""
    weight: NDArray[np.float32]
    """(n, taps) weights, zero from ``count`` on."""

    @property
    def span(self) -> tuple[int, int]:
        """First source pixel and the end of the last; at least one output pixel is required."""
        return int(self.start.min()), int((self.start + self.count).max())

    def relative_to(self, first: int) -> AxisWeights:
        """Return the weights for a block that begins at source pixel ``first``."""
        return replace(self, start=self.start - first)


def area_weights(first: int, count: int, step: float, source_px: int) -> AxisWeights:
    """Return weights of area averaging: output pixel o covers source [o * step, (o + 1) * step).

    For outputs ``first`` (>= 0) to ``first + count`` of an axis of ``source_px`` source pixels; the
    part of the interval beyond the last source pixel does not count.
    """
    output = np.arange(first, first + count, dtype=np.float64)
    low = np.minimum(output * step, source_px - 1.0)
    high = np.minimum((output + 1) * step, float(source_px))
    start = np.floor(low).astype(np.int64)
    taps = np.ceil(high).astype(np.int64) - start
    pixel = start[:, None] + np.arange(taps.max(initial=0))
    overlap = np.minimum(high[:, None], pixel + 1) - np.maximum(low[:, None], pixel)
    weight = np.clip(overlap, 0, None) / (high - low)[:, None]
    return AxisWeights(start, taps, weight.astype(np.float32))


def bilinear_weights(first: int, count: int, step: float, source_px: int) -> AxisWeights:
    """Return weights of linear interpolation; output pixel o samples at (o + 0.5) * step.

    For outputs ``first`` (>= 0) to ``first + count`` of an axis of ``source_px`` source pixels; the
    outermost pixels continue outwards.
    """
    position = (np.arange(first, first + count, dtype=np.float64) + 0.5) * step - 0.5
    position = np.clip(position, 0, source_px - 1.0)
    start = np.floor(position).astype(np.int64)
    fraction = position - start
    taps = np.where(start + 1 < source_px, 2, 1).astype(np.int64)
    weight = np.stack([1 - fraction, fraction], axis=1)
    return AxisWeights(start, taps, weight.astype(np.float32))
