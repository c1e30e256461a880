"""Atypical position encoding generator: a depthwise convolution over the spots that exist."""

import math

import torch
from torch import Tensor, nn


class Apeg(nn.Module):
    """Tokens (N, D) plus what their neighbours on the array add (paper section 3.4; MODELS 3.2).

    Equal to a zero-padded depthwise convolution on the dense array, read at the occupied cells,
    but independent of the order of the spots and of the array's size. ``weight`` is (k*k, D),
    row-major over (drow, dcol); ``apeg_index`` (N, k*k) int64 has -1 where there is no spot.
    """

    def __init__(self, dim: int, kernel: int, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        bound = 1 / math.sqrt(kernel * kernel)  # a depthwise convolution's default
        self.weight = nn.Parameter(torch.empty(kernel * kernel, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(dim).uniform_(-bound, bound))

    def forward(self, tokens: Tensor, apeg_index: Tensor) -> Tensor:
        padded = torch.cat((torch.zeros_like(tokens[:1]), tokens))  # row 0 stands for 'no spot'
        out = tokens + self.bias if self.residual else self.bias
        rows = (apeg_index + 1).unbind(1)
        for weight, row in zip(self.weight.unbind(0), rows, strict=True):
            out = out + weight * padded.index_select(0, row)  # one offset at a time: O(N D) memory
        return out
