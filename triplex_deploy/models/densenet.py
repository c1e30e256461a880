"""DenseNet with torchvision's parameter names, without its classifier.

It is written here so that neither training nor export needs torchvision (Huang et al. 2017; see
docs/models.md, "ST-Net").
"""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triplex_deploy.models.torch_files import load_strictly

_BOTTLENECK: Final = 4
_OLD_KEY: Final = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
_COUNTER: Final = "num_batches_tracked"


class DenseLayer(nn.Module):
    """Appends ``growth`` channels, computed from all earlier channels, to its input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        hidden = _BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.relu(self.norm1(x)))
        new = self.conv2(F.relu(self.norm2(hidden)))
        return torch.cat((x, new), 1)


class DenseNet(nn.Module):
    """The convolutional backbone, by default of DenseNet-121.

    Turns a 224 px image into a feature map (``width``, 7, 7); the width is 1024 for DenseNet-121.
    ``blocks`` are the layers of each dense block. Between blocks, the number of channels and the
    side are halved.
    """

    def __init__(
        self, growth: int = 32, blocks: Sequence[int] = (6, 12, 24, 16), stem_channels: int = 64
    ) -> None:
        super().__init__()
        parts, channels = _stem(stem_channels), stem_channels
        for number, layers in enumerate(blocks, start=1):
            parts[f"denseblock{number}"] = _dense_block(channels, layers, growth)
            channels += layers * growth
            if number < len(blocks):
                parts[f"transition{number}"] = _transition(channels)
                channels //= 2
        parts["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(parts)
        self.width = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def feature_map(self, images: Tensor) -> Tensor:
        """Return the feature map (B, ``width``, H/32, W/32) of normalized images (B, 3, H, W)."""
        return F.relu(self.features(images))


def load_densenet_weights(backbone: DenseNet, weights: Mapping[str, Tensor]) -> None:
    """Load published weights, such as torchvision's of DenseNet-121 on ImageNet.

    Accepts keys such as ``denselayer1.norm.1.weight`` and files without counters of batches, as in
    old files. Drops the classifier.

    Raises:
        CheckpointError: Any other key is missing or unknown, or has another shape.
    """
    renamed = {_OLD_KEY.sub(r"\1\2.", key): value for key, value in weights.items()}
    kept = {key: value for key, value in renamed.items() if not key.startswith("classifier.")}
    if not any(key.endswith(_COUNTER) for key in kept):
        kept |= {
            key: value for key, value in backbone.state_dict().items() if key.endswith(_COUNTER)
        }
    load_strictly(backbone, kept, "DenseNet weights")


def _stem(channels: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        conv0=nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
        norm0=nn.BatchNorm2d(channels),
        relu0=nn.ReLU(),
        pool0=nn.MaxPool2d(3, stride=2, padding=1),
    )


def _dense_block(in_channels: int, layers: int, growth: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            (f"denselayer{i + 1}", DenseLayer(in_channels + i * growth, growth))
            for i in range(layers)
        )
    )


def _transition(channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels),
            relu=nn.ReLU(),
            conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
            pool=nn.AvgPool2d(2, stride=2),
        )
    )
