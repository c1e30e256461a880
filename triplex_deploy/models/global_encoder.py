"""Transformer over all spots of one slide (paper section 3.4)."""

from torch import Tensor, nn

from triplex_deploy.models.apeg import Apeg
from triplex_deploy.models.feature_projection import feature_projection
from triplex_deploy.models.transformer import BlockShape, SelfAttentionBlock


class GlobalEncoder(nn.Module):
    """Spot features (N, F) of one slide to global tokens (N, D), positions entering after layer 1.

    ``apeg=None`` leaves out the position encoding, and ``apeg_index`` is then not read. Features
    of another width than the tokens are projected.
    """

    def __init__(
        self, depth: int, shape: BlockShape, apeg: Apeg | None, feature_dim: int | None = None
    ) -> None:
        super().__init__()
        self.projection = feature_projection(feature_dim, shape.dim)
        self.layers = nn.ModuleList(SelfAttentionBlock(shape) for _ in range(depth))
        self.apeg = apeg
        self.norm = nn.LayerNorm(shape.dim)

    def forward(self, features: Tensor, apeg_index: Tensor) -> Tensor:
        tokens = self.projection(features).unsqueeze(0)  # (1, N, D)
        for depth, layer in enumerate(self.layers):
            tokens = layer(tokens)
            if depth == 0 and self.apeg is not None:
                tokens = self.apeg(tokens.squeeze(0), apeg_index).unsqueeze(0)
        result: Tensor = self.norm(tokens).squeeze(0)
        return result
