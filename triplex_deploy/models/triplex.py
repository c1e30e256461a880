"""TRIPLEX: gene expression of a spot from its tile, its neighbourhood and its whole slide."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from triplex_deploy.contract import ModelConfig
from triplex_deploy.models.apeg import Apeg
from triplex_deploy.models.fusion import FusionEncoder
from triplex_deploy.models.global_encoder import GlobalEncoder
from triplex_deploy.models.neighbor_encoder import NeighborEncoder
from triplex_deploy.models.resnet import TargetEncoder
from triplex_deploy.models.transformer import BlockShape


class TriplexOutput(NamedTuple):
    """Predicted expression (B, G); ``fusion`` is the prediction, the others supervise training."""

    fusion: Tensor
    target: Tensor
    neighbor: Tensor
    global_: Tensor


class Triplex(nn.Module):
    """The three encoders, their fusion, and a linear head on each (Chung et al. 2024).

    Expression is not clipped here: ``config.nonnegative`` concerns the exported graph.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, genes = config.embedding_dim, config.n_genes
        self.target_encoder = TargetEncoder()
        self.neighbor_encoder = NeighborEncoder(config.neighbor_depth, _neighbor_shape(config))
        self.global_encoder = GlobalEncoder(
            config.global_depth, _global_shape(config), _position(config)
        )
        self.fusion = FusionEncoder(config.fusion_depth, _fusion_shape(config))
        self.expression_head = nn.Linear(dim, genes)
        self.target_head = nn.Linear(dim, genes)
        self.neighbor_head = nn.Linear(dim, genes)
        self.global_head = nn.Linear(dim, genes)

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

        ``images`` (B, 3, 224, 224) normalised; ``neighbor_features`` (B, 25, 512); ``mask`` (B, 25)
        bool, True inside the slide; ``slide_features`` (N, 512); ``apeg_index`` (N, k*k) int64,
        -1 = no spot; ``spot_index`` (B,) int64, the rows of ``slide_features`` that are the spots.
        """
        target_tokens = self.target_encoder(images)  # (B, 49, D)
        neighbor_tokens = self.neighbor_encoder(neighbor_features, mask)  # (B, 25, D)
        slide_tokens = self.global_encoder(slide_features, apeg_index)  # (N, D)
        global_tokens = slide_tokens.index_select(0, spot_index)  # (B, D)
        return self.predict_from_tokens(global_tokens, target_tokens, neighbor_tokens, mask)

    def predict_from_tokens(
        self, global_tokens: Tensor, target_tokens: Tensor, neighbor_tokens: Tensor, mask: Tensor
    ) -> TriplexOutput:
        """Fuse tokens (B, D), (B, 49, D), (B, 25, D), the spots possibly of several slides."""
        fused = self.fusion(global_tokens, target_tokens, neighbor_tokens, mask)
        return TriplexOutput(
            fusion=self.expression_head(fused),
            target=self.target_head(target_tokens.mean(1)),
            neighbor=self.neighbor_head(neighbor_tokens.mean(1)),  # masked tokens included
            global_=self.global_head(global_tokens),
        )


def build_model(config: ModelConfig, seed: int | None = None) -> Triplex:
    """A randomly initialised model in training mode; a seed leaves the global generator alone."""
    if seed is None:
        return Triplex(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Triplex(config)


def _neighbor_shape(config: ModelConfig) -> BlockShape:
    mlp_dim = int(config.embedding_dim * config.neighbor_mlp_ratio)
    return BlockShape(config.embedding_dim, config.neighbor_heads, mlp_dim, config.neighbor_dropout)


def _global_shape(config: ModelConfig) -> BlockShape:
    mlp_dim = int(config.embedding_dim * config.global_mlp_ratio)
    return BlockShape(config.embedding_dim, config.global_heads, mlp_dim, config.global_dropout)


def _fusion_shape(config: ModelConfig) -> BlockShape:
    mlp_dim = int(config.embedding_dim * config.fusion_mlp_ratio)
    return BlockShape(config.embedding_dim, config.fusion_heads, mlp_dim, config.fusion_dropout)


def _position(config: ModelConfig) -> Apeg | None:
    if config.position == "none":
        return None
    return Apeg(config.embedding_dim, config.apeg_kernel, config.apeg_residual)
