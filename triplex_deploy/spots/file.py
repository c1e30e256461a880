"""Spots from a file: CSV, TSV, Space Ranger's tissue positions, or h5ad."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.spots.lattice import infer_lattice
from triplex_deploy.spots.spots import Spots

if TYPE_CHECKING:
    import pandas as pd

PIXELS = (("pixel_x", "pixel_y"), ("pxl_col_in_fullres", "pxl_row_in_fullres"))
"""Accepted names of the level-0 (x, y) of a spot's centre."""
KEEP = ("selected", "in_tissue")
"""A spot with 0 in one of these is left out."""
LONE_SPOT_DIAMETER_PX = 100.0
"""Only drawn; a single spot has no spacing to tell its size."""


def read_spots(path: str | Path) -> Spots:
    """Read spots with level-0 centres; unselected and out-of-tissue spots are left out.

    Accepts CSV or TSV with ``pixel_x, pixel_y`` or Space Ranger's ``pxl_col_in_fullres,
    pxl_row_in_fullres`` (also its headerless list and Parquet), and h5ad with
    ``obsm["spatial"]``. Array coordinates come from ``array_row, array_col``, from ``x, y`` (x is
    the column; rounded) or else from the lattice, which ``note`` then says. Raises ``SpotsError``.
    """
    from triplex_deploy.spots.h5ad import read_h5ad_table
    from triplex_deploy.spots.table import read_table

    path = Path(path)
    table = read_h5ad_table(path) if path.suffix == ".h5ad" else read_table(path)
    if table.empty:
        raise SpotsError(f"{path}: the spots file has no rows; it needs one per spot")
    pixel_columns = _pixel_columns(path, table)
    table = _kept(path, table)
    level0_xy = _numbers(path, table, pixel_columns)
    grid_rc, note = _grid_rc(path, table), ""
    if grid_rc is None:
        try:
            lattice = infer_lattice(level0_xy)
        except SpotsError as error:
            raise SpotsError(f"{path}: {error}") from error
        grid_rc = lattice.grid_rc
        note = (
            f"array coordinates were inferred from a {lattice.kind} lattice of {len(grid_rc)} spots"
        )
    return Spots(level0_xy, grid_rc, "file", _spot_diameter(level0_xy), note)


def _pixel_columns(path: Path, table: pd.DataFrame) -> tuple[str, str]:
    for names in PIXELS:
        if set(names) <= set(table.columns):
            return names
    raise SpotsError(
        f"{path}: no spot positions among its columns {', '.join(map(str, table.columns))}; it "
        f"needs {' or '.join(' and '.join(names) for names in PIXELS)}, and optionally array_row "
        "and array_col, or x and y"
    )


def _kept(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    from triplex_deploy.spots.table import number_column

    for name in KEEP:
        if name in table.columns:
            table = table[number_column(path, table, name) != 0]
            if table.empty:
                raise SpotsError(f"{path}: {name} is 0 for every spot; mark the spots to predict")
    return table


def _numbers(path: Path, table: pd.DataFrame, names: tuple[str, str]) -> NDArray[np.float64]:
    from triplex_deploy.spots.table import number_column

    return np.stack([number_column(path, table, name) for name in names], axis=1)


def _grid_rc(path: Path, table: pd.DataFrame) -> NDArray[np.int64] | None:
    from triplex_deploy.spots.table import integer_column

    if {"array_row", "array_col"} <= set(table.columns):
        rows, cols = (integer_column(path, table, name) for name in ("array_row", "array_col"))
        return np.stack([rows, cols], axis=1)
    if {"x", "y"} <= set(table.columns):
        return np.round(_numbers(path, table, ("y", "x"))).astype(np.int64)
    return None


def _spot_diameter(level0_xy: NDArray[np.float64]) -> float:
    from scipy.spatial import KDTree

    if len(level0_xy) < 2:
        return LONE_SPOT_DIAMETER_PX
    nearest = KDTree(level0_xy).query(level0_xy, k=2)[0][:, 1]
    return float(np.median(nearest)) / 2
