"""Read a table of spots from CSV, TSV or Parquet, and check its columns.

The values of CSV and TSV stay text until they are checked.
"""

from __future__ import annotations

import io
import re
import reprlib
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.escape import short_repr
from triplex_deploy.files.regular import require_regular_file
from triplex_deploy.spots.spots import MAX_PLACE, MAX_SPOTS

MAX_NUMBER = 2.0**40
"""Far beyond any slide; larger numbers overflow in distances between spots."""
MAX_TEXT_ROWS = 5_000_000
"""Most rows of a text table, which takes about 100 bytes of memory for each cell."""
MAX_TEXT_BYTES = 1 << 28
"""Most bytes of a text table once it is decompressed."""
_REMEDY: Final = "pass CSV, TSV or h5ad"
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
MAX_LISTED: Final = 20
"""Most columns that an error names."""
_BLANK_LINES: Final = re.compile(r"\A(?:[ \t]*\n)+")
_NUMBER: Final = re.compile(r"-?\d+(\.\d*)?([eE][+-]?\d+)?")


def read_table(path: Path) -> pd.DataFrame:
    """Read the table with its column names; raises ``SpotsError`` if it cannot be parsed."""
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    text = _BLANK_LINES.sub("", _read_text(path))
    first = text.partition("\n")[0]
    if not first.strip():
        raise SpotsError(f"{path}: the spots file is empty; it needs a header and rows")
    separator = next((mark for mark in "\t;" if mark in first), ",")
    fields = [field.strip() for field in first.split(separator)]
    with damage_as(SpotsError, f"{path}: not a table", _REMEDY), warnings.catch_warnings():
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
    values = _floats(table[name])
    _require_all(path, table, name, np.abs(values) <= MAX_NUMBER, "not a number a slide can have")
    return values


def integer_column(path: Path, table: pd.DataFrame, name: str) -> NDArray[np.int64]:
    """Return a column as integers of at most 32 bits; raises ``SpotsError`` on another value."""
    values = number_column(path, table, name)
    _require_all(
        path,
        table,
        name,
        values == np.round(values),
        "not an integer, and array coordinates count rows and columns",
    )
    return _places(path, table, name, values)


def flag_column(path: Path, table: pd.DataFrame, name: str) -> NDArray[np.bool_]:
    """Return a column of truth values.

    Args:
        path: The file, for messages.
        table: The table; its values may be text, numbers, truth values or categories.
        name: The column.

    Returns:
        True for 1 and "true", False for 0 and "false", in any case of letters.

    Raises:
        SpotsError: A row has another value or none.
    """
    words = table[name].astype(object).map(lambda value: str(value).strip().lower())
    values = _floats(words.replace({"true": "1", "false": "0"}))
    _require_all(path, table, name, np.isin(values, (0.0, 1.0)), "neither 0 nor 1")
    return np.asarray(values == 1.0)


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
        f"{path}: no spot positions among its columns {_listed(table)}; {array}it "
        f"needs {' or '.join(' and '.join(names) for names in PIXELS)}, the spot's center in "
        "level-0 pixels"
    )


def _listed(table: pd.DataFrame) -> str:
    """Return the names of the columns, which a file of others may fill with anything."""
    return ", ".join(short_repr(name).strip("'\"") for name in table.columns[:MAX_LISTED])


def kept_rows(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are selected and in tissue; all if there are no such columns."""
    for name in KEEP:
        if name in table.columns:
            table = table[flag_column(path, table, name)]
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
        columns = (
            _places(path, table, name, np.round(number_column(path, table, name)))
            for name in ROUNDED_ARRAY
        )
        return np.stack(list(columns), axis=1)
    return None


def barcodes(path: Path, table: pd.DataFrame) -> tuple[str, ...]:
    """Return the barcode of every row, or () if there is no such column or it is empty.

    Raises:
        SpotsError: A row has no barcode, or the barcode of another row.
    """
    if BARCODE not in table.columns:
        return ()
    column = table[BARCODE].astype(object)
    is_named = ~(column.isna() | (column.map(lambda name: str(name).strip()) == "")).to_numpy()
    if not is_named.any():
        return ()
    _require_all(path, table, BARCODE, is_named, "no name of a spot")
    names = column.map(str)
    repeated = names.duplicated().to_numpy()
    if repeated.any():
        name = names[repeated].iloc[0]
        rows = [int(row) + 1 for row in names.index[names == name][:2]]
        raise SpotsError(
            f"{path}: {int(repeated.sum())} repeat the barcode of another, such as {name!r} in "
            f"rows {rows[0]} and {rows[1]}; give each spot one name, and each section a file of "
            "its own"
        )
    return tuple(names)


def _read_text(path: Path) -> str:
    """Return the text of the file, unless it is too long for the spots of a slide."""
    text = read_text(path, SpotsError, "spots file", _REMEDY, MAX_TEXT_BYTES)
    if text.count("\n") > MAX_TEXT_ROWS:
        raise SpotsError(
            f"{path}: has more than {MAX_TEXT_ROWS:,} rows, more than a slide has spots; "
            "pass the spots of one slide"
        )
    return text


def _floats(column: pd.Series[Any]) -> NDArray[np.float64]:
    """Return the numbers of a column of any type; NaN where there is none."""
    plain = column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column
    return pd.to_numeric(plain, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def _places(
    path: Path, table: pd.DataFrame, name: str, values: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return whole numbers as rows or columns of an array, which fit in 32 bits."""
    _require_all(path, table, name, np.abs(values) <= MAX_PLACE, "beyond any array of spots")
    return values.astype(np.int64)


def _require_all(
    path: Path, table: pd.DataFrame, name: str, is_right: NDArray[np.bool_], what: str
) -> None:
    """Raise ``SpotsError`` that shows the first wrong value of a column and its row."""
    wrong = np.flatnonzero(~is_right)
    if wrong.size:
        first = int(wrong[0])
        cell = table[name].iloc[first]
        value = reprlib.repr(cell.item() if isinstance(cell, np.generic) else cell)
        raise SpotsError(
            f"{path}: {name} of spot {int(table.index[first]) + 1} is {value}, {what}; "
            "correct or remove that row"
        )


def _is_positions_list(first_row: list[str]) -> bool:
    """Return True if the first row holds values; pixel positions may have fractions."""
    return len(first_row) == len(POSITIONS_LIST) and all(
        _NUMBER.fullmatch(field) for field in first_row[1:]
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    from pyarrow import parquet

    require_regular_file(path, SpotsError, "spots file")
    with damage_as(SpotsError, f"{path}: not a Parquet table", _REMEDY):
        rows = parquet.ParquetFile(path).metadata.num_rows
        if rows > MAX_SPOTS:
            raise SpotsError(
                f"{path}: has {rows:,} rows, more than a slide has spots; "
                "pass the spots of one slide"
            )
        return pd.read_parquet(path).reset_index(drop=True)


def _numbers(path: Path, table: pd.DataFrame, names: tuple[str, str]) -> NDArray[np.float64]:
    return np.stack([number_column(path, table, name) for name in names], axis=1)
