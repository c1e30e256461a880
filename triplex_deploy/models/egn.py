"""EGN: predicts a spot from its tile and the training spots that look most like it.

Source: Yang et al. 2023; see docs/models.md, "EGN".
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triplex_deploy.contract import N_TARGET_TOKENS, EgnConfig
from triplex_deploy.errors import ConfigError
from triplex_deploy.models.spot_model import SlideTensors, SpotModel
from triplex_deploy.models.transformer import BlockShape, DotProductAttention, Mlp, SelfAttention

PATCH_PX: Final = 32
"""Side of a patch. A tile has 7 x 7 patches, row-major as in the map of a backbone."""
BRIDGE_EVERY: Final = 2
"""Exemplars enter in layers 2, 4, 6 and so on."""
_POSITION_STD: Final = 0.02
NO_BANK: Final = "egn: no bank of training spots to look up; call set_reference_bank() first"


class Egn(SpotModel):
    """Exemplar-guided network in the setting of the TRIPLEX benchmark.

    The inputs are the tile, the frozen feature of the spot, and the frozen features and labels of
    its exemplars, in any order. Training passes the exemplars. Prediction finds them in the bank,
    which ``set_reference_bank`` sets; with ``config.bank_size`` it is loaded with the weights.

    Args:
        config: The configuration. ``bridge_query`` and ``gate_input`` choose between the published
            code and its paper, see ``ExemplarBridge``.
        dropout: Dropout probability of the layers.

    Raises:
        ConfigError: The depth is below 2, or the heads do not divide the width.
    """

    has_bank = True

    config: EgnConfig

    def __init__(self, config: EgnConfig, *, dropout: float = 0.0) -> None:
        super().__init__(config)
        dim, depth, heads = config.embedding_dim, config.depth, config.heads
        n_genes, feature_dim, n_exemplars = config.n_genes, config.feature_dim, config.n_exemplars
        _check_shape(dim, depth, heads)
        self.feature_dim = feature_dim
        self.n_exemplars = n_exemplars
        self.target_encoder = PatchEmbedding(dim)
        # the published weights have one row more than there are tokens; it is never read
        self.position = nn.Parameter(torch.empty(N_TARGET_TOKENS + 1, dim))
        self.projector = ExemplarProjector(feature_dim, n_genes, dim)
        self.value = nn.Linear(n_genes, dim)
        shape = BlockShape(dim, heads, config.mlp_dim, dropout)
        layers = [
            EgnLayer(shape, None if number % BRIDGE_EVERY else _bridge(config))
            for number in range(1, depth + 1)
        ]
        _freeze_unread_keys(layers)
        self.layers = nn.ModuleList(layers)
        self.pool = ResidualAttentionPool(dim)
        self.head = nn.Sequential(nn.LayerNorm(2 * dim), nn.Linear(2 * dim, n_genes))
        nn.init.normal_(self.position, std=_POSITION_STD)
        self.exemplars: Exemplars | None = None
        if config.bank_size:
            # NaN, so that predictions from a bank that was never loaded are seen at once
            expression = torch.full((config.bank_size, n_genes), torch.nan)
            features = torch.zeros(config.bank_size, feature_dim)
            self.exemplars = Exemplars(features, expression, n_exemplars)

    def forward(
        self,
        images: Tensor,
        features: Tensor,
        exemplar_features: Tensor,
        exemplar_expression: Tensor,
    ) -> Tensor:
        """Return the expression (B, G) of normalized tiles.

        Args:
            images: Normalized tiles (B, 3, 224, 224).
            features: Frozen features (B, F) of the tiles.
            exemplar_features: Frozen features (B, k, F) of the exemplars.
            exemplar_expression: Labels (B, k, G) of the exemplars.
        """
        return self.predict_from_tokens(
            self.encode_targets(images), features, exemplar_features, exemplar_expression
        )

    def encode_targets(self, images: Tensor) -> Tensor:
        """Return the patch tokens (B, 49, D) of normalized tiles, without positions."""
        tokens: Tensor = self.target_encoder(images)
        return tokens

    def set_reference_bank(self, features: Tensor, expression: Tensor) -> None:
        """Replace the bank by features (R, F) and labels (R, G) of training spots."""
        self.exemplars = Exemplars(features, expression, self.n_exemplars).train(self.training)

    def retrieve(self, features: Tensor) -> Tensor:
        """Return the exemplars (B, k, F + G) of frozen features (B, F): features, then labels.

        Raises:
            ConfigError: The model has no bank.
        """
        if self.exemplars is None:
            raise ConfigError(NO_BANK)
        return torch.cat(self.exemplars(features), 2)

    def lookup_scores(self, query: Tensor) -> Tensor:
        """Return how near (B, R) each training spot is to frozen features (B, F).

        Raises:
            ConfigError: The model has no bank.
        """
        if self.exemplars is None:
            raise ConfigError(NO_BANK)
        return self.exemplars.closeness(query)

    def predict_slide(self, slide: SlideTensors) -> Tensor:
        """Return the expression (N, G) of all spots of a slide, with exemplars from the bank.

        Raises:
            ConfigError: The model has no bank.
        """
        if self.exemplars is None:
            raise ConfigError(NO_BANK)
        features = slide.features
        expression: Tensor = self(slide.images, features, *self.exemplars(features))
        return expression

    def run_graph(self, graph: str, **inputs: Tensor) -> Tensor:
        """Return the output of a graph for inputs named as in the contract.

        The exemplars (B, k, F + G) of the fusion head are divided into features and labels.
        """
        if graph == "fusion_head":
            exemplars = inputs.pop("exemplars")
            inputs["exemplar_features"] = exemplars[:, :, : self.feature_dim]
            inputs["exemplar_expression"] = exemplars[:, :, self.feature_dim :]
        return super().run_graph(graph, **inputs)

    def last_layer(self) -> nn.Linear:
        """Return the layer whose output is the expression."""
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        return last

    def predict_from_tokens(
        self,
        target_tokens: Tensor,
        features: Tensor,
        exemplar_features: Tensor,
        exemplar_expression: Tensor,
    ) -> Tensor:
        """Return the expression (B, G).

        Args:
            target_tokens: Patch tokens (B, 49, D).
            features: Frozen features (B, F).
            exemplar_features: Frozen features (B, k, F) of the exemplars.
            exemplar_expression: Labels (B, k, G), transformed like the labels of training.
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


