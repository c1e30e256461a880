"""Hist2ST's image encoder: a ConvMixer that keeps a patch's map as one wide token."""

from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from triplex_deploy.models.center_crop import center_crop

_STEM_PX: Final = 7
_SQUEEZE: Final = 8


class ConvMixerEncoder(nn.Module):
    """The centre of normalised tiles (B, 3, h, h) to tokens (B, 1, ``dim``) (MODELS 2.3, 1-3).

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
