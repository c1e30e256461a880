"""Read the sections of a data set folder of any known layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from triplex_deploy.data.hest import find_hest_sections, hest_patient, read_hest_section
from triplex_deploy.data.pooled_section import (
    find_pooled_sections,
    read_spatialdata_section,
    read_visium_hd_section,
    read_xenium_section,
)
from triplex_deploy.data.section import Section
from triplex_deploy.data.section_list import SectionEntry
from triplex_deploy.data.space_ranger import find_visium_sections, read_visium_section
from triplex_deploy.data.st import find_st_sections, read_st_section
from triplex_deploy.errors import DatasetError
from triplex_deploy.spots import Pooling
from triplex_deploy.spots.pooling import POOLED_FORMATS

FORMATS: Final = ("st", "visium", "hest", *POOLED_FORMATS)
MAX_NAMED: Final = 5
"""Most sections that a message names."""

Reader = Callable[[str, SectionEntry], Section]
"""Reads the section of a name, with what the table of sections gives for it."""


def read_dataset(
    root: str | Path,
    layout: str,
    listed: Mapping[str, SectionEntry] | None = None,
    pooling: Pooling | None = None,
) -> tuple[Section, ...]:
    """Return the sections of a folder, ordered by patient and name, so that P2 precedes P10.

    Args:
        root: Folder of the data set.
        layout: One of ``FORMATS``.
        listed: Sections to read and their patients, see ``read_section_list``. None reads all
            sections. Only st and hest name patients, so several sections of another layout need
            the list.
        pooling: How the bins of ``visium-hd`` or the transcripts of ``xenium`` become spots.

    Raises:
        DatasetError: The folder, a section or a patient is missing, or a file is damaged.
    """
    root = Path(root)
    try:
        sections = _sections(root, layout, listed, pooling)
    except OSError as error:  # a folder that cannot be entered, or a name that is too long
        where = error.filename or root
        raise DatasetError(f"{where}: {error.strerror or error}; check its permissions") from error
    return tuple(sorted(sections, key=lambda s: (natural_key(s.patient), natural_key(s.name))))


def _sections(
    root: Path,
    layout: str,
    listed: Mapping[str, SectionEntry] | None,
    pooling: Pooling | None,
) -> list[Section]:
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; pass the folder of a data set")
    found, reader = _find(root, layout, pooling)
    if listed is None:
        entries = {name: SectionEntry(_patient(root, layout, name, found)) for name in found}
    else:
        absent = sorted(set(listed) - set(found))
        if absent:
            there = ", ".join(sorted(found, key=natural_key)[:MAX_NAMED])
            raise DatasetError(
                f"{root}: no section {', '.join(absent[:MAX_NAMED])}; correct --patients, here "
                f"are {there}{', ...' if len(found) > MAX_NAMED else ''}"
            )
        entries = dict(listed)
    return [reader(name, entry) for name, entry in entries.items()]


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key by which P2 comes before P10."""
    pieces = re.findall(r"\d+|\D+", text)
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces)


def _find(
    root: Path, layout: str, pooling: Pooling | None
) -> tuple[Mapping[str, str | Path], Reader]:
    if layout == "st":
        return find_st_sections(root), partial(read_st_section, root)
    if layout == "hest":
        return find_hest_sections(root), partial(read_hest_section, root)
    if layout == "visium":
        folders = find_visium_sections(root)
        return folders, lambda name, entry: read_visium_section(folders[name], name, entry)
    if layout in POOLED_FORMATS:
        if pooling is None:
            raise DatasetError(
                f"{root}: the bins or transcripts of {layout} are pooled into spots; give the "
                "distance of the spots in microns, such as --pool-um 100"
            )
        return _pooled(root, replace(pooling, kind=layout))
    raise DatasetError(f"layout {layout!r}: not known; use {', '.join(FORMATS)}")


def _pooled(root: Path, pooling: Pooling) -> tuple[Mapping[str, str | Path], Reader]:
    folders = find_pooled_sections(root, pooling)
    read = {
        "visium-hd": read_visium_hd_section,
        "xenium": read_xenium_section,
        "spatialdata": read_spatialdata_section,
    }[str(pooling.kind)]
    return folders, lambda name, entry: read(folders[name], name, entry, pooling)


def _patient(root: Path, layout: str, name: str, found: Mapping[str, str | Path]) -> str:
    if layout == "st":
        return str(found[name])
    if layout == "hest":
        return hest_patient(root, name)
    if len(found) > 1:
        raise DatasetError(
            f"{root}: this layout names no patients; list section and patient in a CSV file and "
            "pass it with --patients"
        )
    return name
