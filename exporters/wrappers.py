"""Export-only modules: one per graph, with the contract's inputs and outputs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, graph_specs
from triplex_deploy.models import SpotModel, TileEncoder, Triplex, assert_eval
from triplex_deploy.models.triplex import GlobalEncoder, NeighborEncoder


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


class PartGraph(nn.Module):
    """One graph of a model that relates or predicts spots, its inputs named as in the contract.

    Of them a graph is given its own, the others are None. Weights of other parts, which come along
    here, are not written.
    """

    def __init__(self, model: SpotModel, graph: str) -> None:
        super().__init__()
        self.model = model
        self.graph = graph

    def forward(
        self,
        target_tokens: Tensor | None = None,
        global_tokens: Tensor | None = None,
        features: Tensor | None = None,
        exemplars: Tensor | None = None,
        grid_xy: Tensor | None = None,
        adjacency: Tensor | None = None,
    ) -> Tensor:
        tensors = {
            "target_tokens": target_tokens,
            "global_tokens": global_tokens,
            "features": features,
            "exemplars": exemplars,
            "grid_xy": grid_xy,
            "adjacency": adjacency,
        }
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        return self.model.run_graph(self.graph, **given)


class _TargetPart(nn.Module):
    """The image encoder of any model: normalised images (B, 3, 224, 224) to target tokens."""

    def __init__(self, model: SpotModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.run_graph("target_encoder", images=images)


def graph_modules(model: SpotModel, tile_encoder: TileEncoder | None) -> dict[str, nn.Module]:
    """The module behind each graph of the contract; raises ``ContractError`` outside eval mode.

    A ``tile_encoder`` of None, one that is an ONNX file already, has none.
    """
    assert_eval(model)
    modules: dict[str, nn.Module] = {}
    if tile_encoder is not None and "tile_encoder" in graph_specs(model.config):
        assert_eval(tile_encoder)
        modules["tile_encoder"] = TileGraph(tile_encoder)
    modules |= _triplex_modules(model) if isinstance(model, Triplex) else _part_modules(model)
    return {name: module.eval() for name, module in modules.items()}


def _triplex_modules(model: Triplex) -> dict[str, nn.Module]:
    contexts = model.config.contexts
    modules: dict[str, nn.Module] = {}
    if model.target_encoder is not None:
        modules["target_encoder"] = TileGraph(model.target_encoder, "target" not in contexts)
    if model.neighbor_encoder is not None:
        pooled = "neighbor" not in contexts
        modules["neighbor_encoder"] = NeighborGraph(model.neighbor_encoder, pooled)
    if model.global_encoder is not None:
        modules["global_encoder"] = GlobalGraph(model.global_encoder)
    modules["fusion_head"] = FusionGraph(model)
    return modules


def _part_modules(model: SpotModel) -> dict[str, nn.Module]:
    specs = graph_specs(model.config)
    specs.pop("tile_encoder", None)
    return {
        name: TileGraph(_TargetPart(model)) if spec.kind == "per tile" else PartGraph(model, name)
        for name, spec in specs.items()
    }


def _without_encoders(model: Triplex) -> Triplex:
    """A shallow twin that shares the fusion and the head, so that only they are traced."""
    twin = copy.copy(model)
    twin._modules = {
        **model._modules,
        **dict.fromkeys(("target_encoder", "neighbor_encoder", "global_encoder")),
        **dict.fromkeys(("target_head", "neighbor_head", "global_head")),
    }
    return twin
