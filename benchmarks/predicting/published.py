"""Predicting the way the paper's code does: PyTorch eager, spot by spot, nothing shared.

One 1120 x 1120 read per spot through openslide-python (or Pillow for a photograph), 25 passes of
the frozen ResNet18 and one of the trained one, and the global encoder once per batch of spots.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openslide
import torch
from numpy.typing import NDArray

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, TILE_PX
from triplex_deploy.models import TileEncoder, Triplex
from triplex_deploy.tiles import apeg_index

WINDOW_PX = 5 * TILE_PX
BATCH = 128


class Encoded(NamedTuple):
    """What one batch of B spots has before fusion."""

    target_tokens: torch.Tensor  # (B, 49, 512)
    neighbor_features: torch.Tensor  # (B, 25, 512)
    mask: torch.Tensor  # (B, 25)


@dataclass(frozen=True)
class Published:
    """The eager model, the slide it predicts, and the device that both networks are moved to."""

    model: Triplex
    tile_encoder: TileEncoder
    slide_path: Path
    slide_size_wh: tuple[int, int]
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.model.to(self.device)
        self.tile_encoder.to(self.device)

    def encode_slide(self, center_xy: NDArray[np.int64]) -> NDArray[np.float32]:
        """Global features (N, 512) of all spots; the published code has them on disk."""
        features = []
        with openslide.open_slide(self.slide_path) as slide, torch.inference_mode():
            for x, y in center_xy.tolist():
                corner = (x - TILE_PX // 2, y - TILE_PX // 2)
                tile = slide.read_region(corner, 0, (TILE_PX, TILE_PX)).convert("RGB")
                images = normalised(np.asarray(tile)).to(self.device)
                features.append(self.tile_encoder(images)[0].cpu().numpy())
        return np.stack(features)

    def encode_spots(self, center_xy: NDArray[np.int64]) -> Encoded:
        """Read and encode spots, one window each."""
        targets, around, masks = [], [], []
        with openslide.open_slide(self.slide_path) as slide, torch.inference_mode():
            for x, y in center_xy.tolist():
                corner = (x - WINDOW_PX // 2, y - WINDOW_PX // 2)
                window = slide.read_region(corner, 0, (WINDOW_PX, WINDOW_PX)).convert("RGB")
                tiles = normalised(np.asarray(window)).to(self.device)
                targets.append(self.model.target_encoder(tiles[12:13]))
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
        """Expression of the spots ``rows``; the global encoder runs over the whole slide."""
        with torch.inference_mode():
            tokens = self.model.global_encoder(
                torch.from_numpy(slide_features).to(self.device),
                torch.from_numpy(apeg_index(grid_rc)).to(self.device),
            )
            neighbors = self.model.neighbor_encoder(encoded.neighbor_features, encoded.mask)
            output = self.model.predict_from_tokens(
                tokens[rows], encoded.target_tokens, neighbors, encoded.mask
            )
        return output.fusion.cpu().numpy()


def normalised(window: NDArray[np.uint8]) -> torch.Tensor:
    """The n x n normalised tiles (n * n, 3, 224, 224), row-major, of a square window."""
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
