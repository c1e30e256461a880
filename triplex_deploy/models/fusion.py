"""Cross-attention that joins the three resolutions of a spot (paper section 3.5)."""

from torch import Tensor, nn

from triplex_deploy.models.transformer import BlockShape, CrossAttentionBlock


class FusionEncoder(nn.Module):
    """The spot's global token queries its target and its neighbour tokens, through shared weights.

    The two results are summed, so the global token enters twice, and normalised: (B, D).
    """

    def __init__(self, depth: int, shape: BlockShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossAttentionBlock(shape) for _ in range(depth))
        self.norm = nn.LayerNorm(shape.dim)

    def forward(
        self, global_tokens: Tensor, target_tokens: Tensor, neighbor_tokens: Tensor, mask: Tensor
    ) -> Tensor:
        """Fuse (B, D), (B, 49, D) and (B, 25, D); mask (B, 25) is True inside the slide."""
        query = global_tokens.unsqueeze(1)  # (B, 1, D)
        from_target = self._attend(query, target_tokens, None)
        from_neighbor = self._attend(query, neighbor_tokens, mask)
        result: Tensor = self.norm(from_target + from_neighbor).squeeze(1)
        return result

    def _attend(self, query: Tensor, context: Tensor, key_mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            query = layer(query, context, key_mask)
        return query
