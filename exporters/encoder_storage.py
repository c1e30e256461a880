"""Hold the weights of a graph in 16 or 8 bits, so that a large encoder fits into one ONNX file.

The graph computes in fp32 as before: each weight is widened where it is used. Runtimes widen
weights of 16 bits once, when they load the file.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir
from numpy.typing import NDArray

WEIGHT_BITS: Final = (32, 16, 8)
"""Bits in which a file may hold a weight."""
SMALLEST: Final = 4096
"""Number of values below which a weight stays in 32 bits: bias, scale, statistics of pixels."""
_OPSET_DOMAIN: Final = ""


def store_weights(model: onnx_ir.Model, bits: int) -> None:
    """Change how ``model`` holds its float weights.

    Matrices of products have 8 bits with a scale for each output; other weights have 16 then,
    among them the embedding of patches, which sees the pixels.

    Args:
        model: The model, which is changed.
        bits: One of ``WEIGHT_BITS``.
    """
    if bits == WEIGHT_BITS[0]:
        return
    graph = model.graph
    first = next(iter(graph))
    for weight in list(graph.initializers.values()):
        held = weight.const_value
        if held is None or held.dtype != onnx_ir.DataType.FLOAT or held.size < SMALLEST:
            continue
        axis = _output_axis(weight) if bits == WEIGHT_BITS[-1] else None
        values = held.numpy()
        if axis is None:
            nodes, made = _as_half(weight, values)
        else:
            nodes, made = _as_bytes(weight, values, axis)
        onnx_ir.convenience.replace_all_uses_with(weight, nodes[-1].outputs[0])
        del graph.initializers[str(weight.name)]
        for value in made:
            graph.register_initializer(value)
        graph.insert_before(first, nodes)


def _output_axis(weight: onnx_ir.Value) -> int | None:
    """Return the axis of a matrix along which its outputs lie; None if it is no such matrix."""
    users = [use.node for use in weight.uses()]
    if len(users) != 1 or weight.shape is None or len(weight.shape) != 2:
        return None
    (user,) = users
    if user.op_type == "MatMul" and user.inputs[1] is weight:
        return 1
    if user.op_type == "Gemm" and user.inputs[1] is weight:
        transposed = user.attributes.get("transB")
        return 0 if transposed is not None and transposed.as_int() else 1
    if user.op_type == "Transpose":
        followers = [use.node for use in user.outputs[0].uses()]
        return 0 if [node.op_type for node in followers] == ["MatMul"] else None
    return None


def _as_half(
    weight: onnx_ir.Value, values: NDArray[np.float32]
) -> tuple[list[onnx_ir.Node], list[onnx_ir.Value]]:
    largest = np.finfo(np.float16).max
    half = np.clip(values, -largest, largest).astype(np.float16)
    held = _constant(f"{weight.name}_half", half)
    to = onnx_ir.AttrInt64("to", int(onnx_ir.DataType.FLOAT))
    return [_widened(weight, "Cast", [held], [to])], [held]


def _as_bytes(
    weight: onnx_ir.Value, values: NDArray[np.float32], axis: int
) -> tuple[list[onnx_ir.Node], list[onnx_ir.Value]]:
    largest = np.abs(values).max(axis=1 - axis, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    rounded = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
    held = _constant(f"{weight.name}_bytes", rounded)
    scales = _constant(f"{weight.name}_scale", scale.ravel())
    along = onnx_ir.AttrInt64("axis", axis)
    return [_widened(weight, "DequantizeLinear", [held, scales], [along])], [held, scales]


def _constant(
    name: str, values: NDArray[np.float32] | NDArray[np.float16] | NDArray[np.int8]
) -> onnx_ir.Value:
    tensor = onnx_ir.Tensor(values, name=name)
    return onnx_ir.Value(
        name=name,
        shape=onnx_ir.Shape(values.shape),
        type=onnx_ir.TensorType(tensor.dtype),
        const_value=tensor,
    )


def _widened(
    weight: onnx_ir.Value,
    operator: str,
    inputs: list[onnx_ir.Value],
    attributes: list[onnx_ir.Attr],
) -> onnx_ir.Node:
    output = onnx_ir.Value(
        name=f"{weight.name}_wide",
        shape=weight.shape,
        type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT),
    )
    return onnx_ir.Node(_OPSET_DOMAIN, operator, inputs, attributes, outputs=[output])
