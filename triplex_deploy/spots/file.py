"""Read spots from a file: CSV, TSV, Space Ranger's tissue positions, or h5ad."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.hdf5 import open_hdf5
from triplex_deploy.spots.lattice import infer_lattice
from triplex_deploy.spots.scale import ST_PITCH_UM, KnownArray, square, visium
from triplex_deploy.spots.spatial_store import is_spatial_store
from triplex_deploy.spots.spot_diameter import (
    diameter_from_pitch,
    named_diameter,
    only_library,
    read_named_diameter,
)
from triplex_deploy.spots.spots import (
    MAX_SPOTS,
    Spots,
    require_32_bits,
    require_distinct,
    require_inside,
)
from triplex_deploy.spots.visium_hd import FOLDER_OF_BINS, array_of_bins, is_visium_hd
from triplex_deploy.spots.xenium import xenium_outs

if TYPE_CHECKING:
    import h5py
    import pandas as pd

POSITIONS = (
    "tissue_positions.csv",
    "tissue_positions_list.csv",
    "tissue_positions.parquet",
    "tissue_positions.csv.gz",
    "tissue_positions_list.csv.gz",
)
"""Names of Space Ranger's positions files, preferred first."""
FOLDERS = (".", "spatial", "outs/spatial")
"""Folders of a Space Ranger output in which they may be."""
OBS = ("array_row", "array_col", "in_tissue", "barcode")
"""Columns of ``obs`` that are used."""


def read_spots(path: str | Path, slide_size_wh: tuple[int, int] | None = None) -> Spots:
    """Read spots with level-0 centers, without unselected and out-of-tissue spots.

    Accepts CSV or TSV, also compressed, with ``pixel_x, pixel_y`` or Space Ranger's
    ``pxl_col_in_fullres, pxl_row_in_fullres`` (also its headerless list, Parquet and the folder
    they are in), and h5ad with ``obsm["spatial"]``. Array coordinates come from ``array_row,
    array_col``, from ``x, y`` (x is the column; rounded) or are inferred from the
    lattice, which ``note`` then states.

    Args:
        path: The file, or a Space Ranger folder.
        slide_size_wh: Width and height of the slide at level 0, to check the centers.

    Returns:
        The spots in the order of the file.

    Raises:
        SpotsError: The file cannot be read, or centers coincide or lie outside the slide.
    """
    path = Path(path)
    rows = _read_rows(find_positions(path) if _is_folder(path) else path)
    try:
        require_inside(rows.level0_xy, slide_size_wh, rows.labels)
        require_distinct(rows.level0_xy, "pixel position", rows.labels)
        grid_rc, note = _array(rows)
        require_32_bits(grid_rc, rows.labels)
    except SpotsError as error:
        raise SpotsError(f"{path}: {error}") from error
    diameter_px = rows.spot_diameter_px or diameter_from_pitch(rows.level0_xy, grid_rc)
    return Spots(rows.level0_xy, grid_rc, "file", diameter_px, note, rows.barcodes, rows.array)


def find_positions(folder: Path) -> Path:
    """Find the positions file in a Space Ranger folder; raises ``SpotsError`` if there is none."""
    for below in FOLDERS:
        for name in POSITIONS:
            with suppress(OSError):  # a folder that cannot be entered
                if (folder / below / name).exists():
                    return folder / below / name
    if is_visium_hd(folder) or xenium_outs(folder) is not None or is_spatial_store(folder):
        raise SpotsError(
            f"{folder}: holds no spots but bins of Visium HD, or cells of Xenium or SpatialData; "
            "pool them into spots as far apart as those that the model was trained on, such as "
            "--pool-um 100"
        )
    raise SpotsError(
        f"{folder}: a folder with none of {', '.join(POSITIONS)} in it, in spatial/ or in "
        "outs/spatial/; pass a Space Ranger output or a spots file"
    )


def read_h5ad_table(path: Path) -> tuple[pd.DataFrame, float | None]:
    """Read ``obsm["spatial"]`` (x, y) as pixel_x and pixel_y, with the array columns of ``obs``.

    Barcodes are ``obs["barcode"]``, else the names of the observations. The second
    value is the spot diameter in level-0 pixels, or None if the file does not have exactly one
    library that gives it. Nothing else of the file is loaded. Raises ``SpotsError``.
    """
    import pandas as pd

    remedy = "write it again"
    with (
        open_hdf5(path, SpotsError, "spots file", remedy, ("obs", "obsm", "uns")) as file,
        damage_as(SpotsError, f"{path}: not a readable h5ad", remedy),
    ):
        _require_few_rows(path, file)
        obs, spatial, scalefactors = _parts(file)
    if not isinstance(obs, pd.DataFrame):
        raise SpotsError(f"{path}: obs is not a table of this age; open it in anndata and {remedy}")
    if spatial is None or np.ndim(spatial) != 2 or np.shape(spatial)[1] < 2:
        raise SpotsError(f'{path}: no (x, y) in obsm["spatial"]; add level-0 pixel centers')
    xy = np.asarray(spatial)
    if len(xy) != len(obs):
        raise SpotsError(f"{path}: {len(xy)} centers for {len(obs)} rows of obs; {remedy}")
    table = pd.DataFrame({"pixel_x": xy[:, 0], "pixel_y": xy[:, 1], "barcode": obs.index})
    for name in OBS:
        if name in obs:
            table[name] = obs[name].to_numpy()
    return table, named_diameter(scalefactors)


