"""Hist2ST: convolutions within patches, then attention and a graph between the spots of a slide.

Source: Zeng et al. 2022; see docs/models.md, "Hist2ST".
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, Hist2StConfig
from triplex_deploy.models.image_encoders import center_crop
from triplex_deploy.models.spot_model import SpotModel
from triplex_deploy.models.transformer import BlockShape, SpotSequence


class Hist2St(SpotModel):
    """Predicts the spots of a slide from the patches, coordinates and neighbors of all its spots.

    A token is as wide as the flattened map of the image encoder: 1024 for a patch of 112 px and 32
    channels. Only ``hist2st_loss`` uses ``zinb_heads`` and ``distillation_weight``; predictions do
    not.
    """

    config: Hist2StConfig

    def __init__(self, config: Hist2StConfig, *, patch_px: int = 112, kernel: int = 5) -> None:
        super().__init__(config)
        dropout, n_genes = config.dropout, config.n_genes
        self.target_encoder = ConvMixerEncoder(
            patch_px, config.channels, kernel, config.mixer_depth, dropout
        )
        dim = self.target_encoder.dim
        shape = BlockShape(dim, config.heads, mlp_dim=dim, dropout=dropout)
        self.global_encoder = SpotGraphEncoder(
            config.depth, shape, config.n_positions, config.graph_depth
        )
        self.expression_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, n_genes))
        self.zinb_heads = ZinbHeads(dim, n_genes)
        self.distillation_weight = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, images: Tensor, grid_xy: Tensor, adjacency: Tensor) -> Tensor:
        """Return the expression (N, G) of a slide.

        Args:
            images: Normalized tiles (N, 3, 224, 224).
            grid_xy: Column and row (N, 2) of each spot, int64.
            adjacency: Up to four neighbors (N, 4) of each spot, int64; -1 means none. See
                ``tiles.spot_tables.adjacency_index``.
        """
        tokens = self.encode_slide(self.encode_targets(images), grid_xy, adjacency)
        return self.predict_from_tokens(tokens)

    def encode_targets(self, images: Tensor) -> Tensor:
        """Return a token (B, 1, D) of the center of each normalized tile (B, 3, 224, 224)."""
        tokens: Tensor = self.target_encoder(images)
        return tokens

    def encode_slide(self, target_tokens: Tensor, grid_xy: Tensor, adjacency: Tensor) -> Tensor:
        """Return tokens (N, D) of a slide.

        Args:
            target_tokens: Token (N, 1, D) of each patch.
            grid_xy: Column and row (N, 2) of each spot, int64.
            adjacency: Neighbors (N, 4) of each spot, int64; -1 means none.
        """
        global_tokens: Tensor = self.global_encoder(target_tokens.flatten(1), grid_xy, adjacency)
        return global_tokens

    def predict_from_tokens(self, global_tokens: Tensor) -> Tensor:
        """Return the expression (B, G) of tokens (B, D), possibly of several slides."""
        expression: Tensor = self.expression_head(global_tokens)
        return expression


class SpotGraphEncoder(nn.Module):
    """Lets the tokens (N, D) of all spots attend to each other, then applies graph layers."""

    def __init__(self, depth: int, shape: BlockShape, n_pos: int, graph_depth: int) -> None:
        super().__init__()
        self.sequence = SpotSequence(depth, shape, n_pos, token_dropout=0.0)
        self.graph = SpotGraph(shape.dim, graph_depth)

    def forward(self, tokens: Tensor, grid_xy: Tensor, adjacency: Tensor) -> Tensor:
        result: Tensor = self.graph(self.sequence(tokens, grid_xy), adjacency)
        return result


_STEM_PX: Final = 7
"""Side of a cell: kernel and stride of the first convolution."""
_SQUEEZE: Final = 8
"""Factor by which the last convolution reduces the channels."""


class ConvMixerEncoder(nn.Module):
    """Encodes the center of normalized tiles (B, 3, h, h) to tokens (B, 1, ``dim``).

    Cells of 7 x 7 px are mixed in ``channels`` channels. A last convolution leaves an eighth of the
    channels, and the map is flattened as (channel, row, column).
    """

    def __init__(
        self, patch_px: int, channels: int, kernel: int, depth: int, dropout: float
    ) -> None:
        super().__init__()
        self.patch_px = patch_px
        self.dim = (patch_px // _STEM_PX) ** 2 * (channels // _SQUEEZE)
        self.stem = nn.Conv2d(3, channels, _STEM_PX, stride=_STEM_PX)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(ConvMixerBlock(channels, kernel) for _ in range(depth)))
        self.squeeze = nn.Conv2d(channels, channels // _SQUEEZE, 1)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.dropout(self.stem(center_crop(images, self.patch_px)))  # (B, C, 16, 16)
        squeezed: Tensor = self.squeeze(self.blocks(cells))
        return squeezed.flatten(1).unsqueeze(1)


class ConvMixerBlock(nn.Module):
    """Applies two depthwise convolutions with a residual, then a 1x1 convolution without."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(*_depthwise(channels, kernel), *_depthwise(channels, kernel))
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, cells: Tensor) -> Tensor:
        mixed: Tensor = self.norm(F.gelu(self.pointwise(cells + self.depthwise(cells))))
        return mixed


