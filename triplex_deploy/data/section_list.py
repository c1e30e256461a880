"""An optional table that says which patient a section is of, and where its slide lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from triplex_deploy.errors import DatasetError

COLUMNS: Final = ("section", "patient", "slide", "mpp")


@dataclass(frozen=True)
class SectionEntry:
    """One row; what is None is taken from the dataset itself."""

    patient: str
    slide: Path | None = None
    mpp: float | None = None


def read_section_list(path: str | Path) -> dict[str, SectionEntry]:
    """Read a CSV or TSV with columns ``section, patient`` and optionally ``slide, mpp``.

    Slides are relative to the file. Sections that are not listed are left out of the dataset.
    """
    import pandas as pd

    path = Path(path)
    try:
        table = pd.read_csv(path, sep=None, engine="python", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); pass a CSV of sections") from error
    unknown = sorted(set(table.columns) - set(COLUMNS))
    if unknown or not {"section", "patient"} <= set(table.columns):
        raise DatasetError(
            f"{path}: columns {', '.join(map(str, table.columns))}; use section and patient, "
            "and optionally slide and mpp"
        )
    rows = [{str(key): str(row[key]) for key in row} for row in table.to_dict("records")]
    entries = {row["section"].strip(): _entry(path, row) for row in rows}
    if len(entries) < len(table):
        raise DatasetError(f"{path}: a section is listed twice; list each once")
    return entries


def _entry(path: Path, row: dict[str, str]) -> SectionEntry:
    slide, mpp = row.get("slide", "").strip(), row.get("mpp", "").strip()
    if not row["patient"].strip():
        raise DatasetError(f"{path}: {row['section']} has no patient; name one")
    try:
        return SectionEntry(
            patient=row["patient"].strip(),
            slide=(path.parent / slide).resolve() if slide else None,
            mpp=float(mpp) if mpp else None,
        )
    except ValueError as error:
        raise DatasetError(f"{path}: mpp {mpp!r} of {row['section']} is not a number") from error
