"""Where Space Ranger keeps the positions of a section's spots."""

from __future__ import annotations

from pathlib import Path

from triplex_deploy.errors import SpotsError

POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet")
FOLDERS = (".", "spatial", "outs/spatial")


def find_positions(folder: Path) -> Path:
    """The positions file in an output folder, its ``outs`` or ``spatial``; or ``SpotsError``."""
    for below in FOLDERS:
        for name in POSITIONS:
            if (folder / below / name).is_file():
                return folder / below / name
    raise SpotsError(
        f"{folder}: a folder with none of {', '.join(POSITIONS)} in it, in spatial/ or in "
        "outs/spatial/; pass a Space Ranger output or a spots file"
    )
