"""Export-only modules: one per graph, with the contract's inputs and outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD
from triplex_deploy.models import TileEncoder, Triplex, assert_eval
from triplex_deploy.models.global_encoder import GlobalEncoder
from triplex_deploy.models.neighbor_encoder import NeighborEncoder


class TileGraph(nn.Module):
    """uint8 RGB tiles (B, 224, 224, 3), scaled and normalised inside, through an image encoder."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", 255 * torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(IMAGE_STD).view(1, 3, 1, 1))

    def forward(self, tiles: Tensor) -> Tensor:
        images = tiles.permute(0, 3, 1, 2).to(torch.float32)  # (B, 3, 224, 224)
        encoded: Tensor = self.encoder((images - self.mean) / self.std)
        return encoded


class NeighborGraph(nn.Module):
    """Neighbour features (B, 25, 512) and mask (B, 25) to neighbour tokens (B, 25, D)."""

    def __init__(self, encoder: NeighborEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        tokens: Tensor = self.encoder(features, mask)
        return tokens


class GlobalGraph(nn.Module):
    """Spot features (N, 512) and their APEG table (N, k*k) to global tokens (N, D)."""

    def __init__(self, encoder: GlobalEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Tensor, apeg_index: Tensor) -> Tensor:
        tokens: Tensor = self.encoder(features, apeg_index)
        return tokens


class FusionGraph(nn.Module):
    """The three kinds of tokens and the mask to expression (B, G); clips at 0 if configured."""

    def __init__(self, model: Triplex) -> None:
        super().__init__()
        self.fusion = model.fusion
        self.head = model.expression_head
        self.nonnegative = model.config.nonnegative

    def forward(
        self, global_tokens: Tensor, target_tokens: Tensor, neighbor_tokens: Tensor, mask: Tensor
    ) -> Tensor:
        fused = self.fusion(global_tokens, target_tokens, neighbor_tokens, mask)
        expression: Tensor = self.head(fused)
        return expression.clamp_min(0) if self.nonnegative else expression


def graph_modules(model: Triplex, tile_encoder: TileEncoder) -> dict[str, nn.Module]:
    """The module behind each graph of the contract; raises ``ContractError`` outside eval mode."""
    assert_eval(model)
    assert_eval(tile_encoder)
    modules = {
        "tile_encoder": TileGraph(tile_encoder),
        "target_encoder": TileGraph(model.target_encoder),
        "neighbor_encoder": NeighborGraph(model.neighbor_encoder),
        "global_encoder": GlobalGraph(model.global_encoder),
        "fusion_head": FusionGraph(model),
    }
    return {name: module.eval() for name, module in modules.items()}
