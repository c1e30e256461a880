"""Make the modules that are traced at export, with the inputs and outputs of the contract."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, GraphSpec, graph_specs
from triplex_deploy.models import SpotModel, TileEncoder, assert_eval


class TileGraph(nn.Module):
    """Scales and normalizes uint8 RGB tiles (B, 224, 224, 3) and encodes them."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("pixel_mean", 255 * torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", 255 * torch.tensor(IMAGE_STD).view(1, 3, 1, 1))

    def forward(self, tiles: Tensor) -> Tensor:
        images = tiles.permute(0, 3, 1, 2).to(torch.float32)  # (B, 3, 224, 224)
        encoded: Tensor = self.encoder((images - self.pixel_mean) / self.pixel_std)
        return encoded


class PartGraph(nn.Module):
    """Runs one graph of a model, with inputs named as in the contract.

    Inputs of other graphs are None. Weights that the graph does not use are not written. With
    ``config.clips_at_zero``, negative expression becomes zero.
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
        neighbor_tokens: Tensor | None = None,
        mask: Tensor | None = None,
        apeg_index: Tensor | None = None,
    ) -> Tensor:
        tensors = {
            "target_tokens": target_tokens,
            "global_tokens": global_tokens,
            "features": features,
            "exemplars": exemplars,
            "grid_xy": grid_xy,
            "adjacency": adjacency,
            "neighbor_tokens": neighbor_tokens,
            "mask": mask,
            "apeg_index": apeg_index,
        }
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        output = self.model.run_graph(self.graph, **given)
        clips = self.graph == "fusion_head" and self.model.config.clips_at_zero
        return output.clamp_min(0) if clips else output


class _TargetPart(nn.Module):
    """Encodes normalized images (B, 3, 224, 224) to target tokens, for any model."""

    def __init__(self, model: SpotModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.run_graph("target_encoder", images=images)


def graph_modules(model: SpotModel, tile_encoder: TileEncoder | None) -> dict[str, nn.Module]:
    """Return the module that is traced for each graph, by name of the graph.

    Args:
        model: The model in evaluation mode.
        tile_encoder: The frozen tile encoder in evaluation mode; None if it is an ONNX file,
            which is not traced.

    Raises:
        ContractError: A module is in training mode.
    """
    assert_eval(model)
    modules: dict[str, nn.Module] = {}
    for name, spec in graph_specs(model.config).items():
        if name != "tile_encoder":
            modules[name] = _graph_module(model, spec)
        elif tile_encoder is not None:
            assert_eval(tile_encoder)
            modules[name] = TileGraph(tile_encoder)
    return {name: module.eval() for name, module in modules.items()}


def _graph_module(model: SpotModel, spec: GraphSpec) -> nn.Module:
    module = model.export_graph(spec.name)
    if spec.kind == "per tile":
        return TileGraph(module or _TargetPart(model))
    return module or PartGraph(model, spec.name)
