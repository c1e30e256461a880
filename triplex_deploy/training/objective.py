"""The model with its sections' context: from a batch of spots to the loss of equations 14-16."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from triplex_deploy.models import Triplex, TriplexOutput, fusion_loss
from triplex_deploy.tiles import apeg_index
from triplex_deploy.training.images import normalise_tiles
from triplex_deploy.training.prepared import PreparedSection
from triplex_deploy.training.spot_batches import SpotBatch


class Objective(nn.Module):
    """Predicts batches that mix sections; each section in a batch is encoded whole, once."""

    def __init__(self, model: Triplex, sections: Sequence[PreparedSection]) -> None:
        super().__init__()
        self.model = model
        kernel = model.config.apeg_kernel
        for number, one in enumerate(sections):
            features = torch.from_numpy(one.spot_features())
            table = torch.from_numpy(apeg_index(one.section.grid_rc, kernel))
            self.register_buffer(f"features_{number}", features, persistent=False)
            self.register_buffer(f"apeg_index_{number}", table, persistent=False)

    def forward(self, batch: SpotBatch) -> Tensor:
        return fusion_loss(self.predict(batch), batch.labels, self.model.config.fusion_loss_alpha)

    def predict(self, batch: SpotBatch) -> TriplexOutput:
        """The four predictions (B, G) of the batch."""
        target_tokens = self.model.target_encoder(normalise_tiles(batch.tiles))
        neighbor_tokens = self.model.neighbor_encoder(batch.neighbor_features, batch.mask)
        return self.model.predict_from_tokens(
            self._global_tokens(batch), target_tokens, neighbor_tokens, batch.mask
        )

    def _global_tokens(self, batch: SpotBatch) -> Tensor:
        """Tokens (B, D) of the spots; batches are ordered by section."""
        parts = []
        for number in torch.unique(batch.section).tolist():
            tokens = self.model.global_encoder(
                self.get_buffer(f"features_{number}"), self.get_buffer(f"apeg_index_{number}")
            )  # (N, D)
            parts.append(tokens[batch.row[batch.section == number]])
        return torch.cat(parts)
