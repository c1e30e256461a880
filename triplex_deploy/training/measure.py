"""A model's predictions of prepared sections, and how far they are from the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from triplex_deploy.expression import FoldMetrics, measure_fold, measure_slide
from triplex_deploy.models import SpotModel, assert_eval
from triplex_deploy.training.prepared import PreparedSection
from triplex_deploy.training.section_graphs import SPOTS_PER_BATCH, SectionGraphs
from triplex_deploy.training.trunk_maps import TrunkMaps


@torch.inference_mode()
def predict_section(
    model: SpotModel, one: PreparedSection, maps: TrunkMaps | None = None
) -> NDArray[np.float32]:
    """Expression (N, G) of a prepared section by a model in evaluation mode, on its device.

    ``maps`` of a frozen trunk save encoding the tiles. A model that looks up training spots has
    them; array coordinates that a model does not know raise ``SpotsError``.
    """
    assert_eval(model)
    graphs = SectionGraphs(model, one, maps)
    parts = []
    for begin in range(0, one.section.n_spots, SPOTS_PER_BATCH):
        rows = graphs.all_rows[begin : begin + SPOTS_PER_BATCH]
        parts.append(graphs.output("expression", rows).float().cpu().numpy())
    return np.concatenate(parts)


def measure_model(
    model: SpotModel,
    sections: Sequence[PreparedSection],
    labels: Sequence[NDArray[np.float32]],
    maps: TrunkMaps | None = None,
) -> FoldMetrics:
    """Compare the model's predictions of sections with their labels."""
    pairs = zip(sections, labels, strict=True)
    return measure_fold([measure_slide(y, predict_section(model, one, maps)) for one, y in pairs])


def measure_constant(
    constant: NDArray[np.float64], labels: Sequence[NDArray[np.float32]]
) -> FoldMetrics:
    """What predicting one value per gene everywhere would score."""
    return measure_fold([measure_slide(y, np.broadcast_to(constant, y.shape)) for y in labels])
