"""Hist2ST's training objective: expression, counts, and agreement with augmented passes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from triplex_deploy.models.hist2st import Hist2St
from triplex_deploy.models.patch_augment import augment_patches
from triplex_deploy.models.zinb import library_scale, zinb_nll


def hist2st_loss(
    model: Hist2St,
    images: Tensor,
    grid_xy: Tensor,
    adjacency: Tensor,
    labels: Tensor,
    counts: Tensor,
    *,
    zinb_weight: float = 0.25,
    distillation_weight: float = 0.5,
    passes: int = 5,
) -> Tensor:
    """Loss of all N spots of one slide (MODELS 2.3), which takes ``passes`` + 1 forward passes.

    ``images`` (N, 3, 224, 224) normalised and not augmented; ``grid_xy`` (N, 2) and ``adjacency``
    (N, 4) int64; ``labels`` (N, G); ``counts`` (N, G) raw counts of the panel, not smoothed. As
    published, neither side of the distillation is detached.
    """
    tokens = model.encode_slide(model.encode_targets(images), grid_xy, adjacency)
    prediction = model.predict_from_tokens(tokens)  # (N, G)
    counts = counts.float()
    likelihood = zinb_nll(counts, model.zinb_heads(tokens), library_scale(counts))
    distilled = _distil(model, images, grid_xy, adjacency, passes)
    return (
        F.mse_loss(prediction, labels)
        + zinb_weight * likelihood
        + distillation_weight * F.mse_loss(distilled, prediction)
    )


def _distil(
    model: Hist2St, images: Tensor, grid_xy: Tensor, adjacency: Tensor, passes: int
) -> Tensor:
    """The prediction (N, G) of augmented passes, weighted for each spot by what it says itself."""
    predictions, logits = [], []
    for _ in range(passes):
        patches = augment_patches(images, model.target_encoder.patch_px)
        tokens = model.encode_slide(model.encode_targets(patches), grid_xy, adjacency)
        predictions.append(model.predict_from_tokens(tokens))
        logits.append(model.distillation_weight(tokens))
    weights = torch.stack(logits).softmax(0)  # (passes, N, 1)
    return (weights * torch.stack(predictions)).sum(0)
