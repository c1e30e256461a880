"""Find the image backbone of a model, freeze it, and compute its maps once.

The image backbone is the convolutional part that sees the target tiles.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor, nn

from triplex_deploy.models import SpotModel, TargetEncoder
from triplex_deploy.training.images import CPU_TILES, normalize_tiles
from triplex_deploy.training.prepared import PreparedSection

logger = logging.getLogger(__name__)


def image_backbone(model: SpotModel) -> nn.Module | None:
    """Return the backbone that sees the target tiles; None for a model without a backbone."""
    for owner in (model, getattr(model, "target_encoder", None)):
        backbone = getattr(owner, "backbone", None)
        if isinstance(backbone, nn.Module):
            return backbone
    return None


def freeze_backbone(model: SpotModel) -> None:
    """Exclude the image backbone from training, if the model has one."""
    backbone = image_backbone(model)
    if backbone is not None:
        backbone.requires_grad_(False)


def keep_frozen_backbone_in_eval(model: SpotModel) -> None:
    """Set a frozen backbone to evaluation mode, so that its batch statistics do not change."""
    backbone = image_backbone(model)
    if backbone is not None and not any(p.requires_grad for p in backbone.parameters()):
        backbone.eval()


class BackboneMaps:
    """Maps of a frozen backbone for the target tiles, computed once per section.

    Tiles are not augmented. Maps are float16: 49 x width x 2 bytes per spot.
    """

    def __init__(self, encoder: TargetEncoder, device: torch.device) -> None:
        self._encoder = encoder
        self._device = device
        self._maps: dict[str, Tensor] = {}

    def of(self, section: PreparedSection) -> Tensor:
        """Return map tokens (N, 49, C) of a section, float16, in CPU memory."""
        name = section.measured.name
        if name not in self._maps:
            logger.info("%s: computing the maps of the frozen backbone", name)
            self._maps[name] = self._compute(section)
        return self._maps[name]

    @torch.inference_mode()
    def _compute(self, section: PreparedSection) -> Tensor:
        tiles = torch.from_numpy(np.array(section.tiles))
        return torch.cat([self._encode(part) for part in torch.split(tiles, CPU_TILES)])

    def _encode(self, tiles: Tensor) -> Tensor:
        images = normalize_tiles(tiles.to(self._device))
        tokens = self._encoder.map_tokens(images.contiguous(memory_format=torch.channels_last))
        return tokens.half().cpu()
