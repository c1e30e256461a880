"""Pre-norm transformer blocks, the unit every TRIPLEX encoder is stacked from."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from triplex_deploy.models.attention import CrossAttention, SelfAttention


@dataclass(frozen=True)
class BlockShape:
    """Width, heads, hidden width of the MLP, and dropout of one block."""

    dim: int
    heads: int
    mlp_dim: int
    dropout: float = 0.0


class Mlp(nn.Module):
    """Linear, exact GELU, Linear, with dropout after each linear's activation."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.expand = nn.Linear(shape.dim, shape.mlp_dim)
        self.contract = nn.Linear(shape.mlp_dim, shape.dim)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.dropout(F.gelu(self.expand(tokens)))
        result: Tensor = self.dropout(self.contract(hidden))
        return result


class SelfAttentionBlock(nn.Module):
    """Tokens (B, L, D) attend to each other; ``key_mask`` (B, L) is True where a key is seen."""

    def __init__(self, shape: BlockShape, bias: nn.Module | None = None) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.dim)
        self.attention = SelfAttention(shape.dim, shape.heads, shape.dropout, bias)
        self.mlp_norm = nn.LayerNorm(shape.dim)
        self.mlp = Mlp(shape)

    def forward(self, tokens: Tensor, key_mask: Tensor | None = None) -> Tensor:
        tokens = tokens + self.attention(self.attention_norm(tokens), key_mask)
        result: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return result


class CrossAttentionBlock(nn.Module):
    """Queries (B, Q, D) attend to a context (B, L, D); one LayerNorm serves both."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.dim)
        self.attention = CrossAttention(shape.dim, shape.heads, shape.dropout)
        self.mlp_norm = nn.LayerNorm(shape.dim)
        self.mlp = Mlp(shape)

    def forward(self, queries: Tensor, context: Tensor, key_mask: Tensor | None = None) -> Tensor:
        normed = self.attention_norm(queries), self.attention_norm(context)
        queries = queries + self.attention(*normed, key_mask)
        result: Tensor = queries + self.mlp(self.mlp_norm(queries))
        return result