def _bridge(config: EgnConfig) -> ExemplarBridge:
    return ExemplarBridge(
        config.embedding_dim,
        config.bridge_heads,
        config.bridge_head_dim,
        N_TARGET_TOKENS,
        config.bridge_query,
        config.gate_input,
    )


class PatchEmbedding(nn.Module):
    """Maps each patch of 32 px of images (B, 3, H, W) linearly to a token (B, T, D).

    A convolution computes this. It takes the pixels of a patch in the order channel, row, column.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, dim, PATCH_PX, stride=PATCH_PX)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.projection(images).flatten(2).transpose(1, 2)
        return tokens


class EgnLayer(nn.Module):
    """Applies self-attention, a bridge to the exemplars if there is one, and an MLP."""

    def __init__(self, shape: BlockShape, bridge: ExemplarBridge | None) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.dim)
        self.attention = SelfAttention(shape.dim, shape.heads, shape.dropout)
        # the scores of 49 tokens need little memory, and the fused operator exports Shape nodes
        self.attention.attend = DotProductAttention(shape.heads, fused=False)
        self.bridge = bridge
        self.mlp_norm = nn.LayerNorm(shape.dim)
        self.mlp = Mlp(shape)

    def forward(
        self, tokens: Tensor, position: Tensor, query: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the updated tokens (B, T, D), query (B, 1, D) and keys (B, k, D).

        Args:
            tokens: Patch tokens (B, T, D).
            position: Position embedding (T, D).
            query: Query (B, 1, D) of the spot.
            keys: Keys (B, k, D) of the exemplars.
            values: Values (B, k, D) of the exemplars.
        """
        tokens = tokens + self.attention(self.attention_norm(tokens + position))
        if self.bridge is not None:
            tokens, query, keys = self.bridge(tokens, query, keys, values)
        tokens = tokens + self.mlp(self.mlp_norm(tokens))
        return tokens, query, keys


def _freeze_unread_keys(layers: list[EgnLayer]) -> None:
    """Freeze the key normalization of the last bridge.

    No layer reads these keys, so they get no gradient. Distributed training would wait for it.
    """
    bridges = [layer.bridge for layer in layers if layer.bridge is not None]
    bridges[-1].key_norm.requires_grad_(False)


def _check_shape(dim: int, depth: int, heads: int) -> None:
    if depth < BRIDGE_EVERY:
        raise ConfigError(
            f"depth={depth}: exemplars first enter in layer {BRIDGE_EVERY}; use at least that depth"
        )
    if heads < 1 or dim % heads:
        raise ConfigError(f"heads={heads}: must divide dim={dim}")


