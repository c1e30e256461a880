"""EGN's view of a spot beside its exemplars: one query and one key each (Yang et al. 2023)."""

from typing import Final

import torch
from torch import Tensor, nn

from triplex_deploy.models.transformer import BlockShape, Mlp

_DEPTH: Final = 2


class ExemplarProjector(nn.Module):
    """Global features become a query, exemplars keys; both pass the same residual MLPs."""

    def __init__(self, feature_dim: int, n_genes: int, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(feature_dim, dim)
        self.key = nn.Linear(feature_dim + n_genes, dim)
        self.blocks = nn.Sequential(*(ResidualMlp(dim) for _ in range(_DEPTH)))

    def forward(
        self, features: Tensor, exemplar_features: Tensor, exemplar_expression: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Query (B, 1, D) of features (B, F), keys (B, k, D) of (B, k, F) and (B, k, G)."""
        query = self.query(features).unsqueeze(1)
        keys = self.key(torch.cat([exemplar_features, exemplar_expression], 2))
        projected = self.blocks(torch.cat([query, keys], 1))  # (B, 1 + k, D)
        return projected[:, :1], projected[:, 1:]


class ResidualMlp(nn.Module):
    """x + Mlp(LayerNorm(x)) of each token, as wide inside as outside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mlp = Mlp(BlockShape(dim, heads=1, mlp_dim=dim))

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = tokens + self.mlp(self.norm(tokens))
        return result
