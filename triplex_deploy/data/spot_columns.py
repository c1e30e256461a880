"""Read flags and array coordinates from ``obs`` of an h5ad, by the rules of spots files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import DatasetError, SpotsError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@contextmanager
def spots_as_data() -> Iterator[None]:
    """Raise ``SpotsError`` inside the ``with`` block as ``DatasetError``."""
    try:
        yield
    except SpotsError as error:
        raise DatasetError(str(error)) from error


def kept_obs(path: Path, table: AnnData) -> pd.DataFrame:
    """Return ``obs`` of the spots that are selected and in tissue; its index is their row.

    Raises:
        DatasetError: A flag is neither 0 nor 1, or no spot is left.
    """
    from triplex_deploy.spots import table as columns  # imports pandas

    with spots_as_data():
        return columns.kept_rows(path, table.obs.reset_index(drop=True))


def rounded_places(path: Path, obs: pd.DataFrame) -> NDArray[np.int64] | None:
    """Return the rounded array (row, column) of each row of ``obs``, (N, 2).

    Returns None if ``obs`` has no columns of array coordinates.

    Raises:
        DatasetError: A position is missing or not a possible number of a row or column.
    """
    from triplex_deploy.spots import table as columns

    if not set(columns.ARRAY) <= set(obs.columns):
        return None
    named = obs[list(columns.ARRAY)].set_axis(list(columns.ROUNDED_ARRAY), axis=1)
    with spots_as_data():
        return columns.array_places(path, named)


def level0_centers(path: Path, table: AnnData) -> NDArray[np.float64] | None:
    """Return the spot centers (N, 2) of ``obsm["spatial"]`` in level-0 pixels, or None without it.

    Raises:
        DatasetError: It does not hold two numbers per spot.
    """
    if "spatial" not in table.obsm:
        return None
    try:
        xy = np.asarray(table.obsm["spatial"], np.float64)
    except (TypeError, ValueError) as error:
        raise DatasetError(f'{path}: obsm["spatial"] is not numbers ({error})') from error
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise DatasetError(f'{path}: no (x, y) in obsm["spatial"]; add level-0 pixel centers')
    return np.ascontiguousarray(xy[:, :2])
