"""Spots from a file: CSV, TSV, Space Ranger's tissue positions, or h5ad."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.spots.lattice import infer_lattice
from triplex_deploy.spots.spot_diameter import (
    diameter_from_pitch,
    named_diameter,
    read_named_diameter,
)
from triplex_deploy.spots.spots import Spots, require_distinct, require_inside

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class _Rows:
    """What a file says of the N spots it keeps."""

    level0_xy: NDArray[np.float64]  # (N, 2)
    grid_rc: NDArray[np.int64] | None  # (N, 2)
    barcodes: tuple[str, ...]
    labels: tuple[str, ...]
    """``row <number>`` of every spot in the file, its header not counted."""
    spot_diameter_px: float | None


def read_spots(path: str | Path, slide_size_wh: tuple[int, int] | None = None) -> Spots:
    """Read spots with level-0 centres; unselected and out-of-tissue spots are left out.

    Accepts CSV or TSV, also compressed, with ``pixel_x, pixel_y`` or Space Ranger's
    ``pxl_col_in_fullres, pxl_row_in_fullres`` (also its headerless list, Parquet and the folder
    they are in), and h5ad with ``obsm["spatial"]``. Array coordinates come from ``array_row,
    array_col``, from ``x, y`` (x is the column; rounded) or else from the lattice, which ``note``
    then says. Raises ``SpotsError``, also where centres coincide or lie outside
    ``slide_size_wh``, level 0.
    """
    path = Path(path)
    rows = _read_rows(find_positions(path) if path.is_dir() else path)
    try:
        require_inside(rows.level0_xy, slide_size_wh, rows.labels)
        require_distinct(rows.level0_xy, "pixel position", rows.labels)
        grid_rc, note = _array(rows)
    except SpotsError as error:
        raise SpotsError(f"{path}: {error}") from error
    diameter_px = rows.spot_diameter_px or diameter_from_pitch(rows.level0_xy, grid_rc)
    return Spots(rows.level0_xy, grid_rc, "file", diameter_px, note, rows.barcodes)


def _read_rows(path: Path) -> _Rows:
    from triplex_deploy.spots import table as columns
    from triplex_deploy.spots.table import read_table

    if path.suffix.lower() == ".h5ad":
        table, diameter_px = read_h5ad_table(path)
    else:
        table, diameter_px = columns.with_known_names(path, read_table(path)), None
        if set(columns.SPACE_RANGER_PIXELS) <= set(table.columns):
            diameter_px = read_named_diameter(path.parent)
    if table.empty:
        raise SpotsError(f"{path}: the spots file has no rows; it needs one per spot")
    columns.pixel_columns(path, table)  # a missing column is said before a bad value of another
    table = columns.kept_rows(path, table)
    return _Rows(
        columns.pixel_centers(path, table),
        columns.array_places(path, table),
        columns.barcodes(table),
        tuple(f"row {number + 1}" for number in table.index),
        diameter_px,
    )


def _array(rows: _Rows) -> tuple[NDArray[np.int64], str]:
    """Array (row, column) of every spot, (N, 2), and what the user should know of them."""
    if rows.grid_rc is not None:
        require_distinct(rows.grid_rc, "array position", rows.labels)
        return rows.grid_rc, ""
    lattice = infer_lattice(rows.level0_xy)
    count = len(lattice.grid_rc)
    if count == 1:
        return lattice.grid_rc, ""
    return lattice.grid_rc, (
        f"array coordinates were inferred from a {lattice.kind} lattice of {count} spots"
    )


OBS = ("array_row", "array_col", "in_tissue", "barcode")


def read_h5ad_table(path: Path) -> tuple[pd.DataFrame, float | None]:
    """``obsm["spatial"]`` (x, y) as pixel_x and pixel_y, with the array columns of ``obs`` if any.

    Barcodes are ``obs["barcode"]``, else the names of the observations. Second comes the spot
    diameter in level-0 pixels, if the file has one library that names it. The expression matrix is
    not loaded. Raises ``SpotsError``.
    """
    import anndata
    import pandas as pd

    if not path.exists():
        raise SpotsError(f"{path}: no such spots file; check the path")
    try:
        backed = anndata.read_h5ad(path, backed="r")
        obs, uns, spatial = backed.obs, backed.uns, backed.obsm.get("spatial")
        backed.file.close()
    except (OSError, KeyError, ValueError) as error:
        raise SpotsError(f"{path}: not a readable h5ad: {error}; write it again") from error
    if spatial is None or np.ndim(spatial) != 2 or np.shape(spatial)[1] < 2:
        raise SpotsError(f'{path}: no (x, y) in obsm["spatial"]; add level-0 pixel centres')
    xy = np.asarray(spatial)
    table = pd.DataFrame({"pixel_x": xy[:, 0], "pixel_y": xy[:, 1], "barcode": obs.index})
    for name in OBS:
        if name in obs:
            table[name] = obs[name].to_numpy()
    return table, _diameter(uns.get("spatial"))


def _diameter(libraries: object) -> float | None:
    if not isinstance(libraries, dict) or len(libraries) != 1:
        return None
    library = next(iter(libraries.values()))
    return named_diameter(library.get("scalefactors")) if isinstance(library, dict) else None


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
