"""Measured expression of one section in an h5ad file, to compare a prediction with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import DatasetError

Measured = tuple[tuple[str, ...], tuple[str, ...], NDArray[np.float64], NDArray[np.int64]]


def read_measured(path: Path) -> Measured:
    """Spot names ``<column>x<row>``, genes, values (N, G) and array (row, column), (N, 2).

    Raises ``DatasetError`` where the file or its ``obs["array_row"]``, ``obs["array_col"]`` is
    missing.
    """
    import anndata
    from scipy.sparse import issparse

    try:
        table = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(f"{path}: not a readable h5ad ({error}); check the path") from error
    if not {"array_row", "array_col"} <= set(table.obs):
        raise DatasetError(f"{path}: no array_row and array_col in obs; add array coordinates")
    grid_rc = np.round(table.obs[["array_row", "array_col"]].to_numpy(np.float64)).astype(np.int64)
    values = table.X.toarray() if issparse(table.X) else np.asarray(table.X)
    names = tuple(f"{col}x{row}" for row, col in grid_rc.tolist())
    return names, tuple(map(str, table.var_names)), values.astype(np.float64), grid_rc
