"""The columns of a spots file, by whichever of their accepted names it uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError

if TYPE_CHECKING:
    import pandas as pd

SPACE_RANGER_PIXELS = ("pxl_col_in_fullres", "pxl_row_in_fullres")
PIXELS = (("pixel_x", "pixel_y"), SPACE_RANGER_PIXELS)
"""Accepted names of the level-0 (x, y) of a spot's centre."""
KEEP = ("selected", "in_tissue")
"""A spot with 0 in one of these is left out."""
ARRAY = ("array_row", "array_col")
ROUNDED_ARRAY = ("y", "x")
"""Array (row, column) of her2st's files, rounded to integers."""
BARCODE = "barcode"


def with_known_names(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The table with its known columns in lower case; ``SpotsError`` where one is there twice."""
    known = {name for names in (*PIXELS, KEEP, ARRAY, ROUNDED_ARRAY) for name in names} | {BARCODE}
    names = [str(name).strip() for name in table.columns]
    names = [name.lower() if name.lower() in known else name for name in names]
    twice = sorted({name for name in names if name in known and names.count(name) > 1})
    if twice:
        raise SpotsError(f"{path}: more than one column {', '.join(twice)}; keep one of each")
    return table.set_axis(names, axis=1)


def pixel_columns(path: Path, table: pd.DataFrame) -> tuple[str, str]:
    """The names of x and y in level-0 pixels; ``SpotsError`` without."""
    for names in PIXELS:
        if set(names) <= set(table.columns):
            return names
    array = "x and y are places on the array; " if set(ROUNDED_ARRAY) <= set(table.columns) else ""
    raise SpotsError(
        f"{path}: no spot positions among its columns {', '.join(table.columns)}; {array}it "
        f"needs {' or '.join(' and '.join(names) for names in PIXELS)}, the spot's centre in "
        "level-0 pixels"
    )


def kept_rows(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are selected and in tissue, where the file says so."""
    from triplex_deploy.spots.table import number_column

    for name in KEEP:
        if name in table.columns:
            table = table[number_column(path, table, name) != 0]
            if table.empty:
                raise SpotsError(f"{path}: {name} is 0 for every spot; mark the spots to predict")
    return table


def pixel_centers(path: Path, table: pd.DataFrame) -> NDArray[np.float64]:
    """Level-0 (x, y) of every row, (N, 2)."""
    return _numbers(path, table, pixel_columns(path, table))


def array_places(path: Path, table: pd.DataFrame) -> NDArray[np.int64] | None:
    """(row, column) of every row, (N, 2), None where the file has none."""
    from triplex_deploy.spots.table import integer_column

    if set(ARRAY) <= set(table.columns):
        return np.stack([integer_column(path, table, name) for name in ARRAY], axis=1)
    if set(ROUNDED_ARRAY) <= set(table.columns):
        return np.round(_numbers(path, table, ROUNDED_ARRAY)).astype(np.int64)
    return None


def barcodes(table: pd.DataFrame) -> tuple[str, ...]:
    """The barcode of every row, or nothing."""
    return tuple(map(str, table[BARCODE])) if BARCODE in table.columns else ()


def _numbers(path: Path, table: pd.DataFrame, names: tuple[str, str]) -> NDArray[np.float64]:
    from triplex_deploy.spots.table import number_column

    return np.stack([number_column(path, table, name) for name in names], axis=1)
