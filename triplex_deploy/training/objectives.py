"""Compute the losses of training, from a batch of spots to a scalar.

A family names the function that makes its objective in ``TrainingRecipe.objective``. Each function
takes the model, the labeled training sections, the options and the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

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
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepared import LabeledSections, PreparedSection


class Objective(nn.Module, ABC):
    """Holds a model and the training data that its loss needs, on the model's device."""

    model: SpotModel
    """The trained model."""
    maps: BackboneMaps | None = None
    """Maps of a frozen backbone, used instead of tiles in training and scoring; None without."""

    @abstractmethod
    def forward(self, batch: SpotBatch) -> Tensor:
        """Return the loss of a batch, a scalar."""


def mean_squared_error(
    model: Any, train: LabeledSections, options: TrainOptions, device: torch.device
) -> Objective:
    """Return the mean squared error over spots of all sections."""
    return SpotObjective(model)


class SpotObjective(Objective):
    """Computes the mean squared error of spots drawn from all sections.

    See docs/models.md, "ST-Net".
    """

    def __init__(self, model: SpotModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: SpotBatch) -> Tensor:
        predicted = self.model(normalize_tiles(batch.tiles))  # (B, G)
        return F.mse_loss(predicted.float(), batch.labels)


def section_mean_squared_error(
    model: Any, train: LabeledSections, options: TrainOptions, device: torch.device
) -> Objective:
    """Return the mean squared error over all spots of a section."""
    return SectionObjective(model, train)


class SectionObjective(Objective):
    """Computes the mean squared error over all spots of a section.

    See docs/models.md, "HisToGene". Raises ``SpotsError`` for coordinates outside the range that
    the model has positions for.
    """

    def __init__(self, model: SpotModel, train: LabeledSections) -> None:
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
        """Return the tables (N, ...) of the batch's section, by tensor name."""
        number = int(batch.section[0])
        return {name: self.get_buffer(f"{name}_{number}") for name in self._table_names}


def hist2st_objective(
    model: Any, train: LabeledSections, options: TrainOptions, device: torch.device
) -> Objective:
    """Return the objective of Hist2ST."""
    return Hist2StObjective(model, model.config, train)


class Hist2StObjective(SectionObjective):
    """Adds the loss of the counts and the agreement with augmented passes.

    See docs/models.md, "Hist2ST".
    """

    model: Hist2St

    def __init__(self, model: Hist2St, config: Hist2StConfig, train: LabeledSections) -> None:
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


def egn_objective(
    model: Any, train: LabeledSections, options: TrainOptions, device: torch.device
) -> Objective:
    """Return the objective of EGN."""
    return EgnObjective(model, model.config, train)


class EgnObjective(Objective):
    """Adds the squared error and the correlation over a batch of spots of all sections.

    Finds exemplars once, with ``training_exemplars``, and raises the errors of that function. See
    docs/models.md, "EGN".
    """

    model: Egn

    def __init__(self, model: Egn, config: EgnConfig, train: LabeledSections) -> None:
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


def bleep_objective(
    model: Any, train: LabeledSections, options: TrainOptions, device: torch.device
) -> Objective:
    """Return the objective of BLEEP."""
    return BleepObjective(model, model.config.temperature)


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
        # products of embeddings grow with the width of the embeddings, too large for bfloat16
        with torch.autocast(images.device.type, enabled=False):
            return contrastive_loss(images.float(), expression.float(), self._temperature)


def triplex_objective(
    model: Triplex, train: LabeledSections, options: TrainOptions, device: torch.device
) -> Objective:
    """Return the objective of TRIPLEX and its parts."""
    maps = _backbone_maps(model, options, device)
    return TriplexObjective(model, train.sections, maps, options.feature_dropout)


def _backbone_maps(
    model: Triplex, options: TrainOptions, device: torch.device
) -> BackboneMaps | None:
    """Return the maps of a backbone that is frozen and sees tiles without augmentation, or None."""
    if model.target_encoder is None or options.backbone_lr_scale != 0 or options.augment:
        return None
    model.target_encoder.backbone.eval()
    return BackboneMaps(model.target_encoder.to(device), device)


class TriplexObjective(Objective):
    """Computes the loss of TRIPLEX over batches that mix sections.

    Each section in a batch is encoded as a whole, once. See docs/models.md, "Training loss".
    """

    model: Triplex

    def __init__(
        self,
        model: Triplex,
        sections: Sequence[PreparedSection],
        maps: BackboneMaps | None = None,
        feature_dropout: float = 0.0,
    ) -> None:
        """Keep what the loss needs of the sections.

        Args:
            model: The trained model.
            sections: The training sections.
            maps: Maps of a frozen backbone, if tiles are not augmented; they replace the tiles.
            feature_dropout: Share of the frozen features that each step replaces by their mean.
        """
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
        """Return the predictions (B, G) of the batch."""
        return self.model.predict_from_tokens(
            None if self.model.global_encoder is None else self._global_tokens(batch),
            None if self.model.target_encoder is None else self._target_tokens(batch),
            self.model.encode_neighbors(self._hide(batch.neighbor_features), batch.mask),
            batch.mask,
        )

    def _target_tokens(self, batch: SpotBatch) -> Tensor:
        """Return tokens (B, 49, D), from the maps if the backbone is frozen."""
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
        """Return tokens (B, D) of the spots; batches are ordered by section."""
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
        """Return features (..., F), some of them replaced by their mean.

        In the maps of a backbone (``tokens``), the same features of all tokens of a map.
        """
        if not (self.training and self._dropout):
            return features
        shape = (len(features), 1, features.shape[2]) if tokens else features.shape
        seen = F.dropout(torch.ones(shape, device=features.device), self._dropout)
        mean = self.get_buffer("map_mean" if tokens else "feature_mean")
        return mean + (features - mean) * seen


def section_index(section: PreparedSection, config: ModelConfig) -> NDArray[np.int64]:
    """Return the neighbor table (N, k*k) of the position encoding of a section."""
    index: NDArray[np.int64] = position_index(
        section.measured.grid_rc, config.position, config.apeg_kernel
    )
    return index
