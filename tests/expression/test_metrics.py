import numpy as np
import pytest

from triplex_deploy.errors import ContractError
from triplex_deploy.expression import (
    constant_predictor,
    cross_validate,
    gene_correlations,
    measure_fold,
    measure_slide,
    top_genes,
)
from triplex_deploy.expression.cross_validation import mean_ranks
from triplex_deploy.expression.metrics import FoldMetrics


def fold(pcc: list[float], mse: float = 1.0) -> FoldMetrics:
    return FoldMetrics(mse=mse, mae=mse, pcc=np.array(pcc), n_slides=1)


def test_slide_metrics_by_hand() -> None:
    labels = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    predicted = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    slide = measure_slide(labels, predicted)
    assert slide.mse == pytest.approx(7 / 6)
    assert slide.mae == pytest.approx(5 / 6)
    assert slide.pcc[0] == pytest.approx(1.0)
    assert np.isnan(slide.pcc[1])


def test_error_is_the_sum_of_pattern_and_offset() -> None:
    labels = np.array([[0.0, 1.0], [2.0, 1.0]])
    shifted = measure_slide(labels, labels + np.array([3.0, -1.0]))
    assert (shifted.mse_within, shifted.mse_offset) == (0.0, 5.0)
    flat = measure_slide(labels, np.broadcast_to(labels.mean(axis=0), labels.shape))
    assert (flat.mse_within, flat.mse_offset) == (0.5, 0.0)


def test_metrics_of_earlier_versions_have_no_parts_of_the_error() -> None:
    metrics = measure_fold([measure_slide(np.eye(3), 2 * np.eye(3))])
    row = metrics.to_dict()
    back = FoldMetrics.from_dict(row, "abc", "cbad", 1)
    assert back.mse_within + back.mse_offset == pytest.approx(back.mse)
    np.testing.assert_array_equal(back.pcc, [*metrics.pcc[::-1], np.nan])
    del row["mse_within"], row["mse_offset"]
    assert np.isnan(FoldMetrics.from_dict(row, "abc", "abc", 1).mse_within)


def test_constant_prediction_has_no_correlation_even_where_its_mean_is_rounded() -> None:
    labels = np.random.default_rng(0).normal(size=(7, 1))
    assert np.isnan(gene_correlations(labels, np.full((7, 1), 0.1)))[0]


def test_fold_weighs_slides_equally_and_leaves_missing_correlations_out() -> None:
    rng = np.random.default_rng(1)
    small, large = rng.normal(size=(4, 2)), rng.normal(size=(40, 2))
    small[:, 1] = 0.5
    slides = [measure_slide(small, -small), measure_slide(large, large)]
    result = measure_fold(slides)
    assert result.mse == pytest.approx((slides[0].mse + 0) / 2)
    np.testing.assert_allclose(result.pcc, [0.0, 1.0], atol=1e-12)
    assert result.pcc_m == pytest.approx(0.5)


def test_shapes_must_agree() -> None:
    with pytest.raises(ContractError, match="equal shapes"):
        measure_slide(np.zeros((3, 2)), np.zeros((3, 1)))


def test_published_metrics_are_reproduced(golden) -> None:
    data = golden("metrics.npz")
    slides = []
    for name in ("A1", "A2", "A3"):
        slide = measure_slide(data[f"{name}_label"], data[f"{name}_pred"])
        np.testing.assert_allclose(slide.mse, data[f"{name}_MSE"], rtol=1e-5)
        np.testing.assert_allclose(slide.mae, data[f"{name}_MAE"], rtol=1e-5)
        np.testing.assert_allclose(slide.pcc, data[f"{name}_PCC"], rtol=1e-5)
        slides.append(slide)
    result = measure_fold(slides)
    np.testing.assert_allclose(result.mse, data["fold_MSE"], rtol=1e-5)
    np.testing.assert_allclose(result.mae, data["fold_MAE"], rtol=1e-5)
    np.testing.assert_allclose(result.pcc, data["fold_PCC_per_gene"], rtol=1e-5)
    np.testing.assert_allclose(result.pcc_m, data["fold_PCC_mean_over_genes_nanmean"], rtol=1e-5)


def test_constant_predictor_is_the_mean_over_all_training_spots() -> None:
    labels = [np.full((3, 2), 1.0), np.full((1, 2), 5.0)]
    np.testing.assert_array_equal(constant_predictor(labels), [2.0, 2.0])


def test_gene_without_correlation_ranks_below_every_other() -> None:
    ranks = mean_ranks(np.array([[-0.9, np.nan, 0.3], [-0.5, 0.9, 0.1]]))
    np.testing.assert_array_equal(ranks, [(2 + 1) / 2, (0 + 3) / 2, (3 + 2) / 2])


def test_highly_predictive_genes_are_never_without_correlation() -> None:
    rng = np.random.default_rng(2)
    pcc = rng.uniform(-1, 1, (8, 250))
    pcc[:, :150] = np.nan
    result = cross_validate([fold(list(row)) for row in pcc])
    assert len(result.top_genes) == 50
    assert result.top_genes.min() >= 150
    assert result.pcc_h.mean > result.pcc_m.mean


def test_too_few_known_genes_leave_a_shorter_list() -> None:
    result = cross_validate([fold([0.1, np.nan, 0.9])], n_top=3)
    assert result.top_genes.tolist() == [2, 0]


def test_constant_model_has_errors_but_no_correlation() -> None:
    result = cross_validate([fold([np.nan] * 3, mse=1.0), fold([np.nan] * 3, mse=3.0)])
    assert (result.mse.mean, result.mse.std) == (2.0, 1.0)
    assert np.isnan(result.pcc_m.mean)
    assert np.isnan(result.pcc_h.mean)
    assert len(result.top_genes) == 0


def test_published_highly_predictive_genes_are_reproduced(golden) -> None:
    data = golden("hpg.npz")
    ranks = mean_ranks(data["pcc_rank_per_fold"].astype(np.float64))
    np.testing.assert_allclose(ranks, data["mean_rank"])
    assert set(top_genes(ranks)) == set(data["idx_top"])
