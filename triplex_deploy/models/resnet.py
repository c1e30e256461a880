"""ResNet18 with torchvision's parameter names, without its classifier.

It is written here so that neither training nor export needs torchvision (He et al. 2016; see
docs/models.md, "Image backbones").
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from triplex_deploy.models.torch_files import load_strictly

_PREFIXES = ("model.", "resnet.")


class BasicBlock(nn.Module):
    """Applies two 3x3 convolutions with a residual, which is projected if the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet18(nn.Module):
    """Turns a 224 px image into a feature map (512, 7, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, stride=1)
        self.layer2 = _stage(64, 128, stride=2)
        self.layer3 = _stage(128, 256, stride=2)
        self.layer4 = _stage(256, 512, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_map(self, images: Tensor) -> Tensor:
        """Return the feature map (B, 512, H/32, W/32) of normalized images (B, 3, H, W)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features


def load_resnet18_weights(backbone: ResNet18, weights: Mapping[str, Tensor]) -> None:
    """Load published ResNet18 weights, such as the histology SimCLR weights of Ciga et al.

    Removes the prefixes ``model.`` and ``resnet.``, and drops the classifier ``fc``.

    Raises:
        CheckpointError: Any other key is missing or unknown, or has another shape.
    """
    stripped = {_strip_prefixes(key): value for key, value in weights.items()}
    kept = {key: value for key, value in stripped.items() if not key.startswith("fc.")}
    load_strictly(backbone, kept, "ResNet18 weights")


def _strip_prefixes(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride), BasicBlock(out_channels, out_channels, 1)
    )
