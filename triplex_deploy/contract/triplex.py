"""TRIPLEX, its single-resolution parts and its ablations: their configuration and graphs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from triplex_deploy.contract.config import Config, TrainingRecipe
from triplex_deploy.contract.graphs import (
    BACKBONE_WIDTH,
    FEATURE_DIM,
    MASK,
    N_NEIGHBORS,
    N_TARGET_TOKENS,
    GraphSpec,
    TensorSpec,
    fusion_head_graph,
    target_encoder_graph,
    target_tokens,
    tile_encoder_graph,
)
from triplex_deploy.contract.neighborhood import EXACT, KIND_KEY, STRIDE_KEY, Neighborhood
from triplex_deploy.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig(Config):
    """Configuration of TRIPLEX, its single-view models and its ablations.

    The defaults are the paper's BC1 configuration (docs/models.md, "Configurations").
    """

    display_name: ClassVar[str] = "TRIPLEX"
    network: ClassVar[str] = "triplex_deploy.models.triplex:Triplex"
    quantizable: ClassVar[tuple[str, ...]] = ("tile_encoder", "target_encoder")
    recipe: ClassVar[TrainingRecipe] = TrainingRecipe(
        start="triplex_deploy.training.starting_point:start_triplex",
        objective="triplex_deploy.training.objectives:triplex_objective",
        hides_features=True,
    )
    added: ClassVar[tuple[str, ...]] = (KIND_KEY, STRIDE_KEY)
    supports_tensorrt: ClassVar[bool] = True
    supports_triton: ClassVar[bool] = True

    model: str = "triplex"
    """``triplex``, or the model of a single view: ``tem``, ``nem`` or ``gem``."""
    n_genes: int = 250
    """Number of predicted genes."""
    feature_dim: int = FEATURE_DIM
    """Width of the features of the frozen tile encoder.

    They are projected if it differs from ``embedding_dim``.
    """
    embedding_dim: int = FEATURE_DIM
    """Width of the tokens."""
    target_backbone: str = "resnet18"
    """Backbone of the target encoder: ``resnet18`` or ``efficientnet_lite0``.

    Its feature map is projected if its width differs from ``embedding_dim``.
    """
    target_projection: bool = False
    """Whether the feature map of the target encoder is projected even if the widths are equal."""
    use_target: bool = True
    """Whether triplex has the target view (docs/models.md, "Leaving out one view")."""
    use_neighbor: bool = True
    """Whether triplex has the neighbor view."""
    use_global: bool = True
    """Whether triplex has the global view."""
    fusion_depth: int = 1
    """Number of layers of the fusion."""
    fusion_heads: int = 4
    """Number of attention heads of the fusion; must divide ``embedding_dim``."""
    fusion_mlp_ratio: float = 4.0
    """Hidden width of the fusion's MLPs over ``embedding_dim``."""
    fusion_dropout: float = 0.2
    """Dropout rate of the fusion in training."""
    global_depth: int = 3
    """Number of layers of the global encoder, at least 2."""
    global_heads: int = 16
    """Number of attention heads of the global encoder; must divide ``embedding_dim``."""
    global_mlp_ratio: float = 4.0
    """Hidden width of the global encoder's MLPs over ``embedding_dim``."""
    global_dropout: float = 0.1
    """Dropout rate of the global encoder in training."""
    neighbor_depth: int = 3
    """Number of layers of the neighbor encoder."""
    neighbor_heads: int = 16
    """Number of attention heads of the neighbor encoder; must divide ``embedding_dim``."""
    neighbor_mlp_ratio: float = 1.0
    """Hidden width of the neighbor encoder's MLPs over ``embedding_dim``."""
    neighbor_dropout: float = 0.3
    """Dropout rate of the neighbor encoder in training."""
    apeg_kernel: int = 3
    """Side of the position encoding's kernel in spots of the array; an odd number."""
    position: str = "apeg"
    """Position encoding of the global encoder: ``apeg``, ``peg`` or ``none``."""
    apeg_residual: bool = True
    """Whether the position encoding adds its input to its output, as in the weights of 2024."""
    fusion: str = "cross_attention"
    """How the views are fused: ``cross_attention``, ``sum``, ``concat`` or ``attention_pool``."""
    fusion_loss_alpha: float = 0.3
    """Weight of the fusion's prediction as a label for the views; used in training only."""
    auxiliary_heads: bool = True
    """Whether each view has a head of its own; used in training only."""
    nonnegative: bool = False
    """Whether the exported graph sets negative expression to zero."""
    neighborhood: str = EXACT
    """``exact``, or ``shared`` for neighbor tiles from one grid of the slide; as the training data
    were prepared (docs/models.md, "Shared neighbors")."""
    neighborhood_stride: int = 0
    """Distance of that grid's tiles in view pixels; 0 if exact."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("embedding_dim")
        self.require_choice("model", TRIPLEX_MODELS)
        self.require_choice("position", POSITIONS)
        self.require_choice("fusion", FUSIONS)
        self.require_choice("target_backbone", tuple(BACKBONE_WIDTH))
        if self.apeg_kernel < 1 or self.apeg_kernel % 2 == 0:
            raise ConfigError(f"apeg_kernel={self.apeg_kernel}: use an odd number, such as 3")
        if not 0 <= self.fusion_loss_alpha <= 1:
            raise ConfigError(f"fusion_loss_alpha={self.fusion_loss_alpha}: use a value in [0, 1]")
        for part in ("fusion", "global", "neighbor"):
            self._check_transformer(part)
        self._check_views()
        self.neighbors  # noqa: B018 - making it checks both settings

    @property
    def neighbors(self) -> Neighborhood:
        """Return where the neighbor tiles of a spot are taken."""
        return Neighborhood(self.neighborhood, self.neighborhood_stride)

    @property
    def views(self) -> tuple[str, ...]:
        """Return the views that the model has, in the order target, neighbor, global."""
        if self.model in SINGLE_VIEWS:
            return (SINGLE_VIEWS[self.model],)
        return tuple(view for view in VIEWS if getattr(self, f"use_{view}"))

    @property
    def contexts(self) -> tuple[str, ...]:
        """Return the views of which the fusion attends to every token.

        Of each other view it takes the mean token.
        """
        if self.fusion != "cross_attention" or len(self.views) == 1:
            return ()
        if "global" in self.views:
            return tuple(view for view in self.views if view != "global")
        return ("neighbor",)  # the mean target token is the query

    @property
    def title(self) -> str:
        """Return TRIPLEX, or the name of the model of a single view."""
        return TITLES.get(self.model, self.display_name)

    @property
    def clips_at_zero(self) -> bool:
        """Return ``nonnegative``."""
        return self.nonnegative

    @property
    def projects_target(self) -> bool:
        """Return whether the feature map of the target encoder is projected."""
        return self.target_projection or BACKBONE_WIDTH[self.target_backbone] != self.embedding_dim

    def _check_views(self) -> None:
        left_out = [view for view in VIEWS if not getattr(self, f"use_{view}")]
        if self.model in SINGLE_VIEWS and left_out:
            raise ConfigError(
                f"use_{left_out[0]}=False: {self.model} has only the {self.views[0]} view; "
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
        self.require_share(f"{part}_dropout")

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return the graphs of the views that the model has, and the head.

        If the fusion takes the mean token of a view, the view's encoder computes the mean, and its
        graph returns one token.
        """
        tokens = self._tokens()
        fused = [tokens[view] for view in ("global", "target", "neighbor") if view in self.views]
        if "neighbor" in self.contexts:
            fused.append(MASK)
        return (*self._encoders(tokens), fusion_head_graph(tuple(fused), self.n_genes))

    def _tokens(self) -> dict[str, TensorSpec]:
        """Return the output of each view's encoder."""
        dim, contexts = self.embedding_dim, self.contexts
        n_target = N_TARGET_TOKENS if "target" in contexts else 1
        n_neighbor = N_NEIGHBORS if "neighbor" in contexts else 1
        return {
            "target": target_tokens("batch", n_target, dim),
            "neighbor": TensorSpec("neighbor_tokens", "float32", ("batch", n_neighbor, dim)),
            "global": TensorSpec("global_tokens", "float32", ("batch", dim)),
        }

    def _encoders(self, tokens: dict[str, TensorSpec]) -> Iterator[GraphSpec]:
        width = self.feature_dim
        if "neighbor" in self.views or "global" in self.views:
            yield tile_encoder_graph(width)
        if "target" in self.views:
            yield target_encoder_graph(tokens["target"])
        if "neighbor" in self.views:
            around = TensorSpec("features", "float32", ("batch", N_NEIGHBORS, width))
            yield GraphSpec("neighbor_encoder", (around, MASK), (tokens["neighbor"],), "batch")
        if "global" in self.views:
            features = TensorSpec("features", "float32", ("spots", width))
            table = TensorSpec("apeg_index", "int64", ("spots", self.apeg_kernel**2))
            encoded = TensorSpec("global_tokens", "float32", ("spots", self.embedding_dim))
            yield GraphSpec("global_encoder", (features, table), (encoded,), "spots")


VIEWS: Final = ("target", "neighbor", "global")
"""The views of TRIPLEX, in the order of its fusion."""
SINGLE_VIEWS: Final = {"tem": "target", "nem": "neighbor", "gem": "global"}
"""The view of each model that has only one."""
TITLES: Final = {
    "tem": "TRIPLEX target view (TEM)",
    "nem": "TRIPLEX neighbor view (NEM)",
    "gem": "TRIPLEX global view (GEM)",
}
"""Names of the single-view models in titles."""
TRIPLEX_MODELS: Final = ("triplex", *SINGLE_VIEWS)
"""Values of ``ModelConfig.model``."""
POSITIONS: Final = ("apeg", "peg", "none")
"""Values of ``ModelConfig.position``."""
FUSIONS: Final = ("cross_attention", "sum", "concat", "attention_pool")
"""Values of ``ModelConfig.fusion``."""
