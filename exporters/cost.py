"""Count floating-point operations and memory traffic of an ONNX graph from its file.

A multiplication and its addition are two operations. Only matrix products, convolutions and
attention count as operations; what runtimes fuse into them (bias, activation, scaling) is free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    numpy_helper,
    shape_inference,
)
from onnx.reference import ReferenceEvaluator

from triplex_deploy.errors import ContractError

Shape = tuple[int, ...]


class GraphCost(NamedTuple):
    """Holds the work of one run at one size."""

    flops: int
    """Floating-point operations."""
    traffic_bytes: int
    """Bytes that operators read and write, without operators that runtimes fuse into others."""


def graph_cost(path: str | Path, sizes: Mapping[str, int]) -> GraphCost:
    """Return the cost of one run.

    Args:
        path: The ONNX file.
        sizes: Length of each dynamic axis (``batch``, ``spots``).

    Raises:
        ContractError: The file is no ONNX graph, an axis is not in ``sizes``, or the shape of
            a counted tensor is unknown.
    """
    graph = _Graph.read(Path(path), sizes)
    flops = traffic = 0
    for node in graph.nodes:
        operations = _FLOPS.get(node.op_type)
        if operations is None and node.op_type not in _PASSES:
            continue
        if operations is not None:
            shapes = [graph.shape(name) for name in node.input if name]
            flops += operations(node, shapes, graph.shape(node.output[0]))
        traffic += _traffic(node, graph)
    return GraphCost(flops, traffic)


def multiplications(path: str | Path, sizes: Mapping[str, int]) -> list[tuple[NodeProto, int]]:
    """Return each node that multiplies, and the number of its multiplications in one run.

    Takes and raises what ``graph_cost`` does.
    """
    graph = _Graph.read(Path(path), sizes)
    counts = []
    for node in graph.nodes:
        if operations := _FLOPS.get(node.op_type):
            shapes = [graph.shape(name) for name in node.input if name]
            counts.append((node, operations(node, shapes, graph.shape(node.output[0])) // 2))
    return counts


class LargestTensor(NamedTuple):
    """Holds the tensor of a graph with the most elements at one size."""

    name: str
    """Its name in the file."""
    elements: int
    """Its number of elements."""
    n_bytes: int
    """Its size in memory."""


def largest_tensor(path: str | Path, sizes: Mapping[str, int]) -> LargestTensor:
    """Return the largest tensor that an operator of a file writes; weights do not count.

    Takes and raises what ``graph_cost`` does. A runtime may fuse operators, and then never stores
    the tensors between them.
    """
    graph = _Graph.read(Path(path), sizes)
    made = [name for node in graph.nodes for name in node.output if name in graph.shapes]
    name = max(made, key=lambda name: math.prod(graph.shapes[name]))
    elements = math.prod(graph.shapes[name])
    return LargestTensor(name, elements, math.ceil(elements * graph.itemsizes[name]))


def _traffic(node: NodeProto, graph: _Graph) -> int:
    read = [graph.stored_bytes(name) for name in node.input if name]
    written = [graph.stored_bytes(name) for name in node.output if name and graph.is_used(name)]
    if node.op_type == "Gather":
        read[0] = written[0]  # only the rows it takes
    return sum(read) + sum(written)


def _matmul(_: NodeProto, inputs: Sequence[Shape], output: Shape) -> int:
    return 2 * math.prod(output) * inputs[0][-1]


def _gemm(node: NodeProto, inputs: Sequence[Shape], output: Shape) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * math.prod(output) * inputs[0][0 if transposed else 1]


def _conv(_: NodeProto, inputs: Sequence[Shape], output: Shape) -> int:
    return 2 * math.prod(output) * math.prod(inputs[1][1:])


def _attention(_: NodeProto, inputs: Sequence[Shape], __: Shape) -> int:
    """Return the operations of the scores and the weighted sum.

    The query is (B, Q, D) and the key (B, K, D), with heads packed or split.
    """
    query, key = inputs[:2]
    return 4 * math.prod(query) * key[-2]


_FLOPS: Final[Mapping[str, Callable[[NodeProto, Sequence[Shape], Shape], int]]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "MultiHeadAttention": _attention,
    "Attention": _attention,
}
_PASSES: Final = (
    "Gather",
    "LayerNormalization",
    "Softmax",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "ReduceMean",
)
"""Operators that read and write their tensors and compute little."""


_INTEGERS: Final = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


@dataclass(frozen=True)
class _Graph:
    """Holds the nodes of a file with the shape and element size of every tensor."""

    path: Path
    """The file, for errors."""
    nodes: tuple[NodeProto, ...]
    """The nodes in order."""
    shapes: Mapping[str, Shape]
    """Shape of each tensor by name, if it is known."""
    itemsizes: Mapping[str, float]
    """Bytes of an element of each tensor."""
    makers: Mapping[str, NodeProto]
    """The node that writes each tensor."""
    users: Mapping[str, list[NodeProto]]
    """The nodes that read each tensor; a graph output counts as a node."""

    @classmethod
    def read(cls, path: Path, sizes: Mapping[str, int]) -> _Graph:
        model = _load(path)
        nodes = tuple(_copies(model.graph.node))
        inferred = _infer(model, path, sizes)
        users: dict[str, list[NodeProto]] = {}
        for node in nodes:
            for name in node.input:
                users.setdefault(name, []).append(node)
        for tensor in inferred.output:
            users.setdefault(tensor.name, []).append(NodeProto(op_type="output"))
        makers = {name: node for node in nodes for name in node.output}
        shapes, itemsizes = _tensors(inferred)
        return cls(path, nodes, shapes, itemsizes, makers, users)

    def shape(self, name: str) -> Shape:
        if name not in self.shapes:
            raise ContractError(
                f"{self.path}: the shape of {name} is unknown; "
                "its cost cannot be counted, export it with fixed shapes"
            )
        return self.shapes[name]

    def is_used(self, name: str) -> bool:
        return name in self.users

    def stored_bytes(self, name: str) -> int:
        """Return the bytes of a tensor in memory.

        A tensor between QuantizeLinear and DequantizeLinear is only stored quantized.
        """
        return math.ceil(math.prod(self.shape(name)) * self.itemsizes[self._kept_as(name)])

    def _kept_as(self, name: str) -> str:
        maker = self.makers.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            return str(maker.input[0])
        users = self.users.get(name, [])
        while len(users) == 1 and users[0].op_type in ("Relu", "Clip", "QuantizeLinear"):
            if users[0].op_type == "QuantizeLinear":
                return str(users[0].output[0])
            users = self.users.get(users[0].output[0], [])
        return name


def _load(path: Path) -> ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's error for a file that is no ONNX has no public base
        raise ContractError(
            f"{path}: cannot be read as ONNX ({error}); export the bundle again"
        ) from error


def _copies(nodes: Iterable[NodeProto]) -> Iterable[NodeProto]:
    return map(_copy, nodes)


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _infer(model: ModelProto, path: Path, sizes: Mapping[str, int]) -> GraphProto:
    """Return the graph with every shape that follows from ``sizes``; changes ``model``."""
    graph = model.graph
    for tensor in graph.input:
        for axis in tensor.type.tensor_type.shape.dim:
            if not axis.HasField("dim_value"):
                if axis.dim_param not in sizes:
                    raise ContractError(
                        f"{path}: axis {axis.dim_param!r} of {tensor.name} has no size; pass a size"
                    )
                axis.dim_value = sizes[axis.dim_param]
    _fold_integers(graph)
    del graph.value_info[:]
    for tensor in graph.output:
        tensor.type.tensor_type.ClearField("shape")
    for node in graph.node:
        if node.op_type == "MultiHeadAttention":  # unknown to ONNX; shaped like its query
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.attribute[:]
    return shape_inference.infer_shapes(model, data_prop=True).graph


def _fold_integers(graph: GraphProto) -> None:
    """Replace what follows from the fixed sizes by constants, such as the rows of a block of spots.

    Changes ``graph``. Shapes that depend on such numbers are not inferred otherwise.
    """
    known = {
        weight.name: numpy_helper.to_array(weight)
        for weight in graph.initializer
        if weight.data_type in _INTEGERS
    }
    shapes = {tensor.name: tensor.type.tensor_type.shape.dim for tensor in graph.input}
    left = []
    for node in graph.node:
        made = _integers(node, known, shapes)
        if made is None:
            left.append(_copy(node))
        else:
            known[node.output[0]] = made
            graph.initializer.append(numpy_helper.from_array(made, node.output[0]))
    del graph.node[:]
    graph.node.extend(left)


def _integers(
    node: NodeProto, known: Mapping[str, NDArray[Any]], shapes: Mapping[str, Any]
) -> NDArray[Any] | None:
    """Return the output of a node that follows from known integers, None for another node."""
    if node.op_type == "Shape" and node.input[0] in shapes:
        axes = [axis.dim_value for axis in shapes[node.input[0]]]
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        return np.array(axes[ends.get("start", 0) : ends.get("end", len(axes))], np.int64)
    is_known = all(name in known for name in node.input if name)
    if node.domain or len(node.output) != 1 or not (is_known and any(node.input)):
        return None
    (made,) = ReferenceEvaluator(node).run(None, {name: known[name] for name in node.input if name})
    array = np.asarray(made)
    return array if array.dtype.kind in "iub" else None


def _tensors(graph: GraphProto) -> tuple[dict[str, Shape], dict[str, float]]:
    """Return shapes, if completely known, and bytes per element, by tensor name."""
    shapes: dict[str, Shape] = {}
    itemsizes: dict[str, float] = {}
    for weight in graph.initializer:
        shapes[weight.name] = tuple(weight.dims)
        itemsizes[weight.name] = _itemsize(weight.data_type)
    known: list[ValueInfoProto] = [*graph.input, *graph.output, *graph.value_info]
    for tensor in known:
        kind = tensor.type.tensor_type
        axes = kind.shape.dim
        if kind.HasField("shape") and all(axis.HasField("dim_value") for axis in axes):
            shapes[tensor.name] = tuple(axis.dim_value for axis in axes)
            itemsizes[tensor.name] = _itemsize(kind.elem_type)
    return shapes, itemsizes


def _itemsize(element: int) -> float:
    """Return the bytes of an element; types of less than a byte are packed."""
    if element in (TensorProto.INT4, TensorProto.UINT4):
        return 0.5
    return float(onnx.helper.tensor_dtype_to_np_dtype(element).itemsize)
