"""Read the optional table that gives the patient, slide and scale of each section."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from triplex_deploy.data.names import MISSING, require_unique
from triplex_deploy.errors import DatasetError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.escape import short_repr

COLUMNS: Final = ("section", "patient", "slide", "mpp")
REMEDY: Final = "pass a CSV of sections"
MAX_BYTES: Final = 1 << 26
"""Largest table that is read; real tables are far smaller."""


@dataclass(frozen=True)
class SectionEntry:
    """Holds a row of the table. A value that is None is taken from the data set."""

    patient: str
    """Patient that the section is of."""
    slide: Path | None = None
    """Image of the section."""
    mpp: float | None = None
    """Microns per level-0 pixel of the image."""


def read_section_list(path: str | Path) -> dict[str, SectionEntry]:
    """Read a CSV or TSV with columns ``section, patient`` and optionally ``slide, mpp``.

    Slides are relative to the file. Sections that are not listed are left out of the data set.

    Args:
        path: The table, UTF-8 with or without a byte order mark.

    Returns:
        The rows by section.

    Raises:
        DatasetError: The table is empty or damaged, a column is unknown, or a section has no name,
            no patient or is listed twice.
    """
    import pandas as pd

    path = Path(path)
    text = read_text(path, DatasetError, "table of sections", REMEDY, MAX_BYTES)
    first = text.partition("\n")[0]
    if not first.strip():
        raise DatasetError(f"{path}: is empty; list section and patient in it")
    separator = next((mark for mark in "\t;" if mark in first), ",")
    with damage_as(DatasetError, f"{path}: not a table", REMEDY), warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
        table = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            index_col=False,
        ).rename(columns=str.strip)
    unknown = sorted(set(table.columns) - set(COLUMNS))
    if unknown or not {"section", "patient"} <= set(table.columns):
        raise DatasetError(
            f"{path}: columns {short_repr(list(table.columns))}; use section and patient, "
            "and optionally slide and mpp"
        )
    rows = [{str(key): str(row[key]) for key in row} for row in table.to_dict("records")]
    if not rows:
        raise DatasetError(f"{path}: lists no section; list section and patient in it")
    names = [row["section"].strip() for row in rows]
    require_unique(str(path), "section", names)
    return {name: _entry(path, row) for name, row in zip(names, rows, strict=True)}


def _entry(path: Path, row: dict[str, str]) -> SectionEntry:
    slide, mpp = row.get("slide", "").strip(), row.get("mpp", "").strip()
    if row["patient"].strip() in MISSING:
        raise DatasetError(f"{path}: {row['section']} has no patient; add a patient")
    try:
        return SectionEntry(
            patient=row["patient"].strip(),
            slide=(path.parent / slide).resolve() if slide else None,
            mpp=_length(mpp) if mpp else None,
        )
    except ValueError as error:
        raise DatasetError(
            f"{path}: mpp {mpp!r} of {row['section']} is not a positive number; correct it"
        ) from error


def _length(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value
