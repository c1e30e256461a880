"""EGN: its configuration, graphs and declarations (docs/models.md, "EGN")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from triplex_deploy.contract.config import BankConfig, Lookup, TrainingRecipe
from triplex_deploy.contract.graphs import (
    N_TARGET_TOKENS,
    GraphSpec,
    TensorSpec,
    fusion_head_graph,
    target_encoder_graph,
    target_tokens,
    tile_encoder_graph,
)
from triplex_deploy.errors import ConfigError


@dataclass(frozen=True)
class EgnConfig(BankConfig):
    """EGN (Yang et al. 2023): a vision transformer guided by the most similar training spots.

    The published code, which is the default, differs from the paper's equations in two settings:
    ``bridge_query`` (paper: updated) and ``gate_input`` (paper: query).
    """

    display_name: ClassVar[str] = "EGN"
    network: ClassVar[str] = "triplex_deploy.models.egn:Egn"
    # Nothing is quantizable: the tile encoder finds the exemplars, which needs fp32.
    lookup: ClassVar[Lookup | None] = Lookup("retrieval", "features", "n_exemplars")
    recipe: ClassVar[TrainingRecipe] = TrainingRecipe(
        objective="triplex_deploy.training.objectives:egn_objective"
    )

    model: str = "egn"
    """Name of the model."""
    embedding_dim: int = 1024
    """Width of the tokens."""
    depth: int = 8
    """Number of transformer layers."""
    heads: int = 16
    """Number of attention heads."""
    mlp_dim: int = 4096
    """Hidden width of the MLPs."""
    bridge_heads: int = 16
    """Number of heads of an exemplar bridge."""
    bridge_head_dim: int = 64
    """Width of a head of an exemplar bridge."""
    n_exemplars: int = 9
    """Number of training spots that are looked up for a spot."""
    exclude: str = "patient"
    """Spots that a training spot may not look up: those of its ``patient`` or of its ``slide``."""
    bridge_query: str = "old"
    """Query that a bridge adds the tokens' messages to: ``old`` or ``updated``."""
    gate_input: str = "key"
    """Second input of a bridge's gates, after the difference: ``key`` or ``query``."""
    correlation_weight: float = 0.5
    """Weight of 1 - r in the loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_in_bank("n_exemplars")
        self.require_choice("exclude", ("patient", "slide"))
        self.require_choice("bridge_query", ("old", "updated"))
        self.require_choice("gate_input", ("key", "query"))
        keys = ("embedding_dim", "depth", "heads", "mlp_dim", "bridge_heads", "bridge_head_dim")
        self.require_positive(*keys)
        if self.correlation_weight < 0:
            raise ConfigError(f"correlation_weight={self.correlation_weight}: not below 0")

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return the two image encoders, the look-up and the head."""
        tokens = target_tokens("batch", N_TARGET_TOKENS, self.embedding_dim)
        features = TensorSpec("features", "float32", ("batch", self.feature_dim))
        exemplars = TensorSpec(
            "exemplars", "float32", ("batch", self.n_exemplars, self.feature_dim + self.n_genes)
        )
        return (
            tile_encoder_graph(self.feature_dim),
            target_encoder_graph(tokens),
            GraphSpec("retrieval", (features,), (exemplars,), "batch"),
            fusion_head_graph((tokens, features, exemplars), self.n_genes),
        )
