"""Graphs that look training spots up: which answers rounding decides, and what has no order.

The spots at the last place and after it may be equally near but for rounding: then either is right,
and a comparison of what is predicted from them says nothing of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triplex_deploy.contract import GraphSpec
from triplex_deploy.models import SpotModel
from triplex_deploy.models.bleep import RetrievedMean
from triplex_deploy.models.egn import Exemplars

TIE: Final = 1e-5
"""Difference over magnitude up to which float32 does not tell which of two spots is nearer."""


def is_lookup(path: Path) -> bool:
    """Whether an ONNX graph picks the nearest of many rows, for which it needs fp32."""
    return any(node.op_type == "TopK" for node in onnx.load(path).graph.node)


def settled(
    model: SpotModel, spec: GraphSpec, inputs: Mapping[str, NDArray[Any]]
) -> NDArray[np.bool_]:
    """For each of B spots whether what ``spec`` looks up for it does not depend on rounding.

    True for all of a graph that looks nothing up.
    """
    size = len(next(iter(inputs.values())))
    for part in model.modules():
        lookup = _LOOKUPS.get(type(part))
        if lookup is not None and [tensor.name for tensor in spec.inputs] == [lookup.query]:
            with torch.inference_mode():
                return lookup.is_clear(part, torch.from_numpy(inputs[lookup.query]))
    return np.ones(size, bool)


class _Lookup:
    """A module that looks up: the graph input it reads, and its score of every row of the bank."""

    def __init__(self, query: str, places: str, scores: Callable[[Any, Tensor], Tensor]) -> None:
        self.query = query
        self._places = places
        self._scores = scores

    def is_clear(self, part: nn.Module, query: Tensor) -> NDArray[np.bool_]:
        scores = self._scores(part, query)  # (B, R)
        places = int(getattr(part, self._places))
        if places == scores.shape[1]:
            return np.ones(len(scores), bool)
        best = scores.topk(places + 1, dim=1).values
        gap = best[:, places - 1] - best[:, places]
        clear: NDArray[np.bool_] = (gap > TIE * scores.abs().amax(1)).numpy()
        return clear


def _cosines(part: RetrievedMean, tokens: Tensor) -> Tensor:
    return tokens.squeeze(1) @ part.bank_embeddings.T


_LOOKUPS: Final[dict[type[nn.Module], _Lookup]] = {
    Exemplars: _Lookup("features", "n_exemplars", Exemplars.closeness),
    RetrievedMean: _Lookup("target_tokens", "n_neighbors", _cosines),
}
