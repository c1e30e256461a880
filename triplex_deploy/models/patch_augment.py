"""Augmented patches for Hist2ST's distillation, all spots of a slide alike (MODELS 2.3)."""

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD

_GRAY_CHANCE: Final = 0.1
_MIRROR_CHANCE: Final = 0.2
_MAX_TURN_DEG: Final = 90.0
_LUMA: Final = (0.299, 0.587, 0.114)
"""Weight of red, green and blue in brightness (ITU-R BT.601)."""


def augment_patches(images: Tensor, patch_px: int) -> Tensor:
    """Patches (B, 3, patch_px, patch_px) of normalised tiles: turned, mirrored, turned gray.

    One draw of PyTorch's CPU generator holds for all of them. What a turn brings into a patch's
    corners is the tissue around it, as far as the tile reaches.
    """
    turn, mirror, gray = torch.rand(3).tolist()
    degrees = (2 * turn - 1) * _MAX_TURN_DEG
    patches = cut_patches(images, patch_px, degrees, mirrored=mirror < _MIRROR_CHANCE)
    return in_gray(patches) if gray < _GRAY_CHANCE else patches


def cut_patches(images: Tensor, patch_px: int, degrees: float, mirrored: bool) -> Tensor:
    """The centres of square images, turned counter-clockwise and then mirrored left-right."""
    scale = patch_px / images.shape[-1]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    right = -1.0 if mirrored else 1.0
    # where in the image, x right and y down, the patch's unit steps to the right and down lead
    steps = [[right * cos, -sin, 0.0], [right * sin, cos, 0.0]]
    theta = scale * images.new_tensor([steps])  # (1, 2, 3)
    grid = F.affine_grid(theta, [1, 1, patch_px, patch_px], align_corners=False)
    grids = grid.expand(len(images), -1, -1, -1)  # (B, h, h, 2)
    return F.grid_sample(images, grids, align_corners=False)


def in_gray(images: Tensor) -> Tensor:
    """Normalised images (B, 3, h, w) whose channels all show the brightness, normalised again."""
    mean = images.new_tensor(IMAGE_MEAN).view(3, 1, 1)
    std = images.new_tensor(IMAGE_STD).view(3, 1, 1)
    luma = images.new_tensor(_LUMA).view(3, 1, 1)
    brightness = ((images * std + mean) * luma).sum(1, keepdim=True)
    return (brightness - mean) / std
