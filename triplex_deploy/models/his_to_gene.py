"""HisToGene: a vision transformer whose patches are the spots of a slide (Pang et al. 2021)."""

from torch import Tensor, nn

from triplex_deploy.contract import HisToGeneConfig
from triplex_deploy.models.image_encoders import center_crop
from triplex_deploy.models.spot_model import SpotModel
from triplex_deploy.models.transformer import BlockShape, SpotSequence


class HisToGene(SpotModel):
    """Predicts the spots of a slide from the patches and coordinates of all its spots.

    A spot attends to all spots of the slide, so a part of the slide gives other predictions.
    ``config.depth`` 8 is the depth of the published checkpoint; the default of the published code
    is 4. See docs/models.md, "HisToGene".
    """

    config: HisToGeneConfig

    def __init__(self, config: HisToGeneConfig, *, patch_px: int = 112) -> None:
        super().__init__(config)
        dim, dropout = config.embedding_dim, config.dropout
        shape = BlockShape(dim, config.heads, config.mlp_dim, dropout)
        self.target_encoder = PatchProjection(patch_px, dim)
        self.global_encoder = SpotSequence(
            config.depth, shape, config.n_positions, token_dropout=dropout
        )
        self.expression_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, config.n_genes))

    def forward(self, images: Tensor, grid_xy: Tensor) -> Tensor:
        """Return the expression (N, G) of a slide.

        Args:
            images: Normalized tiles (N, 3, 224, 224).
            grid_xy: Column and row (N, 2) of each spot, int64.
        """
        return self.predict_from_tokens(self.encode_slide(self.encode_targets(images), grid_xy))

    def encode_targets(self, images: Tensor) -> Tensor:
        """Return a token (B, 1, D) of the center of each normalized tile (B, 3, 224, 224)."""
        tokens: Tensor = self.target_encoder(images)
        return tokens

    def encode_slide(self, target_tokens: Tensor, grid_xy: Tensor) -> Tensor:
        """Return tokens (N, D) of a slide from tokens (N, 1, D) and (column, row) (N, 2)."""
        global_tokens: Tensor = self.global_encoder(target_tokens.flatten(1), grid_xy)
        return global_tokens

    def predict_from_tokens(self, global_tokens: Tensor) -> Tensor:
        """Return the expression (B, G) of tokens (B, D), possibly of several slides."""
        expression: Tensor = self.expression_head(global_tokens)
        return expression


class PatchProjection(nn.Module):
    """Projects the center of tiles (B, 3, h, h), flattened channel first, to tokens (B, 1, D).

    Equals a convolution, computed as one matrix product for the batch.
    """

    def __init__(self, patch_px: int, dim: int) -> None:
        super().__init__()
        self.patch_px = patch_px
        self.projection = nn.Linear(3 * patch_px * patch_px, dim)

    def forward(self, images: Tensor) -> Tensor:
        patches = center_crop(images, self.patch_px).flatten(1)  # (B, 3 * h * h)
        tokens: Tensor = self.projection(patches).unsqueeze(1)
        return tokens
