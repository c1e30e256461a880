"""Quantize the image encoders to int8, calibrated on tiles of real slides."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from triplex_deploy.bundle import Target
from triplex_deploy.contract import TILE_PX, TILES, Config, graph_specs
from triplex_deploy.errors import ConfigError
from triplex_deploy.exporters.cost import multiplications
from triplex_deploy.exporters.inputs import SEED
from triplex_deploy.exporters.inputs import tiles as synthetic_tiles
from triplex_deploy.exporters.options import WEIGHT_BITS
from triplex_deploy.exporters.rounding import with_rounded_weights

MIN_TILES: Final = 32
"""Fewest tiles for a calibration."""
HELD_OUT: Final = 16
"""Number of tiles that do not calibrate; the quantized graphs must pass their gate on them."""
COSINES: Final = (0.992, 0.995, 0.9975)
"""Least cosines to the float graph, which an export tries in turn until its gates are passed."""
MIN_SHARE: Final = 0.9
"""Least share of a graph's multiplications that the search leaves in int8."""
_COMPARED: Final = 16
"""Number of tiles on which the search compares graphs."""
_ROUNDED_ON: Final = 8
"""Number of tiles of each kind that the rounding of weights uses."""
_BATCH: Final = 8
"""Number of tiles in a batch."""
_ONE_TILE: Final = {"batch": 1}
_ACTIVATIONS: Final = ("Relu", "Clip")
_QUANTIZED_OPS: Final = ("Conv", *_ACTIVATIONS, "Add", "MaxPool")
"""Operators to quantize. Activations are among them, so that the range of a convolution does not
include the values that its activation cuts off."""


def quantized_graphs(config: Config) -> tuple[str, ...]:
    """Return the names of the graphs that int8 quantizes.

    Raises:
        ConfigError: The model has none.
    """
    encoders = [name for name in config.quantizable if name in graph_specs(config)]
    if not encoders:
        raise ConfigError(
            f"precision int8: {config.model} has no convolutional encoder that may be quantized; "
            "use fp32 or fp16"
        )
    return tuple(encoders)


