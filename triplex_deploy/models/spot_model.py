"""The base class of all networks: what training and export need of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from triplex_deploy.contract import Config
from triplex_deploy.errors import ContractError

PART_OF: Final = {
    "target_encoder": "encode_targets",
    "neighbor_encoder": "encode_neighbors",
    "global_encoder": "encode_slide",
    "retrieval": "retrieve",
    "fusion_head": "predict_from_tokens",
}
"""The method behind each graph of the contract, except the frozen tile encoder."""


@dataclass(frozen=True)
class SlideTensors:
    """Holds the tensors of a small slide of N spots, each spot with its own tile."""

    images: Tensor
    """Normalized target tiles (N, 3, 224, 224)."""
    around: Tensor
    """Spots (N, 25) whose tiles form each neighborhood, int64; -1 outside the slide."""
    tables: Mapping[str, Tensor]
    """Tables (N, ...) about the spots' places, by tensor name."""
    encode: Callable[[], Tensor]
    """Returns frozen features (N + 1, F) of the target tiles, then of a masked neighbor."""

    @cached_property
    def _encoded(self) -> Tensor:
        return self.encode()

    @property
    def features(self) -> Tensor:
        """Return the features (N, F) of the target tiles."""
        return self._encoded[:-1]

    @property
    def neighbor_features(self) -> Tensor:
        """Return the features (N, 25, F) of the neighborhoods, masked neighbors included."""
        return self._encoded[self.around]  # -1 is the last row, the masked neighbor's


class SpotModel(nn.Module):
    """A model that predicts the expression of spots, cut into the graphs of its configuration.

    A subclass is built from its configuration alone. It has one method for each of its graphs
    (``PART_OF``).
    """

    config: Config
    """The configuration that the model was built from."""
    has_bank: ClassVar[bool] = False
    """Whether it looks up training spots and can predict only after ``set_reference_bank``."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def run_graph(self, graph: str, **inputs: Tensor) -> Tensor:
        """Return the output of a graph for inputs named as in the contract.

        Normalized images (B, 3, 224, 224) named ``images`` replace the graph's uint8 ``tiles``.
        """
        part: Callable[..., Tensor] = getattr(self, PART_OF[graph])
        return part(**inputs)

    def export_graph(self, graph: str) -> nn.Module | None:
        """Return the module that is traced for a graph; None to trace ``run_graph``.

        The module takes and returns the tensors of the graph, with normalized images instead of
        tiles.
        """
        return None

    def predict_slide(self, slide: SlideTensors) -> Tensor:
        """Return the expression (N, G) of all spots of a slide, by the model's own ``forward``."""
        expression: Tensor = self(slide.images, **slide.tables)
        return expression

    def last_layer(self) -> nn.Linear:
        """Return the layer whose output is the expression: the last of ``expression_head``."""
        head: Any = getattr(self, "expression_head", None)
        last = head[-1] if isinstance(head, nn.Sequential) else head
        if not isinstance(last, nn.Linear):
            raise ContractError(
                f"{self.config.model}: ends in no linear layer, so it cannot be calibrated; "
                "export it with --raw"
            )
        return last

    @torch.no_grad()
    def rescale(self, slope: Tensor, offset: Tensor) -> None:
        """Change the weights so that the model returns slope · expression + offset.

        Args:
            slope: Factor (G,) of each gene.
            offset: What is then added, (G,).

        Raises:
            ContractError: The model does not end in a linear layer.
        """
        layer = self.last_layer()
        layer.weight.mul_(slope[:, None])
        layer.bias.mul_(slope).add_(offset)

    def lookup_scores(self, query: Tensor) -> Tensor:
        """Return the score (B, R) of every training spot in the bank; the highest are found.

        ``query`` (B, ...) is the tensor that ``config.lookup`` names.
        """
        raise NotImplementedError(f"{self.config.model} has no bank")

    def set_reference_bank(self, features: Tensor, expression: Tensor) -> None:
        """Take frozen features (R, F) and labels (R, G) of training spots as the bank.

        Only for models with ``has_bank``. No spot of a test patient may be among them.
        """
        raise NotImplementedError(f"{self.config.model} has no bank")


def assert_eval(module: nn.Module) -> None:
    """Raise ``ContractError`` naming the first submodule that is in training mode."""
    for name, part in module.named_modules():
        if part.training:
            where = name or type(module).__name__
            raise ContractError(f"{where}: still in training mode; call eval() on the model first")
