"""Convert fp32 ONNX graphs to fp16 or bf16, and emulate the rounding on other hardware.

TensorRT takes the precision from the file, so every tensor of the result has its final type. Inputs
and outputs stay fp32. Pixels and layers are normalized in fp32, because half precision would lose
accuracy there and save no time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from triplex_deploy.contract.precision import CONVERTED, PRECISIONS
from triplex_deploy.errors import ConfigError

LOW_PRECISIONS: Final = {
    name: TensorProto.DataType.Value(PRECISIONS[name].onnx_type) for name in CONVERTED
}
KEPT_FP32: Final = ("LayerNormalization",)
"""Operators that stay in fp32: they sum squares, for which half precision is too small."""
BF16_OPSET: Final = 22
"""The first opset with convolutions in bf16; it has no ``Attention`` operator either."""
MAX_FP16: Final = 65504.0
"""Largest number of fp16."""
_ON_PIXELS: Final = ("Cast", "Transpose", "Sub", "Div", "Mul", "Add")
"""Operators that may be between the bytes of a tile and the first layer."""


def convert_precision(
    model: ModelProto, precision: str, kept_fp32: Iterable[str] = KEPT_FP32
) -> ModelProto:
    """Return a copy of an fp32 ``model`` that computes in fp16 or bf16.

    Args:
        model: The fp32 model.
        precision: ``fp16`` or ``bf16``.
        kept_fp32: Operators that stay in fp32, with casts before and after them.

    Raises:
        ConfigError: The precision is neither.
    """
    low = LOW_PRECISIONS.get(precision)
    if low is None:
        raise ConfigError(f"precision {precision!r}: convert to {' or '.join(LOW_PRECISIONS)}")
    work = _Conversion(model, low, frozenset(kept_fp32))
    for node in model.graph.node:
        work.add(node)
    return work.finish()


def as_rounded_fp32(model: ModelProto) -> ModelProto:
    """Return a copy of a converted ``model`` that rounds each fp16 or bf16 result but stores fp32.

    The copy emulates, on any runtime, hardware that accumulates in fp32 and stores fp16 or bf16.
    Run it without graph optimization, which would remove the rounding.
    """
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    kinds = _element_types(model)
    low = [kind for kind in LOW_PRECISIONS.values() if kind in kinds.values()]
    for weight in graph.initializer:
        if weight.data_type in low:
            weight.CopyFrom(numpy_helper.from_array(_to_fp32(weight), weight.name))
    nodes = []
    for node in model.graph.node:
        nodes += _rounded(node, kinds)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return result


@dataclass
class _Conversion:
    """A conversion: the new nodes, and the types in which each float tensor exists."""

    source: ModelProto
    low: int
    kept_fp32: frozenset[str]
    nodes: list[NodeProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        graph = self.source.graph
        self.kinds = _element_types(self.source)
        self.weights = {weight.name: weight for weight in graph.initializer}
        self.made: dict[str, TensorProto] = {}
        self.names: dict[tuple[str, int], str] = {}
        for name in [*self.weights, *(tensor.name for tensor in graph.input)]:
            self.names[name, TensorProto.FLOAT] = name
        self.outputs = {tensor.name for tensor in graph.output}
        self.pixels = {
            tensor.name
            for tensor in graph.input
            if tensor.type.tensor_type.elem_type == TensorProto.UINT8
        }

    def add(self, node: NodeProto) -> None:
        """Append ``node`` in the type that it computes in, with casts of its inputs if needed."""
        kind = self._kind_of(node)
        copy = NodeProto()
        copy.CopyFrom(node)
        for i, name in enumerate(node.input):
            if self._is_float(name):
                copy.input[i] = self._in_type(name, kind)
        for i, name in enumerate(node.output):
            if self._is_float(name):
                copy.output[i] = self._declare(name, kind)
        if node.op_type == "Cast" and self._is_float(node.output[0]):
            _attribute(copy, "to").i = kind
        self.nodes.append(copy)

    def finish(self) -> ModelProto:
        """Return the converted model without unused weights."""
        for name in sorted(self.outputs):
            if self._is_float(name) and (name, TensorProto.FLOAT) not in self.names:
                low_name = self.names[name, self.low]
                self.nodes.append(_cast(low_name, name, TensorProto.FLOAT))
        result = ModelProto()
        result.CopyFrom(self.source)
        graph = result.graph
        used = {name for node in self.nodes for name in node.input}
        weights = [w for w in [*self.weights.values(), *self.made.values()] if w.name in used]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(weights)
        if self.low == TensorProto.BFLOAT16:
            _raise_opset(result, BF16_OPSET)
        return result

    def _kind_of(self, node: NodeProto) -> int:
        """Return fp32 for kept operators and operators on pixels, and mark outputs as pixels."""
        if node.op_type in _ON_PIXELS and any(name in self.pixels for name in node.input):
            self.pixels.update(node.output)
            return int(TensorProto.FLOAT)
        return int(TensorProto.FLOAT) if node.op_type in self.kept_fp32 else self.low

    def _declare(self, name: str, kind: int) -> str:
        """Return the name of a node's result; the name of a graph's output is kept for fp32."""
        at_output = name in self.outputs and kind != TensorProto.FLOAT
        self.names[name, kind] = f"{name}_low" if at_output else name
        return self.names[name, kind]

    def _in_type(self, name: str, kind: int) -> str:
        """Return the name of a float tensor in type ``kind``; it is cast only once."""
        if (name, kind) not in self.names:
            suffix = "fp32" if kind == TensorProto.FLOAT else "low"
            self.names[name, kind] = f"{name}_{suffix}"
            if name in self.weights:
                self.made[name] = _low_weight(self.weights[name], kind, f"{name}_{suffix}")
            else:
                other = TensorProto.FLOAT if kind == self.low else self.low
                self.nodes.append(_cast(self.names[name, other], f"{name}_{suffix}", kind))
        return self.names[name, kind]

    def _is_float(self, name: str) -> bool:
        return self.kinds.get(name) == TensorProto.FLOAT


def _raise_opset(model: ModelProto, version: int) -> None:
    """Raise the opset number; from 20 to 22, the operators used here only got more types."""
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = max(opset.version, version)


def _element_types(model: ModelProto) -> Mapping[str, int]:
    """Return the element type of every tensor, as declared or else as inferred."""
    graph = shape_inference.infer_shapes(model).graph
    kinds = {weight.name: weight.data_type for weight in graph.initializer}
    for tensor in [*graph.value_info, *graph.input, *graph.output]:
        kinds[tensor.name] = tensor.type.tensor_type.elem_type
    return kinds


def _low_weight(weight: TensorProto, kind: int, name: str) -> TensorProto:
    array = numpy_helper.to_array(weight)
    if kind == TensorProto.FLOAT16:  # keep infinite biases, clip finite weights that overflow
        array = np.where(np.isinf(array), array, np.clip(array, -MAX_FP16, MAX_FP16))
    low = array.astype(helper.tensor_dtype_to_np_dtype(kind))
    return numpy_helper.from_array(low, name)


def _to_fp32(weight: TensorProto) -> NDArray[np.float32]:
    return numpy_helper.to_array(weight).astype(np.float32)


def _rounded(node: NodeProto, kinds: Mapping[str, int]) -> list[NodeProto]:
    """Return ``node`` in fp32, and for each fp16 or bf16 result a cast to it and back."""
    low_kinds = set(LOW_PRECISIONS.values())
    copy = NodeProto()
    copy.CopyFrom(node)
    if node.op_type == "Cast" and _attribute(node, "to").i in low_kinds:
        _attribute(copy, "to").i = TensorProto.FLOAT
    after = []
    for i, name in enumerate(node.output):
        if kinds.get(name) in low_kinds:
            copy.output[i] = f"{name}_exact"
            after.append(_cast(f"{name}_exact", f"{name}_rounded", kinds[name]))
            after.append(_cast(f"{name}_rounded", name, TensorProto.FLOAT))
    return [copy, *after]


def _cast(name: str, into: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [name], [into], name=f"cast_{name}_to_{into}", to=kind)


def _attribute(node: NodeProto, name: str) -> Any:
    return next(attribute for attribute in node.attribute if attribute.name == name)
