"""Choose the values of the first and the last color, so that maps of genes can be compared."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

CLIPPED: Final = 0.02
"""Share of the spots beyond each end of a gene's spread; they get the color of that end."""
WIDTHS: Final = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)
"""Widths of color ranges, times a power of ten."""
GENES_AT_ONCE: Final = 256
"""Genes per step; more need more memory."""
LEAST_PART: Final = 0.1
"""Smallest width, as a part of the median width of the slide's genes: below it, a map that is
nearly flat looks flat."""


def comparable_ranges(
    expression: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the values of the first and last color of each gene, (G,) and (G,).

    A range is around the gene's spread, its 2nd to 98th percentile, and its width is the next of
    ``WIDTHS``: genes of like spread have the same width, so that a step of color is the same step
    of expression in their maps. Missing values are left out; a gene without values has 0 to 1.

    Args:
        expression: Values of the spots, (N, G).
    """
    low, high, least = np.zeros((3, expression.shape[1]))
    for begin in range(0, expression.shape[1], GENES_AT_ONCE):
        part = slice(begin, begin + GENES_AT_ONCE)
        low[part], high[part], least[part] = _spread(expression[:, part])
    widths = _next_width(high - low)
    varying = widths[widths > 0]
    floor = _next_width(np.array([LEAST_PART * np.median(varying)]))[0] if varying.size else 1.0
    widths = np.maximum(widths, floor)
    first = (low + high - widths) / 2
    first = np.where(least >= 0, np.maximum(first, 0.0), first)  # there is nothing below zero
    return first, first + widths


def _spread(
    expression: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return both percentiles and the least value of each gene, each (G,); 0 without values."""
    columns = np.ascontiguousarray(expression.T)  # (G, N)
    is_known = np.isfinite(columns)
    complete = is_known.all(axis=1) & (columns.shape[1] > 0)
    low, high, least = np.zeros((3, len(columns)))
    if complete.any():
        low[complete], high[complete], least[complete] = _quantiles(columns[complete])
    for gene in np.flatnonzero(~complete & is_known.any(axis=1)).tolist():
        (low[gene],), (high[gene],), (least[gene],) = _quantiles(
            columns[gene, is_known[gene]][None]
        )
    return low, high, least


def _quantiles(columns: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return both percentiles and the least value of rows (G, N) without NaN, (3, G).

    As ``np.quantile``, which sorts more than these need.
    """
    last = columns.shape[1] - 1
    places = np.array([CLIPPED * last, (1 - CLIPPED) * last])
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, last)
    part = np.partition(columns, np.unique([0, *below, *above]), axis=1).astype(np.float64)
    quantiles = part[:, below] + (places - below) * (part[:, above] - part[:, below])
    return np.stack([*quantiles.T, part[:, 0]])


def _next_width(spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smallest width that is not below each spread, (G,); 0 for no spread."""
    result = np.zeros_like(spread)
    varies = spread > 0
    power = 10.0 ** np.floor(np.log10(spread[varies]))
    choices = power[:, None] * np.array(WIDTHS)
    enough = choices >= spread[varies, None] * (1 - 1e-9)
    result[varies] = choices[np.arange(len(choices)), enough.argmax(axis=1)]
    return result