def _depthwise(channels: int, kernel: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels),
        nn.BatchNorm2d(channels),
        nn.GELU(),
    )


class SpotGraph(nn.Module):
    """Applies ``depth`` graph layers to tokens (N, D) and reads their outputs with an LSTM.

    ``adjacency`` (N, K) int64 lists the neighbors of each spot; -1 means none. The result (N, D) is
    the mean of the states of the LSTM over the layers.
    """

    def __init__(self, dim: int, depth: int, lstm_layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GraphLayer(dim) for _ in range(depth))
        self.lstm = nn.LSTM(dim, dim, lstm_layers)

    def forward(self, tokens: Tensor, adjacency: Tensor) -> Tensor:
        outputs = []
        for layer in self.layers:
            tokens = layer(tokens, adjacency)
            outputs.append(tokens)
        states, _ = self.lstm(torch.stack(outputs))  # (depth, N, D): the spots are the batch
        result: Tensor = states.mean(0)
        return result


class GraphLayer(nn.Module):
    """Projects the mean token of the neighbors and scales it to length 1.

    The token of the spot itself is not read. The result is zero if there are no neighbors or if no
    projected value is positive.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Tensor, adjacency: Tensor) -> Tensor:
        return F.normalize(F.relu(self.projection(neighbor_mean(tokens, adjacency))))


def neighbor_mean(tokens: Tensor, adjacency: Tensor) -> Tensor:
    """Return the mean (N, D) of the tokens in each row of ``adjacency`` (N, K), zero for none."""
    padded = torch.cat((torch.zeros_like(tokens[:1]), tokens))  # row 0 stands for 'no spot'
    total = torch.zeros_like(tokens)
    for row in (adjacency + 1).unbind(1):
        total = total + padded.index_select(0, row)  # one neighbor at a time: O(N D) memory
    count = (adjacency >= 0).sum(1, keepdim=True).clamp_min(1)
    return total / count


_MEAN_RANGE: Final = (1e-5, 1e6)
"""Smallest and largest mean count of a gene."""
_DISPERSION_RANGE: Final = (1e-4, 1e4)
"""Smallest and largest dispersion."""
_EPS: Final = 1e-10
"""Added before a logarithm."""


class Zinb(NamedTuple):
    """Holds parameters (N, G) of a zero-inflated negative binomial distribution of counts."""

    mean: Tensor
    """Mean of the negative binomial."""
    dispersion: Tensor
    """Dispersion: the variance is mean + mean^2 / dispersion."""
    inflation: Tensor
    """Probability of an extra zero."""


class ZinbHeads(nn.Module):
    """Predicts the parameters of the counts of each gene from tokens (N, D).

    The parameters are float32, also under autocast.
    """

    def __init__(self, dim: int, n_genes: int) -> None:
        super().__init__()
        self.mean = nn.Linear(dim, n_genes)
        self.dispersion = nn.Linear(dim, n_genes)
        self.inflation = nn.Linear(dim, n_genes)

    def forward(self, tokens: Tensor) -> Zinb:
        low, high = map(math.log, _MEAN_RANGE)
        return Zinb(
            # clamped before the exponential, where an overflow would make the gradient NaN
            mean=self.mean(tokens).float().clamp(low, high).exp(),
            dispersion=F.softplus(self.dispersion(tokens).float()).clamp(*_DISPERSION_RANGE),
            inflation=self.inflation(tokens).float().sigmoid(),
        )


def library_scale(counts: Tensor) -> Tensor:
    """Return the total of each spot divided by the median total of the slide, (N, 1).

    ``counts`` are (N, G), floating point. A median below 1 counts as 1.
    """
    totals = counts.sum(1, keepdim=True)
    return totals / totals.quantile(0.5).clamp_min(1)


def zinb_nll(counts: Tensor, zinb: Zinb, scale: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of raw counts, a scalar.

    Args:
        counts: Whole numbers (N, G) in floating point.
        zinb: The predicted parameters.
        scale: Factor (N, 1) of the means of each spot, see ``library_scale``.

    Source: docs/models.md, "Hist2ST".
    """
    mean, size = zinb.mean * scale, zinb.dispersion
    fewer = torch.log1p(mean / size)  # times size: -ln of the probability of a zero
    negative_binomial = (
        torch.lgamma(size)
        + torch.lgamma(counts + 1)
        - torch.lgamma(counts + size)
        + (size + counts) * fewer
        + counts * (torch.log(size) - torch.log(mean + _EPS))
    )
    some = negative_binomial - torch.log(1 - zinb.inflation + _EPS)
    chance = zinb.inflation + (1 - zinb.inflation) * torch.exp(-size * fewer)
    return torch.where(counts == 0, -torch.log(chance + _EPS), some).mean()


