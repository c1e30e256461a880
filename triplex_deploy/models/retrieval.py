"""Prediction by look-up: the mean expression of the training spots most like a query."""

import torch.nn.functional as F
from torch import Tensor, nn

from triplex_deploy.errors import ConfigError


class RetrievedMean(nn.Module):
    """The mean of the ``n_neighbors`` rows of a bank with the largest cosine to a query.

    The bank is embeddings (R, P), whose rows are brought to length 1 here, and their expression
    (R, G). Which of equal cosines counts at the last place is left to the implementation.
    """

    bank_embeddings: Tensor
    bank_expression: Tensor

    def __init__(
        self, bank_embeddings: Tensor, bank_expression: Tensor, n_neighbors: int = 50
    ) -> None:
        super().__init__()
        size = len(bank_embeddings)
        if len(bank_expression) != size:
            raise ConfigError(
                f"bank: {size} embeddings but {len(bank_expression)} rows of expression; "
                "pass both of the same spots"
            )
        if not 1 <= n_neighbors <= size:
            raise ConfigError(
                f"n_neighbors={n_neighbors}: the bank holds {size} spots; use from 1 to {size}"
            )
        self.n_neighbors = n_neighbors
        self.register_buffer("bank_embeddings", F.normalize(bank_embeddings, dim=1))
        self.register_buffer("bank_expression", bank_expression.clone())

    def forward(self, target_tokens: Tensor) -> Tensor:
        """Expression (B, G) for query tokens (B, 1, P) of any length but zero."""
        # the length of a query scales all its cosines alike, so their order is that of the products
        products = target_tokens.squeeze(1) @ self.bank_embeddings.T  # (B, R)
        rows = products.topk(self.n_neighbors, dim=1).indices  # (B, K)
        return F.embedding(rows, self.bank_expression).mean(1)
