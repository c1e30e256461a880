"""EGN: a spot's image, read beside the measured spots that look most like it (Yang et al. 2023)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from triplex_deploy.contract import N_TARGET_TOKENS
from triplex_deploy.errors import ConfigError
from triplex_deploy.models.attention import DotProductAttention, SelfAttention
from triplex_deploy.models.exemplar_bridge import ExemplarBridge
from triplex_deploy.models.exemplar_projector import ExemplarProjector
from triplex_deploy.models.exemplars import Exemplars
from triplex_deploy.models.residual_attention_pool import ResidualAttentionPool
from triplex_deploy.models.spot_model import SpotModel
from triplex_deploy.models.transformer import BlockShape, Mlp

PATCH_PX: Final = 32
"""Side of the patches a tile is cut into: 7 x 7 of them, row-major, as a trunk's map."""
BRIDGE_EVERY: Final = 2
"""Exemplars enter in layers 2, 4, 6, ..."""
_POSITION_STD: Final = 0.02


class Egn(SpotModel):
    """Exemplar-guided network in the setting of the TRIPLEX benchmark (MODELS 2.4).

    Beside the image it takes the spot's global feature, and the features and labels of its
    exemplars: from the bank it was given by ``remember`` in deployment, from
    ``training_exemplars`` while training. Their order does not matter. With ``n_references`` the
    bank comes with the weights that are loaded next. ``bridge_query`` and ``gate_input`` choose
    between the published code and its paper, see ``ExemplarBridge``. A shape that cannot be built
    raises ``ConfigError``.
    """

    has_bank = True

    def __init__(
        self,
        n_genes: int = 250,
        feature_dim: int = 512,
        dim: int = 1024,
        depth: int = 8,
        heads: int = 16,
        mlp_dim: int = 4096,
        bridge_heads: int = 16,
        bridge_head_dim: int = 64,
        dropout: float = 0.0,
        bridge_query: str = "old",
        gate_input: str = "key",
        n_exemplars: int = 9,
        n_references: int = 0,
    ) -> None:
        super().__init__()
        _check_shape(dim, depth, heads)
        self.feature_dim = feature_dim
        self.n_exemplars = n_exemplars
        self.target_encoder = PatchEmbedding(dim)
        # one row more than there are tokens, never read: so have the published weights
        self.position = nn.Parameter(torch.empty(N_TARGET_TOKENS + 1, dim))
        self.projector = ExemplarProjector(feature_dim, n_genes, dim)
        self.value = nn.Linear(n_genes, dim)
        shape = BlockShape(dim, heads, mlp_dim, dropout)
        bridge = (dim, bridge_heads, bridge_head_dim, N_TARGET_TOKENS, bridge_query, gate_input)
        layers = [
            EgnLayer(shape, None if number % BRIDGE_EVERY else ExemplarBridge(*bridge))
            for number in range(1, depth + 1)
        ]
        _freeze_unread_keys(layers)
        self.layers = nn.ModuleList(layers)
        self.pool = ResidualAttentionPool(dim)
        self.head = nn.Sequential(nn.LayerNorm(2 * dim), nn.Linear(2 * dim, n_genes))
        nn.init.normal_(self.position, std=_POSITION_STD)
        self.exemplars: Exemplars | None = None
        if n_references:
            # not a number, so that a bank that was never loaded cannot pass for one
            expression = torch.full((n_references, n_genes), torch.nan)
            features = torch.zeros(n_references, feature_dim)
            self.exemplars = Exemplars(features, expression, n_exemplars)

    def forward(
        self,
        images: Tensor,
        features: Tensor,
        exemplar_features: Tensor,
        exemplar_expression: Tensor,
    ) -> Tensor:
        """Expression (B, G) of normalised images (B, 3, 224, 224) and ``predict_from_tokens``."""
        return self.predict_from_tokens(
            self.encode_targets(images), features, exemplar_features, exemplar_expression
        )

    def encode_targets(self, images: Tensor) -> Tensor:
        """Patch tokens (B, 49, D) of normalised images, their position not yet added."""
        tokens: Tensor = self.target_encoder(images)
        return tokens

    def remember(self, features: Tensor, expression: Tensor) -> None:
        """Make features (R, F) and labels (R, G) of training spots the bank, in place of any."""
        self.exemplars = Exemplars(features, expression, self.n_exemplars).train(self.training)

    def retrieve(self, features: Tensor) -> Tensor:
        """Exemplars (B, k, F + G) of global features (B, F): features, then labels.

        ``ConfigError`` without a bank.
        """
        if self.exemplars is None:
            raise ConfigError("egn: no bank of training spots to look up; call remember() first")
        return torch.cat(self.exemplars(features), 2)

    def run_graph(self, graph: str, **inputs: Tensor) -> Tensor:
        if graph == "fusion_head":
            exemplars = inputs.pop("exemplars")
            inputs["exemplar_features"] = exemplars[:, :, : self.feature_dim]
            inputs["exemplar_expression"] = exemplars[:, :, self.feature_dim :]
        return super().run_graph(graph, **inputs)

    def predict_from_tokens(
        self,
        target_tokens: Tensor,
        features: Tensor,
        exemplar_features: Tensor,
        exemplar_expression: Tensor,
    ) -> Tensor:
        """Expression (B, G) of tokens (B, 49, D) and global features (B, F).

        Exemplars are (B, k, F) and (B, k, G), transformed like the labels that were trained on.
        """
        query, keys = self.projector(features, exemplar_features, exemplar_expression)
        values = self.value(exemplar_expression)  # (B, k, D)
        position = self.position[:N_TARGET_TOKENS]
        tokens = target_tokens + position
        for layer in self.layers:
            tokens, query, keys = layer(tokens, position, query, keys, values)
        pooled = torch.cat([self.pool(tokens), query.squeeze(1)], 1)  # (B, 2 D)
        expression: Tensor = self.head(pooled)
        return expression


