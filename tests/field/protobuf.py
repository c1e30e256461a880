"""Write an ONNX graph with external data, and spell a length in it the long way."""

from __future__ import annotations

from pathlib import Path

import numpy as np

KEY = b"location"
LENGTH_DELIMITED = 2
PATH_TO_KEY = (7, 5, 13)
"""Fields from the model to the entries of external data: graph, initializer, external_data."""


def with_external_data(path: Path, data: Path) -> bytes:
    """Return an ONNX encoder (features = channel means times weights) with weights in ``data``."""
    import onnx
    from onnx import TensorProto, helper

    data.write_bytes(np.ones(3, np.float32).tobytes())
    weights = helper.make_tensor("w", TensorProto.FLOAT, [3], np.ones(3, np.float32))
    weights.ClearField("float_data")
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = KEY.decode(), data.name
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Mul", ["flat", "w"], ["features"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 224, 224])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "outside", [images], [features], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert isinstance(model, onnx.ModelProto)
    content = model.SerializeToString()
    assert isinstance(content, bytes)
    path.write_bytes(content)
    return content


def with_long_key(message: bytes, fields: tuple[int, ...] = PATH_TO_KEY) -> bytes:
    """Return the message with the length of the key ``location`` as a varint of two bytes."""
    if not fields:
        short = bytes((1 << 3 | LENGTH_DELIMITED, len(KEY))) + KEY
        return message.replace(short, short[:1] + bytes((len(KEY) | 0x80, 0)) + KEY)
    result, place = bytearray(), 0
    while place < len(message):
        start = place
        tag, place = _varint(message, place)
        wire = tag & 7
        if wire == LENGTH_DELIMITED:
            length, place = _varint(message, place)
            content = message[place : place + length]
            place += length
            if tag >> 3 == fields[0]:
                content = with_long_key(content, fields[1:])
                result += _as_varint(tag) + _as_varint(len(content)) + content
                continue
        elif wire == 0:
            _, place = _varint(message, place)
        else:
            place += 8 if wire == 1 else 4
        result += message[start:place]
    return bytes(result)


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, place


def _as_varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
