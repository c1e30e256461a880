"""Zero-inflated negative binomial counts, which Hist2ST learns beside the expression."""

import math
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MEAN_RANGE: Final = (1e-5, 1e6)
_DISPERSION_RANGE: Final = (1e-4, 1e4)
_EPS: Final = 1e-10


class Zinb(NamedTuple):
    """Parameters (N, G) of counts: zero with probability ``inflation``, else negative binomial.

    Its variance is mean + mean^2 / dispersion.
    """

    mean: Tensor
    dispersion: Tensor
    inflation: Tensor


class ZinbHeads(nn.Module):
    """Tokens (N, D) to the parameters of each gene's counts, in float32 under autocast too."""

    def __init__(self, dim: int, n_genes: int) -> None:
        super().__init__()
        self.mean = nn.Linear(dim, n_genes)
        self.dispersion = nn.Linear(dim, n_genes)
        self.inflation = nn.Linear(dim, n_genes)

    def forward(self, tokens: Tensor) -> Zinb:
        low, high = map(math.log, _MEAN_RANGE)
        return Zinb(
            # clamped before the exponential: past it, an overflow would make the gradient NaN
            mean=self.mean(tokens).float().clamp(low, high).exp(),
            dispersion=F.softplus(self.dispersion(tokens).float()).clamp(*_DISPERSION_RANGE),
            inflation=self.inflation(tokens).float().sigmoid(),
        )


def library_scale(counts: Tensor) -> Tensor:
    """Each spot's total (N, 1) over the slide's median total; of counts (N, G), floating point.

    Where half of the spots are empty, the median counts as one.
    """
    totals = counts.sum(1, keepdim=True)
    return totals / totals.quantile(0.5).clamp_min(1)


def zinb_nll(counts: Tensor, zinb: Zinb, scale: Tensor) -> Tensor:
    """Mean negative log-likelihood of raw counts (N, G), the means multiplied by ``scale`` (N, 1).

    MODELS 2.3; ``counts`` are whole numbers in floating point.
    """
    mean, size = zinb.mean * scale, zinb.dispersion
    fewer = torch.log1p(mean / size)  # -ln of the zero's probability, per unit of size
    negative_binomial = (
        torch.lgamma(size)
        + torch.lgamma(counts + 1)
        - torch.lgamma(counts + size)
        + (size + counts) * fewer
        + counts * (torch.log(size) - torch.log(mean + _EPS))
    )
    some = negative_binomial - torch.log(1 - zinb.inflation + _EPS)
    chance = zinb.inflation + (1 - zinb.inflation) * torch.exp(-size * fewer)
    return torch.where(counts == 0, -torch.log(chance + _EPS), some).mean()
