"""TRIPLEX: gene expression of a spot from its tile, its neighbourhood and its whole slide.

Its single-resolution parts (TEM, NEM, GEM) and ablations are the same model with fewer views or
another fusion (paper Tables 3-5; MODELS 3.3 and 4).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from triplex_deploy.contract import ModelConfig
from triplex_deploy.models.apeg import Apeg
from triplex_deploy.models.fusion import FusionEncoder
from triplex_deploy.models.global_encoder import GlobalEncoder
from triplex_deploy.models.image_encoders import TargetEncoder
from triplex_deploy.models.neighbor_encoder import NeighborEncoder
from triplex_deploy.models.pooled_fusion import POOLED_FUSIONS, PooledFusion
from triplex_deploy.models.spot_model import SpotModel
from triplex_deploy.models.transformer import BlockShape


class TriplexOutput(NamedTuple):
    """Predicted expression (B, G): ``fusion`` is the prediction, the others supervise training.

    A view that the model lacks, or that has no head of its own, is None.
    """

    fusion: Tensor
    target: Tensor | None = None
    neighbor: Tensor | None = None
    global_: Tensor | None = None


class Triplex(SpotModel):
    """The encoders of a model's views, their fusion, and a linear head on each (Chung et al. 2024).

    An encoder that the configuration leaves out is None. Expression is not clipped here:
    ``config.nonnegative`` concerns the exported graph.
    """

    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, genes = config.embedding_dim, config.n_genes
        self.target_encoder = _target_encoder(config) if "target" in config.views else None
        self.neighbor_encoder = _neighbor_encoder(config) if "neighbor" in config.views else None
        self.global_encoder = _global_encoder(config) if "global" in config.views else None
        self.fusion = _fusion(config)
        self.expression_head = nn.Linear(dim if self.fusion is None else self.fusion.dim, genes)
        heads = config.views if self.fusion is not None and config.auxiliary_heads else ()
        self.target_head = nn.Linear(dim, genes) if "target" in heads else None
        self.neighbor_head = nn.Linear(dim, genes) if "neighbor" in heads else None
        self.global_head = nn.Linear(dim, genes) if "global" in heads else None

    def forward(
        self,
        images: Tensor,
        neighbor_features: Tensor,
        mask: Tensor,
        slide_features: Tensor,
        apeg_index: Tensor,
        spot_index: Tensor,
    ) -> TriplexOutput:
        """Predict B spots of one slide of N spots.

        ``images`` (B, 3, 224, 224) normalised; ``neighbor_features`` (B, 25, F); ``mask`` (B, 25)
        bool, True inside the slide; ``slide_features`` (N, F); ``apeg_index`` (N, k*k) int64,
        -1 = no spot; ``spot_index`` (B,) int64, the rows of ``slide_features`` that are the spots.
        """
        global_tokens = self.encode_slide(slide_features, apeg_index)  # (N, D)
        return self.predict_from_tokens(
            None if global_tokens is None else global_tokens.index_select(0, spot_index),
            self.encode_targets(images),
            self.encode_neighbors(neighbor_features, mask),
            mask,
        )

    def run_graph(self, graph: str, **inputs: Tensor) -> Tensor:
        """As the contract has it: tokens that the fusion would only average are averaged."""
        if graph == "fusion_head":
            return self.predict_from_tokens(**inputs).fusion
        tokens = super().run_graph(graph, **inputs)
        view = graph.removesuffix("_encoder")
        is_pooled = view != "global" and view not in self.config.contexts
        return tokens.mean(1, keepdim=True) if is_pooled else tokens

    def encode_targets(self, images: Tensor) -> Tensor | None:
        """Target tokens (B, 49, D), or None without that view; so for the other encoders."""
        return None if self.target_encoder is None else self.target_encoder(images)

    def encode_neighbors(self, features: Tensor, mask: Tensor) -> Tensor | None:
        return None if self.neighbor_encoder is None else self.neighbor_encoder(features, mask)

    def encode_slide(self, features: Tensor, apeg_index: Tensor) -> Tensor | None:
        return None if self.global_encoder is None else self.global_encoder(features, apeg_index)

    def predict_from_tokens(
        self,
        global_tokens: Tensor | None = None,
        target_tokens: Tensor | None = None,
        neighbor_tokens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> TriplexOutput:
        """Fuse tokens (B, D), (B, 49, D), (B, 25, D), the spots possibly of several slides."""
        pooled = {
            "target": None if target_tokens is None else target_tokens.mean(1),
            "neighbor": None if neighbor_tokens is None else neighbor_tokens.mean(1),  # masked too
            "global": global_tokens,
        }
        views = [token for token in pooled.values() if token is not None]
        if self.fusion is None:
            (fused,) = views
        elif isinstance(self.fusion, FusionEncoder):
            fused = self.fusion(global_tokens, target_tokens, neighbor_tokens, mask)
        else:
            fused = self.fusion(torch.stack(views, 1))
        return TriplexOutput(
            fusion=self.expression_head(fused),
            target=_predict(self.target_head, pooled["target"]),
            neighbor=_predict(self.neighbor_head, pooled["neighbor"]),
            global_=_predict(self.global_head, pooled["global"]),
        )


def _predict(head: nn.Module | None, token: Tensor | None) -> Tensor | None:
    return None if head is None or token is None else head(token)


def _target_encoder(config: ModelConfig) -> TargetEncoder:
    width = config.embedding_dim if config.projects_target else None
    return TargetEncoder(config.target_trunk, width)


def _neighbor_encoder(config: ModelConfig) -> NeighborEncoder:
    return NeighborEncoder(config.neighbor_depth, _shape(config, "neighbor"), config.feature_dim)


def _global_encoder(config: ModelConfig) -> GlobalEncoder:
    shape = _shape(config, "global")
    return GlobalEncoder(config.global_depth, shape, _position(config), config.feature_dim)


def _fusion(config: ModelConfig) -> FusionEncoder | PooledFusion | None:
    if len(config.views) == 1:
        return None
    if config.fusion == "cross_attention":
        return FusionEncoder(config.fusion_depth, _shape(config, "fusion"))
    return POOLED_FUSIONS[config.fusion](config.embedding_dim, len(config.views))


def _shape(config: ModelConfig, part: str) -> BlockShape:
    dim = config.embedding_dim
    return BlockShape(
        dim,
        heads=getattr(config, f"{part}_heads"),
        mlp_dim=int(dim * getattr(config, f"{part}_mlp_ratio")),
        dropout=getattr(config, f"{part}_dropout"),
    )


def _position(config: ModelConfig) -> Apeg | None:
    """PEG is the same convolution over another table of neighbours (MODELS 4.2)."""
    if config.position == "none":
        return None
    return Apeg(config.embedding_dim, config.apeg_kernel, config.apeg_residual)
