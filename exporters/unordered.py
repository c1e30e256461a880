"""Outputs whose rows come in no particular order."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

UNORDERED: Final = ("exemplars",)
"""Tensors (B, k, ...) that are sets of k: nearest first, but for ties, whose order is free."""


def in_one_order(tensor: str, values: NDArray[Any]) -> NDArray[Any]:
    """``values`` of an unordered tensor so that equal sets are equal arrays; others as they are.

    Each column is sorted by itself: sets that differ still do, but for a coincidence.
    """
    return np.sort(values, axis=1) if tensor in UNORDERED else values
