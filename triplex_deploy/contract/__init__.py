"""Define the configurations of all models, and the graphs that follow from them.

Code that builds, runs or checks a graph reads the names of its tensors here. ``CONFIGS`` is the
table of models; ``register`` adds a family.
"""

from collections.abc import Mapping
from typing import Any, Final

from triplex_deploy.contract.bleep import BleepConfig
from triplex_deploy.contract.config import Config, Lookup, TrainingRecipe
from triplex_deploy.contract.egn import EgnConfig
from triplex_deploy.contract.graphs import (
    BACKBONE_WIDTH,
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
    GraphKind,
    GraphSpec,
    TensorSpec,
)
from triplex_deploy.contract.his_to_gene import HisToGeneConfig
from triplex_deploy.contract.hist2st import Hist2StConfig
from triplex_deploy.contract.neighborhood import Neighborhood
from triplex_deploy.contract.st_net import StNetConfig
from triplex_deploy.contract.triplex import FUSIONS, POSITIONS, TRIPLEX_MODELS, VIEWS, ModelConfig
from triplex_deploy.errors import ConfigError
from triplex_deploy.files.escape import short_repr

CONFIGS: Final[dict[str, type[Config]]] = {}
"""The configuration class of each model, by the model's name."""


def register(kind: type[Config], *names: str) -> None:
    """Add a family of models to ``CONFIGS``.

    Args:
        kind: The configuration class of the family.
        names: Names of the family's models; without any, the default of ``kind.model``.

    Raises:
        ConfigError: If another class has a name already.
    """
    for name in names or (str(kind.__dict__["model"]),):
        if CONFIGS.setdefault(name, kind) is not kind:
            raise ConfigError(f"model {name!r}: registered already; choose another name")


register(ModelConfig, *TRIPLEX_MODELS)
register(StNetConfig)
register(HisToGeneConfig)
register(Hist2StConfig)
register(EgnConfig)
register(BleepConfig)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Return the configuration of the model named by ``values["model"]``, triplex if absent.

    Args:
        values: Settings as plain values; keys of earlier versions are accepted.

    Raises:
        ConfigError: If the model or a key is unknown, or a value is wrong.
    """
    name = values.get("model", "triplex")
    if not isinstance(name, str) or name not in CONFIGS:
        raise ConfigError(f"model={short_repr(name)}: this version supports {', '.join(CONFIGS)}")
    return CONFIGS[name].from_dict(values)


def graph_specs(config: Config) -> dict[str, GraphSpec]:
    """Return the graphs of a bundle of this configuration, by name, in the order they run.

    ``GraphSpec.kind`` says how each is run; ``fusion_head`` is the last.
    """
    return {spec.name: spec for spec in config.graphs()}


__all__ = [
    "BACKBONE_WIDTH",
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
    "VIEWS",
    "BleepConfig",
    "Config",
    "EgnConfig",
    "GraphKind",
    "GraphSpec",
    "HisToGeneConfig",
    "Hist2StConfig",
    "Lookup",
    "ModelConfig",
    "Neighborhood",
    "StNetConfig",
    "TensorSpec",
    "TrainingRecipe",
    "config_from_dict",
    "graph_specs",
    "register",
]
