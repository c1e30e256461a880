"""Export-only modules: one per graph, with the contract's inputs and outputs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD
from triplex_deploy.models import TileEncoder, Triplex, assert_eval
from triplex_deploy.models.global_encoder import GlobalEncoder
from triplex_deploy.models.neighbor_encoder import NeighborEncoder


class TileGraph(nn.Module):
    """uint8 RGB tiles (B, 224, 224, 3), scaled and normalised inside, through an image encoder.

    With ``pooled`` the encoder's tokens (B, L, D) leave as their mean (B, 1, D).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, pooled: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooled = pooled
        self.register_buffer("mean", 255 * torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(IMAGE_STD).view(1, 3, 1, 1))

    def forward(self, tiles: Tensor) -> Tensor:
        images = tiles.permute(0, 3, 1, 2).to(torch.float32)  # (B, 3, 224, 224)
        encoded: Tensor = self.encoder((images - self.mean) / self.std)
        return encoded.mean(1, keepdim=True) if self.pooled else encoded


class NeighborGraph(nn.Module):
    """Neighbour features (B, 25, F) and mask (B, 25) to tokens (B, 25, D), or their mean."""

    def __init__(self, encoder: NeighborEncoder, pooled: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooled = pooled

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        tokens: Tensor = self.encoder(features, mask)
        return tokens.mean(1, keepdim=True) if self.pooled else tokens


class GlobalGraph(nn.Module):
    """Spot features (N, F) and their APEG table (N, k*k) to global tokens (N, D)."""

    def __init__(self, encoder: GlobalEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Tensor, apeg_index: Tensor) -> Tensor:
        tokens: Tensor = self.encoder(features, apeg_index)
        return tokens


class FusionGraph(nn.Module):
    """The tokens of a model's views, the others being None, to expression (B, G).

    ``config.nonnegative`` clips it at zero.
    """

    def __init__(self, model: Triplex) -> None:
        super().__init__()
        self.model = _without_encoders(model)

    def forward(
        self,
        global_tokens: Tensor | None = None,
        target_tokens: Tensor | None = None,
        neighbor_tokens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        tokens = (global_tokens, target_tokens, neighbor_tokens, mask)
        expression = self.model.predict_from_tokens(*tokens).fusion
        return expression.clamp_min(0) if self.model.config.nonnegative else expression


def graph_modules(model: Triplex, tile_encoder: TileEncoder | None) -> dict[str, nn.Module]:
    """The module behind each graph of the contract; raises ``ContractError`` outside eval mode.

    A ``tile_encoder`` of None, one that is an ONNX file already, has none.
    """
    assert_eval(model)
    contexts = model.config.contexts
    modules: dict[str, nn.Module] = {}
    if tile_encoder is not None and model.config.views != ("target",):
        assert_eval(tile_encoder)
        modules["tile_encoder"] = TileGraph(tile_encoder)
    if model.target_encoder is not None:
        modules["target_encoder"] = TileGraph(model.target_encoder, "target" not in contexts)
    if model.neighbor_encoder is not None:
        pooled = "neighbor" not in contexts
        modules["neighbor_encoder"] = NeighborGraph(model.neighbor_encoder, pooled)
    if model.global_encoder is not None:
        modules["global_encoder"] = GlobalGraph(model.global_encoder)
    modules["fusion_head"] = FusionGraph(model)
    return {name: module.eval() for name, module in modules.items()}


def _without_encoders(model: Triplex) -> Triplex:
    """A shallow twin that shares the fusion and the head, so that only they are traced."""
    twin = copy.copy(model)
    twin._modules = {
        **model._modules,
        **dict.fromkeys(("target_encoder", "neighbor_encoder", "global_encoder")),
        **dict.fromkeys(("target_head", "neighbor_head", "global_head")),
    }
    return twin
