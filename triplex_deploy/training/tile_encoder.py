"""The frozen tile encoder: our ResNet18 from weights or a seed, or any ONNX file."""

from __future__ import annotations

import hashlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triplex_deploy.contract import FEATURE_DIM, IMAGE_MEAN, IMAGE_STD
from triplex_deploy.errors import BackendError, CheckpointError
from triplex_deploy.models import TileEncoder, load_resnet18_weights, state_of
from triplex_deploy.models.safe_load import load_tensors
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.tile_model import TileModel, open_tile_model
from triplex_deploy.training.content_key import file_digest
from triplex_deploy.training.images import normalise_tiles


class FrozenEncoder(ABC):
    """Maps tiles to features and never changes; ``digest`` tells two encoders apart."""

    name: str
    digest: str
    feature_dim: int

    @abstractmethod
    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, feature_dim) of RGB tiles (B, 224, 224, 3)."""

    @abstractmethod
    def store(self, folder: Path) -> str:
        """Write what it takes to run it again into ``folder`` and return the file's name."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Kind, width and normalisation, as plain values."""


class ResNetEncoder(FrozenEncoder):
    """Our ResNet18 on ``device``; made by ``open_tile_encoder``."""

    def __init__(self, name: str, encoder: TileEncoder, device: Device) -> None:
        self.name = name
        self.feature_dim = FEATURE_DIM
        self.digest = _state_digest(encoder.state_dict())
        self._device = torch.device(str(device))
        self._encoder = encoder.eval().requires_grad_(False).to(self._device)

    @torch.inference_mode()
    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = normalise_tiles(torch.from_numpy(tiles).to(self._device))
        features: NDArray[np.float32] = self._encoder(images).cpu().numpy()
        return features

    def store(self, folder: Path) -> str:
        torch.save({"name": self.name, "state_dict": state_of(self._encoder)}, folder / RESNET_FILE)
        return RESNET_FILE

    def facts(self) -> dict[str, Any]:
        return {
            "kind": "resnet18",
            "name": self.name,
            "digest": self.digest,
            "feature_dim": self.feature_dim,
            "mean": list(IMAGE_MEAN),
            "std": list(IMAGE_STD),
        }


class OnnxEncoder(FrozenEncoder):
    """An ONNX file in ONNX Runtime; made by ``open_tile_encoder``."""

    def __init__(self, model: TileModel) -> None:
        self.name = model.path.stem
        self.feature_dim = model.feature_dim
        self.digest = file_digest(model.path)
        self._model = model

    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._model.encode(tiles)

    def store(self, folder: Path) -> str:
        if self._model.path.resolve() != (folder / ONNX_FILE).resolve():
            shutil.copyfile(self._model.path, folder / ONNX_FILE)
        return ONNX_FILE

    def facts(self) -> dict[str, Any]:
        return {
            "kind": "onnx",
            "name": self.name,
            "digest": self.digest,
            "feature_dim": self.feature_dim,
            "input": self._model.input_layout,
            "mean": list(self._model.mean),
            "std": list(self._model.std),
        }


RESNET_FILE = "tile_encoder.pt"
ONNX_FILE = "tile_encoder.onnx"


def open_tile_encoder(
    weights: Path | None, seed: int = 2021, device: Device = CPU, threads: int | None = None
) -> FrozenEncoder:
    """An ONNX file, ResNet18 weights, or, for None, a ResNet18 started from ``seed``.

    Raises ``CheckpointError``, ``ContractError`` or ``BackendError`` for a file that does not fit,
    and for a device that is not there.
    """
    if weights is not None and weights.suffix.lower() == ".onnx":
        return OnnxEncoder(open_tile_model(weights, device, threads))
    if device.kind == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"device {device}: this torch sees no CUDA GPU; pass --device cpu")
    if weights is None:
        return ResNetEncoder(f"ResNet18 of seed {seed}", _seeded(seed), device)
    encoder = TileEncoder()
    load_resnet18_weights(encoder, _state_in(load_tensors(weights), weights))
    return ResNetEncoder(weights.stem, encoder, device)


def _seeded(seed: int) -> TileEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TileEncoder()


def _state_in(content: object, path: Path) -> Mapping[str, Tensor]:
    """The state dict itself, or the one under ``state_dict`` as Lightning files have it."""
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds no state dict; pass ResNet18 weights or an ONNX file")
    return state


def _state_digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
