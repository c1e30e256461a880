"""Test the matrix products that the roofline is measured with."""

import sys

import pytest

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime import product
from triplex_deploy.runtime.product import PRODUCT_TYPES, compile_product


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "_ROWS", 64)
    monkeypatch.setattr(product, "_WIDTH", 128)


@pytest.mark.parametrize("precision", PRODUCT_TYPES)
def test_a_product_runs_and_counts_its_operations(precision: str) -> None:
    compiled = compile_product(precision)
    assert compiled.operations == 2 * 4 * 64 * 128**2
    assert "4 matrix products of 64 x 128 x 128" in compiled.description
    assert compiled.run() is not None


def test_int8_runs_in_a_kernel_for_bytes_and_fp32_in_one_for_floats() -> None:
    assert compile_product("int8").description.lower().endswith("_i8")
    assert compile_product("fp32").description.endswith("_f32")


def test_missing_openvino_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match="openvino is not installed"):
        compile_product("fp32")
