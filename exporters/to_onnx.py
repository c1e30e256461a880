"""PyTorch graphs to ONNX opset 20 with dynamic batch and token axes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from triplex_deploy.bundle import Target
from triplex_deploy.contract import GraphSpec
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.exporters.linear_memory import with_linear_memory

OPSET: Final = 20
"""The last opset without the ``Attention`` operator, which the runtimes treat differently."""

_TRACED_SIZE: Final = 3
"""Length of a dynamic axis while tracing; 0 and 1 would be specialised."""


def write_onnx(
    module: nn.Module, spec: GraphSpec, target: Target, metadata: dict[str, str], path: Path
) -> None:
    """Trace ``module`` and write it as one self-contained file for ``target``."""
    if target == "onnxruntime" and spec.batch_axis == "spots":
        module = with_linear_memory(module)
    proto = _trace(module, spec).model_proto
    _leave_out_unused_weights(proto)
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())


def _trace(module: nn.Module, spec: GraphSpec) -> Any:
    inputs = graph_inputs(spec, _TRACED_SIZE)
    dynamic = torch.export.Dim(spec.batch_axis)
    shapes = {
        tensor.name: {i: dynamic for i, axis in enumerate(tensor.axes) if isinstance(axis, str)}
        for tensor in spec.inputs
    }
    with _quiet(), torch.inference_mode():
        return torch.onnx.export(
            module,
            kwargs={name: torch.from_numpy(array) for name, array in inputs.items()},
            dynamo=True,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )


def _leave_out_unused_weights(proto: Any) -> None:
    """Drop the weights of parts of a model that the graph has no need of, and talk of them."""
    graph = proto.graph
    del graph.metadata_props[:]
    used = {name for node in graph.node for name in node.input}
    weights = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says of its own internals; its errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
