"""Gene selection, label transform, smoothing and metrics, on plain NumPy arrays."""

from triplex_deploy.expression.cross_validation import CrossValidation, cross_validate, top_genes
from triplex_deploy.expression.genes import GeneTotals, select_genes
from triplex_deploy.expression.labels import LabelTransform
from triplex_deploy.expression.metrics import (
    FoldMetrics,
    SlideMetrics,
    constant_predictor,
    gene_correlations,
    measure_fold,
    measure_slide,
)
from triplex_deploy.expression.smoothing import smooth_spots

__all__ = [
    "CrossValidation",
    "FoldMetrics",
    "GeneTotals",
    "LabelTransform",
    "SlideMetrics",
    "constant_predictor",
    "cross_validate",
    "gene_correlations",
    "measure_fold",
    "measure_slide",
    "select_genes",
    "smooth_spots",
    "top_genes",
]
