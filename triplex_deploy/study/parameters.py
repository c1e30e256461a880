"""How many parameters of a model its prediction depends on."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

from triplex_deploy.contract import TILES, graph_specs
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.models import SpotModel

SPOTS: Final = 2


def deployed_parameters(model: SpotModel) -> int:
    """Parameters in the graphs of the bundle, the frozen tile encoder and any bank not counted.

    They are those that a gradient of the graphs' outputs reaches: heads and decoders that training
    alone needs get none.
    """
    used: dict[int, int] = {}
    for spec in graph_specs(model.config).values():
        if spec.name == "tile_encoder":
            continue
        model.zero_grad(set_to_none=True)
        positions = getattr(model.config, "n_positions", 1)
        arrays = graph_inputs(spec, SPOTS, n_positions=positions)
        if TILES in spec.inputs:
            inputs: dict[str, Any] = {"images": torch.randn(SPOTS, 3, 224, 224)}
        else:
            inputs = {name: torch.from_numpy(values) for name, values in arrays.items()}
        output = model.run_graph(spec.name, **inputs)
        if output.requires_grad:
            output.sum().backward()  # type: ignore[no-untyped-call]
        used |= {id(p): p.numel() for p in model.parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return sum(used.values())


def all_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
