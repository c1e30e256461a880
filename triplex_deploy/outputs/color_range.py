"""Choose the values of the first and the last color, so that maps of genes can be compared."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

CLIPPED: Final = 0.02
"""Share of the spots beyond each end of a gene's spread; they get the color of that end."""
WIDTHS: Final = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)
"""Widths of color ranges, times a power of ten."""
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
    low, high = np.zeros(expression.shape[1]), np.zeros(expression.shape[1])
    least = np.zeros(expression.shape[1])
    for gene, column in enumerate(expression.T):
        known = column[np.isfinite(column)].astype(np.float64)
        if known.size:
            low[gene], high[gene] = np.quantile(known, (CLIPPED, 1 - CLIPPED))
            least[gene] = known.min()
    widths = _next_width(high - low)
    varying = widths[widths > 0]
    floor = _next_width(np.array([LEAST_PART * np.median(varying)]))[0] if varying.size else 1.0
    widths = np.maximum(widths, floor)
    first = (low + high - widths) / 2
    first = np.where(least >= 0, np.maximum(first, 0.0), first)  # there is nothing below zero
    return first, first + widths


def _next_width(spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smallest width that is not below each spread, (G,); 0 for no spread."""
    result = np.zeros_like(spread)
    varies = spread > 0
    power = 10.0 ** np.floor(np.log10(spread[varies]))
    choices = power[:, None] * np.array(WIDTHS)
    enough = choices >= spread[varies, None] * (1 - 1e-9)
    result[varies] = choices[np.arange(len(choices)), enough.argmax(axis=1)]
    return result
