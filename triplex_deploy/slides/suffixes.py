"""List the suffixes by which slides are found in a folder."""

from typing import Final

DICOM: Final = ".dcm"
"""Suffix of DICOM files; several of them may form one slide."""
SLIDE_SUFFIXES: Final = frozenset(
    (
        ".svs",
        ".tif",
        ".tiff",
        ".btf",
        ".ndpi",
        ".scn",
        ".mrxs",
        ".vms",
        ".vmu",
        ".bif",
        ".svslide",
        ".czi",
        ".jpg",
        ".jpeg",
        ".png",
    )
)
"""In lower case. A file that the user names may have any suffix."""
