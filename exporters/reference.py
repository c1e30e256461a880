"""What the graphs must compute: the PyTorch model in fp32, called without the export wrappers.

Preprocessing is written once more here, in NumPy, so that a mistake in a wrapper cannot hide by
being made on both sides of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, TILES
from triplex_deploy.models import SpotModel, TileEncoder
from triplex_deploy.models.spot_model import SlideTensors
from triplex_deploy.tiles.masked_neighbor import mean_color_tile

EncodeTiles = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Features (B, F) of tiles (B, 224, 224, 3)."""


@dataclass(frozen=True)
class SmallSlide:
    """A slide of N spots, no two on one tile.

    ``tiles`` (N, 224, 224, 3) are the spots' own; ``around`` (N, 25) indexes the tiles of each
    neighbourhood, -1 outside the slide; ``tables`` (N, ...) are ``spot_tables`` of its places.
    """

    tiles: NDArray[np.uint8]
    around: NDArray[np.int64]
    tables: Mapping[str, NDArray[np.int64]]


class Reference:
    """The model in evaluation mode, and what its frozen tile encoder makes of uint8 tiles."""

    def __init__(self, model: SpotModel, encode_tiles: EncodeTiles) -> None:
        self.model = model
        self.encode_tiles = encode_tiles

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The output that ``graph`` should have for ``inputs``, both of the contract's shapes."""
        if graph == "tile_encoder":
            return self.encode_tiles(inputs["tiles"])
        tensors = {
            "images" if name == TILES.name else name: _tensor(name, array)
            for name, array in inputs.items()
        }
        with torch.inference_mode():
            output = self.model.run_graph(graph, **tensors)
            if graph == "fusion_head":
                output = self._clip(output)
        return output.numpy()

    def predict(self, slide: SmallSlide) -> NDArray[np.float32]:
        """Expression (N, G) of all spots of a slide, by the model's own ``forward``."""
        tensors = SlideTensors(
            normalize(slide.tiles),
            torch.from_numpy(slide.around),
            {name: torch.from_numpy(table) for name, table in slide.tables.items()},
            lambda: torch.from_numpy(
                self.encode_tiles(np.concatenate([slide.tiles, mean_color_tile()]))
            ),
        )
        with torch.inference_mode():
            predicted = self.model.predict_slide(tensors)
            expression: NDArray[np.float32] = self._clip(predicted).numpy()
        return expression

    def _clip(self, expression: Tensor) -> Tensor:
        return expression.clamp_min(0) if self.model.config.clips_at_zero else expression


def torch_tile_encoder(encoder: TileEncoder) -> EncodeTiles:
    """A trunk of ours as the reference calls it."""

    def encode(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            features: NDArray[np.float32] = encoder(normalize(tiles)).numpy()
        return features

    return encode


def normalize(tiles: NDArray[np.uint8]) -> Tensor:
    """uint8 RGB tiles (B, H, W, 3) as the normalised images (B, 3, H, W) the encoders see."""
    unit = tiles.astype(np.float32) / np.float32(255)
    images = (unit - np.array(IMAGE_MEAN, np.float32)) / np.array(IMAGE_STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _tensor(name: str, array: NDArray[Any]) -> Tensor:
    return normalize(array) if name == TILES.name else torch.from_numpy(array)