class PatchEmbedding(nn.Module):
    """Images (B, 3, H, W) to tokens (B, T, D): one linear map of every 32 px patch.

    Written as a convolution whose kernel is the patch: pixels in the order channel, row, column.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, dim, PATCH_PX, stride=PATCH_PX)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.projection(images).flatten(2).transpose(1, 2)
        return tokens


class EgnLayer(nn.Module):
    """Pre-norm self-attention and MLP, in some layers with a bridge to the exemplars between."""

    def __init__(self, shape: BlockShape, bridge: ExemplarBridge | None) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.dim)
        self.attention = SelfAttention(shape.dim, shape.heads, shape.dropout)
        # 49 tokens have few scores to save, and the fused operator exports with Shape nodes
        self.attention.attend = DotProductAttention(shape.heads, fused=False)
        self.bridge = bridge
        self.mlp_norm = nn.LayerNorm(shape.dim)
        self.mlp = Mlp(shape)

    def forward(
        self, tokens: Tensor, position: Tensor, query: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, T, D), query (B, 1, D) and keys (B, k, D), updated; position is (T, D)."""
        tokens = tokens + self.attention(self.attention_norm(tokens + position))
        if self.bridge is not None:
            tokens, query, keys = self.bridge(tokens, query, keys, values)
        tokens = tokens + self.mlp(self.mlp_norm(tokens))
        return tokens, query, keys


def _freeze_unread_keys(layers: list[EgnLayer]) -> None:
    """Nothing reads the keys of the last bridge: without this, processes wait for a gradient."""
    bridges = [layer.bridge for layer in layers if layer.bridge is not None]
    bridges[-1].key_norm.requires_grad_(False)


def _check_shape(dim: int, depth: int, heads: int) -> None:
    if depth < BRIDGE_EVERY:
        raise ConfigError(
            f"depth={depth}: exemplars enter in every layer {BRIDGE_EVERY}; use at least that many"
        )
    if heads < 1 or dim % heads:
        raise ConfigError(f"heads={heads}: must divide dim={dim}")
