"""TRIPLEX with its sections' context: from a batch of spots to the loss of equations 14-16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from triplex_deploy.contract import ModelConfig
from triplex_deploy.models import Triplex, TriplexOutput, fusion_loss
from triplex_deploy.tiles.apeg import position_index
from triplex_deploy.training.images import normalise_tiles
from triplex_deploy.training.objective import Objective
from triplex_deploy.training.prepared import PreparedSection
from triplex_deploy.training.spot_batches import SpotBatch
from triplex_deploy.training.trunk_maps import TrunkMaps


class TriplexObjective(Objective):
    """Predicts batches that mix sections; each section in a batch is encoded whole, once.

    ``maps`` stand for the tiles where the trunk is frozen and tiles are not augmented;
    ``feature_dropout`` is the share of frozen features that a step does not see.
    """

    model: Triplex

    def __init__(
        self,
        model: Triplex,
        sections: Sequence[PreparedSection],
        maps: TrunkMaps | None = None,
        feature_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self._dropout = feature_dropout
        self.maps = maps
        self._maps = None if maps is None else [maps.of(one) for one in sections]
        own = torch.from_numpy(np.concatenate([one.spot_features() for one in sections]))
        self.register_buffer("feature_mean", own.mean(0), persistent=False)
        if self._maps is not None:
            map_mean = torch.cat([part.float().mean(1) for part in self._maps]).mean(0)
            self.register_buffer("map_mean", map_mean, persistent=False)
        for number, one in enumerate(sections):
            features = torch.from_numpy(one.spot_features())
            table = torch.from_numpy(section_index(one, model.config))
            self.register_buffer(f"features_{number}", features, persistent=False)
            self.register_buffer(f"apeg_index_{number}", table, persistent=False)

    def forward(self, batch: SpotBatch) -> Tensor:
        return fusion_loss(self.predict(batch), batch.labels, self.model.config.fusion_loss_alpha)

    def predict(self, batch: SpotBatch) -> TriplexOutput:
        """The predictions (B, G) of the batch."""
        return self.model.predict_from_tokens(
            None if self.model.global_encoder is None else self._global_tokens(batch),
            None if self.model.target_encoder is None else self._target_tokens(batch),
            self.model.encode_neighbors(self._hide(batch.neighbor_features), batch.mask),
            batch.mask,
        )

    def _target_tokens(self, batch: SpotBatch) -> Tensor:
        """Tokens (B, 49, D), from the maps where the trunk is frozen."""
        encoder = self.model.target_encoder
        assert encoder is not None
        tokens: Tensor
        if self._maps is None:
            tokens = encoder(normalise_tiles(batch.tiles))
            return tokens
        pairs = zip(batch.section.tolist(), batch.row.tolist(), strict=True)
        maps = torch.stack([self._maps[section][row].float() for section, row in pairs])
        tokens = encoder.projection(self._hide(maps.to(batch.row.device), tokens=True))
        return tokens

    def _global_tokens(self, batch: SpotBatch) -> Tensor:
        """Tokens (B, D) of the spots; batches are ordered by section."""
        parts = []
        for number in torch.unique(batch.section).tolist():
            tokens = self.model.encode_slide(
                self._hide(self.get_buffer(f"features_{number}")),
                self.get_buffer(f"apeg_index_{number}"),
            )  # (N, D)
            assert tokens is not None
            parts.append(tokens[batch.row[batch.section == number]])
        return torch.cat(parts)

    def _hide(self, features: Tensor, tokens: bool = False) -> Tensor:
        """Set some frozen features (..., F) to their mean; over all ``tokens`` of a map alike."""
        if not (self.training and self._dropout):
            return features
        shape = (len(features), 1, features.shape[2]) if tokens else features.shape
        seen = F.dropout(torch.ones(shape, device=features.device), self._dropout)
        mean = self.get_buffer("map_mean" if tokens else "feature_mean")
        return mean + (features - mean) * seen


def section_index(one: PreparedSection, config: ModelConfig) -> NDArray[np.int64]:
    """The position encoding's neighbour table (N, k*k) of a section."""
    index: NDArray[np.int64] = position_index(
        one.section.grid_rc, config.position, config.apeg_kernel
    )
    return index
