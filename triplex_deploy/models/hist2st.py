"""Hist2ST: convolutions within patches, attention and a graph between spots (Zeng et al. 2022)."""

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
    """Every spot of a slide from the patches, places and neighbors of all of them
    (docs/models.md, "Hist2ST").

    Tokens are as wide as the image encoder's map, 1024 of a 112 px patch and 32 channels.
    ``zinb_heads`` and ``distillation_weight`` serve ``hist2st_loss`` alone: no prediction reads
    them.
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
        """Expression (N, G) of a slide: normalized tiles (N, 3, 224, 224), (column, row) (N, 2).

        ``adjacency`` (N, 4) int64 is ``tiles.spot_tables.adjacency_index``'s, -1 = none.
        """
        tokens = self.encode_slide(self.encode_targets(images), grid_xy, adjacency)
        return self.predict_from_tokens(tokens)

    def encode_targets(self, images: Tensor) -> Tensor:
        """One token a spot (B, 1, D) of the centers of normalized tiles (B, 3, 224, 224)."""
        tokens: Tensor = self.target_encoder(images)
        return tokens

    def encode_slide(self, target_tokens: Tensor, grid_xy: Tensor, adjacency: Tensor) -> Tensor:
        """Tokens (N, 1, D), int64 (column, row) (N, 2) and neighbors (N, 4) to (N, D)."""
        global_tokens: Tensor = self.global_encoder(target_tokens.flatten(1), grid_xy, adjacency)
        return global_tokens

    def predict_from_tokens(self, global_tokens: Tensor) -> Tensor:
        """Expression (B, G) of tokens (B, D), the spots possibly of several slides."""
        expression: Tensor = self.expression_head(global_tokens)
        return expression


class SpotGraphEncoder(nn.Module):
    """Attention between all spots (N, D), then layers between neighbors."""

    def __init__(self, depth: int, shape: BlockShape, n_pos: int, graph_depth: int) -> None:
        super().__init__()
        self.sequence = SpotSequence(depth, shape, n_pos, token_dropout=0.0)
        self.graph = SpotGraph(shape.dim, graph_depth)

    def forward(self, tokens: Tensor, grid_xy: Tensor, adjacency: Tensor) -> Tensor:
        result: Tensor = self.graph(self.sequence(tokens, grid_xy), adjacency)
        return result


_STEM_PX: Final = 7
_SQUEEZE: Final = 8


class ConvMixerEncoder(nn.Module):
    """The center of normalized tiles (B, 3, h, h) to tokens (B, 1, ``dim``)
    (docs/models.md, "Hist2ST").

    Cells of 7 x 7 px are mixed in ``channels`` channels, and an eighth of those is kept; the token
    is the map flattened as (channel, row, column).
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
    """Two depthwise convolutions with a shortcut around both, then a pointwise one without."""

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
    """Tokens (N, D) pass ``depth`` graph layers; an LSTM reads the layers' outputs
    (docs/models.md, "Hist2ST").

    ``adjacency`` (N, K) int64 lists each spot's neighbors, -1 = none. The result (N, D) is the
    mean of the LSTM's states over the layers.
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
        states, _ = self.lstm(torch.stack(outputs))  # (depth, N, D): a spot is one of a batch
        result: Tensor = states.mean(0)
        return result


class GraphLayer(nn.Module):
    """Rows of unit length from the mean of the neighbors; a spot's own token does not enter.

    A spot without neighbors, or whose projection is nowhere positive, gets zeros.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Tensor, adjacency: Tensor) -> Tensor:
        return F.normalize(F.relu(self.projection(neighbor_mean(tokens, adjacency))))


def neighbor_mean(tokens: Tensor, adjacency: Tensor) -> Tensor:
    """Mean (N, D) of the tokens that each row of ``adjacency`` (N, K) lists, zero for none."""
    padded = torch.cat((torch.zeros_like(tokens[:1]), tokens))  # row 0 stands for 'no spot'
    total = torch.zeros_like(tokens)
    for row in (adjacency + 1).unbind(1):
        total = total + padded.index_select(0, row)  # one neighbor at a time: O(N D) memory
    count = (adjacency >= 0).sum(1, keepdim=True).clamp_min(1)
    return total / count


_MEAN_RANGE: Final = (1e-5, 1e6)
_DISPERSION_RANGE: Final = (1e-4, 1e4)
_EPS: Final = 1e-10


