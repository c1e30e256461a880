"""Learned attention bias that depends on how far apart two tiles of the neighbourhood lie."""

import torch
from torch import Tensor, nn


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
