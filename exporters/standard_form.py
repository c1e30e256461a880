"""Change graphs for ONNX Runtime to the standard operators that TensorRT reads.

The changed graphs compute the same. TensorRT does not have the attention operator of ONNX Runtime,
but fuses the products and the softmax that replace it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
    shape_inference,
)

from triplex_deploy.errors import ContractError

ATTENTION: Final = "MultiHeadAttention"
MOST_SCORES: Final = 2**29
"""Most scores of attention that exist at once: 2.1 GB in fp32, a quarter of what TensorRT takes."""
MAX_BLOCKS: Final = 64
"""Most blocks of queries, so that a file does not grow without end."""
_HEADS_FIRST: Final = [0, 2, 1, 3]
_KEYS_LAST: Final = [0, 2, 3, 1]


def to_standard(model: ModelProto, longest: int = 1) -> None:
    """Change ``model`` to the standard operators that TensorRT reads.

    Args:
        model: The graph.
        longest: Most rows of attention, for ``decompose_attention``.
    """
    decompose_attention(model, longest)
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


def decompose_attention(model: ModelProto, longest: int = 1) -> None:
    """Replace each ``MultiHeadAttention`` of ``model`` by matrix products and a softmax.

    The scores of N rows are heads x N x N numbers. If they are more than ``MOST_SCORES``, the
    queries are taken in blocks, one after the other. Each row of the softmax is complete in its
    block, so the result is the same. Changes ``model``.

    Args:
        model: The graph.
        longest: Largest N, which decides the number of blocks.

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
            parts = _Parts(node, widths, longest, _rows_of(graph))
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

    def __init__(self, node: NodeProto, widths: dict[str, int], longest: int, rows_of: str) -> None:
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
        scaled = self._add("Mul", [query, scale])
        blocks = min(MAX_BLOCKS, -(-heads * longest**2 // MOST_SCORES))
        if blocks > 1:
            mixed = self._mixed_in_blocks(scaled, key, value, blocks, rows_of)
        else:
            mixed = self._mixed(scaled, key, value)
        merged = self._constant("merged", np.array([0, 0, width], np.int64))
        ordered = self._add("Transpose", [mixed], perm=_HEADS_FIRST)
        self._add("Reshape", [ordered, merged])
        self.nodes[-1].output[0] = node.output[0]

    def _mixed(self, query: str, key: str, value: str) -> str:
        scores = self._add("MatMul", [query, key])
        return self._add("MatMul", [self._add("Softmax", [scores], axis=-1), value])

    def _mixed_in_blocks(self, query: str, key: str, value: str, blocks: int, rows_of: str) -> str:
        """Mix the values for each block of queries (1, heads, ceil(N / blocks), d) in turn.

        Rows of zeros fill the last block, so that no block is empty, and are cut off at the end.
        """
        one, count = self._numbers("one", 1), self._numbers("blocks", blocks)
        zeros, axis = self._numbers("zeros", 0, 0, 0, 0, 0, 0), self._numbers("axis", 2)
        rows = self._add("Shape", [rows_of], start=0, end=1)
        above = self._add("Sub", [self._add("Add", [rows, count]), one])
        block = self._add("Div", [above, count])
        missing = self._add("Sub", [self._add("Mul", [block, count]), rows])
        pads = self._add("Concat", [zeros, missing, self._numbers("zero", 0)], axis=0)
        padded = self._add("Pad", [query, pads])
        mixed = []
        for i in range(blocks):
            start = self._add("Mul", [block, self._numbers(f"start{i}", i)])
            part = self._add("Slice", [padded, start, self._add("Add", [start, block]), axis])
            mixed.append(self._mixed(part, key, value))
        whole = self._add("Concat", mixed, axis=2)
        return self._add("Slice", [whole, self._numbers("first", 0), rows, axis])

    def _numbers(self, name: str, *numbers: int) -> str:
        return self._constant(name, np.array(numbers, np.int64))

    def _add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node and return the name of its result."""
        name = f"{self._prefix}_{len(self.nodes)}_{kind.lower()}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"node_{name}", **attributes))
        return name

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(array, f"{self._prefix}_{name}"))
        return f"{self._prefix}_{name}"


def _rows_of(graph: GraphProto) -> str:
    """Return the name of an input whose first axis has the rows of the attention."""
    for tensor in graph.input:
        axes = tensor.type.tensor_type.shape.dim
        if axes and axes[0].dim_param:
            return str(tensor.name)
    return ""  # of fixed size


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
