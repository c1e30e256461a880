"""The table of precisions is complete and agrees with the defaults."""

import click
import pytest

from triplex_deploy.cli.export import command
from triplex_deploy.contract.precision import (
    CONVERTED,
    DEFAULT,
    PRECISIONS,
    QUANTIZED,
    Runtime,
    cpu_flag,
    graph_precision,
    offered_by,
    require_offered,
)
from triplex_deploy.errors import ConfigError
from triplex_deploy.exporters.options import ExportOptions, TensorrtOptions


def test_what_each_runtime_offers() -> None:
    assert offered_by("onnxruntime") == ("fp32", "fp16", "int8")
    assert offered_by("tensorrt") == ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")
    assert DEFAULT in offered_by("onnxruntime")
    assert DEFAULT in offered_by("tensorrt")


def test_precision_that_a_runtime_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="'bf16': use fp32, fp16, int8 for onnxruntime"):
        require_offered("bf16", "onnxruntime")
    require_offered("bf16", "tensorrt")


@pytest.mark.parametrize(
    ("precision", "runtime", "is_quantizable", "expected"),
    [
        ("int8", "onnxruntime", True, "int8"),
        ("int8", "onnxruntime", False, "fp32"),
        ("int8", "tensorrt", False, "fp16"),
        ("fp8", "tensorrt", True, "fp8"),
        ("fp8", "tensorrt", False, "fp16"),
        ("fp16", "tensorrt", False, "fp16"),
    ],
)
def test_graphs_that_may_not_be_quantized_get_another_precision(
    precision: str, runtime: Runtime, is_quantizable: bool, expected: str
) -> None:
    assert graph_precision(precision, runtime, is_quantizable) == expected


def test_processor_flag_that_computes_int8() -> None:
    assert cpu_flag("int8", {"sse2", "avx512_vnni"}) == "avx512_vnni"
    assert cpu_flag("int8", {"avx_vnni"}) == "avx_vnni"
    assert cpu_flag("int8", {"avx2"}) is None
    assert cpu_flag("fp32", {"avx2"}) is None


def test_default_of_the_command_is_that_of_the_library() -> None:
    option = next(param for param in command.params if param.name == "precision")
    assert option.default == ExportOptions().precision == TensorrtOptions().precision == DEFAULT
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == tuple(PRECISIONS)


def test_how_each_is_made() -> None:
    assert QUANTIZED == ("int8", "fp8")
    assert CONVERTED == ("fp16", "bf16")
    for entry in PRECISIONS.values():
        assert set(entry.other_graphs) == (
            set(entry.runtimes) if entry.needs_calibration else set()
        )
        assert set(entry.other_graphs.values()) <= PRECISIONS.keys()
        assert not entry.checked_as or entry.checked_as in PRECISIONS
