"""BLEEP: images and expression in one space, where a tile looks up its likes
(docs/models.md, "BLEEP")."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triplex_deploy.contract import BACKBONE_WIDTH, BleepConfig
from triplex_deploy.errors import ConfigError
from triplex_deploy.models.image_encoders import make_backbone
from triplex_deploy.models.spot_model import SpotModel, assert_eval

NO_BANK: Final = "bleep: no bank of training spots to look up; call set_reference_bank() first"


class Projection(nn.Module):
    """A linear map, a residual layer on it, and layer normalisation: (B, F) to (B, P)."""

    def __init__(self, in_dim: int, out_dim: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(in_dim, out_dim)
        self.refine = nn.Linear(out_dim, out_dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, features: Tensor) -> Tensor:
        projected = self.project(features)
        normed: Tensor = self.norm(projected + self.dropout(self.refine(F.gelu(projected))))
        return normed


class Bleep(SpotModel):
    """An image side and an expression side, trained against each other (Xie et al. 2023).

    It predicts once it has a bank of training spots: from ``set_reference_bank``, or, with
    ``config.bank_size``, from the weights that are loaded next. The expression side is used by
    training and ``set_reference_bank`` only.
    """

    has_bank = True

    config: BleepConfig

    def __init__(self, config: BleepConfig) -> None:
        super().__init__(config)
        genes, dim, dropout = config.n_genes, config.embedding_dim, config.dropout
        width = BACKBONE_WIDTH[config.target_backbone]
        self.n_neighbors = config.n_retrieved
        self.backbone = make_backbone(config.target_backbone)
        self.image_projection = Projection(width, dim, dropout)
        self.expression_projection = Projection(genes, dim, dropout)
        self.retrieval: RetrievedMean | None = None
        if config.bank_size:
            # not a number, so that a bank that was never loaded cannot pass for one
            expression = torch.full((config.bank_size, genes), torch.nan)
            embeddings = torch.zeros(config.bank_size, dim)
            self.retrieval = RetrievedMean(embeddings, expression, self.n_neighbors)

    def forward(self, images: Tensor) -> Tensor:
        """Expression (B, G) of normalized tiles (B, 3, 224, 224)."""
        return self.predict_from_tokens(self.encode_targets(images))

    def encode_targets(self, images: Tensor) -> Tensor:
        """The image side: one projected embedding per tile (B, 1, P)."""
        features = self.backbone.feature_map(images).mean((2, 3))
        embeddings: Tensor = self.image_projection(features)
        return embeddings.unsqueeze(1)

    def encode_expression(self, expression: Tensor) -> Tensor:
        """The expression side: embeddings (B, P) of labels (B, G)."""
        embeddings: Tensor = self.expression_projection(expression)
        return embeddings

    def lookup_scores(self, query: Tensor) -> Tensor:
        """Return the cosine (B, R), up to the query's length, of tokens (B, 1, P) and the bank."""
        if self.retrieval is None:
            raise ConfigError(NO_BANK)
        return query.squeeze(1) @ self.retrieval.bank_embeddings.T

    def predict_from_tokens(self, target_tokens: Tensor) -> Tensor:
        """Expression (B, G) from tokens (B, 1, P); ``ConfigError`` without a bank."""
        if self.retrieval is None:
            raise ConfigError(NO_BANK)
        expression: Tensor = self.retrieval(target_tokens)
        return expression

    @torch.no_grad()
    def set_reference_bank(self, features: Tensor, expression: Tensor) -> None:
        """Make the labels (R, G) of training spots the bank, in place of any before.

        Their frozen ``features`` are not looked at. ``ContractError`` in training mode, where
        dropout would blur the labels, and ``ConfigError`` for fewer than ``n_neighbors`` spots.
        """
        assert_eval(self)
        embeddings = self.encode_expression(expression)
        self.retrieval = RetrievedMean(embeddings, expression, self.n_neighbors).eval()


def contrastive_loss(
    image_embeddings: Tensor, expression_embeddings: Tensor, temperature: float = 1.0
) -> Tensor:
    """Cross-entropy of who belongs to whom in a batch, both embeddings (B, P).

    The targets are soft: how alike the images are and how alike the expression. They are not
    detached, as published. The value depends on the batch size, so compare equal sizes only.
    """
    logits = expression_embeddings @ image_embeddings.T / temperature  # (B, B)
    image_products = image_embeddings @ image_embeddings.T
    expression_products = expression_embeddings @ expression_embeddings.T
    targets = ((image_products + expression_products) / 2 / temperature).softmax(1)
    by_expression = _soft_cross_entropy(logits, targets)
    by_image = _soft_cross_entropy(logits.T, targets.T)
    return (by_expression + by_image).mean() / 2


def _soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Per row; the rows of ``targets`` need not sum to one."""
    return -(targets * logits.log_softmax(1)).sum(1)


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