BRIDGE_QUERIES: Final = ("old", "updated")
"""Choices of ``bridge_query``."""
GATE_INPUTS: Final = ("key", "query")
"""Choices of ``gate_input``."""


class ExemplarBridge(nn.Module):
    """Updates the query by the exemplars, and the tokens by the query.

    The published code and its paper differ in two places; the defaults follow the code. See
    docs/models.md, "EGN".

    Args:
        dim: Width D of a token.
        heads: Number of heads.
        head_dim: Channels of each head.
        n_tokens: Number T of patch tokens.
        bridge_query: What is added to the query. "old": the incoming query (code); "updated": the
            query updated by the exemplars (paper).
        gate_input: What the gates read. "key": [query - key; key] (code); "query":
            [query; query - key] (paper).

    Raises:
        ConfigError: ``bridge_query`` or ``gate_input`` has another value.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        n_tokens: int,
        bridge_query: str = "old",
        gate_input: str = "key",
    ) -> None:
        super().__init__()
        _require_choice("bridge_query", bridge_query, BRIDGE_QUERIES)
        _require_choice("gate_input", gate_input, GATE_INPUTS)
        self.heads = heads
        self.head_dim = head_dim
        self.n_tokens = n_tokens
        self.bridge_query = bridge_query
        self.gate_input = gate_input
        self.value = nn.Linear(dim, dim)
        self.gates = nn.Sequential(
            nn.Linear(2 * dim, 4 * head_dim), nn.SiLU(), nn.Linear(4 * head_dim, 2 * dim)
        )
        self.key_norm = nn.LayerNorm(dim)
        self.query_norm = nn.LayerNorm(dim)
        self.token_gates = nn.Linear(dim, heads * n_tokens)
        self.token_norm = nn.LayerNorm(dim)
        self.channels = nn.Linear(dim, heads * head_dim)
        self.to_tokens = nn.Linear(heads * head_dim, dim, bias=False)
        self.to_query = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(
        self, tokens: Tensor, query: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the updated tokens (B, T, D), query (B, 1, D) and keys (B, k, D).

        ``values`` (B, k, D) are those of the exemplars.
        """
        value = self.value(values)
        query_gate, key_gate = self._gates(query, keys).chunk(2, dim=2)  # (B, k, D) each
        informed = query + (query_gate * value).mean(1, keepdim=True)  # (B, 1, D)
        keys = self.key_norm(keys + key_gate * value)
        bridged = self._bridge(tokens, informed)  # (B, T, heads * head_dim)
        base = informed if self.bridge_query == "updated" else query
        query = base + self.to_query(bridged.mean(1, keepdim=True))
        return tokens + self.to_tokens(bridged), query, keys

    def _gates(self, query: Tensor, keys: Tensor) -> Tensor:
        difference = query - keys
        pair = (
            [difference, keys] if self.gate_input == "key" else [query.expand_as(keys), difference]
        )
        gates: Tensor = self.gates(torch.cat(pair, 2)).sigmoid()  # (B, k, 2 D)
        return gates

    def _bridge(self, tokens: Tensor, informed: Tensor) -> Tensor:
        """Return channels (B, T, heads * head_dim) of the tokens.

        The informed query (B, 1, D) gives a factor for each head of each token.
        """
        scale = self.token_gates(self.query_norm(informed)).sigmoid()  # (B, 1, heads * T)
        scale = scale.view(-1, self.heads, self.n_tokens, 1).transpose(1, 2)
        channels = self.channels(self.token_norm(tokens))  # (B, T, heads * head_dim)
        channels = channels.view(-1, self.n_tokens, self.heads, self.head_dim)
        bridged: Tensor = (channels * scale).flatten(2)
        return bridged


def _require_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value!r}: not known; use {' or '.join(choices)}")


_DEPTH: Final = 2
"""Residual MLPs of the projector."""


