"""A manifest: a CSV or TSV with one slide per row."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from triplex_deploy.errors import ConfigError
from triplex_deploy.pipeline.many.entry import SlideEntry

COLUMNS: Final = ("slide", "spots", "mpp", "output")
SUFFIXES: Final = (".csv", ".tsv")
_DELIMITERS: Final = (",", "\t", ";")

Row = dict[str, str]


def is_manifest(path: Path) -> bool:
    """Whether a name among the slides is that of a table: no slide ends in .csv or .tsv."""
    return path.suffix.lower() in SUFFIXES


def read_manifest(path: Path) -> list[SlideEntry]:
    """The slides of a manifest, in its order.

    Only ``slide`` is required. Relative slides and spots files lie beside the manifest; ``mpp`` is
    in microns per pixel; ``output`` names the results below the output folder (default: the
    slide's stem). Unknown columns, missing files and bad values raise ``ConfigError`` with the
    line, counted from 1.
    """
    entries = [_entry(path, where, row) for where, row in _rows(path)]
    if not entries:
        raise ConfigError(f"{path}: no slides in this manifest; it needs one row for each")
    return entries


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Every row that is not blank as ``manifest line N`` and its filled cells."""
    text = _text(path)
    header_line = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header_line.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip().lower() for name in next(lines, [])]
        _check_header(path, header)
        for cells in lines:
            where = f"{path} line {lines.line_num}"
            if any(cell.strip() for cell in cells):
                yield where, _row(where, header, cells)
    except csv.Error as error:
        raise ConfigError(f"{path} line {lines.line_num}: {error}; write plain CSV") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such manifest; check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text; save the manifest as UTF-8 CSV") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; check its permissions") from error


def _check_header(path: Path, header: list[str]) -> None:
    known = ", ".join(COLUMNS)
    if "slide" not in header:
        raise ConfigError(
            f"{path} line 1: no column slide; a manifest has the columns {known} "
            "(a spots file goes to --spots)"
        )
    for name in header:
        if name not in COLUMNS:
            raise ConfigError(f"{path} line 1: unknown column {name!r}; the columns are {known}")
        if header.count(name) > 1:
            raise ConfigError(f"{path} line 1: column {name} appears twice; leave one out")


def _row(where: str, header: list[str], cells: list[str]) -> Row:
    if len(cells) > len(header):
        raise ConfigError(
            f"{where}: {len(cells)} cells for {len(header)} columns; quote cells that hold commas"
        )
    filled = dict.fromkeys(COLUMNS, "")
    return filled | {name: cell.strip() for name, cell in zip(header, cells, strict=False)}


def _entry(manifest: Path, where: str, row: Row) -> SlideEntry:
    if not row["slide"]:
        raise ConfigError(f"{where}: no slide; fill its cell or remove the line")
    slide = _existing(manifest, where, "slide", row["slide"])
    if slide.is_dir():
        raise ConfigError(f"{where}: slide {slide}: is a folder; name one file per row")
    return SlideEntry(
        slide=slide,
        output=_output(where, row["output"]) or slide.stem,
        origin=where,
        spots=_existing(manifest, where, "spots", row["spots"]) if row["spots"] else None,
        mpp=_mpp(where, row["mpp"]) if row["mpp"] else None,
    )


def _existing(manifest: Path, where: str, column: str, cell: str) -> Path:
    path = manifest.parent / Path(cell).expanduser()
    if not path.exists():
        raise ConfigError(f"{where}: {column} {path}: no such file; paths start at the manifest")
    return path


def _mpp(where: str, cell: str) -> float:
    try:
        mpp = float(cell)
    except ValueError:
        mpp = math.nan
    if not 0 < mpp < math.inf:
        raise ConfigError(f"{where}: mpp {cell!r}: not a positive number; give microns per pixel")
    return mpp


def _output(where: str, cell: str) -> str:
    name = PurePosixPath(cell.removesuffix(".h5ad"))
    if name.is_absolute() or ".." in name.parts or cell == ".h5ad" or cell.endswith("/"):
        raise ConfigError(f"{where}: output {cell!r}: give a name below the --out folder")
    return "" if not cell else str(name)
