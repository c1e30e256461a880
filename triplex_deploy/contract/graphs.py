"""Define graphs and tensors, and the constants that the graphs of all models share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

TILE_PX: Final = 224
"""Side of a tile in pixels at the bundle's mpp."""
NEIGHBORHOOD: Final = 5
"""Number of tiles along each side of a neighborhood, with the target tile in the center."""
N_NEIGHBORS: Final = NEIGHBORHOOD * NEIGHBORHOOD
"""Number of tiles of a neighborhood, in row-major order."""
CENTER: Final = N_NEIGHBORS // 2
"""Index of the target tile in its neighborhood."""
FEATURE_DIM: Final = 512
"""Width of the pooled ResNet18 features, the default of ``ModelConfig.feature_dim``."""
N_TARGET_TOKENS: Final = 49
"""Number of tokens of a target tile: every backbone maps 224 px to 7 x 7 positions."""
BACKBONE_WIDTH: Final = {"resnet18": 512, "efficientnet_lite0": 1280}
"""Number of channels of the feature map of each backbone."""
IMAGE_MEAN: Final = (0.485, 0.456, 0.406)
"""Mean of red, green and blue in [0, 1] over ImageNet; image encoders subtract it."""
IMAGE_STD: Final = (0.229, 0.224, 0.225)
"""Standard deviation of red, green and blue over ImageNet; image encoders divide by it."""

Axis = int | str
"""A fixed length, or the name of a dynamic axis."""
GraphKind = Literal["per tile", "per slide", "per batch"]
"""How a graph is run: once per tile, once over all spots of a slide, or per batch of spots."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph."""

    name: str
    """Name of the tensor."""
    dtype: str
    """NumPy's name of the element type, such as ``float32``."""
    axes: tuple[Axis, ...]
    """The axes in order: an ``int`` is a fixed length, a ``str`` the name of a dynamic axis."""


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
"""RGB tiles as read from the slide; the graph scales and normalizes them."""
MASK: Final = TensorSpec("mask", "bool", ("batch", N_NEIGHBORS))
"""True where the neighbor tile lies inside the slide (docs/models.md, "Masked neighbors")."""


def tile_encoder_graph(feature_dim: int) -> GraphSpec:
    """Return the graph of the frozen encoder of single tiles."""
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
