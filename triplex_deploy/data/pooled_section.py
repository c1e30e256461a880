"""Make a section of data that is pooled into spots.

Visium HD bins, Xenium transcripts, and the points or cells of a SpatialData store.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.data.assemble import merge_repeated_genes
from triplex_deploy.data.feature_matrix import read_feature_matrix
from triplex_deploy.data.hest import counts_of
from triplex_deploy.data.names import require_named
from triplex_deploy.data.section import Section
from triplex_deploy.data.section_list import SectionEntry
from triplex_deploy.data.slide_file import only_slide
from triplex_deploy.data.spot_columns import spots_as_data
from triplex_deploy.data.transcripts import pool_batches, pool_transcripts
from triplex_deploy.errors import DatasetError, SlideError
from triplex_deploy.slides import open_slide
from triplex_deploy.spots.pooling import Pooled, places_of_bins, places_of_cells
from triplex_deploy.spots.spatial_store import SpatialStore, is_spatial_store
from triplex_deploy.spots.visium_hd import find_bins, is_visium_hd, read_bins
from triplex_deploy.spots.xenium import find_alignment, read_alignment, read_cells, xenium_outs

if TYPE_CHECKING:
    from triplex_deploy.spots import Pooling

XENIUM_OWN_IMAGES = "morphology"
"""Names of Xenium's images of nuclei and cells begin so; the section's slide is the H&E."""


def find_pooled_sections(root: Path, pooling: Pooling) -> dict[str, Path]:
    """Return the folders of sections by name: ``root``, or the folders in it.

    Raises:
        DatasetError: There is none, or one alignment is given for several.
    """
    is_one, holds = {
        "xenium": (_is_xenium, "experiment.xenium"),
        "visium-hd": (is_visium_hd, "binned_outputs/square_008um"),
        "spatialdata": (is_spatial_store, "SpatialData store (.zarr)"),
    }[str(pooling.kind)]
    if is_one(root):
        return {root.resolve().name: root}
    found = {path.name: path for path in sorted(root.iterdir()) if path.is_dir() and is_one(path)}
    if not found:
        raise DatasetError(f"{root}: no {holds} here, in outs/ or one folder down; check --format")
    if pooling.alignment is not None and len(found) > 1:
        raise DatasetError(
            f"{pooling.alignment}: belongs to one of the {len(found)} sections; put each "
            "section's alignment file into its folder"
        )
    return found


def read_visium_hd_section(
    folder: Path, name: str, entry: SectionEntry, pooling: Pooling
) -> Section:
    """Read a Visium HD section, its bins in tissue pooled into spots.

    A bin belongs to the spot in which its center lies.

    Args:
        folder: Folder of the section.
        name: Name of the section.
        entry: Patient, and optionally image and mpp; without mpp, Space Ranger's.
        pooling: The lattice of spots.

    Raises:
        DatasetError: A file is missing or damaged, or the section is not valid.
    """
    with spots_as_data():
        bins_folder = find_bins(folder, pooling.bin_um)
        bins = read_bins(bins_folder, pooling.bin_um)
        mpp = entry.mpp or bins.mpp
        pooled = places_of_bins(pooling, bins.level0_xy * mpp, bins.bin_um)
    table = read_feature_matrix(bins_folder)
    row_of = dict(zip(table.spot_ids, range(len(table.spot_ids)), strict=True))
    rows = np.array([row_of.get(barcode, -1) for barcode in bins.barcodes], np.int64)
    # Summed first: there are a hundred times as many bins as spots.
    genes, counts = merge_repeated_genes(table.genes, sum_by_spot(table.counts, rows, pooled))
    return _section(folder, name, entry, pooling, pooled, genes, counts, mpp)


def read_xenium_section(folder: Path, name: str, entry: SectionEntry, pooling: Pooling) -> Section:
    """Read a Xenium section, its transcripts pooled into spots.

    Args:
        folder: Folder of the section.
        name: Name of the section.
        entry: Patient, and optionally image and mpp; without mpp, that of the alignment.
        pooling: The lattice of spots, and the alignment of the image.

    Raises:
        DatasetError: A file is missing or damaged, or the section is not valid.
    """
    outs = xenium_outs(folder)
    if outs is None:
        raise DatasetError(f"{folder}: no experiment.xenium here or in outs/; copy it there")
    with spots_as_data():
        alignment = read_alignment(outs, find_alignment(folder, pooling.alignment))
        mpp = entry.mpp or alignment.mpp
        pooled = places_of_cells(pooling, alignment.level0(read_cells(outs)) * mpp)

    def spot_of(xy_um: NDArray[np.float64]) -> NDArray[np.int64]:
        return pooled.index(pooling.places(alignment.level0(xy_um) * mpp))

    genes, counts = pool_transcripts(outs, spot_of, len(pooled.grid_rc))
    return _section(folder, name, entry, pooling, pooled, genes, counts, mpp)


def read_spatialdata_section(
    folder: Path, name: str, entry: SectionEntry, pooling: Pooling
) -> Section:
    """Read a SpatialData store, its transcripts pooled into spots, or its cells without them.

    Args:
        folder: The store.
        name: Name of the section.
        entry: Patient, and optionally image and mpp; the image must have the size of the store's
            color image, which is the slide without one.
        pooling: The lattice of spots.

    Raises:
        DatasetError: The store is damaged, lacks an image or counts, or does not say its scale.
    """
    with spots_as_data():
        store = SpatialStore(folder, pooling.bin_um)
        slide = entry.slide or store.image.folder
        mpp = entry.mpp or _slide_mpp(slide, store.image.size_wh)
        pooled = store.pooled(pooling, mpp)

        def spot_of(level0_xy: NDArray[np.float64]) -> NDArray[np.int64]:
            return pooled.index(pooling.places(level0_xy * mpp))

        if store.points is not None:
            genes, counts = pool_batches(folder, store.batches(), spot_of, len(pooled.grid_rc))
        else:
            table = store.counted_table()
            require_named(str(folder), "gene", map(str, table.var_names))
            summed = sum_by_spot(counts_of(table), np.arange(table.n_obs), pooled)
            genes, counts = merge_repeated_genes(tuple(map(str, table.var_names)), summed)
    placed = replace(entry, slide=slide)
    return _section(folder, name, placed, pooling, pooled, genes, counts, mpp)


def _slide_mpp(slide: Path, size_wh: tuple[int, int]) -> float:
    """Return the scale of the image of a store, from its own metadata."""
    try:
        with open_slide(slide) as opened:
            found, mpp = opened.level_sizes[0], opened.mpp
    except SlideError as error:
        raise DatasetError(str(error)) from error
    if found != size_wh:
        raise DatasetError(
            f"{slide}: {found[0]}x{found[1]} pixels, and the image of the store "
            f"{size_wh[0]}x{size_wh[1]}; give the image that is in the store"
        )
    if mpp is None:
        raise DatasetError(f"{slide}: no microns per pixel; give its mpp in --patients")
    return mpp


def sum_by_spot(counts: Any, rows: NDArray[np.int64], pooled: Pooled) -> Any:
    """Return the summed counts (M, G) of the spots, a SciPy CSR array.

    Args:
        counts: Counts (K, G) of all points, a SciPy CSR array.
        rows: Row (N,) of each pooled point in ``counts``; -1 for a point without counts.
        pooled: The M spots, and the spot of each of the N points.
    """
    from scipy.sparse import csr_array

    used = np.flatnonzero((rows >= 0) & (pooled.spot_of >= 0))
    shape = (len(pooled.grid_rc), counts.shape[0])
    belongs = csr_array((np.ones(len(used)), (pooled.spot_of[used], rows[used])), shape=shape)
    return csr_array(belongs @ counts)


def _section(
    folder: Path,
    name: str,
    entry: SectionEntry,
    pooling: Pooling,
    pooled: Pooled,
    genes: tuple[str, ...],
    counts: Any,
    mpp: float,
) -> Section:
    if not len(pooled.grid_rc):
        raise DatasetError(
            f"{name}: no spot of {pooling.pool_um:g} um is half in tissue; use a smaller --pool-um"
        )
    return Section(
        name=name,
        patient=entry.patient,
        slide_path=entry.slide or only_slide(folder, name, XENIUM_OWN_IMAGES),
        slide_mpp=mpp,
        counts=counts,
        genes=genes,
        grid_rc=pooled.grid_rc,
        level0_xy=pooling.centers_um(pooled.grid_rc) / mpp,
        is_hexagonal=pooling.is_hexagonal,
        is_mpp_given=entry.mpp is not None,
        array=pooling.array,
    )


def _is_xenium(folder: Path) -> bool:
    return xenium_outs(folder) is not None