def hist2st_loss(
    model: Hist2St,
    images: Tensor,
    grid_xy: Tensor,
    adjacency: Tensor,
    labels: Tensor,
    counts: Tensor,
    *,
    zinb_weight: float = 0.25,
    distillation_weight: float = 0.5,
    passes: int = 5,
) -> Tensor:
    """Return the loss of the N spots of one slide, a scalar, by ``passes`` + 1 forward passes.

    Neither side of the distillation is detached, as published.

    Args:
        model: The model, in training mode.
        images: Normalized tiles (N, 3, 224, 224), not augmented.
        grid_xy: Column and row (N, 2) of each spot, int64.
        adjacency: Neighbors (N, 4) of each spot, int64; -1 means none.
        labels: Labels (N, G).
        counts: Raw counts (N, G) of the predicted genes, not smoothed.
        zinb_weight: Weight of the likelihood of the counts.
        distillation_weight: Weight of the distillation.
        passes: Number of augmented passes.

    Source: docs/models.md, "Hist2ST".
    """
    tokens = model.encode_slide(model.encode_targets(images), grid_xy, adjacency)
    prediction = model.predict_from_tokens(tokens)  # (N, G)
    counts = counts.float()
    likelihood = zinb_nll(counts, model.zinb_heads(tokens), library_scale(counts))
    distilled = _distil(model, images, grid_xy, adjacency, passes)
    return (
        F.mse_loss(prediction, labels)
        + zinb_weight * likelihood
        + distillation_weight * F.mse_loss(distilled, prediction)
    )


def _distil(
    model: Hist2St, images: Tensor, grid_xy: Tensor, adjacency: Tensor, passes: int
) -> Tensor:
    """Return the weighted mean (N, G) of the predictions of augmented passes.

    The model predicts the weight of each pass for each spot.
    """
    predictions, logits = [], []
    for _ in range(passes):
        patches = augment_patches(images, model.target_encoder.patch_px)
        tokens = model.encode_slide(model.encode_targets(patches), grid_xy, adjacency)
        predictions.append(model.predict_from_tokens(tokens))
        logits.append(model.distillation_weight(tokens))
    weights = torch.stack(logits).softmax(0)  # (passes, N, 1)
    return (weights * torch.stack(predictions)).sum(0)


_GRAY_CHANCE: Final = 0.1
_MIRROR_CHANCE: Final = 0.2
_MAX_TURN_DEG: Final = 90.0
_LUMA: Final = (0.299, 0.587, 0.114)
"""Weight of red, green and blue in brightness (ITU-R BT.601)."""


def augment_patches(images: Tensor, patch_px: int) -> Tensor:
    """Return turned, mirrored or gray patches (B, 3, patch_px, patch_px) of normalized tiles.

    All tiles are changed alike, drawn from PyTorch's CPU generator. The corners of a turned patch
    show the tissue around it, as far as the tile reaches.
    """
    turn, mirror, gray = torch.rand(3).tolist()
    degrees = (2 * turn - 1) * _MAX_TURN_DEG
    patches = cut_patches(images, patch_px, degrees, mirrored=mirror < _MIRROR_CHANCE)
    return in_gray(patches) if gray < _GRAY_CHANCE else patches


def cut_patches(images: Tensor, patch_px: int, degrees: float, mirrored: bool) -> Tensor:
    """Return the centers of square images, turned counterclockwise and then mirrored left-right."""
    scale = patch_px / images.shape[-1]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    right = -1.0 if mirrored else 1.0
    # columns: one step right and one step down in the patch, in image coordinates (x right, y down)
    steps = [[right * cos, -sin, 0.0], [right * sin, cos, 0.0]]
    theta = scale * images.new_tensor([steps])  # (1, 2, 3)
    grid = F.affine_grid(theta, [1, 1, patch_px, patch_px], align_corners=False)
    grids = grid.expand(len(images), -1, -1, -1)  # (B, h, h, 2)
    return F.grid_sample(images, grids, align_corners=False)


def in_gray(images: Tensor) -> Tensor:
    """Return gray versions of normalized images (B, 3, h, w), normalized again."""
    mean = images.new_tensor(IMAGE_MEAN).view(3, 1, 1)
    std = images.new_tensor(IMAGE_STD).view(3, 1, 1)
    luma = images.new_tensor(_LUMA).view(3, 1, 1)
    brightness = ((images * std + mean) * luma).sum(1, keepdim=True)
    return (brightness - mean) / std
