"""Run any ONNX file that maps tiles to feature vectors as a frozen tile encoder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, TILE_PX
from triplex_deploy.errors import BackendError, ContractError
from triplex_deploy.files.escape import control_in
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.ort_load import load_session

UINT8_NHWC: Final = "uint8_nhwc"
"""Input of a graph that takes RGB bytes (B, 224, 224, 3)."""
FLOAT_NCHW: Final = "float32_nchw"
"""Input of a graph that takes normalized images (B, 3, 224, 224)."""

DESCRIPTION: Final = "triplex.encoder"
"""Property of an ONNX file with which ``encoder export`` describes the encoder, as JSON."""
_NORMALIZED: Final = 3
"""Numbers in a mean or a standard deviation: red, green and blue."""

_INPUTS: Final = {
    ("tensor(uint8)", (TILE_PX, TILE_PX, 3)): UINT8_NHWC,
    ("tensor(float)", (3, TILE_PX, TILE_PX)): FLOAT_NCHW,
}


@dataclass(frozen=True)
class Description:
    """What a file of ``encoder export`` says of itself."""

    name: str
    """Name of the encoder."""
    mean: tuple[float, ...]
    """Mean of each channel in [0, 1], which the graph subtracts."""
    std: tuple[float, ...]
    """Standard deviation of each channel, by which the graph divides."""
    mpp: float | None
    """Microns per pixel of a tile that shows what the encoder was trained on, if known."""


@dataclass(frozen=True, eq=False)
class TileModel:
    """An opened tile encoder."""

    path: Path
    """The ONNX file."""
    input_layout: str
    """``uint8_nhwc`` or ``float32_nchw``."""
    feature_dim: int
    """Width F of the features."""
    fixed_batch: int | None
    """The batch size that the file was exported for, None if it takes any."""
    mean: tuple[float, ...]
    """Mean of each channel, subtracted from a ``float32_nchw`` input."""
    std: tuple[float, ...]
    """Standard deviation of each channel, which then divides the input."""
    session: Any
    """The ``onnxruntime.InferenceSession``."""
    description: Description | None = None
    """What the file says of itself, None if it says nothing."""

    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (B, F) of RGB tiles (B, 224, 224, 3)."""
        return _encode(self.session, self._prepare(tiles), self.fixed_batch)

    def _prepare(self, tiles: NDArray[np.uint8]) -> NDArray[Any]:
        return _to_input(tiles, self.input_layout, self.mean, self.std)


def open_tile_model(
    path: str | Path,
    device: Device = CPU,
    threads: int | None = None,
    mean: tuple[float, ...] = IMAGE_MEAN,
    std: tuple[float, ...] = IMAGE_STD,
) -> TileModel:
    """Load a tile encoder, and find out which input it takes and how wide its features are.

    Args:
        path: An ONNX file with one input, RGB bytes (B, 224, 224, 3) or float images
            (B, 3, 224, 224), and one output (B, F).
        device: Where to run it.
        threads: Maximum number of CPU threads of one operator.
        mean: Mean of each channel in [0, 1], for float images.
        std: Standard deviation of each channel, for float images.

    Returns:
        The opened encoder.

    Raises:
        BackendError: If the file is missing or cannot be loaded.
        ContractError: If its input, its output or its description has another form.
    """
    path = Path(path)
    if not path.is_file():
        raise BackendError(f"{path}: no such file; pass an ONNX tile encoder")
    session = load_session(path, device, threads)
    layout, fixed_batch = _input_of(path, session)
    blank = np.zeros((1, TILE_PX, TILE_PX, 3), np.uint8)
    features = _encode(session, _to_input(blank, layout, mean, std), fixed_batch)
    if features.ndim != 2 or features.dtype != np.float32:
        raise ContractError(
            f"{path}: gives {features.dtype} of shape {features.shape} for one tile; export a "
            "model that pools to one float32 vector (B, F)"
        )
    description = _description_of(path, session.get_modelmeta().custom_metadata_map)
    return TileModel(path, layout, features.shape[1], fixed_batch, mean, std, session, description)


def _description_of(path: Path, properties: Mapping[str, str]) -> Description | None:
    text = properties.get(DESCRIPTION)
    if text is None:
        return None
    try:
        return _parse(json.loads(text))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ContractError(
            f"{path}: its property {DESCRIPTION} cannot be read ({error}); export the encoder again"
        ) from error


def _parse(content: Any) -> Description:
    name, mpp = content["name"], content["mpp"]
    mean, std = (tuple(map(float, content[key])) for key in ("mean", "std"))
    if not isinstance(name, str) or not name or control_in(name):
        raise ValueError("name is not a text of one line")
    if len(mean) != _NORMALIZED or len(std) != _NORMALIZED or not all(map(math.isfinite, mean)):
        raise ValueError("mean and std are not three numbers each")
    if not all(value > 0 and math.isfinite(value) for value in std):
        raise ValueError("std is not positive")
    if mpp is not None and not (math.isfinite(float(mpp)) and float(mpp) > 0):
        raise ValueError("mpp is not positive")
    return Description(name, mean, std, None if mpp is None else float(mpp))


def _input_of(path: Path, session: Any) -> tuple[str, int | None]:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ContractError(
            f"{path}: {len(inputs)} inputs and {len(outputs)} outputs; a tile encoder has one each"
        )
    shape = list(inputs[0].shape)
    layout = _INPUTS.get((inputs[0].type, tuple(shape[1:])))
    if layout is None:
        raise ContractError(
            f"{path}: takes {inputs[0].type} of shape {shape}; export it for uint8 "
            f"(B, {TILE_PX}, {TILE_PX}, 3) or float32 (B, 3, {TILE_PX}, {TILE_PX})"
        )
    return layout, shape[0] if isinstance(shape[0], int) else None


def _to_input(
    tiles: NDArray[np.uint8], layout: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> NDArray[Any]:
    if layout == UINT8_NHWC:
        return tiles
    scale = 1 / (255 * np.array(std, np.float32))
    shift = np.array(mean, np.float32) / np.array(std, np.float32)
    normalized = tiles * scale - shift
    return np.ascontiguousarray(normalized.transpose(0, 3, 1, 2), np.float32)


def _encode(session: Any, images: NDArray[Any], fixed_batch: int | None) -> NDArray[np.float32]:
    if fixed_batch is None:
        return _run(session, images)
    parts = []
    for begin in range(0, len(images), fixed_batch):
        part = images[begin : begin + fixed_batch]
        missing = fixed_batch - len(part)
        padded = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
        parts.append(_run(session, padded)[: len(part)])
    return np.concatenate(parts)


def _run(session: Any, images: NDArray[Any]) -> NDArray[np.float32]:
    features: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return features
