"""EGN's training objective: squared error, and correlation of each gene over the batch."""

from typing import Final

import torch.nn.functional as F
from torch import Tensor

_EPSILON: Final = 1e-8


def correlation_loss(predicted: Tensor, labels: Tensor, weight: float = 0.5) -> Tensor:
    """MSE + ``weight`` (1 - mean over genes of Pearson's r), both (B, G) (Yang et al. 2023).

    A half is the weight of the published code, one that of its paper. r is over the batch alone, so
    that it wants a large one; of a gene that is constant there it is 0, without a gradient that is
    not finite.
    """
    predicted, labels = predicted.float(), labels.float()  # the epsilon is nothing in float16
    error = F.mse_loss(predicted, labels)
    return error + weight * (1 - _pearson(predicted, labels).mean())


def _pearson(predicted: Tensor, labels: Tensor) -> Tensor:
    """Pearson's r (G,) of the columns, 0 where one is constant."""
    a, b = predicted - predicted.mean(0), labels - labels.mean(0)
    spread = (a.square().mean(0) + _EPSILON) * (b.square().mean(0) + _EPSILON)
    return (a * b).mean(0) / spread.sqrt()
