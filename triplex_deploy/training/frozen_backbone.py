"""Find the image backbone of a model, freeze it, and compute its maps once.

The image backbone is the convolutional part that sees the target tiles.
"""

from __future__ import annotations

import copy
import logging
import weakref
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triplex_deploy.contract import BACKBONE_WIDTH, N_TARGET_TOKENS
from triplex_deploy.models import SpotModel, TargetEncoder, TileEncoder, backbone_of_weights
from triplex_deploy.pipeline.ordered_pool import OrderedThreadPool
from triplex_deploy.runtime.backends import AUTO
from triplex_deploy.runtime.cpu_choice import installed_on_cpu
from triplex_deploy.runtime.device import CPU
from triplex_deploy.training.encoder_runner import EncoderRunner, RunOptions
from triplex_deploy.training.images import CPU_TILES, normalize_tiles
from triplex_deploy.training.prepared import PreparedSection
from triplex_deploy.training.tile_encoder import BackboneEncoder

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

    Tiles are not augmented. Maps are float16: 49 x width x 2 bytes per spot. On a CPU the backbone
    runs in the sessions and workers of ``prepare``, always in the same runtime: a run that goes on
    after an interruption must find the same maps.
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

    def _compute(self, section: PreparedSection) -> Tensor:
        parts = (
            section.tiles[begin : begin + CPU_TILES]
            for begin in range(0, len(section.tiles), CPU_TILES)
        )
        if self._device.type != "cpu":
            return torch.cat([self._encode(torch.from_numpy(np.array(part))) for part in parts])
        running = self._runner.running

        def encode(tiles: NDArray[np.uint8]) -> Tensor:
            tokens = torch.from_numpy(running.encode(np.ascontiguousarray(tiles)))
            return tokens.reshape(len(tiles), N_TARGET_TOKENS, -1).half()

        with OrderedThreadPool("maps", parts, encode, running.workers) as pool:
            return torch.cat(list(pool))

    @cached_property
    def _runner(self) -> EncoderRunner:
        """Open the runner of the backbone, which is closed with this object."""
        installed = installed_on_cpu()
        options = RunOptions(installed[0].name if installed else AUTO)
        runner = EncoderRunner(MapEncoder(self._encoder), options)
        weakref.finalize(self, runner.close)
        return runner

    @torch.inference_mode()
    def _encode(self, tiles: Tensor) -> Tensor:
        images = normalize_tiles(tiles.to(self._device))
        tokens = self._encoder.map_tokens(images.contiguous(memory_format=torch.channels_last))
        return tokens.half().cpu()


class MapEncoder(BackboneEncoder):
    """Maps tiles to the map of a target encoder's backbone, 49 tokens in a row: (B, 49 C)."""

    def __init__(self, encoder: TargetEncoder) -> None:
        kind = backbone_of_weights(encoder.backbone.state_dict())
        super().__init__("frozen backbone", kind, _MapTokens(encoder), CPU)
        self.digest = f"map-{self.digest}"
        self.feature_dim = N_TARGET_TOKENS * BACKBONE_WIDTH[kind]


class _MapTokens(TileEncoder):
    """Has a copy of the backbone: an encoder for inference may lay out its weights differently."""

    def __init__(self, encoder: TargetEncoder) -> None:
        nn.Module.__init__(self)  # the inherited one would draw random weights
        self.backbone = copy.deepcopy(encoder.backbone)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.feature_map(images).flatten(2).transpose(1, 2).flatten(1)
