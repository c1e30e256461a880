"""Change graphs for ONNX Runtime to the standard operators that TensorRT reads.

The changed graphs compute the same. TensorRT does not have the attention operator of ONNX Runtime,
but fuses the products and the softmax that replace it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from triplex_deploy.errors import ContractError

ATTENTION: Final = "MultiHeadAttention"
_HEADS_FIRST: Final = [0, 2, 1, 3]
_KEYS_LAST: Final = [0, 2, 3, 1]


def to_standard(model: ModelProto) -> None:
    """Change ``model`` to the standard operators that TensorRT reads."""
    decompose_attention(model)
    cast_bytes_first(model)


def cast_bytes_first(model: ModelProto) -> None:
    """Exchange ``Transpose(uint8)`` and the ``Cast`` after it.

    Changes ``model``. TensorRT accepts no operator on bytes except the cast. The graphs for ONNX
    Runtime keep the other order, which moves a quarter of the bytes.
    """
    graph = model.graph
    bytes_in = {
        tensor.name
        for tensor in graph.input
        if tensor.type.tensor_type.elem_type == TensorProto.UINT8
    }
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in bytes_in:
            _exchange(node, [other for other in graph.node if node.output[0] in other.input])
    moved = {node.output[0] for node in graph.node if node.input and node.input[0] in bytes_in}
    kept = [tensor for tensor in graph.value_info if tensor.name not in moved]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _exchange(transpose: NodeProto, followers: list[NodeProto]) -> None:
    if len(followers) != 1 or followers[0].op_type != "Cast":
        return
    cast, before = followers[0], NodeProto()
    before.CopyFrom(transpose)
    output = cast.output[0]
    transpose.CopyFrom(cast)
    transpose.input[0], transpose.output[0] = before.input[0], before.output[0]
    cast.CopyFrom(before)
    cast.input[0], cast.output[0] = transpose.output[0], output


def decompose_attention(model: ModelProto) -> None:
    """Replace each ``MultiHeadAttention`` of ``model`` by matrix products and a softmax.

    Changes ``model``.

    Raises:
        ContractError: The operator has a bias, a mask or another form that this release does not
            write: packed heads (1, N, D) alone.
    """
    graph = model.graph
    if all(node.op_type != ATTENTION for node in graph.node):
        return
    widths = _widths(model)
    nodes: list[NodeProto] = []
    for node in [_copy(node) for node in graph.node]:
        if node.op_type == ATTENTION:
            parts = _Parts(node, widths)
            nodes += parts.nodes
            graph.initializer.extend(parts.constants)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    for i, opset in enumerate(model.opset_import):
        if opset.domain == "com.microsoft":
            del model.opset_import[i]
            break


class _Parts:
    """The nodes for softmax(Q Kt / sqrt(d)) V over the heads of one attention node."""

    def __init__(self, node: NodeProto, widths: dict[str, int]) -> None:
        if len(node.input) != 3 or [attribute.name for attribute in node.attribute] != [
            "num_heads"
        ]:
            raise ContractError(f"{node.name}: attention of another form; export with this release")
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._prefix = node.output[0]
        heads = int(node.attribute[0].i)
        width = widths[node.input[0]]
        if not width:
            raise ContractError(f"{node.name}: attention of unknown width; export it again")
        split = self._constant("split", np.array([0, 0, heads, width // heads], np.int64))
        query, key, value = (
            self._add("Transpose", [self._add("Reshape", [packed, split])], perm=order)
            for packed, order in zip(
                node.input, (_HEADS_FIRST, _KEYS_LAST, _HEADS_FIRST), strict=True
            )
        )
        scale = self._constant("scale", np.array(1 / math.sqrt(width // heads), np.float32))
        scores = self._add("MatMul", [self._add("Mul", [query, scale]), key])
        mixed = self._add("MatMul", [self._add("Softmax", [scores], axis=-1), value])
        merged = self._constant("merged", np.array([0, 0, width], np.int64))
        ordered = self._add("Transpose", [mixed], perm=_HEADS_FIRST)
        self._add("Reshape", [ordered, merged])
        self.nodes[-1].output[0] = node.output[0]

    def _add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node and return the name of its result."""
        name = f"{self._prefix}_{len(self.nodes)}_{kind.lower()}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"node_{name}", **attributes))
        return name

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(array, f"{self._prefix}_{name}"))
        return f"{self._prefix}_{name}"


def _widths(model: ModelProto) -> dict[str, int]:
    """Return the length of the last axis of every tensor, 0 if it is not known."""
    inferred = shape_inference.infer_shapes(model).graph
    tensors = [*inferred.value_info, *inferred.input]
    return {
        tensor.name: axes[-1].dim_value
        for tensor in tensors
        if (axes := tensor.type.tensor_type.shape.dim)
    }


def _copy(node: NodeProto) -> NodeProto:
    """Return a copy of a node, which stays valid after the node is removed from its graph."""
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy
