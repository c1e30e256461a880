"""Convert int8 image encoders to fp8 (E4M3) for TensorRT, on GPUs since Ada and Hopper.

The same tensors are quantized over the same calibrated ranges. Larger values of fp8 have larger
steps.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

INT8_MAX: Final = 127.0
"""Largest value of int8."""
E4M3_MAX: Final = 448.0
"""Largest value of E4M3."""


def to_fp8(model: ModelProto) -> None:
    """Change a symmetric int8 ``model`` with weights stored in fp32 to E4M3, in place."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    pairs = {
        (node.input[1], node.input[2])
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    for name in {scale for scale, _ in pairs}:
        scale = numpy_helper.to_array(weights[name]) * np.float32(INT8_MAX / E4M3_MAX)
        weights[name].CopyFrom(numpy_helper.from_array(scale.astype(np.float32), name))
    for name in {zero for _, zero in pairs}:
        dims = list(weights[name].dims)
        zeros = [0.0] * int(np.prod(dims))
        weights[name].CopyFrom(helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, dims, zeros))
    del model.graph.value_info[:]
