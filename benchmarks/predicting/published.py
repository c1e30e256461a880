"""Predict as the code of the paper does: PyTorch eager, spot by spot, without sharing.

Each spot is one read of 1120 x 1120 pixels through openslide-python, 25 passes of the frozen
encoder and one of the trained encoder. The global encoder runs once per batch of spots.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openslide
import torch
from numpy.typing import NDArray
from torch.nn import Module

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, TILE_PX
from triplex_deploy.errors import ConfigError
from triplex_deploy.models import Checkpoint, TileEncoder, Triplex
from triplex_deploy.tiles import apeg_index

WINDOW_PX = 5 * TILE_PX
BATCH = 128


class Encoded(NamedTuple):
    """The inputs of the fusion for a batch of B spots."""

    target_tokens: torch.Tensor
    """(B, 49, F)"""
    neighbor_features: torch.Tensor
    """(B, 25, F)"""
    mask: torch.Tensor
    """(B, 25)"""


@dataclass(frozen=True)
class Published:
    """The eager model, the slide that it predicts, and the device of both networks."""

    model: Triplex
    tile_encoder: TileEncoder
    slide_path: Path
    slide_size_wh: tuple[int, int]
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.model.to(self.device)
        self.tile_encoder.to(self.device)

    def encode_slide(self, center_xy: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return features (N, F) of all spots, which the published code has on disk."""
        features = []
        with openslide.open_slide(self.slide_path) as slide, torch.inference_mode():
            for x, y in center_xy.tolist():
                corner = (x - TILE_PX // 2, y - TILE_PX // 2)
                tile = slide.read_region(corner, 0, (TILE_PX, TILE_PX)).convert("RGB")
                images = normalized(np.asarray(tile)).to(self.device)
                features.append(self.tile_encoder(images)[0].cpu().numpy())
        return np.stack(features)

    def encode_spots(self, center_xy: NDArray[np.int64]) -> Encoded:
        """Read and encode spots, a window for each."""
        targets, around, masks = [], [], []
        with openslide.open_slide(self.slide_path) as slide, torch.inference_mode():
            for x, y in center_xy.tolist():
                corner = (x - WINDOW_PX // 2, y - WINDOW_PX // 2)
                window = slide.read_region(corner, 0, (WINDOW_PX, WINDOW_PX)).convert("RGB")
                tiles = normalized(np.asarray(window)).to(self.device)
                targets.append(present(self.model.target_encoder)(tiles[12:13]))
                around.append(self.tile_encoder(tiles))
                masks.append(_mask(x, y, *self.slide_size_wh))
        mask = torch.from_numpy(np.stack(masks)).to(self.device)
        encoded = Encoded(torch.cat(targets), torch.stack(around), mask)
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)
        return encoded

    def predict_batch(
        self,
        rows: NDArray[np.int64],
        slide_features: NDArray[np.float32],
        grid_rc: NDArray[np.int64],
        encoded: Encoded,
    ) -> NDArray[np.float32]:
        """Return the expression of the spots ``rows``, after the global encoder of all spots."""
        with torch.inference_mode():
            tokens = present(self.model.global_encoder)(
                torch.from_numpy(slide_features).to(self.device),
                torch.from_numpy(apeg_index(grid_rc)).to(self.device),
            )
            neighbors = present(self.model.neighbor_encoder)(
                encoded.neighbor_features, encoded.mask
            )
            output = self.model.predict_from_tokens(
                tokens[rows], encoded.target_tokens, neighbors, encoded.mask
            )
        return output.fusion.cpu().numpy()


def published_way(
    checkpoint: Checkpoint, slide_path: Path, slide_size_wh: tuple[int, int], device: str = "cpu"
) -> Published:
    """Return the published way of a checkpoint.

    Raises:
        ConfigError: If the checkpoint is not of TRIPLEX with all three views.
    """
    model = checkpoint.build_calibrated()  # as ours are
    if not isinstance(model, Triplex) or model.config.model != "triplex":
        raise ConfigError("checkpoint: the published way is that of TRIPLEX; give a TRIPLEX")
    encoder = checkpoint.tile_encoder.build()
    return Published(model, encoder, slide_path, slide_size_wh, device)


def present(module: Module | None) -> Module:
    """Return a part of TRIPLEX; variants without a view lack it."""
    assert module is not None, "published_way checks that the model has all views"
    return module


def normalized(window: NDArray[np.uint8]) -> torch.Tensor:
    """Return the n x n normalized tiles (n * n, 3, 224, 224) of a square window, row by row."""
    n = len(window) // TILE_PX
    cut = window.reshape(n, TILE_PX, n, TILE_PX, 3).transpose(0, 2, 4, 1, 3)
    images = torch.from_numpy(cut.reshape(n * n, 3, TILE_PX, TILE_PX).astype(np.float32) / 255)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    result: torch.Tensor = (images - mean) / std
    return result


def _mask(x: int, y: int, width: int, height: int) -> NDArray[np.bool_]:
    start = np.arange(5) * TILE_PX - WINDOW_PX // 2
    columns = (x + start >= 0) & (x + start + TILE_PX <= width)
    rows = (y + start >= 0) & (y + start + TILE_PX <= height)
    columns[2] = rows[2] = True
    mask: NDArray[Any] = rows[:, None] & columns[None, :]
    return mask.ravel()
