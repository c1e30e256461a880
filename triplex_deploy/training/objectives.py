"""Training losses: one objective per model family, from a batch of spots to a scalar."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from triplex_deploy.contract import EgnConfig, Hist2StConfig, ModelConfig
from triplex_deploy.models import SpotModel, Triplex, TriplexOutput, fusion_loss
from triplex_deploy.models.bleep import Bleep, contrastive_loss
from triplex_deploy.models.egn import Egn, correlation_loss
from triplex_deploy.models.hist2st import Hist2St, hist2st_loss
from triplex_deploy.tiles.apeg import position_index
from triplex_deploy.tiles.spot_tables import spot_tables
from triplex_deploy.training.bank import training_exemplars
from triplex_deploy.training.batches import SpotBatch
from triplex_deploy.training.frozen_backbone import BackboneMaps
from triplex_deploy.training.images import normalize_tiles
from triplex_deploy.training.prepared import LabelledSections, PreparedSection


class Objective(nn.Module, ABC):
    """A model with what its loss needs of the training sections, on one device with it.

    ``maps`` stand for the tiles of a frozen backbone, in training and in measuring; None without.
    """

    model: SpotModel
    maps: BackboneMaps | None = None

    @abstractmethod
    def forward(self, batch: SpotBatch) -> Tensor:
        """The loss of a batch, a scalar."""


class TriplexObjective(Objective):
    """Predicts batches that mix sections; each section in a batch is encoded whole, once.

    ``maps`` stand for the tiles where the backbone is frozen and tiles are not augmented;
    ``feature_dropout`` is the share of frozen features that a step does not see.
    """

    model: Triplex

    def __init__(
        self,
        model: Triplex,
        sections: Sequence[PreparedSection],
        maps: BackboneMaps | None = None,
        feature_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self._dropout = feature_dropout
        self.maps = maps
        self._maps = None if maps is None else [maps.of(section) for section in sections]
        own = torch.from_numpy(np.concatenate([section.spot_features() for section in sections]))
        self.register_buffer("feature_mean", own.mean(0), persistent=False)
        if self._maps is not None:
            map_mean = torch.cat([part.float().mean(1) for part in self._maps]).mean(0)
            self.register_buffer("map_mean", map_mean, persistent=False)
        for number, section in enumerate(sections):
            features = torch.from_numpy(section.spot_features())
            table = torch.from_numpy(section_index(section, model.config))
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
        """Tokens (B, 49, D), from the maps where the backbone is frozen."""
        encoder = self.model.target_encoder
        assert encoder is not None
        tokens: Tensor
        if self._maps is None:
            tokens = encoder(normalize_tiles(batch.tiles))
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


def section_index(section: PreparedSection, config: ModelConfig) -> NDArray[np.int64]:
    """The position encoding's neighbour table (N, k*k) of a section."""
    index: NDArray[np.int64] = position_index(
        section.measured.grid_rc, config.position, config.apeg_kernel
    )
    return index


class StNetObjective(Objective):
    """Computes the mean squared error of spots drawn from all sections.

    See docs/models.md, "ST-Net".
    """

    def __init__(self, model: SpotModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: SpotBatch) -> Tensor:
        predicted = self.model(normalize_tiles(batch.tiles))  # (B, G)
        return F.mse_loss(predicted.float(), batch.labels)


class SlideObjective(Objective):
    """Computes the mean squared error over all spots of a section.

    See docs/models.md, "HisToGene". Raises ``SpotsError`` for coordinates outside the range that
    the model has positions for.
    """

    def __init__(self, model: SpotModel, train: LabelledSections) -> None:
        super().__init__()
        self.model = model
        self._table_names: tuple[str, ...] = ()
        for number, section in enumerate(train.sections):
            tables = spot_tables(model.config, section.measured.grid_rc)
            self._table_names = tuple(tables)
            for name, table in tables.items():
                buffer = torch.from_numpy(table)
                self.register_buffer(f"{name}_{number}", buffer, persistent=False)

    def forward(self, batch: SpotBatch) -> Tensor:
        predicted = self.model(normalize_tiles(batch.tiles), **self.tables(batch))  # (N, G)
        return F.mse_loss(predicted.float(), batch.labels)

    def tables(self, batch: SpotBatch) -> dict[str, Tensor]:
        """The tables (N, ...) of the batch's section, by tensor name."""
        number = int(batch.section[0])
        return {name: self.get_buffer(f"{name}_{number}") for name in self._table_names}


class Hist2StObjective(SlideObjective):
    """Adds the loss of the counts and the agreement with augmented passes.

    See docs/models.md, "Hist2ST".
    """

    model: Hist2St

    def __init__(self, model: Hist2St, config: Hist2StConfig, train: LabelledSections) -> None:
        super().__init__(model, train)
        self._config = config
        for number, counts in enumerate(train.counts()):
            self.register_buffer(f"counts_{number}", torch.from_numpy(counts), persistent=False)

    def forward(self, batch: SpotBatch) -> Tensor:
        tables = self.tables(batch)
        return hist2st_loss(
            self.model,
            normalize_tiles(batch.tiles),
            tables["grid_xy"],
            tables["adjacency"],
            labels=batch.labels,
            counts=self.get_buffer(f"counts_{int(batch.section[0])}"),
            zinb_weight=self._config.zinb_weight,
            distillation_weight=self._config.distillation_weight,
        )


class EgnObjective(Objective):
    """Adds the squared error and the correlation over a batch of spots of all sections.

    Finds exemplars once, with ``training_exemplars``, and raises the errors of that function. See
    docs/models.md, "EGN".
    """

    model: Egn

    def __init__(self, model: Egn, config: EgnConfig, train: LabelledSections) -> None:
        super().__init__()
        self.model = model
        self._weight = config.correlation_weight
        features = [section.spot_features() for section in train.sections]
        patients = [section.measured.patient for section in train.sections]
        exemplars = training_exemplars(features, patients, config.n_exemplars, config.exclude)
        sizes = [len(part) for part in features]
        for name, table in (
            ("features", np.concatenate(features)),  # (S, F) of the spots of all sections
            ("labels", np.concatenate(train.labels)),  # (S, G)
            ("exemplars", exemplars),  # (S, k)
            ("first_spot", np.cumsum([0, *sizes[:-1]])),  # of each section
        ):
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def forward(self, batch: SpotBatch) -> Tensor:
        features, labels = self.get_buffer("features"), self.get_buffer("labels")
        spots = self.get_buffer("first_spot")[batch.section] + batch.row  # (B,)
        found = self.get_buffer("exemplars")[spots]  # (B, k)
        images = normalize_tiles(batch.tiles)
        predicted = self.model(images, features[spots], features[found], labels[found])
        return correlation_loss(predicted, batch.labels, self._weight)


class BleepObjective(Objective):
    """Computes the contrastive loss of spots drawn from all sections.

    With several processes, each process contrasts its own share of the batch. See docs/models.md,
    "BLEEP".
    """

    model: Bleep

    def __init__(self, model: Bleep, temperature: float) -> None:
        super().__init__()
        self.model = model
        self._temperature = temperature

    def forward(self, batch: SpotBatch) -> Tensor:
        images = self.model.encode_targets(normalize_tiles(batch.tiles)).squeeze(1)
        expression = self.model.encode_expression(batch.labels)
        # products of embeddings are as large as the embeddings are wide: too much for 8 bits
        with torch.autocast(images.device.type, enabled=False):
            return contrastive_loss(images.float(), expression.float(), self._temperature)
