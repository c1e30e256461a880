"""Read the spots into which bins of Visium HD, or cells of Xenium or SpatialData are pooled."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from triplex_deploy.errors import SpotsError
from triplex_deploy.spots.pooling import Pooled, Pooling, places_of_bins, places_of_cells
from triplex_deploy.spots.spatial_store import SpatialStore, is_spatial_store
from triplex_deploy.spots.spots import Spots
from triplex_deploy.spots.visium_hd import POSITIONS, SCALE, find_bins, is_visium_hd, read_bins
from triplex_deploy.spots.xenium import (
    EXPERIMENT,
    cells_path,
    find_alignment,
    read_alignment,
    read_cells,
    xenium_outs,
)

logger = logging.getLogger(__name__)


def read_pooled_spots(
    path: Path,
    pooling: Pooling,
    slide_size_wh: tuple[int, int] | None = None,
    slide_mpp: float | None = None,
) -> Spots:
    """Return the pooled spots in tissue of a Visium HD or Xenium output, or a SpatialData store.

    Spots that have most of their tissue in the slide but their center beyond its edge are left out.

    Args:
        path: Folder of the output.
        pooling: The lattice, and what is read.
        slide_size_wh: Width and height of the slide at level 0; None leaves out nothing.
        slide_mpp: Microns per level-0 pixel of the slide, for a store, which does not say them.

    Returns:
        The spots, by (row, column).

    Raises:
        SpotsError: The folder is no such output, a file is missing or damaged, or no spot is left.
    """
    kind = source_kind(path, pooling)
    if kind == "xenium":
        pooled, mpp = _of_cells(path, pooling)
    elif kind == "spatialdata":
        pooled, mpp = _of_store(path, pooling, slide_size_wh, slide_mpp)
    else:
        bins = read_bins(find_bins(path, pooling.bin_um), pooling.bin_um)
        pooled, mpp = places_of_bins(pooling, bins.xy_um, bins.bin_um), bins.mpp
    level0_xy = pooling.centers_um(pooled.grid_rc) / mpp
    size = (np.inf, np.inf) if slide_size_wh is None else slide_size_wh
    inside = ((level0_xy >= 0) & (level0_xy < size)).all(axis=1)
    if not inside.any():
        raise SpotsError(
            f"{path}: no pooled spot of {pooling.pool_um:g} um lies in tissue on the slide; check "
            "that data and image belong together, or use a smaller --pool-um"
        )
    logger.info(
        "%s: %d points pooled into %d spots of %g um; %d beyond the slide left out",
        path,
        len(pooled.spot_of),
        int(inside.sum()),
        pooling.pool_um,
        int((~inside).sum()),
    )
    return Spots(
        level0_xy[inside],
        pooled.grid_rc[inside],
        "pooled",
        pooling.pool_um / mpp,
        array=pooling.array,
    )


def pooled_files(path: Path, pooling: Pooling) -> list[Path]:
    """Return the files that decide where the pooled spots are; raises ``SpotsError``."""
    kind = source_kind(path, pooling)
    if kind == "spatialdata":
        return sorted(part for part in path.rglob("*") if part.is_file() and _decides(path, part))
    if kind == "xenium":
        outs = xenium_outs(path) or path
        return [outs / EXPERIMENT, cells_path(outs), find_alignment(path, pooling.alignment)]
    folder = find_bins(path, pooling.bin_um)
    return [folder / POSITIONS, folder / SCALE]


def source_kind(path: Path, pooling: Pooling) -> str:
    """Return what a folder is, one of ``POOLED_FORMATS``, checked against what is asked for.

    Raises:
        SpotsError: It is none of them, or another one.
    """
    kinds = {"xenium": _is_xenium, "visium-hd": is_visium_hd, "spatialdata": is_spatial_store}
    found = next((kind for kind, is_one in kinds.items() if is_one(path)), None)
    if found is None:
        raise SpotsError(
            f"{path}: no Visium HD output (binned_outputs/square_008um), Xenium output "
            f"({EXPERIMENT}) or SpatialData store, which pooling needs; pass such a folder, or "
            "leave out --pool-um"
        )
    if pooling.kind not in (None, found):
        raise SpotsError(f"{path}: is a {found} output; pass --format {found}")
    return found


def _is_xenium(path: Path) -> bool:
    return xenium_outs(path) is not None


def _of_store(
    path: Path,
    pooling: Pooling,
    slide_size_wh: tuple[int, int] | None,
    slide_mpp: float | None,
) -> tuple[Pooled, float]:
    if slide_mpp is None:
        raise SpotsError(
            f"{path}: a SpatialData store does not say its scale; give the slide's mpp"
        )
    store = SpatialStore(path, pooling.bin_um)
    if slide_size_wh not in (None, store.image.size_wh):
        raise SpotsError(
            f"{path}: its image {store.image.name} has other sides than the slide, "
            f"{store.image.size_wh[0]}x{store.image.size_wh[1]}; predict {store.image.folder}"
        )
    return store.pooled(pooling, slide_mpp), slide_mpp


def _decides(store: Path, part: Path) -> bool:
    """Return True for a file of a store that is no picture."""
    return part.relative_to(store).parts[0] not in ("images", "labels") or part.suffix == ".json"


def _of_cells(path: Path, pooling: Pooling) -> tuple[Pooled, float]:
    outs = xenium_outs(path) or path
    alignment = read_alignment(outs, find_alignment(path, pooling.alignment))
    xy_um = alignment.level0(read_cells(outs)) * alignment.mpp
    return places_of_cells(pooling, xy_um), alignment.mpp
