"""Class-specific residual attention, the pooling of EGN's tokens (Zhu and Wu 2021)."""

from typing import Final

from torch import Tensor, nn

_ATTENDED_SHARE: Final = 0.5
_SHARPNESS: Final = 0.1


class ResidualAttentionPool(nn.Module):
    """Tokens (B, T, D), projected, to their mean plus half their attended sum (B, D).

    Each channel attends for itself, to the tokens where it is large.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        scores = self.projection(tokens)
        attention = (_SHARPNESS * scores).softmax(1)  # (B, T, D)
        pooled: Tensor = scores.mean(1) + _ATTENDED_SHARE * (scores * attention).sum(1)
        return pooled
