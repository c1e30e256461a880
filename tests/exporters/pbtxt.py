"""Read protobuf text format strictly, against the fields of Triton's ``ModelConfig``.

The table holds what our configurations may use, with the types of Triton's ``model_config.proto``;
any other field, a wrong type or a repeated single field is an error.
"""

import re
from typing import Any

TENSOR = {"name": str, "data_type": "TYPE", "dims": [int]}
MODEL_CONFIG: dict[str, Any] = {
    "name": str,
    "backend": str,
    "max_batch_size": int,
    "input": [TENSOR],
    "output": [TENSOR],
    "instance_group": [{"kind": "KIND", "count": int}],
    "dynamic_batching": {"preferred_batch_size": [int], "max_queue_delay_microseconds": int},
}
ENUMS = {
    "TYPE": {"TYPE_BOOL", "TYPE_UINT8", "TYPE_INT64", "TYPE_FP32"},
    "KIND": {"KIND_AUTO", "KIND_GPU", "KIND_CPU"},
}
_TOKEN = re.compile(r'\s*("(?:[^"\\])*"|[\w-]+|[\[\]{}:,])')


def read_model_config(text: str) -> dict[str, Any]:
    """Return the configuration as a dict; raise ``ValueError`` for unknown fields."""
    tokens = _tokens(text)
    found = _message(tokens, MODEL_CONFIG, closing=None)
    for field in ("name", "backend", "max_batch_size", "input", "output"):
        if field not in found:
            raise ValueError(f"no {field}")
    return found


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"unreadable at {text[position : position + 20]!r}")
        tokens.append(match[1])
        position = match.end()
    return tokens[::-1]


def _message(tokens: list[str], schema: dict[str, Any], closing: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while tokens and tokens[-1] != closing:
        field = tokens.pop()
        if field not in schema:
            raise ValueError(f"unknown field {field}")
        if tokens[-1] == ":":
            tokens.pop()
        elif tokens[-1] not in "{[":
            raise ValueError(f"{field} has no value")
        kind = schema[field]
        if not isinstance(kind, list):
            if field in found:
                raise ValueError(f"{field} is given twice")
            found[field] = _value(tokens, kind)
            continue
        found.setdefault(field, [])
        if tokens[-1] != "[":
            found[field].append(_value(tokens, kind[0]))
            continue
        tokens.pop()
        while tokens[-1] != "]":
            found[field].append(_value(tokens, kind[0]))
            if tokens[-1] == ",":
                tokens.pop()
        tokens.pop()
    if closing is not None:
        tokens.pop()
    return found


def _value(tokens: list[str], kind: Any) -> Any:
    token = tokens.pop()
    if isinstance(kind, dict):
        if token != "{":
            raise ValueError(f"a message expected, not {token}")
        return _message(tokens, kind, "}")
    if kind is int:
        return int(token)
    if kind is str:
        if not token.startswith('"'):
            raise ValueError(f"a string expected, not {token}")
        return token.strip('"')
    if token not in ENUMS[kind]:
        raise ValueError(f"{token} is no {kind}")
    return token
