"""What the graphs must compute: the PyTorch model in fp32, called without the export wrappers.

Preprocessing is written once more here, in NumPy, so that a mistake in a wrapper cannot hide by
being made on both sides of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triplex_deploy.contract import CENTER, IMAGE_MEAN, IMAGE_STD
from triplex_deploy.models import TileEncoder, Triplex

EncodeTiles = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Features (B, F) of tiles (B, 224, 224, 3)."""


class Reference:
    """The model in evaluation mode, and what its frozen tile encoder makes of uint8 tiles."""

    def __init__(self, model: Triplex, encode_tiles: EncodeTiles) -> None:
        self.model = model
        self.encode_tiles = encode_tiles

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The output that ``graph`` should have for ``inputs``, both of the contract's shapes."""
        if graph == "tile_encoder":
            return self.encode_tiles(inputs["tiles"])
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
        neighbourhood, -1 outside the slide. Their features there are zero.
        """
        features = torch.from_numpy(self.encode_tiles(tiles))
        with torch.inference_mode():
            mask = torch.from_numpy(around >= 0)
            neighbors = features[torch.from_numpy(around)] * mask[:, :, None]
            own = torch.from_numpy(around[:, CENTER])
            table = torch.from_numpy(apeg_index)
            output = self.model(normalise(tiles), neighbors, mask, features, table, own)
        expression: NDArray[np.float32] = self._clip(output.fusion).numpy()
        return expression

    def _target_encoder(self, tiles: NDArray[np.uint8]) -> Tensor:
        tokens = self.model.encode_targets(normalise(tiles))
        return self._as_exported("target", tokens)

    def _neighbor_encoder(self, **inputs: NDArray[Any]) -> Tensor:
        tokens = self.model.encode_neighbors(**_tensors(inputs))
        return self._as_exported("neighbor", tokens)

    def _global_encoder(self, **inputs: NDArray[Any]) -> Tensor:
        tokens = self.model.encode_slide(**_tensors(inputs))
        assert tokens is not None, "the contract has this graph for models with this view alone"
        return tokens

    def _fusion_head(self, **inputs: NDArray[Any]) -> Tensor:
        return self._clip(self.model.predict_from_tokens(**_tensors(inputs)).fusion)

    def _as_exported(self, view: str, tokens: Tensor | None) -> Tensor:
        """Tokens that the fusion does not attend to one by one leave the graph as their mean."""
        assert tokens is not None, "the contract has this graph for models with this view alone"
        return tokens if view in self.model.config.contexts else tokens.mean(1, keepdim=True)

    def _clip(self, expression: Tensor) -> Tensor:
        return expression.clamp_min(0) if self.model.config.nonnegative else expression


def torch_tile_encoder(encoder: TileEncoder) -> EncodeTiles:
    """A trunk of ours as the reference calls it."""

    def encode(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            features: NDArray[np.float32] = encoder(normalise(tiles)).numpy()
        return features

    return encode


def normalise(tiles: NDArray[np.uint8]) -> Tensor:
    """uint8 RGB tiles (B, H, W, 3) as the normalised images (B, 3, H, W) the encoders see."""
    unit = tiles.astype(np.float32) / np.float32(255)
    images = (unit - np.array(IMAGE_MEAN, np.float32)) / np.array(IMAGE_STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _tensors(inputs: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}
