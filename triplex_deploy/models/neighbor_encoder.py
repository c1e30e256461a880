"""Transformer over the 5x5 tiles around a spot (paper section 3.3)."""

from torch import Tensor, nn

from triplex_deploy.contract import NEIGHBORHOOD
from triplex_deploy.models.feature_projection import feature_projection
from triplex_deploy.models.relative_bias import RelativeBias
from triplex_deploy.models.transformer import BlockShape, SelfAttentionBlock


class NeighborEncoder(nn.Module):
    """Tile features (B, 25, F) and mask (B, 25) to neighbour tokens (B, 25, D).

    The mask, True inside the slide, hides keys only: a masked tile still yields a token. Features
    of another width than the tokens are projected.
    """

    def __init__(self, depth: int, shape: BlockShape, feature_dim: int | None = None) -> None:
        super().__init__()
        self.projection = feature_projection(feature_dim, shape.dim)
        self.layers = nn.ModuleList(
            SelfAttentionBlock(shape, RelativeBias(shape.heads, NEIGHBORHOOD)) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(shape.dim)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        tokens = self.projection(features)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        result: Tensor = self.norm(tokens)
        return result
