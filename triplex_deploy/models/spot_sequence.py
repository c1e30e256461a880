"""A slide's spots as one sequence, each told its place on the array (HisToGene, Hist2ST)."""

from torch import Tensor, nn

from triplex_deploy.models.transformer import BlockShape, SelfAttentionBlock


class SpotSequence(nn.Module):
    """Tokens (N, D) of one slide's spots, placed on the array, attend to each other.

    ``grid_xy`` (N, 2) int64 holds (column, row), each in 0 .. ``n_pos`` - 1: whoever makes it sees
    to that, since a graph outside PyTorch would not notice. No layer normalisation follows the last
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
