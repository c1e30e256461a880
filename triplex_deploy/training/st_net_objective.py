"""ST-Net's loss, and that of every model which sees nothing but a spot's own tile."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from triplex_deploy.models import SpotModel
from triplex_deploy.training.images import normalise_tiles
from triplex_deploy.training.objective import Objective
from triplex_deploy.training.spot_batches import SpotBatch


class StNetObjective(Objective):
    """Mean squared error of spots drawn over all sections (MODELS 2.1)."""

    def __init__(self, model: SpotModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: SpotBatch) -> Tensor:
        predicted = self.model(normalise_tiles(batch.tiles))  # (B, G)
        return F.mse_loss(predicted.float(), batch.labels)