class ExemplarProjector(nn.Module):
    """Projects the frozen feature to a query and the exemplars to keys.

    Query and keys pass the same residual MLPs.
    """

    def __init__(self, feature_dim: int, n_genes: int, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(feature_dim, dim)
        self.key = nn.Linear(feature_dim + n_genes, dim)
        self.blocks = nn.Sequential(*(ResidualMlp(dim) for _ in range(_DEPTH)))

    def forward(
        self, features: Tensor, exemplar_features: Tensor, exemplar_expression: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the query (B, 1, D) and the keys (B, k, D).

        Args:
            features: Frozen features (B, F).
            exemplar_features: Frozen features (B, k, F) of the exemplars.
            exemplar_expression: Labels (B, k, G) of the exemplars.
        """
        query = self.query(features).unsqueeze(1)
        keys = self.key(torch.cat([exemplar_features, exemplar_expression], 2))
        projected = self.blocks(torch.cat([query, keys], 1))  # (B, 1 + k, D)
        return projected[:, :1], projected[:, 1:]


class ResidualMlp(nn.Module):
    """Computes x + Mlp(LayerNorm(x)) of each token x; the hidden layer is as wide as the token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mlp = Mlp(BlockShape(dim, heads=1, mlp_dim=dim))

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = tokens + self.mlp(self.norm(tokens))
        return result


class Exemplars(nn.Module):
    """Finds the rows of a bank that are nearest to each spot, by L2 distance of frozen features.

    Args:
        bank_features: Frozen features (R, F) of the training spots. No spot of a test patient may
            be among them.
        bank_expression: Labels (R, G) of the same spots.
        n_exemplars: Rows to find for each spot.

    Raises:
        ConfigError: The two differ in length, or the bank has fewer than ``n_exemplars`` rows.
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
                "pass both of the same spots"
            )
        if not 1 <= n_exemplars <= rows:
            raise ConfigError(
                f"n_exemplars={n_exemplars}: the bank has {rows} spots; use 1 to {rows}"
            )
        self.n_exemplars = n_exemplars
        self.register_buffer("bank_features", bank_features.to(torch.float32))
        self.register_buffer("bank_expression", bank_expression.to(torch.float32))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (B, k, F) and labels (B, k, G) of exemplars, nearest first.

        ``features`` are (B, F). The runtime decides the order of equally near exemplars.
        """
        _, rows = self.closeness(features).topk(self.n_exemplars, dim=1)  # (B, k)
        return F.embedding(rows, self.bank_features), F.embedding(rows, self.bank_expression)

    def closeness(self, features: Tensor) -> Tensor:
        """Return half the negative squared distance (B, R) in float32, plus a constant per spot.

        The constant of a spot does not change the order of its exemplars. The mean of the bank is
        subtracted on both sides. Distances do not depend on it, and products of the smaller numbers
        keep the digits by which near spots differ.
        """
        with torch.autocast(features.device.type, enabled=False):
            center = self.bank_features.mean(0)
            bank = self.bank_features - center
            products = (features.to(torch.float32) - center) @ bank.T
            return products - 0.5 * bank.square().sum(1)


_ATTENDED_SHARE: Final = 0.5
"""Weight of the attended sum beside the mean."""
_SHARPNESS: Final = 0.1
"""Factor of the scores before the softmax."""


class ResidualAttentionPool(nn.Module):
    """Projects tokens (B, T, D) and returns their mean plus half their attended sum (B, D).

    Each channel has its own attention, to the tokens in which it is large.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        scores = self.projection(tokens)
        attention = (_SHARPNESS * scores).softmax(1)  # (B, T, D)
        pooled: Tensor = scores.mean(1) + _ATTENDED_SHARE * (scores * attention).sum(1)
        return pooled


_EPSILON: Final = 1e-8
"""Added to each variance, so that a constant gene divides by more than zero."""


def correlation_loss(predicted: Tensor, labels: Tensor, weight: float = 0.5) -> Tensor:
    """Return MSE + ``weight`` (1 - mean over genes of Pearson's r), a scalar.

    r is taken over the spots of the batch, so the batch should be large. r of a gene that is
    constant there is 0, and its gradient is finite.

    Args:
        predicted: Predictions (B, G).
        labels: Labels (B, G).
        weight: 0.5 in the published code, 1 in its paper.

    Source: Yang et al. 2023; docs/models.md, "EGN".
    """
    predicted, labels = predicted.float(), labels.float()  # float16 rounds the epsilon to zero
    error = F.mse_loss(predicted, labels)
    return error + weight * (1 - _pearson(predicted, labels).mean())


def _pearson(predicted: Tensor, labels: Tensor) -> Tensor:
    """Return Pearson's r (G,) of each column, 0 if the column is constant on either side."""
    a, b = predicted - predicted.mean(0), labels - labels.mean(0)
    spread = (a.square().mean(0) + _EPSILON) * (b.square().mean(0) + _EPSILON)
    return (a * b).mean(0) / spread.sqrt()
