"""Names, dtypes and axes of the graphs, and the model configuration that decides them.

Everything that builds, runs or checks a graph reads its tensor names from here.
"""

from collections.abc import Mapping
from typing import Any, Final

from triplex_deploy.contract.baselines import (
    BleepConfig,
    EgnConfig,
    Hist2StConfig,
    HisToGeneConfig,
    StNetConfig,
)
from triplex_deploy.contract.config import Config
from triplex_deploy.contract.graphs import (
    CENTER,
    FEATURE_DIM,
    IMAGE_MEAN,
    IMAGE_STD,
    MASK,
    N_NEIGHBORS,
    N_TARGET_TOKENS,
    NEIGHBORHOOD,
    TILE_PX,
    TILES,
    TRUNK_WIDTH,
    GraphKind,
    GraphSpec,
    TensorSpec,
)
from triplex_deploy.contract.triplex import FUSIONS, POSITIONS, TRIPLEX_MODELS, VIEWS, ModelConfig
from triplex_deploy.errors import ConfigError

CONFIGS: Final[dict[str, type[Config]]] = {
    **dict.fromkeys(TRIPLEX_MODELS, ModelConfig),
    **{
        str(kind.model): kind
        for kind in (StNetConfig, HisToGeneConfig, Hist2StConfig, EgnConfig, BleepConfig)
    },
}
"""The configuration of each model, by its name."""


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """The configuration of the model that ``values`` name; ``ConfigError`` for an odd value."""
    name = values.get("model", "triplex")
    if name not in CONFIGS:
        raise ConfigError(f"model={name!r}: this version supports {', '.join(CONFIGS)}")
    return CONFIGS[name].from_dict(values)


def graph_specs(config: Config) -> dict[str, GraphSpec]:
    """The graphs a bundle of this configuration holds, by name, in the order they run.

    A graph whose only input is ``tiles`` runs once per tile; one of axis ``spots`` once per slide;
    one of axis ``batch`` per batch of spots, of which ``fusion_head`` is the last.
    """
    return {spec.name: spec for spec in config.graphs()}


__all__ = [
    "CENTER",
    "CONFIGS",
    "FEATURE_DIM",
    "FUSIONS",
    "IMAGE_MEAN",
    "IMAGE_STD",
    "MASK",
    "NEIGHBORHOOD",
    "N_NEIGHBORS",
    "N_TARGET_TOKENS",
    "POSITIONS",
    "TILES",
    "TILE_PX",
    "TRIPLEX_MODELS",
    "TRUNK_WIDTH",
    "VIEWS",
    "BleepConfig",
    "Config",
    "EgnConfig",
    "GraphKind",
    "GraphSpec",
    "HisToGeneConfig",
    "Hist2StConfig",
    "ModelConfig",
    "StNetConfig",
    "TensorSpec",
    "config_from_dict",
    "graph_specs",
]
