"""Hist2ST: its configuration, graphs and declarations (docs/models.md, "Hist2ST")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from triplex_deploy.contract.config import WHOLE_SECTIONS, TrainingRecipe
from triplex_deploy.contract.graphs import TensorSpec
from triplex_deploy.contract.his_to_gene import SpotSequenceConfig
from triplex_deploy.errors import ConfigError

N_ADJACENT: Final = 4
"""Number of nearest spots that the graph joins to each spot."""
CELLS_PER_CHANNEL: Final = 32
"""Length of a token over ``channels``: 16 x 16 cells of a 112 px patch, in an eighth of them."""


@dataclass(frozen=True)
class Hist2StConfig(SpotSequenceConfig):
    """Hist2ST (Zeng et al. 2022): ConvMixer, transformer and graph layers over a slide's spots.

    A token is the map of a patch, 32 numbers for each of the ``channels``.
    """

    display_name: ClassVar[str] = "Hist2ST"
    network: ClassVar[str] = "triplex_deploy.models.hist2st:Hist2St"
    # docs/models.md, "Hist2ST": a step per section, and a transformer without a warm-up
    recipe: ClassVar[TrainingRecipe] = TrainingRecipe(
        objective="triplex_deploy.training.objectives:hist2st_objective",
        sampler=WHOLE_SECTIONS,
        options={"learning_rate": 1e-5},
    )

    model: str = "hist2st"
    """Name of the model."""
    mlp_dim: int = 1024
    """Hidden width of the MLPs; equal to ``embedding_dim``."""
    dropout: float = 0.2
    """Dropout rate in training."""
    channels: int = 32
    """Channels of the ConvMixer; a multiple of 8."""
    mixer_depth: int = 2
    """Number of ConvMixer blocks."""
    graph_depth: int = 4
    """Number of graph layers."""
    zinb_weight: float = 0.25
    """Weight of the count distribution's loss; used in training only."""
    distillation_weight: float = 0.5
    """Weight of the agreement with augmented passes; used in training only."""

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
