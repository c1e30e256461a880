"""What every model is to training, export and prediction: parts with the contract's tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

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
"""The method behind each graph of the contract but the frozen tile encoder."""


class SpotModel(nn.Module):
    """A model that predicts the expression of spots, cut into the graphs of its configuration."""

    config: Config
    has_bank: ClassVar[bool] = False
    """Whether it looks up training spots, and can predict only after ``remember``."""

    def run_graph(self, graph: str, **inputs: Tensor) -> Tensor:
        """The output of one graph for inputs named as in the contract.

        Normalised images (B, 3, 224, 224) named ``images`` stand for its uint8 ``tiles``.
        """
        part: Callable[..., Tensor] = getattr(self, PART_OF[graph])
        return part(**inputs)

    def remember(self, features: Tensor, expression: Tensor) -> None:
        """Take frozen features (R, F) and labels (R, G) of training spots as the bank.

        Only models that have one; no spot of a patient to be tested on may be among them.
        """
        raise NotImplementedError(f"{self.config.model} has no bank")


def assert_eval(module: nn.Module) -> None:
    """Raise ``ContractError`` naming the first submodule that is in training mode."""
    for name, part in module.named_modules():
        if part.training:
            where = name or type(module).__name__
            raise ContractError(f"{where}: still in training mode; call eval() on the model first")
