"""Layers over the graph of nearest spots, and how Hist2ST sums up their outputs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpotGraph(nn.Module):
    """Tokens (N, D) pass ``depth`` graph layers; an LSTM reads the layers' outputs (MODELS 2.3).

    ``adjacency`` (N, K) int64 lists each spot's neighbours, -1 = none. The result (N, D) is the
    mean of the LSTM's states over the layers.
    """

    def __init__(self, dim: int, depth: int, lstm_layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GraphLayer(dim) for _ in range(depth))
        self.lstm = nn.LSTM(dim, dim, lstm_layers)

    def forward(self, tokens: Tensor, adjacency: Tensor) -> Tensor:
        outputs = []
        for layer in self.layers:
            tokens = layer(tokens, adjacency)
            outputs.append(tokens)
        states, _ = self.lstm(torch.stack(outputs))  # (depth, N, D): a spot is one of a batch
        result: Tensor = states.mean(0)
        return result


class GraphLayer(nn.Module):
    """Rows of unit length from the mean of the neighbours; a spot's own token does not enter.

    A spot without neighbours, or whose projection is nowhere positive, gets zeros.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Tensor, adjacency: Tensor) -> Tensor:
        return F.normalize(F.relu(self.projection(neighbor_mean(tokens, adjacency))))


def neighbor_mean(tokens: Tensor, adjacency: Tensor) -> Tensor:
    """Mean (N, D) of the tokens that each row of ``adjacency`` (N, K) lists, zero for none."""
    padded = torch.cat((torch.zeros_like(tokens[:1]), tokens))  # row 0 stands for 'no spot'
    total = torch.zeros_like(tokens)
    for row in (adjacency + 1).unbind(1):
        total = total + padded.index_select(0, row)  # one neighbour at a time: O(N D) memory
    count = (adjacency >= 0).sum(1, keepdim=True).clamp_min(1)
    return total / count
