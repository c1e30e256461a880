"""Run a graph over all spots of a slide in blocks of spots, in OpenVINO.

In such a graph a spot depends on others in two places only: attention takes the keys and values of
all spots, and the position encoding looks up the tokens of neighbors. Everything else is computed
row by row. The graph is cut at these places. So only tokens, keys and values exist for all spots,
and everything else exists for a block of them. The sums are those of the whole graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.runtime.device_array import Tensors

SPOTS_PER_BLOCK: Final = 2048
"""Spots of a block; a slide with fewer runs as a whole."""
_ATTENTION: Final = "ScaledDotProductAttention"
_NORM: Final = "MVN"
"""OpenVINO's operator in a layer normalization."""
_LOOK_UP: Final = "Gather"
_KNOWN: Final = frozenset(
    {
        "Add",
        "Broadcast",
        "Concat",
        "Constant",
        "Convert",
        "ConvertLike",
        "Divide",
        _LOOK_UP,
        "Gelu",
        "MatMul",
        "Multiply",
        _NORM,
        "Pad",
        "Parameter",
        "Range",
        "Reshape",
        "Result",
        _ATTENTION,
        "ShapeOf",
        "Slice",
        "Squeeze",
        "StridedSlice",
        "Subtract",
        "Transpose",
        "Unsqueeze",
        "VariadicSplit",
    }
)
"""Operators of the graphs that can be cut; of them only attention and look-ups mix rows."""


@dataclass(frozen=True)
class _Stage:
    """A part of the graph that takes some tensors for all spots."""

    tokens: str
    """Operator that makes the tokens (1, N, D) with which the part begins."""
    shared: tuple[str, ...]
    """Operators that make, of these tokens, what the part takes for all spots."""
    is_attention: bool
    """Whether these are keys and values (1, heads, N, d), or tokens behind a row of zeros."""


class BlockwiseGraph:
    """A graph that runs part after part; make it with ``cut``.

    A part is compiled when it is its turn: it keeps working memory and its own copy of its weights
    for as long as it exists.
    """

    def __init__(
        self, openvino: Any, model: Any, stages: Sequence[_Stage], options: Mapping[str, Any]
    ) -> None:
        self._core = openvino.Core()
        self._options = dict(options)
        inputs = [parameter.get_friendly_name() for parameter in model.get_parameters()]
        last = _source(model.get_results()[0], 0).get_friendly_name()
        ends = [*[stage.tokens for stage in stages[1:]], last]
        self._first = _part(openvino, model, inputs, [stages[0].tokens])
        self._steps = [
            (
                stage,
                _part(openvino, model, [stage.tokens], stage.shared),
                _part(openvino, model, [stage.tokens, *stage.shared, *inputs], [end]),
            )
            for stage, end in zip(stages, ends, strict=True)
        ]

    @classmethod
    def cut(cls, openvino: Any, model: Any, options: Mapping[str, Any]) -> BlockwiseGraph | None:
        """Return a model in parts, or None if it has another form than the graphs of this package.

        Args:
            openvino: The module.
            model: The ``openvino.Model``, whose inputs and output have a row per spot.
            options: Properties with which the parts are compiled.
        """
        stages = _find_stages(model)
        if not stages:
            return None
        graph = cls(openvino, model, stages, options)
        is_by_row = not _mixes_rows(graph._first) and not any(
            _mixes_rows(attend) or (stage.is_attention and _mixes_rows(share))
            for stage, share, attend in graph._steps
        )
        return graph if is_by_row else None

    def run(self, inputs: Tensors, out: NDArray[np.float32]) -> None:
        """Write the output of the graph to ``out`` (N, D)."""
        tokens = out.reshape(1, *out.shape)
        self._replace(tokens, self._first, {}, inputs)
        for stage, share, attend in self._steps:
            known = self._shared(stage, share, tokens)
            self._replace(tokens, attend, known, inputs, stage.tokens)

    def _compiled(self, part: Any) -> Any:
        """Compile a part and return an infer request, which keeps it until it is gone."""
        return self._core.compile_model(part, "CPU", self._options).create_infer_request()

    def _shared(
        self, stage: _Stage, share: Any, tokens: NDArray[np.float32]
    ) -> dict[str, NDArray[np.float32]]:
        """Return what a stage takes for all spots, by operator."""
        request = self._compiled(share)
        if not stage.is_attention:
            return {name: made.copy() for name, made in _call(request, {stage.tokens: tokens})}
        shared: dict[str, NDArray[np.float32]] = {}
        for rows in _blocks(tokens):
            for name, made in _call(request, {stage.tokens: tokens[:, rows]}):
                if name not in shared:
                    shape = (*made.shape[:2], tokens.shape[1], made.shape[3])
                    shared[name] = np.empty(shape, made.dtype)
                shared[name][:, :, rows] = made
        return shared

    def _replace(
        self,
        tokens: NDArray[np.float32],
        part: Any,
        known: Mapping[str, NDArray[np.float32]],
        inputs: Tensors,
        name: str = "",
    ) -> None:
        """Replace ``tokens`` (1, N, D) by what ``part`` makes of each block.

        Args:
            tokens: The tokens, which are the input ``name`` of the part.
            part: The part.
            known: Inputs that it takes for all spots.
            inputs: Inputs (N, ...) of which it takes the rows of the block.
            name: Name of the input, empty if it takes no tokens.
        """
        request = self._compiled(part)
        for rows in _blocks(tokens):
            of_block = {key: np.ascontiguousarray(values[rows]) for key, values in inputs.items()}
            ((_, made),) = _call(request, {**of_block, **known, name: tokens[:, rows]})
            tokens[:, rows] = made.reshape(1, -1, tokens.shape[2])


