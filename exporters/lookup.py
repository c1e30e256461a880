"""Find the rows of a graph that looks up training spots in which the result depends on rounding.

The last spot that is found and the next spot may be equally near up to rounding. Then both are
right, and a comparison of their predictions does not test the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from triplex_deploy.contract import GraphSpec
from triplex_deploy.models import SpotModel

TIE: Final = 1e-5
"""Relative difference of two scores below which float32 does not decide which spot is nearer."""


def is_lookup(path: Path) -> bool:
    """Return True if an ONNX graph selects the nearest rows of a bank, for which it needs fp32."""
    return any(node.op_type == "TopK" for node in onnx.load(path).graph.node)


def without_ties(
    model: SpotModel, spec: GraphSpec, inputs: Mapping[str, NDArray[Any]]
) -> NDArray[np.bool_]:
    """Return True for each row (B,) in which the lookup of a graph does not depend on rounding.

    Args:
        model: The model, with its bank.
        spec: One of the model's graphs.
        inputs: The graph's inputs (B, ...) by name.

    Returns:
        True for every row of a graph that looks nothing up.
    """
    lookup = model.config.lookup
    if lookup is None or lookup.graph != spec.name:
        return np.ones(len(next(iter(inputs.values()))), bool)
    with torch.inference_mode():
        scores = model.lookup_scores(torch.from_numpy(inputs[lookup.query]))  # (B, R)
    count = int(getattr(model.config, lookup.count))
    if count == scores.shape[1]:
        return np.ones(len(scores), bool)
    best = scores.topk(count + 1, dim=1).values
    gap = best[:, count - 1] - best[:, count]
    decided: NDArray[np.bool_] = (gap > TIE * scores.abs().amax(1)).numpy()
    return decided
