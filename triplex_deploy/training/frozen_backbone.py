"""The convolutional part of a model, which may start from other weights, or stay as they are."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor, nn

from triplex_deploy.models import SpotModel, TargetEncoder
from triplex_deploy.training.images import CPU_TILES, normalise_tiles
from triplex_deploy.training.prepared import PreparedSection

logger = logging.getLogger(__name__)


def image_trunk(model: SpotModel) -> nn.Module | None:
    """The convolutional trunk that sees the spot's own tile; None for models without one."""
    for owner in (model, getattr(model, "target_encoder", None)):
        trunk = getattr(owner, "trunk", None)
        if isinstance(trunk, nn.Module):
            return trunk
    return None


def freeze_trunk(model: SpotModel) -> None:
    """Take the trunk out of training, if there is one."""
    trunk = image_trunk(model)
    if trunk is not None:
        trunk.requires_grad_(False)


def rest_frozen_trunk(model: SpotModel) -> None:
    """Keep a frozen trunk in evaluation mode, so that its batch statistics stay too."""
    trunk = image_trunk(model)
    if trunk is not None and not any(p.requires_grad for p in trunk.parameters()):
        trunk.eval()


class TrunkMaps:
    """Maps of the spots' own tiles, unaugmented, as float16: 49 x width x 2 bytes per spot."""

    def __init__(self, encoder: TargetEncoder, device: torch.device) -> None:
        self._encoder = encoder
        self._device = device
        self._maps: dict[str, Tensor] = {}

    def of(self, one: PreparedSection) -> Tensor:
        """Map tokens (N, 49, C) float16 of a section, in memory of the CPU."""
        name = one.section.name
        if name not in self._maps:
            logger.info("%s: computing the frozen trunk's maps", name)
            self._maps[name] = self._compute(one)
        return self._maps[name]

    @torch.inference_mode()
    def _compute(self, one: PreparedSection) -> Tensor:
        tiles = torch.from_numpy(np.array(one.tiles))
        return torch.cat([self._encode(part) for part in torch.split(tiles, CPU_TILES)])

    def _encode(self, tiles: Tensor) -> Tensor:
        images = normalise_tiles(tiles.to(self._device))
        tokens = self._encoder.map_tokens(images.contiguous(memory_format=torch.channels_last))
        return tokens.half().cpu()
