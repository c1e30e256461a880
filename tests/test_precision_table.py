"""The table of precisions is complete and agrees with the defaults."""

from triplex_deploy.contract.precision import (
    CONVERTED,
    DEFAULT,
    DEFAULT_TENSORRT,
    PRECISIONS,
    QUANTIZED,
    offered_by,
)


def test_what_each_runtime_offers() -> None:
    assert offered_by("onnxruntime") == ("fp32", "fp16", "int8")
    assert offered_by("tensorrt") == ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")
    assert DEFAULT in offered_by("onnxruntime")
    assert DEFAULT_TENSORRT in offered_by("tensorrt")


def test_how_each_is_made() -> None:
    assert QUANTIZED == ("int8", "fp8")
    assert CONVERTED == ("fp16", "bf16")
    for entry in PRECISIONS.values():
        assert not entry.beside or entry.beside in PRECISIONS
        assert not entry.checked_as or entry.checked_as in PRECISIONS
