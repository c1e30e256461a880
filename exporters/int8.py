"""Quantize the image encoders to int8, calibrated on tiles of real slides."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bundle import Target
from triplex_deploy.contract import TILE_PX, TILES, Config, graph_specs
from triplex_deploy.errors import ConfigError

MIN_TILES: Final = 32
HELD_OUT: Final = 16
"""Tiles that are not used for calibration; the quantized graphs must pass their gate on them."""
_BATCH: Final = 8
_QUANTIZED_OPS: Final = ("Conv", "Relu", "Clip", "Add", "MaxPool")
"""Activations are included, so that the values they cut off do not widen a convolution's range."""


def quantized_graphs(config: Config) -> tuple[str, ...]:
    """Return the graphs that int8 quantizes; raises ``ConfigError`` if the model has none."""
    encoders = [name for name in config.quantizable if name in graph_specs(config)]
    if not encoders:
        raise ConfigError(
            f"precision int8: {config.model} has no convolutional encoder that may be quantized; "
            "use fp32 or fp16"
        )
    return tuple(encoders)


def split_calibration(tiles: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Split tiles (T, 224, 224, 3) into tiles for calibration and held-out tiles.

    The held-out tiles are spread evenly. Raises ``ConfigError`` for other arrays and for too few
    tiles.
    """
    if tiles.dtype != np.uint8 or tiles.shape[1:] != (TILE_PX, TILE_PX, 3):
        raise ConfigError(f"calibration: {tiles.dtype} {tiles.shape}; give uint8 (T, 224, 224, 3)")
    if len(tiles) < MIN_TILES:
        raise ConfigError(
            f"calibration: {len(tiles)} tiles on tissue; give slides with at least {MIN_TILES}"
        )
    held = np.zeros(len(tiles), bool)
    held[np.linspace(0, len(tiles) - 1, HELD_OUT).astype(int)] = True
    return tiles[~held], tiles[held]


def quantize(
    source: Path, tiles: NDArray[np.uint8], out: Path, target: Target = "onnxruntime"
) -> None:
    """Write ``source``'s int8 form for ``target``, its weights per channel.

    Activation ranges come from ``tiles`` (T, 224, 224, 3). For ONNX Runtime activations are uint8,
    and weights limited to 7 bits, without which CPUs that lack VNNI overflow (its
    ``reduce_range``). TensorRT takes symmetric int8 alone, a pair of its own for each use.
    """
    from onnxruntime.quantization import QuantFormat, quant_pre_process, quantize_static

    with tempfile.TemporaryDirectory(dir=out.parent) as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(out),
            _reader(tiles),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            **(_for_cpus() if target == "onnxruntime" else _for_tensorrt()),
        )


def _for_cpus() -> dict[str, Any]:
    from onnxruntime.quantization import QuantType

    return {
        "op_types_to_quantize": list(_QUANTIZED_OPS),
        "reduce_range": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
    }


def _for_tensorrt() -> dict[str, Any]:
    from onnxruntime.quantization import QuantType

    return {
        "op_types_to_quantize": ["Conv", "Add"],
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "extra_options": {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "DedicatedQDQPair": True,
        },
    }


def _reader(tiles: NDArray[np.uint8]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class TileReader(CalibrationDataReader):  # type: ignore[misc]
        """Hands the tiles to the calibrator in batches."""

        def __init__(self) -> None:
            self._batches = _batches(tiles)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self._batches, None)

    return TileReader()


def _batches(tiles: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[np.uint8]]]:
    for begin in range(0, len(tiles), _BATCH):
        yield {TILES.name: tiles[begin : begin + _BATCH]}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer's warnings; its errors still raise."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
