"""Write PyTorch graphs as ONNX of opset 20 with a dynamic batch or spots axis."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import onnx_ir
import torch
from onnx import ModelProto
from torch import nn

from triplex_deploy.bundle import Target
from triplex_deploy.contract import GraphSpec
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.exporters.linear_memory import with_linear_memory
from triplex_deploy.exporters.structure import (
    OPTIMIZED,
    fill,
    structure_of,
    weights_of,
    with_weights,
    without_weights,
)
from triplex_deploy.exporters.traces import read_trace, trace_key, write_trace

OPSET: Final = 20
"""The last opset without the ``Attention`` operator, which the runtimes treat differently."""

_TRACED_SIZE: Final = 3
"""Length of a dynamic axis while tracing; 0 and 1 would become constants."""


def write_onnx(
    module: nn.Module, spec: GraphSpec, target: Target, metadata: dict[str, str], path: Path
) -> None:
    """Write a module as one self-contained ONNX file for ``target``.

    The graph is traced only if no graph of this structure was traced before.

    Args:
        module: Module of the graph, in evaluation mode; its inputs are named as in ``spec``.
        spec: Names, types and axes of the tensors of the graph.
        target: The runtime that the file is for.
        metadata: Properties to store in the file.
        path: The file to write.
    """
    if target == "onnxruntime" and spec.batch_axis == "spots":
        module = with_linear_memory(module)
    proto = _graph(module, spec)
    _remove_unused_weights(proto)
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())


def model_with_stored_weights(
    module: nn.Module, spec: GraphSpec, store: Callable[[onnx_ir.Model], None]
) -> ModelProto:
    """Return the graph of ``module`` for every runtime, with its weights held as ``store`` does it.

    The weights are copied only once they are stored, so that a module may have more of them than a
    file can hold as they are.

    Args:
        module: The graph's module in evaluation mode; its inputs are named as in ``spec``.
        spec: Names, types and axes of the graph's tensors.
        store: Changes how a model holds its weights.
    """
    program = _program(module, spec)
    with _quiet():
        program.optimize()
    store(program.model)
    proto: ModelProto = program.model_proto
    _remove_notes(proto)
    _remove_unused_weights(proto)
    return proto


def _graph(module: nn.Module, spec: GraphSpec) -> ModelProto:
    """Return the optimized program of ``module``, made now or read from the cache.

    A new program is also converted to the form of the cache and back, so that a new and a known
    one give the same file.
    """
    key, weights = trace_key(module, spec), weights_of(module)
    if key is None:
        return _optimize(_trace(module, spec))
    known = read_trace(key)
    if known is None:
        trace = _trace(module, spec)
        known = structure_of(trace, weights, _optimize) or without_weights(trace, weights)
        write_trace(key, known)
    if known.doc_string != OPTIMIZED:
        return _optimize(with_weights(known, weights))
    fill(known, weights)
    return known


def _trace(module: nn.Module, spec: GraphSpec) -> ModelProto:
    """Return the unoptimized program of ``module`` with its weights."""
    trace: ModelProto = _program(module, spec).model_proto
    _remove_notes(trace)
    return trace


def _program(module: nn.Module, spec: GraphSpec) -> torch.onnx.ONNXProgram:
    """Return the unoptimized program, which shares its weights with ``module``."""
    inputs = graph_inputs(spec, _TRACED_SIZE)
    dynamic = torch.export.Dim(spec.batch_axis)
    shapes = {
        tensor.name: {i: dynamic for i, axis in enumerate(tensor.axes) if isinstance(axis, str)}
        for tensor in spec.inputs
    }
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            module,
            kwargs={name: torch.from_numpy(array) for name, array in inputs.items()},
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program


def _optimize(trace: ModelProto) -> ModelProto:
    """Return ``trace`` optimized as ``torch.onnx.export`` does."""
    program = torch.onnx.ONNXProgram(onnx_ir.serde.deserialize_model(trace), None)
    with _quiet():
        program.optimize()
    proto: ModelProto = program.model_proto
    return proto


def _remove_notes(trace: ModelProto) -> None:
    """Remove the notes of the exporter, which include stack traces with paths of this machine."""
    del trace.graph.metadata_props[:]
    for node in trace.graph.node:
        del node.metadata_props[:]
    for value in trace.graph.value_info:
        del value.metadata_props[:]


def _remove_unused_weights(proto: ModelProto) -> None:
    """Remove the weights of parts of a model that the graph does not use."""
    graph = proto.graph
    del graph.metadata_props[:]
    used = {name for node in graph.node for name in node.input}
    weights = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings of ``torch.onnx`` about its own internals; errors are still raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