def _parts(file: h5py.File) -> tuple[Any, Any, Any]:
    """Return ``obs``, ``obsm["spatial"]`` and the scale factors of the only library, or None."""
    import anndata.io

    def element(name: str) -> Any:
        return anndata.io.read_elem(file[name]) if name in file else None

    library = only_library(file["uns/spatial"]) if "uns/spatial" in file else None
    factors = None if library is None else library.get("scalefactors")
    return (
        element("obs"),
        element("obsm/spatial"),
        None if factors is None else anndata.io.read_elem(factors),
    )


def _require_few_rows(path: Path, file: h5py.File) -> None:
    """Refuse a file that claims more spots than a slide has."""
    import h5py

    for folder in ("obs", "obsm"):
        group = file.get(folder)
        for name in group if isinstance(group, h5py.Group) else ():
            item = group[name]
            length = item.shape[0] if isinstance(item, h5py.Dataset) and item.shape else 0
            if length > MAX_SPOTS:
                raise SpotsError(
                    f"{path}: {folder}/{name} has {length:,} rows, more than a slide has "
                    "spots; pass the spots of one slide"
                )


@dataclass(frozen=True)
class _Rows:
    """The N spots of a file that are kept."""

    level0_xy: NDArray[np.float64]
    """(N, 2) centers in level-0 pixels."""
    grid_rc: NDArray[np.int64] | None
    """(N, 2) array (row, column), or None if the file has none."""
    barcodes: tuple[str, ...]
    """One per spot, or none."""
    labels: tuple[str, ...]
    """``row <number>`` of each spot in the file; the header does not count."""
    spot_diameter_px: float | None
    """Diameter in level-0 pixels, if the file gives one."""
    array: KnownArray | None
    """The array, if the file shows which it is."""
    note: str = ""
    """A sentence for the user, or ""."""


def _read_rows(path: Path) -> _Rows:
    from triplex_deploy.spots import table as columns  # imports pandas

    if path.suffix.lower() == ".h5ad":
        table, diameter_px = read_h5ad_table(path)
    else:
        table, diameter_px = columns.with_known_names(path, columns.read_table(path)), None
        if set(columns.SPACE_RANGER_PIXELS) <= set(table.columns):
            diameter_px = read_named_diameter(path.parent)
    if table.empty:
        raise SpotsError(f"{path}: the spots file has no rows; it needs one per spot")
    columns.pixel_columns(path, table)  # report a missing column before a bad value
    table = columns.kept_rows(path, table)
    grid_rc = columns.array_places(path, table)
    return _Rows(
        columns.pixel_centers(path, table),
        grid_rc,
        columns.barcodes(path, table),
        tuple(f"row {number + 1}" for number in table.index),
        diameter_px,
        array := _array_of(path, set(table.columns), grid_rc),
        _note_of_bins(path, array, len(table)),
    )


def _note_of_bins(path: Path, array: KnownArray | None, count: int) -> str:
    """Tell that spots are bins, which are far smaller than the spots that models are trained on."""
    if array is None or _bin_size(path) is None:
        return ""
    return (
        f"the {count} spots are bins of {array.pitch_um:g} um; if the model was trained on larger "
        "spots, pass the folder of the Visium HD output and --pool-um, such as --pool-um 100"
    )


def _array_of(path: Path, names: set[str], grid_rc: NDArray[np.int64] | None) -> KnownArray | None:
    """Return the array that a file's column names and folder show, or None."""
    if grid_rc is None:
        return None
    if {"new_x", "new_y", "x", "y"} <= names:
        return square("ST array", ST_PITCH_UM)
    if {"pxl_col_in_fullres", "pxl_row_in_fullres"} <= names:
        size_um = _bin_size(path)
        if size_um is not None:
            return array_of_bins(size_um)
        if (grid_rc.sum(axis=1) % 2 == 0).all():
            return visium()
    return None


def _bin_size(path: Path) -> float | None:
    """Return the size of the Visium HD bins that a file lists by the name of its folder."""
    binned = FOLDER_OF_BINS.search(str(path.absolute()))
    return None if binned is None else float(binned[1])


def _is_folder(path: Path) -> bool:
    """Return True for a folder, and False for a name that no file can have."""
    with suppress(OSError, ValueError):
        return path.is_dir()
    return False


def _array(rows: _Rows) -> tuple[NDArray[np.int64], str]:
    """Return array (row, column) of every spot, (N, 2), and a note for the user or ""."""
    if rows.grid_rc is not None:
        require_distinct(rows.grid_rc, "array position", rows.labels)
        return rows.grid_rc, rows.note
    lattice = infer_lattice(rows.level0_xy)
    count = len(lattice.grid_rc)
    if count == 1:
        return lattice.grid_rc, ""
    return lattice.grid_rc, (
        f"array coordinates were inferred from a {lattice.kind} lattice of {count} spots"
    )
