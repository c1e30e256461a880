"""Hist2ST: convolutions within patches, attention and a graph between spots (Zeng et al. 2022)."""

from torch import Tensor, nn

from triplex_deploy.models.conv_mixer import ConvMixerEncoder
from triplex_deploy.models.spot_graph import SpotGraph
from triplex_deploy.models.spot_model import SpotModel
from triplex_deploy.models.spot_sequence import SpotSequence
from triplex_deploy.models.transformer import BlockShape
from triplex_deploy.models.zinb import ZinbHeads


class Hist2St(SpotModel):
    """Every spot of a slide from the patches, places and neighbours of all of them (MODELS 2.3).

    Tokens are as wide as the image encoder's map, 1024 of a 112 px patch and 32 channels.
    ``zinb_heads`` and ``distillation_weight`` serve ``hist2st_loss`` alone: no prediction reads
    them. ``n_pos`` is one more than the largest array coordinate to come.
    """

    def __init__(
        self,
        n_genes: int = 250,
        *,
        patch_px: int = 112,
        channels: int = 32,
        kernel: int = 5,
        mixer_depth: int = 2,
        depth: int = 8,
        graph_depth: int = 4,
        heads: int = 16,
        dropout: float = 0.2,
        n_pos: int = 64,
    ) -> None:
        super().__init__()
        self.target_encoder = ConvMixerEncoder(patch_px, channels, kernel, mixer_depth, dropout)
        dim = self.target_encoder.dim
        shape = BlockShape(dim, heads, mlp_dim=dim, dropout=dropout)
        self.global_encoder = SpotGraphEncoder(depth, shape, n_pos, graph_depth)
        self.expression_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, n_genes))
        self.zinb_heads = ZinbHeads(dim, n_genes)
        self.distillation_weight = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, images: Tensor, grid_xy: Tensor, adjacency: Tensor) -> Tensor:
        """Expression (N, G) of a slide: normalised tiles (N, 3, 224, 224), (column, row) (N, 2).

        ``adjacency`` (N, 4) int64 is ``tiles.adjacency.adjacency_index``'s, -1 = none.
        """
        tokens = self.encode_slide(self.encode_targets(images), grid_xy, adjacency)
        return self.predict_from_tokens(tokens)

    def encode_targets(self, images: Tensor) -> Tensor:
        """One token a spot (B, 1, D) of the centres of normalised tiles (B, 3, 224, 224)."""
        tokens: Tensor = self.target_encoder(images)
        return tokens

    def encode_slide(self, target_tokens: Tensor, grid_xy: Tensor, adjacency: Tensor) -> Tensor:
        """Tokens (N, 1, D), int64 (column, row) (N, 2) and neighbours (N, 4) to (N, D)."""
        global_tokens: Tensor = self.global_encoder(target_tokens.flatten(1), grid_xy, adjacency)
        return global_tokens

    def predict_from_tokens(self, global_tokens: Tensor) -> Tensor:
        """Expression (B, G) of tokens (B, D), the spots possibly of several slides."""
        expression: Tensor = self.expression_head(global_tokens)
        return expression


class SpotGraphEncoder(nn.Module):
    """Attention between all spots (N, D), then layers between neighbours."""

    def __init__(self, depth: int, shape: BlockShape, n_pos: int, graph_depth: int) -> None:
        super().__init__()
        self.sequence = SpotSequence(depth, shape, n_pos, token_dropout=0.0)
        self.graph = SpotGraph(shape.dim, graph_depth)

    def forward(self, tokens: Tensor, grid_xy: Tensor, adjacency: Tensor) -> Tensor:
        result: Tensor = self.graph(self.sequence(tokens, grid_xy), adjacency)
        return result