def _call(request: Any, values: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield name and values of each output; the next call overwrites them."""
    names = [port.get_any_name() for port in request.model_inputs]
    taken = {name: values[name] for name in names}
    outputs = request.infer(taken, share_inputs=True, share_outputs=True)
    for port in request.model_outputs:
        yield port.get_any_name(), outputs[port]


def _blocks(tokens: NDArray[np.float32]) -> Iterator[slice]:
    n_spots = tokens.shape[1]
    for begin in range(0, n_spots, SPOTS_PER_BLOCK):
        yield slice(begin, min(begin + SPOTS_PER_BLOCK, n_spots))


def _find_stages(model: Any) -> list[_Stage]:
    """Return the stages of a model in order; none if it has another form."""
    operators = list(model.get_ordered_ops())
    if (
        len(model.outputs) != 1
        or not {operator.get_type_name() for operator in operators} <= _KNOWN
    ):
        return []
    looked_up = {
        _source(operator, 0).get_friendly_name()
        for operator in operators
        if operator.get_type_name() == _LOOK_UP and not _is_constant(operator)
    }
    stages = []
    for operator in operators:
        name = operator.get_friendly_name()
        if operator.get_type_name() == _ATTENTION:
            shared = tuple(_source(operator, i).get_friendly_name() for i in (1, 2))
            stages.append(_Stage(_normed(operator), shared, is_attention=True))
        elif operator.get_type_name() == "Pad" and name in looked_up:
            tokens = _source(operator, 0).get_friendly_name()
            stages.append(_Stage(tokens, (name,), is_attention=False))
    has_attention = any(stage.is_attention for stage in stages)
    if not has_attention or not all(stage.tokens for stage in stages):
        return []
    names = {stage.tokens for stage in stages}
    tokens = [operator for operator in operators if operator.get_friendly_name() in names]
    width = model.output().get_partial_shape()[1].to_string()
    are_alike = all(
        shape.rank.get_length() == 3 and shape[2].to_string() == width
        for shape in (operator.output(0).get_partial_shape() for operator in tokens)
    )
    return stages if are_alike else []


def _normed(attention: Any) -> str:
    """Return the operator of the tokens whose normalization gives the keys; empty if not found."""
    operator = _source(attention, 1)
    while operator.get_type_name() not in (_NORM, "Parameter", "Constant"):
        operator = _source(operator, 0)
    return _source(operator, 0).get_friendly_name() if operator.get_type_name() == _NORM else ""


def _mixes_rows(part: Any) -> bool:
    """Return whether a part needs other rows than those of its block and what it takes whole."""
    inputs = {parameter.get_friendly_name() for parameter in part.get_parameters()}
    for operator in part.get_ordered_ops():
        kind = operator.get_type_name()
        whole = {_ATTENTION: (1, 2), _LOOK_UP: (0,)}.get(kind, ())
        if kind == _LOOK_UP and _is_constant(operator):
            continue
        if any(_source(operator, i).get_friendly_name() not in inputs for i in whole):
            return True
    return False


def _part(openvino: Any, model: Any, taken: Sequence[str], made: Sequence[str]) -> Any:
    """Return the part of a model that makes the outputs of some operators of those of others.

    Inputs that it does not need are left out.
    """
    copy = model.clone()
    operators = {operator.get_friendly_name(): operator for operator in copy.get_ordered_ops()}
    ends = [operators[name].output(0) for name in made]
    for name in taken:
        if operators[name].get_type_name() == "Parameter":
            continue
        port = operators[name].output(0)
        shape, kind = port.get_partial_shape(), port.get_element_type()
        parameter = operators[name] = openvino.opset13.parameter(shape, kind, name=name)
        parameter.output(0).set_names({name})
        for consumer in list(port.get_target_inputs()):
            consumer.replace_source_output(parameter.output(0))
    results = []
    for name, end in zip(made, ends, strict=True):
        end.set_names({name})
        results.append(openvino.opset13.result(end))
    used = _names_of_sources(results)
    return openvino.Model(results, [operators[name] for name in taken if name in used], "part")


def _names_of_sources(results: Sequence[Any]) -> set[str]:
    """Return the names of all operators that results depend on."""
    names: set[str] = set()
    waiting = list(results)
    while waiting:
        operator = waiting.pop()
        if operator.get_friendly_name() not in names:
            names.add(operator.get_friendly_name())
            waiting += [source.get_node() for source in operator.input_values()]
    return names


def _source(operator: Any, index: int) -> Any:
    """Return the operator that makes an input of an operator."""
    return operator.input_value(index).get_node()


def _is_constant(look_up: Any) -> bool:
    """Return whether the table of a look-up is one of the model's weights."""
    source = _source(look_up, 0)
    while source.get_type_name() == "Convert":
        source = _source(source, 0)
    return bool(source.get_type_name() == "Constant")
