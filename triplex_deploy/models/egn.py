"""EGN: a spot's image, read beside the measured spots that look most like it (Yang et al. 2023)."""

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
"""Side of the patches a tile is cut into: 7 x 7 of them, row-major, as a backbone's map."""
BRIDGE_EVERY: Final = 2
"""Exemplars enter in layers 2, 4, 6, ..."""
_POSITION_STD: Final = 0.02
NO_BANK: Final = "egn: no bank of training spots to look up; call set_reference_bank() first"


class Egn(SpotModel):
    """Exemplar-guided network in the setting of the TRIPLEX benchmark (docs/models.md, "EGN").

    Beside the image it takes the spot's global feature, and the features and labels of its
    exemplars: from the bank it was given by ``set_reference_bank`` in deployment, from
    ``training_exemplars`` while training. Their order does not matter. With ``config.bank_size``
    the bank is loaded with the weights. ``bridge_query`` and ``gate_input`` choose
    between the published code and its paper, see ``ExemplarBridge``. A shape that cannot be built
    raises ``ConfigError``.
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
        # one row more than there are tokens, never read: so have the published weights
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
            # not a number, so that a bank that was never loaded cannot pass for one
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
        """Expression (B, G) of normalized images (B, 3, 224, 224) and ``predict_from_tokens``."""
        return self.predict_from_tokens(
            self.encode_targets(images), features, exemplar_features, exemplar_expression
        )

    def encode_targets(self, images: Tensor) -> Tensor:
        """Patch tokens (B, 49, D) of normalized images, their position not yet added."""
        tokens: Tensor = self.target_encoder(images)
        return tokens

    def set_reference_bank(self, features: Tensor, expression: Tensor) -> None:
        """Make features (R, F) and labels (R, G) of training spots the bank, in place of any."""
        self.exemplars = Exemplars(features, expression, self.n_exemplars).train(self.training)

    def retrieve(self, features: Tensor) -> Tensor:
        """Exemplars (B, k, F + G) of global features (B, F): features, then labels.

        ``ConfigError`` without a bank.
        """
        if self.exemplars is None:
            raise ConfigError(NO_BANK)
        return torch.cat(self.exemplars(features), 2)

    def lookup_scores(self, query: Tensor) -> Tensor:
        """Return how near (B, R) each training spot is to global features (B, F)."""
        if self.exemplars is None:
            raise ConfigError(NO_BANK)
        return self.exemplars.closeness(query)

    def predict_slide(self, slide: SlideTensors) -> Tensor:
        """Return the expression (N, G) of all spots, their exemplars from the bank."""
        if self.exemplars is None:
            raise ConfigError(NO_BANK)
        features = slide.features
        expression: Tensor = self(slide.images, features, *self.exemplars(features))
        return expression

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


BRIDGE_QUERIES: Final = ("old", "updated")
GATE_INPUTS: Final = ("key", "query")


class ExemplarBridge(nn.Module):
    """Exemplars inform the query, and the query says which tokens matter (docs/models.md, "EGN").

    As in the published code, the gates see [query - key; key] and what the tokens send back is
    added to the query that came in. The paper's equations differ in both: ``gate_input`` "query"
    is [query; query - key], and ``bridge_query`` "updated" adds to the informed query. Any other
    value raises ``ConfigError``.
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
        """Tokens (B, T, D), query (B, 1, D) and keys (B, k, D), updated; values are (B, k, D)."""
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
        """Channels of the tokens, each head of each token scaled by the informed query."""
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


class ExemplarProjector(nn.Module):
    """Global features become a query, exemplars keys; both pass the same residual MLPs."""

    def __init__(self, feature_dim: int, n_genes: int, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(feature_dim, dim)
        self.key = nn.Linear(feature_dim + n_genes, dim)
        self.blocks = nn.Sequential(*(ResidualMlp(dim) for _ in range(_DEPTH)))

    def forward(
        self, features: Tensor, exemplar_features: Tensor, exemplar_expression: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Query (B, 1, D) of features (B, F), keys (B, k, D) of (B, k, F) and (B, k, G)."""
        query = self.query(features).unsqueeze(1)
        keys = self.key(torch.cat([exemplar_features, exemplar_expression], 2))
        projected = self.blocks(torch.cat([query, keys], 1))  # (B, 1 + k, D)
        return projected[:, :1], projected[:, 1:]


class ResidualMlp(nn.Module):
    """x + Mlp(LayerNorm(x)) of each token, as wide inside as outside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mlp = Mlp(BlockShape(dim, heads=1, mlp_dim=dim))

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = tokens + self.mlp(self.norm(tokens))
        return result


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


_EPSILON: Final = 1e-8


def correlation_loss(predicted: Tensor, labels: Tensor, weight: float = 0.5) -> Tensor:
    """MSE + ``weight`` (1 - mean over genes of Pearson's r), both (B, G) (Yang et al. 2023).

    A half is the weight of the published code, one that of its paper. r is over the batch alone, so
    that it wants a large one; of a gene that is constant there it is 0, without a gradient that is
    not finite.
    """
    predicted, labels = predicted.float(), labels.float()  # the epsilon is nothing in float16
    error = F.mse_loss(predicted, labels)
    return error + weight * (1 - _pearson(predicted, labels).mean())


def _pearson(predicted: Tensor, labels: Tensor) -> Tensor:
    """Pearson's r (G,) of the columns, 0 where one is constant."""
    a, b = predicted - predicted.mean(0), labels - labels.mean(0)
    spread = (a.square().mean(0) + _EPSILON) * (b.square().mean(0) + _EPSILON)
    return (a * b).mean(0) / spread.sqrt()
