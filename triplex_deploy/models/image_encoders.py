"""Image backbones and their two uses.

A trained backbone gives the tokens of the target tile. A frozen backbone gives one feature vector
per tile.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from triplex_deploy.contract import BACKBONE_WIDTH
from triplex_deploy.models.efficientnet_lite import (
    EfficientNetLite0,
    load_efficientnet_lite0_weights,
)
from triplex_deploy.models.resnet import ResNet18, load_resnet18_weights

Backbone = ResNet18 | EfficientNetLite0
"""An image backbone that can be trained or frozen."""


def make_backbone(name: str) -> Backbone:
    """Return a randomly initialized backbone named in ``contract.BACKBONE_WIDTH``."""
    return EfficientNetLite0() if name == "efficientnet_lite0" else ResNet18()


def backbone_of_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the name of the backbone that published or stored weights belong to."""
    of_lite = {"_conv_stem.weight", "stem.conv.weight"}
    return "resnet18" if of_lite.isdisjoint(weights) else "efficientnet_lite0"


def load_backbone_weights(backbone: Backbone, weights: Mapping[str, Tensor]) -> None:
    """Load published weights without their classifier.

    Raises:
        CheckpointError: Keys or shapes do not fit; the message names the keys.
    """
    if isinstance(backbone, EfficientNetLite0):
        load_efficientnet_lite0_weights(backbone, weights)
    else:
        load_resnet18_weights(backbone, weights)


class TargetEncoder(nn.Module):
    """Turns normalized tiles (B, 3, 224, 224) into tokens (B, 49, D), row-major over the 7x7 map.

    Without ``projected_dim``, the tokens are as wide as the map of the backbone.
    """

    def __init__(self, backbone: str, projected_dim: int | None = None) -> None:
        super().__init__()
        self.backbone = make_backbone(backbone)
        self.projection = (
            nn.Identity()
            if projected_dim is None
            else nn.Linear(BACKBONE_WIDTH[backbone], projected_dim)
        )

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.projection(self.map_tokens(images))
        return tokens

    def map_tokens(self, images: Tensor) -> Tensor:
        """Return the map of the backbone as tokens (B, 49, C), before the projection."""
        return self.backbone.feature_map(images).flatten(2).transpose(1, 2)


class TileEncoder(nn.Module):
    """Turns normalized tiles (B, 3, 224, 224) into average-pooled features (B, 512 or 1280)."""

    def __init__(self, backbone: str = "resnet18") -> None:
        super().__init__()
        self.backbone = make_backbone(backbone)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.feature_map(images).mean((2, 3))


def center_crop(images: Tensor, patch_px: int) -> Tensor:
    """Return the center (B, C, patch_px, patch_px) of square images.

    112 px of a 224 px tile are its rows and columns 56 to 167.
    """
    start = (images.shape[-1] - patch_px) // 2
    stop = start + patch_px
    return images[..., start:stop, start:stop]
