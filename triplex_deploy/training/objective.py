"""The model with its sections' context: from a batch of spots to the loss of equations 14-16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triplex_deploy.contract import ModelConfig
from triplex_deploy.models import Triplex, TriplexOutput, fusion_loss
from triplex_deploy.tiles.apeg import position_index
from triplex_deploy.training.images import normalise_tiles
from triplex_deploy.training.prepared import PreparedSection
from triplex_deploy.training.spot_batches import SpotBatch


class Objective(nn.Module):
    """Predicts batches that mix sections; each section in a batch is encoded whole, once."""

    def __init__(self, model: Triplex, sections: Sequence[PreparedSection]) -> None:
        super().__init__()
        self.model = model
        for number, one in enumerate(sections):
            features = torch.from_numpy(one.spot_features())
            table = torch.from_numpy(section_index(one, model.config))
            self.register_buffer(f"features_{number}", features, persistent=False)
            self.register_buffer(f"apeg_index_{number}", table, persistent=False)

    def forward(self, batch: SpotBatch) -> Tensor:
        return fusion_loss(self.predict(batch), batch.labels, self.model.config.fusion_loss_alpha)

    def predict(self, batch: SpotBatch) -> TriplexOutput:
        """The predictions (B, G) of the batch."""
        views = self.model.config.views
        images = normalise_tiles(batch.tiles) if "target" in views else batch.tiles
        return self.model.predict_from_tokens(
            self._global_tokens(batch) if "global" in views else None,
            self.model.encode_targets(images),
            self.model.encode_neighbors(batch.neighbor_features, batch.mask),
            batch.mask,
        )

    def _global_tokens(self, batch: SpotBatch) -> Tensor:
        """Tokens (B, D) of the spots; batches are ordered by section."""
        parts = []
        for number in torch.unique(batch.section).tolist():
            tokens = self.model.encode_slide(
                self.get_buffer(f"features_{number}"), self.get_buffer(f"apeg_index_{number}")
            )  # (N, D)
            assert tokens is not None
            parts.append(tokens[batch.row[batch.section == number]])
        return torch.cat(parts)


def section_index(one: PreparedSection, config: ModelConfig) -> NDArray[np.int64]:
    """The position encoding's neighbour table (N, k*k) of a section."""
    index: NDArray[np.int64] = position_index(
        one.section.grid_rc, config.position, config.apeg_kernel
    )
    return index
