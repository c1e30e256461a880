"""Make the tables of spot positions that graphs of whole slides take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triplex_deploy.contract import Config, GraphSpec, graph_specs
from triplex_deploy.errors import SpotsError
from triplex_deploy.tiles.apeg import apeg_index, position_index

Table = NDArray[np.int64]

N_ADJACENT: Final = 4
"""Most neighbors of a spot in the adjacency table."""
_REACH: Final = 2
"""Greatest distance of a neighbor, in steps of the array."""
_SIDE: Final = 2 * _REACH + 1
_STEPS: Final = np.stack(np.divmod(np.arange(_SIDE * _SIDE), _SIDE), axis=1) - _REACH
_SQUARED: Final = (_STEPS**2).sum(axis=1)  # of each cell of the window from its center
_NEAR: Final = np.flatnonzero((_SQUARED > 0) & (_SQUARED <= _REACH**2))  # 12 of the 25 cells
_ABSENT: Final = _REACH**2 + 1  # farther than every neighbor


def spot_tables(config: Config, grid_rc: Table) -> dict[str, Table]:
    """Return the tables of spot positions that a model's graphs take.

    Args:
        config: The model.
        grid_rc: Array coordinates (row, column), (N, 2) int64.

    Returns:
        Tables (N, ...) int64 by tensor name.

    Raises:
        TilingError: Two spots share coordinates.
        SpotsError: The model does not know a coordinate.
    """
    names = _table_names(graph_specs(config).values())
    return {name: _TABLES[name](config.base, grid_rc) for name in names}


def adjacency_index(grid_rc: ArrayLike) -> NDArray[np.int64]:
    """Return the 4 nearest other spots of every spot, at most 2.0 array steps away.

    The relation need not be mutual. Coordinates are integers, so all candidates lie in a 5 x 5
    window and memory grows only with N.

    Args:
        grid_rc: Array coordinates (row, column), integers of any sign and size, (N, 2).

    Returns:
        Indices (N, 4) int64, nearest first and the smaller index first among equals; -1 where
        there is no spot.

    Raises:
        TilingError: As in ``apeg_index``.
    """
    spots = apeg_index(grid_rc, _SIDE)[:, _NEAR]  # (N, 12), -1 where no spot lies
    squared = np.where(spots >= 0, _SQUARED[_NEAR], _ABSENT)
    nearest = np.lexsort((spots, squared), axis=1)[:, :N_ADJACENT]
    return np.take_along_axis(spots, nearest, axis=1)


def _table_names(specs: Iterable[GraphSpec]) -> list[str]:
    return [
        tensor.name
        for spec in specs
        for tensor in spec.inputs
        if spec.kind == "per slide" and tensor.name in _TABLES
    ]


def _apeg_index(config: Any, grid_rc: Table) -> Table:
    return position_index(grid_rc, config.position, config.apeg_kernel)


def _grid_xy(config: Any, grid_rc: Table) -> Table:
    """Return (column, row), with which graphs look up embeddings without a check of the range."""
    least, most = int(grid_rc.min(initial=0)), int(grid_rc.max(initial=0))
    if least < 0 or most >= config.n_positions:
        raise SpotsError(
            f"array coordinates {least} to {most}: {config.model} knows 0 to "
            f"{config.n_positions - 1}; predict in regions (--region-mm), which count from 0 each"
        )
    return np.ascontiguousarray(grid_rc[:, ::-1])


def _adjacency(config: Any, grid_rc: Table) -> Table:
    return adjacency_index(grid_rc)


_TABLES: Final[dict[str, Callable[[Any, Table], Table]]] = {
    "apeg_index": _apeg_index,
    "grid_xy": _grid_xy,
    "adjacency": _adjacency,
}
