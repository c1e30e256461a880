"""Fit a line for each gene to held-out spots: docs/models.md, "Calibration"."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.calibration import SLOPE_RANGE, Calibration


def fit_calibration(
    labels: NDArray[np.floating],
    predicted: NDArray[np.floating],
    independent: NDArray[np.float64],
) -> Calibration:
    """Return a line for each gene, with a slope as far as held-out spots support it.

    The lines keep the mean prediction of these spots. The mean squared error over all genes, at
    these spots, is never above that without calibration.

    Args:
        labels: Labels (N, G) of held-out spots.
        predicted: Predictions (N, G) of the same spots.
        independent: Effective number (G,) of spots.
    """
    labels, predicted = labels.astype(np.float64), predicted.astype(np.float64)
    center = predicted.mean(axis=0)
    slope = _slopes(predicted - center, labels - labels.mean(axis=0), independent)
    return Calibration(slope.astype(np.float32), (center - slope * center).astype(np.float32))


def _slopes(
    x: NDArray[np.float64], y: NDArray[np.float64], independent: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the slopes (G,): least squares, drawn to their common slope, and that one to 1."""
    square, product = (x * x).sum(axis=0), (x * y).sum(axis=0)
    known = (np.ptp(x, axis=0) > 0) & (square > 0)
    if not known.any():
        return np.ones(len(square))
    fitted = np.divide(product, square, out=np.ones_like(square), where=known)
    left = np.maximum((y * y).sum(axis=0) - fitted * product, 0)
    error = np.divide(left, square, out=np.zeros_like(square), where=known)
    error /= np.maximum(independent - 2, 1)  # squared standard error of each slope
    weight = square / square.sum()
    common = float((weight * fitted).sum())  # the one slope of least squares for all genes
    common_error = float((weight * np.sqrt(error)).sum()) ** 2  # errors of genes go together
    common = 1 + _support((common - 1) ** 2, common_error) * (common - 1)
    common = min(max(common, SLOPE_RANGE[0]), SLOPE_RANGE[1])
    spread = _variance_beyond(fitted[known] - common, error[known])
    share = np.divide(spread, spread + error, out=np.ones_like(error), where=spread + error > 0)
    slope: NDArray[np.float64] = np.where(known, common + share * (fitted - common), common)
    return slope.clip(*SLOPE_RANGE)


def _variance_beyond(deviation: NDArray[np.float64], error: NDArray[np.float64]) -> float:
    """Return the variance of true slopes around a known mean (DerSimonian and Laird 1986).

    ``error`` has the squared standard errors, which explain the rest of the squared deviations.
    """
    error = np.maximum(error, 1e-12)
    excess = float((deviation**2 / error).sum()) - len(deviation)
    return max(0.0, excess / float((1 / error).sum()))


def _support(square: float, error: float) -> float:
    """Return the share of a difference that its squared error leaves, from 0 to 1."""
    return max(0.0, 1 - error / square) if square > 0 else 0.0
