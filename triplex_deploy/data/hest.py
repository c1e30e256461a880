"""The layout of HEST: ``st/<id>.h5ad``, ``wsis/<id>.tif`` and ``metadata/<id>.json``.

The h5ad holds raw counts, centres in ``obsm["spatial"]``, and under ``uns["spatial"]["ST"]`` a
thumbnail ``downscaled_fullres`` with its factor ``tissue_downscaled_fullres_scalef``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.data.assemble import CountTable, SectionFacts, SpotTable, assemble_section
from triplex_deploy.data.section import Section
from triplex_deploy.data.section_list import SectionEntry
from triplex_deploy.errors import DatasetError, SpotsError

if TYPE_CHECKING:
    from anndata import AnnData

FRAME_SLACK = 0.01
"""The thumbnail's size is rounded; its extent in level-0 pixels is known to a percent."""


def find_hest_sections(root: Path) -> dict[str, Path]:
    """The h5ad files under ``st`` by section id."""
    found = {path.stem: path for path in sorted((root / "st").glob("*.h5ad"))}
    if not found:
        raise DatasetError(f"{root}: no st/*.h5ad; the layout is st/, wsis/ and metadata/")
    return found


def hest_patient(root: Path, name: str) -> str:
    """The patient the metadata name; without one, folds by patient would not be folds."""
    patient = _metadata(root, name).get("patient")
    if patient is None or not str(patient).strip():
        raise DatasetError(
            f"{name}: its metadata name no patient; list sections and patients with --patients"
        )
    return str(patient)


def read_hest_section(root: Path, name: str, entry: SectionEntry) -> Section:
    """Read one section; spots marked as outside the tissue are left out.

    The scale is the estimated pixel size of the metadata unless ``entry`` gives one.
    """
    path = root / "st" / f"{name}.h5ad"
    table = _read_h5ad(path)
    spots, is_hexagonal = _spots(path, table)
    facts = SectionFacts(
        name,
        entry.patient,
        entry.slide or _slide(root, name),
        entry.mpp or _pixel_size(root, name),
        is_hexagonal,
    )
    from scipy.sparse import csr_array

    ids = tuple(map(str, table.obs_names))
    counts = CountTable(ids, tuple(map(str, table.var_names)), csr_array(table.X))
    return assemble_section(facts, counts, spots)


def _read_h5ad(path: Path) -> AnnData:
    import anndata

    try:
        table = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(f"{path}: not a readable h5ad ({error}); copy it again") from error
    if "spatial" not in table.obsm:
        raise DatasetError(f'{path}: no obsm["spatial"]; it needs level-0 spot centres')
    return table


def _spots(path: Path, table: AnnData) -> tuple[SpotTable, bool]:
    level0_xy = np.asarray(table.obsm["spatial"], np.float64)[:, :2]
    _check_frame(path, table, level0_xy)
    kept = np.ones(len(level0_xy), bool)
    if "in_tissue" in table.obs:
        kept = table.obs["in_tissue"].astype(float).to_numpy() != 0
    if {"array_row", "array_col"} <= set(table.obs):
        listed = table.obs[["array_row", "array_col"]].to_numpy(np.float64)
        grid_rc = np.round(listed).astype(np.int64)
    else:
        grid_rc = _inferred(path, level0_xy)
    ids = tuple(str(name) for name, keep in zip(table.obs_names, kept, strict=True) if keep)
    return SpotTable(ids, grid_rc[kept], level0_xy[kept]), _is_hexagonal(grid_rc)


def _check_frame(path: Path, table: AnnData, level0_xy: NDArray[np.float64]) -> None:
    """Refuse centres that are not level-0 pixels, as the thumbnail and its factor tell."""
    library = _library(table)
    try:
        height, width = np.shape(library["images"]["downscaled_fullres"])[:2]
        factor = float(library["scalefactors"]["tissue_downscaled_fullres_scalef"])
    except (KeyError, TypeError, ValueError):
        return  # the picture is optional
    extent_xy = np.array([width, height]) / factor * (1 + FRAME_SLACK)
    if (level0_xy > extent_xy).any():
        raise DatasetError(
            f"{path}: spot centres reach {level0_xy.max(axis=0).round().tolist()}, beyond the "
            f"slide of about {extent_xy.round().tolist()} pixels; give level-0 (x, y)"
        )


def _library(table: AnnData) -> Any:
    libraries = table.uns.get("spatial", {})
    return libraries.get("ST") or next(iter(libraries.values()), {})


def _inferred(path: Path, level0_xy: NDArray[np.float64]) -> NDArray[np.int64]:
    from triplex_deploy.spots.lattice import infer_lattice

    try:
        return infer_lattice(level0_xy).grid_rc
    except SpotsError as error:
        raise DatasetError(f"{path}: {error}") from error


def _is_hexagonal(grid_rc: NDArray[np.int64]) -> bool:
    """On Visium's lattice row + column has one parity throughout."""
    parity = grid_rc.sum(axis=1) % 2
    return len(grid_rc) > 2 and bool((parity == parity[0]).all())


def _slide(root: Path, name: str) -> Path:
    for folder in ("wsis", "wsi"):
        path = root / folder / f"{name}.tif"
        if path.is_file():
            return path
    raise DatasetError(f"{name}: no wsis/{name}.tif under {root}; download it there")


def _pixel_size(root: Path, name: str) -> float:
    metadata = _metadata(root, name)
    for key in ("pixel_size_um_estimated", "pixel_size_um_embedded"):
        value = metadata.get(key)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    raise DatasetError(
        f"{name}: its metadata name no pixel size; give one in the column mpp of --patients"
    )


def _metadata(root: Path, name: str) -> dict[str, Any]:
    path = root / "metadata" / f"{name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not readable JSON ({error}); download it again") from error
    return content if isinstance(content, dict) else {}
