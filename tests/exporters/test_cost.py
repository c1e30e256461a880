"""Operations and traffic of ONNX graphs equal counts by hand."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from triplex_deploy.errors import ContractError
from triplex_deploy.exporters.cost import graph_cost, largest_tensor
from triplex_deploy.runtime.model import RunnableBundle


def write_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    input_shape: list[int | str],
    weights: dict[str, np.ndarray],
    output: str,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


def floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_matrix_product_counts_multiply_and_add(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Relu", ["product"], ["y"]),
    ]
    path = write_graph(tmp_path / "m.onnx", nodes, ["batch", 3], {"w": floats(3, 5)}, "y")
    cost = graph_cost(path, {"batch": 4})
    assert cost.flops == 2 * 4 * 3 * 5
    assert cost.traffic_bytes == 4 * (4 * 3 + 3 * 5 + 4 * 5)  # the Relu is fused


def test_convolution_counts_each_kernel_position(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    path = write_graph(
        tmp_path / "c.onnx", [node], ["batch", 2, 8, 8], {"w": floats(6, 2, 3, 3)}, "y"
    )
    assert graph_cost(path, {"batch": 1}).flops == 2 * (6 * 4 * 4) * (2 * 3 * 3)
    assert graph_cost(path, {"batch": 3}).flops == 3 * graph_cost(path, {"batch": 1}).flops


def test_transposed_gemm_takes_its_inner_length_from_the_rows(tmp_path: Path) -> None:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)
    path = write_graph(tmp_path / "g.onnx", [node], [7, "batch"], {"w": floats(7, 5)}, "y")
    assert graph_cost(path, {"batch": 2}).flops == 2 * 2 * 7 * 5


def test_contrib_attention_is_quadratic_in_its_tokens(tmp_path: Path) -> None:
    node = helper.make_node(
        "MultiHeadAttention", ["x", "x", "x"], ["y"], domain="com.microsoft", num_heads=2
    )
    path = write_graph(tmp_path / "a.onnx", [node], [1, "spots", 8], {}, "y")
    assert graph_cost(path, {"spots": 10}).flops == 4 * 10 * 10 * 8
    assert graph_cost(path, {"spots": 20}).flops == 4 * 20 * 20 * 8


def test_gather_reads_only_the_rows_it_takes(tmp_path: Path) -> None:
    node = helper.make_node("Gather", ["w", "index"], ["rows"], axis=0)
    product = helper.make_node("Mul", ["rows", "x"], ["y"])
    weights = {"w": floats(1000, 4), "index": np.zeros(2, np.int64)}
    path = write_graph(tmp_path / "i.onnx", [node, product], ["batch", 4], weights, "y")
    assert graph_cost(path, {"batch": 2}).traffic_bytes == 2 * (2 * 4 * 4) + 2 * 8


def half_of_the_rows(tmp_path: Path) -> Path:
    """Write a product of the first half of the rows, as a graph that works in blocks does."""
    integers = {"axes": [0], "zero": 0, "one": 1, "two": 2}
    nodes = [
        helper.make_node("Shape", ["x"], ["length"], start=0, end=1),
        helper.make_node("Squeeze", ["length", "axes"], ["n"]),
        helper.make_node("Div", ["n", "two"], ["half"]),
        helper.make_node("Range", ["zero", "half", "one"], ["rows"]),
        helper.make_node("Gather", ["x", "rows"], ["block"]),
        helper.make_node("MatMul", ["block", "w"], ["product"]),
    ]
    weights = {name: np.array(value, np.int64) for name, value in integers.items()}
    return write_graph(
        tmp_path / "m.onnx", nodes, ["spots", 3], {**weights, "w": floats(3, 5)}, "product"
    )


def test_rows_of_a_block_follow_from_the_size(tmp_path: Path) -> None:
    assert graph_cost(half_of_the_rows(tmp_path), {"spots": 8}).flops == 2 * 4 * 5 * 3


def test_largest_tensor_is_one_that_an_operator_writes(tmp_path: Path) -> None:
    path = half_of_the_rows(tmp_path)
    assert largest_tensor(path, {"spots": 8}) == ("product", 4 * 5, 4 * 5 * 4)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["product"])]
    wide = write_graph(tmp_path / "w.onnx", nodes, [2, 9], {"w": floats(9, 3)}, "product")
    assert largest_tensor(wide, {}) == ("product", 6, 24), "inputs and weights do not count"


def test_quantized_tensors_count_one_byte(tmp_path: Path) -> None:
    scale, zero = np.float32(0.1), np.uint8(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "scale", "zero"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["product"]),
        helper.make_node("Relu", ["product"], ["positive"]),
        helper.make_node("QuantizeLinear", ["positive", "scale", "zero"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "scale", "zero"], ["y"]),
    ]
    weights: dict[str, np.ndarray] = {
        "wq": np.zeros((3, 5), np.uint8),
        "scale": np.array(scale),
        "zero": np.array(zero),
    }
    path = write_graph(tmp_path / "q.onnx", nodes, ["batch", 3], weights, "y")
    assert graph_cost(path, {"batch": 4}) == (2 * 4 * 3 * 5, 4 * 3 + 3 * 5 + 4 * 5)


def test_resnet18_costs_what_its_authors_counted(bundle: RunnableBundle) -> None:
    path = bundle.path / bundle.entry("tile_encoder", "onnxruntime").file
    assert graph_cost(path, {"batch": 1}).flops == pytest.approx(2 * 1.8e9, rel=0.02)


def test_every_graph_of_a_bundle_can_be_counted(bundle: RunnableBundle) -> None:
    for name, spec in bundle.specs.items():
        path = bundle.path / bundle.entry(name, "onnxruntime").file
        small, large = (graph_cost(path, {spec.batch_axis: size}) for size in (1, 4))
        assert large.flops >= 4 * small.flops, name
        assert 0 < small.traffic_bytes < large.traffic_bytes, name


def test_axis_without_a_size_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    path = write_graph(tmp_path / "r.onnx", [node], ["spots", 3], {}, "y")
    with pytest.raises(ContractError, match="'spots' of x has no size"):
        graph_cost(path, {"batch": 1})


def test_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a protobuf")
    with pytest.raises(ContractError, match="cannot be read as ONNX"):
        graph_cost(path, {})
    with pytest.raises(ContractError, match="cannot be read as ONNX"):
        graph_cost(tmp_path / "absent.onnx", {})


def test_unknown_operator_before_a_counted_one_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mystery", ["x"], ["hidden"], domain="com.microsoft"),
        helper.make_node("MatMul", ["hidden", "w"], ["y"]),
    ]
    path = write_graph(tmp_path / "u.onnx", nodes, ["batch", 3], {"w": floats(3, 5)}, "y")
    with pytest.raises(ContractError, match="shape of hidden is unknown"):
        graph_cost(path, {"batch": 1})
