"""Compare predictions with labels, per slide and per fold: docs/models.md, "Metrics"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ContractError


@dataclass(frozen=True, eq=False)
class SlideMetrics:
    """Holds the metrics of all spots of a slide."""

    mse: float
    """Mean squared error over spots and genes."""
    mae: float
    """Mean absolute error over spots and genes."""
    pcc: NDArray[np.float64]
    """Pearson correlation (G,) of each gene; NaN for a constant gene."""


@dataclass(frozen=True, eq=False)
class FoldMetrics:
    """Holds the unweighted means over the slides of a fold."""

    mse: float
    """Mean of the mean squared errors."""
    mae: float
    """Mean of the mean absolute errors."""
    pcc: NDArray[np.float64]
    """Mean correlation (G,) of each gene; NaN if it is NaN on every slide."""
    n_slides: int
    """Number of slides."""

    @property
    def pcc_m(self) -> float:
        """Return PCC(M): the mean over the genes that have a correlation."""
        return nan_mean(self.pcc)


def measure_slide(labels: NDArray[np.floating], predicted: NDArray[np.floating]) -> SlideMetrics:
    """Return the metrics of predictions (N, G) for labels (N, G).

    Raises:
        ContractError: The shapes differ, or are empty.
    """
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
    """Return the means over the slides of a fold, each with the same weight.

    Raises:
        ContractError: There is no slide.
    """
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
    """Return the Pearson correlation (G,) of each gene over spots; NaN if a side is constant."""
    x, y = labels.astype(np.float64), predicted.astype(np.float64)
    varies = (np.ptp(x, axis=0) > 0) & (np.ptp(y, axis=0) > 0)
    pcc = np.full(x.shape[1], np.nan)
    x, y = (values[:, varies] - values[:, varies].mean(axis=0) for values in (x, y))
    scale = np.linalg.norm(x, axis=0) * np.linalg.norm(y, axis=0)
    pcc[varies] = np.clip((x * y).sum(axis=0) / scale, -1, 1)
    return pcc


def constant_predictor(training_labels: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Return the mean label (G,) of each gene over all training spots.

    Its errors show what a model must be better than. It has no correlation.
    """
    total = np.sum([labels.sum(axis=0, dtype=np.float64) for labels in training_labels], axis=0)
    mean: NDArray[np.float64] = total / sum(len(labels) for labels in training_labels)
    return mean


def nan_mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the values that are not NaN; NaN without a warning if all are NaN."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _column_nan_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    totals = np.where(known, values, 0.0).sum(axis=0)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
