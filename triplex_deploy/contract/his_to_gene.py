"""HisToGene: its configuration, graphs and declarations (docs/models.md, "HisToGene")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from triplex_deploy.contract.config import WHOLE_SECTIONS, Config, TrainingRecipe
from triplex_deploy.contract.graphs import (
    GraphSpec,
    TensorSpec,
    fusion_head_graph,
    target_encoder_graph,
    target_tokens,
)
from triplex_deploy.errors import ConfigError


@dataclass(frozen=True)
class SpotSequenceConfig(Config):
    """Configuration of a transformer over all spots of a slide."""

    n_positions: int = 64
    """Number of rows, and of columns, of the array that have their own position embedding."""
    embedding_dim: int = 1024
    """Width of the tokens."""
    depth: int = 8
    """Number of transformer layers."""
    heads: int = 16
    """Number of attention heads; must divide ``embedding_dim``."""
    mlp_dim: int = 2048
    """Hidden width of the MLPs."""
    dropout: float = 0.1
    """Dropout rate in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("n_positions", "embedding_dim", "depth", "heads", "mlp_dim")
        self.require_share("dropout")
        if self.embedding_dim % self.heads:
            raise ConfigError(f"heads={self.heads}: must divide embedding_dim={self.embedding_dim}")

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return the image encoder, the encoder of all spots, and the head."""
        dim = self.embedding_dim
        of_slide = (target_tokens("spots", 1, dim), *self._tables())
        of_spots, of_batch = (
            TensorSpec("global_tokens", "float32", (axis, dim)) for axis in ("spots", "batch")
        )
        return (
            target_encoder_graph(target_tokens("batch", 1, dim)),
            GraphSpec("global_encoder", of_slide, (of_spots,), "spots"),
            fusion_head_graph((of_batch,), self.n_genes),
        )

    def _tables(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("grid_xy", "int64", ("spots", 2)),)


@dataclass(frozen=True)
class HisToGeneConfig(SpotSequenceConfig):
    """HisToGene (Pang et al. 2021): a transformer over the 112 px patches of a slide's spots."""

    display_name: ClassVar[str] = "HisToGene"
    network: ClassVar[str] = "triplex_deploy.models.his_to_gene:HisToGene"
    # docs/models.md, "HisToGene": a step per section, and a transformer without a warm-up
    recipe: ClassVar[TrainingRecipe] = TrainingRecipe(
        objective="triplex_deploy.training.objectives:section_mean_squared_error",
        sampler=WHOLE_SECTIONS,
        options={"learning_rate": 1e-5},
    )

    model: str = "his_to_gene"
    """Name of the model."""
