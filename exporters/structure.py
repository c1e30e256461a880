"""Find which weights of a module the optimizer of a graph kept, so that it need not run again.

The optimizer keeps most weights as they are and transposes some. Which ones depends on the
structure alone, so the graph is optimized with two sets of random weights: what is equal in both is
a constant of the graph, and everything else must be a weight of the module, as it is or transposed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from torch import nn

from triplex_deploy.exporters.traces import tensors_of

Weights = Mapping[str, NDArray[Any]]
"""Parameters and buffers of a module by name."""
OPTIMIZED: Final = "optimized"
"""Note in a graph that needs no optimizer any more."""
SEEDS: Final = (1, 2)


def weights_of(module: nn.Module) -> dict[str, NDArray[Any]]:
    """Return the parameters and buffers of a module, shared ones under each name."""
    return {
        name: np.ascontiguousarray(tensor.detach().cpu().numpy())
        for name, tensor in tensors_of(module)
    }


def with_weights(graph: ModelProto, weights: Weights) -> ModelProto:
    """Return a copy of a graph whose initializers of these names have these values."""
    filled = ModelProto()
    filled.CopyFrom(graph)
    for initializer in filled.graph.initializer:
        if initializer.name in weights:
            initializer.CopyFrom(
                numpy_helper.from_array(weights[initializer.name], initializer.name)
            )
    return filled


def without_weights(graph: ModelProto, weights: Weights) -> ModelProto:
    """Return a copy of a graph whose initializers of these names are empty."""
    emptied = ModelProto()
    emptied.CopyFrom(graph)
    for initializer in emptied.graph.initializer:
        if initializer.name in weights:
            _empty(initializer, "")
    return emptied


def structure_of(
    trace: ModelProto, weights: Weights, optimize: Callable[[ModelProto], ModelProto]
) -> ModelProto | None:
    """Return the optimized graph with empty weights, each with a note of where it comes from.

    Args:
        trace: The graph before it is optimized; its initializers are named as the weights.
        weights: The weights of the module.
        optimize: Optimizes a graph.

    Returns:
        The graph for ``fill``; None if the optimizer computes with the weights, so that it must run
        again for others.
    """
    first, second = (_random(weights, seed) for seed in SEEDS)
    graph, other = (optimize(with_weights(trace, drawn)) for drawn in (first, second))
    if _without_values(graph) != _without_values(other):
        return None
    places = _places(first)
    for one, two in zip(graph.graph.initializer, other.graph.initializer, strict=True):
        value, second_value = numpy_helper.to_array(one), numpy_helper.to_array(two)
        if value.dtype == second_value.dtype and value.tobytes() == second_value.tobytes():
            continue
        place = places.get(_key(value))
        if place is None or _taken(second, *place).tobytes() != second_value.tobytes():
            return None
        _empty(one, json.dumps(place))
    graph.doc_string = OPTIMIZED
    return graph


def fill(graph: ModelProto, weights: Weights) -> None:
    """Put the weights of a module into a graph of ``structure_of``, which it changes."""
    graph.doc_string = ""
    for initializer in graph.graph.initializer:
        if initializer.doc_string:
            value = _taken(weights, *json.loads(initializer.doc_string))
            shape = tuple(initializer.dims)
            initializer.CopyFrom(numpy_helper.from_array(value.reshape(shape), initializer.name))


def _random(weights: Weights, seed: int) -> dict[str, NDArray[Any]]:
    """Return weights of the same shapes and types, in which hardly two values are alike."""
    random = np.random.default_rng(seed)
    drawn: dict[str, NDArray[Any]] = {}
    shared: dict[int, str] = {}
    for name, value in weights.items():
        first = shared.setdefault(value.__array_interface__["data"][0], name)
        if first != name and value.size and weights[first].shape == value.shape:
            drawn[name] = drawn[first]  # one tensor under two names stays one
        elif value.dtype.kind == "f":
            drawn[name] = random.uniform(0.5, 1.5, value.shape).astype(value.dtype)
        elif value.dtype.kind == "b":
            drawn[name] = value ^ (seed == SEEDS[0])
        else:
            drawn[name] = value if seed == SEEDS[0] else _other(value)
    return drawn


def _other(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return other whole numbers of the same range, as they may be places in another tensor."""
    if not numbers.size or numbers.min() == numbers.max():
        return numbers + 1
    swapped: NDArray[Any] = numbers.max() + numbers.min() - numbers
    return swapped


def _places(weights: Weights) -> dict[tuple[str, bytes], tuple[str, bool]]:
    """Return the name of each weight, and whether it is transposed, by its values."""
    places: dict[tuple[str, bytes], tuple[str, bool]] = {}
    for name in weights:
        for transposed in (False, True) if weights[name].ndim == 2 else (False,):
            places.setdefault(_key(_taken(weights, name, transposed)), (name, transposed))
    return places


def _taken(weights: Weights, name: str, transposed: bool) -> NDArray[Any]:
    return np.ascontiguousarray(weights[name].T) if transposed else weights[name]


def _key(value: NDArray[Any]) -> tuple[str, bytes]:
    return value.dtype.str, value.tobytes()


def _without_values(graph: ModelProto) -> bytes:
    copy = ModelProto()
    copy.CopyFrom(graph)
    for initializer in copy.graph.initializer:
        _empty(initializer, "")
    return bytes(copy.SerializeToString(deterministic=True))


def _empty(initializer: TensorProto, note: str) -> None:
    initializer.CopyFrom(
        TensorProto(
            name=initializer.name,
            data_type=initializer.data_type,
            dims=initializer.dims,
            doc_string=note,
        )
    )
