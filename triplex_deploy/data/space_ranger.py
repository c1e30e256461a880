"""Read Visium sections from Space Ranger outputs, one folder per section."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from triplex_deploy.data.assemble import CountTable, SectionMetadata, SpotTable, assemble_section
from triplex_deploy.data.feature_matrix import read_feature_matrix
from triplex_deploy.data.names import require_unique
from triplex_deploy.data.pitch import VISIUM_STEP_UM, mpp_from_array
from triplex_deploy.data.section import Section
from triplex_deploy.data.section_list import SectionEntry
from triplex_deploy.data.slide_file import only_slide
from triplex_deploy.data.spot_columns import spots_as_data
from triplex_deploy.errors import DatasetError, SpotsError
from triplex_deploy.spots.file import POSITIONS
from triplex_deploy.spots.visium_hd import is_visium_hd

NEEDED: Final = frozenset(
    {"barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"}
)
"""Columns that a positions file must have."""


def find_visium_sections(root: Path) -> dict[str, Path]:
    """Return the folders of sections by name: ``root``, or the folders in it.

    A folder of a section holds ``spatial`` or ``outs/spatial``.

    Raises:
        DatasetError: There is none.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; pass the folder of Space Ranger outputs")
    if is_visium_hd(root):
        raise DatasetError(
            f"{root}: holds bins of Visium HD, not spots; pool them, such as with --format "
            "visium-hd --bin 8 --pool-um 100"
        )
    if (root / "spatial").is_dir() or (root / "outs" / "spatial").is_dir():
        return {root.resolve().name: root}
    found = {path.name: path for path in sorted(root.iterdir()) if _outs(path) is not None}
    if not found:
        raise DatasetError(
            f"{root}: no Space Ranger output here or one folder down; each section's folder holds "
            "spatial/ and filtered_feature_bc_matrix.h5, or an outs/ with them"
        )
    return found


def read_visium_section(folder: Path, name: str, entry: SectionEntry) -> Section:
    """Read a section. Spots outside the tissue are left out.

    Args:
        folder: Folder of the section.
        name: Name of the section.
        entry: Patient, and optionally image and mpp. Without an image, the folder must hold the
            full-resolution image. Without mpp, the 100 um between spots give the scale.

    Raises:
        DatasetError: A file is missing or damaged, or the section is not valid.
    """
    table, spots = read_visium_tables(folder)
    mpp = entry.mpp or mpp_from_array(
        name, spots.grid_rc.astype(np.float64), spots.level0_xy, VISIUM_STEP_UM
    )
    slide = entry.slide or only_slide(folder, name)
    metadata = SectionMetadata(name, entry.patient, slide, mpp, True, entry.mpp is not None)
    return assemble_section(metadata, table, spots)


def read_visium_tables(folder: Path) -> tuple[CountTable, SpotTable]:
    """Return the counts of a Space Ranger output and the positions of its spots in the tissue.

    Raises:
        DatasetError: A file is missing or damaged.
    """
    outs = _outs(folder)
    if outs is None:
        raise DatasetError(f"{folder}: no spatial/ here or in outs/; pass a Space Ranger output")
    return read_feature_matrix(outs), _read_positions(outs / "spatial")


def _read_positions(spatial: Path) -> SpotTable:
    """Read the positions of spots in the tissue.

    A file without a header has the columns in the fixed order of Space Ranger.
    """
    from triplex_deploy.spots import table as columns  # imports pandas

    path = next((spatial / name for name in POSITIONS if (spatial / name).exists()), None)
    if path is None:
        raise DatasetError(f"{spatial}: none of {', '.join(POSITIONS)}; copy one there")
    with spots_as_data():
        table = columns.with_known_names(path, columns.read_table(path))
        missing = NEEDED - set(table.columns)
        if missing:
            raise SpotsError(f"{path}: no column {', '.join(sorted(missing))}; copy it again")
        table = columns.kept_rows(path, table)
        grid_rc = columns.array_places(path, table)
        assert grid_rc is not None  # the columns are there
        barcodes = columns.barcodes(path, table)
        level0_xy = columns.pixel_centers(path, table)
    require_unique(str(path), "barcode", barcodes)
    return SpotTable(barcodes, grid_rc, level0_xy)


def _outs(folder: Path) -> Path | None:
    for outs in (folder, folder / "outs"):
        if (outs / "spatial").is_dir():
            return outs
    return None
