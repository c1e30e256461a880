"""Names, dtypes and axes of tensors, and the constants that graphs of every model share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

TILE_PX: Final = 224
"""Side of a tile in pixels at the bundle's mpp."""
NEIGHBORHOOD: Final = 5
"""Tiles along each side of a neighbourhood; row-major, the spot's own tile at the center."""
N_NEIGHBORS: Final = NEIGHBORHOOD * NEIGHBORHOOD
CENTER: Final = N_NEIGHBORS // 2
FEATURE_DIM: Final = 512
"""Width of the pooled ResNet18 features, the default of ``ModelConfig.feature_dim``."""
N_TARGET_TOKENS: Final = 49
"""A 224 px tile leaves every trunk as 7 x 7 positions."""
BACKBONE_WIDTH: Final = {"resnet18": 512, "efficientnet_lite0": 1280}
"""Channels of the feature map of each image trunk we have."""
IMAGE_MEAN: Final = (0.485, 0.456, 0.406)
IMAGE_STD: Final = (0.229, 0.224, 0.225)

Axis = int | str
GraphKind = Literal["per tile", "per slide", "per batch"]
"""How a graph is run: once per tile, once over all spots of a slide, or per batch of spots."""


@dataclass(frozen=True)
class TensorSpec:
    """One graph input or output; a ``str`` axis is dynamic and named, an ``int`` axis is fixed."""

    name: str
    dtype: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class GraphSpec:
    """One graph of a bundle: its name, its tensors and how it is run."""

    name: str
    """Name of the graph and of its ONNX file."""
    inputs: tuple[TensorSpec, ...]
    """Input tensors in order."""
    outputs: tuple[TensorSpec, ...]
    """Output tensors in order; every graph of this release has a single output."""
    batch_axis: str
    """Name of the dynamic axis: ``batch``, or ``spots`` for all spots of a slide."""

    @property
    def kind(self) -> GraphKind:
        """Return how the graph is run.

        ``per tile``: its only input is ``tiles``, and rows are independent. ``per slide``: one
        call takes all spots of a slide, and every row may depend on every other row.
        ``per batch``: a call takes some spots, and rows are independent.
        """
        if self.batch_axis == "spots":
            return "per slide"
        return "per tile" if self.inputs == (TILES,) else "per batch"


TILES: Final = TensorSpec("tiles", "uint8", ("batch", TILE_PX, TILE_PX, 3))
"""RGB tiles as read from the slide; scaling and normalisation happen inside the graph."""
MASK: Final = TensorSpec("mask", "bool", ("batch", N_NEIGHBORS))
"""True where the neighbor tile lies inside the slide (docs/models.md, "Masked neighbors")."""


def tile_encoder_graph(feature_dim: int) -> GraphSpec:
    """The frozen encoder of single tiles."""
    features = TensorSpec("features", "float32", ("batch", feature_dim))
    return GraphSpec("tile_encoder", (TILES,), (features,), "batch")


def target_tokens(axis: str, count: int, dim: int) -> TensorSpec:
    """Return ``target_tokens`` (axis, count, dim): ``count`` tokens for each target tile."""
    return TensorSpec("target_tokens", "float32", (axis, count, dim))


def target_encoder_graph(tokens: TensorSpec) -> GraphSpec:
    """Return the graph of the trained encoder of single tiles."""
    return GraphSpec("target_encoder", (TILES,), (tokens,), "batch")


def fusion_head_graph(inputs: tuple[TensorSpec, ...], n_genes: int) -> GraphSpec:
    """Return the last graph of every model: from tokens to expression (B, n_genes)."""
    expression = TensorSpec("expression", "float32", ("batch", n_genes))
    return GraphSpec("fusion_head", inputs, (expression,), "batch")
