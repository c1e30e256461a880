"""What a model is trained to do: from a batch of spots to a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from triplex_deploy.models import SpotModel
from triplex_deploy.training.spot_batches import SpotBatch
from triplex_deploy.training.trunk_maps import TrunkMaps


class Objective(nn.Module, ABC):
    """A model with what its loss needs of the training sections, on one device with it.

    ``maps`` stand for the tiles of a frozen trunk, in training and in measuring; None without.
    """

    model: SpotModel
    maps: TrunkMaps | None = None

    @abstractmethod
    def forward(self, batch: SpotBatch) -> Tensor:
        """The loss of a batch, a scalar."""
