"""BLEEP: its configuration, graphs and declarations (docs/models.md, "BLEEP")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from triplex_deploy.contract.config import BankConfig, Lookup, TrainingRecipe
from triplex_deploy.contract.graphs import (
    BACKBONE_WIDTH,
    GraphSpec,
    fusion_head_graph,
    target_encoder_graph,
    target_tokens,
)
from triplex_deploy.errors import ConfigError


@dataclass(frozen=True)
class BleepConfig(BankConfig):
    """BLEEP (Xie et al. 2023): the mean label of the training spots most similar to the image."""

    display_name: ClassVar[str] = "BLEEP"
    network: ClassVar[str] = "triplex_deploy.models.bleep:Bleep"
    quantizable: ClassVar[tuple[str, ...]] = ("target_encoder",)
    lookup: ClassVar[Lookup | None] = Lookup("fusion_head", "target_tokens", "n_retrieved")
    recipe: ClassVar[TrainingRecipe] = TrainingRecipe(
        start="triplex_deploy.training.starting_point:start_bleep",
        objective="triplex_deploy.training.objectives:bleep_objective",
        score="triplex_deploy.training.score:contrastive_score",
    )

    model: str = "bleep"
    """Name of the model."""
    embedding_dim: int = 512
    """Width of the space shared by images and expression."""
    n_retrieved: int = 50
    """Number of training spots whose labels are averaged."""
    target_backbone: str = "resnet18"
    """Backbone of the image encoder: ``resnet18`` or ``efficientnet_lite0``."""
    temperature: float = 1.0
    """Temperature of the contrastive loss."""
    dropout: float = 0.1
    """Dropout rate of the projections in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_in_bank("n_retrieved")
        self.require_positive("embedding_dim")
        self.require_choice("target_backbone", tuple(BACKBONE_WIDTH))
        self.require_share("dropout")
        if self.temperature <= 0:
            raise ConfigError(f"temperature={self.temperature}: must be positive")

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return the image encoder and the look-up."""
        tokens = target_tokens("batch", 1, self.embedding_dim)
        return (target_encoder_graph(tokens), fusion_head_graph((tokens,), self.n_genes))