def split_calibration(tiles: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Split tiles (T, 224, 224, 3) into tiles for calibration and held-out tiles, spread evenly.

    Raises:
        ConfigError: The array has another type or shape, or too few tiles.
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


@dataclass(frozen=True)
class Quantization:
    """Holds how a graph was quantized."""

    weight_bits: int
    """Bits of the weights. With 8, a CPU without VNNI may overflow; with 7, it does not."""
    float_layers: tuple[str, ...]
    """Convolutions that stay in float, by the name of their weights, from the input on."""
    int8_share: float
    """Share of the multiplications of the graph that are in int8."""
    cosine: float
    """Cosine to the float graph, on calibration tiles or on synthetic tiles, the lower of both."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as in ``parity.json``."""
        return {**asdict(self), "float_layers": list(self.float_layers)}


def quantize(
    source: Path,
    tiles: NDArray[np.uint8],
    out: Path,
    target: Target = "onnxruntime",
    weight_bits: int = WEIGHT_BITS[0],
    min_cosine: float = COSINES[0],
) -> Quantization:
    """Write the int8 form of an image encoder.

    Args:
        source: The float graph.
        tiles: Tiles (T, 224, 224, 3) of tissue, which give the ranges of activations.
        out: The file to write.
        target: The runtime. For ONNX Runtime activations are uint8. TensorRT takes symmetric int8
            only, with a pair of nodes for each use.
        weight_bits: 8, or 7 for CPUs without VNNI.
        min_cosine: Least cosine to the float graph.

    Returns:
        Which layers stayed in float, and how close the result is to the float graph.
    """
    with Quantizer(source, tiles, target, weight_bits) as quantizer:
        return quantizer.write(out, min_cosine)


class Quantizer:
    """Writes int8 forms of one graph, and measures the ranges of its activations once."""

    def __init__(
        self,
        source: Path,
        tiles: NDArray[np.uint8],
        target: Target = "onnxruntime",
        weight_bits: int = WEIGHT_BITS[0],
    ) -> None:
        """Take the arguments of ``quantize``; use the object in a ``with`` block."""
        self._source, self._tiles = source, tiles
        self._target: Target = target
        self._weight_bits = weight_bits
        few = np.linspace(0, len(tiles) - 1, min(_COMPARED, len(tiles))).astype(int)
        synthetic = synthetic_tiles(
            (_COMPARED, TILE_PX, TILE_PX, 3), np.random.default_rng(SEED + 1)
        )
        self._compared = (tiles[few], synthetic)

    def __enter__(self) -> Quantizer:
        from onnxruntime.quantization import quant_pre_process

        self._scratch = tempfile.TemporaryDirectory()
        folder = Path(self._scratch.name)
        self._prepared, self._ranges = folder / "prepared.onnx", folder / "ranges.json"
        with _quiet():  # it also folds batch norms into the convolutions before them
            quant_pre_process(str(self._source), str(self._prepared), skip_symbolic_shape=True)
        self._layers = _Layers.read(self._prepared)
        self._wanted = [_run(self._prepared, tiles) for tiles in self._compared]
        self._rounded = folder / "rounded.onnx"
        tiles = np.concatenate(
            [part[:: max(1, len(part) // _ROUNDED_ON)] for part in self._compared]
        )
        levels = 127 if self._weight_bits == 8 or self._target == "tensorrt" else 64
        run = partial(_tensors, tiles=tiles)
        self._rounded.write_bytes(with_rounded_weights(self._prepared, run, levels))
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def write(self, out: Path, min_cosine: float) -> Quantization:
        """Write ``out`` with the fewest leading layers in float that give ``min_cosine``.

        The errors of the first layers pass through all other layers, so the first layers matter
        most. The first layer always stays in float. ONNX Runtime would quantize a float layer
        between quantized layers when it opens the file, so the float layers are next to each other.
        If the cosine cannot be reached with ``MIN_SHARE`` of the multiplications in int8, as many
        layers stay in float as this share allows.
        """
        fewest, most = 1, self._layers.most_in_float(MIN_SHARE)
        found = self._quantized(out, fewest)
        if found.cosine >= min_cosine or most <= fewest:
            return found
        fails, n_float = fewest, most
        found = self._quantized(out, most)
        while n_float - fails > 1 and found.cosine >= min_cosine:
            middle = (fails + n_float) // 2
            tried = self._quantized(out.with_suffix(".tried"), middle)
            if tried.cosine >= min_cosine:
                n_float, found = middle, tried
                out.with_suffix(".tried").replace(out)
            else:
                fails = middle
        out.with_suffix(".tried").unlink(missing_ok=True)
        return found

    def _quantized(self, out: Path, n_float: int) -> Quantization:
        from onnxruntime.quantization import QuantFormat, quantize_static

        options = _for_cpus(self._weight_bits) if self._target == "onnxruntime" else _for_tensorrt()
        with _quiet():
            quantize_static(
                str(self._rounded),
                str(out),
                _reader(self._tiles),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                nodes_to_exclude=self._layers.not_quantized(n_float),
                calibration_cache_path=self._ranges,
                **options,
            )
        cosines = [
            _cosine(_run(out, tiles), wanted)
            for tiles, wanted in zip(self._compared, self._wanted, strict=True)
        ]
        float_layers = self._layers.weights[:n_float]
        return Quantization(self._weight_bits, float_layers, int8_share(out), min(cosines))


def int8_share(path: Path) -> float:
    """Return the share of the multiplications of an image encoder that are in int8."""
    graph = onnx.load(path).graph
    dequantized = {
        name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output
    }
    counts = multiplications(path, _ONE_TILE)
    total = sum(count for _, count in counts)
    quantized = sum(count for node, count in counts if set(node.input[:2]) <= dequantized)
    return quantized / total


@dataclass(frozen=True)
class _Layers:
    """Holds the convolutions of a graph in the order in which they run."""

    nodes: tuple[str, ...]
    """Names of all nodes, in order."""
    begins: tuple[int, ...]
    """Index in ``nodes`` of each convolution."""
    weights: tuple[str, ...]
    """Name of the weights of each convolution, without ``.weight``."""
    shares: tuple[float, ...]
    """Share of the multiplications of the graph in each convolution."""
    end: int
    """Index in ``nodes`` after the last convolution and its activation."""

    @classmethod
    def read(cls, path: Path) -> _Layers:
        counts = multiplications(path, _ONE_TILE)
        total = sum(count for _, count in counts)
        of_node = {node.name: count / total for node, count in counts}
        nodes = onnx.load(path).graph.node
        begins = tuple(i for i, node in enumerate(nodes) if node.op_type == "Conv")
        after = nodes[begins[-1] + 1 :]
        has_activation = bool(after) and after[0].op_type in _ACTIVATIONS
        return cls(
            tuple(node.name for node in nodes),
            begins,
            tuple(nodes[i].input[1].removesuffix(".weight") for i in begins),
            tuple(of_node[nodes[i].name] for i in begins),
            begins[-1] + 1 + has_activation,
        )

    def most_in_float(self, min_share: float) -> int:
        """Return the largest number of leading float layers that leaves ``min_share`` in int8."""
        quantized = sum(self.shares) - np.cumsum(self.shares)
        return int((quantized >= min_share).sum())

    def not_quantized(self, n_float: int) -> list[str]:
        """Return the nodes before layer ``n_float``, and the nodes after the last layer."""
        begin = (*self.begins, self.end)[n_float]
        return [*self.nodes[:begin], *self.nodes[self.end :]]


def _tensors(
    model: bytes, names: list[str], *, tiles: NDArray[np.uint8]
) -> list[NDArray[np.float32]]:
    """Return the tensors of these names that a graph computes for tiles."""
    import onnxruntime

    found: list[NDArray[np.float32]] = onnxruntime.InferenceSession(model).run(
        names, {TILES.name: tiles}
    )
    return found


def _run(path: Path, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, batch)[0] for batch in _batches(tiles)])


def _cosine(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    a, b = found.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0


def _for_cpus(weight_bits: int) -> dict[str, Any]:
    from onnxruntime.quantization import QuantType

    return {
        "op_types_to_quantize": list(_QUANTIZED_OPS),
        "reduce_range": weight_bits < 8,
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
        """Gives the tiles to the calibrator in batches."""

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
    """Silence the warnings of the quantizer; errors are still raised."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    silent = logging.NullHandler()
    logging.root.addHandler(silent)  # without a handler, logging.warning() would add its own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.removeHandler(silent)
        logging.disable(level)
