"""Quantize expression to small integers, so that a whole slide fits into one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

WIDE_VALUES: Final = 3_000_000
"""Maximum number of values that take two bytes each; more values take one byte each."""


@dataclass(frozen=True)
class QuantizedGenes:
    """Expression of G genes as integers: ``value = low + code / top_code * (high - low)``.

    The code ``top_code + 1`` is NaN. The error is at most half a step: 1/131,068 of the range of a
    gene with two bytes, 1/508 with one byte.
    """

    codes: NDArray[Any]
    """(G, N), little-endian uint16, or uint8."""
    low: NDArray[np.float64]
    """(G,): smallest value of each gene."""
    high: NDArray[np.float64]
    """(G,): largest value of each gene."""

    @property
    def top_code(self) -> int:
        """Code of the largest value."""
        return int(np.iinfo(self.codes.dtype).max) - 1


def quantize(expression: NDArray[np.float32]) -> QuantizedGenes:
    """Return expression (N, G) as integers, each gene over its own finite range."""
    dtype = np.dtype("<u2" if expression.size <= WIDE_VALUES else "u1")
    missing = np.iinfo(dtype).max
    codes = np.full(expression.shape[::-1], missing, dtype)
    low, high = np.zeros((2, expression.shape[1]))
    for gene, column in enumerate(expression.T):
        known = np.isfinite(column)
        if not known.any():
            continue
        values = column[known].astype(np.float64)
        low[gene], high[gene] = values.min(), values.max()
        step = (high[gene] - low[gene]) / (missing - 1)
        codes[gene, known] = np.rint((values - low[gene]) / step) if step > 0 else 0
    return QuantizedGenes(codes, low, high)
