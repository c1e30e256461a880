"""Graphs are converted to half precision, and their rounding is emulated."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from triplex_deploy.errors import ConfigError, ContractError
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.exporters.precision import as_rounded_fp32, convert_precision
from triplex_deploy.exporters.standard_form import (
    cast_bytes_first,
    decompose_attention,
    to_standard,
)
from triplex_deploy.runtime.gates import GATES, compare_graph
from triplex_deploy.runtime.model import Model, RunnableBundle


def floats(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def parsed(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in weights.items())
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 10
    return model


def scaled(**weights: np.ndarray) -> onnx.ModelProto:
    return parsed(
        "g (float[batch, 2] x) => (float[batch, 2] y) { h = Mul (x, w) y = Add (h, b) }",
        **{"w": floats([1.1, 3.0]), "b": floats([0.0, 1.0]), **weights},
    )


def run(model: onnx.ModelProto, optimize: bool = True, **inputs: Any) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    output: np.ndarray = onnxruntime.InferenceSession(model.SerializeToString(), options).run(
        None, inputs
    )[0]
    return output


def casts(model: onnx.ModelProto) -> list[tuple[str, int]]:
    return [
        (node.input[0], node.attribute[0].i) for node in model.graph.node if node.op_type == "Cast"
    ]


def test_weights_change_and_inputs_and_outputs_do_not() -> None:
    model = convert_precision(scaled(), "fp16")
    onnx.checker.check_model(model, full_check=True)
    assert {w.data_type for w in model.graph.initializer} == {TensorProto.FLOAT16}
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert model.graph.output[0].name == "y"
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert casts(model) == [("x", TensorProto.FLOAT16), ("y_low", TensorProto.FLOAT)]


def test_layers_are_normalized_in_fp32() -> None:
    model = parsed(
        """g (float[batch, 4] x) => (float[batch, 4] y) {
            h = Mul (x, w)
            n = LayerNormalization (h, s)
            y = Mul (n, w)
        }""",
        w=floats([1, 2, 3, 4]),
        s=np.ones(4, np.float32),
    )
    half = convert_precision(model, "fp16")
    assert [cast for cast in casts(half) if cast[0] in ("h", "n")] == [
        ("h", TensorProto.FLOAT),
        ("n", TensorProto.FLOAT16),
    ]
    kinds = {w.name: w.data_type for w in half.graph.initializer}
    assert kinds == {"w_low": TensorProto.FLOAT16, "s": TensorProto.FLOAT}
    x = floats([[500, -400, 300, 200]])  # squares beyond fp16's 65,504
    np.testing.assert_allclose(run(half, x=x), run(model, x=x), rtol=2e-3)


def test_pixels_are_normalized_in_fp32_up_to_the_first_layer() -> None:
    model = parsed(
        """g (uint8[batch, 2, 2, 3] tiles) => (float[batch, 1, 2, 2] y) {
            f = Cast <to = 1> (tiles)
            t = Transpose <perm = [0, 3, 1, 2]> (f)
            n = Sub (t, mean)
            y = Conv (n, w)
        }""",
        mean=np.full((1, 3, 1, 1), 123.675, np.float32),
        w=np.full((1, 3, 1, 1), 0.01, np.float32),
    )
    half = convert_precision(model, "fp16")
    assert casts(half) == [
        ("tiles", TensorProto.FLOAT),
        ("n", TensorProto.FLOAT16),
        ("y_low", TensorProto.FLOAT),
    ]


def test_overflowing_weights_are_clipped_and_infinite_ones_kept() -> None:
    big = floats([1e6, -np.inf])
    half = convert_precision(scaled(b=big), "fp16")
    bias = next(w for w in half.graph.initializer if w.name == "b_low")
    assert numpy_helper.to_array(bias).tolist() == [65504.0, -np.inf]


def test_bf16_raises_the_opset_to_one_that_has_it() -> None:
    model = convert_precision(scaled(), "bf16")
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 22
    assert {w.data_type for w in model.graph.initializer} == {TensorProto.BFLOAT16}


@pytest.mark.parametrize(
    ("precision", "wanted"),
    [
        # 1.1 is 1.0996094 in fp16 and 1.1015625 in bf16; 1000.5 is 1000.5 and 1000
        ("fp16", [[1.0996094, 3002.0]]),
        ("bf16", [[1.1015625, 3008.0]]),
    ],
)
def test_rounding_is_that_of_the_precision(precision: str, wanted: list[list[float]]) -> None:
    """3 x 1000.5 = 3001.5 rounds to 3002 (fp16: steps of 2); 3 x 1000 to 3008 (bf16: of 16)."""
    model = as_rounded_fp32(convert_precision(scaled(b=floats([0, 0])), precision))
    onnx.checker.check_model(model, full_check=True)
    found = run(model, optimize=False, x=floats([[1.0, 1000.5]]))
    np.testing.assert_array_equal(found, floats(wanted))


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"convert to fp16 or bf16"):
        convert_precision(scaled(), "int8")


def test_fp16_graphs_run_on_the_cpu_within_their_gate(bundle: RunnableBundle, model: Model) -> None:
    """The graphs are those for ONNX Runtime, with its own operator of attention."""
    for entry in bundle.manifest.graphs:
        half = convert_precision(onnx.load(bundle.path / entry.file), "fp16")
        inputs: dict[str, Any] = graph_inputs(bundle.specs[entry.name], 3)
        (wanted,) = model.run(entry.name, inputs).values()
        (result,) = compare_graph(entry.name, [(run(half, **inputs), wanted)], GATES["fp16"])
        assert result.passed, result


def test_standard_form_computes_the_same(bundle: RunnableBundle, model: Model) -> None:
    for entry in bundle.manifest.graphs:
        standard = onnx.load(bundle.path / entry.file)
        to_standard(standard)
        onnx.checker.check_model(standard, full_check=True)
        assert {opset.domain for opset in standard.opset_import} == {""}
        inputs: dict[str, Any] = graph_inputs(bundle.specs[entry.name], 7)
        (wanted,) = model.run(entry.name, inputs).values()
        np.testing.assert_allclose(run(standard, **inputs), wanted, atol=2e-5, err_msg=entry.name)


@pytest.mark.parametrize("spots", [1, 2, 3, 50])
def test_blocks_of_queries_compute_the_same(bundle: RunnableBundle, spots: int) -> None:
    """A block may hold rows beyond the last spot, which are cut off."""
    path = bundle.path / "global_encoder.onnx"
    whole, blocks = onnx.load(path), onnx.load(path)
    to_standard(whole)
    to_standard(blocks, longest=20_000)
    onnx.checker.check_model(blocks, full_check=True)
    products = [sum(n.op_type == "Softmax" for n in g.graph.node) for g in (whole, blocks)]
    assert products[1] > products[0]
    inputs: dict[str, Any] = graph_inputs(bundle.specs["global_encoder"], spots)
    np.testing.assert_allclose(run(blocks, **inputs), run(whole, **inputs), atol=1e-5)


def test_bytes_meet_a_cast_and_nothing_else(bundle: RunnableBundle) -> None:
    """TensorRT accepts only a cast on uint8 inputs."""
    for name in ("tile_encoder", "target_encoder"):
        graph = onnx.load(bundle.path / f"{name}.onnx")
        cast_bytes_first(graph)
        users = [node.op_type for node in graph.graph.node if "tiles" in node.input]
        assert users == ["Cast"]


def test_attention_of_another_form_is_refused(bundle: RunnableBundle) -> None:
    graph = onnx.load(bundle.path / "global_encoder.onnx")
    node = next(node for node in graph.graph.node if node.op_type == "MultiHeadAttention")
    node.input.append("bias")
    with pytest.raises(ContractError, match=r"attention of another form"):
        decompose_attention(graph)
