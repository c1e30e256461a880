"""Retrieval of exemplars: the spots of a bank that look most like a spot (MODELS 2.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triplex_deploy.errors import ConfigError


class Exemplars(nn.Module):
    """The ``n_exemplars`` rows of a bank nearest to each spot, by L2 distance of global features.

    ``bank_features`` (R, F) and ``bank_expression`` (R, G) are the features and labels of the
    training spots; no test patient may be among them. A bank of fewer rows than are retrieved, or
    whose halves differ in length, raises ``ConfigError``.
    """

    bank_features: Tensor
    bank_expression: Tensor

    def __init__(
        self, bank_features: Tensor, bank_expression: Tensor, n_exemplars: int = 9
    ) -> None:
        super().__init__()
        rows = len(bank_features)
        if len(bank_expression) != rows:
            raise ConfigError(
                f"exemplar bank: {rows} rows of features and {len(bank_expression)} of expression; "
                "give one of each per spot"
            )
        if not 1 <= n_exemplars <= rows:
            raise ConfigError(
                f"n_exemplars={n_exemplars}: the bank has {rows} spots; use 1 to {rows}"
            )
        self.n_exemplars = n_exemplars
        self.register_buffer("bank_features", bank_features.to(torch.float32))
        self.register_buffer("bank_expression", bank_expression.to(torch.float32))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, k, F) and labels (B, k, G) of the exemplars of ``features`` (B, F).

        Nearest first; the order of equally near ones is the runtime's.
        """
        _, rows = self.closeness(features).topk(self.n_exemplars, dim=1)  # (B, k)
        return F.embedding(rows, self.bank_features), F.embedding(rows, self.bank_expression)

    def closeness(self, features: Tensor) -> Tensor:
        """(B, R) float32, half the negative squared distance but for a constant of each spot.

        Features have a large mean in common, and distances do not depend on it: taken off both
        sides, it does not cancel away the digits that tell near spots apart.
        """
        with torch.autocast(features.device.type, enabled=False):
            center = self.bank_features.mean(0)
            bank = self.bank_features - center
            products = (features.to(torch.float32) - center) @ bank.T
            return products - 0.5 * bank.square().sum(1)
