"""Read a table of spots from CSV, TSV or Parquet, and check its columns.

The values of CSV and TSV stay text until they are checked.
"""

from __future__ import annotations

import gzip
import io
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.files.damaged import damage_as

MAX_NUMBER = 2.0**40
"""Far beyond any slide; larger numbers overflow in distances between spots."""
POSITIONS_LIST = (
    "barcode",
    "in_tissue",
    "array_row",
    "array_col",
    "pxl_row_in_fullres",
    "pxl_col_in_fullres",
)
"""Columns of Space Ranger's tissue_positions_list.csv, which has no header."""
SPACE_RANGER_PIXELS = ("pxl_col_in_fullres", "pxl_row_in_fullres")
PIXELS = (("pixel_x", "pixel_y"), SPACE_RANGER_PIXELS)
"""Accepted names of the level-0 (x, y) of a spot's center."""
KEEP = ("selected", "in_tissue")
"""A spot with 0 in one of these is left out."""
ARRAY = ("array_row", "array_col")
ROUNDED_ARRAY = ("y", "x")
"""Array (row, column) of her2st's files, rounded to integers."""
BARCODE = "barcode"


def read_table(path: Path) -> pd.DataFrame:
    """Read the table with its column names; raises ``SpotsError`` if it cannot be parsed."""
    if not path.exists():
        raise SpotsError(f"{path}: no such spots file; check the path")
    if path.suffix == ".parquet":
        return _read_parquet(path)
    text = _read_text(path)
    first = text.partition("\n")[0]
    if not first.strip():
        raise SpotsError(f"{path}: the spots file is empty; it needs a header and rows")
    separator = next((mark for mark in "\t;" if mark in first), ",")
    fields = [field.strip() for field in first.split(separator)]
    remedy = "pass CSV, TSV or h5ad"
    with damage_as(SpotsError, f"{path}: not a table", remedy), warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
        table = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            header=None if _is_positions_list(fields) else 0,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            index_col=False,
        )
    table.columns = pd.Index(
        POSITIONS_LIST if _is_positions_list(fields) else [str(c).strip() for c in table.columns]
    )
    # Programs that separate fields by semicolons write decimals with a comma.
    return table.map(lambda cell: cell.replace(",", ".")) if separator == ";" else table


def number_column(path: Path, table: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Return a column as numbers within +-2 ** 40; raises ``SpotsError`` that names a bad value."""
    values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~(np.abs(values) <= MAX_NUMBER))  # NaN included
    if bad.size:
        raise SpotsError(
            f"{path}: {name} of spot {int(bad[0]) + 1} is {table[name].iloc[int(bad[0])]!r}, not a "
            "number a slide can have; correct or remove that row"
        )
    return values


def integer_column(path: Path, table: pd.DataFrame, name: str) -> NDArray[np.int64]:
    """Return a column as integers; raises ``SpotsError`` on a fraction."""
    values = number_column(path, table, name)
    bad = np.flatnonzero(values != np.round(values))
    if bad.size:
        raise SpotsError(
            f"{path}: {name} of spot {int(bad[0]) + 1} is {values[bad[0]]:g}, not an integer; "
            "array coordinates count rows and columns"
        )
    return values.astype(np.int64)


def with_known_names(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with known columns in lower case; raises ``SpotsError`` on duplicates."""
    known = {name for names in (*PIXELS, KEEP, ARRAY, ROUNDED_ARRAY) for name in names} | {BARCODE}
    names = [str(name).strip() for name in table.columns]
    names = [name.lower() if name.lower() in known else name for name in names]
    twice = sorted({name for name in names if name in known and names.count(name) > 1})
    if twice:
        raise SpotsError(f"{path}: more than one column {', '.join(twice)}; keep one of each")
    return table.set_axis(names, axis=1)


def pixel_columns(path: Path, table: pd.DataFrame) -> tuple[str, str]:
    """Return the names of the columns of x and y in level-0 pixels; raises ``SpotsError``."""
    for names in PIXELS:
        if set(names) <= set(table.columns):
            return names
    array = "x and y are places on the array; " if set(ROUNDED_ARRAY) <= set(table.columns) else ""
    raise SpotsError(
        f"{path}: no spot positions among its columns {', '.join(table.columns)}; {array}it "
        f"needs {' or '.join(' and '.join(names) for names in PIXELS)}, the spot's center in "
        "level-0 pixels"
    )


def kept_rows(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are selected and in tissue; all if there are no such columns."""
    for name in KEEP:
        if name in table.columns:
            table = table[number_column(path, table, name) != 0]
            if table.empty:
                raise SpotsError(f"{path}: {name} is 0 for every spot; mark the spots to predict")
    return table


def pixel_centers(path: Path, table: pd.DataFrame) -> NDArray[np.float64]:
    """Return level-0 (x, y) of every row, (N, 2)."""
    return _numbers(path, table, pixel_columns(path, table))


def array_places(path: Path, table: pd.DataFrame) -> NDArray[np.int64] | None:
    """Return array (row, column) of every row, (N, 2), or None if there are no such columns."""
    if set(ARRAY) <= set(table.columns):
        return np.stack([integer_column(path, table, name) for name in ARRAY], axis=1)
    if set(ROUNDED_ARRAY) <= set(table.columns):
        return np.round(_numbers(path, table, ROUNDED_ARRAY)).astype(np.int64)
    return None


def barcodes(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the barcode of every row, or () if there is no such column."""
    return tuple(map(str, table[BARCODE])) if BARCODE in table.columns else ()


def _read_text(path: Path) -> str:
    """Return the text of the file, decompressed if it is gzip, with plain line ends."""
    with damage_as(SpotsError, f"{path}: cannot be read", "pass CSV, TSV or h5ad"):
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpotsError(f"{path}: not UTF-8 text; save it as UTF-8 CSV") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_positions_list(first_row: list[str]) -> bool:
    return len(first_row) == len(POSITIONS_LIST) and all(
        field.lstrip("-").isdecimal() for field in first_row[1:]
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    with damage_as(SpotsError, f"{path}: not a Parquet table", "pass CSV, TSV or h5ad"):
        try:
            return pd.read_parquet(path).reset_index(drop=True)
        except ImportError as error:
            raise SpotsError(
                f"{path}: reading Parquet needs the package pyarrow; install it or pass the CSV"
            ) from error


def _numbers(path: Path, table: pd.DataFrame, names: tuple[str, str]) -> NDArray[np.float64]:
    return np.stack([number_column(path, table, name) for name in names], axis=1)
