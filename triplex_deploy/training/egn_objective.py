"""EGN's loss: spots read beside their exemplars, which are never of their own tissue."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from triplex_deploy.contract import EgnConfig
from triplex_deploy.models.correlation_loss import correlation_loss
from triplex_deploy.models.egn import Egn
from triplex_deploy.training.exemplar_index import training_exemplars
from triplex_deploy.training.images import normalise_tiles
from triplex_deploy.training.labelled import LabelledSections
from triplex_deploy.training.objective import Objective
from triplex_deploy.training.spot_batches import SpotBatch


class EgnObjective(Objective):
    """Squared error and correlation over a batch of spots of all sections (MODELS 2.4).

    Exemplars are found once, by ``training_exemplars``, whose errors this raises.
    """

    model: Egn

    def __init__(self, model: Egn, config: EgnConfig, train: LabelledSections) -> None:
        super().__init__()
        self.model = model
        self._weight = config.correlation_weight
        features = [one.spot_features() for one in train.sections]
        patients = [one.section.patient for one in train.sections]
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
        images = normalise_tiles(batch.tiles)
        predicted = self.model(images, features[spots], features[found], labels[found])
        return correlation_loss(predicted, batch.labels, self._weight)
