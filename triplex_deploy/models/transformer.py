"""Pre-norm transformer blocks, the unit every TRIPLEX encoder is stacked from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


MASKED_LOGIT: Final = -65504.0
"""Logit of a masked key: the least float16, so that a fully masked row attends uniformly."""


class DotProductAttention(nn.Module):
    """softmax(q k^T / sqrt(head_dim) + bias) v, per head, without dropout on the probabilities.

    It holds no parameters and sits at ``attend`` of each attention, so that an export may put an
    operator of its target there: same signature, packed heads in and out. ``fused`` lets PyTorch
    save the memory of the scores where there is neither bias nor mask.
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
        """Attend from (B, Q, D) to (B, K, D); bias (heads, Q, K), key_mask (B, K) True = keep."""
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
    """Written out, because the fused kernels lose the gradient of a fully masked row."""
    scale: float = key.shape[3] ** -0.5
    logits = query @ key.transpose(2, 3) * scale  # (B, heads, Q, K)
    if bias is not None:
        logits = logits + bias
    if key_mask is not None:
        logits = logits.masked_fill(~key_mask[:, None, None, :], MASKED_LOGIT)
    weights: Tensor = logits.softmax(-1)
    return weights


class SelfAttention(nn.Module):
    """Tokens attend to each other; q, k, v are one projection without bias, in that order.

    ``bias`` is a module returning an additive (heads, L, L) table. A single head has neither out
    projection nor dropout, the rule of the published models.
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
    """Queries attend to other tokens; k, v are one projection without bias, in that order."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        # One query has no scores to save, and PyTorch's fused operator exports with Shape nodes,
        # which ONNX Runtime's CUDA provider leaves on the CPU.
        self.attend = DotProductAttention(heads, fused=False)
        self.out = out_projection(dim, heads)
        self.dropout = nn.Dropout(dropout if heads > 1 else 0.0)

    def forward(self, queries: Tensor, context: Tensor, key_mask: Tensor | None = None) -> Tensor:
        key, value = self.key_value(context).chunk(2, dim=-1)
        attended = self.attend(self.query(queries), key, value, None, key_mask)
        result: Tensor = self.dropout(self.out(attended))
        return result


def out_projection(dim: int, heads: int) -> nn.Module:
    """Linear with bias over the concatenated heads; nothing where there is one head."""
    return nn.Linear(dim, dim) if heads > 1 else nn.Identity()


class RelativeBias(nn.Module):
    """One scalar per head and absolute offset (|drow|, |dcol|) on a ``side`` x ``side`` grid.

    The table is indexed in ``forward``, never cached, so it follows ``load_state_dict`` and ``to``.
    """

    offset_index: Tensor

    def __init__(self, heads: int, side: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(heads, side * side))
        self.register_buffer("offset_index", offset_index(side), persistent=False)

    def forward(self) -> Tensor:
        return self.table[:, self.offset_index]  # (heads, side^2, side^2)


def offset_index(side: int) -> Tensor:
    """Table column |drow| * side + |dcol| of every pair of grid cells, (side^2, side^2) int64."""
    cell = torch.arange(side * side)
    row, col = cell // side, cell % side
    row_offset = (row[:, None] - row[None, :]).abs()
    col_offset = (col[:, None] - col[None, :]).abs()
    return row_offset * side + col_offset


def feature_projection(feature_dim: int | None, dim: int) -> nn.Module:
    """Linear where the widths differ; nothing, as published, where they agree or none is given."""
    if feature_dim is None or feature_dim == dim:
        return nn.Identity()
    return nn.Linear(feature_dim, dim)


class SpotSequence(nn.Module):
    """Tokens (N, D) of one slide's spots, placed on the array, attend to each other.

    ``grid_xy`` (N, 2) int64 holds (column, row), each in 0 .. ``n_pos`` - 1: whoever makes it sees
    to that, since a graph outside PyTorch would not notice. No layer normalization follows the last
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
