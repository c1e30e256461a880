"""Read the sections of a data set folder of any known layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from triplex_deploy.data.hest import find_hest_sections, hest_patient, read_hest_section
from triplex_deploy.data.section import Section
from triplex_deploy.data.section_list import SectionEntry
from triplex_deploy.data.space_ranger import find_visium_sections, read_visium_section
from triplex_deploy.data.st import find_st_sections, read_st_section
from triplex_deploy.errors import DatasetError

FORMATS: Final = ("st", "visium", "hest")

Reader = Callable[[str, SectionEntry], Section]
"""Reads the section of a name, with what the table of sections gives for it."""


def read_dataset(
    root: str | Path, layout: str, listed: Mapping[str, SectionEntry] | None = None
) -> tuple[Section, ...]:
    """Return the sections of a folder, ordered by patient and name, so that P2 precedes P10.

    Args:
        root: Folder of the data set.
        layout: ``st``, ``visium`` or ``hest``.
        listed: Sections to read and their patients, see ``read_section_list``. None reads all
            sections. Space Ranger names no patients, so several of its sections need the list.

    Raises:
        DatasetError: The folder, a section or a patient is missing, or a file is damaged.
    """
    root = Path(root)
    try:
        sections = _sections(root, layout, listed)
    except OSError as error:  # a folder that cannot be entered, or a name that is too long
        where = error.filename or root
        raise DatasetError(f"{where}: {error.strerror or error}; check its permissions") from error
    return tuple(sorted(sections, key=lambda s: (natural_key(s.patient), natural_key(s.name))))


def _sections(root: Path, layout: str, listed: Mapping[str, SectionEntry] | None) -> list[Section]:
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; pass the folder of a data set")
    found, reader = _find(root, layout)
    if listed is None:
        entries = {name: SectionEntry(_patient(root, layout, name, found)) for name in found}
    else:
        absent = sorted(set(listed) - set(found))
        if absent:
            raise DatasetError(f"{root}: no section {', '.join(absent)}; correct --patients")
        entries = dict(listed)
    return [reader(name, entry) for name, entry in entries.items()]


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key by which P2 comes before P10."""
    pieces = re.findall(r"\d+|\D+", text)
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces)


def _find(root: Path, layout: str) -> tuple[Mapping[str, str | Path], Reader]:
    if layout == "st":
        return find_st_sections(root), partial(read_st_section, root)
    if layout == "hest":
        return find_hest_sections(root), partial(read_hest_section, root)
    if layout == "visium":
        folders = find_visium_sections(root)
        return folders, lambda name, entry: read_visium_section(folders[name], name, entry)
    raise DatasetError(f"layout {layout!r}: not known; use {', '.join(FORMATS)}")


def _patient(root: Path, layout: str, name: str, found: Mapping[str, str | Path]) -> str:
    if layout == "st":
        return str(found[name])
    if layout == "hest":
        return hest_patient(root, name)
    if len(found) > 1:
        raise DatasetError(
            f"{root}: Space Ranger names no patients; list section and patient in a CSV file and "
            "pass it with --patients"
        )
    return name
