"""The measures of the parity gate equal numbers by hand."""

import numpy as np
import pytest

from triplex_deploy.contract.precision import Gate
from triplex_deploy.runtime.gates import GATES, compare_end_to_end, compare_graph, gene_pcc

FP32 = GATES["fp32"]


def test_error_is_relative_to_the_output_range() -> None:
    wanted = np.array([[0.0, 10.0]], dtype=np.float32)
    found = np.array([[0.0, 10.002]], dtype=np.float32)
    result = compare_graph("fusion_head", [(found, wanted)], FP32)[0]
    assert result.max_abs == pytest.approx(0.002, rel=1e-3)
    assert result.relative == pytest.approx(0.0002, rel=1e-3)
    assert not result.passed
    assert compare_graph("fusion_head", [(wanted, wanted)], FP32)[0].passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_output_never_passes(value: float) -> None:
    wanted = np.array([0.0, 1.0], dtype=np.float32)
    found = np.array([0.0, value], dtype=np.float32)
    cosine_only = Gate(None, None, 0.0, None)
    assert not compare_graph("g", [(found, wanted)], cosine_only)[0].passed


def test_constant_output_passes_only_when_equal() -> None:
    wanted = np.zeros(3, dtype=np.float32)
    assert compare_graph("g", [(wanted, wanted)], FP32)[0].passed
    assert not compare_graph("g", [(wanted + 1e-3, wanted)], FP32)[0].passed


def test_cosine_gate() -> None:
    gate = Gate(None, 0.999, 0.0, None)
    wanted = np.array([1.0, 0.0], dtype=np.float32)
    turned = np.array([1.0, 0.1], dtype=np.float32)  # cosine 0.99504
    assert compare_graph("g", [(turned, wanted)], gate)[0].cosine == pytest.approx(
        0.99504, abs=1e-5
    )
    assert not compare_graph("g", [(turned, wanted)], gate)[0].passed
    assert compare_graph("g", [(2 * wanted, wanted)], gate)[0].passed


def test_gene_pcc_of_opposite_equal_and_constant_genes() -> None:
    wanted = np.array([[1.0, 1.0, 5.0, 5.0], [2.0, 2.0, 5.0, 5.0], [4.0, 4.0, 5.0, 5.0]])
    found = np.array([[-1.0, 3.0, 5.0, 5.0], [-2.0, 6.0, 5.0, 6.0], [-4.0, 12.0, 5.0, 5.0]])
    np.testing.assert_allclose(gene_pcc(found, wanted), [-1.0, 1.0, 1.0, 0.0], atol=1e-12)


def test_range_is_taken_over_all_sizes() -> None:
    """With one gene and one row there is a single number, which has no range."""
    one, many = np.array([[2.0]], np.float32), np.array([[1.0], [3.0]], np.float32)
    results = compare_graph("fusion_head", [(one + 1e-6, one), (many, many)], FP32)
    assert [result.size for result in results] == [1, 2]
    assert [result.output_range for result in results] == [2.0, 2.0]
    assert all(result.passed for result in results)


def test_gene_within_rounding_of_a_constant_does_not_fail_a_model() -> None:
    rng = np.random.default_rng(0)
    wanted = (2 + 1e-6 * rng.standard_normal((36, 1))).astype(np.float32)
    found = (2 + 1e-6 * rng.standard_normal((36, 1))).astype(np.float32)
    assert gene_pcc(found, wanted).tolist() == [1.0]


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
