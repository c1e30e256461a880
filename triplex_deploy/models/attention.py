"""Multi-head self- and cross-attention over a replaceable, parameter-free core."""

from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

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
