"""BLEEP's loss: images and labels of a batch find each other."""

from __future__ import annotations

import torch
from torch import Tensor

from triplex_deploy.models.bleep import Bleep, contrastive_loss
from triplex_deploy.training.images import normalise_tiles
from triplex_deploy.training.objective import Objective
from triplex_deploy.training.spot_batches import SpotBatch


class BleepObjective(Objective):
    """The contrastive loss of spots drawn over all sections (MODELS 2.5).

    With several processes, each contrasts its own share of the batch.
    """

    model: Bleep

    def __init__(self, model: Bleep, temperature: float) -> None:
        super().__init__()
        self.model = model
        self._temperature = temperature

    def forward(self, batch: SpotBatch) -> Tensor:
        images = self.model.encode_targets(normalise_tiles(batch.tiles)).squeeze(1)
        expression = self.model.encode_expression(batch.labels)
        # products of embeddings are as large as the embeddings are wide: too much for 8 bits
        with torch.autocast(images.device.type, enabled=False):
            return contrastive_loss(images.float(), expression.float(), self._temperature)
