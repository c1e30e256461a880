"""The models TRIPLEX is compared with: their configurations and graphs (MODELS 2).

Each is cut where TRIPLEX is: what sees a tile, what relates the spots of a slide, and what turns
tokens into expression. So the pipeline serves them without knowing them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from triplex_deploy.contract.config import Config
from triplex_deploy.contract.graphs import (
    FEATURE_DIM,
    N_TARGET_TOKENS,
    TILES,
    TRUNK_WIDTH,
    GraphSpec,
    TensorSpec,
    tile_encoder_graph,
)
from triplex_deploy.errors import ConfigError

N_ADJACENT: Final = 4
"""Nearest spots that Hist2ST's graph joins to each spot."""
CELLS_PER_CHANNEL: Final = 32
"""Of a 112 px patch: 16 x 16 cells, of whose channels an eighth is kept."""
SYMMETRIES: Final = (1, 8)


@dataclass(frozen=True)
class StNetConfig(Config):
    """ST-Net (He et al. 2020): DenseNet121 on a spot's tile, and a linear head.

    ``symmetries`` 8 averages the prediction over a square's rotations and reflections;
    ``start_from_mean`` begins training with the mean label as bias and no weights.
    """

    model: str = "st_net"
    n_genes: int = 250
    feature_dim: int = FEATURE_DIM
    symmetries: int = 1
    start_from_mean: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.symmetries not in SYMMETRIES:
            raise ConfigError(f"symmetries={self.symmetries}: use 1 or 8")

    def graphs(self) -> tuple[GraphSpec, ...]:
        tokens = _target_tokens("batch", 1, 1024)
        return (
            GraphSpec("target_encoder", (TILES,), (tokens,), "batch"),
            _head((tokens,), self.n_genes),
        )


@dataclass(frozen=True)
class _SpotSequenceConfig(Config):
    """A transformer over all spots of a slide, which knows ``n_positions`` rows and columns."""

    n_positions: int = 64
    embedding_dim: int = 1024
    depth: int = 8
    heads: int = 16
    mlp_dim: int = 2048
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("n_positions", "embedding_dim", "depth", "heads", "mlp_dim")
        self.require_share("dropout")
        if self.embedding_dim % self.heads:
            raise ConfigError(f"heads={self.heads}: must divide embedding_dim={self.embedding_dim}")

    def graphs(self) -> tuple[GraphSpec, ...]:
        dim = self.embedding_dim
        related = (_target_tokens("spots", 1, dim), *self._tables())
        of_spots, of_batch = (
            TensorSpec("global_tokens", "float32", (axis, dim)) for axis in ("spots", "batch")
        )
        return (
            GraphSpec("target_encoder", (TILES,), (_target_tokens("batch", 1, dim),), "batch"),
            GraphSpec("global_encoder", related, (of_spots,), "spots"),
            _head((of_batch,), self.n_genes),
        )

    def _tables(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("grid_xy", "int64", ("spots", 2)),)


@dataclass(frozen=True)
class HisToGeneConfig(_SpotSequenceConfig):
    """HisToGene (Pang et al. 2021): a transformer over the 112 px patches of a slide's spots."""

    model: str = "his_to_gene"


@dataclass(frozen=True)
class Hist2StConfig(_SpotSequenceConfig):
    """Hist2ST (Zeng et al. 2022): ConvMixer, transformer and graph layers over a slide's spots.

    Its tokens are the map of a patch, 32 numbers for each of the ``channels``. ``zinb_weight`` and
    ``distillation_weight`` matter to training alone.
    """

    model: str = "hist2st"
    mlp_dim: int = 1024
    dropout: float = 0.2
    channels: int = 32
    mixer_depth: int = 2
    graph_depth: int = 4
    zinb_weight: float = 0.25
    distillation_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("mixer_depth", "graph_depth")
        if self.channels < 8 or self.channels % 8:
            raise ConfigError(f"channels={self.channels}: an eighth is kept; use a multiple of 8")
        if not self.channels * CELLS_PER_CHANNEL == self.embedding_dim == self.mlp_dim:
            raise ConfigError(
                f"channels={self.channels}: embedding_dim and mlp_dim must both be "
                f"{self.channels * CELLS_PER_CHANNEL}"
            )
        if min(self.zinb_weight, self.distillation_weight) < 0:
            raise ConfigError("zinb_weight and distillation_weight must not be negative")

    def _tables(self) -> tuple[TensorSpec, ...]:
        adjacency = TensorSpec("adjacency", "int64", ("spots", N_ADJACENT))
        return (*super()._tables(), adjacency)


