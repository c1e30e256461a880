"""Fusions without cross-attention, over one mean token per view (paper Table 5; MODELS 4.3)."""

from typing import Final

import torch
from torch import Tensor, nn

ATTENTION_DIM: Final = 128


class PooledFusion(nn.Module):
    """Pooled tokens (B, V, D) of V views to one vector (B, ``dim``), normalised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.norm = nn.LayerNorm(dim)


class SumFusion(PooledFusion):
    """Their sum (B, D)."""

    def __init__(self, dim: int, views: int) -> None:
        super().__init__(dim)

    def forward(self, pooled: Tensor) -> Tensor:
        fused: Tensor = self.norm(pooled.sum(1))
        return fused


class ConcatFusion(PooledFusion):
    """They side by side (B, V * D)."""

    def __init__(self, dim: int, views: int) -> None:
        super().__init__(dim * views)

    def forward(self, pooled: Tensor) -> Tensor:
        fused: Tensor = self.norm(pooled.flatten(1))
        return fused


class AttentionPool(PooledFusion):
    """Their sum (B, D) weighted by softmax(w tanh(V h)), as Ilse et al. (2018), not gated."""

    def __init__(self, dim: int, views: int) -> None:
        super().__init__(dim)
        self.hidden = nn.Linear(dim, ATTENTION_DIM)
        self.weight = nn.Linear(ATTENTION_DIM, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        weights = self.weight(torch.tanh(self.hidden(pooled))).softmax(1)  # (B, V, 1)
        fused: Tensor = self.norm((weights * pooled).sum(1))
        return fused


POOLED_FUSIONS: Final = {
    "sum": SumFusion,
    "concat": ConcatFusion,
    "attention_pool": AttentionPool,
}
