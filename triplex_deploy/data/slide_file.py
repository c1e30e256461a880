"""Find the image of a section."""

from __future__ import annotations

from pathlib import Path

from triplex_deploy.errors import DatasetError
from triplex_deploy.slides.slide_files import DICOM, SLIDE_SUFFIXES, dicom_slides


def only_slide(folder: Path, section: str, ignored: str | None = None) -> Path:
    """Return the only image in ``folder``.

    Args:
        folder: Folder of the section.
        section: Name of the section, for messages.
        ignored: Images whose names begin so do not count.

    Raises:
        DatasetError: There is no image, or more than one.
    """
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (*SLIDE_SUFFIXES, DICOM)
        and not path.name.startswith("." if ignored is None else (".", ignored))
    )
    found = [path for path in found if path.suffix.lower() != DICOM] + dicom_slides(found)
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:3]) or "none"
        raise DatasetError(
            f"{section}: needs one full-resolution image in {folder}, found {names}; "
            "put it there, or name it in the column slide of --patients"
        )
    return found[0]
