"""Graphs written for ONNX Runtime in the form that TensorRT takes; they compute the same after."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto

from triplex_deploy.exporters.plain_attention import take_attention_apart


def to_standard(model: ModelProto) -> None:
    """Change ``model`` to standard operators that TensorRT reads."""
    take_attention_apart(model)
    cast_bytes_first(model)


def cast_bytes_first(model: ModelProto) -> None:
    """Exchange ``Transpose(uint8)`` and the ``Cast`` after it: TensorRT casts bytes, no more.

    Changes ``model``. ONNX Runtime keeps the other order, which moves a quarter of the bytes.
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
