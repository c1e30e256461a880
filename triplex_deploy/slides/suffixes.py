"""How slide files end, for whoever looks for slides in a folder."""

from typing import Final

DICOM: Final = ".dcm"
"""Several such files may make one slide."""
SLIDE_SUFFIXES: Final = frozenset(
    (
        *(".svs", ".tif", ".tiff", ".btf", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu"),
        *(".bif", ".svslide", ".czi", ".jpg", ".jpeg", ".png"),
    )
)
"""In lower case; a file named by itself may end as it likes."""
