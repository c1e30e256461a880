"""Read the spots of a slide from a file, or lay them over its tissue."""

from triplex_deploy.spots.file import read_spots
from triplex_deploy.spots.layouts import grid_spots, visium_spots
from triplex_deploy.spots.pooled import pooled_files, read_pooled_spots
from triplex_deploy.spots.pooling import Pooling
from triplex_deploy.spots.scale import KnownArray, check_array_scale, known_array
from triplex_deploy.spots.spots import Spots, check_spots
from triplex_deploy.spots.swapped import check_swapped
from triplex_deploy.spots.tissue import tissue_mask
from triplex_deploy.spots.tissue_mask import (
    TissueMask,
    mask_overlay,
    read_mask,
    whole_slide_mask,
)

__all__ = [
    "KnownArray",
    "Pooling",
    "Spots",
    "TissueMask",
    "check_array_scale",
    "check_spots",
    "check_swapped",
    "grid_spots",
    "known_array",
    "mask_overlay",
    "pooled_files",
    "read_mask",
    "read_pooled_spots",
    "read_spots",
    "tissue_mask",
    "visium_spots",
    "whole_slide_mask",
]
