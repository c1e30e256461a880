"""Compare predictions with labels, per slide and per fold: docs/models.md, "Metrics"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ContractError


@dataclass(frozen=True, eq=False)
class SlideMetrics:
    """One slide, all its spots in one pass; ``pcc`` is (G,), NaN for a constant gene."""

    mse: float
    mae: float
    pcc: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FoldMetrics:
    """Unweighted means over a fold's slides; ``pcc`` (G,) is NaN where it is on every slide."""

    mse: float
    mae: float
    pcc: NDArray[np.float64]
    n_slides: int

    @property
    def pcc_m(self) -> float:
        """PCC(M): the mean over genes, those without a correlation left out."""
        return nan_mean(self.pcc)


def measure_slide(labels: NDArray[np.floating], predicted: NDArray[np.floating]) -> SlideMetrics:
    """Compare predictions with labels, both (N, G); other shapes raise ``ContractError``."""
    if labels.shape != predicted.shape or labels.ndim != 2 or not labels.size:
        raise ContractError(
            f"metrics: labels {labels.shape}, predictions {predicted.shape}; give equal shapes "
            "(spots, genes)"
        )
    truth, guess = labels.astype(np.float64), predicted.astype(np.float64)
    error = guess - truth
    return SlideMetrics(
        mse=float(np.mean(error**2)),
        mae=float(np.mean(np.abs(error))),
        pcc=gene_correlations(truth, guess),
    )


def measure_fold(slides: Sequence[SlideMetrics]) -> FoldMetrics:
    """Average the slides of one fold, each with the same weight."""
    if not slides:
        raise ContractError("metrics: a fold without slides; give at least one")
    return FoldMetrics(
        mse=nan_mean(np.array([slide.mse for slide in slides])),
        mae=nan_mean(np.array([slide.mae for slide in slides])),
        pcc=_column_nan_means(np.stack([slide.pcc for slide in slides])),
        n_slides=len(slides),
    )


def gene_correlations(
    labels: NDArray[np.floating], predicted: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Pearson correlation over the spots of each gene, (G,); NaN where either is constant."""
    x, y = labels.astype(np.float64), predicted.astype(np.float64)
    varies = (np.ptp(x, axis=0) > 0) & (np.ptp(y, axis=0) > 0)
    pcc = np.full(x.shape[1], np.nan)
    x, y = (values[:, varies] - values[:, varies].mean(axis=0) for values in (x, y))
    scale = np.linalg.norm(x, axis=0) * np.linalg.norm(y, axis=0)
    pcc[varies] = np.clip((x * y).sum(axis=0) / scale, -1, 1)
    return pcc


def constant_predictor(training_labels: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """The mean label of each gene over all training spots, (G,): the row to print beside a model.

    Predicting it everywhere shows what an MSE is worth; it has no correlation.
    """
    total = np.sum([labels.sum(axis=0, dtype=np.float64) for labels in training_labels], axis=0)
    mean: NDArray[np.float64] = total / sum(len(labels) for labels in training_labels)
    return mean


def nan_mean(values: NDArray[np.float64]) -> float:
    """Mean of what is not NaN; NaN, without a warning, where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _column_nan_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    totals = np.where(known, values, 0.0).sum(axis=0)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
