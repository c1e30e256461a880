"""The measures of the parity gate against hand numbers."""

import numpy as np
import pytest

from exporters.gates import GATES, Gate, compare_end_to_end, compare_graph, gene_pcc

FP32 = GATES["fp32"]


def test_error_is_relative_to_the_output_range() -> None:
    wanted = np.array([[0.0, 10.0]], dtype=np.float32)
    found = np.array([[0.0, 10.002]], dtype=np.float32)
    result = compare_graph("fusion_head", 1, found, wanted, FP32)
    assert result.max_abs == pytest.approx(0.002, rel=1e-3)
    assert result.relative == pytest.approx(0.0002, rel=1e-3)
    assert not result.passed
    assert compare_graph("fusion_head", 1, wanted, wanted, FP32).passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_output_never_passes(value: float) -> None:
    wanted = np.array([0.0, 1.0], dtype=np.float32)
    found = np.array([0.0, value], dtype=np.float32)
    cosine_only = Gate(None, None, 0.0, None)
    assert not compare_graph("g", 1, found, wanted, cosine_only).passed


def test_constant_output_passes_only_when_equal() -> None:
    wanted = np.zeros(3, dtype=np.float32)
    assert compare_graph("g", 1, wanted, wanted, FP32).passed
    assert not compare_graph("g", 1, wanted + 1e-9, wanted, FP32).passed


def test_cosine_gate() -> None:
    gate = Gate(None, 0.999, 0.0, None)
    wanted = np.array([1.0, 0.0], dtype=np.float32)
    turned = np.array([1.0, 0.1], dtype=np.float32)  # cosine 0.99504
    assert compare_graph("g", 1, turned, wanted, gate).cosine == pytest.approx(0.99504, abs=1e-5)
    assert not compare_graph("g", 1, turned, wanted, gate).passed
    assert compare_graph("g", 1, 2 * wanted, wanted, gate).passed


def test_gene_pcc_of_opposite_equal_and_constant_genes() -> None:
    wanted = np.array([[1.0, 1.0, 5.0, 5.0], [2.0, 2.0, 5.0, 5.0], [4.0, 4.0, 5.0, 5.0]])
    found = np.array([[-1.0, 3.0, 5.0, 5.0], [-2.0, 6.0, 5.0, 6.0], [-4.0, 12.0, 5.0, 5.0]])
    np.testing.assert_allclose(gene_pcc(found, wanted), [-1.0, 1.0, 1.0, 0.0], atol=1e-12)


def test_one_bad_gene_fails_the_end_to_end_gate() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal((50, 9))
    found = wanted.copy()
    assert compare_end_to_end(found, wanted, FP32).passed
    found[:, 4] += 0.1 * rng.standard_normal(50)
    result = compare_end_to_end(found, wanted, FP32)
    assert not result.passed
    assert result.median_gene_pcc == pytest.approx(1.0)
    assert result.min_gene_pcc < 0.9999
