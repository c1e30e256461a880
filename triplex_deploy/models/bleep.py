"""BLEEP: embeds images and expression in one space and looks up the nearest training spots.

See docs/models.md, "BLEEP".
"""

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
    """Projects (B, F) to (B, P): a linear layer, a residual layer and layer normalization."""

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
    """Image and expression encoders, trained contrastively (Xie et al. 2023).

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
            # NaN, so that predictions from a bank that was never loaded are seen at once
            expression = torch.full((config.bank_size, genes), torch.nan)
            embeddings = torch.zeros(config.bank_size, dim)
            self.retrieval = RetrievedMean(embeddings, expression, self.n_neighbors)

    def forward(self, images: Tensor) -> Tensor:
        """Return the expression (B, G) of normalized tiles (B, 3, 224, 224)."""
        return self.predict_from_tokens(self.encode_targets(images))

    def encode_targets(self, images: Tensor) -> Tensor:
        """Return the image embedding (B, 1, P) of each tile."""
        features = self.backbone.feature_map(images).mean((2, 3))
        embeddings: Tensor = self.image_projection(features)
        return embeddings.unsqueeze(1)

    def encode_expression(self, expression: Tensor) -> Tensor:
        """Return the embeddings (B, P) of labels (B, G)."""
        embeddings: Tensor = self.expression_projection(expression)
        return embeddings

    def lookup_scores(self, query: Tensor) -> Tensor:
        """Return the cosine (B, R), up to the query's length, of tokens (B, 1, P) and the bank."""
        if self.retrieval is None:
            raise ConfigError(NO_BANK)
        return query.squeeze(1) @ self.retrieval.bank_embeddings.T

    def predict_from_tokens(self, target_tokens: Tensor) -> Tensor:
        """Return the expression (B, G) of tokens (B, 1, P).

        Raises:
            ConfigError: The model has no bank.
        """
        if self.retrieval is None:
            raise ConfigError(NO_BANK)
        expression: Tensor = self.retrieval(target_tokens)
        return expression

    @torch.no_grad()
    def rescale(self, slope: Tensor, offset: Tensor) -> None:
        """Change the labels of the bank so that the model returns slope · expression + offset.

        A prediction is their mean. What is looked up does not change.

        Args:
            slope: Factor (G,) of each gene.
            offset: What is then added, (G,).

        Raises:
            ConfigError: The model has no bank.
        """
        if self.retrieval is None:
            raise ConfigError(NO_BANK)
        self.retrieval.bank_expression.mul_(slope).add_(offset)

    @torch.no_grad()
    def set_reference_bank(self, features: Tensor, expression: Tensor) -> None:
        """Replace the bank by training spots.

        Args:
            features: Frozen features (R, F), which this model does not use.
            expression: Labels (R, G).

        Raises:
            ContractError: The model is in training mode, in which dropout changes embeddings.
            ConfigError: There are fewer than ``n_neighbors`` spots.
        """
        assert_eval(self)
        embeddings = self.encode_expression(expression)
        self.retrieval = RetrievedMean(embeddings, expression, self.n_neighbors).eval()


def contrastive_loss(
    image_embeddings: Tensor, expression_embeddings: Tensor, temperature: float = 1.0
) -> Tensor:
    """Return the cross-entropy of matching images and expression in a batch, embeddings (B, P).

    The targets are soft: the similarity of the images and of the expression. They are not
    detached, as in the published code. The value depends on the batch size.
    """
    logits = expression_embeddings @ image_embeddings.T / temperature  # (B, B)
    image_products = image_embeddings @ image_embeddings.T
    expression_products = expression_embeddings @ expression_embeddings.T
    targets = ((image_products + expression_products) / 2 / temperature).softmax(1)
    by_expression = _soft_cross_entropy(logits, targets)
    by_image = _soft_cross_entropy(logits.T, targets.T)
    return (by_expression + by_image).mean() / 2


def _soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each row; rows of ``targets`` need not sum to 1."""
    return -(targets * logits.log_softmax(1)).sum(1)


class RetrievedMean(nn.Module):
    """Averages the ``n_neighbors`` rows of a bank with the largest cosine to a query.

    The bank is embeddings (R, P), normalized here to length 1, and their expression (R, G). If
    cosines are equal at the last place, any of these rows may be used.
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
        """Return the expression (B, G) for query tokens (B, 1, P) that are not zero."""
        # the length of a query scales all its cosines alike, so their order is that of the products
        products = target_tokens.squeeze(1) @ self.bank_embeddings.T  # (B, R)
        rows = products.topk(self.n_neighbors, dim=1).indices  # (B, K)
        return F.embedding(rows, self.bank_expression).mean(1)
