"""Write the ONNX tile encoder of a user as the graph ``tile_encoder`` of a bundle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

from triplex_deploy.contract import TILES, GraphSpec
from triplex_deploy.errors import CheckpointError
from triplex_deploy.models import TileEncoderWeights
from triplex_deploy.runtime.tile_model import TileModel, open_tile_model

_KINDS: Final = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
_PREFIX: Final = "encoder/"
"""Put before every name of the file, because names of the contract may mean other tensors in it."""


def open_onnx_encoder(weights: TileEncoderWeights) -> TileModel:
    """Open the file as training does.

    Raises:
        CheckpointError: The file takes a fixed number of tiles.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tile_encoder.onnx"
        path.write_bytes(weights.onnx)
        model = open_tile_model(path, mean=weights.mean, std=weights.std)
    if model.fixed_batch is not None:
        raise CheckpointError(
            f"tile encoder {weights.name}: takes exactly {model.fixed_batch} tiles; export it with "
            "a dynamic batch axis, prepare and train again"
        )
    return model


def write_onnx_encoder(
    weights: TileEncoderWeights, spec: GraphSpec, metadata: dict[str, str], path: Path
) -> None:
    """Write the graph with the input and output of the contract.

    If the file takes float images, the graph scales and normalizes the bytes first.

    Args:
        weights: The tile encoder, of kind ``onnx``.
        spec: The graph ``tile_encoder`` of the contract.
        metadata: Properties to store in the file, in addition to its own.
        path: The file to write.
    """
    proto = onnx.compose.add_prefix(onnx.load_model_from_string(weights.onnx), _PREFIX)
    graph = proto.graph
    constants = {tensor.name for tensor in graph.initializer}
    (taken,) = (value for value in graph.input if value.name not in constants)
    given = graph.output[0].name
    takes_floats = taken.type.tensor_type.elem_type == TensorProto.FLOAT
    before = _normalize(taken.name) if takes_floats else [_same(TILES.name, taken.name)]
    nodes = [*before, *graph.node, _same(given, spec.outputs[0].name)]
    for field in (graph.node, graph.input, graph.output, graph.value_info):
        del field[:]
    graph.node.extend(nodes)
    if takes_floats:
        graph.initializer.extend(_statistics(weights))
    graph.input.extend(_value(tensor) for tensor in spec.inputs)
    graph.output.extend(_value(tensor) for tensor in spec.outputs)
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    helper.set_model_props(proto, properties | metadata)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _normalize(image: str) -> list[Any]:
    """Return nodes from uint8 (B, H, W, 3) to the float image (B, 3, H, W) that the file takes."""
    return [
        helper.make_node("Cast", [TILES.name], ["float_tiles"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float_tiles", "tile_mean"], ["centered_tiles"]),
        helper.make_node("Div", ["centered_tiles", "tile_std"], ["normalized_tiles"]),
        helper.make_node("Transpose", ["normalized_tiles"], [image], perm=[0, 3, 1, 2]),
    ]


def _statistics(weights: TileEncoderWeights) -> list[Any]:
    """Return the mean and standard deviation of the bytes of each channel, (3,), as constants."""
    return [
        numpy_helper.from_array(255 * np.array(values, np.float32), name)
        for name, values in (("tile_mean", weights.mean), ("tile_std", weights.std))
    ]


def _same(given: str, taken: str) -> Any:
    return helper.make_node("Identity", [given], [taken])


def _value(tensor: Any) -> Any:
    return helper.make_tensor_value_info(tensor.name, _KINDS[tensor.dtype], list(tensor.axes))
