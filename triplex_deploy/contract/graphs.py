"""Names, dtypes and axes of tensors, and the constants that graphs of every model share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TILE_PX: Final = 224
"""Side of a tile in pixels at the bundle's mpp."""
NEIGHBORHOOD: Final = 5
"""Tiles along each side of a neighbourhood; row-major, the spot's own tile at the centre."""
N_NEIGHBORS: Final = NEIGHBORHOOD * NEIGHBORHOOD
CENTER: Final = N_NEIGHBORS // 2
FEATURE_DIM: Final = 512
"""Width of the pooled ResNet18 features, the default of ``ModelConfig.feature_dim``."""
N_TARGET_TOKENS: Final = 49
"""A 224 px tile leaves every trunk as 7 x 7 positions."""
TRUNK_WIDTH: Final = {"resnet18": 512, "efficientnet_lite0": 1280}
"""Channels of the feature map of each image trunk we have."""
IMAGE_MEAN: Final = (0.485, 0.456, 0.406)
IMAGE_STD: Final = (0.229, 0.224, 0.225)

Axis = int | str


@dataclass(frozen=True)
class TensorSpec:
    """One graph input or output; a ``str`` axis is dynamic and named, an ``int`` axis is fixed."""

    name: str
    dtype: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class GraphSpec:
    """One graph of a bundle; ``batch_axis`` is the name of its dynamic axis."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_axis: str


TILES: Final = TensorSpec("tiles", "uint8", ("batch", TILE_PX, TILE_PX, 3))
"""RGB tiles as read from the slide; scaling and normalisation happen inside the graph."""
MASK: Final = TensorSpec("mask", "bool", ("batch", N_NEIGHBORS))
"""True where the neighbour tile lies inside the slide (MODELS 1.5)."""


def tile_encoder_graph(feature_dim: int) -> GraphSpec:
    """The frozen encoder of single tiles."""
    features = TensorSpec("features", "float32", ("batch", feature_dim))
    return GraphSpec("tile_encoder", (TILES,), (features,), "batch")
