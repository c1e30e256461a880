"""Values outside of an ONNX file are found however the file is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triplex_deploy.files.onnx_external import content_reaches_outside, reaches_outside

onnx = pytest.importorskip("onnx")


def _tensor() -> Any:
    return onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")


def _model(*nodes: Any, weight: Any = None) -> bytes:
    value = onnx.helper.make_tensor_value_info("x", 1, [4])
    result = onnx.helper.make_tensor_value_info("y", 1, [4])
    add = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([*nodes, add], "graph", [value], [result], [weight or _tensor()])
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def _outside(tensor: Any) -> Any:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    return tensor


def test_whole_model_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(_model())
    assert not reaches_outside(path)
    path.write_bytes(b"")
    assert not reaches_outside(path)


def test_external_weight_is_found() -> None:
    assert content_reaches_outside(_model(weight=_outside(_tensor())))


def test_external_value_of_an_attribute_and_of_a_subgraph_is_found() -> None:
    constant = onnx.helper.make_node("Constant", [], ["c"], value=_outside(_tensor()))
    assert content_reaches_outside(_model(constant))
    inner = onnx.helper.make_graph([constant], "inner", [], [])
    branch = onnx.helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner)
    assert content_reaches_outside(_model(branch))


def test_external_sparse_weight_and_function_are_found() -> None:
    model = onnx.load_from_string(_model())
    model.graph.sparse_initializer.add().values.CopyFrom(_outside(_tensor()))
    assert content_reaches_outside(model.SerializeToString())
    constant = onnx.helper.make_node("Constant", [], ["c"], value=_outside(_tensor()))
    function = onnx.helper.make_function("ours", "F", [], ["c"], [constant], [])
    model = onnx.load_from_string(_model())
    model.functions.append(function)
    assert content_reaches_outside(model.SerializeToString())


def test_longer_varint_of_a_key_hides_nothing() -> None:
    content = _model(weight=_outside(_tensor()))
    short = b"\x0a\x08location"
    at = content.index(short)
    padded = content[:at] + b"\x0a\x88\x00location" + content[at + len(short) :]
    # the lengths of the messages around it grow by one byte
    model = onnx.load_from_string(content)
    tensor = model.graph.initializer[0]
    for message in (tensor.external_data[0], tensor, model.graph):
        size = message.ByteSize()
        assert size < 127
        before = bytes([size])
        head = padded[:at]
        where = head.rindex(before)
        padded = padded[:where] + bytes([size + 1]) + padded[where + 1 :]
    assert onnx.load_from_string(padded).graph.initializer[0].external_data[0].value == "w.bin"
    assert short not in padded
    assert content_reaches_outside(padded)


def test_value_behind_an_unknown_group_is_found() -> None:
    group = b"\xa3\x06\xa0\x06\x01\xa4\x06"  # field 100: a group that holds field 100
    assert content_reaches_outside(group + _model(weight=_outside(_tensor())))


def test_compiled_graph_of_another_file_is_found() -> None:
    node = onnx.helper.make_node("EPContext", ["x"], ["z"], domain="com.microsoft")
    assert content_reaches_outside(_model(node))


@pytest.mark.parametrize("content", [b"stand-in", b"\xff" * 20, b"\x3a\xff\xff\xff\x7f"])
def test_other_content_is_left_to_the_runtime(content: bytes) -> None:
    assert not content_reaches_outside(content)
