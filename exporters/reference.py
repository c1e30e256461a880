"""Compute the wanted outputs of exported graphs with PyTorch in fp32.

The export wrappers are not used. Preprocessing is written a second time here, in NumPy, so that a
mistake in a wrapper makes the comparison fail.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, TILES
from triplex_deploy.models import SpotModel, TileEncoder
from triplex_deploy.models.spot_model import SlideTensors
from triplex_deploy.tiles.masked_neighbor import mean_color_tile

PIECE: Final = 4
"""Tiles per call of an encoder in PyTorch; with many, each takes up to twice as long on a CPU."""
EncodeTiles = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Returns features (B, F) of tiles (B, 224, 224, 3)."""


@dataclass(frozen=True)
class SmallSlide:
    """Holds a slide of N spots, each with its own tile."""

    tiles: NDArray[np.uint8]
    """Target tile (N, 224, 224, 3) of each spot."""
    around: NDArray[np.int64]
    """Index (N, 25) of the tile of each neighbor; -1 outside the slide."""
    tables: Mapping[str, NDArray[np.int64]]
    """Tables (N, ...) about the positions of the spots, from ``spot_tables``."""


class Reference:
    """A model in evaluation mode with its frozen tile encoder.

    Outputs are kept by the digest of their inputs, because the graphs of each runtime, and of each
    trial of a quantization, are compared with the same numbers. Nobody may change them.
    """

    def __init__(self, model: SpotModel, encode_tiles: EncodeTiles) -> None:
        self.model = model
        self.encode_tiles = encode_tiles
        self._kept: dict[bytes, NDArray[Any]] = {}

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the output that ``graph`` must have for ``inputs``, with the contract's shapes."""
        return self._once(_digest(graph, inputs), lambda: self._run(graph, inputs))

    def predict(self, slide: SmallSlide) -> NDArray[np.float32]:
        """Return expression (N, G) of all spots of a slide from the model's own ``forward``."""
        arrays: dict[str, NDArray[Any]] = {
            "tiles": slide.tiles,
            "around": slide.around,
            **slide.tables,
        }
        return self._once(_digest("", arrays), lambda: self._predict(slide))

    def _once(self, key: bytes, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        if key not in self._kept:
            output = compute()
            output.flags.writeable = False
            self._kept[key] = output
        return self._kept[key]

    def _run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        if graph == "tile_encoder":
            return self.encode_tiles(inputs["tiles"])
        tensors = {
            "images" if name == TILES.name else name: _tensor(name, array)
            for name, array in inputs.items()
        }
        with torch.inference_mode():
            if tensors.keys() == {"images"}:
                output = _in_pieces(
                    lambda images: self.model.run_graph(graph, images=images), tensors["images"]
                )
            else:
                output = self.model.run_graph(graph, **tensors)
            if graph == "fusion_head":
                output = self._clip(output)
        return output.numpy()

    def _predict(self, slide: SmallSlide) -> NDArray[np.float32]:
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
    """Return a function that encodes uint8 tiles with a backbone of this package."""

    def encode(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            features: NDArray[np.float32] = _in_pieces(encoder, normalize(tiles)).numpy()
        return features

    return encode


def _in_pieces(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([encode(piece) for piece in torch.split(images, PIECE)])


def normalize(tiles: NDArray[np.uint8]) -> Tensor:
    """Return uint8 RGB tiles (B, H, W, 3) as normalized images (B, 3, H, W).

    In memory the colors stay last, with which PyTorch's convolutions are faster on a CPU.
    """
    unit = tiles.astype(np.float32) / np.float32(255)
    images = (unit - np.array(IMAGE_MEAN, np.float32)) / np.array(IMAGE_STD, np.float32)
    return torch.from_numpy(images.transpose(0, 3, 1, 2))


def _digest(graph: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the SHA-256 of a graph's name and of the names, types, shapes and values of arrays."""
    digest = hashlib.sha256(graph.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"/{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _tensor(name: str, array: NDArray[Any]) -> Tensor:
    return normalize(array) if name == TILES.name else torch.from_numpy(array)
