"""Rewrite encoders of whole slides so that ONNX Runtime holds few large tensors at once.

No tensor is wider than the tokens. The fused projection is three times as wide and the hidden layer
four times, so they are computed in pieces as wide as the tokens, and each piece is used before the
next is computed. The attention is an operator with memory linear in the number of spots.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triplex_deploy.errors import ContractError
from triplex_deploy.models.transformer import Mlp, SelfAttention, SelfAttentionBlock
from triplex_deploy.models.triplex import Apeg

Encoder = TypeVar("Encoder", bound=nn.Module)


def with_linear_memory(encoder: Encoder) -> Encoder:
    """Return a copy of an encoder that computes the same up to rounding, for inference only.

    Args:
        encoder: A module with transformer blocks that see all spots of one slide, without a mask.

    Raises:
        ContractError: The attention has a bias.
    """
    twin = copy.deepcopy(encoder, {id(parameter): parameter for parameter in encoder.parameters()})
    for block in [part for part in twin.modules() if isinstance(part, SelfAttentionBlock)]:
        block.add_module("attention", ThreeProjections(block.attention))
        block.add_module("mlp", SlicedMlp(block.mlp))
    for parent in list(twin.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, Apeg):
                parent.add_module(name, TermwiseApeg(part))
    return twin.eval()


class OrtMultiHeadAttention(nn.Module):
    """ONNX Runtime's operator ``com.microsoft.MultiHeadAttention`` on packed heads (1, N, D).

    It can be traced, but not run in PyTorch. Attention in standard operators stores heads x N x N
    scores: 1.6 GB at 5,000 spots, where this operator needs 52 MB. TensorRT does not have it and
    fuses the standard operators.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> Tensor:
        if bias is not None or key_mask is not None:
            raise ContractError("linear-memory attention: takes no bias and no mask")
        return torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            (query, key, value),
            {"num_heads": self.heads},
            dtype=query.dtype,
            shape=query.shape,
            version=1,
        )


class ThreeProjections(nn.Module):
    """Self-attention with separate products for queries, keys and values.

    ONNX Runtime would keep a fused product in memory while it is split.
    """

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        if attention.bias is not None:
            raise ContractError("linear-memory attention: takes no bias")
        weights = attention.qkv.weight.chunk(3)
        self.projections = nn.ModuleList(_linear(weight) for weight in weights)
        self.attend = OrtMultiHeadAttention(attention.heads)
        self.out = attention.out

    def forward(self, tokens: Tensor, key_mask: Tensor | None = None) -> Tensor:
        packed = [projection(tokens) for projection in self.projections]  # 3 x (1, N, D)
        result: Tensor = self.out(self.attend(*packed, key_mask=key_mask))
        return result


class SlicedMlp(nn.Module):
    """An MLP as a sum of MLPs, each with as many of the hidden units as the tokens are wide."""

    def __init__(self, mlp: Mlp) -> None:
        super().__init__()
        width = mlp.expand.in_features
        expand = zip(
            torch.split(mlp.expand.weight, width), torch.split(mlp.expand.bias, width), strict=True
        )
        self.expand = nn.ModuleList(_linear(weight, bias) for weight, bias in expand)
        self.contract = nn.ModuleList(map(_linear, torch.split(mlp.contract.weight, width, dim=1)))
        self.bias = mlp.contract.bias

    def forward(self, tokens: Tensor) -> Tensor:
        pairs = zip(self.expand, self.contract, strict=True)
        return _sum([contract(F.gelu(expand(tokens))) for expand, contract in pairs]) + self.bias


class TermwiseApeg(nn.Module):
    """The position encoding as a sum of one term per grid offset.

    Every tensor has the shape (1, N, D) of the other layers' tensors, so that ONNX Runtime can use
    their memory again.
    """

    def __init__(self, apeg: Apeg) -> None:
        super().__init__()
        self.rows = nn.ParameterList(nn.Parameter(row.detach()) for row in apeg.weight.unbind())
        self.bias = apeg.bias
        self.residual = apeg.residual

    def forward(self, tokens: Tensor, apeg_index: Tensor) -> Tensor:
        tokens = tokens.unsqueeze(0)
        padded = F.pad(tokens, (0, 0, 1, 0))  # row 0 is used where there is no spot
        offsets = zip(self.rows, (apeg_index + 1).unbind(1), strict=True)
        terms = [weight * padded.index_select(1, row) for weight, row in offsets]
        own = tokens + self.bias if self.residual else self.bias
        return _sum([own, *terms]).squeeze(0)


def _sum(terms: list[Tensor]) -> Tensor:
    """Return the sum of the terms, with all additions traced after all terms.

    ONNX Runtime computes that input of an operator first which comes later in the file. In this
    order it adds each term to the sum before it computes the next, so that only one is in memory.
    """
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Return a layer with a part (out, in) of the weights of another layer."""
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach())
    return layer
