"""Cross-attention that joins the resolutions of a spot (paper section 3.5)."""

from torch import Tensor, nn

from triplex_deploy.models.transformer import BlockShape, CrossAttentionBlock


class FusionEncoder(nn.Module):
    """The spot's global token queries its target and its neighbour tokens, through shared weights.

    The results are summed, so the global token enters twice, and normalised: (B, D). A view that
    is None takes no part; without the global one the mean target token queries the neighbours
    (MODELS 4.1).
    """

    def __init__(self, depth: int, shape: BlockShape) -> None:
        super().__init__()
        self.dim = shape.dim
        self.layers = nn.ModuleList(CrossAttentionBlock(shape) for _ in range(depth))
        self.norm = nn.LayerNorm(shape.dim)

    def forward(
        self,
        global_tokens: Tensor | None = None,
        target_tokens: Tensor | None = None,
        neighbor_tokens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Fuse (B, D), (B, 49, D) and (B, 25, D); mask (B, 25) is True inside the slide."""
        if global_tokens is None:
            assert target_tokens is not None, "a fusion joins two views or three"
            query, target_tokens = target_tokens.mean(1, keepdim=True), None
        else:
            query = global_tokens.unsqueeze(1)  # (B, 1, D)
        contexts = ((target_tokens, None), (neighbor_tokens, mask))
        fused = [self._attend(query, seen, keys) for seen, keys in contexts if seen is not None]
        result: Tensor = self.norm(sum(fused[1:], fused[0])).squeeze(1)
        return result

    def _attend(self, query: Tensor, context: Tensor, key_mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            query = layer(query, context, key_mask)
        return query
