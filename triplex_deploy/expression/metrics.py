"""Compare predictions with labels, per slide and per fold: docs/models.md, "Metrics"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    mse_within: float
    """Mean squared error after each gene's mean error on the slide is taken out."""
    mse_offset: float
    """Mean over genes of the squared mean error; with ``mse_within`` it adds up to ``mse``."""


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
    mse_within: float = float("nan")
    """Mean of the errors without offsets; NaN for metrics of earlier versions."""
    mse_offset: float = float("nan")
    """Mean of the errors of the offsets; NaN for metrics of earlier versions."""

    @property
    def pcc_m(self) -> float:
        """Return PCC(M): the mean over the genes that have a correlation."""
        return nan_mean(self.pcc)

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as plain values, as metrics.json holds them."""
        return {
            "mse": self.mse,
            "mse_within": self.mse_within,
            "mse_offset": self.mse_offset,
            "mae": self.mae,
            "pcc_m": self.pcc_m,
            "pcc": self.pcc.tolist(),
        }

    @classmethod
    def from_dict(
        cls, row: Mapping[str, Any], names: Sequence[str], genes: Sequence[str], n_slides: int
    ) -> FoldMetrics:
        """Return the metrics of a row of metrics.json.

        Args:
            row: The values of ``to_dict``; None and missing errors become NaN.
            names: The genes of ``row["pcc"]``.
            genes: The genes of the result; those that are not in ``names`` get NaN.
            n_slides: Number of slides.
        """
        known = dict(zip(names, row["pcc"], strict=True))
        pcc = np.array([_or_nan(known.get(gene)) for gene in genes])
        within, offset = (_or_nan(row.get(key)) for key in ("mse_within", "mse_offset"))
        return cls(row["mse"], row["mae"], pcc, n_slides, within, offset)


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
    mse, offset = float(np.mean(error**2)), float(np.mean(error.mean(axis=0) ** 2))
    return SlideMetrics(
        mse=mse,
        mae=float(np.mean(np.abs(error))),
        pcc=gene_correlations(truth, guess),
        mse_within=max(mse - offset, 0.0),
        mse_offset=offset,
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
        mse_within=nan_mean(np.array([slide.mse_within for slide in slides])),
        mse_offset=nan_mean(np.array([slide.mse_offset for slide in slides])),
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


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)
