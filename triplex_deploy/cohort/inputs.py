"""Find the slides that a caller names: files, folders, patterns and slide lists."""

from __future__ import annotations

import csv
import glob
import io
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from triplex_deploy.errors import ConfigError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.escape import short_repr
from triplex_deploy.files.regular import kind_of
from triplex_deploy.slides.slide_files import DICOM, SLIDE_SUFFIXES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlideEntry:
    """A slide to predict, and what holds for this slide only."""

    slide: Path
    """File of the slide."""
    output: str
    """Name of the results below the output folder, without ``.h5ad``."""
    origin: str
    """Where the slide was named, for messages: a path, or a slide list and its line."""
    spots: Path | None = None
    """Spots of this slide; None for those of all slides."""
    mpp: float | None = None
    """Microns per pixel of this slide; None for those of all slides."""


COLUMNS: Final = ("slide", "spots", "mpp", "output")
"""Columns of a slide list."""
SLIDE_LIST_SUFFIXES: Final = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
"""No slide ends in these."""
MAX_LIST_BYTES: Final = 1 << 26
"""Largest slide list that is read."""
_DELIMITERS: Final = (",", "\t", ";")
_MAX_NAMED: Final = 5
"""Most names in one warning."""

Row = dict[str, str]
"""Text of each column; empty where the row has none."""


def find_slides(arguments: Sequence[str | Path], recursive: bool = False) -> list[SlideEntry]:
    """Return the slides that ``arguments`` name, in order, each path and each list row once.

    Args:
        arguments: Files; folders, for the slides in them; patterns, for the files that match; and
            slide lists (.csv or .tsv), for their rows. A file that is missing is kept, and fails
            when it is predicted.
        recursive: Look for slides below the folders, too.

    Raises:
        ConfigError: If an argument names no slide, or a slide list is not valid.
    """
    found: dict[str, SlideEntry] = {}
    for argument in arguments:
        for entry in _expand(Path(argument), recursive):
            found.setdefault(os.path.abspath(entry.origin), entry)  # noqa: PTH100 - links stay
    return list(found.values())


def _expand(path: Path, recursive: bool) -> Iterator[SlideEntry]:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:  # cannot be entered, or the name is too long: fails when it is predicted
        yield SlideEntry(path, path.stem, origin=str(path))
        return
    if path.is_dir():
        yield from _slides_in(path, recursive)
    elif is_slide_list(path):
        yield from read_slide_list(path)
    elif path.exists() or not glob.has_magic(str(path)):
        yield SlideEntry(path, path.stem, origin=str(path))
    else:
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute ones too
        if not matches:
            raise ConfigError(f"{path}: matches no file; check the pattern")
        for match in matches:
            yield from _expand(Path(match), recursive)


def _slides_in(folder: Path, recursive: bool) -> Iterator[SlideEntry]:
    others: list[Path] = []
    try:
        files = sorted(_files(folder, recursive, others))
    except OSError as error:
        where = error.filename or folder
        raise ConfigError(f"{where}: {error.strerror}; check the folder's permissions") from error
    _name_what_is_no_file(folder, sorted(others))
    slides = [path for path in files if path.suffix.lower() in SLIDE_SUFFIXES]
    dicom = sum(path.suffix.lower() == DICOM for path in files)
    if dicom:
        logger.warning(
            "%s: %d DICOM files left out, as several make one slide; name one file of each slide",
            folder,
            dicom,
        )
    if not slides:
        remedy = "name the files" if recursive else "--recursive looks below it"
        raise ConfigError(f"{folder}: no slides in this folder; {remedy}")
    for path in slides:
        yield SlideEntry(path, path.stem, origin=str(path))


def _name_what_is_no_file(folder: Path, entries: Sequence[Path]) -> None:
    """Warn in one line of pipes, devices and broken links that are named like slides."""
    named = [path for path in entries if path.suffix.lower() in (*SLIDE_SUFFIXES, DICOM)]
    if named:
        shown = ", ".join(f"{path.name} ({kind_of(path)})" for path in named[:_MAX_NAMED])
        more = f" and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
        logger.warning("%s: %d left out that are no files: %s%s", folder, len(named), shown, more)


def _files(folder: Path, recursive: bool, others: list[Path]) -> Iterator[Path]:
    """Yield files that are not hidden, without the data folders that belong to MIRAX slides.

    Pipes, devices and broken links are added to ``others``.
    """
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in entries:
        if path.is_file():
            yield path
        elif not path.is_dir():
            others.append(path)
        elif recursive and not path.with_name(f"{path.name}.mrxs").exists():
            yield from _files(path, recursive, others)


def is_slide_list(path: Path) -> bool:
    """Return True if the name of a file is that of a slide list."""
    return path.name.lower().endswith(SLIDE_LIST_SUFFIXES)


def read_slide_list(path: Path) -> list[SlideEntry]:
    """Return the slides of a slide list, in its order.

    A slide list is a table with the column ``slide`` and any of ``spots``, ``mpp`` (microns per
    pixel) and ``output`` (name of the results below the output folder; default: the slide's stem).
    Relative paths start at the folder of the list.

    Raises:
        ConfigError: For a column that is not known, a missing file or a value that is not valid;
            the message names the line, counted from 1.
    """
    entries = [_entry(path, where, row) for where, row in _rows(path)]
    if not entries:
        raise ConfigError(f"{path}: no slides in this list; write one row for each slide")
    return entries


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield each row that is not blank, after its place as ``PATH line N``."""
    text = read_text(path, ConfigError, "slide list", "write plain CSV", MAX_LIST_BYTES)
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
        is_open = "end of data" in str(error)
        why = "a quote is opened and not closed" if is_open else str(error)
        raise ConfigError(f"{path} line {lines.line_num}: {why}; write plain CSV") from error


def _check_header(path: Path, header: list[str]) -> None:
    known = ", ".join(COLUMNS)
    if "slide" not in header:
        raise ConfigError(
            f"{path} line 1: no column slide; a slide list has the columns {known} "
            "(give a spots file with --spots)"
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


def _entry(slide_list: Path, where: str, row: Row) -> SlideEntry:
    if not row["slide"]:
        raise ConfigError(f"{where}: no slide; name its file or remove the line")
    slide = _existing(slide_list, where, "slide", row["slide"])
    if slide.is_dir():
        raise ConfigError(f"{where}: slide {slide}: is a folder; name one file per row")
    return SlideEntry(
        slide=slide,
        output=_output(where, row["output"]) or slide.stem,
        origin=where,
        spots=_existing(slide_list, where, "spots", row["spots"]) if row["spots"] else None,
        mpp=_mpp(where, row["mpp"]) if row["mpp"] else None,
    )


def _existing(slide_list: Path, where: str, column: str, cell: str) -> Path:
    try:
        path = slide_list.parent / Path(cell).expanduser()
        is_there = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: there is no home folder
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{where}: {column} {short_repr(cell)}: {reason}; correct it") from error
    if not is_there:
        raise ConfigError(
            f"{where}: {column} {path}: no such file; paths start at the folder of the list"
        )
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
