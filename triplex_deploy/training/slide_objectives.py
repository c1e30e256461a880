"""Losses of the models that relate all spots of a slide: a batch is one whole section."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triplex_deploy.contract import Hist2StConfig
from triplex_deploy.models import SpotModel
from triplex_deploy.models.hist2st import Hist2St
from triplex_deploy.models.hist2st_loss import hist2st_loss
from triplex_deploy.tiles.spot_tables import spot_tables
from triplex_deploy.training.images import normalise_tiles
from triplex_deploy.training.labelled import LabelledSections
from triplex_deploy.training.objective import Objective
from triplex_deploy.training.spot_batches import SpotBatch


class SlideObjective(Objective):
    """Mean squared error over all spots of a section, as HisToGene is trained (MODELS 2.2).

    Coordinates that the model does not know raise ``SpotsError``.
    """

    def __init__(self, model: SpotModel, train: LabelledSections) -> None:
        super().__init__()
        self.model = model
        self._table_names: tuple[str, ...] = ()
        for number, one in enumerate(train.sections):
            tables = spot_tables(model.config, one.section.grid_rc)
            self._table_names = tuple(tables)
            for name, table in tables.items():
                buffer = torch.from_numpy(table)
                self.register_buffer(f"{name}_{number}", buffer, persistent=False)

    def forward(self, batch: SpotBatch) -> Tensor:
        predicted = self.model(normalise_tiles(batch.tiles), **self.tables(batch))  # (N, G)
        return F.mse_loss(predicted.float(), batch.labels)

    def tables(self, batch: SpotBatch) -> dict[str, Tensor]:
        """The tables (N, ...) of the batch's section, by tensor name."""
        number = int(batch.section[0])
        return {name: self.get_buffer(f"{name}_{number}") for name in self._table_names}


class Hist2StObjective(SlideObjective):
    """Hist2ST's: with it the counts, and agreement with augmented passes (MODELS 2.3)."""

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
            normalise_tiles(batch.tiles),
            tables["grid_xy"],
            tables["adjacency"],
            labels=batch.labels,
            counts=self.get_buffer(f"counts_{int(batch.section[0])}"),
            zinb_weight=self._config.zinb_weight,
            distillation_weight=self._config.distillation_weight,
        )
