"""Score an epoch on the sections that choose the best epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from triplex_deploy.contract import BleepConfig
from triplex_deploy.expression import FoldMetrics, measure_fold, measure_slide
from triplex_deploy.models import SpotModel
from triplex_deploy.models.bleep import Bleep, contrastive_loss
from triplex_deploy.training.frozen_backbone import BackboneMaps
from triplex_deploy.training.predict_section import SectionGraphs, measure_model
from triplex_deploy.training.prepared import LabeledSections

Row = dict[str, float]
Score = Callable[[SpotModel, LabeledSections, BackboneMaps | None], tuple[Row, float]]
"""Returns a row of numbers for the history, and the score, of which the highest wins."""

CONTRASTED: Final = 128
"""Spots per batch of the contrastive score; fixed, because the loss depends on this number."""
_ORDER_SEED: Final = 0


def correlation_score(
    model: SpotModel, select: LabeledSections, maps: BackboneMaps | None
) -> tuple[Row, float]:
    """Return the mean correlation over slides and genes, -inf if it is not defined."""
    metrics = measure_model(model, select.sections, select.labels, maps)
    return _row(metrics), -math.inf if math.isnan(metrics.pcc_m) else metrics.pcc_m


@torch.inference_mode()
def contrastive_score(
    model: SpotModel, select: LabeledSections, maps: BackboneMaps | None
) -> tuple[Row, float]:
    """Return BLEEP's negated loss, by which the published code selects epochs.

    Spots of all sections are mixed in one fixed order. A last batch of fewer than ``CONTRASTED``
    spots counts only if it is the only batch. See docs/models.md, "Epoch selection".
    """
    assert isinstance(model, Bleep)
    assert isinstance(model.config, BleepConfig)
    device = next(model.parameters()).device
    tokens, slides = [], []
    for section, measured in zip(select.sections, select.labels, strict=True):
        graphs = SectionGraphs(model, section, maps)
        tokens.append(graphs.output("target_tokens", graphs.all_rows))
        predicted = model.predict_from_tokens(tokens[-1])
        slides.append(measure_slide(measured, predicted.float().cpu().numpy()))
    labels = torch.from_numpy(np.concatenate(select.labels)).to(device)
    temperature = model.config.temperature
    loss = _contrastive(torch.cat(tokens).squeeze(1), model.encode_expression(labels), temperature)
    return _row(measure_fold(slides)) | {"select_loss": loss}, -loss


def _contrastive(images: Tensor, expression: Tensor, temperature: float) -> float:
    order = np.random.default_rng(_ORDER_SEED).permutation(len(images))
    count = max(1, len(order) // CONTRASTED)
    losses = []
    for batch in range(count):
        rows = torch.from_numpy(order[batch * CONTRASTED : (batch + 1) * CONTRASTED])
        rows = rows.to(images.device)
        losses.append(float(contrastive_loss(images[rows], expression[rows], temperature)))
    return float(np.mean(losses))


def _row(metrics: FoldMetrics) -> Row:
    return {"select_pcc": metrics.pcc_m, "select_mse": metrics.mse, "select_mae": metrics.mae}
