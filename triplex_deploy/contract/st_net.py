"""ST-Net: its configuration, graphs and declarations (docs/models.md, "ST-Net")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from triplex_deploy.contract.config import Config, TrainingRecipe
from triplex_deploy.contract.graphs import (
    FEATURE_DIM,
    GraphSpec,
    fusion_head_graph,
    target_encoder_graph,
    target_tokens,
)
from triplex_deploy.errors import ConfigError

SYMMETRIES: Final = (1, 8)
"""Values of ``StNetConfig.symmetries``."""
TOKEN_DIM: Final = 1024
"""Width of the features of DenseNet-121."""


@dataclass(frozen=True)
class StNetConfig(Config):
    """ST-Net (He et al. 2020): DenseNet-121 on the target tile, and a linear head."""

    display_name: ClassVar[str] = "ST-Net"
    network: ClassVar[str] = "triplex_deploy.models.st_net:StNet"
    quantizable: ClassVar[tuple[str, ...]] = ("target_encoder",)
    recipe: ClassVar[TrainingRecipe] = TrainingRecipe(
        start="triplex_deploy.training.starting_point:start_st_net"
    )

    model: str = "st_net"
    """Name of the model."""
    n_genes: int = 250
    """Number of predicted genes."""
    feature_dim: int = FEATURE_DIM
    """Width of the features of the frozen tile encoder, which this model does not read."""
    symmetries: int = 1
    """8 averages the prediction over the rotations and reflections of a square; 1 does not."""
    start_from_mean: bool = False
    """Whether training starts with the mean label as bias and zero weights in the head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.symmetries not in SYMMETRIES:
            raise ConfigError(
                f"symmetries={self.symmetries}: a square has eight; use 8, or 1 for none"
            )

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return the image encoder and the head."""
        tokens = target_tokens("batch", 1, TOKEN_DIM)
        return (target_encoder_graph(tokens), fusion_head_graph((tokens,), self.n_genes))
