"""Tiles as the encoders take them."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD

CPU_TILES: Final = 4
"""Tiles that go through a trunk at once on a CPU, where larger batches spill from its caches:
EfficientNet-Lite0 took 23 ms of one core per tile by 4 and 103 ms by 32 in PyTorch's own layout."""


def normalise_tiles(tiles: Tensor) -> Tensor:
    """uint8 RGB tiles (B, 224, 224, 3) to normalised images (B, 3, 224, 224), as when exported."""
    mean = 255 * torch.tensor(IMAGE_MEAN, device=tiles.device).view(1, 3, 1, 1)
    std = 255 * torch.tensor(IMAGE_STD, device=tiles.device).view(1, 3, 1, 1)
    return (tiles.permute(0, 3, 1, 2).to(torch.float32) - mean) / std
