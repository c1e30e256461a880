"""Encoders of slides written so that ONNX Runtime holds few tensors of a slide's size at once.

No tensor is wider than the tokens: the fused projection and the hidden layer, three and four times
as wide, come in pieces of that width, each used up before the next is made.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triplex_deploy.errors import ContractError
from triplex_deploy.exporters.attention import OrtMultiHeadAttention
from triplex_deploy.models.transformer import Mlp, SelfAttention, SelfAttentionBlock
from triplex_deploy.models.triplex import Apeg

Encoder = TypeVar("Encoder", bound=nn.Module)


def with_linear_memory(encoder: Encoder) -> Encoder:
    """A copy of the encoder that computes the same to rounding, for inference on one slide.

    ``encoder`` is any module whose transformer blocks see all spots of one slide, without mask.
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


class ThreeProjections(nn.Module):
    """Self-attention whose queries, keys and values are products of their own.

    A fused product would be held while it is split.
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
    """An MLP as the sum of MLPs, each with a part of the hidden units as wide as the tokens."""

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
    """The position encoding with its terms, one for each offset, written before their sum.

    All of it has the shape (1, N, D) of the other layers' tensors, whose memory ONNX Runtime then
    uses again.
    """

    def __init__(self, apeg: Apeg) -> None:
        super().__init__()
        self.apeg = apeg

    def forward(self, tokens: Tensor, apeg_index: Tensor) -> Tensor:
        tokens = tokens.unsqueeze(0)
        padded = F.pad(tokens, (0, 0, 1, 0))  # row 0 stands for 'no spot'
        offsets = zip(self.apeg.weight, (apeg_index + 1).unbind(1), strict=True)
        terms = [weight * padded.index_select(1, row) for weight, row in offsets]
        own = tokens + self.apeg.bias if self.apeg.residual else self.apeg.bias
        return _sum([own, *terms]).squeeze(0)


def _sum(terms: list[Tensor]) -> Tensor:
    """The sum, written after all of its terms.

    Of two inputs ONNX Runtime's scheduler first computes the one written later in the file: so
    written, each term is made when the sum of those before it is there, and is gone with it.
    """
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A layer over a part of another's weights (out, in)."""
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach())
    return layer
