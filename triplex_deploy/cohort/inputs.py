"""Find the slides that a caller names: files, folders, patterns and slide lists."""

from __future__ import annotations

import csv
import glob
import io
import logging
import math
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from triplex_deploy.cohort.remote import find_urls
from triplex_deploy.errors import ConfigError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.escape import first_of, short_repr
from triplex_deploy.files.regular import kind_of
from triplex_deploy.files.url import is_url, shown_url, url_file_name
from triplex_deploy.slides.slide_files import (
    DICOM,
    SLIDE_SUFFIXES,
    dicom_slides,
    is_ome_zarr,
    is_zarr,
    slide_name,
)

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
    url: str | None = None
    """Where the slide is, if it is not on this machine; ``slide`` is then only its name."""
    state: str = ""
    """Size and version of the file at the URL, as far as its server tells them."""


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
        arguments: Files; folders, for the slides in them; patterns, for the files that match;
            slide lists (.csv or .tsv), for their rows; and URLs of files, of folders (ending in a
            slash) or with patterns. A file that is missing is kept, and fails
            when it is predicted.
        recursive: Look for slides below the folders, too.

    Raises:
        ConfigError: If an argument names no slide, or a slide list is not valid.
    """
    found: dict[str, SlideEntry] = {}
    for argument in arguments:
        for entry in _expand(argument, recursive):
            found.setdefault(os.path.abspath(entry.origin), entry)  # noqa: PTH100 - links stay
    return list(found.values())


def _expand(argument: str | Path, recursive: bool) -> Iterator[SlideEntry]:
    if is_url(str(argument)):
        yield from (_remote(url, state) for url, state in find_urls(str(argument), recursive))
        return
    path = Path(argument)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:  # cannot be entered, or the name is too long: fails when it is predicted
        yield SlideEntry(path, slide_name(path), origin=str(path))
        return
    if is_zarr(path):
        yield SlideEntry(path, slide_name(path), origin=str(path))
    elif path.is_dir():
        yield from _slides_in(path, recursive)
    elif is_slide_list(path):
        yield from read_slide_list(path)
    elif path.exists() or not glob.has_magic(str(path)):
        yield SlideEntry(path, slide_name(path), origin=str(path))
    else:
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute ones too
        if not matches:
            raise ConfigError(f"{path}: matches no file; check the pattern")
        for match in matches:
            yield from _expand(Path(match), recursive)


def _remote(url: str, state: str) -> SlideEntry:
    slide = Path(url_file_name(url))
    return SlideEntry(slide, slide_name(slide), origin=shown_url(url), url=url, state=state)


def _slides_in(folder: Path, recursive: bool) -> Iterator[SlideEntry]:
    others: list[Path] = []
    try:
        files = sorted(_files(folder, recursive, others))
    except OSError as error:
        where = error.filename or folder
        raise ConfigError(f"{where}: {error.strerror}; check the folder's permissions") from error
    _name_what_is_no_file(folder, sorted(others))
    slides = {
        path: slide_name(path)
        for path in files
        if path.suffix.lower() in SLIDE_SUFFIXES or path.is_dir()  # OME-Zarr
    }
    of_folder: dict[Path, list[Path]] = {}
    for path in files:
        of_folder.setdefault(path.parent, []).append(path)
    for parts in of_folder.values():
        slides |= _dicom_slides(parts, slides)
    if not slides:
        remedy = "name the files" if recursive else "--recursive looks below it"
        raise ConfigError(f"{folder}: no slides in this folder; {remedy}")
    if not recursive:
        _name_folders_left_out(folder)
    for path in sorted(slides):
        yield SlideEntry(path, slides[path], origin=str(path))


def _dicom_slides(files: Sequence[Path], others: Collection[Path] = ()) -> dict[Path, str]:
    """Return one file of each DICOM slide among the files of a folder, and its name.

    A slide that is alone in its folder has the folder's name, as such files are called by numbers.
    """
    found = dicom_slides(files)
    if len(found) == 1 and not any(path in others for path in files):
        return {found[0]: found[0].parent.resolve().name or found[0].stem}
    return {path: path.stem for path in found}


def _name_what_is_no_file(folder: Path, entries: Sequence[Path]) -> None:
    """Warn in one line of pipes, devices and broken links that are named like slides."""
    named = [path for path in entries if path.suffix.lower() in (*SLIDE_SUFFIXES, DICOM)]
    if named:
        shown = first_of([f"{path.name} ({kind_of(path)})" for path in named], _MAX_NAMED)
        logger.warning("%s: %d left out that are no files: %s", folder, len(named), shown)


def _name_folders_left_out(folder: Path) -> None:
    """Warn in one line of folders in ``folder`` that hold slides and are not looked into."""
    named = []
    for path in sorted(folder.iterdir()):
        if _is_plain_folder(path):
            with suppress(OSError):  # one that may not be read is not our concern here
                if any(file.suffix.lower() in (*SLIDE_SUFFIXES, DICOM) for file in path.iterdir()):
                    named.append(path.name)
    if named:
        logger.warning(
            "%s: slides in folders of it are left out (%s); --recursive takes them",
            folder,
            first_of(named, _MAX_NAMED),
        )


def _is_plain_folder(path: Path) -> bool:
    """Return whether a path is a folder that is neither hidden nor a part of a slide."""
    return (
        path.is_dir()
        and not path.name.startswith(".")
        and not is_ome_zarr(path)
        and not path.with_name(f"{path.name}.mrxs").exists()
    )


def _files(folder: Path, recursive: bool, others: list[Path]) -> Iterator[Path]:
    """Yield files that are not hidden, without the data folders that belong to MIRAX slides.

    Folders of OME-Zarr are slides, and count as files.

    Pipes, devices and broken links are added to ``others``.
    """
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in entries:
        if path.is_file() or is_ome_zarr(path):
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
    url, state = _only_url(where, row["slide"]) if is_url(row["slide"]) else (None, "")
    if url is None:
        slide = _existing(slide_list, where, "slide", row["slide"])
    else:
        slide = Path(url_file_name(url))
    name = slide_name(slide)
    if slide.is_dir() and not is_zarr(slide):
        slide, name = _only_dicom(slide, where)
    return SlideEntry(
        slide=slide,
        output=_output(where, row["output"]) or name,
        origin=where,
        url=url,
        state=state,
        spots=_existing(slide_list, where, "spots", row["spots"]) if row["spots"] else None,
        mpp=_mpp(where, row["mpp"]) if row["mpp"] else None,
    )


def _only_url(where: str, cell: str) -> tuple[str, str]:
    """Return the URL of one slide and its state."""
    try:
        found = find_urls(cell)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if len(found) != 1:
        raise ConfigError(f"{where}: {shown_url(cell)}: {len(found)} slides; name one per row")
    return found[0]


def _only_dicom(folder: Path, where: str) -> tuple[Path, str]:
    """Return a file of the only slide of a DICOM folder, and its name."""
    try:
        files = list(_files(folder, recursive=False, others=[]))
    except OSError as error:
        raise ConfigError(f"{where}: slide {folder}: {error.strerror}; correct it") from error
    others = [path for path in files if path.suffix.lower() in SLIDE_SUFFIXES]
    found = _dicom_slides(files)
    if others or len(found) != 1:
        raise ConfigError(
            f"{where}: slide {folder}: is a folder, and not one of a single DICOM slide; name one "
            "file per row"
        )
    return found.popitem()


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
