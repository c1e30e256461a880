"""Define the configurations of all models, and the graphs that follow from them.

Code that builds, runs or checks a graph reads the names of its tensors here. ``CONFIGS`` is the
table of models; ``register`` adds a family.
"""

from triplex_deploy.contract.bleep import BleepConfig
from triplex_deploy.contract.config import Config, Lookup, TrainingRecipe
from triplex_deploy.contract.egn import EgnConfig
from triplex_deploy.contract.ensemble import EnsembleConfig
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
from triplex_deploy.contract.registry import CONFIGS, config_from_dict, register
from triplex_deploy.contract.st_net import StNetConfig
from triplex_deploy.contract.triplex import FUSIONS, POSITIONS, TRIPLEX_MODELS, VIEWS, ModelConfig

register(ModelConfig, *TRIPLEX_MODELS)
register(StNetConfig)
register(HisToGeneConfig)
register(Hist2StConfig)
register(EgnConfig)
register(BleepConfig)
register(EnsembleConfig)


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
    "EnsembleConfig",
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
