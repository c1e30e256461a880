"""Place the spots to predict: those the caller gives, or a layout over the tissue."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.slides import Slide
from triplex_deploy.spots import (
    Spots,
    TissueMask,
    check_array_scale,
    check_spots,
    check_swapped,
    grid_spots,
    known_array,
    read_mask,
    read_pooled_spots,
    read_spots,
    tissue_mask,
    visium_spots,
    whole_slide_mask,
)
from triplex_deploy.tiles.view import SlideView

logger = logging.getLogger(__name__)


def place_spots(
    slide: Slide, slide_mpp: float, view: SlideView, options: PredictOptions
) -> tuple[Spots, TissueMask | None]:
    """Return the spots that the options ask for, and the tissue mask.

    Args:
        slide: The slide.
        slide_mpp: Microns per level-0 pixel.
        view: The slide at the bundle's scale.
        options: Where to place spots.

    Returns:
        The spots, checked against the slide, and the mask; None for spots of a file or the caller,
        which need no mask.

    Raises:
        SpotsError: There are no usable spots, or they contradict the slide's scale.
        SlideError: The slide cannot be read.
    """
    size_wh = slide.level_sizes[0]
    if options.spots is None:
        tissue = _tissue(slide, slide_mpp, options)
        spots = _lay_out(slide, slide_mpp, view, options, tissue)
    else:
        tissue = None
        spots = _given_spots(options.spots, options, size_wh, slide_mpp)
    check_spots(spots, size_wh)
    if options.spots is not None:
        _check_scale(slide, slide_mpp, spots)
    if spots.note:
        logger.warning("%s: %s", slide.path, spots.note)
    return spots, tissue


def _given_spots(
    given: str | Path | Spots,
    options: PredictOptions,
    size_wh: tuple[int, int],
    slide_mpp: float,
) -> Spots:
    if isinstance(given, Spots):
        return given
    if options.pooling is not None:
        return read_pooled_spots(Path(given), options.pooling, size_wh, slide_mpp)
    return read_spots(given, size_wh)


def _check_scale(slide: Slide, slide_mpp: float, spots: Spots) -> None:
    """Compare given spots with their array, if the array is known, and with the tissue."""
    warnings = []
    array = known_array(spots.grid_rc, spots.level0_xy, spots.array)
    if array is not None:
        try:
            warnings.append(check_array_scale(spots.level0_xy, spots.grid_rc, slide_mpp, array))
        except SpotsError as error:
            raise SpotsError(f"{slide.path}: {error}") from error
    if spots.array is None:  # measured places on a known array show exchanged columns by themselves
        warnings.append(check_swapped(slide, slide_mpp, spots.level0_xy))
    for warning in filter(None, warnings):
        logger.warning("%s: %s", slide.path, warning)


def _tissue(slide: Slide, slide_mpp: float, options: PredictOptions) -> TissueMask:
    if options.mask is not None:
        return read_mask(options.mask, slide, options.mask_class, options.mask_origin)
    return (
        whole_slide_mask(slide)
        if options.all_tiles
        else tissue_mask(slide, slide_mpp, options.skips_bad)
    )


def _lay_out(
    slide: Slide,
    slide_mpp: float,
    view: SlideView,
    options: PredictOptions,
    tissue: TissueMask,
) -> Spots:
    """Lay out spots: a grid in pixels of the view, so that tiles touch; Visium in microns."""
    if options.layout == "visium":
        return visium_spots(slide, slide_mpp, tissue, options.min_tissue)
    return grid_spots(
        slide,
        view.size_wh,
        view.scale_xy,
        view.mpp,
        options.pitch_um,
        tissue,
        options.min_tissue,
    )


def spot_regions(
    level0_xy: NDArray[np.float64], slide_mpp: float, region_mm: float | None
) -> list[NDArray[np.int64]]:
    """Return the indices of the spots of each region; every spot is in exactly one region.

    Regions are squares with sides of ``region_mm`` that begin at the slide's corner. A single spot
    has nothing to attend to, so it joins the region of the nearest spot that is not alone. If
    ``region_mm`` is None there is one region.
    """
    n_spots = len(level0_xy)
    if region_mm is None:
        return [np.arange(n_spots)]
    square_xy = np.floor(level0_xy * (slide_mpp / 1e3 / region_mm)).astype(np.int64)
    _, region, count = np.unique(square_xy, axis=0, return_inverse=True, return_counts=True)
    region = region.reshape(n_spots)
    alone = count[region] == 1
    if alone.all():
        logger.warning("region_mm=%g: each region has one spot; using the whole slide", region_mm)
        return [np.arange(n_spots)]
    region[alone] = region[~alone][_nearest(level0_xy[alone], level0_xy[~alone])]
    order = np.argsort(region, kind="stable")
    starts = np.flatnonzero(np.diff(region[order])) + 1
    return np.split(order, starts)


def _nearest(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the index of the nearest of ``others`` (M, 2) to each of ``points`` (K, 2)."""
    from scipy.spatial import cKDTree

    nearest: NDArray[np.int64] = cKDTree(others).query(points)[1].astype(np.int64)
    return nearest
