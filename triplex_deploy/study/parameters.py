"""Count the parameters of a model that its prediction depends on."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

from triplex_deploy.contract import TILES, graph_specs
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.models import SpotModel

N_SPOTS: Final = 2
"""Number of random spots that the graphs are run with."""


def deployed_parameters(model: SpotModel) -> int:
    """Return the number of parameters that the prediction depends on.

    A parameter counts if a gradient of a graph's output reaches it. Not counted are heads and
    decoders that only training needs, the frozen tile encoder, and a bank of training spots.
    """
    used: dict[int, int] = {}
    for spec in graph_specs(model.config).values():
        if spec.name == "tile_encoder":
            continue
        model.zero_grad(set_to_none=True)
        positions = getattr(model.config, "n_positions", 1)
        arrays = graph_inputs(spec, N_SPOTS, n_positions=positions)
        if TILES in spec.inputs:
            inputs: dict[str, Any] = {"images": torch.randn(N_SPOTS, 3, 224, 224)}
        else:
            inputs = {name: torch.from_numpy(values) for name, values in arrays.items()}
        output = model.run_graph(spec.name, **inputs)
        if output.requires_grad:
            output.sum().backward()  # type: ignore[no-untyped-call]
        used |= {id(p): p.numel() for p in model.parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return sum(used.values())


def all_parameters(model: nn.Module) -> int:
    """Return the number of all parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())
