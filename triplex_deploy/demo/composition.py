"""Measure what is under each spot of a synthetic section; the counts are made from this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.demo.growth import EPITHELIAL, FIBROBLAST, KINDS, LYMPHOCYTE, TUMOR, VARIANTS
from triplex_deploy.demo.programs import COMPARTMENTS
from triplex_deploy.demo.tissue import Section

CAPTURE_UM: Final = 100.0
"""Radius of the disc that a spot captures: the largest within its tile of 200 um."""
SURROUNDINGS_UM: Final = 350.0
"""Radius within which tumor changes the stroma: larger than the tile, within the neighborhood."""
CELLS_PER_STROMA: Final = 30.0
"""Fibroblasts that a disc of pure stroma counts as, besides its few nuclei, for its matrix."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Composition:
    """What is under N spots."""

    nuclei: dict[str, NDArray[np.int64]]
    """Number of nuclei (N,) of each kind."""
    areas: dict[str, FloatArray]
    """Fraction (N,) of the disc that is tissue, epithelium, tumor and stroma."""
    tumor_around: FloatArray
    """Fraction (N,) of the tissue within ``SURROUNDINGS_UM`` that is tumor."""

    def abundance(self) -> FloatArray:
        """Return the number of cells (N, 5) of each of ``COMPARTMENTS``.

        Stroma counts as cells, too. The part of it that is ``front`` grows with the tumor around.
        """
        stroma = self.nuclei["fibroblast"] + CELLS_PER_STROMA * self.areas["stroma"]
        front = stroma * self.tumor_around
        parts = {
            "gland": self.nuclei["epithelial"],
            "tumor": self.nuclei["tumor"],
            "stroma": stroma - front,
            "immune": self.nuclei["lymphocyte"],
            "front": front,
        }
        return np.stack([np.asarray(parts[name], np.float64) for name in COMPARTMENTS], axis=1)


def compose(section: Section, mpp: float, level0_xy: FloatArray) -> Composition:
    """Count nuclei and measure areas around spots.

    Args:
        section: The section.
        mpp: Microns per pixel of the section.
        level0_xy: (N, 2) centers of the spots in level-0 pixels.
    """
    names = {EPITHELIAL: "epithelial", FIBROBLAST: "fibroblast"}
    names |= {LYMPHOCYTE: "lymphocyte", TUMOR: "tumor"}
    kind = section.nuclei.stamp // VARIANTS
    centers = np.stack([section.nuclei.x, section.nuclei.y], axis=1)
    nuclei = {
        names[kind_name]: _count_near(centers[kind == number], level0_xy, CAPTURE_UM / mpp)
        for number, kind_name in enumerate(KINDS)
    }
    regions = _regions(section)
    areas = {
        name: _mean_near(section, region, mpp, level0_xy, CAPTURE_UM)
        for name, region in regions.items()
    }
    tumor, tissue = (
        _mean_near(section, regions[name], mpp, level0_xy, SURROUNDINGS_UM)
        for name in ("tumor", "tissue")
    )
    return Composition(nuclei, areas, tumor / np.maximum(tissue, 1e-6))


def tissue_share(section: Section, mpp: float, level0_xy: FloatArray) -> FloatArray:
    """Return the fraction (N,) of the disc around each center (N, 2) that is tissue."""
    return _mean_near(section, section.coarse["tissue"] > 0, mpp, level0_xy, CAPTURE_UM)


def _regions(section: Section) -> dict[str, NDArray[np.bool_]]:
    """Return where each kind of tissue is on the section's coarse raster."""
    gland, tissue = section.coarse["gland"], section.coarse["tissue"] > 0
    tumor = tissue & (section.coarse["tumor"] > 1) & (gland > 1)
    return {
        "tissue": tissue,
        "epithelium": tissue & (gland > 0.45) & (gland <= 1),
        "tumor": tumor,
        "stroma": tissue & (gland > 1) & ~tumor,
    }


def _count_near(
    points: NDArray[np.int64], level0_xy: FloatArray, radius_px: float
) -> NDArray[np.int64]:
    from scipy.spatial import cKDTree

    counts = cKDTree(points).query_ball_point(level0_xy, radius_px, return_length=True)
    return np.asarray(counts, np.int64)


def _mean_near(
    section: Section,
    region: NDArray[np.bool_],
    mpp: float,
    level0_xy: FloatArray,
    radius_um: float,
) -> FloatArray:
    """Return the fraction (N,) of the disc around each center that is in ``region``.

    Outside the slide there is no region.
    """
    from scipy.ndimage import map_coordinates
    from scipy.signal import fftconvolve

    radius = radius_um / mpp / section.stride_px
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (np.hypot(x, y) <= radius).astype(np.float64)
    smooth = fftconvolve(region.astype(np.float64), disc / disc.sum(), mode="same").clip(0, 1)
    column, row = level0_xy.T / section.stride_px
    return np.asarray(map_coordinates(smooth, [row, column], order=1), np.float64)
