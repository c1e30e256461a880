"""What the graphs must compute: the PyTorch model in fp32, called without the export wrappers.

Preprocessing is written once more here, in NumPy, so that a mistake in a wrapper cannot hide by
being made on both sides of the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triplex_deploy.contract import CENTER, IMAGE_MEAN, IMAGE_STD
from triplex_deploy.models import TileEncoder, Triplex


class Reference:
    """The model and the frozen tile encoder, both in evaluation mode."""

    def __init__(self, model: Triplex, tile_encoder: TileEncoder) -> None:
        self.model = model
        self.tile_encoder = tile_encoder

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The output that ``graph`` should have for ``inputs``, both of the contract's shapes."""
        with torch.inference_mode():
            output: Tensor = getattr(self, f"_{graph}")(**inputs)
        return output.numpy()

    def predict(
        self,
        tiles: NDArray[np.uint8],
        around: NDArray[np.int64],
        apeg_index: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Expression (N, G) of a slide of N spots, by the model's own ``forward``.

        ``tiles`` (N, 224, 224, 3) are the spots' own; ``around`` (N, 25) indexes the tiles of each
        neighbourhood, -1 outside the slide.
        """
        images = normalise(tiles)
        with torch.inference_mode():
            features = self.tile_encoder(images)
            mask = torch.from_numpy(around >= 0)
            neighbors = features[torch.from_numpy(around)] * mask[:, :, None]
            own = torch.from_numpy(around[:, CENTER])
            output = self.model(
                images, neighbors, mask, features, torch.from_numpy(apeg_index), own
            )
        expression: NDArray[np.float32] = self._clip(output.fusion).numpy()
        return expression

    def _tile_encoder(self, tiles: NDArray[np.uint8]) -> Tensor:
        features: Tensor = self.tile_encoder(normalise(tiles))
        return features

    def _target_encoder(self, tiles: NDArray[np.uint8]) -> Tensor:
        tokens: Tensor = self.model.target_encoder(normalise(tiles))
        return tokens

    def _neighbor_encoder(self, **inputs: NDArray[Any]) -> Tensor:
        tokens: Tensor = self.model.neighbor_encoder(**_tensors(inputs))
        return tokens

    def _global_encoder(self, **inputs: NDArray[Any]) -> Tensor:
        tokens: Tensor = self.model.global_encoder(**_tensors(inputs))
        return tokens

    def _fusion_head(self, **inputs: NDArray[Any]) -> Tensor:
        return self._clip(self.model.predict_from_tokens(**_tensors(inputs)).fusion)

    def _clip(self, expression: Tensor) -> Tensor:
        return expression.clamp_min(0) if self.model.config.nonnegative else expression


def normalise(tiles: NDArray[np.uint8]) -> Tensor:
    """uint8 RGB tiles (B, H, W, 3) as the normalised images (B, 3, H, W) the encoders see."""
    unit = tiles.astype(np.float32) / np.float32(255)
    images = (unit - np.array(IMAGE_MEAN, np.float32)) / np.array(IMAGE_STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _tensors(inputs: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}
