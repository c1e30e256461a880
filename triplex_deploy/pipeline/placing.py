"""Where to predict: the spots a caller names, or a layout over the tissue."""

from __future__ import annotations

import logging

from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.slides import Slide
from triplex_deploy.spots import (
    Spots,
    TissueMask,
    check_spots,
    grid_spots,
    read_mask,
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
    """The spots the options ask for, checked against the slide, and the tissue they lie on.

    Spots that come from a file or the caller need no tissue: the mask is then None.
    """
    size_wh = slide.level_sizes[0]
    if options.spots is None:
        tissue = _tissue(slide, slide_mpp, options)
        spots = _lay_out(slide, slide_mpp, view, options, tissue)
    else:
        tissue = None
        given = options.spots
        spots = given if isinstance(given, Spots) else read_spots(given, size_wh)
    check_spots(spots, size_wh)
    if spots.note:
        logger.warning("%s", spots.note)
    return spots, tissue


def _tissue(slide: Slide, slide_mpp: float, options: PredictOptions) -> TissueMask:
    if options.mask is not None:
        return read_mask(options.mask, slide)
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
    """A grid follows the view's pixels, so that tiles abut; Visium follows microns."""
    if options.layout == "visium":
        return visium_spots(slide, slide_mpp, tissue)
    return grid_spots(slide, view.size_wh, view.scale_xy, view.mpp, options.pitch_um, tissue)