class Zinb(NamedTuple):
    """Parameters (N, G) of counts: zero with probability ``inflation``, else negative binomial.

    Its variance is mean + mean^2 / dispersion.
    """

    mean: Tensor
    dispersion: Tensor
    inflation: Tensor


class ZinbHeads(nn.Module):
    """Tokens (N, D) to the parameters of each gene's counts, in float32 under autocast too."""

    def __init__(self, dim: int, n_genes: int) -> None:
        super().__init__()
        self.mean = nn.Linear(dim, n_genes)
        self.dispersion = nn.Linear(dim, n_genes)
        self.inflation = nn.Linear(dim, n_genes)

    def forward(self, tokens: Tensor) -> Zinb:
        low, high = map(math.log, _MEAN_RANGE)
        return Zinb(
            # clamped before the exponential: past it, an overflow would make the gradient NaN
            mean=self.mean(tokens).float().clamp(low, high).exp(),
            dispersion=F.softplus(self.dispersion(tokens).float()).clamp(*_DISPERSION_RANGE),
            inflation=self.inflation(tokens).float().sigmoid(),
        )


def library_scale(counts: Tensor) -> Tensor:
    """Each spot's total (N, 1) over the slide's median total; of counts (N, G), floating point.

    Where half of the spots are empty, the median counts as one.
    """
    totals = counts.sum(1, keepdim=True)
    return totals / totals.quantile(0.5).clamp_min(1)


def zinb_nll(counts: Tensor, zinb: Zinb, scale: Tensor) -> Tensor:
    """Mean negative log-likelihood of raw counts (N, G), the means multiplied by ``scale`` (N, 1).

    docs/models.md, "Hist2ST"; ``counts`` are whole numbers in floating point.
    """
    mean, size = zinb.mean * scale, zinb.dispersion
    fewer = torch.log1p(mean / size)  # -ln of the zero's probability, per unit of size
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
    """Loss of all N spots of one slide
    (docs/models.md, "Hist2ST"), which takes ``passes`` + 1 forward passes.

    ``images`` (N, 3, 224, 224) normalized and not augmented; ``grid_xy`` (N, 2) and ``adjacency``
    (N, 4) int64; ``labels`` (N, G); ``counts`` (N, G) raw counts of the panel, not smoothed. As
    published, neither side of the distillation is detached.
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
    """The prediction (N, G) of augmented passes, weighted for each spot by what it says itself."""
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
    """Patches (B, 3, patch_px, patch_px) of normalized tiles: turned, mirrored, turned gray.

    One draw of PyTorch's CPU generator holds for all of them. What a turn brings into a patch's
    corners is the tissue around it, as far as the tile reaches.
    """
    turn, mirror, gray = torch.rand(3).tolist()
    degrees = (2 * turn - 1) * _MAX_TURN_DEG
    patches = cut_patches(images, patch_px, degrees, mirrored=mirror < _MIRROR_CHANCE)
    return in_gray(patches) if gray < _GRAY_CHANCE else patches


def cut_patches(images: Tensor, patch_px: int, degrees: float, mirrored: bool) -> Tensor:
    """The centres of square images, turned counter-clockwise and then mirrored left-right."""
    scale = patch_px / images.shape[-1]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    right = -1.0 if mirrored else 1.0
    # where in the image, x right and y down, the patch's unit steps to the right and down lead
    steps = [[right * cos, -sin, 0.0], [right * sin, cos, 0.0]]
    theta = scale * images.new_tensor([steps])  # (1, 2, 3)
    grid = F.affine_grid(theta, [1, 1, patch_px, patch_px], align_corners=False)
    grids = grid.expand(len(images), -1, -1, -1)  # (B, h, h, 2)
    return F.grid_sample(images, grids, align_corners=False)


def in_gray(images: Tensor) -> Tensor:
    """Normalized images (B, 3, h, w) whose channels all show the brightness, normalized again."""
    mean = images.new_tensor(IMAGE_MEAN).view(3, 1, 1)
    std = images.new_tensor(IMAGE_STD).view(3, 1, 1)
    luma = images.new_tensor(_LUMA).view(3, 1, 1)
    brightness = ((images * std + mean) * luma).sum(1, keepdim=True)
    return (brightness - mean) / std
