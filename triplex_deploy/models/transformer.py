"""Transformer blocks that normalize first, from which the encoders of the models are built.

See docs/models.md, "Transformer blocks".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class BlockShape:
    """Holds the sizes of one transformer block."""

    dim: int
    """Width D of a token."""
    heads: int
    """Number of attention heads; divides ``dim``."""
    mlp_dim: int
    """Width of the hidden layer of the MLP."""
    dropout: float = 0.0
    """Dropout probability."""


class Mlp(nn.Module):
    """Applies Linear, exact GELU, dropout, Linear and dropout to each token."""

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
    """Lets tokens (B, L, D) attend to each other, then applies an MLP.

    ``key_mask`` (B, L) is True where a key is visible.
    """

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
    """Lets queries (B, Q, D) attend to a context (B, L, D), then applies an MLP.

    The same LayerNorm normalizes queries and context.
    """

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


MASKED_LOGIT: Final = -65504.0
"""Logit of a masked key: the smallest float16, so a row without visible keys attends equally."""


class DotProductAttention(nn.Module):
    """Computes softmax(q k^T / sqrt(head_dim) + bias) v for each head.

    The attention weights have no dropout. This module has no parameters. It is the attribute
    ``attend`` of each attention, so that an export can replace it by an operator of its target that
    takes and returns the same tensors. If ``fused``, PyTorch does not store the scores when there
    is neither a bias nor a mask.
    """

    def __init__(self, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        self.fused = fused

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the attended values (B, Q, D), with the heads side by side in D.

        Args:
            query: Queries (B, Q, D).
            key: Keys (B, K, D).
            value: Values (B, K, D).
            bias: Added to the scores, (heads, Q, K).
            key_mask: True where a key is visible, (B, K) bool.
        """
        q, k, v = (self._split(packed) for packed in (query, key, value))
        if self.fused and bias is None and key_mask is None:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = _attention_weights(q, k, bias, key_mask) @ v
        return out.transpose(1, 2).flatten(2)

    def _split(self, packed: Tensor) -> Tensor:
        batch, length, dim = packed.shape
        heads = packed.view(batch, length, self.heads, dim // self.heads)
        return heads.transpose(1, 2)  # (B, heads, L, head_dim)


def _attention_weights(
    query: Tensor, key: Tensor, bias: Tensor | None, key_mask: Tensor | None
) -> Tensor:
    """Return the attention weights (B, heads, Q, K).

    PyTorch's fused kernels are not used here: they lose the gradient of a row without visible keys.
    """
    scale: float = key.shape[3] ** -0.5
    logits = query @ key.transpose(2, 3) * scale  # (B, heads, Q, K)
    if bias is not None:
        logits = logits + bias
    if key_mask is not None:
        logits = logits.masked_fill(~key_mask[:, None, None, :], MASKED_LOGIT)
    weights: Tensor = logits.softmax(-1)
    return weights


class SelfAttention(nn.Module):
    """Lets tokens (B, L, D) attend to each other.

    One linear layer without bias gives q, k and v, in this order. ``bias`` is a module that returns
    a table (heads, L, L), which is added to the scores. With a single head there is neither an
    output layer nor dropout, as in the published models.
    """

    def __init__(self, dim: int, heads: int, dropout: float, bias: nn.Module | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.bias = bias
        self.attend: nn.Module = DotProductAttention(heads, fused=True)
        self.out = out_projection(dim, heads)
        self.dropout = nn.Dropout(dropout if heads > 1 else 0.0)

    def forward(self, tokens: Tensor, key_mask: Tensor | None = None) -> Tensor:
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        bias = None if self.bias is None else self.bias()
        attended = self.attend(query, key, value, bias, key_mask)
        result: Tensor = self.dropout(self.out(attended))
        return result


class CrossAttention(nn.Module):
    """Lets queries (B, Q, D) attend to a context (B, L, D).

    One linear layer without bias gives k and v, in this order.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        # With a single query the scores need little memory, and PyTorch's fused operator exports
        # with Shape nodes, which ONNX Runtime's CUDA provider leaves on the CPU.
        self.attend = DotProductAttention(heads, fused=False)
        self.out = out_projection(dim, heads)
        self.dropout = nn.Dropout(dropout if heads > 1 else 0.0)

    def forward(self, queries: Tensor, context: Tensor, key_mask: Tensor | None = None) -> Tensor:
        key, value = self.key_value(context).chunk(2, dim=-1)
        attended = self.attend(self.query(queries), key, value, None, key_mask)
        result: Tensor = self.dropout(self.out(attended))
        return result


def out_projection(dim: int, heads: int) -> nn.Module:
    """Return a linear layer with bias over the concatenated heads, or Identity for one head."""
    return nn.Linear(dim, dim) if heads > 1 else nn.Identity()


class RelativeBias(nn.Module):
    """Returns a learned bias for each head and absolute offset (|drow|, |dcol|) of two cells.

    The cells form a grid of ``side`` x ``side``. The table is indexed in each forward pass and
    never cached, so that it follows ``load_state_dict`` and ``to``.
    """

    offset_index: Tensor

    def __init__(self, heads: int, side: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(heads, side * side))
        self.register_buffer("offset_index", offset_index(side), persistent=False)

    def forward(self) -> Tensor:
        return self.table[:, self.offset_index]  # (heads, side^2, side^2)


def offset_index(side: int) -> Tensor:
    """Return the table column |drow| * side + |dcol| of each pair of cells.

    The result is (side^2, side^2) int64, for the cells of a square grid in row-major order.
    """
    row, col = np.divmod(np.arange(side * side), side)
    row_offset = np.abs(row[:, None] - row[None, :])
    col_offset = np.abs(col[:, None] - col[None, :])
    return torch.from_numpy(row_offset * side + col_offset)


def feature_projection(feature_dim: int | None, dim: int) -> nn.Module:
    """Return a linear layer from F to D, or Identity if they are equal or F is None.

    Identity is the published form.
    """
    if feature_dim is None or feature_dim == dim:
        return nn.Identity()
    return nn.Linear(feature_dim, dim)


class SpotSequence(nn.Module):
    """Adds position embeddings to the tokens (N, D) of a slide and lets them attend to each other.

    ``grid_xy`` (N, 2) int64 holds (column, row), each from 0 to ``n_pos`` - 1. The caller must
    check this range, because an exported graph does not. No layer normalization follows the last
    block.
    """

    def __init__(self, depth: int, shape: BlockShape, n_pos: int, token_dropout: float) -> None:
        super().__init__()
        self.x_embedding = nn.Embedding(n_pos, shape.dim)
        self.y_embedding = nn.Embedding(n_pos, shape.dim)
        self.token_dropout = nn.Dropout(token_dropout)
        self.layers = nn.ModuleList(SelfAttentionBlock(shape) for _ in range(depth))

    def forward(self, tokens: Tensor, grid_xy: Tensor) -> Tensor:
        x, y = grid_xy.unbind(1)
        placed = tokens + self.x_embedding(x) + self.y_embedding(y)
        sequence: Tensor = self.token_dropout(placed).unsqueeze(0)  # (1, N, D)
        for layer in self.layers:
            sequence = layer(sequence)
        return sequence.squeeze(0)