@dataclass(frozen=True)
class _BankConfig(Config):
    """A model that looks up training spots: ``bank_size`` of them, which training fills in."""

    bank_size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bank_size < 0:
            raise ConfigError(f"bank_size={self.bank_size}: not below 0")

    def _require_in_bank(self, key: str) -> None:
        self.require_positive(key)
        if self.bank_size and getattr(self, key) > self.bank_size:
            raise ConfigError(
                f"{key}={getattr(self, key)}: the bank has {self.bank_size} spots; use fewer"
            )


@dataclass(frozen=True)
class EgnConfig(_BankConfig):
    """EGN (Yang et al. 2023): a vision transformer guided by the most similar training spots.

    ``exclude`` says whose spots a training spot may not look up: its patient's or its slide's.
    ``correlation_weight`` is that of 1 - r in the loss. The paper's equations differ from its code,
    which is the default, in ``bridge_query`` (updated) and ``gate_input`` (query).
    """

    model: str = "egn"
    embedding_dim: int = 1024
    depth: int = 8
    heads: int = 16
    mlp_dim: int = 4096
    bridge_heads: int = 16
    bridge_head_dim: int = 64
    n_exemplars: int = 9
    exclude: str = "patient"
    bridge_query: str = "old"
    gate_input: str = "key"
    correlation_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_in_bank("n_exemplars")
        self.require_choice("exclude", ("patient", "slide"))
        self.require_choice("bridge_query", ("old", "updated"))
        self.require_choice("gate_input", ("key", "query"))
        keys = ("embedding_dim", "depth", "heads", "mlp_dim", "bridge_heads", "bridge_head_dim")
        self.require_positive(*keys)
        if self.correlation_weight < 0:
            raise ConfigError(f"correlation_weight={self.correlation_weight}: not below 0")

    def graphs(self) -> tuple[GraphSpec, ...]:
        tokens = _target_tokens("batch", N_TARGET_TOKENS, self.embedding_dim)
        features = TensorSpec("features", "float32", ("batch", self.feature_dim))
        exemplars = TensorSpec(
            "exemplars", "float32", ("batch", self.n_exemplars, self.feature_dim + self.n_genes)
        )
        return (
            tile_encoder_graph(self.feature_dim),
            GraphSpec("target_encoder", (TILES,), (tokens,), "batch"),
            GraphSpec("retrieval", (features,), (exemplars,), "batch"),
            _head((tokens, features, exemplars), self.n_genes),
        )


@dataclass(frozen=True)
class BleepConfig(_BankConfig):
    """BLEEP (Xie et al. 2023): the mean label of the training spots most like the image."""

    model: str = "bleep"
    embedding_dim: int = 512
    n_retrieved: int = 50
    target_trunk: str = "resnet18"
    temperature: float = 1.0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_in_bank("n_retrieved")
        self.require_positive("embedding_dim")
        self.require_choice("target_trunk", tuple(TRUNK_WIDTH))
        self.require_share("dropout")
        if self.temperature <= 0:
            raise ConfigError(f"temperature={self.temperature}: must be positive")

    def graphs(self) -> tuple[GraphSpec, ...]:
        tokens = _target_tokens("batch", 1, self.embedding_dim)
        return (
            GraphSpec("target_encoder", (TILES,), (tokens,), "batch"),
            _head((tokens,), self.n_genes),
        )


def _target_tokens(axis: str, count: int, dim: int) -> TensorSpec:
    return TensorSpec("target_tokens", "float32", (axis, count, dim))


def _head(inputs: tuple[TensorSpec, ...], n_genes: int) -> GraphSpec:
    expression = TensorSpec("expression", "float32", ("batch", n_genes))
    return GraphSpec("fusion_head", inputs, (expression,), "batch")
