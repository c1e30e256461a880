"""ONNX Runtime's attention operator taken apart into products and a softmax.

TensorRT does not know the operator, and fuses the parts itself.
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


def take_attention_apart(model: ModelProto) -> None:
    """Change ``model`` to standard operators.

    Only attention in the form our exporter writes, on packed heads (1, N, D) without bias or mask,
    can be; another raises ``ContractError``.
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
    """softmax(Q Kt / sqrt(d)) V over the heads of one attention node."""

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
        """Append a node; returns the name of its result."""
        name = f"{self._prefix}_{len(self.nodes)}_{kind.lower()}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"node_{name}", **attributes))
        return name

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(array, f"{self._prefix}_{name}"))
        return f"{self._prefix}_{name}"


def _widths(model: ModelProto) -> dict[str, int]:
    """Length of the last axis of every tensor, 0 where it is not known."""
    inferred = shape_inference.infer_shapes(model).graph
    tensors = [*inferred.value_info, *inferred.input]
    return {
        tensor.name: axes[-1].dim_value
        for tensor in tensors
        if (axes := tensor.type.tensor_type.shape.dim)
    }


def _copy(node: NodeProto) -> NodeProto:
    """Nodes taken out of a graph are gone with it; a copy stays."""
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy
