"""The graph of nearest spots that Hist2ST's last layers run on (MODELS 2.3)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triplex_deploy.tiles.apeg import apeg_index

N_ADJACENT: Final = 4
"""Neighbours a spot has at most."""
_REACH: Final = 2
"""Greatest distance of a neighbour, in steps of the array."""
_SIDE: Final = 2 * _REACH + 1
_STEPS: Final = np.stack(np.divmod(np.arange(_SIDE * _SIDE), _SIDE), axis=1) - _REACH
_SQUARED: Final = (_STEPS**2).sum(axis=1)  # distance of each cell of the window to its centre
_NEAR: Final = np.flatnonzero((_SQUARED > 0) & (_SQUARED <= _REACH**2))  # 12 of the 25 cells
_ABSENT: Final = _REACH**2 + 1


def adjacency_index(grid_rc: ArrayLike) -> NDArray[np.int64]:
    """The 4 nearest other spots of every spot, those further than 2.0 array steps left out.

    ``grid_rc`` is (N, 2), integer array coordinates (row, column) of any sign and size. Returns
    (N, 4), nearest first and the smaller index first among equals; -1 where there is none. A spot
    may list one that does not list it. Coordinates are integers, so that all candidates lie in a
    5 x 5 window and memory grows with N alone. Raises ``TilingError`` as ``apeg_index``.
    """
    spots = apeg_index(grid_rc, _SIDE)[:, _NEAR]  # (N, 12), -1 where no spot lies
    squared = np.where(spots >= 0, _SQUARED[_NEAR], _ABSENT)
    nearest = np.lexsort((spots, squared), axis=1)[:, :N_ADJACENT]
    return np.take_along_axis(spots, nearest, axis=1)
