"""Finding the one image that belongs to a section."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from triplex_deploy.errors import DatasetError

SUFFIXES: Final = frozenset(
    (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".btf", ".svs", ".ndpi", ".mrxs", ".scn", ".dcm")
)


def only_slide(folder: Path, section: str) -> Path:
    """The single image in ``folder``; ``DatasetError`` where there is none or more than one."""
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:3]) or "none"
        raise DatasetError(
            f"{section}: needs one full-resolution image in {folder}, found {names}; "
            "put it there, or name it in the column slide of --patients"
        )
    return found[0]
