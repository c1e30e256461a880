"""ST-Net: predicts a spot from its target tile with DenseNet-121.

See docs/models.md, "ST-Net".
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from triplex_deploy.contract import StNetConfig
from triplex_deploy.models.densenet import DenseNet
from triplex_deploy.models.spot_model import SpotModel


class StNet(SpotModel):
    """Averages the map of a DenseNet to a token and applies a linear head (He et al. 2020).

    With 8 ``config.symmetries`` the token of an image is, in evaluation mode, the mean over its
    eight rotations and reflections. As the head is linear, that equals the published mean of eight
    predictions; it costs eight times the time and memory. ``growth``, ``blocks`` and
    ``stem_channels`` shape the backbone.
    """

    config: StNetConfig

    def __init__(
        self,
        config: StNetConfig,
        *,
        growth: int = 32,
        blocks: Sequence[int] = (6, 12, 24, 16),
        stem_channels: int = 64,
    ) -> None:
        super().__init__(config)
        self.symmetries = config.symmetries
        self.backbone = DenseNet(growth, blocks, stem_channels)
        self.expression_head = nn.Linear(self.backbone.width, config.n_genes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the expression (B, G) of normalized tiles (B, 3, 224, 224)."""
        return self.predict_from_tokens(self.encode_targets(images))

    def encode_targets(self, images: Tensor) -> Tensor:
        """Return one token per tile (B, 1, D); D = 1024 for DenseNet-121."""
        if self.training or self.symmetries == 1:
            return self._pooled(images).unsqueeze(1)
        tokens = self._pooled(dihedral_images(images).flatten(0, 1))  # (8 * B, D)
        return tokens.view(self.symmetries, -1, self.backbone.width).mean(0).unsqueeze(1)

    def predict_from_tokens(self, target_tokens: Tensor) -> Tensor:
        """Return the expression (B, G) of tokens (B, 1, D)."""
        expression: Tensor = self.expression_head(target_tokens.squeeze(1))
        return expression

    @torch.no_grad()
    def start_from_mean(self, mean: Tensor) -> None:
        """Make the model predict ``mean`` (G,), the mean of the training spots, for every tile.

        The published training starts like this: the weight of the head is zero, its bias the mean.
        """
        self.expression_head.weight.zero_()
        self.expression_head.bias.copy_(mean)

    def _pooled(self, images: Tensor) -> Tensor:
        return self.backbone.feature_map(images).mean((2, 3))


def dihedral_images(images: Tensor) -> Tensor:
    """Return the eight rotations and reflections (8, B, C, S, S) of images (B, C, S, S)."""
    mirrored = (images, images.flip(2), images.flip(3), images.flip(2, 3))
    return torch.stack((*mirrored, *(image.transpose(2, 3) for image in mirrored)))
