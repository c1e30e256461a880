"""Spots of a slide: from a file, or laid over its tissue."""

from triplex_deploy.spots.file import read_spots
from triplex_deploy.spots.grid import grid_spots
from triplex_deploy.spots.mask_file import read_mask, whole_slide_mask
from triplex_deploy.spots.overlay import mask_overlay
from triplex_deploy.spots.spots import Spots, check_spots
from triplex_deploy.spots.tissue import TissueMask, tissue_mask
from triplex_deploy.spots.visium import visium_spots

__all__ = [
    "Spots",
    "TissueMask",
    "check_spots",
    "grid_spots",
    "mask_overlay",
    "read_mask",
    "read_spots",
    "tissue_mask",
    "visium_spots",
    "whole_slide_mask",
]
