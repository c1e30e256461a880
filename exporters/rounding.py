"""Round the weights of 1 x 1 convolutions so that the errors of a channel cancel (GPTQ).

Rounding to the nearest step ignores that the inputs of a layer are correlated. Here the weights are
rounded one after another, and the weights that are not rounded yet compensate the error (Frantar
et al. 2023, arXiv:2210.17323).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

_DAMPING: Final = 0.01
"""Share of the mean square of the inputs that is added to each square, so that none is zero."""
Floats = NDArray[np.float64]


RunGraph = Callable[[bytes, list[str]], list[NDArray[np.float32]]]
"""Returns the tensors of these names that the content of an ONNX file computes."""


def with_rounded_weights(path: Path, run: RunGraph, levels: int) -> bytes:
    """Return an image encoder with the weights of its 1 x 1 convolutions rounded for int8.

    The first convolution and grouped convolutions are not changed.

    Args:
        path: The float graph.
        run: Runs a graph on tiles, to get the inputs of each convolution.
        levels: Number of steps on each side of zero, 127 for 8 bits.

    Returns:
        The content of an ONNX file.
    """
    model = onnx.load(path)
    stored = {weight.name: weight for weight in model.graph.initializer}
    layers = {
        node.input[1]: node.input[0]
        for node in list(model.graph.node)[_stem_end(model) :]
        if node.op_type == "Conv"
        and list(stored[node.input[1]].dims[2:]) == [1, 1]
        and not any(a.name == "group" and a.i > 1 for a in node.attribute)
    }
    present = {output.name for output in model.graph.output}
    names = list(dict.fromkeys(layers.values()))
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in present
    )
    values = dict(zip(names, run(watched.SerializeToString(), names), strict=True))
    weights = {name: onnx.numpy_helper.to_array(stored[name]) for name in layers}
    inputs = {name: values[layer] for name, layer in layers.items()}
    for name, array in _rounded_layers(weights, inputs, levels).items():
        stored[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
    return bytes(model.SerializeToString())


def _stem_end(model: onnx.ModelProto) -> int:
    """Return the index of the node after the first convolution."""
    return 1 + next(i for i, node in enumerate(model.graph.node) if node.op_type == "Conv")


def round_weights(weights: NDArray[np.float32], inputs: Floats, levels: int) -> NDArray[np.float32]:
    """Return weights (O, I) rounded to a symmetric quantization for each output channel.

    Args:
        weights: Weights (O, I) of a layer.
        inputs: Mean products (I, I) of the inputs of the layer.
        levels: Number of steps on each side of zero, 127 for 8 bits.

    Returns:
        Weights with the same largest value in each channel, so that the steps stay the same.
    """
    rest = weights.astype(np.float64)
    largest = np.abs(rest).argmax(axis=1)
    rows = np.arange(len(rest))
    scale = np.maximum(np.abs(rest[rows, largest]), 1e-30) / levels
    upper = _inverse_root(inputs)
    rounded = np.empty_like(rest)
    for column in range(rest.shape[1]):
        steps = np.clip(np.rint(rest[:, column] / scale), -levels, levels)
        steps = np.where(largest == column, levels * np.sign(weights[:, column]), steps)
        rounded[:, column] = steps * scale
        error = (rest[:, column] - rounded[:, column]) / upper[column, column]
        rest[:, column + 1 :] -= np.outer(error, upper[column, column + 1 :])
    return rounded.astype(np.float32)


def _inverse_root(inputs: Floats) -> Floats:
    """Return the upper Cholesky factor of the inverse of the damped ``inputs``."""
    damping = max(_DAMPING * float(np.diag(inputs).mean()), 1e-12)
    inverse = np.linalg.inv(inputs + damping * np.eye(len(inputs)))
    factor: NDArray[Any] = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return factor.astype(np.float64)


def mean_products(values: NDArray[np.float32], most: int = 20_000) -> Floats:
    """Return the mean products (I, I) of the channels of feature maps (B, I, H, W).

    If the maps have more than ``most`` positions, an even selection of them is used.
    """
    places = values.transpose(0, 2, 3, 1).reshape(-1, values.shape[1])
    some = places[:: max(1, len(places) // most)].astype(np.float64)
    products: Floats = some.T @ some / len(some)
    return products


def _rounded_layers(
    weights: Mapping[str, NDArray[np.float32]],
    inputs: Mapping[str, NDArray[np.float32]],
    levels: int,
) -> dict[str, NDArray[np.float32]]:
    """Return rounded weights (O, I, 1, 1); ``inputs`` are feature maps (B, I, H, W) of each."""
    return {
        name: round_weights(values[:, :, 0, 0], mean_products(inputs[name]), levels)[
            :, :, None, None
        ]
        for name, values in weights.items()
    }
