"""The training objective: supervision of every head, and distillation from the fused one."""

import torch.nn.functional as F
from torch import Tensor

from triplex_deploy.models.triplex import TriplexOutput


def fusion_loss(output: TriplexOutput, labels: Tensor, alpha: float) -> Tensor:
    """Loss of paper equations 14-16 for labels (B, G); ``alpha`` weighs the distillation.

    The fused prediction is not detached: as published, the distillation also pulls it towards the
    single-resolution heads. Without such heads it is the mean squared error of the prediction.
    """
    loss = F.mse_loss(output.fusion, labels)
    for prediction in (output.target, output.neighbor, output.global_):
        if prediction is None:
            continue
        supervised = F.mse_loss(prediction, labels)
        distilled = F.mse_loss(prediction, output.fusion)
        loss = loss + (1 - alpha) * supervised + alpha * distilled
    return loss
