"""TRIPLEX: predicts a spot from its tile, its neighborhood and its whole slide.

The single-view models (TEM, NEM, GEM) and the ablations are the same network with fewer views or
another fusion. See docs/models.md, "TRIPLEX", "Single-view models" and "Ablations".
"""

from __future__ import annotations

import copy
import math
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triplex_deploy.contract import NEIGHBORHOOD, ModelConfig
from triplex_deploy.models.image_encoders import TargetEncoder
from triplex_deploy.models.spot_model import SlideTensors, SpotModel
from triplex_deploy.models.transformer import (
    BlockShape,
    CrossAttentionBlock,
    RelativeBias,
    SelfAttentionBlock,
    feature_projection,
)


class TriplexOutput(NamedTuple):
    """Holds the expression (B, G) that the fusion and each view predict.

    The prediction of a view is None if the model lacks the view or its head.
    """

    fusion: Tensor
    """The prediction of the model."""
    target: Tensor | None = None
    """Prediction from the target tokens alone, for the training loss."""
    neighbor: Tensor | None = None
    """Prediction from the neighbor tokens alone, for the training loss."""
    global_: Tensor | None = None
    """Prediction from the global token alone, for the training loss."""


class Triplex(SpotModel):
    """Encodes each view of a spot, fuses the tokens and applies linear heads (Chung et al. 2024).

    An encoder of a view that the configuration leaves out is None. ``config.nonnegative`` clips the
    exported graph only, not the output of this module.
    """

    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
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
        """Return the predictions for B spots of a slide of N spots.

        Args:
            images: Normalized target tiles (B, 3, 224, 224).
            neighbor_features: Features (B, 25, F) of the neighborhoods, row by row.
            mask: True where a neighbor tile lies inside the slide, (B, 25) bool.
            slide_features: Features (N, F) of the target tiles of all spots.
            apeg_index: Neighbor table (N, k*k) int64; -1 means no spot.
            spot_index: The rows (B,) of ``slide_features`` that belong to the B spots, int64.
        """
        global_tokens = self.encode_slide(slide_features, apeg_index)  # (N, D)
        return self.predict_from_tokens(
            None if global_tokens is None else global_tokens.index_select(0, spot_index),
            self.encode_targets(images),
            self.encode_neighbors(neighbor_features, mask),
            mask,
        )

    def run_graph(self, graph: str, **inputs: Tensor) -> Tensor:
        """Return the output of a graph for inputs named as in the contract.

        Tokens that the fusion only averages are returned as one average token.
        """
        if graph == "fusion_head":
            return self.predict_from_tokens(**inputs).fusion
        tokens = super().run_graph(graph, **inputs)
        view = graph.removesuffix("_encoder")
        is_pooled = view != "global" and view not in self.config.contexts
        return tokens.mean(1, keepdim=True) if is_pooled else tokens

    def export_graph(self, graph: str) -> nn.Module | None:
        """Return the module of a graph: the encoder of a view, or the fusion with its head."""
        if graph == "fusion_head":
            return FusionGraph(self)
        if graph == "global_encoder":
            return self.global_encoder
        if graph == "neighbor_encoder":
            assert self.neighbor_encoder is not None
            return NeighborGraph(self.neighbor_encoder, "neighbor" not in self.config.contexts)
        assert self.target_encoder is not None
        is_pooled = "target" not in self.config.contexts
        return Pooled(self.target_encoder) if is_pooled else self.target_encoder

    def predict_slide(self, slide: SlideTensors) -> Tensor:
        """Return the expression (N, G) of all spots of a slide."""
        features, mask = slide.features, slide.around >= 0
        table = slide.tables.get("apeg_index", torch.zeros((0, 0), dtype=torch.int64))
        spots = torch.arange(len(features))
        output: TriplexOutput = self(
            slide.images, slide.neighbor_features, mask, features, table, spots
        )
        return output.fusion

    def encode_targets(self, images: Tensor) -> Tensor | None:
        """Return target tokens (B, 49, D) of normalized tiles, or None without the target view."""
        return None if self.target_encoder is None else self.target_encoder(images)

    def encode_neighbors(self, features: Tensor, mask: Tensor) -> Tensor | None:
        """Return neighbor tokens (B, 25, D) of features (B, 25, F), or None without this view."""
        return None if self.neighbor_encoder is None else self.neighbor_encoder(features, mask)

    def encode_slide(self, features: Tensor, apeg_index: Tensor) -> Tensor | None:
        """Return global tokens (N, D) of features (N, F), or None without the global view."""
        return None if self.global_encoder is None else self.global_encoder(features, apeg_index)

    def predict_from_tokens(
        self,
        global_tokens: Tensor | None = None,
        target_tokens: Tensor | None = None,
        neighbor_tokens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> TriplexOutput:
        """Return the predictions from the tokens of B spots, possibly of several slides.

        Args:
            global_tokens: Global token (B, D) of each spot.
            target_tokens: Target tokens (B, 49, D), or their average (B, 1, D).
            neighbor_tokens: Neighbor tokens (B, 25, D), or their average (B, 1, D).
            mask: True where a neighbor tile lies inside the slide, (B, 25) bool.
        """
        pooled = {
            "target": None if target_tokens is None else target_tokens.mean(1),
            # the tokens of masked neighbors count in this mean, as in the published code
            "neighbor": None if neighbor_tokens is None else neighbor_tokens.mean(1),
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


class Pooled(nn.Module):
    """Encodes images (B, 3, 224, 224) and averages their tokens (B, L, D) to (B, 1, D)."""

    def __init__(self, encoder: TargetEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.encoder(images)
        return tokens.mean(1, keepdim=True)


class NeighborGraph(nn.Module):
    """Encodes neighbor features (B, 25, F) with mask (B, 25) to tokens (B, 25, D).

    If ``pooled``, the tokens are averaged to (B, 1, D).
    """

    def __init__(self, encoder: NeighborEncoder, pooled: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooled = pooled

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        tokens: Tensor = self.encoder(features, mask)
        return tokens.mean(1, keepdim=True) if self.pooled else tokens


class FusionGraph(nn.Module):
    """Predicts expression (B, G) from the tokens of the views that the model has.

    With ``config.nonnegative``, negative expression becomes zero.
    """

    def __init__(self, model: Triplex) -> None:
        super().__init__()
        self.model = _without_encoders(model)

    def forward(
        self,
        global_tokens: Tensor | None = None,
        target_tokens: Tensor | None = None,
        neighbor_tokens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        output = self.model.predict_from_tokens(global_tokens, target_tokens, neighbor_tokens, mask)
        return output.fusion.clamp_min(0) if self.model.config.nonnegative else output.fusion


def _without_encoders(model: Triplex) -> Triplex:
    """Return a copy that shares the fusion and its head, so that nothing else is traced."""
    twin = copy.deepcopy(model, {id(part): part for part in model.children()})
    for view in ("target", "neighbor", "global"):
        setattr(twin, f"{view}_encoder", None)
        setattr(twin, f"{view}_head", None)
    return twin


def _predict(head: nn.Module | None, token: Tensor | None) -> Tensor | None:
    return None if head is None or token is None else head(token)


def _target_encoder(config: ModelConfig) -> TargetEncoder:
    width = config.embedding_dim if config.projects_target else None
    return TargetEncoder(config.target_backbone, width)


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
    """Return the position encoding. PEG is APEG with another neighbor table.

    See docs/models.md, "Other position encodings".
    """
    if config.position == "none":
        return None
    return Apeg(config.embedding_dim, config.apeg_kernel, config.apeg_residual)


class GlobalEncoder(nn.Module):
    """Encodes the spot features (N, F) of one slide to global tokens (N, D).

    The position encoding ``apeg`` follows the first layer. If it is None, ``apeg_index`` is not
    read. If F differs from D, a linear layer projects the features first. See docs/models.md,
    "Global encoder".
    """

    def __init__(
        self, depth: int, shape: BlockShape, apeg: Apeg | None, feature_dim: int | None = None
    ) -> None:
        super().__init__()
        self.projection = feature_projection(feature_dim, shape.dim)
        self.layers = nn.ModuleList(SelfAttentionBlock(shape) for _ in range(depth))
        self.apeg = apeg
        self.norm = nn.LayerNorm(shape.dim)

    def forward(self, features: Tensor, apeg_index: Tensor) -> Tensor:
        tokens = self.projection(features).unsqueeze(0)  # (1, N, D)
        for depth, layer in enumerate(self.layers):
            tokens = layer(tokens)
            if depth == 0 and self.apeg is not None:
                tokens = self.apeg(tokens.squeeze(0), apeg_index).unsqueeze(0)
        result: Tensor = self.norm(tokens).squeeze(0)
        return result


class Apeg(nn.Module):
    """Adds to each token (N, D) a weighted sum of the tokens around it on the array.

    The result equals a zero-padded depthwise convolution on the dense array, read at the cells that
    hold a spot. It does not depend on the order of the spots or the size of the array. ``weight``
    is (k*k, D), row-major over (drow, dcol). ``apeg_index`` is (N, k*k) int64; -1 means no spot.

    Source: the paper, section 3.4; docs/models.md, "APEG".
    """

    def __init__(self, dim: int, kernel: int, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        bound = 1 / math.sqrt(kernel * kernel)  # PyTorch's default for a depthwise convolution
        self.weight = nn.Parameter(torch.empty(kernel * kernel, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(dim).uniform_(-bound, bound))

    def forward(self, tokens: Tensor, apeg_index: Tensor) -> Tensor:
        padded = torch.cat((torch.zeros_like(tokens[:1]), tokens))  # row 0 stands for 'no spot'
        out = tokens + self.bias if self.residual else self.bias
        rows = (apeg_index + 1).unbind(1)
        for weight, row in zip(self.weight.unbind(0), rows, strict=True):
            out = out + weight * padded.index_select(0, row)  # one offset at a time: O(N D) memory
        return out


class NeighborEncoder(nn.Module):
    """Encodes tile features (B, 25, F) with mask (B, 25) to neighbor tokens (B, 25, D).

    The mask is True inside the slide. It hides keys only: a masked tile still has a token. If F
    differs from D, a linear layer projects the features first. See docs/models.md, "Neighbor
    encoder".
    """

    def __init__(self, depth: int, shape: BlockShape, feature_dim: int | None = None) -> None:
        super().__init__()
        self.projection = feature_projection(feature_dim, shape.dim)
        self.layers = nn.ModuleList(
            SelfAttentionBlock(shape, RelativeBias(shape.heads, NEIGHBORHOOD)) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(shape.dim)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        tokens = self.projection(features)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        result: Tensor = self.norm(tokens)
        return result


class FusionEncoder(nn.Module):
    """Fuses the tokens of a spot by cross-attention to one vector (B, D).

    The global token queries the target tokens and the neighbor tokens, through the same weights.
    The two results are summed and normalized, so the global token enters twice. A view that is None
    is left out. Without the global view, the mean target token queries the neighbors. See
    docs/models.md, "Fusion" and "Leaving out one view".
    """

    def __init__(self, depth: int, shape: BlockShape) -> None:
        super().__init__()
        self.dim = shape.dim
        self.layers = nn.ModuleList(CrossAttentionBlock(shape) for _ in range(depth))
        self.norm = nn.LayerNorm(shape.dim)

    def forward(
        self,
        global_tokens: Tensor | None = None,
        target_tokens: Tensor | None = None,
        neighbor_tokens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the fused vector (B, D) of tokens (B, D), (B, 49, D) and (B, 25, D).

        ``mask`` (B, 25) is True where a neighbor tile lies inside the slide.
        """
        if global_tokens is None:
            assert target_tokens is not None, "a fusion needs at least two views"
            query, target_tokens = target_tokens.mean(1, keepdim=True), None
        else:
            query = global_tokens.unsqueeze(1)  # (B, 1, D)
        contexts = ((target_tokens, None), (neighbor_tokens, mask))
        fused = [self._attend(query, seen, keys) for seen, keys in contexts if seen is not None]
        result: Tensor = self.norm(sum(fused[1:], fused[0])).squeeze(1)
        return result

    def _attend(self, query: Tensor, context: Tensor, key_mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            query = layer(query, context, key_mask)
        return query


ATTENTION_DIM: Final = 128
"""Width of the hidden layer of attention pooling."""


class PooledFusion(nn.Module):
    """The base of fusions that take one token per view (B, V, D) and return (B, ``dim``)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.norm = nn.LayerNorm(dim)


class SumFusion(PooledFusion):
    """Sums the tokens of the views (B, V, D) and normalizes the sum (B, D)."""

    def __init__(self, dim: int, views: int) -> None:
        super().__init__(dim)

    def forward(self, pooled: Tensor) -> Tensor:
        fused: Tensor = self.norm(pooled.sum(1))
        return fused


class ConcatFusion(PooledFusion):
    """Concatenates the tokens of the views (B, V, D) and normalizes the result (B, V * D)."""

    def __init__(self, dim: int, views: int) -> None:
        super().__init__(dim * views)

    def forward(self, pooled: Tensor) -> Tensor:
        fused: Tensor = self.norm(pooled.flatten(1))
        return fused


class AttentionPool(PooledFusion):
    """Sums the tokens (B, V, D), weighted by softmax(w tanh(V h)), and normalizes the sum (B, D).

    Source: Ilse et al. 2018, the form without gates.
    """

    def __init__(self, dim: int, views: int) -> None:
        super().__init__(dim)
        self.hidden = nn.Linear(dim, ATTENTION_DIM)
        self.weight = nn.Linear(ATTENTION_DIM, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        weights = self.weight(torch.tanh(self.hidden(pooled))).softmax(1)  # (B, V, 1)
        fused: Tensor = self.norm((weights * pooled).sum(1))
        return fused


POOLED_FUSIONS: Final = {
    "sum": SumFusion,
    "concat": ConcatFusion,
    "attention_pool": AttentionPool,
}


def fusion_loss(output: TriplexOutput, labels: Tensor, alpha: float) -> Tensor:
    """Return the training loss, a scalar.

    The fused prediction is not detached, as published: the distillation also moves it towards the
    predictions of the views. Without predictions of views, the loss is the mean squared error of
    the fused prediction.

    Args:
        output: The predictions of the model, each (B, G).
        labels: Labels (B, G).
        alpha: Weight of the distillation, from 0 to 1.

    Source: the paper, equations 14 to 16; docs/models.md, "Training loss".
    """
    loss = F.mse_loss(output.fusion, labels)
    for prediction in (output.target, output.neighbor, output.global_):
        if prediction is None:
            continue
        supervised = F.mse_loss(prediction, labels)
        distilled = F.mse_loss(prediction, output.fusion)
        loss = loss + (1 - alpha) * supervised + alpha * distilled
    return loss
