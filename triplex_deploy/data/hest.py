"""Read the layout of HEST: ``st/<id>.h5ad``, ``wsis/<id>.tif`` and ``metadata/<id>.json``.

The h5ad holds raw counts, centers in ``obsm["spatial"]``, and under ``uns["spatial"]["ST"]`` a
thumbnail ``downscaled_fullres`` with its factor ``tissue_downscaled_fullres_scalef``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.data.assemble import CountTable, SectionMetadata, SpotTable, assemble_section
from triplex_deploy.data.names import MISSING
from triplex_deploy.data.section import Section
from triplex_deploy.data.section_list import SectionEntry
from triplex_deploy.data.spot_columns import kept_obs, level0_centers, rounded_places
from triplex_deploy.errors import DatasetError, SpotsError
from triplex_deploy.files.hdf5 import read_h5ad
from triplex_deploy.spots.spot_diameter import only_library

if TYPE_CHECKING:
    from anndata import AnnData, Raw

FRAME_SLACK = 0.01
"""Relative error of the slide's size that is computed from the rounded size of the thumbnail."""


def find_hest_sections(root: Path) -> dict[str, Path]:
    """Return the h5ad files under ``st`` by id of the section.

    Raises:
        DatasetError: There is none.
    """
    found = {path.stem: path for path in sorted((root / "st").glob("*.h5ad"))}
    if not found:
        raise DatasetError(f"{root}: no st/*.h5ad; the layout is st/, wsis/ and metadata/")
    return found


def hest_patient(root: Path, name: str) -> str:
    """Return the patient that the metadata of a section name.

    Raises:
        DatasetError: They name none, so that folds by patient cannot be made.
    """
    patient = _metadata(root, name).get("patient")
    if patient is None or str(patient).strip() in MISSING:
        raise DatasetError(
            f"{name}: its metadata name no patient; list sections and patients with --patients"
        )
    return str(patient)


def read_hest_section(root: Path, name: str, entry: SectionEntry) -> Section:
    """Read a section. Spots outside the tissue are left out.

    Args:
        root: Folder of the data set.
        name: Id of the section.
        entry: Patient, and optionally image and mpp. Without mpp, the estimated pixel size of the
            metadata gives the scale.

    Raises:
        DatasetError: A file is missing or damaged, or the section is not valid.
    """
    path = root / "st" / f"{name}.h5ad"
    table = _read_h5ad(path)
    spots, is_hexagonal = _spots(path, table)
    metadata = SectionMetadata(
        name,
        entry.patient,
        entry.slide or _slide(root, name),
        entry.mpp or _pixel_size(root, name),
        is_hexagonal,
        entry.mpp is not None,
    )
    counts = CountTable(names_of_spots(table), tuple(map(str, table.var_names)), counts_of(table))
    return assemble_section(metadata, counts, spots)


def _read_h5ad(path: Path) -> AnnData:
    table = read_h5ad(path, DatasetError, "h5ad", "copy it again")
    if "spatial" not in table.obsm:
        raise DatasetError(f'{path}: no obsm["spatial"]; it needs level-0 spot centers')
    if table.X is None:
        raise DatasetError(f"{path}: no values in X; put the counts there")
    return table


def names_of_spots(table: AnnData) -> tuple[str, ...]:
    """Return the names of the observations as text."""
    return tuple(map(str, table.obs_names))


def counts_of(table: AnnData | Raw) -> Any:
    """Return ``X`` as a SciPy CSR array; raises ``DatasetError`` if it does not hold numbers."""
    from scipy.sparse import csr_array, issparse

    kind = np.dtype(table.X.dtype).kind
    if kind not in "biuf":
        raise DatasetError(f"X: holds {table.X.dtype}; put numbers there")
    return csr_array(table.X if issparse(table.X) else np.asarray(table.X, np.float64))


def _spots(path: Path, table: AnnData) -> tuple[SpotTable, bool]:
    level0_xy = level0_centers(path, table)
    assert level0_xy is not None  # checked in _read_h5ad
    obs = kept_obs(path, table)
    level0_xy = level0_xy[obs.index.to_numpy(np.int64)]
    _check_frame(path, table, level0_xy)
    grid_rc = rounded_places(path, obs)
    if grid_rc is None:
        grid_rc = inferred_places(path, level0_xy)
    names = names_of_spots(table)
    ids = tuple(names[row] for row in obs.index)
    return SpotTable(ids, grid_rc, level0_xy), is_hexagonal(grid_rc)


def _check_frame(path: Path, table: AnnData, level0_xy: NDArray[np.float64]) -> None:
    """Refuse centers beyond the slide, so that they cannot be level-0 pixels.

    The thumbnail and its scale factor give the size of the slide.
    """
    library = _library(table)
    try:
        height, width = np.shape(library["images"]["downscaled_fullres"])[:2]
        factor = float(library["scalefactors"]["tissue_downscaled_fullres_scalef"])
    except (KeyError, TypeError, ValueError):
        return  # the picture is optional
    extent_xy = np.array([width, height]) / factor * (1 + FRAME_SLACK)
    if (level0_xy > extent_xy).any():
        raise DatasetError(
            f"{path}: spot centers reach {level0_xy.max(axis=0).round().tolist()}, beyond the "
            f"slide of about {extent_xy.round().tolist()} pixels; give level-0 (x, y)"
        )


def _library(table: AnnData) -> Any:
    """Return the entry of the section in ``uns["spatial"]``; files of cellxgene hold more keys."""
    spatial = table.uns.get("spatial")
    return (isinstance(spatial, dict) and spatial.get("ST")) or only_library(spatial) or {}


def inferred_places(path: Path, level0_xy: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the array (row, column) of centers on a lattice; raises ``DatasetError``."""
    from triplex_deploy.spots.lattice import infer_lattice

    try:
        return infer_lattice(level0_xy).grid_rc
    except SpotsError as error:
        raise DatasetError(f"{path}: {error}") from error


def is_hexagonal(grid_rc: NDArray[np.int64]) -> bool:
    """Return True for a Visium lattice, where row + column is even for all spots or for none."""
    parity = grid_rc.sum(axis=1) % 2
    return len(grid_rc) > 2 and bool((parity == parity[0]).all())


def _slide(root: Path, name: str) -> Path:
    for folder in ("wsis", "wsi"):
        path = root / folder / f"{name}.tif"
        if path.exists():
            return path
    raise DatasetError(f"{name}: no wsis/{name}.tif under {root}; download it there")


def _pixel_size(root: Path, name: str) -> float:
    metadata = _metadata(root, name)
    for key in ("pixel_size_um_estimated", "pixel_size_um_embedded"):
        value = metadata.get(key)
        if isinstance(value, int | float) and 0 < value < float("inf"):
            return float(value)
    raise DatasetError(
        f"{name}: its metadata name no pixel size; give one in the column mpp of --patients"
    )


def _metadata(root: Path, name: str) -> dict[str, Any]:
    path = root / "metadata" / f"{name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not readable JSON ({error}); download it again") from error
    return content if isinstance(content, dict) else {}
