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


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model; the defaults are TRIPLEX in the paper's BC1 configuration (MODELS 3).

    ``model`` tem, nem and gem see one view alone; ``use_*`` leave one out of triplex (MODELS 4.1).
    ``feature_dim`` is the width of the frozen tile encoder, which is projected where it is not
    ``embedding_dim``; so is the map of ``target_trunk``, and always with ``target_projection``.
    ``apeg_residual`` adds the input of the position encoding back to its output, as the paper-era
    model does. ``nonnegative`` clips the exported expression at zero. ``fusion_loss_alpha`` and
    ``auxiliary_heads`` matter to training alone.
    """

    model: str = "triplex"
    n_genes: int = 250
    feature_dim: int = FEATURE_DIM
    embedding_dim: int = FEATURE_DIM
    target_trunk: str = "resnet18"
    target_projection: bool = False
    use_target: bool = True
    use_neighbor: bool = True
    use_global: bool = True
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
    auxiliary_heads: bool = True
    nonnegative: bool = False

    def __post_init__(self) -> None:
        _require_choice("model", self.model, MODELS)
        _require_choice("position", self.position, POSITIONS)
        _require_choice("fusion", self.fusion, FUSIONS)
        _require_choice("target_trunk", self.target_trunk, tuple(TRUNK_WIDTH))
        for key in ("n_genes", "feature_dim", "embedding_dim"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: use at least 1")
        if self.apeg_kernel < 1 or self.apeg_kernel % 2 == 0:
            raise ConfigError(f"apeg_kernel={self.apeg_kernel}: use an odd number, such as 3")
        if not 0 <= self.fusion_loss_alpha <= 1:
            raise ConfigError(f"fusion_loss_alpha={self.fusion_loss_alpha}: use a value in [0, 1]")
        for part in ("fusion", "global", "neighbor"):
            self._check_transformer(part)
        self._check_views()

    @property
    def views(self) -> tuple[str, ...]:
        """What the model sees of a spot: target, neighbor, global, in that order."""
        if self.model in SINGLE_VIEWS:
            return (SINGLE_VIEWS[self.model],)
        return tuple(view for view in VIEWS if getattr(self, f"use_{view}"))

    @property
    def contexts(self) -> tuple[str, ...]:
        """The views whose single tokens the fusion attends to; of the others it takes the mean."""
        if self.fusion != "cross_attention" or len(self.views) == 1:
            return ()
        if "global" in self.views:
            return tuple(view for view in self.views if view != "global")
        return ("neighbor",)  # queried by the mean target token

    @property
    def projects_target(self) -> bool:
        return self.target_projection or TRUNK_WIDTH[self.target_trunk] != self.embedding_dim

    def _check_views(self) -> None:
        left_out = [view for view in VIEWS if not getattr(self, f"use_{view}")]
        if self.model in SINGLE_VIEWS and left_out:
            raise ConfigError(
                f"use_{left_out[0]}=False: {self.model} sees the {self.views[0]} view alone; "
                "leave views out of triplex"
            )
        if len(left_out) > 1:
            raise ConfigError("use_*: leave one view out of triplex, or take tem, nem or gem")

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


VIEWS: Final = ("target", "neighbor", "global")
SINGLE_VIEWS: Final = {"tem": "target", "nem": "neighbor", "gem": "global"}
MODELS: Final = ("triplex", *SINGLE_VIEWS)
POSITIONS: Final = ("apeg", "peg", "none")
FUSIONS: Final = ("cross_attention", "sum", "concat", "attention_pool")


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
    """The graphs a bundle of this configuration holds, by name, in the order they run.

    A graph whose only input is ``tiles`` runs once per tile; one of axis ``spots`` once per slide;
    one of axis ``batch`` per batch of spots, of which ``fusion_head`` is the last. Views the model
    does not have are absent, and tokens that the fusion would only average are averaged before:
    ``target_tokens`` and ``neighbor_tokens`` are then one token each.
    """
    dim, views = config.embedding_dim, config.views
    tokens = {
        "target": TensorSpec("target_tokens", "float32", ("batch", _tokens(config, "target"), dim)),
        "neighbor": TensorSpec(
            "neighbor_tokens", "float32", ("batch", _tokens(config, "neighbor"), dim)
        ),
        "global": TensorSpec("global_tokens", "float32", ("batch", dim)),
    }
    specs = []
    if "neighbor" in views or "global" in views:
        features = TensorSpec("features", "float32", ("batch", config.feature_dim))
        specs.append(GraphSpec("tile_encoder", (TILES,), (features,), "batch"))
    if "target" in views:
        specs.append(GraphSpec("target_encoder", (TILES,), (tokens["target"],), "batch"))
    if "neighbor" in views:
        around = TensorSpec("features", "float32", ("batch", N_NEIGHBORS, config.feature_dim))
        specs.append(GraphSpec("neighbor_encoder", (around, MASK), (tokens["neighbor"],), "batch"))
    if "global" in views:
        specs.append(_global_encoder(config))
    fused = [tokens[view] for view in ("global", "target", "neighbor") if view in views]
    if "neighbor" in config.contexts:
        fused.append(MASK)
    expression = TensorSpec("expression", "float32", ("batch", config.n_genes))
    specs.append(GraphSpec("fusion_head", tuple(fused), (expression,), "batch"))
    return {spec.name: spec for spec in specs}


def _global_encoder(config: ModelConfig) -> GraphSpec:
    inputs = (
        TensorSpec("features", "float32", ("spots", config.feature_dim)),
        TensorSpec("apeg_index", "int64", ("spots", config.apeg_kernel**2)),
    )
    tokens = TensorSpec("global_tokens", "float32", ("spots", config.embedding_dim))
    return GraphSpec("global_encoder", inputs, (tokens,), "spots")


def _tokens(config: ModelConfig, view: str) -> int:
    if view not in config.contexts:
        return 1
    return N_TARGET_TOKENS if view == "target" else N_NEIGHBORS
