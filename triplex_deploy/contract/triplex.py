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
    TILES,
    GraphSpec,
    TensorSpec,
    tile_encoder_graph,
)
from triplex_deploy.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig(Config):
    """Shape of a model; the defaults are TRIPLEX in the paper's BC1 configuration
    (docs/models.md, "Configurations").

    ``model`` tem, nem and gem see one view alone; ``use_*`` leave one out of triplex
    (docs/models.md, "Leaving out one view").
    ``feature_dim`` is the width of the frozen tile encoder, which is projected where it is not
    ``embedding_dim``; so is the map of ``target_backbone``, and always with ``target_projection``.
    ``apeg_residual`` adds the input of the position encoding back to its output, as the paper-era
    model does. ``nonnegative`` clips the exported expression at zero. ``fusion_loss_alpha`` and
    ``auxiliary_heads`` matter to training alone.
    """

    display_name: ClassVar[str] = "TRIPLEX"
    network: ClassVar[str] = "triplex_deploy.models.triplex:Triplex"
    quantizable: ClassVar[tuple[str, ...]] = ("tile_encoder", "target_encoder")
    recipe: ClassVar[TrainingRecipe] = TrainingRecipe(
        start="triplex", objective="triplex", hides_features=True
    )
    supports_tensorrt: ClassVar[bool] = True
    supports_triton: ClassVar[bool] = True

    model: str = "triplex"
    n_genes: int = 250
    feature_dim: int = FEATURE_DIM
    embedding_dim: int = FEATURE_DIM
    target_backbone: str = "resnet18"
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
    def title(self) -> str:
        """Return TRIPLEX, or the name of the model of a single view."""
        return TITLES.get(self.model, self.display_name)

    @property
    def clips_at_zero(self) -> bool:
        """Return ``nonnegative``."""
        return self.nonnegative

    @property
    def projects_target(self) -> bool:
        return self.target_projection or BACKBONE_WIDTH[self.target_backbone] != self.embedding_dim

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
        self.require_share(f"{part}_dropout")

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Views the model does not have are absent.

        Tokens that the fusion would only average are averaged before: ``target_tokens`` and
        ``neighbor_tokens`` are then one token each.
        """
        tokens = self._tokens()
        fused = [tokens[view] for view in ("global", "target", "neighbor") if view in self.views]
        if "neighbor" in self.contexts:
            fused.append(MASK)
        expression = TensorSpec("expression", "float32", ("batch", self.n_genes))
        head = GraphSpec("fusion_head", tuple(fused), (expression,), "batch")
        return (*self._encoders(tokens), head)

    def _tokens(self) -> dict[str, TensorSpec]:
        """What each view's encoder hands to the fusion."""
        dim, contexts = self.embedding_dim, self.contexts
        n_target = N_TARGET_TOKENS if "target" in contexts else 1
        n_neighbor = N_NEIGHBORS if "neighbor" in contexts else 1
        return {
            "target": TensorSpec("target_tokens", "float32", ("batch", n_target, dim)),
            "neighbor": TensorSpec("neighbor_tokens", "float32", ("batch", n_neighbor, dim)),
            "global": TensorSpec("global_tokens", "float32", ("batch", dim)),
        }

    def _encoders(self, tokens: dict[str, TensorSpec]) -> Iterator[GraphSpec]:
        width = self.feature_dim
        if "neighbor" in self.views or "global" in self.views:
            yield tile_encoder_graph(width)
        if "target" in self.views:
            yield GraphSpec("target_encoder", (TILES,), (tokens["target"],), "batch")
        if "neighbor" in self.views:
            around = TensorSpec("features", "float32", ("batch", N_NEIGHBORS, width))
            yield GraphSpec("neighbor_encoder", (around, MASK), (tokens["neighbor"],), "batch")
        if "global" in self.views:
            features = TensorSpec("features", "float32", ("spots", width))
            table = TensorSpec("apeg_index", "int64", ("spots", self.apeg_kernel**2))
            related = TensorSpec("global_tokens", "float32", ("spots", self.embedding_dim))
            yield GraphSpec("global_encoder", (features, table), (related,), "spots")


VIEWS: Final = ("target", "neighbor", "global")
SINGLE_VIEWS: Final = {"tem": "target", "nem": "neighbor", "gem": "global"}
TITLES: Final = {
    "tem": "TRIPLEX target view (TEM)",
    "nem": "TRIPLEX neighbor view (NEM)",
    "gem": "TRIPLEX global view (GEM)",
}
TRIPLEX_MODELS: Final = ("triplex", *SINGLE_VIEWS)
POSITIONS: Final = ("apeg", "peg", "none")
FUSIONS: Final = ("cross_attention", "sum", "concat", "attention_pool")
