"""The graph of the global encoder for ONNX Runtime: its results and its memory."""

import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from triplex_deploy.contract import ModelConfig, graph_specs
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.exporters.to_onnx import write_onnx
from triplex_deploy.models import build_model
from triplex_deploy.models.transformer import BlockShape
from triplex_deploy.models.triplex import Apeg, GlobalEncoder
from triplex_deploy.runtime.ort import open_ort_session

DIM = 512
SPOTS = 96
SPEC = graph_specs(ModelConfig())["global_encoder"]


@pytest.fixture(scope="module")
def graph_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published shape: three layers, hidden layers four times as wide as the tokens."""
    encoder = build_model(ModelConfig(), seed=0).eval().global_encoder
    assert isinstance(encoder, GlobalEncoder)
    path = tmp_path_factory.mktemp("global") / "global_encoder.onnx"
    write_onnx(encoder.eval(), SPEC, "onnxruntime", {}, path)
    return path


def test_no_tensor_is_wider_than_the_tokens(graph_path: Path) -> None:
    graph = onnx.load(graph_path).graph
    shapes = {
        tensor.name: tensor.type.tensor_type.shape.dim
        for tensor in [*graph.value_info, *graph.output]
    }
    widths = {
        name: math.prod(axis.dim_value for axis in shapes[name] if axis.HasField("dim_value"))
        for node in graph.node
        for name in node.output
    }
    assert widths["global_tokens"] == DIM
    assert max(widths.values()) == DIM


def test_few_tensors_are_held_at_once(graph_path: Path, tmp_path: Path) -> None:
    """In the order in which ONNX Runtime runs the graph: the sums' terms must not pile up.

    The residual, queries, keys, values and their normalized tokens or result make five; the
    position encoding, whose padded tokens find no memory of their shape, needs one more.
    """
    held = _held_bytes(graph_path, tmp_path)
    assert max(held) / (SPOTS * DIM * 4) == pytest.approx(6.0, abs=0.2)


@pytest.mark.parametrize(
    ("mlp_dim", "residual"),
    [
        pytest.param(1280, True, id="hidden units left over"),
        pytest.param(256, False, id="narrow, position alone"),
        pytest.param(512, None, id="no position"),
    ],
)
def test_other_shapes_equal_pytorch(mlp_dim: int, residual: bool | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    apeg = None if residual is None else Apeg(DIM, 3, residual)
    encoder = GlobalEncoder(1, BlockShape(DIM, 8, mlp_dim), apeg).eval()
    write_onnx(encoder.eval(), SPEC, "onnxruntime", {}, tmp_path / "graph.onnx")
    inputs = graph_inputs(SPEC, 7)
    with open_ort_session(tmp_path / "graph.onnx", SPEC) as session, torch.inference_mode():
        found = session.run(inputs)["global_tokens"]
        wanted = encoder(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def _held_bytes(path: Path, folder: Path) -> list[int]:
    """Memory asked for and not given back at the end of each operator of a run."""
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, graph_inputs(SPEC, SPOTS))
    events = json.loads(Path(session.end_profiling()).read_text())
    held = [
        int(event["args"]["mem_bytes_requested_in_use"])
        for event in events
        if event["name"].endswith("_kernel_time")
    ]
    return [amount - held[0] for amount in held]
