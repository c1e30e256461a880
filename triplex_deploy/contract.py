"""Names, dtypes and axes of the graphs, and the model configuration that decides them.

Everything that builds, runs or checks a graph reads its tensor names from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from triplex_deploy.errors import ConfigError

TILE_PX: Final = 224
"""Side of a tile in pixels at the bundle's mpp."""
NEIGHBORHOOD: Final = 5
"""Tiles along each side of a neighbourhood; row-major, the spot's own tile at the centre."""
N_NEIGHBORS: Final = NEIGHBORHOOD * NEIGHBORHOOD
CENTER: Final = N_NEIGHBORS // 2
FEATURE_DIM: Final = 512
"""Width of the pooled ResNet18 features."""
N_TARGET_TOKENS: Final = 49
"""A 224 px tile leaves the ResNet18 trunk as 7 x 7 positions."""
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


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a TRIPLEX model; the defaults are the paper's BC1 configuration (MODELS section 3).

    ``apeg_residual`` adds the input of the position encoding back to its output, as the paper-era
    model does. ``nonnegative`` clips the exported expression at zero. ``fusion_loss_alpha`` matters
    to training alone.
    """

    model: str = "triplex"
    n_genes: int = 250
    embedding_dim: int = FEATURE_DIM
    fusion_depth: int = 1
    fusion_heads: int = 4
    fusion_mlp_ratio: float = 4.0
    fusion_dropout: float = 0.2
    global_depth: int = 3
    global_heads: int = 16
    global_mlp_ratio: float = 4.0
    global_dropout: float = 0.1
    neighbor_depth: int = 3
    neighbor_heads: int = 16
    neighbor_mlp_ratio: float = 1.0
    neighbor_dropout: float = 0.3
    apeg_kernel: int = 3
    position: str = "apeg"
    apeg_residual: bool = True
    fusion: str = "cross_attention"
    fusion_loss_alpha: float = 0.3
    nonnegative: bool = False

    def __post_init__(self) -> None:
        _require_choice("model", self.model, MODELS)
        _require_choice("position", self.position, POSITIONS)
        _require_choice("fusion", self.fusion, FUSIONS)
        if self.embedding_dim != FEATURE_DIM:
            raise ConfigError(
                f"embedding_dim={self.embedding_dim}: the ResNet18 trunk feeds the transformers "
                f"without a projection; use {FEATURE_DIM}"
            )
        if self.n_genes < 1:
            raise ConfigError(f"n_genes={self.n_genes}: a model predicts at least one gene")
        if self.apeg_kernel < 1 or self.apeg_kernel % 2 == 0:
            raise ConfigError(f"apeg_kernel={self.apeg_kernel}: use an odd number, such as 3")
        if not 0 <= self.fusion_loss_alpha <= 1:
            raise ConfigError(f"fusion_loss_alpha={self.fusion_loss_alpha}: use a value in [0, 1]")
        for part in ("fusion", "global", "neighbor"):
            self._check_transformer(part)

    def _check_transformer(self, part: str) -> None:
        depth, heads = getattr(self, f"{part}_depth"), getattr(self, f"{part}_heads")
        least = 2 if part == "global" else 1
        if depth < least:
            raise ConfigError(f"{part}_depth={depth}: use at least {least}")
        if heads < 1 or self.embedding_dim % heads:
            raise ConfigError(
                f"{part}_heads={heads}: must divide embedding_dim={self.embedding_dim}"
            )
        if getattr(self, f"{part}_mlp_ratio") <= 0:
            raise ConfigError(f"{part}_mlp_ratio must be positive")
        if not 0 <= getattr(self, f"{part}_dropout") < 1:
            raise ConfigError(f"{part}_dropout must lie in [0, 1)")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build from plain values; an unknown or wrongly typed key raises ``ConfigError``."""
        kinds = {field.name: str(field.type) for field in fields(cls)}
        for key, value in values.items():
            if key not in kinds:
                raise ConfigError(f"{key}: not a model option; known: {', '.join(sorted(kinds))}")
            if not _is_kind(value, kinds[key]):
                raise ConfigError(f"{key}={value!r}: expected {kinds[key]}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


MODELS: Final = ("triplex",)
POSITIONS: Final = ("apeg", "none")
FUSIONS: Final = ("cross_attention",)


def _require_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value!r}: this version supports {', '.join(choices)}")


def _is_kind(value: object, kind: str) -> bool:
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)


TILES: Final = TensorSpec("tiles", "uint8", ("batch", TILE_PX, TILE_PX, 3))
"""RGB tiles as read from the slide; scaling and normalisation happen inside the graph."""
MASK: Final = TensorSpec("mask", "bool", ("batch", N_NEIGHBORS))
"""True where the neighbour tile lies inside the slide (MODELS 1.5)."""


def graph_specs(config: ModelConfig) -> dict[str, GraphSpec]:
    """The graphs a bundle of this configuration holds, by name, in the order they run."""
    dim = config.embedding_dim
    target_tokens = TensorSpec("target_tokens", "float32", ("batch", N_TARGET_TOKENS, dim))
    neighbor_tokens = TensorSpec("neighbor_tokens", "float32", ("batch", N_NEIGHBORS, dim))
    specs = (
        GraphSpec(
            "tile_encoder",
            (TILES,),
            (TensorSpec("features", "float32", ("batch", FEATURE_DIM)),),
            "batch",
        ),
        GraphSpec("target_encoder", (TILES,), (target_tokens,), "batch"),
        GraphSpec(
            "neighbor_encoder",
            (TensorSpec("features", "float32", ("batch", N_NEIGHBORS, FEATURE_DIM)), MASK),
            (neighbor_tokens,),
            "batch",
        ),
        GraphSpec(
            "global_encoder",
            (
                TensorSpec("features", "float32", ("spots", FEATURE_DIM)),
                TensorSpec("apeg_index", "int64", ("spots", config.apeg_kernel**2)),
            ),
            (TensorSpec("global_tokens", "float32", ("spots", dim)),),
            "spots",
        ),
        GraphSpec(
            "fusion_head",
            (
                TensorSpec("global_tokens", "float32", ("batch", dim)),
                target_tokens,
                neighbor_tokens,
                MASK,
            ),
            (TensorSpec("expression", "float32", ("batch", config.n_genes)),),
            "batch",
        ),
    )
    return {spec.name: spec for spec in specs}
