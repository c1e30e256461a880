"""Squares of tissue within which spots are related, each the size of a capture area."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)


def spot_regions(
    level0_xy: NDArray[np.float64], slide_mpp: float, region_mm: float | None
) -> list[NDArray[np.int64]]:
    """Indices of the spots of each region; every spot is in exactly one.

    Regions are squares of ``region_mm`` a side that begin at the slide's corner. One spot cannot be
    related to anything: a region of one joins that of the nearest spot in a larger one. Without
    ``region_mm`` there is one region.
    """
    n_spots = len(level0_xy)
    if region_mm is None:
        return [np.arange(n_spots)]
    cell_xy = np.floor(level0_xy * (slide_mpp / 1e3 / region_mm)).astype(np.int64)
    _, region, count = np.unique(cell_xy, axis=0, return_inverse=True, return_counts=True)
    region = region.reshape(n_spots)
    alone = count[region] == 1
    if alone.all():
        logger.warning("region_mm=%g: holds one spot each; taking the whole slide", region_mm)
        return [np.arange(n_spots)]
    region[alone] = region[~alone][_nearest(level0_xy[alone], level0_xy[~alone])]
    order = np.argsort(region, kind="stable")
    starts = np.flatnonzero(np.diff(region[order])) + 1
    return np.split(order, starts)


def _nearest(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the nearest of ``others`` (M, 2) to each of ``points`` (K, 2)."""
    from scipy.spatial import cKDTree

    nearest: NDArray[np.int64] = cKDTree(others).query(points)[1].astype(np.int64)
    return nearest
